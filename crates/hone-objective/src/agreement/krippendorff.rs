//! Krippendorff's alpha: any number of judges, missing judgements, three levels of measurement.
//!
//! Source: Krippendorff, "Computing Krippendorff's alpha-reliability", 2011.
//!
//! `alpha = 1 - D_o / D_e`. With n values in items that have at least two, m_u of them in item u:
//! `D_o = (1/n) sum_u 1/(m_u - 1) sum over ordered pairs in u of d^2`, `D_e = 1/(n (n - 1)) sum over all ordered pairs of d^2`.
//! The difference d^2 is 0 or 1 for nominal values, `(a - b)^2` for interval values, and for ordinal ones
//! `(sum of n_g for g from a to b - (n_a + n_b)/2)^2`, which is the squared distance of the two values' middle ranks.
//!
//! Where it differs from other implementations:
//! 1. No table of coincidences: sums of squares about means give both sums in time linear in the values, so that scores with
//!    thousands of distinct values are no harder than ratings.
//! 2. Where the values do not vary alpha is undefined: `None`.

use crate::{Error, check_setting};

/// What the values mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Names: equal or not.
    Nominal,
    /// Places in an order.
    Ordinal,
    /// Numbers whose differences mean something.
    Interval,
}

/// Krippendorff's alpha of values `[items, judges]`, one row an item, `None` where a judge did not see it. The answer is `None` where
/// alpha is undefined: fewer than two values to compare, or all equal.
///
/// # Errors
/// No judge; a length that is no multiple of `judges`; a value that is not finite.
pub fn krippendorff_alpha(values: &[Option<f64>], judges: usize, level: Level) -> Result<Option<f64>, Error> {
    const OP: &str = "krippendorff_alpha";
    check_setting(OP, "judges", judges as f64, judges > 0, "1 or more")?;
    crate::check_length(OP, "values", values.len(), values.len() / judges * judges)?;
    if let Some(&got) = values.iter().flatten().find(|value| !value.is_finite()) {
        return Err(Error::NotFinite {
            op: OP,
            name: "values",
            got,
        });
    }
    // Items with fewer than two values have nothing to compare
    let items: Vec<Vec<f64>> = values
        .chunks_exact(judges)
        .map(|item| item.iter().flatten().copied().collect())
        .filter(|item: &Vec<f64>| item.len() >= 2)
        .collect();
    let all: Vec<f64> = items.concat();
    let Some(&first) = all.first() else {
        return Ok(None);
    };
    if all.iter().all(|&value| value == first) {
        return Ok(None);
    }
    let (observed, expected) = match level {
        Level::Nominal => (
            items
                .iter()
                .map(|item| unequal_pairs(item) / (item.len() - 1) as f64)
                .sum::<f64>(),
            unequal_pairs(&all),
        ),
        Level::Ordinal => {
            let ranks = middle_ranks(&all);
            let rank = |value: &f64| {
                let at = ranks.partition_point(|(known, _)| known < value);
                ranks[at].1
            };
            let items: Vec<Vec<f64>> = items.iter().map(|item| item.iter().map(rank).collect()).collect();
            squares(&items)
        }
        Level::Interval => squares(&items),
    };
    Ok(Some(1.0 - (all.len() - 1) as f64 * observed / expected))
}

/// Ordered pairs of unequal values.
fn unequal_pairs(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let equal: usize = sorted.chunk_by(|a, b| a == b).map(|run| run.len() * run.len()).sum();
    (values.len() * values.len() - equal) as f64
}

/// Squared differences over ordered pairs: within items, each divided by its number of values less one, and over all values.
/// Over m numbers they add up to 2 m times the squares about their mean.
fn squares(items: &[Vec<f64>]) -> (f64, f64) {
    let about_mean = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>()
    };
    let within = items
        .iter()
        .map(|item| {
            let m = item.len() as f64;
            // Equal values differ by exactly 0, which a rounded mean would miss
            match item.iter().all(|&value| value == item[0]) {
                true => 0.0,
                false => 2.0 * m * about_mean(item) / (m - 1.0),
            }
        })
        .sum();
    let all = items.concat();
    (within, 2.0 * all.len() as f64 * about_mean(&all))
}

/// Every distinct value in ascending order, with the middle of its places.
fn middle_ranks(values: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let mut before = 0;
    sorted
        .chunk_by(|a, b| a == b)
        .map(|run| {
            let middle = before as f64 + run.len() as f64 / 2.0;
            before += run.len();
            (run[0], middle)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    const N: Option<f64> = None;

    /// The example of the source: four observers, twelve units, one of which only one observer saw.
    fn published() -> Vec<Option<f64>> {
        let observers: [[i32; 12]; 4] = [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
            [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
        ];
        (0..12)
            .flat_map(|unit| observers.map(|seen| (seen[unit] != 0).then(|| f64::from(seen[unit]))))
            .collect()
    }

    #[test]
    fn the_published_example() {
        for (level, expected) in [
            (Level::Nominal, 0.743),
            (Level::Ordinal, 0.815),
            (Level::Interval, 0.849),
        ] {
            let alpha = krippendorff_alpha(&published(), 4, level).unwrap().unwrap();
            assert!((alpha - expected).abs() < 5e-4, "{level:?}: {alpha}");
        }
    }

    /// The definition by a table of coincidences.
    fn by_table(values: &[Option<f64>], judges: usize, level: Level) -> Option<f64> {
        let mut known: Vec<f64> = values.iter().flatten().copied().collect();
        known.sort_unstable_by(f64::total_cmp);
        known.dedup();
        let index = |value: f64| known.iter().position(|&k| k == value).unwrap();
        let v = known.len();
        let mut table = vec![vec![0.0; v]; v];
        for item in values.chunks(judges) {
            let seen: Vec<f64> = item.iter().flatten().copied().collect();
            for i in 0..seen.len() {
                for j in 0..seen.len() {
                    if i != j {
                        table[index(seen[i])][index(seen[j])] += 1.0 / (seen.len() - 1) as f64;
                    }
                }
            }
        }
        let totals: Vec<f64> = table.iter().map(|row| row.iter().sum()).collect();
        let n: f64 = totals.iter().sum();
        let difference = |c: usize, k: usize| match level {
            Level::Nominal => f64::from(u8::from(c != k)),
            Level::Interval => (known[c] - known[k]).powi(2),
            Level::Ordinal => {
                let (low, high) = (c.min(k), c.max(k));
                (totals[low..=high].iter().sum::<f64>() - (totals[c] + totals[k]) / 2.0).powi(2)
            }
        };
        let (mut observed, mut expected) = (0.0, 0.0);
        for c in 0..v {
            for k in (0..v).filter(|&k| k != c) {
                observed += table[c][k] * difference(c, k);
                expected += totals[c] * totals[k] * difference(c, k);
            }
        }
        (expected > 0.0).then(|| 1.0 - (n - 1.0) * observed / expected)
    }

    #[test]
    fn the_table_of_coincidences_on_random_judgements() {
        let mut defined = 0;
        for trial in 0..200_u64 {
            let mut random = Key::new(1, "alpha", trial).stream();
            let (items, judges, top) = (1 + random.below(10), 1 + random.below(5), 1 + random.below(6));
            let values: Vec<Option<f64>> = (0..items * judges)
                .map(|_| {
                    let value = random.below(top) as f64 * 1.5 - 3.0;
                    random.chance(0.7).then_some(value)
                })
                .collect();
            for level in [Level::Nominal, Level::Ordinal, Level::Interval] {
                let (got, expected) = (
                    krippendorff_alpha(&values, judges, level).unwrap(),
                    by_table(&values, judges, level),
                );
                assert_eq!(got.is_some(), expected.is_some(), "{values:?} {level:?}");
                if let (Some(got), Some(expected)) = (got, expected) {
                    defined += 1;
                    assert!((got - expected).abs() < 1e-9, "{level:?}: {got} {expected}");
                }
            }
        }
        assert!(defined > 300, "{defined}");
    }

    #[test]
    fn the_order_of_judges_and_items_does_not_matter_and_agreement_is_1() {
        let alpha = |values: &[Option<f64>]| krippendorff_alpha(values, 2, Level::Ordinal).unwrap();
        let (one, other) = (
            alpha(&[Some(1.0), Some(2.0), Some(3.0), Some(3.0), Some(5.0), N]),
            alpha(&[Some(3.0), Some(3.0), Some(2.0), Some(1.0), N, Some(4.0)]),
        );
        assert!((one.unwrap() - other.unwrap()).abs() < 1e-15);
        for level in [Level::Nominal, Level::Ordinal, Level::Interval] {
            let values = [Some(0.1), Some(0.1), Some(0.7), Some(0.7)];
            assert_eq!(krippendorff_alpha(&values, 2, level), Ok(Some(1.0)));
        }
    }

    #[test]
    fn undefined_and_refusals() {
        assert_eq!(krippendorff_alpha(&[], 3, Level::Nominal), Ok(None));
        assert_eq!(
            krippendorff_alpha(&[Some(1.0), N, N, Some(2.0)], 2, Level::Nominal),
            Ok(None)
        );
        assert_eq!(krippendorff_alpha(&[Some(0.1); 6], 3, Level::Interval), Ok(None));
        assert!(krippendorff_alpha(&[Some(1.0)], 0, Level::Nominal).is_err());
        assert!(krippendorff_alpha(&[Some(1.0); 3], 2, Level::Nominal).is_err());
        assert!(krippendorff_alpha(&[Some(f64::NAN), Some(1.0)], 2, Level::Nominal).is_err());
    }
}
