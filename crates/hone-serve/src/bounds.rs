//! How much a client may ask for. Everything here is checked before memory is taken for it.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::body::Body as _;

use crate::openai::ApiError;

/// Bytes of a request's line and headers.
pub(crate) const HEADER_BYTES: usize = 16 << 10;
/// Bytes of a request's body.
pub(crate) const BODY_BYTES: usize = 1 << 20;
/// Answers to one prompt (`n`).
pub(crate) const CHOICES: u64 = 64;
/// Alternatives to a token (`logprobs`, `top_logprobs`).
pub(crate) const LOGPROBS: u64 = 20;
/// Stop texts of a request.
pub(crate) const STOPS: usize = 16;
/// Bytes of a stop text.
pub(crate) const STOP_BYTES: usize = 256;
/// Prompts, texts or answers of one request.
pub(crate) const PROMPTS: usize = 1024;
/// Messages of a conversation: a template is rendered up to each of its replies.
pub(crate) const MESSAGES: usize = 1024;
/// Numbers and tokens that an answer lists, of all its choices together.
pub(crate) const LISTED: usize = 1 << 20;
/// Requests that are made ready at once, and those that wait for it.
pub(crate) const PREPARED: usize = 2;
pub(crate) const UNPREPARED: usize = 256;
/// Answers that are written at once, beside those.
pub(crate) const WRITTEN: usize = 2;
/// Tokens with a bias.
pub(crate) const BIASED: usize = 1024;
/// Connections at once: half of the files that a process usually may have open.
pub(crate) const CONNECTIONS: usize = 512;
/// Files that are being uploaded at once, and questions about files and jobs that are answered at once.
pub(crate) const UPLOADS: usize = 4;
pub(crate) const ASKED: usize = 4;
/// Jobs of which it is found out at once what they would take.
pub(crate) const PLANNED: usize = 1;
/// Parts of a streamed answer that are written and wait for a slow reader. Tokens that are sampled wait as well.
pub(crate) const WAITING_PARTS: usize = 16;

/// For a request's headers, and between two requests of a connection.
pub(crate) const HEADER_TIME: Duration = Duration::from_secs(60);
/// For a request's body; of an upload between two parts of it.
pub(crate) const BODY_TIME: Duration = Duration::from_secs(30);
/// For a reader to take something of an answer.
pub(crate) const SEND_TIME: Duration = Duration::from_secs(30);
/// For a reader to take the rest of a streamed answer once all of it is sampled.
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(600);

/// The body of a request for JSON.
///
/// # Errors
/// Another content type (415), more than [`BODY_BYTES`] (413), longer than [`BODY_TIME`] (408), or a connection that broke.
pub(crate) async fn read_body(request: Request) -> Result<Vec<u8>, ApiError> {
    let (parts, body) = request.into_parts();
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim());
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
        let found = kind.unwrap_or("missing");
        let message = format!("the content type is {found}; expected the header `Content-Type: application/json`");
        return Err(ApiError::of(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if length
        .and_then(|length| length.parse::<u64>().ok())
        .is_some_and(|n| n > BODY_BYTES as u64)
    {
        return Err(too_long());
    }
    match tokio::time::timeout(BODY_TIME, collect(body)).await {
        Ok(read) => read,
        Err(_) => {
            let message = format!("the body did not come within {} seconds", BODY_TIME.as_secs());
            Err(ApiError::of(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

async fn collect(body: Body) -> Result<Vec<u8>, ApiError> {
    let mut body = pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        let frame = frame.map_err(|error| {
            let message = format!("the body cannot be read: {error}");
            ApiError::of(StatusCode::BAD_REQUEST, message)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > BODY_BYTES {
            return Err(too_long());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn too_long() -> ApiError {
    let message = format!("the body is longer than {BODY_BYTES} bytes; send fewer prompts at a time");
    ApiError::of(StatusCode::PAYLOAD_TOO_LARGE, message)
}
