//! OpenAI's wire format: one file a route, and what they share.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
mod error;
mod fields;
mod logprobs;
pub(crate) mod models;
mod prompts;
mod run;
mod sampling;
pub(crate) mod score;
mod stream;
mod text;
pub(crate) mod tokenize;

use std::sync::Arc;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::bounds::read_body;
use crate::shared::Shared;

pub(crate) use error::ApiError;
use fields::Fields;

/// An answer in JSON.
fn reply(value: &Value) -> Response {
    let mut response = (StatusCode::OK, value.to_string()).into_response();
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Reads a request's body and prepares the work away from the thread that serves connections: tokenizing a long text takes
/// a while.
async fn prepared<T: Send + 'static>(
    shared: &Arc<Shared>,
    request: Request,
    prepare: impl FnOnce(&Shared, Fields) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let body = read_body(request).await?;
    let shared = Arc::clone(shared);
    let work = tokio::task::spawn_blocking(move || prepare(&shared, Fields::parse(&body)?));
    match work.await {
        Ok(prepared) => prepared,
        Err(_) => Err(ApiError::internal("the request could not be prepared")),
    }
}

/// What `Result`s of handlers become.
fn answered(result: Result<Response, ApiError>) -> Response {
    result.unwrap_or_else(IntoResponse::into_response)
}
