//! Which of a prompt's responses are kept.

use super::config::{ExpertIterationSection, KeepRule};
use crate::rollout::Episode;

/// A response as the rule sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    /// Its tokens.
    pub ids: &'a [u32],
    /// None if it could not be scored.
    pub score: Option<f32>,
}

impl<'a> From<&'a Episode> for Candidate<'a> {
    fn from(episode: &'a Episode) -> Self {
        Self {
            ids: episode.response(),
            score: (!episode.unscorable).then_some(episode.score),
        }
    }
}

/// The places of those that differ from all before them, in their order.
pub(super) fn distinct(group: &[Candidate<'_>]) -> Vec<usize> {
    let is_new = |&i: &usize| !group[..i].iter().any(|earlier| earlier.ids == group[i].ids);
    (0..group.len()).filter(is_new).collect()
}

/// The places of those that are kept, in their order. Of equal responses the first stands for all where they count once, and
/// of those with one score the first is the better one; what could not be scored is never kept.
pub(super) fn kept(group: &[Candidate<'_>], section: &ExpertIterationSection) -> Vec<usize> {
    let counted = match section.distinct {
        true => distinct(group),
        false => (0..group.len()).collect(),
    };
    let scored = counted.into_iter().filter_map(|i| Some((i, group[i].score?)));
    // Scores are single precision: 0.7 reaches 0.7 only if both are
    let reaches = |score: f32| section.threshold.is_none_or(|least| score >= least as f32);
    let mut kept: Vec<(usize, f32)> = scored.filter(|&(_, score)| reaches(score)).collect();
    if section.keep == KeepRule::Best {
        // Stable: equal scores stay in their order
        kept.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    }
    kept.truncate(section.most());
    let mut places: Vec<usize> = kept.into_iter().map(|(i, _)| i).collect();
    places.sort_unstable();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seven responses: the third is the first again, the fifth could not be scored.
    fn group() -> Vec<Candidate<'static>> {
        let of = |ids: &'static [u32], score: Option<f32>| Candidate { ids, score };
        vec![
            of(&[5, 2], Some(1.0)),
            of(&[6, 2], Some(3.0)),
            of(&[5, 2], Some(1.0)),
            of(&[7, 7], Some(3.0)),
            of(&[8, 2], None),
            of(&[5, 5, 2], Some(-2.0)),
            of(&[9, 2], Some(0.5)),
        ]
    }

    fn section(keep: KeepRule, keep_best: Option<usize>, threshold: Option<f64>) -> ExpertIterationSection {
        ExpertIterationSection {
            samples_per_prompt: 7,
            keep,
            keep_best,
            threshold,
            ..ExpertIterationSection::default()
        }
    }

    #[test]
    fn equal_responses_count_once() {
        assert_eq!(distinct(&group()), [0, 1, 3, 4, 5, 6]);
        assert!(distinct(&[]).is_empty());
    }

    #[test]
    fn the_best_are_kept() {
        let best = |most, threshold| kept(&group(), &section(KeepRule::Best, most, threshold));
        // Of two with one score the first
        assert_eq!(best(None, None), [1]);
        assert_eq!(best(Some(2), None), [1, 3]);
        // The first response is not kept twice
        assert_eq!(best(Some(4), None), [0, 1, 3, 6]);
        assert_eq!(best(Some(7), None), [0, 1, 3, 5, 6]);
        // With a minimum, those of the best that reach it
        assert_eq!(best(Some(4), Some(1.0)), [0, 1, 3]);
        assert_eq!(best(Some(1), Some(3.5)), [0; 0]);
    }

    #[test]
    fn the_first_are_kept_whatever_their_scores() {
        let first = |most| kept(&group(), &section(KeepRule::First, most, None));
        assert_eq!(first(None), [0]);
        assert_eq!(first(Some(4)), [0, 1, 3, 5]);
        // Turning the scores round changes nothing
        let mut turned = group();
        for candidate in &mut turned {
            candidate.score = candidate.score.map(|score| -score);
        }
        assert_eq!(kept(&turned, &section(KeepRule::First, Some(4), None)), [0, 1, 3, 5]);
    }

    #[test]
    fn copies_are_kept_where_they_count() {
        let with_copies = |keep, most, threshold| {
            let section = ExpertIterationSection {
                distinct: false,
                ..section(keep, most, threshold)
            };
            kept(&group(), &section)
        };
        assert_eq!(with_copies(KeepRule::Above, None, Some(-1e9)), [0, 1, 2, 3, 5, 6]);
        assert_eq!(with_copies(KeepRule::Above, None, Some(1.0)), [0, 1, 2, 3]);
        assert_eq!(with_copies(KeepRule::Best, Some(4), None), [0, 1, 2, 3]);
    }

    #[test]
    fn all_above_a_threshold_are_kept() {
        let above = |threshold| kept(&group(), &section(KeepRule::Above, None, Some(threshold)));
        assert_eq!(above(0.5), [0, 1, 3, 6]);
        assert_eq!(above(3.0), [1, 3]);
        assert_eq!(above(3.1), [0; 0]);
        assert_eq!(above(-1e9), [0, 1, 3, 5, 6]);
        // A score of 0.7 lies below the double of that name
        let exactly = [Candidate {
            ids: &[1],
            score: Some(0.7),
        }];
        let at = |least| kept(&exactly, &section(KeepRule::Above, None, Some(least)));
        assert_eq!((at(0.7), at(0.71)), (vec![0], vec![]));
    }
}
