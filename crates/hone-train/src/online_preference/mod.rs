//! Online preference tuning: the policy's own responses are scored, and the better and the worse to a prompt are a pair
//! that it learns from.
//!
//! Sources: Guo et al., "Direct language model alignment from online AI feedback" (2024), online DPO; Xiong et al.,
//! "Iterative preference learning from human feedback" (2023), the best and the worst of several responses. The losses are
//! those of preference tuning ([`crate::preferred`]). Where this differs:
//!
//! 1. Log-probabilities of the rollout are those that were stored while sampling. Before the first optimiser step of every
//!    update the training pass computes them again for all that is learned from, and one bit of difference stops the run.
//! 2. The reference is the model that the run starts from, under the same temperature.
//! 3. Responses with one score have no pair; a prompt without a pair is left out.
//! 4. A response is computed once, whatever its number of pairs, and the prompt once for all of its responses.
//! 5. Losses are means over the minibatch, whatever the micro-batch.

mod config;
mod pairs;
mod plan;
mod run;
mod step;
#[cfg(test)]
mod tests;

pub use config::{OnlinePreferenceConfig, OnlinePreferenceSection, PairRule};
pub use plan::plan;
pub use run::run;
