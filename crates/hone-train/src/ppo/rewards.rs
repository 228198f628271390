//! The rewards of a rollout, and what follows from them where values are known.

use hone_objective::gae::{Gae, GaeConfig, GaeInputs, gae};
use hone_objective::ppo::{PrepareConfig, Rewarded as Rewards, prepare_advantages, prepare_rewards};
use hone_objective::rewards::RewardStats;

use super::config::PpoSection;
use super::microbatches::{Rewarded, flat};
use crate::error::Result;
use crate::rollout::{Episode, ScoredTokens};

/// Rewards of the whole rollout, and how advantages and returns follow from them.
pub(super) struct RolloutRewards {
    rewards: Rewards,
    config: PrepareConfig,
}

impl RolloutRewards {
    /// Rewards of the sampled tokens, whitened where that is configured. They need no values.
    ///
    /// # Errors
    /// Numbers that are none.
    pub fn of(episodes: &[Episode], kl_coef: f64, ppo: &PpoSection) -> Result<Self> {
        let scores: Vec<f32> = episodes.iter().map(|e| e.score).collect();
        let config = PrepareConfig {
            kl_coef,
            gae: GaeConfig {
                gamma: ppo.gamma,
                gae_lambda: ppo.gae_lambda,
            },
            whiten_advantages: ppo.whiten_advantages,
            whiten_rewards: ppo.whiten_rewards,
        };
        let rewards = prepare_rewards(&ScoredTokens::new(episodes, &scores).inputs(), &config)?;
        Ok(Self { rewards, config })
    }

    /// Statistics over responses.
    pub fn stats(&self) -> &RewardStats {
        &self.rewards.stats
    }

    /// The episodes of the rollout with their rewards.
    pub fn split<'a>(&'a self, episodes: &'a [Episode]) -> Vec<Rewarded<'a>> {
        let mut start = 0;
        let rewarded = episodes.iter().map(|episode| {
            let range = start..start + episode.length();
            start = range.end;
            Rewarded {
                episode,
                rewards: &self.rewards.effective()[range.clone()],
                range,
            }
        });
        rewarded.collect()
    }

    /// Returns of some of the episodes, whose values are these, `[t]` one after another: to the bit those that
    /// [`Self::advantages`] gives for the whole rollout.
    ///
    /// # Errors
    /// Values that are too few or too many.
    pub fn returns(&self, groups: &[&[Rewarded<'_>]], values: &[f32]) -> Result<Vec<f32>> {
        let rewards = flat(groups, |rewarded| rewarded.rewards);
        let episodes = groups.iter().copied().flatten();
        let lengths: Vec<usize> = episodes.map(|rewarded| rewarded.range.len()).collect();
        let inputs = GaeInputs {
            rewards: &rewards,
            values,
            mask: &vec![true; rewards.len()],
            lengths: &lengths,
        };
        Ok(gae(&inputs, self.config.gae)?.returns)
    }

    /// Advantages, whitened over the rollout where that is configured, and returns, from the values of all of its sampled
    /// tokens.
    ///
    /// # Errors
    /// Numbers that are none.
    pub fn advantages(&self, episodes: &[Episode], values: &[f32]) -> Result<Gae> {
        let lengths: Vec<usize> = episodes.iter().map(Episode::length).collect();
        let inputs = GaeInputs {
            rewards: self.rewards.effective(),
            values,
            mask: &vec![true; values.len()],
            lengths: &lengths,
        };
        Ok(prepare_advantages(&inputs, &self.config)?)
    }
}
