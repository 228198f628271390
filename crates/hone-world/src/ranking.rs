//! Rankings of several answers to one prompt.

use hone_math::Key;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Answers by their index, in groups of equals, the best group first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ranking {
    groups: Vec<Vec<usize>>,
}

impl Ranking {
    /// A ranking of `count` answers.
    ///
    /// # Errors
    /// [`Error::Ranking`] unless each of `0..count` stands in exactly one group and no group is empty.
    pub fn new(groups: Vec<Vec<usize>>, count: usize) -> Result<Self, Error> {
        let ranking = Self { groups };
        ranking.check(count)?;
        Ok(ranking)
    }

    /// The order of falling scores, equal scores tied. Scores must not be NaN.
    pub(crate) fn by_score(scores: &[f64]) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for index in order {
            match groups.last_mut() {
                Some(group) if scores[group[0]] == scores[index] => group.push(index),
                _ => groups.push(vec![index]),
            }
        }
        Self { groups }
    }

    /// Whether it is a ranking of `count` answers.
    ///
    /// # Errors
    /// [`Error::Ranking`] unless each of `0..count` stands in exactly one group and no group is empty.
    pub fn check(&self, count: usize) -> Result<(), Error> {
        let refuse = |problem: String| {
            Err(Error::Ranking {
                expected: count,
                problem,
            })
        };
        let mut seen = vec![false; count];
        for group in &self.groups {
            if group.is_empty() {
                return refuse("a group is empty".to_owned());
            }
            for &index in group {
                match seen.get_mut(index) {
                    None => return refuse(format!("index {index} is too large")),
                    Some(true) => return refuse(format!("index {index} stands twice")),
                    Some(place) => *place = true,
                }
            }
        }
        match seen.iter().position(|&place| !place) {
            Some(index) => refuse(format!("index {index} is missing")),
            None => Ok(()),
        }
    }

    /// The groups, the best first.
    pub fn groups(&self) -> &[Vec<usize>] {
        &self.groups
    }

    /// All pairs (better, worse); tied answers make none.
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        let mut pairs = Vec::new();
        for (g, better) in self.groups.iter().enumerate() {
            for worse in &self.groups[g + 1..] {
                for &chosen in better {
                    pairs.extend(worse.iter().map(|&rejected| (chosen, rejected)));
                }
            }
        }
        pairs
    }

    /// The same groups with the answers dealt out at random: a ranking that knows nothing, for the control.
    #[must_use]
    pub fn shuffled(&self, key: Key) -> Self {
        let count = self.groups.iter().map(Vec::len).sum();
        let mut dealt = key.permutation(count).into_iter();
        let groups = self
            .groups
            .iter()
            .map(|group| dealt.by_ref().take(group.len()).collect());
        Self {
            groups: groups.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_to_groups_to_pairs() {
        let ranking = Ranking::by_score(&[0.5, 2.0, 0.5, -1.0]);
        assert_eq!(ranking.groups(), [vec![1], vec![0, 2], vec![3]]);
        assert_eq!(ranking.pairs(), [(1, 0), (1, 2), (1, 3), (0, 3), (2, 3)]);
        assert!(ranking.check(4).is_ok());
    }

    #[test]
    fn what_is_no_partition_is_refused() {
        for (groups, count) in [
            (vec![vec![0], vec![]], 1),
            (vec![vec![0, 0]], 1),
            (vec![vec![0, 2]], 2),
            (vec![vec![1]], 2),
            (vec![], 1),
        ] {
            assert!(matches!(Ranking::new(groups, count), Err(Error::Ranking { .. })));
        }
        assert!(Ranking::new(vec![vec![1, 0]], 2).is_ok());
    }

    #[test]
    fn shuffling_keeps_the_shape_and_loses_the_order() {
        let ranking = Ranking::by_score(&[3.0, 2.0, 1.0, 1.0]);
        let mut agreeing = 0;
        for i in 0..1000 {
            let shuffled = ranking.shuffled(Key::new(1, "test", 0).child(i));
            assert!(shuffled.check(4).is_ok());
            assert_eq!(shuffled.groups().iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 2]);
            agreeing += usize::from(shuffled.pairs().contains(&(0, 1)));
        }
        // of two answers each comes first alike: (1 - 1/6 tied) / 2
        assert!((agreeing as f64 / 1000.0 - 5.0 / 12.0).abs() < 0.05, "{agreeing}");
    }
}
