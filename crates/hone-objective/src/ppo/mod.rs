//! Proximal policy optimisation for language models.
//!
//! 1. [`prepare`], once a rollout batch: scores -> rewards a token -> advantages and returns -> whitened advantages. Its halves,
//!    [`prepare_rewards`] and [`prepare_advantages`], are for callers that know values later than scores.
//! 2. [`policy_loss`] and [`value_loss`], for any part of a minibatch.
//!
//! Sources: Schulman et al., "Proximal policy optimization algorithms", 2017, equation 7; Ziegler et al., "Fine-tuning language models
//! from human preferences", 2019, and its code, openai/lm-human-preferences `train_policy.py` (the value clip, the whitening, the
//! defaults); Ouyang et al. (InstructGPT), 2022; Huang et al., "The N+ implementation details of RLHF with PPO", 2024; Yu et al. (DAPO),
//! 2025 (a clip range that is wider above 1).
//!
//! Where it differs from other implementations:
//! 1. Advantages are whitened once over the rollout batch, not in each minibatch (Ziegler's code) and not with n - 1 (TRL): see
//!    `whiten`.
//! 2. Means are over the tokens of the global minibatch, so that each token weighs the same. TRL averages within each micro-batch.
//! 3. Policy and value losses have one mask: the response's tokens, its EOS included. TRL also trains a value one position later.
//! 4. `approxkl` is reported as k1, k2 and k3 of KL(old || new); k2 is TRL's and Ziegler's.
//! 5. The variance of the ratio is over tokens. TRL reports that of minibatch means.
//! 6. No dual clip, no entropy bonus, no clamp on the log-ratio.
//! 7. Where clipped and unclipped terms are equal the unclipped one's gradient is taken. (PyTorch's `max` takes half of each, which
//!    differs only on the kink itself.)

mod policy;
mod value;

pub(crate) use policy::Surrogate;
pub use policy::{ClipRange, PolicyInputs, PolicyLoss, PolicyStats, policy_loss, ratio};
pub use value::{ValueConfig, ValueInputs, ValueLoss, ValueStats, value_loss};

use crate::Error;
use crate::gae::{Gae, GaeConfig, GaeInputs, gae};
use crate::rewards::{RewardInputs, RewardStats, rewards};
use crate::whiten::{whiten, whiten_keep_mean};

/// The numbers of a whole rollout batch, as sampled.
#[derive(Clone, Copy, Debug)]
pub struct Rollout<'a> {
    /// The policy's log-probabilities, `[sum of lengths]`.
    pub logprobs: &'a [f32],
    /// The reference's, `[sum of lengths]`.
    pub ref_logprobs: &'a [f32],
    /// Values read at the position before each token, `[sum of lengths]`.
    pub values: &'a [f32],
    /// True at the responses' tokens, `[sum of lengths]`.
    pub mask: &'a [bool],
    /// Length of each sequence, `[b]`.
    pub lengths: &'a [usize],
    /// Score of each response, the missing-EOS rule applied, `[b]`.
    pub scores: &'a [f32],
}

/// How scores become advantages, in [`prepare`] and its halves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrepareConfig {
    /// Weight of the divergence in the reward. Default 0.05.
    pub kl_coef: f64,
    /// Discount and trace decay.
    pub gae: GaeConfig,
    /// Whether advantages get mean 0 and variance 1. Default true.
    pub whiten_advantages: bool,
    /// Whether rewards get variance 1, their mean kept. Default false.
    pub whiten_rewards: bool,
}

impl Default for PrepareConfig {
    fn default() -> Self {
        Self {
            kl_coef: crate::rewards::KL_COEF,
            gae: GaeConfig::default(),
            whiten_advantages: true,
            whiten_rewards: false,
        }
    }
}

/// The constants of a rollout batch, `[sum of lengths]` each and 0 outside the mask.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Rewards, before whitening.
    pub rewards: Vec<f32>,
    /// Advantages, whitened where configured.
    pub advantages: Vec<f32>,
    /// Targets of the value loss.
    pub returns: Vec<f32>,
    /// Statistics over responses.
    pub stats: RewardStats,
}

/// What [`prepare_rewards`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewarded {
    /// Rewards before whitening, 0 outside the mask, `[sum of lengths]`.
    pub rewards: Vec<f32>,
    /// The same to variance 1, their mean kept, where configured, `[sum of lengths]`.
    pub whitened: Option<Vec<f32>>,
    /// Statistics over responses.
    pub stats: RewardStats,
}

impl Rewarded {
    /// The rewards from which advantages and returns follow, `[sum of lengths]`.
    pub fn effective(&self) -> &[f32] {
        self.whitened.as_deref().unwrap_or(&self.rewards)
    }
}

/// The first half of [`prepare`], which needs no values: the score on the last token, less the divergence on every token, and
/// optionally to variance 1.
///
/// # Errors
/// Whatever [`rewards`] and [`whiten_keep_mean`] refuse.
pub fn prepare_rewards(inputs: &RewardInputs<'_>, config: &PrepareConfig) -> Result<Rewarded, Error> {
    let rewarded = rewards(inputs, config.kl_coef)?;
    let whitened = if config.whiten_rewards {
        Some(whiten_keep_mean(&rewarded.rewards, inputs.mask)?)
    } else {
        None
    };
    Ok(Rewarded {
        rewards: rewarded.rewards,
        whitened,
        stats: rewarded.stats,
    })
}

/// The second half: advantages, where configured to mean 0 and variance 1 over the batch, and returns, which keep their scale.
/// The returns are those of [`gae`] for any part of the batch's sequences.
///
/// # Errors
/// Whatever [`gae`] and [`whiten`] refuse.
pub fn prepare_advantages(inputs: &GaeInputs<'_>, config: &PrepareConfig) -> Result<Gae, Error> {
    let mut estimated = gae(inputs, config.gae)?;
    if config.whiten_advantages {
        estimated.advantages = whiten(&estimated.advantages, inputs.mask)?;
    }
    Ok(estimated)
}

/// Step one: everything that depends on the whole rollout batch.
///
/// # Errors
/// Whatever [`rewards`], [`gae`] and [`whiten`] refuse.
pub fn prepare(rollout: &Rollout<'_>, config: &PrepareConfig) -> Result<Prepared, Error> {
    let Rollout {
        logprobs,
        ref_logprobs,
        values,
        mask,
        lengths,
        scores,
    } = *rollout;

    // 1. Rewards, which need no values
    let inputs = RewardInputs {
        logprobs,
        ref_logprobs,
        mask,
        lengths,
        scores,
    };
    let rewarded = prepare_rewards(&inputs, config)?;
    // 2. Advantages and returns
    let inputs = GaeInputs {
        rewards: rewarded.effective(),
        values,
        mask,
        lengths,
    };
    let estimated = prepare_advantages(&inputs, config)?;

    Ok(Prepared {
        rewards: rewarded.rewards,
        advantages: estimated.advantages,
        returns: estimated.returns,
        stats: rewarded.stats,
    })
}
