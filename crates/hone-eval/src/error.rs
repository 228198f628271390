//! What an evaluation cannot be made from.

use std::path::PathBuf;

/// An evaluation that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to evaluate.
    #[error("{metric}: there is no {what}; expected at least one")]
    Empty {
        /// Which evaluation.
        metric: &'static str,
        /// What there is none of.
        what: &'static str,
    },
    /// A token that the model does not have.
    #[error(
        "bits_per_byte: the text has the token id {id}; the model's vocabulary has {vocabulary}; is this tokenizer the model's?"
    )]
    UnknownToken {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// Windows that the model cannot read.
    #[error("bits_per_byte: windows of {length} tokens; expected 1 to the model's context, {context}")]
    Window {
        /// Tokens a window.
        length: usize,
        /// The model's context.
        context: usize,
    },
    /// A log-probability that is not a number.
    #[error(
        "{metric}: the log-probability of token {token} of item {item} is {got}; has the model's training diverged?"
    )]
    NotFinite {
        /// Which evaluation.
        metric: &'static str,
        /// Which document or sample, from 0.
        item: usize,
        /// Which token of it, from 0.
        token: usize,
        /// What it is.
        got: f32,
    },
    /// A response whose log-ratio is not a number.
    #[error(
        "kl_of_samples: the log-ratio of response {sample} is {got}; expected a finite number; has the model's training diverged?"
    )]
    LogRatio {
        /// Which response, from 0.
        sample: usize,
        /// What it is.
        got: f64,
    },
    /// A number that is none, or lies outside its range.
    #[error("{metric}: {what} of item {item} is {got}; expected {expected}")]
    Value {
        /// Which evaluation.
        metric: &'static str,
        /// Which number.
        what: &'static str,
        /// Whose, from 0.
        item: usize,
        /// What it is.
        got: f64,
        /// What it may be, in words.
        expected: &'static str,
    },
    /// Models that are not tuned from one start.
    #[error(
        "update_similarity: {}: {difference}; expected a model with the weights of {}, since an update is their \
         difference", path.display(), start.display()
    )]
    OtherWeights {
        /// The model.
        path: PathBuf,
        /// What it should be tuned from.
        start: PathBuf,
        /// In what they differ.
        difference: String,
    },
    /// A model's files.
    #[error(transparent)]
    Model(#[from] hone_model::Error),
    /// Prompts that cannot be compared.
    #[error("best_of_table: prompt {prompt} has {got} samples; expected {expected}, as the first has")]
    Samples {
        /// Which prompt, from 0.
        prompt: usize,
        /// Its samples.
        got: usize,
        /// Those of the first prompt.
        expected: usize,
    },
    /// What the statistics refuse.
    #[error(transparent)]
    Statistics(#[from] hone_objective::Error),
}
