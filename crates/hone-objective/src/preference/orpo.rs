//! Odds ratio preference optimisation: supervised tuning on the chosen response, with a term that pushes the odds apart.
//!
//! With P = e^(l/n), a response's geometric mean probability of a token, and odds = P/(1 - P):
//!
//! loss of a pair = -l_c/n_c - lambda * ln sigmoid(ln(odds_c / odds_j))
//!
//! Source: Hong, Lee and Thorne, "ORPO: monolithic preference optimization without reference model", 2024, equations 3 to 7.
//!
//! Where it differs from other implementations, beside what `preference` says:
//! 1. The supervised term is a mean over responses of their means over tokens, as the paper's expectation has it, or, by name, a mean
//!    over all chosen tokens, as in supervised tuning and in TRL. It has the response's tokens alone; TRL also trains on the prompt's.
//! 2. 1 - P is computed without cancellation, and the gradient in a form that stays finite where the chosen response is certain (P is
//!    exactly 1), where TRL's is NaN. A *rejected* response that is certain has an infinite loss, which is not hidden.

use super::{Judged, PairCounts, PairInputs, PairLoss, PairStats, over_pairs};
use crate::statistics::Moments;
use crate::{Error, check_count, check_setting, count};
use hone_math::{exp, ln, log_sigmoid, sigmoid};

/// What the supervised term of [`orpo`] is a mean over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SftMean {
    /// Over responses, of the mean over each one's tokens: each response weighs the same.
    #[default]
    Responses,
    /// Over all tokens of chosen responses: each token weighs the same.
    Tokens,
}

/// Settings of [`orpo`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OrpoConfig {
    /// Weight of the odds ratio's term beside the supervised one. Default 0.1.
    #[doc(alias = "lambda")]
    #[doc(alias = "beta")]
    pub odds_ratio_coef: f64,
    /// What the supervised term is a mean over. Default responses.
    pub sft_mean: SftMean,
}

impl Default for OrpoConfig {
    fn default() -> Self {
        Self {
            odds_ratio_coef: 0.1,
            sft_mean: SftMean::Responses,
        }
    }
}

/// Loss, gradient and statistics of [`orpo`].
#[derive(Clone, Debug, PartialEq)]
pub struct OrpoLoss {
    /// This part's share of the batch's loss.
    pub loss: f64,
    /// Gradient of the loss with respect to `logprobs`, `[sum of lengths]`.
    pub grad_logprobs: Vec<f32>,
    /// Statistics over pairs.
    pub stats: OrpoStats,
}

/// Statistics over pairs; parts add up with [`OrpoStats::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OrpoStats {
    /// What all paired methods report. An implicit reward is `odds_ratio_coef * l/n`.
    pub pairs: PairStats,
    /// The supervised term (`nll_loss`), each pair with the weight it has in the loss.
    pub nll: Moments,
    /// `ln(odds_c / odds_j)` (`log_odds_chosen`).
    pub log_odds: Moments,
    /// `ln sigmoid` of the former (`log_odds_ratio`).
    pub log_odds_ratio: Moments,
}

impl OrpoStats {
    /// Adds another part's.
    pub fn merge(&mut self, other: &Self) {
        self.pairs.merge(&other.pairs);
        self.nll.merge(&other.nll);
        self.log_odds.merge(&other.log_odds);
        self.log_odds_ratio.merge(&other.log_odds_ratio);
    }
}

/// The ORPO loss of some pairs of a batch. `counts` is [`super::prepare`] of the whole batch.
///
/// # Errors
/// Slices of unequal length; an odd number of responses; a response without a token; a coefficient that is negative; global counts
/// that are 0 or below this part's own.
pub fn orpo(inputs: &PairInputs<'_>, config: OrpoConfig, counts: PairCounts) -> Result<OrpoLoss, Error> {
    let coef = config.odds_ratio_coef;
    check_setting(
        "orpo",
        "odds_ratio_coef",
        coef,
        coef >= 0.0 && coef.is_finite(),
        "0 or more",
    )?;
    let mut stats = OrpoStats::default();
    let mut chosen_tokens = 0;
    let PairLoss {
        loss,
        grad_logprobs,
        stats: pairs,
    } = over_pairs("orpo", inputs, counts, |_, chosen, rejected| {
        chosen_tokens += count(&inputs.mask[chosen.range.clone()]);
        // The pair's supervised term and its derivative at each token, so that their mean over pairs is the mean that is asked for
        let weight = match config.sft_mean {
            SftMean::Responses => 1.0 / chosen.tokens,
            SftMean::Tokens => counts.pairs as f64 / counts.chosen_tokens as f64,
        };
        let nll = -weight * chosen.logprob;
        let odds = odds_ratio(chosen.mean(), rejected.mean());
        stats.nll.push(nll);
        stats.log_odds.push(odds.log_odds);
        stats.log_odds_ratio.push(odds.log_sigmoid);
        Judged {
            loss: nll - coef * odds.log_sigmoid,
            slopes: [
                -weight - coef * odds.slopes[0] / chosen.tokens,
                -coef * odds.slopes[1] / rejected.tokens,
            ],
            rewards: [coef * chosen.mean(), coef * rejected.mean()],
        }
    })?;
    check_count(
        "orpo",
        "tokens of chosen responses",
        counts.chosen_tokens,
        chosen_tokens,
    )?;
    stats.pairs = pairs;
    Ok(OrpoLoss {
        loss,
        grad_logprobs,
        stats,
    })
}

struct OddsRatio {
    /// `ln(odds_c / odds_j)`.
    log_odds: f64,
    /// `ln sigmoid` of it.
    log_sigmoid: f64,
    /// Derivatives of the latter with respect to the mean log-probabilities of the chosen and of the rejected response.
    slopes: [f64; 2],
}

/// From the mean log-probabilities of a chosen and a rejected response.
fn odds_ratio(chosen: f64, rejected: f64) -> OddsRatio {
    let (rest_chosen, rest_rejected) = (one_minus_exp(chosen), one_minus_exp(rejected));
    let log_odds = chosen - rejected - (ln(rest_chosen) - ln(rest_rejected));
    let falling = sigmoid(-log_odds);
    // d ln odds / d mean = 1/(1 - P). The limit at a certain chosen response is the rejected one's odds
    let slope_chosen = if rest_chosen == 0.0 {
        exp(rejected) / rest_rejected
    } else {
        falling / rest_chosen
    };
    OddsRatio {
        log_odds,
        log_sigmoid: log_sigmoid(log_odds),
        slopes: [slope_chosen, -falling / rest_rejected],
    }
}

/// `1 - e^x` for `x <= 0` without cancellation near 0, after Kahan: the rounding of `e^x` cancels between the two factors.
fn one_minus_exp(x: f64) -> f64 {
    let e = exp(x);
    if e == 1.0 {
        -x
    } else if x < -1.0 {
        1.0 - e
    } else {
        (1.0 - e) * (x / ln(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_minus_exp_keeps_its_digits() {
        for x in [
            -1e-300, -1e-17, -3e-9, -1e-4, -0.3, -0.999, -1.0, -1.001, -5.0, -50.0, -800.0,
        ] {
            let expected = -f64::exp_m1(x);
            assert!((one_minus_exp(x) / expected - 1.0).abs() < 1e-14, "{x}");
        }
        assert_eq!(one_minus_exp(0.0), 0.0);
        assert_eq!(one_minus_exp(f64::NEG_INFINITY), 1.0);
        assert!(one_minus_exp(f64::NAN).is_nan());
    }

    #[test]
    fn odds_by_hand() {
        // P of a half and a fifth: odds 1 and 1/4, ratio 4
        let odds = odds_ratio(0.5_f64.ln(), 0.2_f64.ln());
        assert!((odds.log_odds - 4.0_f64.ln()).abs() < 1e-14);
        assert!((odds.log_sigmoid - 0.8_f64.ln()).abs() < 1e-14);
        assert!((odds.slopes[0] - 0.2 / 0.5).abs() < 1e-14 && (odds.slopes[1] + 0.2 / 0.8).abs() < 1e-14);
    }

    #[test]
    fn a_certain_chosen_response_has_the_limit_of_the_gradient() {
        let near = odds_ratio(-1e-12, -1.0);
        let certain = odds_ratio(0.0, -1.0);
        assert_eq!(certain.log_sigmoid, 0.0);
        assert!((certain.slopes[0] / near.slopes[0] - 1.0).abs() < 1e-11);
        assert_eq!(certain.slopes[1], 0.0);
    }
}
