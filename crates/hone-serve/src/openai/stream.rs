//! Answers as server-sent events: parts of JSON as they come, then `[DONE]`.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::bounds::{SEND_TIME, WAITING_PARTS};
use crate::openai::run::{Head, Running, Update};

/// How a route writes the parts of its answers, each one entry of `choices`.
pub(crate) trait Format: Send + Sync + 'static {
    /// The `object` of a part.
    fn object(&self) -> &'static str;

    /// Parts that come before any token.
    fn opening(&self) -> Vec<Value>;

    /// Text, and what is said of its tokens; none where there is neither.
    fn part(&self, update: &Update) -> Option<Value>;

    /// The last part of an answer.
    fn ending(&self, choice: usize, finish: &'static str) -> Value;
}

/// The body of an answer: parts that another task sends.
struct Parts {
    parts: mpsc::Receiver<Bytes>,
}

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.parts.poll_recv(context);
        next.map(|part| part.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Where parts go.
struct Out {
    parts: mpsc::Sender<Bytes>,
}

/// The reader left, or does not read.
struct Gone;

impl Out {
    async fn send(&self, data: &str) -> Result<(), Gone> {
        let part = Bytes::from(format!("data: {data}\n\n"));
        match tokio::time::timeout(SEND_TIME, self.parts.send(part)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }
}

/// Answers in parts, while they are sampled.
pub(crate) fn respond(head: Head, format: impl Format, running: Running, include_usage: bool) -> Response {
    let (parts, read) = mpsc::channel(WAITING_PARTS);
    let out = Out { parts };
    tokio::spawn(async move {
        // Whoever left needs no answer, and dropping `running` frees its places
        let _ = tell(&out, &head, &format, running, include_usage).await;
    });
    let mut response = Body::new(Parts { parts: read }).into_response();
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

async fn tell(
    out: &Out,
    head: &Head,
    format: &impl Format,
    mut running: Running,
    include_usage: bool,
) -> Result<(), Gone> {
    let whole = |choices: Value, usage: Value| {
        let mut value = head.with(format.object(), choices);
        if include_usage {
            value["usage"] = usage;
        }
        value.to_string()
    };
    let part = |choice: Value| whole(json!([choice]), Value::Null);
    for choice in format.opening() {
        out.send(&part(choice)).await?;
    }
    loop {
        let next = tokio::select! {
            next = running.next() => next,
            () = out.parts.closed() => return Err(Gone),
        };
        match next {
            Ok(Some(update)) => {
                if let Some(choice) = format.part(&update) {
                    out.send(&part(choice)).await?;
                }
                if let Some(finish) = update.finish {
                    out.send(&part(format.ending(update.choice, finish))).await?;
                }
            }
            Ok(None) => break,
            Err(error) => {
                out.send(&error.body().to_string()).await?;
                return out.send("[DONE]").await;
            }
        }
    }
    if include_usage {
        out.send(&whole(json!([]), running.usage())).await?;
    }
    out.send("[DONE]").await
}
