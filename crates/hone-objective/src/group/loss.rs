//! loss = sum over tokens of w_t * (max(-A * ratio, -A * clip(ratio, 1 - low, 1 + high)) + kl_coef * k(logp - ref_logp))

use crate::gae::ranges;
use crate::kl::{Estimator, KlStats};
use crate::ppo::{ClipRange, PolicyStats, Surrogate};
use crate::{Error, check_count, check_length, check_setting, count};

/// The weight of each token in the loss: one over the global minibatch's...
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenWeight {
    /// ...number of responses times the response's own tokens: a mean over each response and then over responses (GRPO). A token of a
    /// long response counts for less.
    ResponseMean,
    /// ...number of tokens: a mean over all tokens (DAPO, REINFORCE++, PPO).
    TokenMean,
    /// ...number of responses times a constant length (Dr. GRPO: the length limit). With a length of 1, the log-probability of a whole
    /// response (RLOO).
    ConstantLength(u64),
}

/// Counts of the global minibatch; parts add up with [`GroupCounts::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupCounts {
    /// Number of responses. One whose tokens are all masked out, such as a truncated one, counts here.
    pub responses: u64,
    /// Tokens under the mask.
    pub tokens: u64,
}

impl GroupCounts {
    /// The counts of one part: `mask` is `[sum of lengths]`, `lengths` `[b]`.
    pub fn of(mask: &[bool], lengths: &[usize]) -> Self {
        Self {
            responses: lengths.len() as u64,
            tokens: count(mask),
        }
    }

    /// Adds another part's.
    pub fn merge(&mut self, other: &Self) {
        self.responses += other.responses;
        self.tokens += other.tokens;
    }
}

/// The divergence from the reference as a term of the loss.
#[derive(Clone, Copy, Debug)]
pub struct KlTerm<'a> {
    /// The reference's log-probabilities, `[sum of lengths]`.
    pub ref_logprobs: &'a [f32],
    /// Weight of the term; with 0 the divergence is only reported.
    #[doc(alias = "beta")]
    pub kl_coef: f64,
    /// Which estimate is the term. GRPO has k3.
    pub estimator: Estimator,
}

/// What [`group_loss`] reads.
#[derive(Clone, Copy, Debug)]
pub struct GroupInputs<'a> {
    /// Log-probabilities under the policy as it is now, `[sum of lengths]`.
    pub logprobs: &'a [f32],
    /// As they were sampled, `[sum of lengths]`.
    pub old_logprobs: &'a [f32],
    /// True at the tokens that the policy chose (not those of an environment), `[sum of lengths]`.
    pub mask: &'a [bool],
    /// Length of each sequence, `[b]`.
    pub lengths: &'a [usize],
    /// Advantage of each response, from [`super::advantages`], `[b]`.
    pub advantages: &'a [f32],
    /// The divergence from the reference, where it is a term of the loss.
    pub kl: Option<KlTerm<'a>>,
    /// Entropies of the policy's distributions now, for the statistics alone, `[sum of lengths]`.
    pub entropies: Option<&'a [f32]>,
}

/// Settings of [`group_loss`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupConfig {
    /// How far the ratio may move before its gradient stops.
    pub clip_range: ClipRange,
    /// What the loss is a mean over.
    pub token_weight: TokenWeight,
}

/// Loss, gradient and statistics of [`group_loss`].
#[derive(Clone, Debug, PartialEq)]
pub struct GroupLoss {
    /// This part's share of the minibatch's loss, the divergence included.
    pub loss: f64,
    /// Gradient of the loss with respect to `logprobs`, `[sum of lengths]`.
    pub grad_logprobs: Vec<f32>,
    /// Statistics over tokens.
    pub stats: GroupLossStats,
}

/// Statistics over tokens; parts add up with [`GroupLossStats::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GroupLossStats {
    /// Ratio, clipped share, divergence from the old policy, entropy; its losses weigh each token the same (`clip_ratio/region_mean` is
    /// its `clipfrac`).
    pub policy: PolicyStats,
    /// Tokens that the lower end of the clip range stopped (`clip_ratio/low_mean`, as a share of the tokens).
    pub clipped_low: u64,
    /// Tokens that the upper end stopped (`clip_ratio/high_mean`, as a share of the tokens).
    pub clipped_high: u64,
    /// Estimates of KL(policy || reference), where the reference was given (`kl` is k3's mean).
    pub ref_kl: KlStats,
    /// The clipped term's share of the loss.
    pub policy_loss: f64,
    /// The divergence's share of the loss, its coefficient included.
    pub kl_loss: f64,
}

impl GroupLossStats {
    /// Adds another part's.
    pub fn merge(&mut self, other: &Self) {
        self.policy.merge(&other.policy);
        self.clipped_low += other.clipped_low;
        self.clipped_high += other.clipped_high;
        self.ref_kl.merge(&other.ref_kl);
        self.policy_loss += other.policy_loss;
        self.kl_loss += other.kl_loss;
    }
}

/// The loss of some responses of a minibatch, whose counts over the whole of it are `counts`.
///
/// # Errors
/// Slices of unequal length; lengths that do not add up to the tokens; a setting out of range; global counts that are 0 or below this
/// part's own.
pub fn group_loss(inputs: &GroupInputs<'_>, config: GroupConfig, counts: GroupCounts) -> Result<GroupLoss, Error> {
    let op = "group_loss";
    let n = inputs.logprobs.len();
    check_length(op, "old_logprobs", inputs.old_logprobs.len(), n)?;
    check_length(op, "mask", inputs.mask.len(), n)?;
    check_length(op, "advantages", inputs.advantages.len(), inputs.lengths.len())?;
    check_length(op, "entropies", inputs.entropies.map_or(n, <[f32]>::len), n)?;
    if let Some(KlTerm {
        ref_logprobs, kl_coef, ..
    }) = inputs.kl
    {
        check_length(op, "ref_logprobs", ref_logprobs.len(), n)?;
        let sound = kl_coef >= 0.0 && kl_coef.is_finite();
        check_setting(op, "kl_coef", kl_coef, sound, "0 or more")?;
    }
    config.clip_range.check(op)?;
    if let TokenWeight::ConstantLength(length) = config.token_weight {
        check_setting(op, "constant length", length as f64, length > 0, "1 or more")?;
    }
    let local = GroupCounts::of(inputs.mask, inputs.lengths);
    check_count(op, "responses", counts.responses, local.responses)?;
    check_count(op, "tokens", counts.tokens, local.tokens)?;

    let mut grad_logprobs = vec![0.0; n];
    let mut stats = GroupLossStats::default();
    for (range, &advantage) in ranges(op, inputs.lengths, n)?.zip(inputs.advantages) {
        let divisor = match config.token_weight {
            TokenWeight::ResponseMean => counts.responses as f64 * count(&inputs.mask[range.clone()]) as f64,
            TokenWeight::TokenMean => counts.tokens as f64,
            TokenWeight::ConstantLength(length) => counts.responses as f64 * length as f64,
        };
        let (mut policy_sum, mut kl_sum) = (0.0, 0.0);
        for t in range.filter(|&t| inputs.mask[t]) {
            let token = Surrogate::of(inputs.logprobs[t], inputs.old_logprobs[t], advantage, config.clip_range);
            let mut slope = token.slope;
            policy_sum += token.loss;
            if let Some(KlTerm {
                ref_logprobs,
                kl_coef,
                estimator,
            }) = inputs.kl
            {
                let d = f64::from(inputs.logprobs[t]) - f64::from(ref_logprobs[t]);
                stats.ref_kl.push(d);
                if kl_coef > 0.0 {
                    kl_sum += kl_coef * estimator.of(d);
                    slope += kl_coef * estimator.derivative(d);
                }
            }
            grad_logprobs[t] = (slope / divisor) as f32;
            stats
                .policy
                .push(&token, inputs.entropies.map(|entropies| entropies[t]));
            stats.clipped_low += u64::from(token.clipped && token.ratio < 1.0);
            stats.clipped_high += u64::from(token.clipped && token.ratio > 1.0);
        }
        // A response without a token has no share, and its divisor may be 0
        if policy_sum != 0.0 {
            stats.policy_loss += policy_sum / divisor;
        }
        if kl_sum != 0.0 {
            stats.kl_loss += kl_sum / divisor;
        }
    }
    Ok(GroupLoss {
        loss: stats.policy_loss + stats.kl_loss,
        grad_logprobs,
        stats,
    })
}
