//! Cohen's kappa of two judges, plain and weighted.
//!
//! Sources: Cohen, "A coefficient of agreement for nominal scales", 1960; Cohen, "Weighted kappa: nominal scale agreement with provision
//! for scaled disagreement or partial credit", 1968.
//!
//! `kappa = 1 - sum w_ij o_ij / sum w_ij e_ij` with `o` the shares of the items that the first judge put into category i and the
//! second into j, `e` the products of the two judges' own shares, and `w` what a disagreement of i and j costs.
//!
//! Where it differs from other implementations:
//! 1. Categories are numbers below a stated count, so that one that nobody used does not move the weights.
//! 2. Where chance cannot disagree (both judges always named one and the same category) kappa is undefined: `None`.

use super::check_category;
use crate::{Error, check_length, check_setting};

/// What a disagreement costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// 1, however far apart.
    Equal,
    /// The distance of the categories.
    Linear,
    /// Its square.
    Quadratic,
}

impl Weights {
    fn of(self, i: usize, j: usize) -> f64 {
        let distance = i.abs_diff(j) as f64;
        match self {
            Self::Equal => f64::from(u8::from(i != j)),
            Self::Linear => distance,
            Self::Quadratic => distance * distance,
        }
    }
}

/// Cohen's kappa of two judges who each put the same items into one of `categories`; `None` where it is undefined.
///
/// # Errors
/// Slices of unequal length; no item; a category that is not below `categories`.
pub fn cohen_kappa(first: &[usize], second: &[usize], categories: usize) -> Result<Option<f64>, Error> {
    kappa("cohen_kappa", (first, second), categories, Weights::Equal)
}

/// Cohen's weighted kappa; the categories are in order.
///
/// # Errors
/// As [`cohen_kappa`].
pub fn weighted_kappa(
    first: &[usize],
    second: &[usize],
    categories: usize,
    weights: Weights,
) -> Result<Option<f64>, Error> {
    kappa("weighted_kappa", (first, second), categories, weights)
}

/// Categories above this would make a table of their pairs too large.
const MOST_CATEGORIES: usize = 4096;

fn kappa(
    op: &'static str,
    (first, second): (&[usize], &[usize]),
    categories: usize,
    weights: Weights,
) -> Result<Option<f64>, Error> {
    check_length(op, "second", second.len(), first.len())?;
    if first.is_empty() {
        return Err(Error::TooFew {
            op,
            what: "the set of items",
            at_least: 1,
        });
    }
    check_setting(
        op,
        "categories",
        categories as f64,
        (1..=MOST_CATEGORIES).contains(&categories),
        "1 to 4096",
    )?;
    let (mut rows, mut columns) = (vec![0_u64; categories], vec![0_u64; categories]);
    let mut observed = 0.0;
    for (&i, &j) in first.iter().zip(second) {
        check_category(op, i, categories)?;
        check_category(op, j, categories)?;
        rows[i] += 1;
        columns[j] += 1;
        observed += weights.of(i, j);
    }
    let mut expected = 0.0;
    for (i, &row) in rows.iter().enumerate().filter(|(_, row)| **row > 0) {
        for (j, &column) in columns.iter().enumerate() {
            expected += weights.of(i, j) * row as f64 * column as f64;
        }
    }
    if expected == 0.0 {
        return Ok(None);
    }
    Ok(Some(1.0 - observed * first.len() as f64 / expected))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    /// A table of counts as two judges' lists.
    fn lists(table: &[&[usize]]) -> (Vec<usize>, Vec<usize>) {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for (i, row) in table.iter().enumerate() {
            for (j, &count) in row.iter().enumerate() {
                first.extend(vec![i; count]);
                second.extend(vec![j; count]);
            }
        }
        (first, second)
    }

    #[test]
    fn by_hand() {
        // Agreement 0.7, by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5: (0.7 - 0.5) / 0.5
        let (first, second) = lists(&[&[20, 5], &[10, 15]]);
        assert!((cohen_kappa(&first, &second, 2).unwrap().unwrap() - 0.4).abs() < 1e-15);
        // With two categories every weighting is the same
        for weights in [Weights::Linear, Weights::Quadratic] {
            assert!((weighted_kappa(&first, &second, 2, weights).unwrap().unwrap() - 0.4).abs() < 1e-15);
        }
        let (first, second) = ([0, 1, 2], [2, 1, 2]);
        let linear = weighted_kappa(&first, &second, 3, Weights::Linear).unwrap().unwrap();
        // Second judge: 0, 1/3, 2/3. Expected linear: (1/3)(1/3 + 4/3) + (1/3)(2/3) + (1/3)(1/3) = 8/9
        assert!((linear - (1.0 - (2.0 / 3.0) / (8.0 / 9.0))).abs() < 1e-15);
        let quadratic = weighted_kappa(&first, &second, 3, Weights::Quadratic).unwrap().unwrap();
        // (1/3)(1/3 + 8/3) + (1/3)(2/3) + (1/3)(1/3) = 4/3
        assert!((quadratic - (1.0 - (4.0 / 3.0) / (4.0 / 3.0))).abs() < 1e-15);
    }

    #[test]
    fn full_agreement_chance_and_undefined() {
        let (first, second) = lists(&[&[4, 0], &[0, 3]]);
        assert_eq!(cohen_kappa(&first, &second, 2), Ok(Some(1.0)));
        let (first, second) = lists(&[&[2, 2], &[3, 3]]);
        assert!(cohen_kappa(&first, &second, 2).unwrap().unwrap().abs() < 1e-15);
        assert_eq!(cohen_kappa(&[1, 1], &[1, 1], 2), Ok(None));
        // One always says 0, the other always 1: chance disagrees as much
        assert_eq!(cohen_kappa(&[0, 0], &[1, 1], 2), Ok(Some(0.0)));
    }

    #[test]
    fn the_definition_with_shares_on_random_judgements() {
        for trial in 0..30_u64 {
            let mut random = Key::new(1, "kappa", trial).stream();
            let (n, c) = (2 + random.below(40), 2 + random.below(5));
            let first: Vec<usize> = (0..n).map(|_| random.below(c)).collect();
            let second: Vec<usize> = first
                .iter()
                .map(|&i| if random.chance(0.6) { i } else { random.below(c) })
                .collect();
            for weights in [Weights::Equal, Weights::Linear, Weights::Quadratic] {
                let share = |list: &[usize], i| list.iter().filter(|&&x| x == i).count() as f64 / n as f64;
                let (mut above, mut below) = (0.0, 0.0);
                for i in 0..c {
                    for j in 0..c {
                        let both = first.iter().zip(&second).filter(|&(&a, &b)| (a, b) == (i, j)).count();
                        above += weights.of(i, j) * both as f64 / n as f64;
                        below += weights.of(i, j) * share(&first, i) * share(&second, j);
                    }
                }
                let got = weighted_kappa(&first, &second, c, weights).unwrap();
                match got {
                    None => assert_eq!(below, 0.0),
                    Some(got) => assert!((got - (1.0 - above / below)).abs() < 1e-12, "{got}"),
                }
            }
        }
    }

    #[test]
    fn refusals() {
        assert!(cohen_kappa(&[], &[], 2).is_err());
        assert!(cohen_kappa(&[0], &[0, 1], 2).is_err());
        let error = cohen_kappa(&[0, 2], &[0, 1], 2).unwrap_err().to_string();
        assert!(error.contains("`category` is 2"), "{error}");
        assert!(cohen_kappa(&[0], &[0], 0).is_err());
    }
}
