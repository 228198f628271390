//! What labels cost.

use hone_data::annotations::{Record, TaskKind};
use serde::{Deserialize, Serialize};

/// What was labelled, and in what time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::recipe) struct Labels {
    /// What was asked.
    pub task: TaskKind,
    /// Judgements that count.
    pub judgements: u64,
    /// Pairs of answers that rankings tell apart.
    pub comparisons: u64,
    /// Answers that were written.
    pub demonstrations: u64,
    /// Time for all of it, in seconds. Where some judgements were not measured they count with the mean of the others; nothing where
    /// none was.
    pub seconds: Option<f64>,
    /// The mean of a judgement, in seconds.
    pub seconds_each: Option<f64>,
    /// Time for a pair that is told apart, in seconds.
    pub seconds_a_comparison: Option<f64>,
    /// Judgements whose time is known.
    pub measured: u64,
    /// The time is assumed: nobody spent it.
    pub assumed: bool,
}

impl Labels {
    /// Counts the records that training reads.
    pub fn of(task: TaskKind, records: &[Record], assumed: bool) -> Self {
        let counting: Vec<&Record> = records.iter().filter(|record| record.counts()).collect();
        let judgements = counting.len() as u64;
        let rankings = counting.iter().filter_map(|record| record.ranking());
        let comparisons: u64 = rankings.map(|ranking| pairs(&ranking.groups)).sum();
        let demonstrations = counting
            .iter()
            .filter(|record| record.demonstration().is_some())
            .count() as u64;
        let times: Vec<i64> = counting.iter().filter_map(|record| record.active_ms).collect();
        let milliseconds: i64 = times.iter().sum();
        let measured = times.len() as u64;
        let each = (measured > 0).then(|| milliseconds as f64 / 1000.0 / measured as f64);
        let seconds = each.map(|each| each * judgements as f64);
        Self {
            task,
            judgements,
            comparisons,
            demonstrations,
            seconds,
            seconds_each: each,
            seconds_a_comparison: seconds.filter(|_| comparisons > 0).map(|s| s / comparisons as f64),
            measured,
            assumed,
        }
    }

    /// In words.
    pub fn sentence(&self) -> String {
        let what = match self.task {
            TaskKind::Write => format!("{} demonstrations", self.demonstrations),
            _ => format!(
                "{} rankings, which tell {} pairs apart",
                self.judgements, self.comparisons
            ),
        };
        let how = if self.assumed { "assumed" } else { "measured" };
        match (self.seconds, self.seconds_each) {
            (Some(seconds), Some(each)) => {
                format!(
                    "{what}; {:.1} hours of labeling, {each:.1} s each ({how})",
                    seconds / 3600.0
                )
            }
            _ => format!("{what}; no time was measured"),
        }
    }
}

/// Pairs of answers of which one is better.
fn pairs(groups: &[Vec<usize>]) -> u64 {
    let (mut seen, mut pairs) = (0, 0);
    for group in groups {
        pairs += seen * group.len();
        seen += group.len();
    }
    pairs as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tied_answers_make_no_pair() {
        assert_eq!(pairs(&[vec![0, 2], vec![1], vec![3]]), 5);
        assert_eq!(pairs(&[vec![0], vec![1], vec![2], vec![3]]), 6);
        assert_eq!(pairs(&[vec![0, 1]]), 0);
    }

    #[test]
    fn what_is_assumed_is_called_so() {
        let labels = Labels {
            task: TaskKind::Rank,
            judgements: 60,
            comparisons: 300,
            demonstrations: 0,
            seconds: Some(3600.0),
            seconds_each: Some(60.0),
            seconds_a_comparison: Some(12.0),
            measured: 60,
            assumed: true,
        };
        assert_eq!(
            labels.sentence(),
            "60 rankings, which tell 300 pairs apart; 1.0 hours of labeling, 60.0 s each (assumed)"
        );
        let unmeasured = Labels {
            seconds: None,
            seconds_each: None,
            ..labels
        };
        assert!(unmeasured.sentence().ends_with("no time was measured"));
    }
}
