//! PPO from a reward model, with a penalty for leaving the reference.
//!
//! Sources: Schulman et al., "Proximal policy optimization algorithms" (2017); Ziegler et al., "Fine-tuning language
//! models from human preferences" (2019) and its code; Ouyang et al. (2022) for the pre-training term; Huang et al.,
//! "The N+ implementation details of RLHF with PPO" (2024). Where this differs:
//!
//! 1. Log-probabilities of the rollout are those that were stored while sampling. Before the first optimiser step of
//!    every update the training pass computes them again, and one bit of difference stops the run.
//! 2. Policy and value network are two models with an optimiser each.
//! 3. The score of a response that did not end is replaced, not lessened.
//! 4. Losses are means over the tokens of the minibatch, whatever the micro-batch.
//! 5. Policy and reference log-probabilities are taken under the sampling temperature; truncation has no place here.
//! 6. Where policy and reward model share tokenizer and template, the sampled tokens themselves are scored; else the
//!    reward model reads text, so its tokenizer may be its own. What it cannot read does not stop the run.

mod config;
mod microbatches;
mod plan;
mod rewards;
mod run;
#[cfg(test)]
mod scoring_tests;
mod step;
#[cfg(test)]
mod tests;
mod values;
#[cfg(test)]
mod values_tests;

use hone_run::Resolved;

use crate::error::Result;
use crate::job::{Job, Outcome};
use crate::plan::Plan;
use crate::rollout;

pub use config::{PpoConfig, PpoSection, PtxSection, ValueStart};

/// Improves a policy as configured, or goes on where it was interrupted.
///
/// # Errors
/// If the configuration, the data or a model is at fault, the memory does not suffice, training diverges, or an invariant
/// breaks.
pub fn run(job: &Job, config: &Resolved<PpoConfig>) -> Result<Outcome> {
    rollout::run(job, config)
}

/// Plans a run without starting it. If it is to be `timed`, the machine's speed is measured.
///
/// # Errors
/// If the configuration, the data or a model is at fault.
pub fn plan(job: &Job, config: &Resolved<PpoConfig>, timed: bool) -> Result<Plan> {
    rollout::plan(job, config, timed)
}
