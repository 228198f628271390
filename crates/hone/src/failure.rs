//! How a command ends: one message on stderr and an exit code that scripts can rely on.

use std::fmt;
use std::io;
use std::process::ExitCode;

use anyhow::Error;
use hone_compute::IsaError;
use hone_run::ExitStatus;

use crate::output;

/// An error that ends the program with another status than 1, or with a hint.
#[derive(Debug)]
pub struct Failure {
    status: ExitStatus,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// Wrong arguments or configuration.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            status: ExitStatus::Usage,
            message: message.into(),
            hint: None,
        }
    }

    /// Anything else that went wrong.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            status: ExitStatus::Failed,
            message: message.into(),
            hint: None,
        }
    }

    /// A stated expectation that was not met.
    pub fn expectation(message: impl Into<String>) -> Self {
        Self {
            status: ExitStatus::ExpectationNotMet,
            message: message.into(),
            hint: None,
        }
    }

    /// Stopped before the end; the same command goes on.
    pub fn resumable(message: impl Into<String>) -> Self {
        Self {
            status: ExitStatus::Resumable,
            message: message.into(),
            hint: None,
        }
    }

    /// Adds what can be done about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Says what went wrong and gives the exit code. A reader that closed stdout early is no failure.
pub fn exit(result: Result<(), Error>) -> ExitCode {
    let Err(error) = result else {
        return ExitStatus::Done.into();
    };
    if is_broken_pipe(&error) {
        return ExitStatus::Done.into();
    }
    output::note(&format!("error: {}", sentence(&error)));
    if let Some(hint) = error.chain().find_map(|e| e.downcast_ref::<Failure>()?.hint.as_ref()) {
        output::note(&format!("hint: {hint}"));
    }
    status(&error).into()
}

/// The causes joined by colons, those left out that the one before already says.
fn sentence(error: &Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn status(error: &Error) -> ExitStatus {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.status;
        }
        if let Some(error) = cause.downcast_ref::<hone_run::Error>() {
            return error.exit_status();
        }
        if let Some(error) = cause.downcast_ref::<hone_train::TrainError>() {
            return error.exit_status();
        }
        if let Some(error) = cause.downcast_ref::<hone_pipeline::PipelineError>() {
            return error.exit_status();
        }
        if let Some(error) = cause.downcast_ref::<hone_serve::ServeError>() {
            return match error.is_usage() {
                true => ExitStatus::Usage,
                false => ExitStatus::Failed,
            };
        }
        if cause.is::<IsaError>() {
            return ExitStatus::Usage;
        }
        if let Some(hone_model::Error::NotAModel { .. }) = cause.downcast_ref() {
            return ExitStatus::Usage;
        }
        if let Some(hone_generate::GenerateError::Sampling { .. }) = cause.downcast_ref() {
            return ExitStatus::Diverged;
        }
        if let Some(hone_eval::Error::NotFinite { .. } | hone_eval::Error::LogRatio { .. }) = cause.downcast_ref() {
            return ExitStatus::Diverged;
        }
    }
    ExitStatus::Failed
}

fn is_broken_pipe(error: &Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn causes_are_said_once() {
        let inner: Result<(), _> = Err(Failure::usage("a.toml: no such key"));
        let error = inner.context("reading the configuration").unwrap_err();
        assert_eq!(sentence(&error), "reading the configuration: a.toml: no such key");
        assert_eq!(status(&error), ExitStatus::Usage);
        assert_eq!(status(&anyhow::anyhow!("other")), ExitStatus::Failed);
    }
}
