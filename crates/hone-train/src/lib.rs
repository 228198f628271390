//! The training stages: pre-training, supervised tuning, reward modelling, preference tuning, PPO, group-relative methods,
//! expert iteration, online preference tuning.
//!
//! Every stage has the same rooms: `config` (what can be set), `batch` or `rollout` (what a step works on), `step` (one
//! optimiser step or update, readable as the method's paper), `run` (its checkpoints, metrics and results, in the loop
//! that all follow). What stages share lies beside them; no stage imports another.
#![forbid(unsafe_code)]

mod answers;
pub mod artefact;
mod best;
mod checked;
mod corpus;
mod course;
mod encode;
mod error;
pub mod expert_iteration;
pub mod grpo;
pub mod hub;
mod job;
pub mod language;
mod learner;
mod mixture;
pub mod online_preference;
pub mod plan;
pub mod ppo;
pub mod preference;
pub mod preferred;
pub mod pretrain;
mod rankings;
pub mod reward;
pub mod rollout;
mod schedule;
mod scorer;
pub mod sections;
pub mod sft;
mod text;

pub use checked::{Checked, check};
pub use error::{Result, TrainError};
pub use job::{Job, Outcome};
pub use learner::{Applied, Ema, Learner};
pub use scorer::Scorer;
