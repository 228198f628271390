//! Rewards, verifiers and environments: the traits, and the built-in ones.
//!
//! - A [`Verifier`] judges one response by a rule, between 0 and 1, and says why.
//! - A [`Reward`] scores a batch of responses with any number: a reward model, a verifier, a weighted sum of others.
//! - An [`Environment`] answers actions with observations and rewards, turn by turn.
//!
//! All of them see text, never token ids, so that a reward model with another tokenizer scores a policy without further ado. None of
//! them may draw a random number that its caller did not key: the same samples get the same scores.
#![forbid(unsafe_code)]

mod environment;
mod error;
mod normalize;
mod reward;
mod sample;
pub mod verifier;

pub use environment::{Environment, Episode, SingleTurn, Status, Turn, run_episode};
pub use error::Error;
pub use normalize::Normalization;
pub use reward::{Part, Reward, Scores, VerifierReward, WeightedSum};
pub use sample::{PromptRow, Sample};
pub use verifier::{Verdict, Verifier};
