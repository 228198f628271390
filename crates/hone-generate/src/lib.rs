//! Sampling: requests in, completions out, with the log-probability that each token had.
//!
//! A completion is a function of the model, the prompt, the sampling parameters and the request's key. Which other
//! requests run beside it, how many, and in which order does not matter: rows do not know each other.
//!
//! - [`Generator`] samples requests in continuous batches, also in their order ([`Generator::run_in_order`]).
//! - [`prompting`] puts questions into words, with worked examples before them; [`option_scores`] compares given answers.
//! - [`logprobs_of`] and its like compute numbers of given tokens.
//! - [`completion_text`], [`row_to_judge`] and [`sample_to_judge`]: what came out, for people and for whoever judges it.
//! - [`play()`] lets a model act in an environment, turn by turn, in tokens.
#![forbid(unsafe_code)]

mod batch;
mod bulk;
mod decode;
mod in_order;
mod judging;
mod logprobs;
mod options;
mod play;
mod prefix;
pub mod prompting;
mod request;
mod session;
mod text;

pub use batch::{Generator, GeneratorOptions};
pub use bulk::{best_of, samples_of};
pub use decode::text_of;
pub use judging::{row_to_judge, sample_to_judge, without_stop};
pub use logprobs::{
    Ranked, Scored, TokenScores, embeddings_of, heads_before, heads_before_in, logprobs_from, logprobs_in, logprobs_of,
    ranked_of, scores_of,
};
pub use options::{OptionMeasure, OptionQuery, OptionScore, choice, option_scores};
pub use play::{Dialogue, PlayError, PlaySettings, Played, line, opening, play};
pub use request::{Completion, Extras, FinishReason, GenerateError, Request, RequestId, StopText, TokenEvent};
pub use session::Session;
pub use text::{completion_text, raw_stop_tokens, stop_text, text_after};
