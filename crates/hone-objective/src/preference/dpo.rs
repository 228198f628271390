//! Direct preference optimisation.
//!
//! loss of a pair = -(1 - e) * ln sigmoid(beta * h) - e * ln sigmoid(-beta * h),   h = (l_c - ref_c) - (l_j - ref_j)
//!
//! Sources: Rafailov et al., "Direct preference optimization: your language model is secretly a reward model", 2023, equation 7;
//! Mitchell, "A note on DPO with noisy preferences and relationship to IPO", 2023 (label smoothing, "conservative DPO").
//!
//! Where it differs from other implementations, beside what `preference` says:
//! 1. Label smoothing is the conservative form. TRL's loss type `robust` is another one, divided by 1 - 2e, which keeps the loss
//!    unbiased for labels flipped with probability e and is unbounded below.
//! 2. The divergence that it regularises with is KL(policy || reference) alone; no other f-divergence.

use super::{Judged, PairCounts, PairInputs, PairLoss, over_pairs};
use crate::{Error, check_length, check_setting};
use hone_math::{log_sigmoid, sigmoid};

/// Settings of [`dpo`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DpoConfig {
    /// Weight of the divergence from the reference: the smaller, the further the policy may go. Default 0.1.
    pub beta: f64,
    /// Probability that a label is the wrong way round, 0 to a half. Default 0.
    pub label_smoothing: f64,
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            label_smoothing: 0.0,
        }
    }
}

/// The DPO loss of some pairs of a batch.
///
/// `ref_logprobs` is the reference's log-probability of each response, `[2 * pairs]`, from [`super::response_logprobs`]; `counts` is
/// [`super::prepare`] of the whole batch.
///
/// # Errors
/// Slices of unequal length; an odd number of responses; a response without a token; a setting out of range; a global count that is 0
/// or below this part's own.
pub fn dpo(
    inputs: &PairInputs<'_>,
    ref_logprobs: &[f64],
    config: DpoConfig,
    counts: PairCounts,
) -> Result<PairLoss, Error> {
    let DpoConfig { beta, label_smoothing } = config;
    check_length("dpo", "ref_logprobs", ref_logprobs.len(), inputs.lengths.len())?;
    check_setting("dpo", "beta", beta, beta > 0.0 && beta.is_finite(), "more than 0")?;
    check_setting(
        "dpo",
        "label_smoothing",
        label_smoothing,
        (0.0..=0.5).contains(&label_smoothing),
        "0 to 0.5",
    )?;
    over_pairs("dpo", inputs, counts, |index, chosen, rejected| {
        let rewards = [
            beta * (chosen.logprob - ref_logprobs[2 * index]),
            beta * (rejected.logprob - ref_logprobs[2 * index + 1]),
        ];
        let margin = rewards[0] - rewards[1];
        let mut loss = -(1.0 - label_smoothing) * log_sigmoid(margin);
        let mut slope = -(1.0 - label_smoothing) * beta * sigmoid(-margin);
        if label_smoothing > 0.0 {
            loss -= label_smoothing * log_sigmoid(-margin);
            slope += label_smoothing * beta * sigmoid(margin);
        }
        Judged {
            loss,
            slopes: [slope, -slope],
            rewards,
        }
    })
}
