//! Cross-entropy of the next token, from the log-probabilities of the tokens that came.
//!
//! loss = -(1/N) * sum over the mask of ln p(token)
//!
//! Sources: Shannon, "A mathematical theory of communication", 1948; the loss of pre-training and of supervised tuning in Radford et
//! al., "Improving language understanding by generative pre-training", 2018, equation 1, and Ouyang et al. (InstructGPT), 2022.
//!
//! Where it differs from other implementations:
//! 1. N is the number of tokens under the mask in the *global* batch. Trainers that average within each micro-batch and then over
//!    micro-batches weigh a token more where its micro-batch is short.
//! 2. It starts from log-probabilities, not from logits; the engine's log-probability operation owns the softmax and its gradient.
//! 3. Which tokens count comes from a mask of positions, never from a special label or token number.
//! 4. No label smoothing and no z-loss.

use crate::{Error, check_count, check_length, count};

/// Loss, gradient and statistics of [`cross_entropy`].
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropy {
    /// This part's share of the batch's mean negative log-probability, in nats a token.
    pub loss: f64,
    /// Gradient of the loss with respect to `logprobs`, `[tokens]`.
    pub grad_logprobs: Vec<f32>,
    /// Sums for perplexity and the like.
    pub stats: TokenStats,
}

/// Mean negative log-probability of the tokens under the mask.
///
/// `logprobs` and `mask` are `[tokens]`; `global_tokens` is the number of tokens under the mask in the whole batch.
///
/// # Errors
/// Slices of unequal length; a global count that is 0 or below this part's own.
#[doc(alias = "nll")]
pub fn cross_entropy(logprobs: &[f32], mask: &[bool], global_tokens: u64) -> Result<CrossEntropy, Error> {
    check_length("cross_entropy", "mask", mask.len(), logprobs.len())?;
    let grad_logprobs = cross_entropy_gradient(mask, global_tokens)?;
    let stats = TokenStats::of(logprobs, mask)?;
    Ok(CrossEntropy {
        loss: stats.nll_sum / global_tokens as f64,
        grad_logprobs,
        stats,
    })
}

/// The gradient of [`cross_entropy`], which needs no log-probability: an engine can use it in the forward pass already.
///
/// # Errors
/// A global count that is 0 or below this part's own.
pub fn cross_entropy_gradient(mask: &[bool], global_tokens: u64) -> Result<Vec<f32>, Error> {
    check_count("cross_entropy", "tokens", global_tokens, count(mask))?;
    let each = (-1.0 / global_tokens as f64) as f32;
    Ok(mask.iter().map(|&counts| if counts { each } else { 0.0 }).collect())
}

/// Sums over tokens that need no gradient; parts of a data set add up with [`TokenStats::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenStats {
    /// Sum of the negative log-probabilities, nats.
    pub nll_sum: f64,
    /// Number of tokens under the mask.
    pub tokens: u64,
}

impl TokenStats {
    /// The sums of one part.
    ///
    /// # Errors
    /// Slices of unequal length.
    pub fn of(logprobs: &[f32], mask: &[bool]) -> Result<Self, Error> {
        check_length("token statistics", "mask", mask.len(), logprobs.len())?;
        let mut stats = Self::default();
        for (&logprob, &counts) in logprobs.iter().zip(mask) {
            if counts {
                stats.nll_sum -= f64::from(logprob);
                stats.tokens += 1;
            }
        }
        Ok(stats)
    }

    /// Adds another part's sums.
    pub fn merge(&mut self, other: &Self) {
        self.nll_sum += other.nll_sum;
        self.tokens += other.tokens;
    }

    /// Mean negative log-probability in nats a token; NaN without tokens.
    pub fn mean_nll(&self) -> f64 {
        self.nll_sum / self.tokens as f64
    }

    /// `e` to the mean negative log-probability; NaN without tokens.
    pub fn perplexity(&self) -> f64 {
        hone_math::exp(self.mean_nll())
    }

    /// Bits a byte of text, of which the tokens stand for `bytes`; NaN without bytes.
    ///
    /// Unlike perplexity it can be compared between tokenizers. The bytes are those of the text that the tokens under the mask spell.
    pub fn bits_per_byte(&self, bytes: u64) -> f64 {
        if bytes == 0 {
            return f64::NAN;
        }
        self.nll_sum / std::f64::consts::LN_2 / bytes as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // A half and an eighth: nats ln 2 and 3 ln 2; the NaN is outside the mask
        let logprobs = [-std::f32::consts::LN_2, f32::NAN, -3.0 * std::f32::consts::LN_2];
        let mask = [true, false, true];
        let out = cross_entropy(&logprobs, &mask, 2).unwrap();
        assert!((out.loss - 2.0 * std::f64::consts::LN_2).abs() < 1e-7);
        assert_eq!(out.grad_logprobs, [-0.5, 0.0, -0.5]);
        assert!((out.stats.perplexity() - 4.0).abs() < 1e-6);
        // Four bits over two bytes
        assert!((out.stats.bits_per_byte(2) - 2.0).abs() < 1e-7);
        assert!(out.stats.bits_per_byte(0).is_nan());
        assert!(TokenStats::default().perplexity().is_nan());
    }

    #[test]
    fn counts_of_the_global_batch_normalise() {
        let out = cross_entropy(&[-1.0], &[true], 8).unwrap();
        assert_eq!(out.loss, 0.125);
        assert_eq!(out.grad_logprobs, [-0.125]);
    }

    #[test]
    fn refusals() {
        assert_eq!(
            cross_entropy(&[-1.0, -2.0], &[true], 1),
            Err(Error::ShapeMismatch {
                op: "cross_entropy",
                what: "mask",
                expected: 2,
                got: 1
            })
        );
        let refused = Err(Error::GlobalCount {
            op: "cross_entropy",
            what: "tokens",
            global: 1,
            local: 2,
        });
        assert_eq!(cross_entropy(&[-1.0, -2.0], &[true, true], 1), refused);
        assert!(cross_entropy(&[], &[], 0).is_err());
    }

    #[test]
    fn a_nan_under_the_mask_is_not_hidden() {
        assert!(
            cross_entropy(&[-1.0, f32::NAN], &[true, true], 2)
                .unwrap()
                .loss
                .is_nan()
        );
    }
}
