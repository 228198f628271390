//! Fleiss' kappa of any number of judges.
//!
//! Source: Fleiss, "Measuring nominal scale agreement among many raters", 1971.
//!
//! With `n_ij` the judges who put item i into category j, n judges an item and N items:
//! `P_i = (sum_j n_ij^2 - n) / (n (n - 1))`, `p_j = sum_i n_ij / (N n)`, `P_e = sum_j p_j^2`,
//! `kappa = (mean of P_i - P_e) / (1 - P_e)`.
//!
//! Where it differs from other implementations:
//! 1. An item with another number of judgements is refused; [`super::krippendorff_alpha`] takes such items.
//! 2. Where only one category was ever used kappa is undefined: `None`.

use crate::{Error, check_setting};

/// Fleiss' kappa of counts `[items, categories]`, one row an item: how many judges named each category. `None` where it is undefined.
///
/// # Errors
/// No category; a length that is no multiple of `categories`; no item; fewer than two judges an item, or not the same number.
pub fn fleiss_kappa(counts: &[u64], categories: usize) -> Result<Option<f64>, Error> {
    const OP: &str = "fleiss_kappa";
    check_setting(OP, "categories", categories as f64, categories > 0, "1 or more")?;
    let items = counts.len() / categories;
    crate::check_length(OP, "counts", counts.len(), items * categories)?;
    if items == 0 {
        return Err(Error::TooFew {
            op: OP,
            what: "the set of items",
            at_least: 1,
        });
    }
    let judges: u64 = counts[..categories].iter().sum();
    check_setting(OP, "judges an item", judges as f64, judges >= 2, "2 or more")?;
    let mut named = vec![0_u64; categories];
    let mut squares = 0_u64;
    for row in counts.chunks_exact(categories) {
        let own: u64 = row.iter().sum();
        check_setting(
            OP,
            "judges an item",
            own as f64,
            own == judges,
            "the same number for every item",
        )?;
        for (total, count) in named.iter_mut().zip(row) {
            *total += count;
        }
        squares += row.iter().map(|count| count * count).sum::<u64>();
    }
    let (n, all) = (judges as f64, items as f64);
    let observed = (squares as f64 - all * n) / (all * n * (n - 1.0));
    if named.iter().filter(|&&total| total > 0).count() < 2 {
        return Ok(None);
    }
    let expected: f64 = named
        .iter()
        .map(|&total| (total as f64 / (all * n)) * (total as f64 / (all * n)))
        .sum();
    Ok(Some((observed - expected) / (1.0 - expected)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    /// Fourteen judges, ten items, five categories: the worked example that most introductions print, with kappa 0.210.
    #[test]
    fn the_published_example() {
        #[rustfmt::skip]
        let counts = [
            0, 0, 0, 0, 14,
            0, 2, 6, 4, 2,
            0, 0, 3, 5, 6,
            0, 3, 9, 2, 0,
            2, 2, 8, 1, 1,
            7, 7, 0, 0, 0,
            3, 2, 6, 3, 0,
            2, 5, 3, 2, 2,
            6, 5, 2, 1, 0,
            0, 2, 2, 3, 7,
        ];
        let kappa = fleiss_kappa(&counts, 5).unwrap().unwrap();
        assert!((kappa - 0.210).abs() < 5e-4, "{kappa}");
    }

    /// `P_i` is the share of pairs of judges that agree on item i, and `P_e` that of two judgements drawn from all.
    #[test]
    fn shares_of_agreeing_pairs_on_random_judgements() {
        for trial in 0..30_u64 {
            let mut random = Key::new(1, "fleiss", trial).stream();
            let (items, judges, c) = (1 + random.below(12), 2 + random.below(5), 2 + random.below(4));
            let judged: Vec<Vec<usize>> = (0..items)
                .map(|_| (0..judges).map(|_| random.below(c)).collect())
                .collect();
            let mut counts = vec![0; items * c];
            for (i, item) in judged.iter().enumerate() {
                item.iter().for_each(|&j| counts[i * c + j] += 1);
            }
            let mut agreeing = 0.0;
            for item in &judged {
                for a in 0..judges {
                    agreeing += (0..judges).filter(|&b| a != b && item[a] == item[b]).count() as f64;
                }
            }
            let observed = agreeing / (items * judges * (judges - 1)) as f64;
            let all: Vec<usize> = judged.concat();
            let mut same = 0;
            for a in &all {
                same += all.iter().filter(|b| a == *b).count();
            }
            let expected = same as f64 / (all.len() * all.len()) as f64;
            match fleiss_kappa(&counts, c).unwrap() {
                None => assert_eq!(expected, 1.0),
                Some(got) => {
                    assert!((got - (observed - expected) / (1.0 - expected)).abs() < 1e-12, "{got}");
                }
            }
        }
    }

    #[test]
    fn undefined_and_refusals() {
        assert_eq!(fleiss_kappa(&[0, 3, 0, 3], 2), Ok(None));
        assert_eq!(fleiss_kappa(&[3, 0, 0, 3], 2), Ok(Some(1.0)));
        assert!(fleiss_kappa(&[], 2).is_err());
        assert!(fleiss_kappa(&[1, 2, 3], 2).is_err());
        assert!(fleiss_kappa(&[1, 0], 2).is_err());
        let error = fleiss_kappa(&[1, 2, 2, 2], 2).unwrap_err().to_string();
        assert!(
            error.contains("is 4") && error.contains("the same number for every item"),
            "{error}"
        );
        assert!(fleiss_kappa(&[1], 0).is_err());
    }
}
