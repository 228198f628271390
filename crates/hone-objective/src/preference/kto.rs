//! Kahneman-Tversky optimisation: single responses that people found good or bad, without pairs.
//!
//! loss of a desirable response   = desirable_weight   * (1 - sigmoid(beta * (r - z)))
//! loss of an undesirable response = undesirable_weight * (1 - sigmoid(beta * (z - r)))
//!
//! r = l - ref_l of the response. z = max(0, mean over mismatched pairs of l - ref_l) estimates KL(policy || reference), from responses
//! under prompts that they do not belong to. No gradient passes through z.
//!
//! Source: Ethayarajh et al., "KTO: model alignment as prospect theoretic optimization", 2024, section 4: its loss up
//! to a constant, and its estimate of the divergence.
//!
//! Where it differs from other implementations, beside what `preference` says:
//! 1. z is one number for the global batch, found in [`prepare`] before any part's loss. TRL has one a micro-batch.
//! 2. The mean is over the responses of the global batch, desirable and undesirable alike.
//! 3. An accuracy is reported: the share of responses on their side of z.

use super::responses;
use crate::bradley_terry::half_or_whole;
use crate::statistics::Moments;
use crate::{Error, check_count, check_length, check_setting, max_or_nan};
use hone_math::sigmoid;

/// Settings of [`kto`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KtoConfig {
    /// Weight of the divergence from the reference. Default 0.1.
    pub beta: f64,
    /// Weight of desirable responses. Default 1.
    pub desirable_weight: f64,
    /// Weight of undesirable responses. Default 1.
    pub undesirable_weight: f64,
}

impl Default for KtoConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
        }
    }
}

/// The constants of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KtoConstants {
    /// The estimate of KL(policy || reference), 0 or more, nats a response (`kl`).
    pub kl: f64,
    /// Responses of the global batch.
    pub responses: u64,
}

/// Step one: the divergence of a batch of `responses` responses, from log-probabilities of mismatched ones.
///
/// `mismatched` and `ref_mismatched` are the policy's and the reference's log-probabilities of responses under other prompts than their
/// own, `[any number]`, from [`super::response_logprobs`].
///
/// # Errors
/// Slices of unequal length; no mismatched response; an estimate that is not finite; a batch of no responses.
pub fn prepare(mismatched: &[f64], ref_mismatched: &[f64], responses: u64) -> Result<KtoConstants, Error> {
    let op = "kto::prepare";
    check_length(op, "ref_mismatched", ref_mismatched.len(), mismatched.len())?;
    check_count(op, "responses", responses, 0)?;
    if mismatched.is_empty() {
        return Err(Error::TooFew {
            op,
            what: "the set of mismatched responses",
            at_least: 1,
        });
    }
    let sum: f64 = mismatched
        .iter()
        .zip(ref_mismatched)
        .map(|(l, reference)| l - reference)
        .sum();
    let mean = sum / mismatched.len() as f64;
    if !mean.is_finite() {
        return Err(Error::NotFinite {
            op,
            name: "kl",
            got: mean,
        });
    }
    Ok(KtoConstants {
        kl: max_or_nan(0.0, mean),
        responses,
    })
}

/// What [`kto`] reads.
#[derive(Clone, Copy, Debug)]
pub struct KtoInputs<'a> {
    /// The policy's log-probabilities, `[sum of lengths]`.
    pub logprobs: &'a [f32],
    /// True at the responses' tokens, EOS included, `[sum of lengths]`.
    pub mask: &'a [bool],
    /// Length of each sequence, `[b]`.
    pub lengths: &'a [usize],
    /// The reference's log-probability of each response, from [`super::response_logprobs`], `[b]`.
    pub ref_logprobs: &'a [f64],
    /// True where people found the response good, `[b]`.
    pub desirable: &'a [bool],
}

/// Loss, gradient and statistics of [`kto`].
#[derive(Clone, Debug, PartialEq)]
pub struct KtoLoss {
    /// This part's share of the batch's mean loss over responses.
    pub loss: f64,
    /// Gradient of the loss with respect to `logprobs`, `[sum of lengths]`.
    pub grad_logprobs: Vec<f32>,
    /// Statistics over responses.
    pub stats: KtoStats,
}

/// Statistics over responses; parts add up with [`KtoStats::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KtoStats {
    /// Loss of a response, its weight included.
    pub loss: Moments,
    /// Implicit reward `beta * r` of desirable responses (`rewards/chosen`).
    pub chosen_rewards: Moments,
    /// Implicit reward of undesirable responses (`rewards/rejected`).
    pub rejected_rewards: Moments,
    /// Log-probability of desirable responses (`logps/chosen`).
    pub chosen_logprobs: Moments,
    /// Log-probability of undesirable responses (`logps/rejected`).
    pub rejected_logprobs: Moments,
    /// Responses on their side of the divergence, those on it as a half.
    pub correct_sum: f64,
}

impl KtoStats {
    /// Adds another part's.
    pub fn merge(&mut self, other: &Self) {
        self.loss.merge(&other.loss);
        self.chosen_rewards.merge(&other.chosen_rewards);
        self.rejected_rewards.merge(&other.rejected_rewards);
        self.chosen_logprobs.merge(&other.chosen_logprobs);
        self.rejected_logprobs.merge(&other.rejected_logprobs);
        self.correct_sum += other.correct_sum;
    }

    /// Share of responses on their side of the divergence: a desirable one's implicit reward above `beta * z`, an undesirable one's
    /// below; NaN without responses.
    pub fn accuracy(&self) -> f64 {
        self.correct_sum / self.loss.count() as f64
    }

    /// Mean implicit reward of desirable responses less that of undesirable ones (`rewards/margins`); NaN without either.
    pub fn margin(&self) -> f64 {
        self.chosen_rewards.mean() - self.rejected_rewards.mean()
    }
}

/// The KTO loss of some responses of a batch. `constants` is [`prepare`] of the whole batch.
///
/// # Errors
/// Slices of unequal length; a response without a token; a setting out of range; a global count that is 0 or below this part's own.
pub fn kto(inputs: &KtoInputs<'_>, config: KtoConfig, constants: KtoConstants) -> Result<KtoLoss, Error> {
    let KtoConfig {
        beta,
        desirable_weight,
        undesirable_weight,
    } = config;
    let b = inputs.lengths.len();
    check_length("kto", "ref_logprobs", inputs.ref_logprobs.len(), b)?;
    check_length("kto", "desirable", inputs.desirable.len(), b)?;
    check_setting("kto", "beta", beta, beta > 0.0 && beta.is_finite(), "more than 0")?;
    for (name, weight) in [
        ("desirable_weight", desirable_weight),
        ("undesirable_weight", undesirable_weight),
    ] {
        check_setting("kto", name, weight, weight >= 0.0 && weight.is_finite(), "0 or more")?;
    }
    check_setting("kto", "kl", constants.kl, constants.kl >= 0.0, "0 or more")?;
    check_count("kto", "responses", constants.responses, b as u64)?;

    let global = constants.responses as f64;
    let mut grad_logprobs = vec![0.0; inputs.logprobs.len()];
    let mut stats = KtoStats::default();
    let mut sum = 0.0;
    for (index, response) in responses("kto", inputs.logprobs, inputs.mask, inputs.lengths)?
        .iter()
        .enumerate()
    {
        let ratio = response.logprob - inputs.ref_logprobs[index];
        // How far the response is on its side of the divergence, and which way that is
        let (side, weight) = if inputs.desirable[index] {
            (1.0, desirable_weight)
        } else {
            (-1.0, undesirable_weight)
        };
        let above = beta * side * (ratio - constants.kl);
        // A number that is none must not hide where the sigmoid saturates
        let above = if above.is_finite() { above } else { f64::NAN };
        let loss = weight * sigmoid(-above);
        let slope = -weight * side * beta * sigmoid(-above) * sigmoid(above);
        response.fill(slope / global, inputs.mask, &mut grad_logprobs);
        sum += loss;
        stats.loss.push(loss);
        let (rewards, logprobs) = if inputs.desirable[index] {
            (&mut stats.chosen_rewards, &mut stats.chosen_logprobs)
        } else {
            (&mut stats.rejected_rewards, &mut stats.rejected_logprobs)
        };
        rewards.push(beta * ratio);
        logprobs.push(response.logprob);
        stats.correct_sum += half_or_whole(above);
    }
    Ok(KtoLoss {
        loss: sum / global,
        grad_logprobs,
        stats,
    })
}
