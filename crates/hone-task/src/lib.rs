//! Rewards, verifiers and environments: the traits, and the built-in ones.
//!
//! - A [`Verifier`] judges one response by a rule, and says why.
//! - [`FinalAnswer`] finds what a response answers in the end, for a vote.
//! - [`Rewards`] is the weighted sum of verifiers, programs and reward models that a configuration's `[[rewards]]` asks for.
//! - An [`Environment`] answers actions with observations and rewards, turn by turn.
//!
//! All of them see text, never token ids, so that a reward model with another tokenizer scores a policy without further ado. None of
//! them may draw a random number that its caller did not key: the same samples get the same scores.
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../../../docs/environments.md")]
struct Documents;

mod answer;
mod config;
pub mod environment;
mod error;
mod normalize;
mod program;
mod reward;
mod sample;
pub mod verifier;

pub use answer::FinalAnswer;
pub use config::{RewardEntry, RewardRule};
pub use environment::{Environment, EnvironmentSetting, Player};
pub use error::{BadSetting, Error, Problem};
pub use normalize::Normalization;
pub use program::{Journal, Place};
pub use reward::{RewardSetup, Rewards, Scores};
pub use sample::{PromptRow, Sample};
pub use verifier::{Verdict, Verifier};
