//! Whitening: bringing the numbers under a mask to variance 1.
//!
//! whiten:            (x - mean) / sqrt(var + 1e-8)
//! whiten_keep_mean:  (x - mean) / sqrt(var + 1e-8) + mean
//!
//! Source: Ziegler et al., "Fine-tuning language models from human preferences", 2019, and its code (`utils.whiten`).
//!
//! Where it differs from other implementations:
//! 1. Two functions instead of one with the flag `shift_mean`, which is easily read the wrong way round.
//! 2. The variance divides by n, as in Ziegler's code (`tf.nn.moments`), so that what comes out has variance 1. TRL and verl divide by
//!    n - 1: theirs is ours times sqrt((n - 1)/n).
//! 3. Only places under the mask are written; the others are 0. TRL whitens padding too and clears it afterwards.
//! 4. The statistics are prepared over the whole rollout batch and then applied to any part of it. Ziegler's code whitens each
//!    minibatch by its own statistics.

use crate::statistics::Moments;
use crate::{Error, check_length};

/// Added to the variance before the square root.
pub const EPSILON: f64 = 1e-8;

/// Mean and scale of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Whitening {
    /// Mean under the mask.
    pub mean: f64,
    /// `1 / sqrt(var + 1e-8)`.
    pub scale: f64,
}

impl Whitening {
    /// Statistics of a whole batch; `x` and `mask` are `[tokens]`.
    ///
    /// # Errors
    /// Slices of unequal length; no token under the mask.
    pub fn prepare(x: &[f32], mask: &[bool]) -> Result<Self, Error> {
        check_length("whiten", "mask", mask.len(), x.len())?;
        let mut moments = Moments::default();
        for (&x, _) in x.iter().zip(mask).filter(|&(_, &counts)| counts) {
            moments.push(f64::from(x));
        }
        if moments.count() == 0 {
            return Err(Error::TooFew {
                op: "whiten",
                what: "the set of tokens under the mask",
                at_least: 1,
            });
        }
        Ok(Self::from_moments(&moments))
    }

    /// Mean and scale of a batch whose moments are known.
    pub(crate) fn from_moments(moments: &Moments) -> Self {
        Self {
            mean: moments.mean(),
            scale: 1.0 / (moments.variance() + EPSILON).sqrt(),
        }
    }

    /// `x` with mean 0 and variance 1 in the batch that was prepared; 0 outside the mask.
    ///
    /// # Errors
    /// Slices of unequal length.
    pub fn apply(&self, x: &[f32], mask: &[bool]) -> Result<Vec<f32>, Error> {
        self.scaled(x, mask, 0.0)
    }

    /// `x` with variance 1 about the mean it had; 0 outside the mask.
    ///
    /// # Errors
    /// Slices of unequal length.
    pub fn apply_keep_mean(&self, x: &[f32], mask: &[bool]) -> Result<Vec<f32>, Error> {
        self.scaled(x, mask, self.mean)
    }

    fn scaled(&self, x: &[f32], mask: &[bool], add: f64) -> Result<Vec<f32>, Error> {
        check_length("whiten", "mask", mask.len(), x.len())?;
        let one = |x: f32| ((f64::from(x) - self.mean) * self.scale + add) as f32;
        Ok(x.iter()
            .zip(mask)
            .map(|(&x, &counts)| if counts { one(x) } else { 0.0 })
            .collect())
    }
}

/// Whitens a whole batch and removes its mean: what advantages get.
///
/// # Errors
/// Slices of unequal length; no token under the mask.
pub fn whiten(x: &[f32], mask: &[bool]) -> Result<Vec<f32>, Error> {
    Whitening::prepare(x, mask)?.apply(x, mask)
}

/// Whitens a whole batch and keeps its mean: what rewards get, where they are whitened at all.
///
/// # Errors
/// Slices of unequal length; no token under the mask.
pub fn whiten_keep_mean(x: &[f32], mask: &[bool]) -> Result<Vec<f32>, Error> {
    Whitening::prepare(x, mask)?.apply_keep_mean(x, mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    #[test]
    fn by_hand() {
        // Mean 3, variance 4
        let x = [1.0, 99.0, 5.0, 1.0, 5.0];
        let mask = [true, false, true, true, true];
        assert_eq!(whiten(&x, &mask).unwrap(), [-1.0, 0.0, 1.0, -1.0, 1.0]);
        assert_eq!(whiten_keep_mean(&x, &mask).unwrap(), [2.0, 0.0, 4.0, 2.0, 4.0]);
    }

    #[test]
    fn mean_0_and_variance_1_under_the_mask() {
        let key = Key::new(1, "whiten", 0);
        let x: Vec<f32> = (0..999).map(|i| (1000.0 + 3.0 * key.normal(i)) as f32).collect();
        let mask: Vec<bool> = (0..999).map(|i| key.child(1).below(i, 3) > 0).collect();
        let mean_and_variance = |x: &[f32]| {
            let kept: Vec<f64> = x
                .iter()
                .zip(&mask)
                .filter(|&(_, &m)| m)
                .map(|(&x, _)| f64::from(x))
                .collect();
            let n = kept.len() as f64;
            let mean = kept.iter().sum::<f64>() / n;
            (mean, kept.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n)
        };
        let (mean, variance) = mean_and_variance(&whiten(&x, &mask).unwrap());
        assert!(mean.abs() < 1e-7 && (variance - 1.0).abs() < 1e-6, "{mean} {variance}");
        // About 1000 a single-precision number has steps of 6e-5
        let (mean, variance) = mean_and_variance(&whiten_keep_mean(&x, &mask).unwrap());
        assert!(
            (mean - mean_and_variance(&x).0).abs() < 1e-5 && (variance - 1.0).abs() < 1e-4,
            "{mean} {variance}"
        );
    }

    #[test]
    fn equal_numbers_become_0_and_padding_does_not_matter() {
        assert_eq!(whiten(&[7.0; 3], &[true; 3]).unwrap(), [0.0; 3]);
        let a = whiten(&[1.0, 2.0, 4.0], &[true; 3]).unwrap();
        let b = whiten(
            &[f32::NAN, 1.0, 2.0, f32::INFINITY, 4.0],
            &[false, true, true, false, true],
        )
        .unwrap();
        assert_eq!([b[1], b[2], b[4]], a[..]);
        assert_eq!([b[0], b[3]], [0.0; 2]);
    }

    #[test]
    fn refusals() {
        assert!(matches!(whiten(&[1.0], &[false]), Err(Error::TooFew { .. })));
        assert!(matches!(
            whiten(&[1.0], &[]),
            Err(Error::ShapeMismatch {
                expected: 1,
                got: 0,
                ..
            })
        ));
    }
}
