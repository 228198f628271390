use std::path::PathBuf;

use thiserror::Error;

/// A setting that makes no sense, before it is known which entry it stands in.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{key}` is {got}; expected {expected}")]
pub struct BadSetting {
    /// The setting.
    pub key: &'static str,
    /// Its value, shortened.
    pub got: String,
    /// The values it may have, in words.
    pub expected: String,
}

impl BadSetting {
    pub(crate) fn new(key: &'static str, got: impl std::fmt::Display, expected: impl Into<String>) -> Self {
        Self {
            key,
            got: crate::sample::shortened(&got.to_string()),
            expected: expected.into(),
        }
    }
}

/// Why a sample cannot be judged.
///
/// A response can be wrong but is never a problem: a problem says that the task itself is at fault, such as a row without a reference.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum Problem {
    /// A prompt's row lacks a column.
    #[error("the prompt's row has no column `{column}`, it has {found:?}; name the column that holds the reference")]
    MissingColumn {
        /// The column that is looked for.
        column: String,
        /// The columns there are.
        found: Vec<String>,
    },
    /// A column's value is of the wrong kind or says nothing.
    #[error("column `{column}` is {got}; expected {expected}")]
    BadColumn {
        /// The column.
        column: String,
        /// What it holds, shortened.
        got: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// The number of the response's tokens is asked for and was not given.
    #[error("the number of the response's tokens is not known here; count words or characters instead")]
    NoTokens,
    /// An expression cannot be computed for this sample.
    #[error("the expression, at {at}: {message}")]
    Expression {
        /// The part that fails, shortened.
        at: String,
        /// What is wrong, with a hint.
        message: String,
    },
    /// A score that is not finite.
    #[error("the score is {got}; expected a finite number")]
    NotFinite {
        /// The score.
        got: f64,
    },
}

/// What a reward, verifier or environment refuses.
#[derive(Debug, Error)]
pub enum Error {
    /// A setting of a reward that makes no sense.
    #[error("{entry}: {source}")]
    Setting {
        /// The entry, such as `rewards[1] (numeric)`.
        entry: String,
        /// What is wrong with which key.
        source: BadSetting,
    },
    /// A sample that an entry cannot judge.
    #[error("{entry}, {place}: {source}")]
    Sample {
        /// The entry, such as `rewards[1] (numeric)`.
        entry: String,
        /// Which sample.
        place: String,
        /// Why.
        source: Problem,
    },
    /// Scores that were to be given from outside are absent or too few.
    #[error("{entry}: {got} scores for {expected} samples; a reward model scores each sample once, in order")]
    ScoreCount {
        /// The entry.
        entry: String,
        /// Number of samples.
        expected: usize,
        /// Number of scores.
        got: usize,
    },
    /// A program that judges failed, was too slow or answered something else than a reward.
    #[error("{entry}, {place}: the program {program}: {what}{said}")]
    Program {
        /// The entry.
        entry: String,
        /// Which sample; `before the first sample` where it is none.
        place: String,
        /// The program's name.
        program: String,
        /// What went wrong, with a hint.
        what: String,
        /// The end of what it wrote to standard error, or nothing.
        said: String,
    },
    /// A journal that cannot be read or written, or does not belong to the run that reads it.
    #[error("{}: {what}", .path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// What is wrong, with a hint.
        what: String,
    },
    /// A file or folder that the system refuses.
    #[error("{}: cannot {doing}: {source}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What was to be done.
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A setting of an environment that makes no sense.
    #[error("environment {environment}: {source}")]
    Environment {
        /// The environment.
        environment: &'static str,
        /// What is wrong with which key.
        source: BadSetting,
    },
    /// An action after the episode's end, or before its start.
    #[error("environment {environment}: no episode is running; reset it before the next step")]
    NotRunning {
        /// The environment.
        environment: &'static str,
    },
    /// A saved state that does not fit the environment.
    #[error("environment {environment}: the saved state does not fit: {what}")]
    State {
        /// The environment.
        environment: &'static str,
        /// What is wrong with it.
        what: String,
    },
}

impl Error {
    /// Whether the configuration is at fault, rather than data, a program or the system.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Setting { .. } | Self::Environment { .. })
    }

    /// Whether the disk is full: what was answered so far is kept, and the same command goes on once there is room.
    pub fn is_full_disk(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
    }
}
