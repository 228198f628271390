//! Sampling: requests in, completions out, with the log-probability that each token had.
//!
//! A completion is a function of the model, the prompt, the sampling parameters and the request's key. Which other
//! requests run beside it, how many, and in which order does not matter: rows do not know each other.
#![forbid(unsafe_code)]

mod batch;
mod bulk;
mod logprobs;
mod prefix;
mod request;
mod session;

pub use batch::{Generator, GeneratorOptions};
pub use bulk::{best_of, samples_of};
pub use logprobs::{
    Ranked, Scored, TokenScores, embeddings_of, heads_before, logprobs_from, logprobs_of, ranked_of, scores_of,
};
pub use request::{Completion, Extras, FinishReason, GenerateError, Request, RequestId, StopText, TokenEvent};
pub use session::Session;
