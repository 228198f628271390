//! How much a client may ask for. Everything here is checked before memory is taken for it.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::body::Body as _;

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

/// For a reader to take the rest of a streamed answer once all of it is sampled.
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(600);

/// How long clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a request's headers, and between two requests of a connection.
    pub headers: Duration,
    /// For a request's body; of an upload between two parts of it.
    pub body: Duration,
    /// For a reader to take something of an answer.
    pub reader: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            headers: Duration::from_secs(60),
            body: Duration::from_secs(30),
            reader: Duration::from_secs(30),
        }
    }
}

/// A body that is not read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It is of another content type, or of none.
    Type { found: String, expected: &'static str },
    /// It is longer than this many bytes.
    TooLong(usize),
    /// It did not come within this time.
    TooSlow(Duration),
    /// The connection broke.
    Broken(String),
}

impl Unread {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Type { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type { found, expected } => {
                write!(
                    f,
                    "the content type is {found}; expected the header `Content-Type: {expected}`"
                )
            }
            Self::TooLong(most) => write!(f, "the body is longer than {most} bytes"),
            Self::TooSlow(time) => write!(f, "the body did not come within {} seconds", time.as_secs_f64()),
            Self::Broken(reason) => write!(f, "the body cannot be read: {reason}"),
        }
    }
}

/// What is read of a body.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    /// The content type that it has to have.
    pub kind: &'static str,
    /// Bytes, at most.
    pub most: usize,
    /// Time, at most.
    pub time: Duration,
}

/// The body of a request. What says that it is longer than it may be is not read at all.
pub(crate) async fn read_body(request: Request, reading: Reading) -> Result<Vec<u8>, Unread> {
    let (parts, body) = request.into_parts();
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim());
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case(reading.kind)) {
        return Err(Unread::Type {
            found: kind.unwrap_or("missing").chars().take(100).collect(),
            expected: reading.kind,
        });
    }
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if length
        .and_then(|length| length.parse::<u64>().ok())
        .is_some_and(|n| n > reading.most as u64)
    {
        return Err(Unread::TooLong(reading.most));
    }
    match tokio::time::timeout(reading.time, collect(body, reading.most)).await {
        Ok(read) => read,
        Err(_) => Err(Unread::TooSlow(reading.time)),
    }
}

async fn collect(body: Body, most: usize) -> Result<Vec<u8>, Unread> {
    let mut body = pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        let frame = frame.map_err(|error| Unread::Broken(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > most {
            return Err(Unread::TooLong(most));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}
