//! Rollouts: prompts answered by a policy, with the numbers that reinforcement learning needs of them. What methods share.

mod apart;
mod batch;
mod check;
mod checks;
mod collect;
mod practice;
mod prompts;
mod record;
mod rehearse;
mod score;
mod sections;
mod setup;

pub(crate) use apart::tell_apart;
pub(crate) use batch::EpisodeBatch;
pub(crate) use check::{check, check_others, rows_of, tokens_of};
pub(crate) use checks::{at_least_one, check_rollout, divides, number};
pub(crate) use collect::{Collected, Episode};
#[cfg(test)]
pub(crate) use collect::{Models, collect};
#[cfg(test)]
pub(crate) use practice::made;
pub(crate) use practice::{Course, Learned, Practice, Sampled, passes, policy, practise};
#[cfg(test)]
pub(crate) use prompts::{PreparedPrompt, Prompts};
pub(crate) use record::{mean, record_samples, tell_unscorable};
pub(crate) use rehearse::{microbatches, rehearse_rollout};
pub(crate) use score::Reading;
#[cfg(test)]
pub(crate) use score::{Response, text_of};
pub(crate) use sections::RolloutSettings;
pub use sections::{MissingEos, PromptData, RewardSection};
pub(crate) use setup::{Made, Networks, Setup};
