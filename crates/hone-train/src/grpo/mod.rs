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

use hone_run::Resolved;

use crate::error::Result;
use crate::job::{Job, Outcome};
use crate::plan::Plan;
use crate::rollout;

pub use config::{GroupMethod, GrpoConfig, GrpoSection};

/// Improves a policy as configured, or goes on where it was interrupted.
///
/// # Errors
/// If the configuration, the data or a model is at fault, the memory does not suffice, training diverges, or an invariant
/// breaks.
pub fn run(job: &Job, config: &Resolved<GrpoConfig>) -> Result<Outcome> {
    rollout::run(job, config)
}

/// Plans a run without starting it. If it is to be `timed`, the machine's speed is measured.
///
/// # Errors
/// If the configuration, the data or a model is at fault.
pub fn plan(job: &Job, config: &Resolved<GrpoConfig>, timed: bool) -> Result<Plan> {
    rollout::plan(job, config, timed)
}
