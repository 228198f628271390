//! Rollouts: prompts answered by a policy, or an environment that it acts in, with the numbers that reinforcement learning
//! needs of them. What methods share.

mod acting;
mod apart;
mod batch;
mod check;
mod checks;
mod collect;
mod figures;
mod held_out;
mod judge;
mod looks;
mod practice;
mod prompts;
mod record;
mod rehearse;
mod score;
mod sections;
mod setup;
mod stage;
#[cfg(test)]
pub(crate) mod trials;

pub(crate) use apart::tell_apart;
pub(crate) use batch::EpisodeBatch;
pub(crate) use check::{beginning_of, check, check_others, rows_of, tokens_of};
pub(crate) use checks::{at_least_one, check_rollout, divides, number};
pub(crate) use collect::{Episode, ScoredTokens};
#[cfg(test)]
pub(crate) use collect::{Models, collect};
pub(crate) use held_out::{best_weights, rehearse_looks};
#[cfg(test)]
pub(crate) use judge::{Judge, Reader};
#[cfg(test)]
pub(crate) use practice::made;
pub(crate) use practice::{Course, Learned, Practice, Sampled, passes, policy};
pub use prompts::shared;
#[cfg(test)]
pub(crate) use prompts::{PreparedPrompt, Prompts};
pub(crate) use record::mean;
pub(crate) use rehearse::{extents, microbatches, rehearse_rollout};
#[cfg(test)]
pub(crate) use score::{Reading, Response};
pub(crate) use sections::RolloutSettings;
pub use sections::{EnvironmentSection, JudgeSection, Maximised, MissingEos, PromptData, RewardSection};
pub(crate) use setup::{Networks, Setup};
pub(crate) use stage::{Besides, Practised, checked, plan, run};
