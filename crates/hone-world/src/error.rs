//! What can go wrong.

use std::path::PathBuf;

/// An error of the small world.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The world is closed: it has a limited number of distinct questions.
    #[error("the small world has no more distinct {split} questions: asked for {expected}, found {got}; ask for fewer")]
    Exhausted {
        /// The split asked for.
        split: &'static str,
        /// How many were asked for.
        expected: usize,
        /// How many were found before the search gave up.
        got: usize,
    },
    /// A ranking is not a partition of the answers.
    #[error("ranking of {expected} answers: {problem}; each answer must stand in exactly one group")]
    Ranking {
        /// The number of answers.
        expected: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line of a JSONL file is not a row of the kind expected.
    #[error("{path}, line {line}: {problem}; expected one {expected} a line")]
    Row {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What a row should look like.
        expected: &'static str,
        /// What is wrong with this one.
        problem: String,
    },
}
