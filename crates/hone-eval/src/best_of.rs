//! What the best, any, or the majority of k samples is worth, for k = 1, 2, 4 .. n: means over prompts of estimates without
//! bias from n samples each, with bootstrap intervals over prompts.

use std::collections::BTreeMap;

use hone_objective::best_of_n::{Votes, expected_best, kl_bound, majority_at_k, pass_at_k};
use hone_objective::statistics::{Bootstrap, bootstrap_interval};
use serde::Serialize;

use crate::error::Error;

/// The samples of one prompt, `[n]` each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptSamples {
    /// What the picking goes by.
    pub scores: Vec<f64>,
    /// Whether each passes; none where nobody can tell.
    pub passes: Option<Vec<bool>>,
    /// The final answer of each, for a vote; none where there is no vote. A sample without an answer abstains.
    pub answers: Option<Vec<Option<String>>>,
    /// Equal numbers for equal completions.
    pub texts: Vec<u64>,
}

/// A mean over prompts with its 95% interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// What k samples a prompt are worth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BestOfRow {
    /// Samples a prompt.
    pub k: usize,
    /// Score of the best of k.
    pub best: Estimate,
    /// Probability that one of k passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<Estimate>,
    /// Probability that the answer with the most votes among k passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub majority: Option<Estimate>,
    /// Upper bound on the divergence of best-of-k from the policy, nats.
    pub kl_bound: f64,
    /// Different completions among k, over k.
    pub distinct: f64,
}

/// The rows for k = 1, 2, 4 .. and n.
///
/// # Errors
/// No prompt; prompts of different numbers of samples; scores that are not finite.
pub fn best_of_table(prompts: &[PromptSamples], draws: &Bootstrap) -> Result<Vec<BestOfRow>, Error> {
    let n = prompts.first().map_or(0, |prompt| prompt.scores.len());
    if n == 0 {
        return Err(Error::Empty {
            metric: "best_of_table",
            what: "sample",
        });
    }
    for (prompt, samples) in prompts.iter().enumerate() {
        check(prompt, samples, n)?;
    }
    let mut sizes: Vec<usize> = (0..).map(|i| 1_usize << i).take_while(|&k| k < n).collect();
    sizes.push(n);
    sizes.into_iter().map(|k| row(prompts, k, draws)).collect()
}

fn check(prompt: usize, samples: &PromptSamples, n: usize) -> Result<(), Error> {
    let lengths = [
        Some(samples.scores.len()),
        Some(samples.texts.len()),
        samples.passes.as_ref().map(Vec::len),
        samples.answers.as_ref().map(Vec::len),
    ];
    match lengths.into_iter().flatten().find(|&length| length != n) {
        Some(got) => Err(Error::Samples {
            prompt,
            got,
            expected: n,
        }),
        None => Ok(()),
    }
}

fn row(prompts: &[PromptSamples], k: usize, draws: &Bootstrap) -> Result<BestOfRow, Error> {
    let over = |value: &dyn Fn(&PromptSamples) -> Result<f64, Error>| -> Result<Estimate, Error> {
        let values: Vec<f64> = prompts.iter().map(value).collect::<Result<_, _>>()?;
        let interval = bootstrap_interval(&values, draws)?;
        Ok(Estimate {
            mean: interval.estimate,
            low: interval.low,
            high: interval.high,
        })
    };
    let best = over(&|samples| Ok(expected_best(&samples.scores, k)?))?;
    let judged = prompts.iter().all(|samples| samples.passes.is_some());
    let pass = judged.then(|| over(&|samples| passing(samples, k))).transpose()?;
    let voted = judged && prompts.iter().all(|samples| samples.answers.is_some());
    let majority = voted.then(|| over(&|samples| majority(samples, k))).transpose()?;
    Ok(BestOfRow {
        k,
        best,
        pass,
        majority,
        kl_bound: kl_bound(k as u64)?,
        distinct: over(&|samples| distinct(samples, k))?.mean,
    })
}

fn passing(samples: &PromptSamples, k: usize) -> Result<f64, Error> {
    let passes = samples.passes.as_deref().unwrap_or_default();
    let right = passes.iter().filter(|&&passes| passes).count();
    Ok(pass_at_k(passes.len(), right, k)?)
}

/// An answer is right where the first sample that gave it passes.
fn majority(samples: &PromptSamples, k: usize) -> Result<f64, Error> {
    let passes = samples.passes.as_deref().unwrap_or_default();
    let answers = samples.answers.as_deref().unwrap_or_default();
    let mut votes: BTreeMap<&str, Votes> = BTreeMap::new();
    let mut abstentions = 0;
    for (answer, &right) in answers.iter().zip(passes) {
        match answer {
            Some(answer) => votes.entry(answer).or_insert(Votes { count: 0, right }).count += 1,
            None => abstentions += 1,
        }
    }
    let votes: Vec<Votes> = votes.into_values().collect();
    Ok(majority_at_k(&votes, abstentions, k)?)
}

/// The expected number of different completions among k, over k: each is among them as often as one of its samples is.
fn distinct(samples: &PromptSamples, k: usize) -> Result<f64, Error> {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for &text in &samples.texts {
        *counts.entry(text).or_default() += 1;
    }
    let mut sum = 0.0;
    for count in counts.into_values() {
        sum += pass_at_k(samples.texts.len(), count, k)?;
    }
    Ok(sum / k as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    fn draws() -> Bootstrap {
        Bootstrap::new(Key::new(1, "test", 0))
    }

    fn prompt(scores: &[f64], answers: &[&str]) -> PromptSamples {
        PromptSamples {
            scores: scores.to_vec(),
            passes: Some(scores.iter().map(|&score| score >= 1.0).collect()),
            answers: Some(answers.iter().map(|a| (!a.is_empty()).then(|| a.to_string())).collect()),
            texts: answers.iter().map(|a| a.len() as u64).collect(),
        }
    }

    #[test]
    fn a_table_by_hand() {
        let prompts = [
            prompt(&[1.0, 0.0, 0.0], &["a", "bb", "bb"]),
            prompt(&[1.0, 1.0, 0.0], &["a", "a", ""]),
        ];
        let table = best_of_table(&prompts, &draws()).unwrap();
        assert_eq!(table.iter().map(|row| row.k).collect::<Vec<_>>(), [1, 2, 3]);
        let close = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-12, "{got} {expected}");
        // One of three, two of three
        close(table[0].best.mean, 0.5);
        close(table[0].pass.unwrap().mean, 0.5);
        close(table[0].majority.unwrap().mean, 0.5);
        // Pairs: two of three hold the right one; all do
        close(table[1].best.mean, (2.0 / 3.0 + 1.0) / 2.0);
        // Votes of pairs: a tie in two of three, and wrong; right in all
        close(table[1].majority.unwrap().mean, (1.0 / 3.0 + 1.0) / 2.0);
        close(table[2].pass.unwrap().mean, 1.0);
        close(table[2].majority.unwrap().mean, 0.5);
        close(table[0].distinct, 1.0);
        close(table[2].distinct, 2.0 / 3.0);
        close(table[2].kl_bound, 3f64.ln() - 2.0 / 3.0);
        let best = table[0].best;
        assert!(best.low <= best.mean && best.mean <= best.high && best.low < best.high);
    }

    #[test]
    fn what_nobody_judged_has_no_share_that_passes() {
        let mut one = prompt(&[3.0], &["a"]);
        one.passes = None;
        let table = best_of_table(&[one.clone()], &draws()).unwrap();
        assert_eq!((table.len(), table[0].pass, table[0].majority), (1, None, None));
        assert!(matches!(best_of_table(&[], &draws()), Err(Error::Empty { .. })));
        let two = prompt(&[3.0, 1.0], &["a", "b"]);
        assert!(matches!(
            best_of_table(&[one, two], &draws()),
            Err(Error::Samples { prompt: 1, .. })
        ));
    }
}
