//! Pairs of a prompt's responses, from their scores.

use hone_objective::preference::response_logprobs;

use super::config::PairRule;
use crate::error::Result;
use crate::preferred::{Compared, Judgement};
use crate::rollout::Episode;

/// The responses to a prompt that are in a pair.
pub(super) struct Paired<'a> {
    /// In the order of the rollout.
    pub members: Vec<&'a Episode>,
    /// Pairs of them, by their place among the members.
    pub judgement: Judgement,
    /// Log-probability of each under the reference; empty without one.
    reference: Vec<f64>,
}

impl<'a> Paired<'a> {
    /// The pairs of a prompt's responses; none if no two of them differ in score.
    ///
    /// # Errors
    /// None but those of the reference's sums.
    pub fn of(group: &'a [Episode], rule: PairRule) -> Result<Option<Self>> {
        let scores: Vec<Option<f32>> = group.iter().map(|e| (!e.unscorable).then_some(e.score)).collect();
        let pairs = pairs(&scores, rule);
        if pairs.is_empty() {
            return Ok(None);
        }
        let mut places: Vec<usize> = pairs.iter().flat_map(|&(better, worse)| [better, worse]).collect();
        places.sort_unstable();
        places.dedup();
        let place = |response: usize| places.partition_point(|&earlier| earlier < response);
        let judged = pairs.iter().map(|&(better, worse)| (place(better), place(worse)));
        let judgement = Judgement::Pairs(judged.collect());
        let members: Vec<&Episode> = places.iter().map(|&i| &group[i]).collect();
        Ok(Some(Self {
            reference: summed(&members)?,
            members,
            judgement,
        }))
    }

    /// As a loss compares them.
    pub fn compared(&self) -> Compared<'_> {
        Compared {
            lengths: self.members.iter().map(|episode| episode.length()).collect(),
            judgement: &self.judgement,
            reference: &self.reference,
        }
    }

    /// Scores of the better and of the worse response of each pair.
    pub fn scores(&self) -> impl Iterator<Item = (f64, f64)> {
        let pairs: &[(usize, usize)] = match &self.judgement {
            Judgement::Pairs(pairs) => pairs,
            Judgement::Labels(_) => &[],
        };
        let score = |i: usize| f64::from(self.members[i].score);
        pairs.iter().map(move |&(better, worse)| (score(better), score(worse)))
    }
}

/// What the reference gives to each response, summed as the policy's log-probabilities are.
fn summed(members: &[&Episode]) -> Result<Vec<f64>> {
    let logprobs: Vec<f32> = members.iter().flat_map(|e| &e.ref_logprobs).copied().collect();
    if logprobs.is_empty() {
        return Ok(Vec::new());
    }
    let lengths: Vec<usize> = members.iter().map(|e| e.length()).collect();
    Ok(response_logprobs(&logprobs, &vec![true; logprobs.len()], &lengths)?)
}

/// (better, worse) pairs of responses with these scores; one without a score is in none. Of several best or worst the
/// first is taken.
pub(super) fn pairs(scores: &[Option<f32>], rule: PairRule) -> Vec<(usize, usize)> {
    let scored: Vec<(usize, f32)> = scores
        .iter()
        .enumerate()
        .filter_map(|(i, &score)| Some((i, score?)))
        .collect();
    match rule {
        PairRule::All => {
            let better = |&(i, a): &(usize, f32)| {
                let worse = scored.iter().filter(move |&&(_, b)| a > b);
                worse.map(move |&(j, _)| (i, j)).collect::<Vec<_>>()
            };
            scored.iter().flat_map(better).collect()
        }
        PairRule::Extremes => {
            let first = |best: (usize, f32), other: (usize, f32)| if other.1 > best.1 { other } else { best };
            let last = |worst: (usize, f32), other: (usize, f32)| if other.1 < worst.1 { other } else { worst };
            let best = scored.iter().copied().reduce(first);
            let worst = scored.iter().copied().reduce(last);
            let pair = best.zip(worst).filter(|(best, worst)| best.1 > worst.1);
            pair.map(|(best, worst)| (best.0, worst.0)).into_iter().collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::made;

    fn scores() -> [Option<f32>; 6] {
        [Some(1.0), Some(3.0), None, Some(3.0), Some(-2.0), Some(-2.0)]
    }

    #[test]
    fn the_extremes_are_a_pair() {
        assert_eq!(pairs(&scores(), PairRule::Extremes), [(1, 4)]);
        assert_eq!(pairs(&[Some(0.5), Some(1.0)], PairRule::Extremes), [(1, 0)]);
        for alike in [&[Some(1.0), Some(1.0)][..], &[None, Some(1.0)], &[None, None], &[]] {
            assert!(pairs(alike, PairRule::Extremes).is_empty(), "{alike:?}");
            assert!(pairs(alike, PairRule::All).is_empty(), "{alike:?}");
        }
    }

    #[test]
    fn every_two_that_differ_are_pairs() {
        let expected = [(0, 4), (0, 5), (1, 0), (1, 4), (1, 5), (3, 0), (3, 4), (3, 5)];
        assert_eq!(pairs(&scores(), PairRule::All), expected);
    }

    /// A response of these tokens after a prompt of one, each with log-probability -1 and under the reference -2.
    fn episode(index: usize, response: &[u32], score: f32) -> Episode {
        made(index, (&[9], response), (-1.0, -2.0), score)
    }

    #[test]
    fn only_responses_of_a_pair_are_members() {
        let group = [
            episode(0, &[5], 0.0),
            episode(1, &[5, 6], -1.0),
            episode(2, &[7], 0.5),
            episode(3, &[5, 6, 7], 2.0),
        ];
        let paired = Paired::of(&group, PairRule::Extremes).unwrap().unwrap();
        let members: Vec<usize> = paired.members.iter().map(|e| e.index).collect();
        assert_eq!(members, [1, 3]);
        assert_eq!(paired.judgement, Judgement::Pairs(vec![(1, 0)]));
        let compared = paired.compared();
        assert_eq!(compared.lengths, [2, 3]);
        assert_eq!(compared.reference, [-4.0, -6.0]);
        assert_eq!(paired.scores().collect::<Vec<_>>(), [(2.0, -1.0)]);
        let all = Paired::of(&group, PairRule::All).unwrap().unwrap();
        assert_eq!((all.members.len(), all.judgement.count()), (4, 6));
        assert!(Paired::of(&group[..1], PairRule::All).unwrap().is_none());
    }
}
