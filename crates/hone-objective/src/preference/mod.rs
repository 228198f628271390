//! Preference tuning without a reward model: losses on the log-probabilities that the policy gives to answers people judged.
//!
//! With l = the sum of ln p over a response's n tokens, r = l less the reference's sum, and c, j the chosen and the rejected response:
//!
//! | method | loss of a pair (of a response in KTO) | reference | file |
//! |---|---|---|---|
//! | DPO | -ln sigmoid(beta * (r_c - r_j)), with label smoothing | yes | `dpo` |
//! | IPO | (r_c - r_j - 1/(2 beta))^2, summed or averaged per token | yes | `ipo` |
//! | ORPO | -l_c/n_c - lambda * ln sigmoid(log odds ratio of l_c/n_c and l_j/n_j) | no | `orpo` |
//! | SimPO | -ln sigmoid(beta * (l_c/n_c - l_j/n_j) - gamma) | no | `simpo` |
//! | KTO | 1 - sigmoid(+-beta * (r - z)), z the batch's divergence | yes | `kto` |
//!
//! 1. [`prepare`], on the whole batch's masks: the counts by which the loss of every part is normalised. [`kto::prepare`] also
//!    estimates the divergence.
//! 2. [`dpo`], [`ipo`], [`orpo`], [`simpo`] or [`kto()`], for any part of the batch: from `logprobs` to `grad_logprobs` in one call.
//!
//! The reference enters as one number a response, [`response_logprobs`] of its log-probabilities, which can be computed once and kept.
//!
//! Where all of them differ from other implementations (each file names its own differences):
//! 1. Losses are normalised by the number of pairs of the *global* batch. TRL averages within each micro-batch, which is the same only
//!    where all micro-batches hold equally many pairs.
//! 2. A response's tokens are summed in double precision, the policy's and the reference's in the same order: a policy equal to its
//!    reference has implicit rewards of exactly 0.
//! 3. Implicit rewards are what the loss compares, times beta. TRL reports sums also where the loss has means (IPO).
//! 4. In the accuracy, equal implicit rewards count as half right, as in `bradley_terry`. TRL counts them as wrong.
//! 5. `logps/chosen` and `logps/rejected` are sums in every method. TRL's ORPO and SimPO report means per token under these names.
//! 6. A response whose log-probability is not finite makes loss and gradients of its pair NaN, also where the formula would saturate.

mod dpo;
mod ipo;
pub mod kto;
mod orpo;
mod simpo;

pub use dpo::{DpoConfig, dpo};
pub use ipo::{IpoConfig, IpoForm, ipo};
pub use kto::{KtoConfig, KtoConstants, KtoInputs, KtoLoss, KtoStats, kto};
pub use orpo::{OrpoConfig, OrpoLoss, OrpoStats, SftMean, orpo};
pub use simpo::{SimpoConfig, simpo};

use crate::bradley_terry::half_or_whole;
use crate::gae::ranges;
use crate::statistics::Moments;
use crate::{Error, check_count, check_length, count};
use std::ops::Range;

/// The responses of some pairs under the policy: of each pair the chosen one and then the rejected one.
#[derive(Clone, Copy, Debug)]
pub struct PairInputs<'a> {
    /// The policy's log-probabilities, `[sum of lengths]`.
    pub logprobs: &'a [f32],
    /// True at the responses' tokens, EOS included, `[sum of lengths]`.
    pub mask: &'a [bool],
    /// Length of each sequence, `[2 * pairs]`.
    pub lengths: &'a [usize],
}

/// Counts of the global batch, by which paired losses are normalised; parts add up with [`PairCounts::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairCounts {
    /// Number of pairs.
    pub pairs: u64,
    /// Tokens of the chosen responses.
    pub chosen_tokens: u64,
}

impl PairCounts {
    /// Adds another part's.
    pub fn merge(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.chosen_tokens += other.chosen_tokens;
    }
}

/// Step one of the paired methods: the counts of a whole batch, whose log-probabilities it does not need.
///
/// # Errors
/// Lengths that do not add up to the mask; an odd number of responses; a response without a token.
pub fn prepare(mask: &[bool], lengths: &[usize]) -> Result<PairCounts, Error> {
    let op = "preference::prepare";
    check_even(op, lengths)?;
    let mut counts = PairCounts::default();
    for (index, range) in ranges(op, lengths, mask.len())?.enumerate() {
        let tokens = count(&mask[range]);
        if tokens == 0 {
            return Err(Error::EmptyResponse { op, index });
        }
        if index % 2 == 0 {
            counts.pairs += 1;
            counts.chosen_tokens += tokens;
        }
    }
    Ok(counts)
}

/// Log-probability of each response: the sum over its tokens under the mask, `[b]`. What the reference's log-probabilities are
/// reduced to.
///
/// # Errors
/// Slices of unequal length; lengths that do not add up to the tokens; a response without a token.
pub fn response_logprobs(logprobs: &[f32], mask: &[bool], lengths: &[usize]) -> Result<Vec<f64>, Error> {
    let responses = responses("response_logprobs", logprobs, mask, lengths)?;
    Ok(responses.into_iter().map(|response| response.logprob).collect())
}

/// Loss, gradient and statistics of a paired method.
#[derive(Clone, Debug, PartialEq)]
pub struct PairLoss {
    /// This part's share of the batch's mean loss over pairs.
    pub loss: f64,
    /// Gradient of the loss with respect to `logprobs`, `[sum of lengths]`.
    pub grad_logprobs: Vec<f32>,
    /// Statistics over pairs.
    pub stats: PairStats,
}

/// Statistics over pairs; parts add up with [`PairStats::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PairStats {
    /// Loss of a pair.
    pub loss: Moments,
    /// Implicit reward of the chosen response (`rewards/chosen`).
    pub chosen_rewards: Moments,
    /// Implicit reward of the rejected response (`rewards/rejected`).
    pub rejected_rewards: Moments,
    /// The former less the latter (`rewards/margins`).
    pub margins: Moments,
    /// Log-probability of the chosen response (`logps/chosen`).
    pub chosen_logprobs: Moments,
    /// Log-probability of the rejected response (`logps/rejected`).
    pub rejected_logprobs: Moments,
    /// Pairs whose chosen response has the higher implicit reward, equal ones as a half.
    pub correct_sum: f64,
}

impl PairStats {
    /// Adds another part's.
    pub fn merge(&mut self, other: &Self) {
        self.loss.merge(&other.loss);
        self.chosen_rewards.merge(&other.chosen_rewards);
        self.rejected_rewards.merge(&other.rejected_rewards);
        self.margins.merge(&other.margins);
        self.chosen_logprobs.merge(&other.chosen_logprobs);
        self.rejected_logprobs.merge(&other.rejected_logprobs);
        self.correct_sum += other.correct_sum;
    }

    /// Number of pairs.
    pub fn pairs(&self) -> u64 {
        self.margins.count()
    }

    /// Share of pairs whose chosen response has the higher implicit reward (`rewards/accuracies`); NaN without pairs.
    pub fn accuracy(&self) -> f64 {
        self.correct_sum / self.pairs() as f64
    }
}

/// One response under the policy.
#[derive(Clone, Debug)]
struct Response {
    /// Where its sequence lies.
    range: Range<usize>,
    /// Sum of its tokens' log-probabilities.
    logprob: f64,
    /// Number of its tokens, as a divisor.
    tokens: f64,
}

impl Response {
    /// Mean log-probability of its tokens.
    fn mean(&self) -> f64 {
        self.logprob / self.tokens
    }

    /// The same gradient at each of its tokens.
    fn fill(&self, grad: f64, mask: &[bool], grad_logprobs: &mut [f32]) {
        for t in self.range.clone().filter(|&t| mask[t]) {
            grad_logprobs[t] = grad as f32;
        }
    }
}

fn responses(op: &'static str, logprobs: &[f32], mask: &[bool], lengths: &[usize]) -> Result<Vec<Response>, Error> {
    check_length(op, "mask", mask.len(), logprobs.len())?;
    ranges(op, lengths, logprobs.len())?
        .enumerate()
        .map(|(index, range)| {
            let tokens = count(&mask[range.clone()]);
            if tokens == 0 {
                return Err(Error::EmptyResponse { op, index });
            }
            let logprob = range
                .clone()
                .filter(|&t| mask[t])
                .fold(0.0, |sum, t| sum + f64::from(logprobs[t]));
            Ok(Response {
                range,
                logprob,
                tokens: tokens as f64,
            })
        })
        .collect()
}

fn check_even(op: &'static str, lengths: &[usize]) -> Result<(), Error> {
    if lengths.len().is_multiple_of(2) {
        Ok(())
    } else {
        Err(Error::OddResponses { op, got: lengths.len() })
    }
}

/// What a method makes of one pair, before it is divided by the number of pairs.
struct Judged {
    loss: f64,
    /// Derivatives of the loss with respect to the log-probability of any token of the chosen and of the rejected response.
    slopes: [f64; 2],
    /// Implicit rewards of the chosen and of the rejected response.
    rewards: [f64; 2],
}

/// Loss, gradient and statistics over pairs; `judge` gets a pair's index and its chosen and rejected response.
fn over_pairs(
    op: &'static str,
    inputs: &PairInputs<'_>,
    counts: PairCounts,
    mut judge: impl FnMut(usize, &Response, &Response) -> Judged,
) -> Result<PairLoss, Error> {
    check_even(op, inputs.lengths)?;
    let responses = responses(op, inputs.logprobs, inputs.mask, inputs.lengths)?;
    check_count(op, "pairs", counts.pairs, responses.len() as u64 / 2)?;
    let global = counts.pairs as f64;
    let mut grad_logprobs = vec![0.0; inputs.logprobs.len()];
    let mut stats = PairStats::default();
    let mut sum = 0.0;
    for (index, pair) in responses.chunks_exact(2).enumerate() {
        let (chosen, rejected) = (&pair[0], &pair[1]);
        let mut judged = judge(index, chosen, rejected);
        // A number that is none must not hide where the loss saturates
        if !judged.rewards.iter().all(|reward| reward.is_finite()) {
            judged.loss = f64::NAN;
            judged.slopes = [f64::NAN; 2];
        }
        let [chosen_reward, rejected_reward] = judged.rewards;
        let margin = chosen_reward - rejected_reward;
        chosen.fill(judged.slopes[0] / global, inputs.mask, &mut grad_logprobs);
        rejected.fill(judged.slopes[1] / global, inputs.mask, &mut grad_logprobs);
        sum += judged.loss;
        stats.loss.push(judged.loss);
        stats.chosen_rewards.push(chosen_reward);
        stats.rejected_rewards.push(rejected_reward);
        stats.margins.push(margin);
        stats.chosen_logprobs.push(chosen.logprob);
        stats.rejected_logprobs.push(rejected.logprob);
        stats.correct_sum += half_or_whole(margin);
    }
    Ok(PairLoss {
        loss: sum / global,
        grad_logprobs,
        stats,
    })
}
