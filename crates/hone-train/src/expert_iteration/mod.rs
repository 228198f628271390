//! Expert iteration: sample, keep the best, tune on it, repeat.
//!
//! Sources: Anthony et al., "Thinking fast and slow with deep learning and tree search" (2017), for the name and the loop;
//! Zelikman et al., "STaR: bootstrapping reasoning with reasoning" (2022); Gulcehre et al., "Reinforced self-training (ReST)
//! for language modeling" (2023); Dong et al., "RAFT: reward ranked finetuning for generative foundation model alignment"
//! (2023), for the best of each prompt; Singh et al., "Beyond human data: scaling self-training for problem-solving with
//! language models" (2023), ReST-EM, for tuning the first model anew in each round. Where this differs from them:
//!
//! 1. A response is tuned on by the tokens that were sampled, its end included; nothing is tokenised again.
//! 2. Before the first step of a round the log-probabilities that were stored while sampling are computed again for all that
//!    was kept, and one bit of difference stops the run.
//! 3. Temperature divides the logits in the loss as in sampling, so that the distribution that answered is the one that learns.
//! 4. Equal responses to a prompt count once.
//! 5. Every round is a tuning of its own: the optimiser's moments begin at 0 and the learning rate's schedule at its start. So
//!    a round follows from the weights that it begins with alone.

mod config;
mod keep;
mod plan;
mod run;
mod step;
#[cfg(test)]
mod tests;

pub use config::{ExpertIterationConfig, ExpertIterationSection, KeepRule, TuneFrom};
pub use plan::plan;
pub use run::run;
