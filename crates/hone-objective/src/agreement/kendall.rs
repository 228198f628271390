//! Kendall's tau-b of two orders of the same things, ties allowed.
//!
//! Sources: Kendall, "The treatment of ties in ranking problems", 1945; Knight, "A computer method for calculating Kendall's tau with
//! ungrouped data", 1966.
//!
//! `tau_b = (C - D) / sqrt((P - T_x) (P - T_y))` with C pairs in the same order on both sides, D in opposite order, P all pairs, T_x
//! and T_y those tied on either side.
//!
//! Where it differs from other implementations:
//! 1. Where one side is all tied tau-b is undefined: `None`.

use crate::{Error, check_length};

/// Kendall's tau-b of pairs of numbers, such as two people's ranks of the same answers; `None` where one side is all tied.
/// Takes `n log n` steps.
///
/// # Errors
/// Slices of unequal length; fewer than two pairs; a number that is not finite.
pub fn kendall_tau_b(x: &[f64], y: &[f64]) -> Result<Option<f64>, Error> {
    const OP: &str = "kendall_tau_b";
    check_length(OP, "y", y.len(), x.len())?;
    if x.len() < 2 {
        return Err(Error::TooFew {
            op: OP,
            what: "the set of pairs",
            at_least: 2,
        });
    }
    if let Some(&got) = x.iter().chain(y).find(|number| !number.is_finite()) {
        return Err(Error::NotFinite {
            op: OP,
            name: "x or y",
            got,
        });
    }
    // Adding 0 turns -0 into 0, so that the total order knows them as equal
    let mut pairs: Vec<(f64, f64)> = x.iter().zip(y).map(|(&x, &y)| (x + 0.0, y + 0.0)).collect();
    pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let tied_x = tied(pairs.chunk_by(|a, b| a.0 == b.0));
    let tied_both = tied(pairs.chunk_by(|a, b| a == b));
    let mut second: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
    // In the order of x, every exchange that sorting y needs is a pair in opposite order
    let opposite = exchanges(&mut second);
    let tied_y = tied(second.chunk_by(|a, b| a == b));
    let all = pairs_of(x.len());
    if tied_x == all || tied_y == all {
        return Ok(None);
    }
    // C + D + T_x + T_y - T_both = P
    let net = all as f64 - tied_x as f64 - tied_y as f64 + tied_both as f64 - 2.0 * opposite as f64;
    let scale = ((all - tied_x) as f64 * (all - tied_y) as f64).sqrt();
    Ok(Some(crate::clip(net / scale, -1.0, 1.0)))
}

fn pairs_of(n: usize) -> u64 {
    let n = n as u64;
    n * n.saturating_sub(1) / 2
}

fn tied<'a, T: 'a>(runs: impl Iterator<Item = &'a [T]>) -> u64 {
    runs.map(|run| pairs_of(run.len())).sum()
}

/// Sorts by merging and counts the pairs that stood in descending order.
fn exchanges(numbers: &mut [f64]) -> u64 {
    if numbers.len() < 2 {
        return 0;
    }
    let middle = numbers.len() / 2;
    let mut count = exchanges(&mut numbers[..middle]) + exchanges(&mut numbers[middle..]);
    let mut merged = Vec::with_capacity(numbers.len());
    let (mut i, mut j) = (0, middle);
    while i < middle && j < numbers.len() {
        if numbers[j] < numbers[i] {
            count += (middle - i) as u64;
            merged.push(numbers[j]);
            j += 1;
        } else {
            merged.push(numbers[i]);
            i += 1;
        }
    }
    merged.extend_from_slice(&numbers[i..middle]);
    merged.extend_from_slice(&numbers[j..]);
    numbers.copy_from_slice(&merged);
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    #[test]
    fn by_hand() {
        // Six pairs, one of them in opposite order
        assert!(
            (kendall_tau_b(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 4.0])
                .unwrap()
                .unwrap()
                - 4.0 / 6.0)
                .abs()
                < 1e-15
        );
        // Ten pairs, two tied in x and one in y, two of the others in the same order and six opposite: -4 / sqrt(8 * 9)
        let got = kendall_tau_b(&[12.0, 2.0, 1.0, 12.0, 2.0], &[1.0, 4.0, 7.0, 1.0, 0.0]);
        assert!((got.unwrap().unwrap() + 4.0 / 72_f64.sqrt()).abs() < 1e-15);
        assert_eq!(kendall_tau_b(&[1.0, 2.0, 3.0], &[9.0, 8.0, 7.0]), Ok(Some(-1.0)));
        assert_eq!(kendall_tau_b(&[0.0, -0.0, 1.0], &[1.0, 1.0, 2.0]), Ok(Some(1.0)));
    }

    #[test]
    fn the_definition_over_all_pairs_on_random_ranks() {
        for trial in 0..200_u64 {
            let mut random = Key::new(1, "tau", trial).stream();
            let (n, top) = (2 + random.below(30), 1 + random.below(8));
            let mut draw = || (0..n).map(|_| random.below(top) as f64).collect::<Vec<f64>>();
            let (x, y) = (draw(), draw());
            let (mut net, mut in_x, mut in_y) = (0_i64, 0_i64, 0_i64);
            for i in 0..n {
                for j in 0..i {
                    let (a, b) = (x[i].total_cmp(&x[j]) as i64, y[i].total_cmp(&y[j]) as i64);
                    net += a * b;
                    in_x += a * a;
                    in_y += b * b;
                }
            }
            match kendall_tau_b(&x, &y).unwrap() {
                None => assert!(in_x == 0 || in_y == 0),
                Some(got) => {
                    let expected = net as f64 / (in_x as f64 * in_y as f64).sqrt();
                    assert!((got - expected).abs() < 1e-12, "{got} {expected}");
                }
            }
        }
    }

    #[test]
    fn undefined_and_refusals() {
        assert_eq!(kendall_tau_b(&[1.0, 1.0], &[1.0, 2.0]), Ok(None));
        assert!(kendall_tau_b(&[1.0], &[1.0]).is_err());
        assert!(kendall_tau_b(&[1.0, 2.0], &[1.0]).is_err());
        assert!(kendall_tau_b(&[1.0, f64::INFINITY], &[1.0, 2.0]).is_err());
    }
}
