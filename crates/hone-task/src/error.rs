use thiserror::Error;

/// What a reward, verifier or environment refuses.
///
/// A response can be wrong but never an error: an error says that the task itself is at fault, such as a row without a reference.
#[derive(Debug, Error)]
pub enum Error {
    /// A prompt's row lacks a column.
    #[error(
        "verifier {verifier}: the prompt's row has no column `{column}`, it has {found:?}; name the column that holds the reference"
    )]
    MissingColumn {
        /// The verifier that needs it.
        verifier: &'static str,
        /// The column it looks for.
        column: String,
        /// The columns there are.
        found: Vec<String>,
    },
    /// A column's value is of the wrong kind or says nothing.
    #[error("verifier {verifier}: column `{column}` is {got}, expected {expected}")]
    BadColumn {
        /// The verifier that reads it.
        verifier: &'static str,
        /// The column.
        column: String,
        /// What it holds, shortened.
        got: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A setting of a verifier, reward or environment makes no sense.
    #[error("{of}: `{name}` is {got}, expected {expected}")]
    Setting {
        /// What is set.
        of: &'static str,
        /// The setting.
        name: &'static str,
        /// Its value.
        got: String,
        /// The values it may have, in words.
        expected: &'static str,
    },
    /// A regular expression that does not compile.
    #[error("verifier regular_expression: the pattern does not compile: {0}")]
    Pattern(#[from] Box<regex::Error>),
    /// A reward returned another number of scores than there were samples.
    #[error("reward {reward}: {got} scores for {expected} samples; a reward scores each sample once, in order")]
    ScoreCount {
        /// The reward.
        reward: String,
        /// Number of samples.
        expected: usize,
        /// Number of scores.
        got: usize,
    },
    /// A score that is not a finite number, or a verdict outside `[0, 1]`.
    #[error("reward {reward}: sample {index} scored {got}, expected {expected}")]
    BadScore {
        /// The reward.
        reward: String,
        /// Which sample, from 0.
        index: usize,
        /// Its score.
        got: f32,
        /// The scores it may have, in words.
        expected: &'static str,
    },
    /// An action after the episode's end, or before its start.
    #[error("environment {environment}: no episode is running; reset it before the next step")]
    NotRunning {
        /// The environment.
        environment: &'static str,
    },
    /// What a reward or environment from elsewhere reports, such as a model that failed to load.
    #[error("{of}: {source}")]
    Other {
        /// Its name.
        of: String,
        /// The error behind it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
