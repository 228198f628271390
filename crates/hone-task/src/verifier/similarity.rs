use std::collections::HashMap;
use std::hash::Hash;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Verdict, Verifier};
use crate::{Problem, Sample};

/// Characters or words among which a common subsequence is looked for; what is behind them counts as different.
const LONGEST: usize = 4096;

/// How alike two texts are, from 0 to 1.
///
/// The rouge metrics (Lin, *ROUGE: a package for automatic evaluation of summaries*, 2004) and gleu (Wu et al., *Google's neural
/// machine translation system*, 2016, section 5.2) compare words: runs of letters and digits, in lower case, without stemming.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SimilarityMetric {
    /// 2 L / (m + n), where L is the length of the longest common subsequence of the texts' m and n characters.
    #[default]
    Fuzzy,
    /// The lesser of precision and recall of all runs of one to four words.
    Gleu,
    /// The harmonic mean of precision and recall of words.
    #[serde(rename = "rouge-1")]
    Rouge1,
    /// Of pairs of words.
    #[serde(rename = "rouge-2")]
    Rouge2,
    /// Of runs of three words.
    #[serde(rename = "rouge-3")]
    Rouge3,
    /// Of runs of four words.
    #[serde(rename = "rouge-4")]
    Rouge4,
    /// Of runs of five words.
    #[serde(rename = "rouge-5")]
    Rouge5,
    /// Of the longest common subsequence of words.
    RougeL,
}

/// The response is like the reference, or like the nearest of several.
#[derive(Clone, Debug)]
pub struct Similarity {
    /// The column that holds the reference or an array of them.
    pub column: String,
    /// How likeness is measured.
    pub metric: SimilarityMetric,
}

impl Verifier for Similarity {
    fn verify(&self, sample: &Sample<'_>) -> Result<Verdict, Problem> {
        let references = sample.row.references(&self.column)?;
        let scores = references
            .iter()
            .map(|reference| self.metric.score(sample.response, reference));
        let score = scores.fold(0.0, f64::max);
        Ok(Verdict {
            score,
            detail: format!("{score:.3} alike, at best of {} references", references.len()),
        })
    }
}

impl SimilarityMetric {
    /// How alike two texts are. Equal ones are 1, and so are two without anything that is compared.
    fn score(self, response: &str, reference: &str) -> f64 {
        let (left, right) = (words(response), words(reference));
        match self {
            Self::Fuzzy => {
                let (left, right): (Vec<char>, Vec<char>) = (response.chars().collect(), reference.chars().collect());
                f_measure(common_subsequence(&left, &right), left.len(), right.len())
            }
            Self::Gleu => {
                let sizes = 1..=4;
                let count = |words: &[String]| {
                    sizes
                        .clone()
                        .map(|n| (words.len() + 1).saturating_sub(n))
                        .sum::<usize>()
                };
                let common: usize = sizes.clone().map(|n| common_runs(&left, &right, n)).sum();
                match count(&left).max(count(&right)) {
                    0 => 1.0,
                    most => common as f64 / most as f64,
                }
            }
            Self::Rouge1 => rouge(&left, &right, 1),
            Self::Rouge2 => rouge(&left, &right, 2),
            Self::Rouge3 => rouge(&left, &right, 3),
            Self::Rouge4 => rouge(&left, &right, 4),
            Self::Rouge5 => rouge(&left, &right, 5),
            Self::RougeL => f_measure(common_subsequence(&left, &right), left.len(), right.len()),
        }
    }
}

fn words(text: &str) -> Vec<String> {
    let words = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

fn rouge(left: &[String], right: &[String], n: usize) -> f64 {
    let runs = |words: &[String]| (words.len() + 1).saturating_sub(n);
    f_measure(common_runs(left, right, n), runs(left), runs(right))
}

/// The harmonic mean of `common / left` and `common / right`.
fn f_measure(common: usize, left: usize, right: usize) -> f64 {
    match left + right {
        0 => 1.0,
        both => 2.0 * common as f64 / both as f64,
    }
}

/// Runs of `n` words that both have, each as often as the one that has it less often.
fn common_runs(left: &[String], right: &[String], n: usize) -> usize {
    let mut counts: HashMap<&[String], usize> = HashMap::new();
    for run in left.windows(n) {
        *counts.entry(run).or_default() += 1;
    }
    let mut common = 0;
    for run in right.windows(n) {
        if let Some(count) = counts.get_mut(run).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    common
}

/// The length of the longest common subsequence.
fn common_subsequence<T: Eq + Hash>(left: &[T], right: &[T]) -> usize {
    let (left, right) = (&left[..left.len().min(LONGEST)], &right[..right.len().min(LONGEST)]);
    // `row[j]` is the length for what was gone through of `left` and the first j of `right`
    let mut row = vec![0; right.len() + 1];
    for a in left {
        let mut diagonal = 0;
        for (j, b) in right.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if a == b { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PromptRow;
    use serde_json::json;

    const METRICS: [SimilarityMetric; 8] = [
        SimilarityMetric::Fuzzy,
        SimilarityMetric::Gleu,
        SimilarityMetric::Rouge1,
        SimilarityMetric::Rouge2,
        SimilarityMetric::Rouge3,
        SimilarityMetric::Rouge4,
        SimilarityMetric::Rouge5,
        SimilarityMetric::RougeL,
    ];

    #[test]
    fn known_values() {
        // Counted by hand: 5 of 6 and 6 words are common, of their pairs 3 of 5 and 5, in order 5
        let (a, b) = ("The cat sat on the mat.", "the cat lay on THE mat");
        let near = |metric: SimilarityMetric, expected: f64| {
            let got = metric.score(a, b);
            assert!((got - expected).abs() < 1e-12, "{metric:?}: {got}");
            assert_eq!(got, metric.score(b, a), "{metric:?}");
        };
        near(SimilarityMetric::Rouge1, 5.0 / 6.0);
        near(SimilarityMetric::Rouge2, 3.0 / 5.0);
        near(SimilarityMetric::Rouge3, 1.0 / 4.0);
        near(SimilarityMetric::Rouge4, 0.0);
        near(SimilarityMetric::RougeL, 5.0 / 6.0);
        // (5 + 3 + 1 + 0) / (6 + 5 + 4 + 3)
        near(SimilarityMetric::Gleu, 0.5);
        // "kitten" and "sitting" share "ittn" in order
        assert_eq!(SimilarityMetric::Fuzzy.score("kitten", "sitting"), 8.0 / 13.0);
        assert_eq!(SimilarityMetric::Rouge1.score("a a a", "a b"), 2.0 / 5.0);
        assert_eq!(SimilarityMetric::Gleu.score("a", "a b"), 1.0 / 3.0);
    }

    #[test]
    fn equal_texts_are_one_and_strangers_zero() {
        for metric in METRICS {
            assert_eq!(
                metric.score("one two three four five", "one two three four five"),
                1.0,
                "{metric:?}"
            );
            assert_eq!(metric.score("aaa", "bbb ccc ddd eee fff"), 0.0, "{metric:?}");
            assert_eq!(metric.score("", ""), 1.0, "{metric:?}");
        }
        assert_eq!(SimilarityMetric::Rouge1.score("", "a"), 0.0);
        let long = "x".repeat(20_000);
        assert!(SimilarityMetric::Fuzzy.score(&long, &long) < 1.0);
    }

    #[test]
    fn the_nearest_of_several_references_counts() {
        let verifier = Similarity {
            column: "gold".into(),
            metric: SimilarityMetric::Rouge1,
        };
        let row = PromptRow::new("?").with("gold", json!(["red", "green fish"]));
        let verdict = verifier.verify(&Sample::new(&row, "a green fish")).unwrap();
        assert_eq!(
            (verdict.score, verdict.detail.as_str()),
            (0.8, "0.800 alike, at best of 2 references")
        );
        assert!(verifier.verify(&Sample::new(&PromptRow::new("?"), "x")).is_err());
    }
}
