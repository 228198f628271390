//! Reinforcement learning without a value network: several responses to a prompt, whose scores are one another's baseline.
//!
//! Sources: see [`hone_objective::group`]: GRPO, Dr. GRPO, DAPO, RLOO and REINFORCE++. Where this differs from other trainers:
//!
//! 1. Log-probabilities of the rollout are those that were stored while sampling. Before the first optimiser step of every
//!    update the training pass computes them again, and one bit of difference stops the run.
//! 2. A prompt is computed once for all of its responses, in every pass.
//! 3. The score of a response that did not end is replaced, not lessened.
//! 4. Losses are means over the minibatch, whatever the micro-batch.
//! 5. Dynamic sampling draws further prompts for groups whose scores are all equal, a bounded number of times; what is then
//!    still missing is left out.

mod config;
mod plan;
mod run;
mod step;
#[cfg(test)]
mod tests;

pub use config::{GroupMethod, GrpoConfig, GrpoSection};
pub use plan::plan;
pub use run::run;
