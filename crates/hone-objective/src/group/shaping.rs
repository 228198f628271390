//! What happens to scores and groups before advantages are taken.

use super::checked_groups;
use crate::gae::ranges;
use crate::kl::Estimator;
use crate::rewards::RewardInputs;
use crate::{Error, check_length, check_setting, clip};

/// Which groups teach something: those whose scores are not all equal, `[prompts]`. DAPO's dynamic sampling draws prompts until a batch
/// holds enough of them.
///
/// `scores` is `[b]`, the groups one after another; `groups` holds the number of responses of each, `[prompts]`.
///
/// # Errors
/// Groups that do not add up to the scores; an empty group; a score that is not finite.
#[doc(alias = "dynamic sampling")]
pub fn informative(scores: &[f32], groups: &[usize]) -> Result<Vec<bool>, Error> {
    let ranges = checked_groups("group::informative", scores, groups, 1)?;
    let differs = |group: &[f32]| group.iter().any(|score| score != &group[0]);
    Ok(ranges.into_iter().map(|range| differs(&scores[range])).collect())
}

/// DAPO's soft punishment of responses that come near the length limit, equation 13 of its paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "soft_overlong_punishment")]
pub struct OverlongShaping {
    max_length: usize,
    cache: usize,
}

impl OverlongShaping {
    /// The punishment begins at `max_length - cache` tokens and is whole at `max_length`.
    ///
    /// # Errors
    /// A cache longer than `max_length`.
    pub fn new(max_length: usize, cache: usize) -> Result<Self, Error> {
        check_setting(
            "group::OverlongShaping",
            "cache",
            cache as f64,
            cache <= max_length,
            "at most max_length",
        )?;
        Ok(Self { max_length, cache })
    }

    /// What is added to the score of a response of `length` tokens: 0 down to -1.
    pub fn penalty(self, length: usize) -> f64 {
        let free = self.max_length - self.cache;
        if length <= free {
            0.0
        } else if self.cache == 0 {
            -1.0
        } else {
            clip(-((length - free) as f64) / self.cache as f64, -1.0, 0.0)
        }
    }
}

/// Scores with the divergence from the reference taken off, `[b]`: `score - kl_coef * sum of (logp - ref_logp)` over the response. It is
/// how RLOO and REINFORCE++ stay near the reference, in place of a term in the loss.
///
/// # Errors
/// Slices of unequal length; lengths that do not add up to the tokens; a coefficient that is negative or not finite.
pub fn scores_less_kl(inputs: &RewardInputs<'_>, kl_coef: f64) -> Result<Vec<f32>, Error> {
    let op = "group::scores_less_kl";
    let n = inputs.logprobs.len();
    check_length(op, "ref_logprobs", inputs.ref_logprobs.len(), n)?;
    check_length(op, "mask", inputs.mask.len(), n)?;
    check_length(op, "scores", inputs.scores.len(), inputs.lengths.len())?;
    let sound = kl_coef >= 0.0 && kl_coef.is_finite();
    check_setting(op, "kl_coef", kl_coef, sound, "0 or more")?;
    let scored = ranges(op, inputs.lengths, n)?.zip(inputs.scores);
    Ok(scored
        .map(|(range, &score)| {
            let kl = range.filter(|&t| inputs.mask[t]).fold(0.0, |sum, t| {
                sum + Estimator::K1.value(inputs.logprobs[t], inputs.ref_logprobs[t])
            });
            (f64::from(score) - kl_coef * kl) as f32
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rewards::rewards;

    #[test]
    fn groups_of_equal_scores_teach_nothing() {
        let scores = [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.25];
        assert_eq!(
            informative(&scores, &[2, 2, 2, 1]).unwrap(),
            [false, true, false, false]
        );
        assert!(matches!(
            informative(&[1.0, f32::INFINITY], &[2]),
            Err(Error::NotFinite { .. })
        ));
        assert!(matches!(
            informative(&[1.0], &[1, 0]),
            Err(Error::GroupSize { index: 1, got: 0, .. })
        ));
        assert!(informative(&[1.0], &[2]).is_err());
    }

    #[test]
    fn the_punishment_by_hand() {
        let shaping = OverlongShaping::new(100, 20).unwrap();
        for (length, expected) in [
            (0, 0.0),
            (80, 0.0),
            (81, -0.05),
            (90, -0.5),
            (100, -1.0),
            (101, -1.0),
            (999, -1.0),
        ] {
            assert_eq!(shaping.penalty(length), expected, "{length}");
        }
        let hard = OverlongShaping::new(10, 0).unwrap();
        assert_eq!((hard.penalty(10), hard.penalty(11)), (0.0, -1.0));
        let whole = OverlongShaping::new(4, 4).unwrap();
        assert_eq!((whole.penalty(0), whole.penalty(1)), (0.0, -0.25));
        assert!(OverlongShaping::new(10, 11).is_err());
    }

    #[test]
    fn scores_less_the_divergence_are_the_sums_of_ppos_rewards() {
        let inputs = RewardInputs {
            logprobs: &[-1.0, -2.0, f32::NAN, -4.0],
            ref_logprobs: &[-2.0, -1.5, 0.0, -4.0],
            mask: &[true, true, false, true],
            lengths: &[3, 1],
            scores: &[2.0, -1.0],
        };
        assert_eq!(scores_less_kl(&inputs, 0.5).unwrap(), [1.75, -1.0]);
        let tokens = rewards(&inputs, 0.5).unwrap().rewards;
        assert_eq!([tokens[..3].iter().sum::<f32>(), tokens[3]], [1.75, -1.0]);
        assert_eq!(scores_less_kl(&inputs, 0.0).unwrap(), inputs.scores);
        assert!(scores_less_kl(&inputs, -0.5).is_err());
        assert!(scores_less_kl(&RewardInputs { scores: &[], ..inputs }, 0.5).is_err());
    }
}
