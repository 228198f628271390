//! Weighted mixtures of sources: the plan (how many epochs of each) and the order in which samples are drawn.

use serde::Serialize;

use crate::error::DataError;
use crate::order::EpochOrder;

fn wrong(option: &'static str, got: impl ToString, expected: &str) -> DataError {
    DataError::Option {
        option,
        got: got.to_string(),
        expected: expected.into(),
    }
}

/// The shares that weights amount to.
///
/// # Errors
/// Weights that are negative or not finite, or that sum to 0.
fn normalised(weights: &[f64]) -> Result<Vec<f64>, DataError> {
    if let Some(weight) = weights.iter().find(|w| !(w.is_finite() && **w >= 0.0)) {
        return Err(wrong("weight", weight, "a number of at least 0"));
    }
    let sum: f64 = weights.iter().sum();
    if !(sum > 0.0 && sum.is_finite()) {
        return Err(wrong("weight", format!("{sum} in sum"), "at least one weight above 0"));
    }
    Ok(weights.iter().map(|w| w / sum).collect())
}

/// What training on a mixture will draw.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MixturePlan {
    /// One entry a source, in order.
    pub sources: Vec<SourcePlan>,
    /// Tokens drawn in all.
    pub total_tokens: u64,
}

/// One source's part in a [`MixturePlan`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourcePlan {
    /// Tokens it has.
    pub tokens: u64,
    /// Its share of what is drawn: the weights normalised.
    pub share: f64,
    /// Tokens drawn from it.
    pub drawn: u64,
    /// How often it is passed over.
    pub epochs: f64,
}

impl MixturePlan {
    /// Plans drawing `total_tokens` from sources of these many tokens at these weights.
    ///
    /// # Errors
    /// Lists of different lengths, unusable weights, a source without tokens that has a weight.
    pub fn new(tokens: &[u64], weights: &[f64], total_tokens: u64) -> Result<Self, DataError> {
        if tokens.len() != weights.len() {
            return Err(wrong(
                "weight",
                format!("{} numbers", weights.len()),
                "one number a source",
            ));
        }
        let shares = normalised(weights)?;
        if let Some(i) = (0..tokens.len()).find(|&i| tokens[i] == 0 && shares[i] > 0.0) {
            return Err(wrong(
                "weight",
                format!("{} for an empty source", weights[i]),
                "0, or a source with tokens",
            ));
        }
        let sources = tokens
            .iter()
            .zip(shares)
            .map(|(&tokens, share)| SourcePlan {
                tokens,
                share,
                drawn: (share * total_tokens as f64).round() as u64,
                epochs: match tokens {
                    0 => 0.0,
                    _ => share * total_tokens as f64 / tokens as f64,
                },
            })
            .collect();
        Ok(Self { sources, total_tokens })
    }
}

/// One sample to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Which source.
    pub source: usize,
    /// Which of its items.
    pub item: usize,
    /// In which pass over the source, from 0.
    pub epoch: u64,
}

/// How far a source has been used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Progress {
    /// Samples drawn from it.
    pub draws: u64,
    /// The same in passes over the source.
    pub epochs: f64,
}

/// Shares are kept to one part in this many; the schedule repeats after as many draws.
const CYCLE: usize = 1 << 16;

/// The order of samples of a mixture, a function of (seed, index) alone.
///
/// Which source comes next follows a fixed schedule: always the one that is furthest behind its share. So every stretch
/// has the shares to within a sample or so a source. Inside a source, items come in shuffled epochs.
#[derive(Clone, Debug)]
pub struct MixtureOrder {
    /// Per place of the cycle: the source, and how many of the source's draws come before it in the cycle.
    schedule: Vec<(u32, u32)>,
    /// Draws of each source in a cycle.
    quotas: Vec<u64>,
    orders: Vec<Option<EpochOrder>>,
}

impl MixtureOrder {
    /// The order over sources with these many items at these weights.
    ///
    /// # Errors
    /// As [`MixturePlan::new`]; more sources than the schedule has places.
    pub fn new(items: &[usize], weights: &[f64], seed: u64) -> Result<Self, DataError> {
        let counts: Vec<u64> = items.iter().map(|&n| n as u64).collect();
        let plan = MixturePlan::new(&counts, weights, 0)?;
        let shares: Vec<f64> = plan.sources.iter().map(|s| s.share).collect();
        let quotas = quotas(&shares)?;
        Ok(Self {
            schedule: schedule(&quotas),
            quotas,
            orders: items
                .iter()
                .enumerate()
                .map(|(i, &n)| (n > 0).then(|| EpochOrder::member(n, seed, i as u64)))
                .collect(),
        })
    }

    /// The sample at `index`, counted from the start of training.
    pub fn at(&self, index: u64) -> Draw {
        let cycle = self.schedule.len() as u64;
        let (source, before) = self.schedule[(index % cycle) as usize];
        let source = source as usize;
        let position = index / cycle * self.quotas[source] + u64::from(before);
        let order = self.orders[source].expect("a source with a quota has items: checked when made");
        Draw {
            source,
            item: order.example_at(position),
            epoch: position / order.len() as u64,
        }
    }

    /// The samples of step `step` (from 0) at `batch` samples a step.
    pub fn batch(&self, step: u64, batch: usize) -> Vec<Draw> {
        let start = step * batch as u64;
        (start..start + batch as u64).map(|i| self.at(i)).collect()
    }

    /// What the first `draws` samples have used of each source.
    pub fn progress(&self, draws: u64) -> Vec<Progress> {
        let cycle = self.schedule.len() as u64;
        let mut counts: Vec<u64> = self.quotas.iter().map(|q| q * (draws / cycle)).collect();
        for &(source, _) in &self.schedule[..(draws % cycle) as usize] {
            counts[source as usize] += 1;
        }
        counts
            .into_iter()
            .zip(&self.orders)
            .map(|(draws, order)| Progress {
                draws,
                epochs: order.map_or(0.0, |o| draws as f64 / o.len() as f64),
            })
            .collect()
    }
}

/// Whole numbers in proportion to the shares (largest remainder), at least 1 where the share is above 0.
fn quotas(shares: &[f64]) -> Result<Vec<u64>, DataError> {
    let used = shares.iter().filter(|s| **s > 0.0).count();
    if used * 16 > CYCLE {
        return Err(wrong(
            "train",
            format!("{used} sources"),
            &format!("at most {}", CYCLE / 16),
        ));
    }
    if used == 1 {
        return Ok(shares.iter().map(|&s| u64::from(s > 0.0)).collect());
    }
    let exact: Vec<f64> = shares.iter().map(|s| s * CYCLE as f64).collect();
    let mut quotas: Vec<u64> = exact
        .iter()
        .map(|&e| if e > 0.0 { (e as u64).max(1) } else { 0 })
        .collect();
    // give to the one with the largest lack, or take from the one with the largest excess, until the sum is right
    loop {
        let sum: u64 = quotas.iter().sum();
        let lack = |i: &usize| exact[*i] - quotas[*i] as f64;
        let candidates = (0..shares.len()).filter(|&i| shares[i] > 0.0);
        if sum < CYCLE as u64 {
            let most = candidates.max_by(|a, b| lack(a).total_cmp(&lack(b)).then(b.cmp(a)));
            quotas[most.expect("a share is above 0")] += 1;
        } else if sum > CYCLE as u64 {
            let least = candidates
                .filter(|&i| quotas[i] > 1)
                .min_by(|a, b| lack(a).total_cmp(&lack(b)).then(a.cmp(b)));
            quotas[least.expect("the sum is above the number of sources")] -= 1;
        } else {
            break;
        }
    }
    let divisor = quotas.iter().copied().fold(0, gcd);
    Ok(quotas.iter().map(|q| q / divisor).collect())
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// At each place the source furthest behind: the largest `quota x (place + 1) - cycle x drawn`.
fn schedule(quotas: &[u64]) -> Vec<(u32, u32)> {
    let cycle: u64 = quotas.iter().sum();
    let mut drawn = vec![0_u32; quotas.len()];
    let mut behind = vec![0_i64; quotas.len()];
    (0..cycle)
        .map(|_| {
            let mut next = 0;
            for i in 0..quotas.len() {
                behind[i] += quotas[i] as i64;
                if behind[i] > behind[next] || quotas[next] == 0 {
                    next = i;
                }
            }
            behind[next] -= cycle as i64;
            drawn[next] += 1;
            (next as u32, drawn[next] - 1)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Table 2.2 of the GPT-3 paper: tokens in billions, weights in percent (rounded there; they sum to 101).
    #[test]
    fn gpt3_mixture() {
        let billions = [410, 19, 12, 55, 3];
        let tokens: Vec<u64> = billions.iter().map(|b| b * 1_000_000_000).collect();
        let plan = MixturePlan::new(&tokens, &[60.0, 22.0, 8.0, 8.0, 3.0], 300_000_000_000).unwrap();
        // by hand: share = weight / 101, epochs = share x 300 / billions
        let expected = [0.4346776, 3.4392913, 1.9801980, 0.4320432, 2.9702970];
        for (source, expected) in plan.sources.iter().zip(expected) {
            assert!(
                (source.epochs - expected).abs() < 1e-6,
                "{} / {expected}",
                source.epochs
            );
        }
        // the paper's own epochs, where its arithmetic and its rounding agree
        for (i, printed) in [(0, 0.44), (2, 1.9), (3, 0.43)] {
            assert!((plan.sources[i].epochs / printed - 1.0).abs() < 0.05);
        }
        assert_eq!(plan.sources.iter().map(|s| s.drawn).sum::<u64>(), 300_000_000_000);
        assert_eq!(plan.sources[4].drawn, 8_910_891_089);
    }

    #[test]
    fn unusable_weights_are_refused() {
        assert!(MixturePlan::new(&[1, 1], &[1.0, -1.0], 1).is_err());
        assert!(MixturePlan::new(&[1, 1], &[0.0, 0.0], 1).is_err());
        assert!(MixturePlan::new(&[1, 1], &[f64::NAN, 1.0], 1).is_err());
        assert!(MixturePlan::new(&[1], &[1.0, 1.0], 1).is_err());
        assert!(MixturePlan::new(&[1, 0], &[1.0, 1.0], 1).is_err());
        assert_eq!(
            MixturePlan::new(&[1, 0], &[1.0, 0.0], 5).unwrap().sources[1].epochs,
            0.0
        );
    }

    #[test]
    fn every_stretch_keeps_the_shares() {
        let weights = [0.6, 0.22, 0.08, 0.08, 0.03];
        let order = MixtureOrder::new(&[1000, 50, 30, 100, 7], &weights, 1).unwrap();
        let shares = normalised(&weights).unwrap();
        let mut counts = [0.0; 5];
        for i in 0..100_000 {
            counts[order.at(i).source] += 1.0;
            for s in 0..5 {
                let due = shares[s] * (i + 1) as f64;
                assert!(
                    (counts[s] - due).abs() < 3.0,
                    "source {s} after {i}: {} of {due}",
                    counts[s]
                );
            }
        }
    }

    #[test]
    fn each_source_is_passed_over_whole() {
        let order = MixtureOrder::new(&[10, 4], &[3.0, 1.0], 9).unwrap();
        let mut seen = [vec![Vec::new(); 6], vec![Vec::new(); 6]];
        for i in 0..80 {
            let draw = order.at(i);
            seen[draw.source][draw.epoch as usize].push(draw.item);
        }
        for (source, n) in [(0, 10), (1, 4)] {
            for epoch in 0..5 {
                seen[source][epoch].sort_unstable();
                assert_eq!(
                    seen[source][epoch],
                    (0..n).collect::<Vec<_>>(),
                    "source {source}, epoch {epoch}"
                );
            }
        }
        let progress = order.progress(80);
        assert_eq!((progress[0].draws, progress[1].draws), (60, 20));
        assert_eq!((progress[0].epochs, progress[1].epochs), (6.0, 5.0));
    }

    #[test]
    fn seeking_equals_iterating() {
        let order = MixtureOrder::new(&[100, 17, 5], &[1.0, 0.7, 0.0001], 4).unwrap();
        let start = CYCLE as u64 * 3 - 50;
        let all: Vec<Draw> = (0..30).flat_map(|s| order.batch(start / 5 + s, 5)).collect();
        for (i, draw) in all.iter().enumerate().rev() {
            assert_eq!(order.at(start / 5 * 5 + i as u64), *draw);
        }
        let drawn = order.progress(CYCLE as u64 + 1234);
        let mut counted = [0; 3];
        (0..CYCLE as u64 + 1234).for_each(|i| counted[order.at(i).source] += 1);
        assert_eq!(drawn.iter().map(|p| p.draws).collect::<Vec<_>>(), counted);
        assert!(counted[2] > 0, "a small share is drawn too");
    }
}
