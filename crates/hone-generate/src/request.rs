//! What is asked of the sampler, and what it gives.

use std::sync::Arc;

use hone_compute::{Choice, SamplingError, SamplingParameters};
use hone_math::Key;

/// One completion to be sampled.
#[derive(Clone)]
pub struct Request {
    /// Token ids of the prompt; at least one.
    pub prompt: Arc<[u32]>,
    /// Temperature and truncation.
    pub sampling: SamplingParameters,
    /// The request's own random numbers: token t takes the t-th.
    pub key: Key,
    /// Most tokens to sample.
    pub max_new_tokens: usize,
    /// Tokens that end the completion; the one that came is part of it.
    pub stop_tokens: Arc<[u32]>,
    /// Texts that end the completion.
    pub stop_texts: Option<StopText>,
}

/// Texts that end a completion, and the bytes of tokens to find them by.
#[derive(Clone)]
pub struct StopText {
    /// Any of these ends it.
    pub texts: Arc<[String]>,
    /// The bytes of every token.
    pub bytes: Arc<dyn Fn(u32) -> Vec<u8> + Send + Sync>,
}

/// The number of a request, from 0 in the order in which they came.
pub type RequestId = usize;

/// What some requests ask beside a token and its log-probability, and what changes the logits that a token is drawn from.
/// Log-probabilities are of the logits as the model gives them.
#[derive(Clone, Debug)]
pub struct Extras {
    /// How many of the most probable tokens are reported with every token.
    pub alternatives: usize,
    /// Tokens and what is added to their logits.
    pub bias: Arc<[(u32, f32)]>,
    /// Taken off a token's logit for each time it was sampled before.
    pub frequency_penalty: f32,
    /// Taken off a token's logit if it was sampled before.
    pub presence_penalty: f32,
    /// Divides the logits above 0, and multiplies those below, of tokens of the prompt and of sampled ones; above 0, 1 for
    /// none. It comes before what is added.
    pub repetition_penalty: f32,
}

impl Default for Extras {
    /// Nothing.
    fn default() -> Self {
        Self {
            alternatives: 0,
            bias: [].into(),
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
        }
    }
}

impl Extras {
    /// Whether a token is drawn from changed logits.
    pub fn adjusts(&self) -> bool {
        !self.bias.is_empty()
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
            || self.repetition_penalty != 1.0
    }
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// A stop token or a stop text came.
    Stop,
    /// The limit of tokens, or the model's context, was reached.
    Length,
    /// The caller asked to stop.
    Cancelled,
}

/// A sampled completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Its tokens, the stop token included.
    pub ids: Vec<u32>,
    /// ln p of each token under the sampling temperature, before any truncation (at temperature 0: under temperature 1).
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: FinishReason,
}

impl Completion {
    /// Without tokens.
    pub(crate) fn empty() -> Self {
        Self {
            ids: Vec::new(),
            logprobs: Vec::new(),
            finish: FinishReason::Length,
        }
    }
}

/// A token as it was sampled.
#[derive(Clone, Debug)]
pub struct TokenEvent {
    /// Which request.
    pub request: RequestId,
    /// The token.
    pub token: u32,
    /// Its log-probability.
    pub logprob: f32,
    /// The most probable tokens in its place, the first first, as many as were asked for.
    pub alternatives: Vec<Choice>,
    /// Set with the last token.
    pub finish: Option<FinishReason>,
}

/// A request that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// No token to begin with.
    #[error("request {request}: the prompt has no token; expected at least one")]
    EmptyPrompt {
        /// Which.
        request: usize,
    },
    /// Longer than the model's context.
    #[error(
        "request {request}: the prompt has {got} tokens, and the model's context is {context}; at least one place must be left for the answer"
    )]
    PromptTooLong {
        /// Which.
        request: usize,
        /// Tokens of the prompt.
        got: usize,
        /// The model's context.
        context: usize,
    },
    /// An id that the model does not have.
    #[error(
        "request {request}: token id {id} is beyond the model's vocabulary of {vocabulary}; is this tokenizer the model's?"
    )]
    UnknownToken {
        /// Which.
        request: usize,
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// A model that gives no finite logit.
    #[error("request {request}: {source}")]
    Sampling {
        /// Which.
        request: usize,
        /// Why.
        source: SamplingError,
    },
}
