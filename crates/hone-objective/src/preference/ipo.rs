//! Identity preference optimisation: the difference of log-ratios is drawn to a target instead of to infinity.
//!
//! loss of a pair = (h - 1/(2 beta))^2
//!
//! summed:    h = (l_c - ref_c) - (l_j - ref_j)
//! per token: h = (l_c - ref_c)/n_c - (l_j - ref_j)/n_j
//!
//! Source: Azar et al., "A general theoretical paradigm to understand learning from human preferences", 2024, equation 17, whose tau is
//! beta here.
//!
//! Where it differs from other implementations, beside what `preference` says:
//! 1. Both forms, by name. The paper's formula has log-probabilities of whole responses; TRL averages per token, which its comments
//!    say the authors confirmed for their experiments. The two need different beta: a difference of sums grows with the length.

use super::{Judged, PairCounts, PairInputs, PairLoss, over_pairs};
use crate::{Error, check_length, check_setting};

/// Which difference of log-ratios [`ipo`] takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpoForm {
    /// Of whole responses, as the paper's equation has it.
    #[default]
    Summed,
    /// Of means over the response's tokens, as TRL has it.
    PerToken,
}

/// Settings of [`ipo`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IpoConfig {
    /// Weight of the divergence from the reference; the target of the difference is `1/(2 beta)`. Default 0.1.
    #[doc(alias = "tau")]
    pub beta: f64,
    /// Sums or means. Default sums.
    pub form: IpoForm,
}

impl Default for IpoConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            form: IpoForm::Summed,
        }
    }
}

/// The IPO loss of some pairs of a batch.
///
/// `ref_logprobs` is the reference's log-probability of each response, `[2 * pairs]`, from [`super::response_logprobs`] (sums, in
/// either form); `counts` is [`super::prepare`] of the whole batch.
///
/// # Errors
/// Slices of unequal length; an odd number of responses; a response without a token; a beta that is not positive; a global count that
/// is 0 or below this part's own.
pub fn ipo(
    inputs: &PairInputs<'_>,
    ref_logprobs: &[f64],
    config: IpoConfig,
    counts: PairCounts,
) -> Result<PairLoss, Error> {
    let IpoConfig { beta, form } = config;
    check_length("ipo", "ref_logprobs", ref_logprobs.len(), inputs.lengths.len())?;
    check_setting("ipo", "beta", beta, beta > 0.0 && beta.is_finite(), "more than 0")?;
    over_pairs("ipo", inputs, counts, |index, chosen, rejected| {
        let divisors = match form {
            IpoForm::Summed => [1.0; 2],
            IpoForm::PerToken => [chosen.tokens, rejected.tokens],
        };
        let ratios = [
            (chosen.logprob - ref_logprobs[2 * index]) / divisors[0],
            (rejected.logprob - ref_logprobs[2 * index + 1]) / divisors[1],
        ];
        let error = ratios[0] - ratios[1] - 0.5 / beta;
        Judged {
            loss: error * error,
            slopes: [2.0 * error / divisors[0], -2.0 * error / divisors[1]],
            rewards: ratios.map(|ratio| beta * ratio),
        }
    })
}
