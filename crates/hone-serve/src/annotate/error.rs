//! What can go wrong, for the program and for a request.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use hone_data::DataError;
use hone_data::annotations::AnnotationProblem;

use super::pages;

/// Why the pages cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AnnotateError {
    /// The socket, or the threads that serve it.
    #[error("serving failed: {0}")]
    Socket(std::io::Error),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for a token: {0}")]
    Random(String),
    /// What the store says.
    #[error(transparent)]
    Store(#[from] DataError),
}

/// A request that is not answered as it was meant.
#[derive(Debug)]
pub(super) struct Failure {
    pub status: StatusCode,
    pub message: String,
}

impl Failure {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        let status = match &error {
            DataError::Annotations { problem, .. } => match problem {
                AnnotationProblem::Judgement { .. } | AnnotationProblem::Setting { .. } => {
                    StatusCode::UNPROCESSABLE_ENTITY
                }
                AnnotationProblem::Lease { .. }
                | AnnotationProblem::NothingToUndo
                | AnnotationProblem::NotLast { .. }
                | AnnotationProblem::Exists { .. }
                | AnnotationProblem::Invited { .. } => StatusCode::CONFLICT,
                AnnotationProblem::Unknown { .. } => StatusCode::NOT_FOUND,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        // Where the store lies is nobody's concern but the owner's
        let message = match error {
            DataError::Annotations { problem, .. } => problem.to_string(),
            _ => "the store cannot be used".into(),
        };
        Self { status, message }
    }
}

impl From<AnnotateError> for Failure {
    fn from(error: AnnotateError) -> Self {
        match error {
            AnnotateError::Store(error) => error.into(),
            other => Self::new(StatusCode::INTERNAL_SERVER_ERROR, other.to_string()),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        pages::message(self.status, &self.message)
    }
}
