//! Advantages of responses from the scores of their groups.

use super::checked_groups;
use crate::Error;
use crate::statistics::Moments;
use crate::whiten::Whitening;

/// Added to a group's standard deviation.
const STD_EPSILON: f64 = 1e-4;

/// How a response's advantage comes from its score. The table at the top of `group` says what else a method consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdvantageEstimator {
    /// `(r - mean)/(std + 1e-4)` of the group, the standard deviation with n - 1. DAPO's too.
    #[doc(alias = "Dapo")]
    Grpo,
    /// `r - mean` of the group.
    DrGrpo,
    /// `r` less the mean of the group's other responses.
    Rloo,
    /// `(r - mean)/std` of the batch.
    ReinforcePlusPlus,
    /// `r - mean` of the group, and then whitened over the batch.
    ReinforcePlusPlusBaseline,
}

impl AdvantageEstimator {
    /// How many responses a group needs.
    pub fn smallest_group(self) -> usize {
        match self {
            Self::ReinforcePlusPlus => 1,
            _ => 2,
        }
    }
}

/// What [`advantages`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Advantages {
    /// One a response, which each of its tokens gets, `[b]`.
    pub advantages: Vec<f32>,
    /// Statistics over responses and groups.
    pub stats: ScoreStats,
}

/// Statistics over the responses and groups of a rollout batch; parts add up with [`ScoreStats::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScoreStats {
    /// Score of a response (`reward`; `reward_std` is the root of its sample variance).
    pub score: Moments,
    /// Standard deviation of the scores of a group of two or more, with n - 1.
    pub group_std: Moments,
    /// Number of groups.
    pub groups: u64,
    /// Groups whose scores are all equal, whose advantages are therefore 0 wherever the baseline is the group's.
    pub equal_groups: u64,
}

impl ScoreStats {
    /// Adds another part's.
    pub fn merge(&mut self, other: &Self) {
        self.score.merge(&other.score);
        self.group_std.merge(&other.group_std);
        self.groups += other.groups;
        self.equal_groups += other.equal_groups;
    }

    /// Share of groups whose scores are all equal (`frac_reward_zero_std`); NaN without groups.
    pub fn equal_share(&self) -> f64 {
        self.equal_groups as f64 / self.groups as f64
    }
}

/// Step one: an advantage for each response of a whole rollout batch.
///
/// `scores` is `[b]`, the groups one after another; `groups` holds the number of responses of each, `[prompts]`.
///
/// # Errors
/// Groups that do not add up to the scores; a group smaller than the estimator needs; no response; a score that is not finite.
pub fn advantages(scores: &[f32], groups: &[usize], estimator: AdvantageEstimator) -> Result<Advantages, Error> {
    let op = "group::advantages";
    let ranges = checked_groups(op, scores, groups, estimator.smallest_group())?;
    if scores.is_empty() {
        return Err(Error::TooFew {
            op,
            what: "the set of responses",
            at_least: 1,
        });
    }

    let mut stats = ScoreStats::default();
    let mut wide: Vec<f64> = Vec::with_capacity(scores.len());
    for range in ranges {
        let group = &scores[range];
        let n = group.len() as f64;
        let moments: Moments = group.iter().map(|&score| f64::from(score)).collect();
        let std = moments.sample_variance().sqrt();
        wide.extend(group.iter().map(|&score| {
            let score = f64::from(score);
            let above = score - moments.mean();
            match estimator {
                AdvantageEstimator::Grpo => above / (std + STD_EPSILON),
                AdvantageEstimator::DrGrpo | AdvantageEstimator::ReinforcePlusPlusBaseline => above,
                // r - (sum - r)/(n - 1), written so that equal scores give exactly 0
                AdvantageEstimator::Rloo => above * n / (n - 1.0),
                AdvantageEstimator::ReinforcePlusPlus => score,
            }
        }));
        stats.score.merge(&moments);
        stats.groups += 1;
        stats.equal_groups += u64::from(group.iter().all(|score| score == &group[0]));
        if group.len() > 1 {
            stats.group_std.push(std);
        }
    }
    if matches!(
        estimator,
        AdvantageEstimator::ReinforcePlusPlus | AdvantageEstimator::ReinforcePlusPlusBaseline
    ) {
        let Whitening { mean, scale } = Whitening::from_moments(&wide.iter().copied().collect());
        wide.iter_mut().for_each(|x| *x = (*x - mean) * scale);
    }
    Ok(Advantages {
        advantages: wide.into_iter().map(|x| x as f32).collect(),
        stats,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use AdvantageEstimator::{DrGrpo, Grpo, ReinforcePlusPlus, ReinforcePlusPlusBaseline, Rloo};
    use hone_math::Key;

    const ALL: [AdvantageEstimator; 5] = [Grpo, DrGrpo, Rloo, ReinforcePlusPlus, ReinforcePlusPlusBaseline];

    fn of(scores: &[f32], groups: &[usize], estimator: AdvantageEstimator) -> Vec<f32> {
        advantages(scores, groups, estimator).unwrap().advantages
    }

    fn near(got: &[f32], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((f64::from(*got) - expected).abs() < 1e-6, "{got} {expected}");
        }
    }

    #[test]
    fn by_hand() {
        // Means 2 and 5, standard deviations 1 and sqrt 18
        let (scores, groups) = ([1.0, 2.0, 3.0, 8.0, 2.0], [3, 2]);
        let second = 3.0 / (18.0_f64.sqrt() + 1e-4);
        near(
            &of(&scores, &groups, Grpo),
            &[-1.0 / 1.0001, 0.0, 1.0 / 1.0001, second, -second],
        );
        near(&of(&scores, &groups, DrGrpo), &[-1.0, 0.0, 1.0, 3.0, -3.0]);
        // 1 - (2 + 3)/2, 2 - (1 + 3)/2, ..., 8 - 2, 2 - 8
        near(&of(&scores, &groups, Rloo), &[-1.5, 0.0, 1.5, 6.0, -6.0]);
        // Mean 3.2, variance (4.84 + 1.44 + 0.04 + 23.04 + 1.44)/5
        let scale = 1.0 / 6.16_f64.sqrt();
        near(
            &of(&scores, &groups, ReinforcePlusPlus),
            &[-2.2, -1.2, -0.2, 4.8, -1.2].map(|x| x * scale),
        );
        // Variance of what is left of the groups' means: (1 + 0 + 1 + 9 + 9)/5
        near(
            &of(&scores, &groups, ReinforcePlusPlusBaseline),
            &[-0.5, 0.0, 0.5, 1.5, -1.5],
        );
    }

    #[test]
    fn statistics_by_hand() {
        let stats = advantages(&[1.0, 2.0, 3.0, 0.1, 0.1, 0.1], &[3, 3], Grpo)
            .unwrap()
            .stats;
        assert_eq!((stats.groups, stats.equal_groups), (2, 1));
        assert_eq!(stats.equal_share(), 0.5);
        assert_eq!(stats.group_std.mean(), 0.5);
        assert!((stats.score.mean() - 1.05).abs() < 1e-8);
        let mut halves = advantages(&[1.0, 2.0, 3.0], &[3], Grpo).unwrap().stats;
        halves.merge(&advantages(&[0.1, 0.1, 0.1], &[3], Grpo).unwrap().stats);
        assert_eq!((halves.groups, halves.equal_groups), (2, 1));
        assert_eq!(halves.group_std, stats.group_std);
        assert_eq!(halves.score, stats.score);
    }

    #[test]
    fn equal_scores_have_no_advantage_and_a_constant_added_changes_none() {
        for estimator in ALL {
            assert_eq!(of(&[0.1; 7], &[4, 3], estimator), [0.0; 7], "{estimator:?}");
            let key = Key::new(4, "scores", 0);
            let scores: Vec<f32> = (0..12).map(|i| (key.normal(i) * 64.0).round() as f32 / 64.0).collect();
            let moved: Vec<f32> = scores.iter().map(|score| score + 8.0).collect();
            let expected: Vec<f64> = of(&scores, &[4, 5, 3], estimator).into_iter().map(f64::from).collect();
            near(&of(&moved, &[4, 5, 3], estimator), &expected);
        }
    }

    /// Each group's advantages sum to 0 and do not know the other groups.
    #[test]
    fn the_methods_with_a_group_baseline_treat_groups_apart() {
        let (first, second) = ([0.5, -1.0, 2.0], [3.0, 3.5]);
        for estimator in [Grpo, DrGrpo, Rloo] {
            let both = of(&[0.5, -1.0, 2.0, 3.0, 3.5], &[3, 2], estimator);
            assert_eq!(both[..3], of(&first, &[3], estimator));
            assert_eq!(both[3..], of(&second, &[2], estimator));
            assert!(both[..3].iter().sum::<f32>().abs() < 1e-6 && both[3..].iter().sum::<f32>().abs() < 1e-6);
        }
    }

    #[test]
    fn refusals() {
        for estimator in ALL {
            let refused = advantages(&[1.0, 2.0, 3.0], &[2, 1], estimator);
            if estimator == ReinforcePlusPlus {
                assert_eq!(refused.unwrap().stats.group_std.count(), 1);
            } else {
                let expected = Error::GroupSize {
                    op: "group::advantages",
                    index: 1,
                    got: 1,
                    at_least: 2,
                };
                assert_eq!(refused, Err(expected));
            }
            assert!(matches!(
                advantages(&[1.0, f32::NAN], &[2], estimator),
                Err(Error::NotFinite { .. })
            ));
            assert!(matches!(
                advantages(&[1.0; 3], &[2, 2], estimator),
                Err(Error::ShapeMismatch { .. })
            ));
            assert!(matches!(advantages(&[], &[], estimator), Err(Error::TooFew { .. })));
        }
    }
}
