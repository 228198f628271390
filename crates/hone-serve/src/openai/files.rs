//! `/v1/files`: what is learned from is uploaded, listed, read and deleted.

use std::fs::File;
use std::future::poll_fn;
use std::io::Write;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use hyper::body::Body as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::bounds::UPLOADS;
use crate::jobs::record::FileRecord;
use crate::jobs::{Jobs, TakeError};
use crate::openai::listing::Query;
use crate::openai::multipart::{Multipart, Piece};
use crate::openai::{ApiError, answered, reply};
use crate::shared::Shared;

/// Bytes of a form beside its file.
const REST_BYTES: u64 = 64 << 10;
/// Bytes of a field that is no file.
const FIELD_BYTES: usize = 256;
/// Pieces of a file that wait to be written.
const WAITING_PIECES: usize = 8;
/// Bytes of a stored file that are read at a time.
const READ_BYTES: usize = 64 << 10;

/// Takes a file.
pub(crate) async fn upload(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answered(try_upload(&shared, request).await)
}

/// An upload on its way to the disk. What is not taken in is removed.
struct Incoming {
    place: Removed,
    pieces: mpsc::Sender<Vec<u8>>,
    written: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Incoming {
    fn new(path: PathBuf) -> Self {
        let (pieces, mut heard) = mpsc::channel::<Vec<u8>>(WAITING_PIECES);
        let place = Removed(path.clone());
        // Disks are slow: the thread that serves connections does not wait for them
        let written = tokio::task::spawn_blocking(move || {
            let mut file = File::create_new(path)?;
            while let Some(piece) = heard.blocking_recv() {
                file.write_all(&piece)?;
            }
            file.sync_all()
        });
        Self { place, pieces, written }
    }

    /// Waits until all is written.
    async fn finish(self) -> Result<Removed, ApiError> {
        drop(self.pieces);
        match self.written.await {
            Ok(Ok(())) => Ok(self.place),
            Ok(Err(error)) => Err(ApiError::internal(format!("the file cannot be written: {error}"))),
            Err(_) => Err(ApiError::internal("the file could not be written")),
        }
    }
}

/// A path that is nobody's once this is dropped, unless what stands there was moved.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What the fields of the form say.
#[derive(Default)]
struct Form {
    purpose: Vec<u8>,
    filename: Option<String>,
    /// The field that is being read.
    field: Option<Field>,
    /// Bytes of the file so far.
    bytes: u64,
    /// Pieces that were not handed on yet.
    pieces: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Purpose,
    File,
}

impl Form {
    fn take(&mut self, piece: Piece<'_>, most: u64) -> Result<(), ApiError> {
        match (piece, self.field) {
            (Piece::Part { name, filename }, _) => {
                self.field = Some(match name.as_str() {
                    "purpose" => Field::Purpose,
                    "file" if self.filename.is_none() => {
                        self.filename = Some(
                            filename
                                .filter(|name| !name.is_empty())
                                .unwrap_or_else(|| "file".into()),
                        );
                        Field::File
                    }
                    "file" => return Err(ApiError::bad("file", "`file` is given twice; expected one file")),
                    other => {
                        let shown: String = other.chars().take(80).collect();
                        let message = format!("`{shown}` is no field of this form; expected `purpose` and `file`");
                        return Err(ApiError::bad(shown, message));
                    }
                });
                Ok(())
            }
            (Piece::Data(bytes), Some(Field::File)) => {
                self.bytes += bytes.len() as u64;
                if self.bytes > most {
                    return Err(too_large(most));
                }
                self.pieces.push(bytes.to_vec());
                Ok(())
            }
            (Piece::Data(bytes), _) => {
                if self.purpose.len() + bytes.len() > FIELD_BYTES {
                    return Err(wrong_purpose("longer than any there is"));
                }
                self.purpose.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn check(&self) -> Result<String, ApiError> {
        match self.purpose.as_slice() {
            b"fine-tune" => {}
            b"" => return Err(ApiError::bad("purpose", "`purpose` is missing; expected fine-tune")),
            other => return Err(wrong_purpose(&format!("{:?}", String::from_utf8_lossy(other)))),
        }
        let missing = || ApiError::bad("file", "`file` is missing; expected a file of JSON lines");
        self.filename.clone().ok_or_else(missing)
    }
}

fn wrong_purpose(got: &str) -> ApiError {
    ApiError::bad("purpose", format!("`purpose` is {got}; expected fine-tune"))
}

fn too_large(most: u64) -> ApiError {
    let message = format!("the file is longer than {most} bytes; split it, or raise --job-file-bytes");
    ApiError {
        param: Some("file".into()),
        ..ApiError::of(StatusCode::PAYLOAD_TOO_LARGE, message)
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &axum::http::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

async fn try_upload(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let jobs = shared.jobs()?;
    let (parts, body) = request.into_parts();
    let form = Multipart::new(header(&parts.headers, &CONTENT_TYPE))?;
    let most = jobs.options.file_bytes;
    let length = header(&parts.headers, &CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if length.is_some_and(|length| length > most + REST_BYTES) {
        return Err(too_large(most));
    }
    let _place = jobs.uploads().ok_or_else(|| {
        let message = format!("{UPLOADS} files are being uploaded already; try again soon");
        ApiError::of(StatusCode::TOO_MANY_REQUESTS, message)
    })?;
    let (incoming, filename) = receive(&jobs, body, form, shared.patience.body).await?;
    let work = tokio::task::spawn_blocking(move || {
        let taken = jobs.take_file(&incoming.0, filename);
        drop(incoming);
        taken
    });
    match work.await {
        Ok(Ok(file)) => Ok(reply(&described(&file))),
        Ok(Err(TakeError::Rows(error))) => Err(ApiError {
            code: Some("invalid_file_format"),
            ..ApiError::bad("file", error.to_string())
        }),
        Ok(Err(TakeError::Store(error))) => Err(ApiError::internal(error.to_string())),
        Err(_) => Err(ApiError::internal("the file could not be read")),
    }
}

/// Reads a form while its file goes to the disk; `time` may pass between two parts of it.
async fn receive(jobs: &Jobs, body: Body, mut form: Multipart, time: Duration) -> Result<(Removed, String), ApiError> {
    let most = jobs.options.file_bytes;
    let incoming = Incoming::new(jobs.store().incoming());
    let mut read = Form::default();
    let mut received: u64 = 0;
    let mut body = pin!(body);
    let result = loop {
        let frame = tokio::time::timeout(time, poll_fn(|context| body.as_mut().poll_frame(context))).await;
        let data = match frame {
            Err(_) => {
                let message = format!("nothing came of the file for {} seconds", time.as_secs_f64());
                break Err(ApiError::of(StatusCode::REQUEST_TIMEOUT, message));
            }
            Ok(None) => break Ok(()),
            Ok(Some(Err(error))) => {
                break Err(ApiError::of(
                    StatusCode::BAD_REQUEST,
                    format!("the body cannot be read: {error}"),
                ));
            }
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => data,
                Err(_) => continue,
            },
        };
        received += data.len() as u64;
        if let Err(error) = form.push(&data, &mut |piece| read.take(piece, most)) {
            break Err(error);
        }
        // What is not the file is bounded, too
        if received.saturating_sub(read.bytes) > REST_BYTES {
            break Err(ApiError::of(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the form is too long beside its file",
            ));
        }
        let mut closed = false;
        for piece in read.pieces.drain(..) {
            closed |= incoming.pieces.send(piece).await.is_err();
        }
        if closed {
            // The writer has ended, and says why
            break Ok(());
        }
    };
    let written = incoming.finish().await;
    result?;
    let written = written?;
    if !form.has_ended() {
        return Err(ApiError::bad(
            "body",
            "the form is cut off; expected its closing delimiter",
        ));
    }
    Ok((written, read.check()?))
}

/// All files.
pub(crate) async fn list(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let listed = shared.jobs().and_then(|jobs| {
        let query = Query::of(&uri);
        let files = jobs.files();
        let wanted = files.iter().rev().filter(|file| {
            query
                .get("purpose")
                .is_none_or(|purpose| purpose == file.purpose.name())
        });
        query.page(wanted.map(described).collect(), 10_000)
    });
    answered(listed.map(|page| reply(&page)))
}

/// One of them.
pub(crate) async fn one(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let found = shared.jobs().and_then(|jobs| jobs.file(&id).ok_or_else(|| absent(&id)));
    answered(found.map(|file| reply(&described(&file))))
}

/// Deletes one.
pub(crate) async fn delete(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let removed = shared.jobs().and_then(|jobs| match jobs.remove_file(&id) {
        Ok(true) => Ok(json!({"id": id, "object": "file", "deleted": true})),
        Ok(false) => Err(absent(&id)),
        Err(error) => Err(ApiError::internal(error.to_string())),
    });
    answered(removed.map(|value| reply(&value)))
}

/// The bytes of one, as they were uploaded.
pub(crate) async fn content(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let found = shared.jobs().and_then(|jobs| {
        let file = jobs.file(&id).ok_or_else(|| absent(&id))?;
        let failed = |error: std::io::Error| ApiError::internal(format!("the file cannot be read: {error}"));
        let opened = File::open(jobs.store().content(&file.id)).map_err(failed)?;
        Ok((opened, file.bytes))
    });
    answered(found.map(|(file, bytes)| {
        let mut response = Response::new(Body::new(Stored::new(file, bytes)));
        let kind = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }))
}

fn absent(id: &str) -> ApiError {
    let shown: String = id.chars().take(80).collect();
    ApiError::not_found("file_id", format!("there is no file `{shown}`"), "file_not_found")
}

/// A file as the wire format has it, with what was understood of it.
pub(crate) fn described(file: &FileRecord) -> Value {
    json!({
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": null,
        "filename": file.filename,
        "purpose": file.purpose.name(),
        "status": "processed",
        "status_details": null,
        "rows": file.rows.map(|(_, rows)| rows),
        "shape": file.rows.map(|(shape, _)| shape),
    })
}

/// A stored file as the body of an answer: a part is read when the one before was sent.
struct Stored {
    left: u64,
    file: File,
}

impl Stored {
    fn new(file: File, left: u64) -> Self {
        Self { left, file }
    }
}

impl hyper::body::Body for Stored {
    type Data = axum::body::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        use std::io::Read as _;
        let size = READ_BYTES.min(usize::try_from(self.left).unwrap_or(READ_BYTES));
        if size == 0 {
            return std::task::Poll::Ready(None);
        }
        let mut bytes = vec![0; size];
        std::task::Poll::Ready(Some(match self.file.read_exact(&mut bytes) {
            Ok(()) => {
                self.left -= size as u64;
                Ok(hyper::body::Frame::data(bytes.into()))
            }
            Err(error) => {
                self.left = 0;
                Err(error)
            }
        }))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.left)
    }
}
