//! Group-relative reinforcement learning: several responses a prompt, whose scores are one another's baseline; no value network.
//!
//! | method | advantage | weight of a token in the loss | clip range | divergence |
//! |---|---|---|---|---|
//! | GRPO | (r - mean)/(std + 1e-4) of the group | [`TokenWeight::ResponseMean`] | 0.2 | k3 in the loss |
//! | Dr. GRPO | r - mean of the group | [`TokenWeight::ConstantLength`] | 0.2 | none |
//! | DAPO | as GRPO, of [`informative`] groups, scores less [`OverlongShaping`] | [`TokenWeight::TokenMean`] | [`DAPO_CLIP_RANGE`] | none |
//! | RLOO | r - mean of the group's others | [`TokenWeight::ConstantLength`] of 1 | 0.2 | in the score |
//! | REINFORCE++ | (r - mean)/std of the batch | [`TokenWeight::TokenMean`] | 0.2 | in the score |
//! | REINFORCE++, baseline | r - mean of the group, then over std of the batch | [`TokenWeight::TokenMean`] | 0.2 | k2 in the loss |
//!
//! 1. [`advantages`], once a rollout batch: scores -> one advantage a response. Before it, where a method has them,
//!    [`scores_less_kl`], [`OverlongShaping`] and the choice of [`informative`] groups.
//! 2. [`group_loss`], for any responses of a minibatch.
//!
//! Sources: Shao et al. (DeepSeekMath: GRPO), 2024, equations 3 and 4; Liu et al., "Understanding R1-Zero-like training: a critical
//! perspective" (Dr. GRPO), 2025; Yu et al., "DAPO: an open-source LLM reinforcement learning system at scale", 2025, equations 8 to
//! 13; Ahmadian et al., "Back to basics: revisiting REINFORCE style optimization" (RLOO), 2024; Hu et al., "REINFORCE++", 2025.
//!
//! Where it differs from other implementations:
//! 1. Groups may differ in size. What is normalised over the batch is normalised over the global one.
//! 2. The standard deviation of a group divides by n - 1 and 1e-4 is added to it, as in TRL. The batch's divides by n and 1e-8 is added to
//!    the variance, as in `whiten`.
//! 3. Ratio and clip are a token's in every method. RLOO has a response's in TRL; before the first step of a minibatch, where the
//!    ratio is 1, gradients are the same.
//! 4. REINFORCE++ normalises responses. Normalised over tokens, with the divergence in each token's reward, it is `ppo::prepare` with
//!    values of 0 and gamma and lambda of 1.
//! 5. k1, k2 and k3 as a loss have three different gradients: see `kl`. k3's, on samples of the policy, is that of KL(reference ||
//!    policy). Its samples are the old policy's after the first step, and no importance weight corrects that.
//! 6. The clipped term is the one of `ppo`, bit for bit: no dual clip, no entropy bonus.

mod advantages;
mod loss;
mod shaping;

pub use advantages::{AdvantageEstimator, Advantages, ScoreStats, advantages};
pub use loss::{GroupConfig, GroupCounts, GroupInputs, GroupLoss, GroupLossStats, KlTerm, TokenWeight, group_loss};
pub use shaping::{OverlongShaping, informative, scores_less_kl};

use crate::Error;
use crate::gae::ranges;
use crate::ppo::ClipRange;
use std::ops::Range;

/// DAPO's clip range, wider above 1 so that unlikely tokens can gain.
pub const DAPO_CLIP_RANGE: ClipRange = ClipRange { low: 0.2, high: 0.28 };

/// GRPO's weight of the divergence in the loss.
pub const GRPO_KL_COEF: f64 = 0.04;

/// Where each group's scores lie; refuses scores that are no numbers and groups that are too small.
fn checked_groups(
    op: &'static str,
    scores: &[f32],
    groups: &[usize],
    at_least: usize,
) -> Result<Vec<Range<usize>>, Error> {
    if let Some(&got) = scores.iter().find(|score| !score.is_finite()) {
        return Err(Error::NotFinite {
            op,
            name: "scores",
            got: f64::from(got),
        });
    }
    if let Some(index) = groups.iter().position(|&size| size < at_least) {
        return Err(Error::GroupSize {
            op,
            index,
            got: groups[index],
            at_least,
        });
    }
    Ok(ranges(op, groups, scores.len())?.collect())
}
