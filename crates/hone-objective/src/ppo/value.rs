//! loss = value_coef * (1/2) * (1/N) * sum of max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2)

use crate::statistics::Moments;
use crate::{Error, check_count, check_length, check_setting, clip, count, max_or_nan};

/// Settings of [`value_loss`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueConfig {
    /// How far a value may move from the one at the rollout before its gradient stops. Default 0.2; infinity never clips.
    #[doc(alias = "cliprange_value")]
    pub value_clip_range: f64,
    /// Weight of the value loss beside the policy loss. Default 0.1.
    #[doc(alias = "vf_coef")]
    pub value_coef: f64,
}

impl Default for ValueConfig {
    fn default() -> Self {
        Self {
            value_clip_range: 0.2,
            value_coef: 0.1,
        }
    }
}

/// What [`value_loss`] reads, each `[tokens]`.
#[derive(Clone, Copy, Debug)]
pub struct ValueInputs<'a> {
    /// Values as they are now, read at the position before each token.
    pub values: &'a [f32],
    /// As they were at the rollout.
    pub old_values: &'a [f32],
    /// Returns, from [`super::prepare`].
    pub returns: &'a [f32],
    /// True at the responses' tokens.
    pub mask: &'a [bool],
}

/// Loss, gradient and statistics of [`value_loss`].
#[derive(Clone, Debug, PartialEq)]
pub struct ValueLoss {
    /// This part's share of the minibatch's loss, `value_coef` included.
    pub loss: f64,
    /// Gradient of the loss with respect to `values`, `[tokens]`.
    pub grad_values: Vec<f32>,
    /// Statistics over tokens.
    pub stats: ValueStats,
}

/// Statistics over tokens; parts add up with [`ValueStats::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ValueStats {
    /// Tokens whose clipped error is the larger (`val/clipfrac_avg`).
    pub clipped: u64,
    /// The values now.
    pub value: Moments,
    /// The returns.
    pub returns: Moments,
    /// Returns less values.
    pub residual: Moments,
    /// Sum of the tokens' losses, without `value_coef` (`loss/value_avg`).
    pub loss_sum: f64,
}

impl ValueStats {
    /// Adds another part's.
    pub fn merge(&mut self, other: &Self) {
        self.clipped += other.clipped;
        self.value.merge(&other.value);
        self.returns.merge(&other.returns);
        self.residual.merge(&other.residual);
        self.loss_sum += other.loss_sum;
    }

    /// Share of tokens whose clipped error is the larger; NaN without tokens.
    pub fn clipfrac(&self) -> f64 {
        self.clipped as f64 / self.value.count() as f64
    }

    /// Mean loss a token without `value_coef`; NaN without tokens.
    pub fn mean_loss(&self) -> f64 {
        self.loss_sum / self.value.count() as f64
    }

    /// Share of the returns' variance that the values explain: 1 is perfect, 0 no better than a constant, negative is worse. NaN where
    /// all returns are equal.
    pub fn explained_variance(&self) -> f64 {
        if self.returns.variance() == 0.0 {
            return f64::NAN;
        }
        1.0 - self.residual.variance() / self.returns.variance()
    }
}

/// The clipped value loss of a part of a minibatch, in which `global_tokens` tokens lie under the mask.
///
/// # Errors
/// Slices of unequal length; a negative clip range or coefficient; a global count that is 0 or below this part's own.
pub fn value_loss(inputs: &ValueInputs<'_>, config: ValueConfig, global_tokens: u64) -> Result<ValueLoss, Error> {
    let ValueConfig {
        value_clip_range,
        value_coef,
    } = config;
    let n = inputs.values.len();
    check_length("value_loss", "old_values", inputs.old_values.len(), n)?;
    check_length("value_loss", "returns", inputs.returns.len(), n)?;
    check_length("value_loss", "mask", inputs.mask.len(), n)?;
    check_setting(
        "value_loss",
        "value_clip_range",
        value_clip_range,
        value_clip_range >= 0.0,
        "0 or more",
    )?;
    check_setting(
        "value_loss",
        "value_coef",
        value_coef,
        value_coef >= 0.0 && value_coef.is_finite(),
        "0 or more",
    )?;
    check_count("value_loss", "tokens", global_tokens, count(inputs.mask))?;

    let scale = value_coef / global_tokens as f64;
    let mut grad_values = vec![0.0; n];
    let mut stats = ValueStats::default();
    for t in (0..n).filter(|&t| inputs.mask[t]) {
        let (value, old) = (f64::from(inputs.values[t]), f64::from(inputs.old_values[t]));
        let target = f64::from(inputs.returns[t]);
        let near = clip(value, old - value_clip_range, old + value_clip_range);
        let (unclipped, clipped) = ((value - target) * (value - target), (near - target) * (near - target));
        if clipped > unclipped {
            // Constant in V here: the value is outside the range
            stats.clipped += 1;
        } else {
            grad_values[t] = (scale * (value - target)) as f32;
        }
        stats.loss_sum += 0.5 * max_or_nan(unclipped, clipped);
        stats.value.push(value);
        stats.returns.push(target);
        stats.residual.push(target - value);
    }
    Ok(ValueLoss {
        loss: scale * stats.loss_sum,
        grad_values,
        stats,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: ValueConfig = ValueConfig {
        value_clip_range: f64::INFINITY,
        value_coef: 1.0,
    };

    #[test]
    fn by_hand() {
        // Old value 0, range 0.5. A value of 1 with return 2 is clipped to 0.5, whose error is larger: no gradient. With return -1 its own
        // error is larger: gradient 2. A value of 0.25 is within the range.
        let inputs = ValueInputs {
            values: &[1.0, 1.0, 0.25, f32::NAN],
            old_values: &[0.0; 4],
            returns: &[2.0, -1.0, 0.75, f32::NAN],
            mask: &[true, true, true, false],
        };
        let out = value_loss(
            &inputs,
            ValueConfig {
                value_clip_range: 0.5,
                value_coef: 0.5,
            },
            4,
        )
        .unwrap();
        assert_eq!(out.stats.loss_sum, 0.5 * (2.25 + 4.0 + 0.25));
        assert_eq!(out.loss, 0.5 * 3.25 / 4.0);
        assert_eq!(out.grad_values, [0.0, 0.25, -0.0625, 0.0]);
        assert_eq!(out.stats.clipped, 1);
        assert!((out.stats.clipfrac() - 1.0 / 3.0).abs() < 1e-15);
    }

    #[test]
    fn explained_variance_by_hand() {
        let run = |values: &[f32]| {
            let inputs = ValueInputs {
                values,
                old_values: values,
                returns: &[1.0, 2.0, 3.0, 4.0],
                mask: &[true; 4],
            };
            value_loss(&inputs, PLAIN, 4).unwrap().stats.explained_variance()
        };
        assert_eq!(run(&[1.0, 2.0, 3.0, 4.0]), 1.0);
        assert_eq!(run(&[7.0; 4]), 0.0);
        // A constant offset is not variance; half the slope leaves a quarter of it
        assert_eq!(run(&[11.0, 12.0, 13.0, 14.0]), 1.0);
        assert_eq!(run(&[0.5, 1.0, 1.5, 2.0]), 0.75);
        let inputs = ValueInputs {
            values: &[1.0],
            old_values: &[1.0],
            returns: &[1.0],
            mask: &[true],
        };
        assert!(
            value_loss(&inputs, PLAIN, 1)
                .unwrap()
                .stats
                .explained_variance()
                .is_nan()
        );
    }

    #[test]
    fn nothing_non_finite_is_hidden() {
        for (value, target) in [(f32::NAN, 0.0), (0.0, f32::NAN), (f32::INFINITY, 0.0)] {
            let inputs = ValueInputs {
                values: &[value],
                old_values: &[0.0],
                returns: &[target],
                mask: &[true],
            };
            assert!(!value_loss(&inputs, ValueConfig::default(), 1).unwrap().loss.is_finite());
        }
    }

    #[test]
    fn refusals() {
        let inputs = ValueInputs {
            values: &[0.0],
            old_values: &[0.0],
            returns: &[0.0],
            mask: &[true],
        };
        assert!(
            value_loss(
                &inputs,
                ValueConfig {
                    value_clip_range: -1.0,
                    ..PLAIN
                },
                1
            )
            .is_err()
        );
        assert!(
            value_loss(
                &inputs,
                ValueConfig {
                    value_coef: f64::NAN,
                    ..PLAIN
                },
                1
            )
            .is_err()
        );
        assert!(value_loss(&ValueInputs { returns: &[], ..inputs }, PLAIN, 1).is_err());
        assert!(value_loss(&inputs, PLAIN, 0).is_err());
    }
}
