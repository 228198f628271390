//! loss = (1/N) * sum of max(-A * ratio, -A * clip(ratio, 1 - low, 1 + high)),   ratio = e^(logp - old_logp)

use crate::kl::{Estimator, KlStats};
use crate::statistics::Moments;
use crate::{Error, check_count, check_length, check_setting, clip, count, max_or_nan};

/// How far the ratio may move before its gradient stops. Default 0.2 either way; infinity never clips.
#[derive(Clone, Copy, Debug, PartialEq)]
#[doc(alias = "cliprange")]
pub struct ClipRange {
    /// Below 1.
    pub low: f64,
    /// Above 1.
    pub high: f64,
}

impl ClipRange {
    /// The same range either way.
    pub fn symmetric(clip_range: f64) -> Self {
        Self {
            low: clip_range,
            high: clip_range,
        }
    }
}

impl ClipRange {
    /// Refuses ends that are negative or NaN.
    pub(crate) fn check(self, op: &'static str) -> Result<(), Error> {
        check_setting(op, "clip_range low", self.low, self.low >= 0.0, "0 or more")?;
        check_setting(op, "clip_range high", self.high, self.high >= 0.0, "0 or more")
    }
}

impl Default for ClipRange {
    fn default() -> Self {
        Self::symmetric(0.2)
    }
}

/// What [`policy_loss`] reads, each `[tokens]`.
#[derive(Clone, Copy, Debug)]
pub struct PolicyInputs<'a> {
    /// Log-probabilities under the policy as it is now.
    pub logprobs: &'a [f32],
    /// As they were sampled.
    pub old_logprobs: &'a [f32],
    /// Advantages, from [`super::prepare`].
    pub advantages: &'a [f32],
    /// True at the responses' tokens.
    pub mask: &'a [bool],
    /// Entropies of the policy's distributions now, for the statistics alone.
    pub entropies: Option<&'a [f32]>,
}

/// Loss, gradient and statistics of [`policy_loss`].
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyLoss {
    /// This part's share of the minibatch's loss.
    pub loss: f64,
    /// Gradient of the loss with respect to `logprobs`, `[tokens]`.
    pub grad_logprobs: Vec<f32>,
    /// Statistics over tokens.
    pub stats: PolicyStats,
}

/// Statistics over tokens; parts add up with [`PolicyStats::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PolicyStats {
    /// Estimates of KL(old || new), whose samples are the old policy's.
    pub kl: KlStats,
    /// Tokens whose gradient the clip stopped.
    pub clipped: u64,
    /// The ratio (`val/ratio`, `val/ratio_var`).
    pub ratio: Moments,
    /// The entropy, where it was given (`policy/entropy_avg`).
    pub entropy: Moments,
    /// Sum of the tokens' losses.
    pub loss_sum: f64,
}

impl PolicyStats {
    /// Adds one token.
    pub(crate) fn push(&mut self, token: &Surrogate, entropy: Option<f32>) {
        self.clipped += u64::from(token.clipped);
        self.loss_sum += token.loss;
        self.kl.push(token.fall);
        self.ratio.push(token.ratio);
        if let Some(entropy) = entropy {
            self.entropy.push(f64::from(entropy));
        }
    }

    /// Adds another part's.
    pub fn merge(&mut self, other: &Self) {
        self.kl.merge(&other.kl);
        self.clipped += other.clipped;
        self.ratio.merge(&other.ratio);
        self.entropy.merge(&other.entropy);
        self.loss_sum += other.loss_sum;
    }

    /// Share of tokens whose gradient the clip stopped (`policy/clipfrac_avg`); NaN without tokens.
    pub fn clipfrac(&self) -> f64 {
        self.clipped as f64 / self.ratio.count() as f64
    }

    /// Mean estimate of KL(old || new) in nats a token (`policy/approxkl_avg` is k2's); NaN without tokens.
    pub fn approxkl(&self, estimator: Estimator) -> f64 {
        self.kl.mean(estimator)
    }

    /// Mean loss a token; NaN without tokens.
    pub fn mean_loss(&self) -> f64 {
        self.loss_sum / self.ratio.count() as f64
    }
}

/// The clipped objective at one token: PPO and the group-relative methods differ only in the advantage and in the token's weight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surrogate {
    /// Probability now over the probability when sampled.
    pub ratio: f64,
    /// `old_logp - logp`.
    pub fall: f64,
    /// `max(-A * ratio, -A * clip(ratio, 1 - low, 1 + high))`.
    pub loss: f64,
    /// Derivative of the loss with respect to the log-probability.
    pub slope: f64,
    /// The clip stopped the gradient.
    pub clipped: bool,
}

impl Surrogate {
    pub fn of(logprob: f32, old_logprob: f32, advantage: f32, clip_range: ClipRange) -> Self {
        let ratio = ratio(logprob, old_logprob);
        // A number that is none must not hide behind the clip or a ratio of 0
        let sound = [logprob, old_logprob, advantage].iter().all(|x| x.is_finite());
        let advantage = f64::from(advantage);
        let unclipped = if sound { -advantage * ratio } else { f64::NAN };
        let bound = -advantage * clip(ratio, 1.0 - clip_range.low, 1.0 + clip_range.high);
        let clipped = bound > unclipped;
        Self {
            ratio,
            fall: f64::from(old_logprob) - f64::from(logprob),
            loss: max_or_nan(unclipped, bound),
            // Where the clip acts the ratio is outside the range and the loss constant in logp
            slope: if clipped { 0.0 } else { unclipped },
            clipped,
        }
    }
}

/// Probability of a token now over its probability when sampled; exactly 1 where the two are equal.
pub fn ratio(logprob: f32, old_logprob: f32) -> f64 {
    hone_math::exp(f64::from(logprob) - f64::from(old_logprob))
}

/// The clipped policy loss of a part of a minibatch, in which `global_tokens` tokens lie under the mask.
///
/// # Errors
/// Slices of unequal length; a negative clip range; a global count that is 0 or below this part's own.
pub fn policy_loss(inputs: &PolicyInputs<'_>, clip_range: ClipRange, global_tokens: u64) -> Result<PolicyLoss, Error> {
    let n = inputs.logprobs.len();
    check_length("policy_loss", "old_logprobs", inputs.old_logprobs.len(), n)?;
    check_length("policy_loss", "advantages", inputs.advantages.len(), n)?;
    check_length("policy_loss", "mask", inputs.mask.len(), n)?;
    check_length("policy_loss", "entropies", inputs.entropies.map_or(n, <[f32]>::len), n)?;
    clip_range.check("policy_loss")?;
    check_count("policy_loss", "tokens", global_tokens, count(inputs.mask))?;

    let global = global_tokens as f64;
    let mut grad_logprobs = vec![0.0; n];
    let mut stats = PolicyStats::default();
    for t in (0..n).filter(|&t| inputs.mask[t]) {
        let token = Surrogate::of(
            inputs.logprobs[t],
            inputs.old_logprobs[t],
            inputs.advantages[t],
            clip_range,
        );
        grad_logprobs[t] = (token.slope / global) as f32;
        stats.push(&token, inputs.entropies.map(|entropies| entropies[t]));
    }
    Ok(PolicyLoss {
        loss: stats.loss_sum / global,
        grad_logprobs,
        stats,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    fn inputs<'a>(
        logprobs: &'a [f32],
        old_logprobs: &'a [f32],
        advantages: &'a [f32],
        mask: &'a [bool],
    ) -> PolicyInputs<'a> {
        PolicyInputs {
            logprobs,
            old_logprobs,
            advantages,
            mask,
            entropies: None,
        }
    }

    #[test]
    fn by_hand() {
        // Ratios 2, 1/2, 2, 1/2 and advantages 1, 1, -1, -1: the clip acts where moving further would pay
        let ln2 = std::f32::consts::LN_2;
        let new = [ln2 - 3.0, -ln2 - 3.0, ln2 - 3.0, -ln2 - 3.0];
        let out = policy_loss(
            &inputs(&new, &[-3.0; 4], &[1.0, 1.0, -1.0, -1.0], &[true; 4]),
            ClipRange::default(),
            4,
        )
        .unwrap();
        let expected = (-1.2 - 0.5 + 2.0 + 0.8) / 4.0;
        assert!((out.loss - expected).abs() < 1e-7, "{}", out.loss);
        for (got, expected) in out.grad_logprobs.iter().zip([0.0, -0.125, 0.5, 0.0]) {
            assert!((got - expected).abs() < 1e-7);
        }
        assert_eq!(out.stats.clipfrac(), 0.5);
        assert!((out.stats.ratio.mean() - 1.25).abs() < 1e-6 && (out.stats.ratio.variance() - 0.5625).abs() < 1e-6);
        // k2: (ln 2)^2 / 2; k1 averages to 0; k3: mean ratio - 1
        assert!((out.stats.approxkl(Estimator::K2) - 0.240_226_5).abs() < 1e-6);
        assert!(out.stats.approxkl(Estimator::K1).abs() < 1e-6);
        assert!((out.stats.approxkl(Estimator::K3) - 0.25).abs() < 1e-6);
    }

    #[test]
    fn approxkl_is_of_the_old_policy_against_the_new() {
        // The sampled token became e^2 times likelier: k1 = -2, k2 = 2, k3 = e^2 - 1 - 2
        let out = policy_loss(&inputs(&[-1.0], &[-3.0], &[1.0], &[true]), ClipRange::default(), 1).unwrap();
        assert_eq!(out.stats.approxkl(Estimator::K1), -2.0);
        assert_eq!(out.stats.approxkl(Estimator::K2), 2.0);
        assert!((out.stats.approxkl(Estimator::K3) - 4.389_056_098_930_65).abs() < 1e-13);
    }

    #[test]
    fn an_infinite_ratio_is_not_hidden_by_an_advantage_of_0() {
        // The clipped term alone would be 0
        let out = policy_loss(
            &inputs(&[f32::INFINITY], &[0.0], &[0.0], &[true]),
            ClipRange::default(),
            1,
        )
        .unwrap();
        assert!(out.loss.is_nan() && out.grad_logprobs[0].is_nan());
    }

    #[test]
    fn numbers_that_are_none_reach_loss_and_gradient() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for advantage in [-1.0, 0.0, 1.0] {
                for (new, old, advantage) in [(bad, -1.0, advantage), (-1.0, bad, advantage), (-1.0, -1.0, bad)] {
                    let (new, old, advantages) = ([-2.0, new], [-2.0, old], [1.0, advantage]);
                    let out =
                        policy_loss(&inputs(&new, &old, &advantages, &[true; 2]), ClipRange::default(), 2).unwrap();
                    let what = format!("new {new:?}, old {old:?}, advantages {advantages:?}");
                    assert!(out.loss.is_nan() && out.grad_logprobs[1].is_nan(), "{what}");
                    assert_eq!(out.grad_logprobs[0], -0.5, "{what}");
                    // What is not under the mask is never read
                    let out = policy_loss(
                        &inputs(&new, &old, &advantages, &[true, false]),
                        ClipRange::default(),
                        2,
                    );
                    assert_eq!(out.unwrap().loss, -0.5, "{what}");
                }
            }
        }
    }

    #[test]
    fn an_asymmetric_range_clips_each_side_at_its_own_end() {
        let ln = |x: f64| hone_math::ln(x) as f32;
        let (new, old) = ([ln(1.25), ln(1.25), ln(0.75), ln(0.75)], [0.0; 4]);
        let one = |low, high, advantage: f32| {
            policy_loss(
                &inputs(&new, &old, &[advantage; 4], &[true; 4]),
                ClipRange { low, high },
                4,
            )
            .unwrap()
            .stats
            .clipped
        };
        assert_eq!(one(0.2, 0.28, 1.0), 0);
        assert_eq!(one(0.28, 0.2, 1.0), 2);
        assert_eq!(one(0.2, 0.28, -1.0), 2);
        assert_eq!(one(0.28, 0.2, -1.0), 0);
    }

    #[test]
    fn the_first_minibatch_has_ratio_1_and_clips_nothing_even_at_range_0() {
        let key = Key::new(9, "ppo", 0);
        let logprobs: Vec<f32> = (0..64).map(|i| -(key.uniform(i) * 9.0) as f32).collect();
        let advantages: Vec<f32> = (0..64).map(|i| key.child(1).normal(i) as f32).collect();
        for range in [0.0, 0.2] {
            let out = policy_loss(
                &inputs(&logprobs, &logprobs, &advantages, &[true; 64]),
                ClipRange::symmetric(range),
                64,
            )
            .unwrap();
            assert_eq!(out.stats.ratio.mean(), 1.0);
            assert_eq!(out.stats.ratio.variance(), 0.0);
            assert_eq!(out.stats.clipfrac(), 0.0);
            for estimator in [Estimator::K1, Estimator::K2, Estimator::K3] {
                assert_eq!(out.stats.approxkl(estimator), 0.0);
            }
            // The policy gradient: -A/N
            for (grad, advantage) in out.grad_logprobs.iter().zip(&advantages) {
                assert_eq!(*grad, -advantage / 64.0);
            }
        }
    }

    #[test]
    fn nothing_non_finite_is_hidden_and_nothing_outside_the_mask_is_read() {
        let range = ClipRange::default();
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(
                !policy_loss(&inputs(&[bad], &[0.0], &[-1.0], &[true]), range, 1)
                    .unwrap()
                    .loss
                    .is_finite()
            );
            assert!(
                !policy_loss(&inputs(&[0.0], &[0.0], &[bad], &[true]), range, 1)
                    .unwrap()
                    .loss
                    .is_finite()
            );
            let out = policy_loss(&inputs(&[bad, 0.0], &[bad, 0.0], &[bad, 1.0], &[false, true]), range, 1).unwrap();
            assert_eq!((out.loss, &out.grad_logprobs[..]), (-1.0, &[0.0, -1.0][..]));
        }
        assert!(
            policy_loss(&inputs(&[0.0], &[0.0], &[f32::NAN], &[true]), range, 1)
                .unwrap()
                .grad_logprobs[0]
                .is_nan()
        );
    }

    #[test]
    fn refusals() {
        let good = inputs(&[0.0], &[0.0], &[0.0], &[true]);
        assert!(policy_loss(&good, ClipRange { low: -0.1, high: 0.2 }, 1).is_err());
        assert!(
            policy_loss(
                &good,
                ClipRange {
                    low: 0.1,
                    high: f64::NAN
                },
                1
            )
            .is_err()
        );
        assert!(policy_loss(&good, ClipRange::default(), 0).is_err());
        assert!(
            policy_loss(
                &PolicyInputs {
                    entropies: Some(&[]),
                    ..good
                },
                ClipRange::default(),
                1
            )
            .is_err()
        );
        assert!(
            policy_loss(
                &PolicyInputs {
                    advantages: &[],
                    ..good
                },
                ClipRange::default(),
                1
            )
            .is_err()
        );
    }
}
