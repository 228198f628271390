//! Rollouts: prompts answered by a policy, or an environment that it acts in, with the numbers that reinforcement learning
//! needs of them. What methods share.

mod acting;
mod apart;
mod batch;
mod check;
mod checks;
mod collect;
mod figures;
mod judge;
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
pub(crate) use figures::Figures;
#[cfg(test)]
pub(crate) use judge::{Judge, Reader};
#[cfg(test)]
pub(crate) use practice::made;
pub(crate) use practice::{Course, Learned, Practice, Sampled, passes, policy, practise};
#[cfg(test)]
pub(crate) use prompts::{PreparedPrompt, Prompts};
pub(crate) use record::{mean, record_samples, tell_unscorable};
pub(crate) use rehearse::{extents, microbatches, rehearse_rollout};
#[cfg(test)]
pub(crate) use score::{Reading, Response};
pub use sections::{EnvironmentSection, MissingEos, PromptData, RewardSection};
pub(crate) use sections::{Maximised, RolloutSettings, example_environment, example_rewards};
pub(crate) use setup::{Made, Networks, Setup};
