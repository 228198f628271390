//! Answers as server-sent events: parts of JSON as they come, then `[DONE]`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::bounds::{DRAIN_TIME, WAITING_PARTS};
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
    /// Set where the answer is not whole: the connection is to break, so that nobody takes it for an end.
    given_up: Arc<AtomicBool>,
}

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.parts.poll_recv(context).map(|part| match part {
            Some(bytes) => Some(Ok(Frame::data(bytes))),
            None if self.given_up.load(Ordering::Acquire) => Some(Err(io::ErrorKind::TimedOut.into())),
            None => None,
        })
    }
}

/// Where parts go.
struct Out {
    parts: mpsc::Sender<Bytes>,
    /// For the reader to take a part.
    patience: Duration,
    /// When it must have taken all.
    end: Option<Instant>,
}

/// The reader left, or does not read.
struct Gone;

impl Out {
    async fn send(&self, data: &str) -> Result<(), Gone> {
        let part = Bytes::from(format!("data: {data}\n\n"));
        let by = Instant::now() + self.patience;
        let by = self.end.map_or(by, |end| end.min(by));
        match tokio::time::timeout_at(by, self.parts.send(part)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }
}

/// Answers in parts, while they are sampled; whoever takes none of it for `patience` has gone.
pub(crate) fn respond(
    head: Head,
    format: impl Format,
    running: Running,
    include_usage: bool,
    patience: Duration,
) -> Response {
    let (parts, read) = mpsc::channel(WAITING_PARTS);
    let given_up = Arc::new(AtomicBool::new(false));
    let mut out = Out {
        parts,
        patience,
        end: None,
    };
    let gives_up = Arc::clone(&given_up);
    tokio::spawn(async move {
        // Whoever left needs no answer, and dropping `running` ends what is sampled
        if tell(&mut out, &head, &format, running, include_usage).await.is_err() {
            gives_up.store(true, Ordering::Release);
        }
    });
    let mut response = Body::new(Parts { parts: read, given_up }).into_response();
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

async fn tell(
    out: &mut Out,
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
                // What is sampled waits in memory: not for ever
                if out.end.is_none() && running.is_sampled() {
                    out.end = Some(Instant::now() + DRAIN_TIME);
                }
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper::body::Body as _;

    use super::*;

    /// What a reader gets that takes no part in time, or all of them.
    fn read(takes: bool) -> Vec<Result<Bytes, io::ErrorKind>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let (parts, read) = mpsc::channel(1);
            let given_up = Arc::new(AtomicBool::new(false));
            let out = Out {
                parts,
                patience: Duration::from_millis(50),
                end: None,
            };
            let gives_up = Arc::clone(&given_up);
            let sending = tokio::spawn(async move {
                for part in ["a", "b"] {
                    if out.send(part).await.is_err() {
                        gives_up.store(true, Ordering::Release);
                        return;
                    }
                }
            });
            let mut body = Parts { parts: read, given_up };
            if !takes {
                sending.await.expect("no panic");
            }
            let mut got = Vec::new();
            while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                let frame = frame.map(|frame| frame.into_data().unwrap_or_default());
                let failed = frame.is_err();
                got.push(frame.map_err(|error| error.kind()));
                if failed {
                    break;
                }
            }
            got
        })
    }

    #[test]
    fn an_answer_that_is_given_up_breaks_off() {
        let part = |text: &str| Ok(Bytes::from(format!("data: {text}\n\n")));
        assert_eq!(read(true), [part("a"), part("b")]);
        assert_eq!(read(false), [part("a"), Err(io::ErrorKind::TimedOut)]);
    }
}
