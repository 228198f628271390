//! Pearson's correlation, such as that of scores with the length of answers.
//!
//! Source: Pearson, "Notes on regression and inheritance in the case of two parents", 1895.
//!
//! Where it differs from other implementations:
//! 1. Two passes about the means, so that a large offset costs no digits.
//! 2. Where one side is constant the correlation is undefined: `None`, not NaN with a warning.

use super::Moments;
use crate::{Error, check_length};

/// Pearson's correlation coefficient of pairs of numbers; `None` where one side is constant.
///
/// # Errors
/// Slices of unequal length; fewer than two pairs; a number that is not finite.
pub fn pearson(x: &[f64], y: &[f64]) -> Result<Option<f64>, Error> {
    check_length("pearson", "y", y.len(), x.len())?;
    if x.len() < 2 {
        return Err(Error::TooFew {
            op: "pearson",
            what: "the set of pairs",
            at_least: 2,
        });
    }
    if let Some(&got) = x.iter().chain(y).find(|number| !number.is_finite()) {
        return Err(Error::NotFinite {
            op: "pearson",
            name: "x or y",
            got,
        });
    }
    // Constant sides are found by comparison: rounding can leave a constant side a variance
    if x.iter().all(|&number| number == x[0]) || y.iter().all(|&number| number == y[0]) {
        return Ok(None);
    }
    let mean = |numbers: &[f64]| numbers.iter().copied().collect::<Moments>().mean();
    let (mean_x, mean_y) = (mean(x), mean(y));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (x - mean_x, y - mean_y);
        xx += x * x;
        yy += y * y;
        xy += x * y;
    }
    Ok(Some(crate::clip(xy / (xx.sqrt() * yy.sqrt()), -1.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // Deviations -1, 0, 1 and -1, 1, 0: 1 / 2
        assert!((pearson(&[1.0, 2.0, 3.0], &[4.0, 6.0, 5.0]).unwrap().unwrap() - 0.5).abs() < 1e-15);
        let x: Vec<f64> = (0..9).map(|i| 1e9 + f64::from(i)).collect();
        let y: Vec<f64> = x.iter().map(|x| 5.0 - 2.0 * x).collect();
        assert!((pearson(&x, &x).unwrap().unwrap() - 1.0).abs() < 1e-12);
        assert!((pearson(&x, &y).unwrap().unwrap() + 1.0).abs() < 1e-12);
    }

    #[test]
    fn constants_and_refusals() {
        assert_eq!(pearson(&[0.1; 3], &[1.0, 2.0, 3.0]), Ok(None));
        assert!(pearson(&[1.0], &[1.0]).is_err());
        assert!(pearson(&[1.0, 2.0], &[1.0]).is_err());
        assert!(pearson(&[1.0, f64::NAN], &[1.0, 2.0]).is_err());
    }
}
