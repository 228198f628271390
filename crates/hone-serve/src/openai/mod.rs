//! OpenAI's wire format: one file a route, and what they share.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
mod error;
mod fields;
pub(crate) mod files;
pub(crate) mod fine_tuning;
mod graders;
mod linear;
mod listing;
mod logprobs;
pub(crate) mod models;
mod multipart;
pub(crate) mod preferences;
mod prompts;
mod run;
mod sampling;
pub(crate) mod score;
mod stream;
mod text;
pub(crate) mod tokenize;
mod tuning;

use std::sync::Arc;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::bounds::{self, Unread, read_body};
use crate::shared::Shared;

pub(crate) use error::ApiError;
use fields::Fields;

/// An answer in JSON.
fn reply(value: &Value) -> Response {
    reply_text(value.to_string())
}

fn reply_text(text: String) -> Response {
    let mut response = (StatusCode::OK, text).into_response();
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
    let reading = bounds::Reading {
        kind: "application/json",
        most: bounds::BODY_BYTES,
        time: shared.patience.body,
    };
    let body = read_body(request, reading).await.map_err(|unread| {
        let hint = match unread {
            Unread::TooLong(_) => "; send fewer prompts at a time",
            _ => "",
        };
        ApiError::of(unread.status(), format!("{unread}{hint}"))
    })?;
    let own = Arc::clone(shared);
    let work = move || prepare(&own, Fields::parse(&body)?);
    shared.desk.work(work).await?
}

/// Writes an answer, which may be long, away from that thread as well.
async fn written(write: impl FnOnce() -> Result<Value, ApiError> + Send + 'static) -> Result<Response, ApiError> {
    let text = tokio::task::spawn_blocking(move || write().map(|value| value.to_string()));
    match text.await {
        Ok(text) => Ok(reply_text(text?)),
        Err(_) => Err(ApiError::internal("the answer could not be written")),
    }
}

/// What `Result`s of handlers become.
fn answered(result: Result<Response, ApiError>) -> Response {
    result.unwrap_or_else(IntoResponse::into_response)
}
