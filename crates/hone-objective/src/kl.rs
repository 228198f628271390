//! Estimates of the divergence from a reference, as numbers, as losses, and the controllers of its coefficient.
//!
//! With d = logp - ref_logp of a token drawn from the policy:
//!
//! | estimator | value | as a loss, gradient with respect to logp |
//! |---|---|---|
//! | k1 | d | 1 |
//! | k2 | d^2 / 2 | d |
//! | k3 | e^-d - 1 + d | 1 - e^-d |
//!
//! k1 and k3 have the expectation KL(policy || reference); k2 is close to it where the two are close. k1 can be negative on a sample,
//! k2 and k3 cannot.
//!
//! As *losses* on samples of the policy they are three different things: k1's gradient averages to exactly 0 and teaches nothing, k2's
//! averages to the gradient of KL(policy || reference), and k3's to that of KL(reference || policy). Subtracting k1 from the
//! reward, which is what PPO does, gives the gradient of KL(policy || reference) too.
//!
//! Sources: Schulman, "Approximating KL divergence", 2020 (the estimators); Ziegler et al., "Fine-tuning language models from human
//! preferences", 2019, section 2.2 and its code (the controller); Shao et al. (GRPO), 2024, equation 4 (k3 as a loss).
//!
//! Where it differs from other implementations:
//! 1. k3 uses a series for |d| < 0.01, where e^-d - 1 + d loses its digits and may come out below 0.
//! 2. No clamp on d or on k3; verl and OpenRLHF have them, which makes the gradient of an outlier 0.
//! 3. The controller refuses a divergence that is not finite instead of turning its coefficient into NaN.

use crate::{Error, check_count, check_length, check_setting, clip, count};

/// Which estimate of the divergence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimator {
    /// `d`: unbiased, may be negative.
    K1,
    /// `d^2 / 2`: biased, small variance.
    K2,
    /// `e^-d - 1 + d`: unbiased, never negative.
    K3,
}

impl Estimator {
    /// The estimate of KL(policy || reference) from one token of the policy, in nats.
    pub fn value(self, logprob: f32, ref_logprob: f32) -> f64 {
        self.of(f64::from(logprob) - f64::from(ref_logprob))
    }

    /// The estimate from `d = logp - ref_logp`.
    pub(crate) fn of(self, d: f64) -> f64 {
        match self {
            Self::K1 => d,
            Self::K2 => 0.5 * d * d,
            // d^2/2 - d^3/6 + d^4/24 - ..., six terms
            Self::K3 if d.abs() < 0.01 => {
                0.5 * d * d * (1.0 - d / 3.0 * (1.0 - d / 4.0 * (1.0 - d / 5.0 * (1.0 - d / 6.0 * (1.0 - d / 7.0)))))
            }
            Self::K3 => hone_math::exp(-d) - 1.0 + d,
        }
    }

    /// Derivative of the estimate with respect to the policy's log-probability, the sampled token held fixed.
    pub(crate) fn derivative(self, d: f64) -> f64 {
        match self {
            Self::K1 => 1.0,
            Self::K2 => d,
            Self::K3 => 1.0 - hone_math::exp(-d),
        }
    }
}

/// Mean log-ratio sums of a batch of tokens under every estimator; parts add up with [`KlStats::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KlStats {
    /// Sum of k1.
    pub k1_sum: f64,
    /// Sum of k2.
    pub k2_sum: f64,
    /// Sum of k3.
    pub k3_sum: f64,
    /// Number of tokens.
    pub tokens: u64,
}

impl KlStats {
    /// Adds one token with `d = logp - ref_logp`.
    pub fn push(&mut self, d: f64) {
        self.k1_sum += Estimator::K1.of(d);
        self.k2_sum += Estimator::K2.of(d);
        self.k3_sum += Estimator::K3.of(d);
        self.tokens += 1;
    }

    /// Adds another part's sums.
    pub fn merge(&mut self, other: &Self) {
        self.k1_sum += other.k1_sum;
        self.k2_sum += other.k2_sum;
        self.k3_sum += other.k3_sum;
        self.tokens += other.tokens;
    }

    /// Mean of an estimator in nats a token; NaN without tokens.
    pub fn mean(&self, estimator: Estimator) -> f64 {
        let sum = match estimator {
            Estimator::K1 => self.k1_sum,
            Estimator::K2 => self.k2_sum,
            Estimator::K3 => self.k3_sum,
        };
        sum / self.tokens as f64
    }
}

/// What [`kl_loss`] reads, each `[tokens]`.
#[derive(Clone, Copy, Debug)]
pub struct KlInputs<'a> {
    /// The policy's log-probabilities.
    pub logprobs: &'a [f32],
    /// The reference's.
    pub ref_logprobs: &'a [f32],
    /// True at the tokens that count.
    pub mask: &'a [bool],
}

/// Loss, gradient and statistics of [`kl_loss`].
#[derive(Clone, Debug, PartialEq)]
pub struct KlLoss {
    /// This part's share of the mean estimate, nats a token. Multiply it and the gradient by the coefficient of the term.
    pub loss: f64,
    /// Gradient of the loss with respect to `logprobs`, `[tokens]`.
    pub grad_logprobs: Vec<f32>,
    /// Sums of all estimators.
    pub stats: KlStats,
}

/// The mean of an estimator over the tokens under the mask, as a loss. The table at the top says what each estimator's gradient is.
///
/// PPO subtracts the divergence from the reward instead; `group::group_loss` has this term inside, with each token's own weight. As a
/// function of its own it is for callers who add the divergence to a loss of theirs.
///
/// `global_tokens` is the number of tokens under the mask in the whole batch.
///
/// # Errors
/// Slices of unequal length; a global count that is 0 or below this part's own.
pub fn kl_loss(inputs: &KlInputs<'_>, estimator: Estimator, global_tokens: u64) -> Result<KlLoss, Error> {
    let n = inputs.logprobs.len();
    check_length("kl_loss", "ref_logprobs", inputs.ref_logprobs.len(), n)?;
    check_length("kl_loss", "mask", inputs.mask.len(), n)?;
    check_count("kl_loss", "tokens", global_tokens, count(inputs.mask))?;
    let global = global_tokens as f64;
    let mut out = KlLoss {
        loss: 0.0,
        grad_logprobs: vec![0.0; n],
        stats: KlStats::default(),
    };
    for t in (0..n).filter(|&t| inputs.mask[t]) {
        let d = f64::from(inputs.logprobs[t]) - f64::from(inputs.ref_logprobs[t]);
        out.loss += estimator.of(d) / global;
        out.grad_logprobs[t] = (estimator.derivative(d) / global) as f32;
        out.stats.push(d);
    }
    Ok(out)
}

/// What sets the coefficient of the divergence in the reward. Its whole state is in its fields, to be stored with a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KlController {
    /// The same coefficient throughout.
    Fixed {
        /// Coefficient of the divergence.
        kl_coef: f64,
    },
    /// Ziegler's proportional controller, which drives the divergence to a target.
    Adaptive(AdaptiveKl),
}

/// Ziegler's controller in log space: `coef *= 1 + clip(KL/target - 1, -0.2, 0.2) * episodes/horizon`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveKl {
    /// The coefficient now. It starts at 0.15.
    pub kl_coef: f64,
    /// Divergence to aim for, nats a response. Default 6.
    pub target: f64,
    /// Episodes over which the coefficient changes by its error. Default 10,000.
    pub horizon: f64,
}

impl Default for AdaptiveKl {
    fn default() -> Self {
        Self {
            kl_coef: 0.15,
            target: 6.0,
            horizon: 10_000.0,
        }
    }
}

impl KlController {
    /// The coefficient for the next rollout.
    pub fn kl_coef(&self) -> f64 {
        match self {
            Self::Fixed { kl_coef } => *kl_coef,
            Self::Adaptive(adaptive) => adaptive.kl_coef,
        }
    }

    /// Takes note of an update's mean divergence in nats a response, over `episodes` responses.
    ///
    /// # Errors
    /// A divergence that is not finite; a target or horizon that is not positive; so many episodes that the coefficient could change
    /// its sign (five horizons or more). The coefficient then stays as it was.
    pub fn update(&mut self, kl: f64, episodes: u64) -> Result<(), Error> {
        let Self::Adaptive(state) = self else {
            return Ok(());
        };
        if !kl.is_finite() {
            return Err(Error::NotFinite {
                op: "kl controller",
                name: "kl",
                got: kl,
            });
        }
        check_setting(
            "kl controller",
            "target",
            state.target,
            state.target > 0.0,
            "more than 0",
        )?;
        let horizon = state.horizon;
        check_setting(
            "kl controller",
            "horizon",
            horizon,
            horizon > 0.2 * episodes as f64,
            "more than a fifth of an update's episodes",
        )?;
        let error = clip(kl / state.target - 1.0, -0.2, 0.2);
        state.kl_coef *= 1.0 + error * episodes as f64 / horizon;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    #[test]
    fn estimators_by_hand() {
        let ln2 = std::f64::consts::LN_2;
        assert_eq!(Estimator::K1.of(ln2), ln2);
        assert_eq!(Estimator::K2.of(2.0), 2.0);
        assert!((Estimator::K3.of(ln2) - (0.5 - 1.0 + ln2)).abs() < 1e-15);
        assert!((Estimator::K3.of(-ln2) - (2.0 - 1.0 - ln2)).abs() < 1e-15);
        for estimator in [Estimator::K1, Estimator::K2, Estimator::K3] {
            assert_eq!(estimator.value(-1.25, -1.25), 0.0);
        }
    }

    #[test]
    fn k3_is_smooth_and_positive_where_the_series_takes_over() {
        for d in [0.009_999_999_f64, 0.010_000_001, -0.009_999_999, -0.010_000_001] {
            // Terms to the ninth power, exact to the last digit here
            let exact: f64 = (2..10)
                .map(|n| (-d).powi(n) / (1..=n).map(f64::from).product::<f64>())
                .sum();
            assert!((Estimator::K3.of(d) / exact - 1.0).abs() < 1e-11, "{d}");
        }
        assert!((Estimator::K3.of(1e-9) / 5e-19 - 1.0).abs() < 1e-8);
        assert!(Estimator::K3.of(f64::NAN).is_nan());
    }

    /// Over all tokens of a small vocabulary, expectations are finite sums.
    #[test]
    fn expectations_and_expected_gradients() {
        let policy = [0.5, 0.3, 0.2_f64];
        let reference = [0.2, 0.2, 0.6_f64];
        let d: Vec<f64> = policy.iter().zip(&reference).map(|(p, q)| (p / q).ln()).collect();
        let kl: f64 = policy.iter().zip(&d).map(|(p, d)| p * d).sum();
        for estimator in [Estimator::K1, Estimator::K3] {
            let mean: f64 = policy.iter().zip(&d).map(|(p, &d)| p * estimator.of(d)).sum();
            assert!((mean - kl).abs() < 1e-14);
        }
        // With logits z, d logp_i / d z_j = (i == j) - p_j
        for j in 0..3 {
            let expected = |estimator: Estimator| -> f64 {
                (0..3)
                    .map(|i| policy[i] * estimator.derivative(d[i]) * (f64::from(i == j) - policy[j]))
                    .sum()
            };
            assert!(expected(Estimator::K1).abs() < 1e-15);
            let grad_kl = policy[j] * (d[j] - kl);
            assert!((expected(Estimator::K2) - grad_kl).abs() < 1e-15);
            let grad_reverse = policy[j] - reference[j];
            assert!((expected(Estimator::K3) - grad_reverse).abs() < 1e-15);
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let key = Key::new(3, "kl", 0);
        for i in 0..50 {
            let d = key.normal(i);
            for estimator in [Estimator::K1, Estimator::K2, Estimator::K3] {
                let h = 1e-5;
                let numeric = (estimator.of(d + h) - estimator.of(d - h)) / (2.0 * h);
                assert!(
                    (estimator.derivative(d) - numeric).abs() < 1e-8 * (1.0 + numeric.abs()),
                    "{estimator:?} {d}"
                );
            }
        }
    }

    #[test]
    fn loss_by_hand() {
        let inputs = KlInputs {
            logprobs: &[-1.0, f32::NAN, -3.0],
            ref_logprobs: &[-2.0, 0.0, -2.0],
            mask: &[true, false, true],
        };
        let out = kl_loss(&inputs, Estimator::K2, 4).unwrap();
        assert_eq!(out.loss, 0.25);
        assert_eq!(out.grad_logprobs, [0.25, 0.0, -0.25]);
        assert_eq!(out.stats.mean(Estimator::K1), 0.0);
        assert_eq!(out.stats.mean(Estimator::K2), 0.5);
        assert!(kl_loss(&inputs, Estimator::K2, 1).is_err());
    }

    #[test]
    fn the_adaptive_controller_has_a_closed_form() {
        let run = |kl: f64| {
            let mut controller = KlController::Adaptive(AdaptiveKl::default());
            for _ in 0..100 {
                controller.update(kl, 512).unwrap();
            }
            controller.kl_coef()
        };
        let close = |got: f64, expected: f64| assert!((got / expected - 1.0).abs() < 1e-12, "{got} {expected}");
        // Far above or below the target the error is clipped to a fifth; within, it is the relative error
        close(run(1e9), 0.15 * (1.0 + 0.2 * 0.0512_f64).powi(100));
        close(run(-3.0), 0.15 * (1.0 - 0.2 * 0.0512_f64).powi(100));
        close(run(6.6), 0.15 * (1.0 + (6.6 / 6.0 - 1.0) * 0.0512_f64).powi(100));
        close(run(6.0), 0.15);
    }

    #[test]
    fn the_fixed_controller_stays_and_the_adaptive_one_refuses_what_would_break_it() {
        let mut fixed = KlController::Fixed { kl_coef: 0.05 };
        fixed.update(f64::NAN, 512).unwrap();
        assert_eq!(fixed.kl_coef(), 0.05);
        let mut adaptive = KlController::Adaptive(AdaptiveKl::default());
        assert!(matches!(adaptive.update(f64::NAN, 512), Err(Error::NotFinite { .. })));
        assert!(adaptive.update(1.0, 50_000).is_err());
        assert_eq!(adaptive.kl_coef(), 0.15);
        assert!(
            KlController::Adaptive(AdaptiveKl {
                target: 0.0,
                ..Default::default()
            })
            .update(1.0, 1)
            .is_err()
        );
    }
}
