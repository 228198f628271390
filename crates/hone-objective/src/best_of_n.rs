//! Best-of-N: how far it moves from the policy it samples, and what the best, any, or the majority of k samples is worth,
//! estimated from n of them.
//!
//! Source: Stiennon et al., "Learning to summarize from human feedback", 2020, appendix G.3; Beirami et al., "Theoretical guarantees on
//! the best-of-n alignment policy", 2024, who show that the formula is an upper bound and tight only where samples do not repeat;
//! Chen et al., "Evaluating large language models trained on code", 2021 (pass@k); Wang et al., "Self-consistency improves chain of
//! thought reasoning", 2023 (the vote).
//!
//! Where it differs from other implementations:
//! 1. It is called a bound. It is often reported as the divergence itself, which it exceeds for short or repetitive answers.
//! 2. Every estimate is the mean over **all** subsets of k of the n samples, in closed form, and so without bias; no subset is drawn.
//! 3. A tied vote is decided by lot, so that its share of being right is that of the tied answers. (Taking the answer that came first, as is
//!    common, has the same mean over orders of the samples.)

use crate::{Error, check_setting};

/// The most samples of a prompt: beyond, binomial coefficients leave the range of a double.
pub const MOST_SAMPLES: usize = 1000;

/// Upper bound on KL(best-of-N || policy) in nats: `ln N - (N - 1)/N`.
///
/// # Errors
/// `n` of 0.
pub fn kl_bound(n: u64) -> Result<f64, Error> {
    if n == 0 {
        return Err(Error::TooFew {
            op: "best_of_n::kl_bound",
            what: "the set of samples",
            at_least: 1,
        });
    }
    let n = n as f64;
    Ok(hone_math::ln(n) - (n - 1.0) / n)
}

/// The mean, over all subsets of `k` of these scores, of the subset's highest.
///
/// With the scores in ascending order x_1 <= .. <= x_n it is the sum of C(i - 1, k - 1) / C(n, k) x_i over i from k to n.
///
/// # Errors
/// `k` of 0 or above the number of scores; a score that is not finite.
pub fn expected_best(scores: &[f64], k: usize) -> Result<f64, Error> {
    const OP: &str = "best_of_n::expected_best";
    check_subset(OP, scores.len(), k)?;
    if let Some(&got) = scores.iter().find(|score| !score.is_finite()) {
        return Err(Error::NotFinite {
            op: OP,
            name: "scores",
            got,
        });
    }
    let mut sorted = scores.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len();
    // C(n - 1, k - 1) / C(n, k), the weight of the highest; each weight follows from the one above it
    let mut weight = k as f64 / n as f64;
    let mut sum = 0.0;
    for i in (k..=n).rev() {
        sum += weight * sorted[i - 1];
        if i > 1 {
            weight *= (i - k) as f64 / (i - 1) as f64;
        }
    }
    Ok(sum)
}

/// The share of all subsets of `k` of `n` samples that hold at least one of the `right` ones:
/// 1 - C(n - right, k) / C(n, k), multiplied out so that nothing overflows (Chen et al., 2021).
///
/// # Errors
/// `k` of 0 or above `n`; more right samples than samples.
pub fn pass_at_k(n: usize, right: usize, k: usize) -> Result<f64, Error> {
    const OP: &str = "best_of_n::pass_at_k";
    check_subset(OP, n, k)?;
    check_setting(OP, "right", right as f64, right <= n, "at most the number of samples")?;
    if n - right < k {
        return Ok(1.0);
    }
    let none = (n - right + 1..=n).fold(1.0, |none, i| none * (1.0 - k as f64 / i as f64));
    Ok(1.0 - none)
}

/// Samples of a prompt that gave one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Votes {
    /// How many.
    pub count: usize,
    /// Whether the answer is right.
    pub right: bool,
}

/// The share of all subsets of `k` samples in which the answer with the most votes is right. `abstentions` are samples without an
/// answer; a subset without any answer is wrong, and a tie counts by the share of right answers among the tied.
///
/// For each number of votes j a polynomial over the answers counts the subsets in which no answer has more than j votes, by how many have
/// exactly j and how many of these are right.
///
/// # Errors
/// `k` of 0 or above the number of samples; more than [`MOST_SAMPLES`] samples; an answer of no sample.
pub fn majority_at_k(answers: &[Votes], abstentions: usize, k: usize) -> Result<f64, Error> {
    const OP: &str = "best_of_n::majority_at_k";
    let n = abstentions + answers.iter().map(|answer| answer.count).sum::<usize>();
    check_subset(OP, n, k)?;
    let most = answers.iter().map(|answer| answer.count).max().unwrap_or(0);
    let fewest = answers.iter().map(|answer| answer.count).min().unwrap_or(1);
    check_setting(OP, "count", fewest as f64, fewest > 0, "at least 1 sample an answer")?;
    check_setting(OP, "n", n as f64, n <= MOST_SAMPLES, "at most 1,000 samples")?;
    if k == n {
        let tied = answers.iter().filter(|answer| answer.count == most);
        let (right, all) = tied.fold((0_u32, 0_u32), |(r, a), answer| (r + u32::from(answer.right), a + 1));
        return Ok(if all == 0 {
            0.0
        } else {
            f64::from(right) / f64::from(all)
        });
    }
    let mut right = 0.0;
    for level in 1..=most.min(k) {
        right += won_at(answers, abstentions, k, level);
    }
    Ok(right / binomials(n)[k])
}

/// Subsets of `k` in which the winners have exactly `level` votes, each counted by the share of right answers among the winners.
fn won_at(answers: &[Votes], abstentions: usize, k: usize, level: usize) -> f64 {
    let able = answers.iter().filter(|answer| answer.count >= level).count();
    let most_tied = able.min(k / level);
    let width = most_tied + 1;
    // [used samples][tied answers]: number of subsets, and the same times the number of right answers among the tied
    let (mut ways, mut of_right) = (vec![0.0; (k + 1) * width], vec![0.0; (k + 1) * width]);
    let abstaining = binomials(abstentions);
    for used in 0..=k.min(abstentions) {
        ways[used * width] = abstaining[used];
    }
    for answer in answers {
        let chosen = binomials(answer.count);
        let (mut next_ways, mut next_right) = (vec![0.0; ways.len()], vec![0.0; ways.len()]);
        for used in 0..=k {
            for tied in 0..width {
                let (w, r) = (ways[used * width + tied], of_right[used * width + tied]);
                if w == 0.0 {
                    continue;
                }
                for taken in 0..=answer.count.min(level).min(k - used) {
                    let wins = usize::from(taken == level);
                    if tied + wins >= width {
                        continue;
                    }
                    let at = (used + taken) * width + tied + wins;
                    next_ways[at] += chosen[taken] * w;
                    let more = if wins == 1 && answer.right { w } else { 0.0 };
                    next_right[at] += chosen[taken] * (r + more);
                }
            }
        }
        (ways, of_right) = (next_ways, next_right);
    }
    (1..width).map(|tied| of_right[k * width + tied] / tied as f64).sum()
}

/// C(n, 0) .. C(n, n).
fn binomials(n: usize) -> Vec<f64> {
    let mut row = Vec::with_capacity(n + 1);
    let mut value = 1.0;
    row.push(value);
    for i in 1..=n {
        value = value * (n - i + 1) as f64 / i as f64;
        row.push(value);
    }
    row
}

fn check_subset(op: &'static str, n: usize, k: usize) -> Result<(), Error> {
    if n == 0 {
        return Err(Error::TooFew {
            op,
            what: "the set of samples",
            at_least: 1,
        });
    }
    let holds = (1..=n).contains(&k);
    check_setting(op, "k", k as f64, holds, "1 to the number of samples")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        assert_eq!(kl_bound(1).unwrap(), 0.0);
        assert!((kl_bound(2).unwrap() - (std::f64::consts::LN_2 - 0.5)).abs() < 1e-15);
        assert!((kl_bound(4).unwrap() - 0.636_294_361_119_890_6).abs() < 1e-14);
        assert!(kl_bound(0).is_err());
    }

    /// The best of N of a uniform choice among M has probability ((M-k)^N - (M-k-1)^N) / M^N for the k-th best.
    #[test]
    fn bounds_the_exact_divergence_and_nearly_equals_it_where_samples_rarely_repeat() {
        let exact = |n: i32, m: usize| -> f64 {
            (0..m)
                .map(|k| {
                    let p = ((m - k) as f64 / m as f64).powi(n) - ((m - k - 1) as f64 / m as f64).powi(n);
                    if p > 0.0 { p * (p * m as f64).ln() } else { 0.0 }
                })
                .sum()
        };
        for n in [2, 4, 16] {
            let bound = kl_bound(n as u64).unwrap();
            assert!(exact(n, 5) < bound);
            assert!((exact(n, 100_000) - bound).abs() < 1e-3);
        }
    }

    /// Every subset of `k` of `0..n`, as a list of members.
    fn subsets(n: usize, k: usize) -> Vec<Vec<usize>> {
        (0_u32..1 << n)
            .filter(|mask| mask.count_ones() as usize == k)
            .map(|mask| (0..n).filter(|i| mask >> i & 1 == 1).collect())
            .collect()
    }

    fn mean(values: impl Iterator<Item = f64>) -> f64 {
        let values: Vec<f64> = values.collect();
        values.iter().sum::<f64>() / values.len() as f64
    }

    #[test]
    fn the_best_of_k_is_the_mean_over_all_subsets() {
        let scores = [0.25, -1.5, 3.0, 0.25, 2.0, -1.5, 7.5, 0.0, 1.0];
        for n in 1..=scores.len() {
            for k in 1..=n {
                let best = |subset: &Vec<usize>| subset.iter().map(|&i| scores[i]).fold(f64::MIN, f64::max);
                let expected = mean(subsets(n, k).iter().map(best));
                let got = expected_best(&scores[..n], k).unwrap();
                assert!((got - expected).abs() < 1e-12, "n {n}, k {k}: {got}, {expected}");
            }
        }
        assert!((expected_best(&[5.0; 7], 3).unwrap() - 5.0).abs() < 1e-12);
        assert!(
            expected_best(&[], 1).is_err() && expected_best(&[1.0], 2).is_err() && expected_best(&[1.0], 0).is_err()
        );
        assert!(expected_best(&[1.0, f64::NAN], 1).is_err());
    }

    #[test]
    fn pass_at_k_is_the_share_of_all_subsets() {
        for n in 1..=9 {
            for right in 0..=n {
                for k in 1..=n {
                    let holds = |subset: &Vec<usize>| f64::from(u8::from(subset.iter().any(|&i| i < right)));
                    let expected = mean(subsets(n, k).iter().map(holds));
                    let got = pass_at_k(n, right, k).unwrap();
                    assert!(
                        (got - expected).abs() < 1e-12,
                        "n {n}, c {right}, k {k}: {got}, {expected}"
                    );
                }
            }
        }
        // Chen et al.'s own form for numbers whose binomials overflow: 1 - prod (1 - k / i)
        assert!((pass_at_k(1000, 1, 500).unwrap() - 0.5).abs() < 1e-12);
        assert!(pass_at_k(3, 4, 1).is_err() && pass_at_k(0, 0, 1).is_err() && pass_at_k(3, 1, 4).is_err());
    }

    /// The vote of one subset: the share of right answers among those with the most votes.
    fn vote(answers: &[Votes], subset: &[usize]) -> f64 {
        let mut owner = Vec::new();
        for (a, answer) in answers.iter().enumerate() {
            owner.extend(std::iter::repeat_n(a, answer.count));
        }
        let mut votes = vec![0; answers.len()];
        for &i in subset {
            if let Some(&a) = owner.get(i) {
                votes[a] += 1;
            }
        }
        let most = votes.iter().copied().max().unwrap_or(0);
        let tied: Vec<usize> = (0..answers.len()).filter(|&a| most > 0 && votes[a] == most).collect();
        let right = tied.iter().filter(|&&a| answers[a].right).count();
        if tied.is_empty() {
            0.0
        } else {
            right as f64 / tied.len() as f64
        }
    }

    #[test]
    fn the_majority_of_k_is_the_mean_over_all_subsets() {
        let answers = |list: &[(usize, bool)]| -> Vec<Votes> {
            list.iter().map(|&(count, right)| Votes { count, right }).collect()
        };
        let cases = [
            (answers(&[(4, true), (3, false), (2, false)]), 0),
            (answers(&[(2, false), (2, true), (1, true), (1, false), (1, false)]), 1),
            (
                answers(&[(1, true), (1, false), (1, false), (1, true), (1, false), (1, false)]),
                2,
            ),
            (answers(&[(5, false), (3, true)]), 1),
            (answers(&[(6, true)]), 3),
            (answers(&[]), 4),
        ];
        for (answers, abstentions) in cases {
            let n = abstentions + answers.iter().map(|a| a.count).sum::<usize>();
            for k in 1..=n {
                let expected = mean(subsets(n, k).iter().map(|subset| vote(&answers, subset)));
                let got = majority_at_k(&answers, abstentions, k).unwrap();
                assert!((got - expected).abs() < 1e-12, "{answers:?}, k {k}: {got}, {expected}");
            }
        }
        assert!(majority_at_k(&[Votes { count: 0, right: true }], 1, 1).is_err());
        assert!(
            majority_at_k(
                &[Votes {
                    count: 1001,
                    right: true
                }],
                0,
                1
            )
            .is_err()
        );
    }

    #[test]
    fn the_vote_of_one_sample_is_that_sample() {
        let answers = [
            Votes {
                count: 300,
                right: true,
            },
            Votes {
                count: 500,
                right: false,
            },
        ];
        let got = majority_at_k(&answers, 200, 1).unwrap();
        assert!((got - 0.3).abs() < 1e-12, "{got}");
    }
}
