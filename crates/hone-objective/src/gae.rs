//! Generalised advantage estimation.
//!
//! delta_t = r_t + gamma * V_{t+1} - V_t
//! A_t     = delta_t + gamma * lambda * A_{t+1}
//! return_t = A_t + V_t
//!
//! Source: Schulman et al., "High-dimensional continuous control using generalized advantage estimation", 2016, equation 16.
//!
//! Where it differs from other implementations:
//! 1. `values[t]` belongs to the action of choosing token t: it was read at the position *before* token t, where the policy's
//!    distribution for that token was read too. Rewards, log-probabilities and values of a token share one index.
//! 2. The value after a sequence's last token is 0, also where the length limit cut the response: there is no bootstrap. Such a response
//!    carries its missing-EOS score instead (see `rewards`).
//! 3. Sequences have a length each and never leak into one another; a token outside the mask (padding on either side, or another
//!    speaker's turn in the middle) is stepped over, as if it were not there.
//! 4. Returns come from advantages *before* whitening, as in Ziegler's code; whitening is a step of its own.

use crate::{Error, check_length, check_setting};

/// Discount and trace decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GaeConfig {
    /// Discount a token. Default 1.
    pub gamma: f64,
    /// Trace decay: 1 is the Monte Carlo return, 0 the one-step difference. Default 0.95.
    #[doc(alias = "lam")]
    pub gae_lambda: f64,
}

impl Default for GaeConfig {
    fn default() -> Self {
        Self {
            gamma: 1.0,
            gae_lambda: 0.95,
        }
    }
}

/// What [`gae`] reads; the first three are `[sum of lengths]`.
#[derive(Clone, Copy, Debug)]
pub struct GaeInputs<'a> {
    /// Reward of each token.
    pub rewards: &'a [f32],
    /// Value read at the position before each token.
    pub values: &'a [f32],
    /// True at the tokens that the policy chose.
    pub mask: &'a [bool],
    /// Length of each sequence, `[b]`.
    pub lengths: &'a [usize],
}

/// What [`gae`] returns; both are `[sum of lengths]` and 0 outside the mask.
#[derive(Clone, Debug, PartialEq)]
pub struct Gae {
    /// How much better each token was than the value expected.
    pub advantages: Vec<f32>,
    /// Targets of the value loss.
    pub returns: Vec<f32>,
}

/// Advantages and returns of a batch of sequences.
///
/// # Errors
/// Slices of unequal length; lengths that do not add up to the tokens; gamma or lambda outside `[0, 1]`.
pub fn gae(inputs: &GaeInputs<'_>, config: GaeConfig) -> Result<Gae, Error> {
    let n = inputs.rewards.len();
    check_length("gae", "values", inputs.values.len(), n)?;
    check_length("gae", "mask", inputs.mask.len(), n)?;
    let unit = 0.0..=1.0;
    check_setting("gae", "gamma", config.gamma, unit.contains(&config.gamma), "0 to 1")?;
    check_setting(
        "gae",
        "gae_lambda",
        config.gae_lambda,
        unit.contains(&config.gae_lambda),
        "0 to 1",
    )?;

    let mut out = Gae {
        advantages: vec![0.0; n],
        returns: vec![0.0; n],
    };
    for range in ranges("gae", inputs.lengths, n)? {
        let (mut next_advantage, mut next_value) = (0.0, 0.0);
        for t in range.rev().filter(|&t| inputs.mask[t]) {
            let value = f64::from(inputs.values[t]);
            let delta = f64::from(inputs.rewards[t]) + config.gamma * next_value - value;
            next_advantage = delta + config.gamma * config.gae_lambda * next_advantage;
            next_value = value;
            out.advantages[t] = next_advantage as f32;
            out.returns[t] = (next_advantage + value) as f32;
        }
    }
    Ok(out)
}

/// Where each sequence lies in a flat array of `tokens` elements.
///
/// # Errors
/// Lengths that do not add up to `tokens`.
pub(crate) fn ranges(
    op: &'static str,
    lengths: &[usize],
    tokens: usize,
) -> Result<impl Iterator<Item = std::ops::Range<usize>>, Error> {
    let total = lengths.iter().fold(0_usize, |sum, &length| sum.saturating_add(length));
    check_length(op, "sum of lengths", total, tokens)?;
    Ok(lengths.iter().scan(0, |start, &length| {
        let range = *start..*start + length;
        *start += length;
        Some(range)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    fn random(n: usize, salt: u64) -> Vec<f32> {
        let key = Key::new(5, "gae", salt);
        (0..n).map(|i| key.normal(i as u64) as f32).collect()
    }

    #[test]
    fn by_hand() {
        // gamma 0.5, lambda 0.5: deltas 1 + 0.5*4 - 2 = 1 and 3 - 4 = -1; A_1 = -1, A_0 = 1 - 0.25
        let inputs = GaeInputs {
            rewards: &[1.0, 3.0],
            values: &[2.0, 4.0],
            mask: &[true; 2],
            lengths: &[2],
        };
        let out = gae(
            &inputs,
            GaeConfig {
                gamma: 0.5,
                gae_lambda: 0.5,
            },
        )
        .unwrap();
        assert_eq!(out.advantages, [0.75, -1.0]);
        assert_eq!(out.returns, [2.75, 3.0]);
    }

    /// The definition as a double sum: A_t = sum over l of (gamma lambda)^l delta_{t+l}.
    #[test]
    fn agrees_with_the_double_sum() {
        let (rewards, values) = (random(12, 1), random(12, 2));
        let config = GaeConfig {
            gamma: 0.9,
            gae_lambda: 0.8,
        };
        let lengths = [5, 0, 7];
        let out = gae(
            &GaeInputs {
                rewards: &rewards,
                values: &values,
                mask: &[true; 12],
                lengths: &lengths,
            },
            config,
        )
        .unwrap();
        for (start, end) in [(0, 5), (5, 12)] {
            for t in start..end {
                let mut sum = 0.0;
                for l in t..end {
                    let next = if l + 1 < end { f64::from(values[l + 1]) } else { 0.0 };
                    let delta = f64::from(rewards[l]) + 0.9 * next - f64::from(values[l]);
                    sum += (0.9_f64 * 0.8).powi((l - t) as i32) * delta;
                }
                assert!((f64::from(out.advantages[t]) - sum).abs() < 1e-6);
                assert!((f64::from(out.returns[t]) - sum - f64::from(values[t])).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn lambda_1_and_gamma_1_give_reward_to_go_minus_value() {
        let (rewards, values) = (random(8, 3), random(8, 4));
        let inputs = GaeInputs {
            rewards: &rewards,
            values: &values,
            mask: &[true; 8],
            lengths: &[8],
        };
        let out = gae(
            &inputs,
            GaeConfig {
                gamma: 1.0,
                gae_lambda: 1.0,
            },
        )
        .unwrap();
        for t in 0..8 {
            let to_go: f64 = rewards[t..].iter().map(|&r| f64::from(r)).sum();
            assert!((f64::from(out.advantages[t]) - (to_go - f64::from(values[t]))).abs() < 1e-6);
            assert!((f64::from(out.returns[t]) - to_go).abs() < 1e-6);
        }
    }

    #[test]
    fn tokens_outside_the_mask_are_as_if_absent() {
        let dense = GaeInputs {
            rewards: &[1.0, 2.0, 3.0],
            values: &[0.1, 0.2, 0.3],
            mask: &[true; 3],
            lengths: &[3],
        };
        let dense = gae(&dense, GaeConfig::default()).unwrap();
        let (x, mask) = (f32::NAN, [false, true, true, false, true, false]);
        let sparse = GaeInputs {
            rewards: &[x, 1.0, 2.0, x, 3.0, x],
            values: &[x, 0.1, 0.2, x, 0.3, x],
            mask: &mask,
            lengths: &[6],
        };
        let sparse = gae(&sparse, GaeConfig::default()).unwrap();
        for (k, t) in [1, 2, 4].into_iter().enumerate() {
            assert_eq!(sparse.advantages[t], dense.advantages[k]);
            assert_eq!(sparse.returns[t], dense.returns[k]);
        }
        assert!(
            [0, 3, 5]
                .iter()
                .all(|&t| sparse.advantages[t] == 0.0 && sparse.returns[t] == 0.0)
        );
    }

    #[test]
    fn refusals() {
        let inputs = GaeInputs {
            rewards: &[0.0; 3],
            values: &[0.0; 3],
            mask: &[true; 3],
            lengths: &[2, 2],
        };
        assert!(matches!(
            gae(&inputs, GaeConfig::default()),
            Err(Error::ShapeMismatch {
                expected: 3,
                got: 4,
                ..
            })
        ));
        let inputs = GaeInputs {
            lengths: &[usize::MAX, 2],
            ..inputs
        };
        assert!(gae(&inputs, GaeConfig::default()).is_err());
        let inputs = GaeInputs {
            lengths: &[3],
            ..inputs
        };
        assert!(
            gae(
                &inputs,
                GaeConfig {
                    gamma: 1.1,
                    gae_lambda: 1.0
                }
            )
            .is_err()
        );
        assert!(
            gae(
                &inputs,
                GaeConfig {
                    gamma: 1.0,
                    gae_lambda: f64::NAN
                }
            )
            .is_err()
        );
    }
}
