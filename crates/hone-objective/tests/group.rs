//! The loss of group-relative reinforcement learning against PPO's, naive loops and finite differences.

use hone_math::Key;
use hone_objective::Error;
use hone_objective::gae::GaeConfig;
use hone_objective::group::{
    AdvantageEstimator, DAPO_CLIP_RANGE, GroupConfig, GroupCounts, GroupInputs, GroupLoss, GroupLossStats, KlTerm,
    TokenWeight, advantages, group_loss,
};
use hone_objective::kl::{Estimator, KlInputs, kl_loss};
use hone_objective::ppo::{ClipRange, PolicyInputs, PrepareConfig, Rollout, policy_loss, prepare};

/// Two groups of three responses; the last one is masked out.
const LENGTHS: [usize; 6] = [7, 2, 12, 1, 9, 4];
const TOKENS: usize = 35;
const GROUPS: [usize; 2] = [3, 3];
const WEIGHTS: [TokenWeight; 3] = [
    TokenWeight::ResponseMean,
    TokenWeight::TokenMean,
    TokenWeight::ConstantLength(12),
];
const ESTIMATORS: [Estimator; 3] = [Estimator::K1, Estimator::K2, Estimator::K3];

struct Batch {
    logprobs: Vec<f32>,
    old_logprobs: Vec<f32>,
    ref_logprobs: Vec<f32>,
    mask: Vec<bool>,
    advantages: Vec<f32>,
    entropies: Vec<f32>,
}

impl Batch {
    fn random(seed: u64) -> Self {
        let key = Key::new(seed, "group batch", 0);
        let old_logprobs: Vec<f32> = (0..TOKENS as u64)
            .map(|i| (-0.1 - key.normal(i).powi(2)) as f32)
            .collect();
        let moved = |salt: u64, scale: f64| -> Vec<f32> {
            let by = |i: usize| (scale * key.child(salt).normal(i as u64)) as f32;
            old_logprobs.iter().enumerate().map(|(i, x)| x + by(i)).collect()
        };
        let mut mask: Vec<bool> = (0..TOKENS as u64).map(|i| key.child(3).uniform(i) < 0.85).collect();
        let mut start = 0;
        for length in LENGTHS {
            mask[start] = true;
            start += length;
        }
        mask[31..].fill(false);
        let scores: Vec<f32> = (0..6).map(|i| key.child(4).normal(i) as f32).collect();
        Self {
            logprobs: moved(1, 0.3),
            ref_logprobs: moved(2, 0.4),
            entropies: (0..TOKENS as u64).map(|i| key.child(5).uniform(i) as f32).collect(),
            advantages: advantages(&scores, &GROUPS, AdvantageEstimator::Grpo)
                .unwrap()
                .advantages,
            old_logprobs,
            mask,
        }
    }

    fn inputs(&self, from: usize, to: usize, kl: Option<(f64, Estimator)>) -> GroupInputs<'_> {
        let tokens = LENGTHS[..from].iter().sum::<usize>()..LENGTHS[..to].iter().sum();
        GroupInputs {
            logprobs: &self.logprobs[tokens.clone()],
            old_logprobs: &self.old_logprobs[tokens.clone()],
            mask: &self.mask[tokens.clone()],
            lengths: &LENGTHS[from..to],
            advantages: &self.advantages[from..to],
            kl: kl.map(|(kl_coef, estimator)| KlTerm {
                ref_logprobs: &self.ref_logprobs[tokens.clone()],
                kl_coef,
                estimator,
            }),
            entropies: Some(&self.entropies[tokens]),
        }
    }

    fn counts(&self) -> GroupCounts {
        GroupCounts::of(&self.mask, &LENGTHS)
    }

    fn run(&self, kl: Option<(f64, Estimator)>, token_weight: TokenWeight) -> GroupLoss {
        let config = GroupConfig {
            clip_range: DAPO_CLIP_RANGE,
            token_weight,
        };
        group_loss(&self.inputs(0, 6, kl), config, self.counts()).unwrap()
    }

    /// The definition, with the standard library's mathematics.
    fn naive(&self, logprobs: &[f64], (kl_coef, estimator): (f64, Estimator), weight: TokenWeight) -> f64 {
        let (mut total, mut start) = (0.0, 0);
        let all = self.mask.iter().filter(|&&m| m).count() as f64;
        for (i, length) in LENGTHS.into_iter().enumerate() {
            let tokens: Vec<usize> = (start..start + length).filter(|&t| self.mask[t]).collect();
            start += length;
            for &t in &tokens {
                let advantage = f64::from(self.advantages[i]);
                let ratio = (logprobs[t] - f64::from(self.old_logprobs[t])).exp();
                let clipped = (ratio * advantage).min(ratio.clamp(0.8, 1.28) * advantage);
                let d = logprobs[t] - f64::from(self.ref_logprobs[t]);
                let kl = match estimator {
                    Estimator::K1 => d,
                    Estimator::K2 => d * d / 2.0,
                    Estimator::K3 => (-d).exp() - 1.0 + d,
                };
                total += (kl_coef * kl - clipped)
                    / match weight {
                        TokenWeight::ResponseMean => 6.0 * tokens.len() as f64,
                        TokenWeight::TokenMean => all,
                        TokenWeight::ConstantLength(length) => 6.0 * length as f64,
                    };
            }
        }
        total
    }
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn losses_agree_with_naive_loops_and_gradients_with_finite_differences() {
    for seed in 0..4 {
        let batch = Batch::random(seed);
        let x = widen(&batch.logprobs);
        for weight in WEIGHTS {
            for kl in [
                (0.0, Estimator::K3),
                (0.3, Estimator::K1),
                (0.3, Estimator::K2),
                (0.3, Estimator::K3),
            ] {
                let out = batch.run(Some(kl), weight);
                let what = format!("{weight:?} {kl:?}");
                assert!((out.loss - batch.naive(&x, kl, weight)).abs() < 1e-12, "{what}");
                assert_eq!(out.loss, out.stats.policy_loss + out.stats.kl_loss);
                let mut checked = 0;
                for t in 0..TOKENS {
                    if !batch.mask[t] {
                        assert_eq!(out.grad_logprobs[t].to_bits(), 0, "{what}");
                        continue;
                    }
                    let ratio = (x[t] - f64::from(batch.old_logprobs[t])).exp();
                    if (ratio - 0.8).abs() < 1e-4 || (ratio - 1.28).abs() < 1e-4 {
                        continue;
                    }
                    let (mut up, mut down) = (x.clone(), x.clone());
                    up[t] += 1e-5;
                    down[t] -= 1e-5;
                    let numeric = (batch.naive(&up, kl, weight) - batch.naive(&down, kl, weight)) / 2e-5;
                    let got = f64::from(out.grad_logprobs[t]);
                    assert!(
                        (got - numeric).abs() < 1e-7 * (1.0 + numeric.abs()),
                        "{what}: token {t}: {got} {numeric}"
                    );
                    checked += 1;
                }
                assert!(checked > 20);
                assert!(out.stats.policy.clipped > 0);
                assert_eq!(out.stats.policy.clipped, out.stats.clipped_low + out.stats.clipped_high);
            }
        }
    }
}

#[test]
fn any_split_into_micro_batches_gives_the_same_gradients_and_sums() {
    let batch = Batch::random(10);
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-13, "{a} {b}");
    for token_weight in WEIGHTS {
        let kl = Some((0.2, Estimator::K3));
        let whole = batch.run(kl, token_weight);
        let config = GroupConfig {
            clip_range: DAPO_CLIP_RANGE,
            token_weight,
        };
        for cuts in [&[0, 1, 2, 3, 4, 5, 6][..], &[0, 3, 6], &[0, 5, 6]] {
            let (mut grad, mut loss, mut stats) = (Vec::new(), 0.0, GroupLossStats::default());
            for cut in cuts.windows(2) {
                let part = group_loss(&batch.inputs(cut[0], cut[1], kl), config, batch.counts()).unwrap();
                grad.extend(part.grad_logprobs);
                loss += part.loss;
                stats.merge(&part.stats);
            }
            assert_eq!(grad, whole.grad_logprobs);
            close(loss, whole.loss);
            close(stats.policy_loss, whole.stats.policy_loss);
            close(stats.kl_loss, whole.stats.kl_loss);
            close(stats.policy.mean_loss(), whole.stats.policy.mean_loss());
            close(stats.policy.entropy.mean(), whole.stats.policy.entropy.mean());
            close(stats.ref_kl.mean(Estimator::K3), whole.stats.ref_kl.mean(Estimator::K3));
            assert_eq!(
                (stats.clipped_low, stats.clipped_high, stats.ref_kl.tokens),
                (whole.stats.clipped_low, whole.stats.clipped_high, batch.counts().tokens)
            );
        }
    }
    let mut counts = GroupCounts::default();
    counts.merge(&GroupCounts::of(&batch.mask[..21], &LENGTHS[..3]));
    counts.merge(&GroupCounts::of(&batch.mask[21..], &LENGTHS[3..]));
    assert_eq!(counts, batch.counts());
}

/// With a mean over tokens the two are one function, to the bit; and the divergence adds `kl_loss`.
#[test]
fn a_mean_over_tokens_is_ppos_policy_loss_and_the_divergence_adds_its_own() {
    let batch = Batch::random(11);
    let spread: Vec<f32> = LENGTHS
        .iter()
        .zip(&batch.advantages)
        .flat_map(|(&length, &advantage)| vec![advantage; length])
        .collect();
    let inputs = PolicyInputs {
        logprobs: &batch.logprobs,
        old_logprobs: &batch.old_logprobs,
        advantages: &spread,
        mask: &batch.mask,
        entropies: Some(&batch.entropies),
    };
    let n = batch.counts().tokens;
    let ppo = policy_loss(&inputs, DAPO_CLIP_RANGE, n).unwrap();
    let group = batch.run(None, TokenWeight::TokenMean);
    assert_eq!(group.grad_logprobs, ppo.grad_logprobs);
    assert_eq!(group.stats.policy, ppo.stats);
    assert!((group.loss - ppo.loss).abs() < 1e-15);
    assert_eq!((group.stats.kl_loss, group.stats.ref_kl.tokens), (0.0, 0));
    // A coefficient of 0 reports the divergence and changes nothing else
    let reported = batch.run(Some((0.0, Estimator::K3)), TokenWeight::TokenMean);
    assert_eq!(
        (reported.loss, &reported.grad_logprobs),
        (group.loss, &group.grad_logprobs)
    );
    assert_eq!(reported.stats.ref_kl.tokens, n);

    for estimator in ESTIMATORS {
        let inputs = KlInputs {
            logprobs: &batch.logprobs,
            ref_logprobs: &batch.ref_logprobs,
            mask: &batch.mask,
        };
        let term = kl_loss(&inputs, estimator, n).unwrap();
        let both = batch.run(Some((0.5, estimator)), TokenWeight::TokenMean);
        assert!((both.stats.kl_loss - 0.5 * term.loss).abs() < 1e-15);
        for t in 0..TOKENS {
            let sum = group.grad_logprobs[t] + 0.5 * term.grad_logprobs[t];
            assert!((both.grad_logprobs[t] - sum).abs() < 1e-7);
        }
    }
}

/// At the first step ratio and clip do nothing: each token's gradient is minus its advantage times its weight.
#[test]
fn the_first_step_is_reinforce_with_each_methods_weights() {
    let batch = Batch::random(12);
    let counts = batch.counts();
    for token_weight in WEIGHTS {
        let inputs = GroupInputs {
            logprobs: &batch.old_logprobs,
            ..batch.inputs(0, 6, None)
        };
        let config = GroupConfig {
            clip_range: ClipRange::symmetric(0.0),
            token_weight,
        };
        let out = group_loss(&inputs, config, counts).unwrap();
        assert_eq!((out.stats.policy.clipped, out.stats.policy.ratio.mean()), (0, 1.0));
        let mut start = 0;
        for (i, length) in LENGTHS.into_iter().enumerate() {
            let tokens = start..start + length;
            start += length;
            let own = tokens.clone().filter(|&t| batch.mask[t]).count() as f32;
            let weight = match token_weight {
                TokenWeight::ResponseMean => 1.0 / (6.0 * own),
                TokenWeight::TokenMean => 1.0 / counts.tokens as f32,
                TokenWeight::ConstantLength(length) => 1.0 / (6.0 * length as f32),
            };
            for t in tokens.filter(|&t| batch.mask[t]) {
                assert!((out.grad_logprobs[t] + batch.advantages[i] * weight).abs() < 1e-7);
            }
        }
    }
    // A mean over each response weighs responses alike, a constant length weighs tokens alike
    let pair = |weight| {
        let inputs = GroupInputs {
            logprobs: &[-1.0; 5],
            old_logprobs: &[-1.0; 5],
            mask: &[true; 5],
            lengths: &[1, 4],
            advantages: &[1.0, -1.0],
            kl: None,
            entropies: None,
        };
        let config = GroupConfig {
            clip_range: ClipRange::default(),
            token_weight: weight,
        };
        group_loss(
            &inputs,
            config,
            GroupCounts {
                responses: 2,
                tokens: 5,
            },
        )
        .unwrap()
    };
    assert_eq!(
        pair(TokenWeight::ResponseMean).grad_logprobs,
        [-0.5, 0.125, 0.125, 0.125, 0.125]
    );
    assert_eq!(pair(TokenWeight::ResponseMean).loss, 0.0);
    assert_eq!(pair(TokenWeight::TokenMean).grad_logprobs, [-0.2, 0.2, 0.2, 0.2, 0.2]);
    assert_eq!(
        pair(TokenWeight::ConstantLength(4)).grad_logprobs,
        [-0.125, 0.125, 0.125, 0.125, 0.125]
    );
    assert_eq!(pair(TokenWeight::ConstantLength(1)).loss, 1.5);
}

/// Responses of equal length, no divergence: PPO's way with values of 0 normalises the same numbers.
#[test]
fn reinforce_plus_plus_is_ppos_preparation_without_values() {
    let scores = [0.5, -1.0, 2.0, 0.25];
    let logprobs = [-1.0; 12];
    let rollout = Rollout {
        logprobs: &logprobs,
        ref_logprobs: &logprobs,
        values: &[0.0; 12],
        mask: &[true; 12],
        lengths: &[3; 4],
        scores: &scores,
    };
    let config = PrepareConfig {
        gae: GaeConfig {
            gamma: 1.0,
            gae_lambda: 1.0,
        },
        ..PrepareConfig::default()
    };
    let tokens = prepare(&rollout, &config).unwrap().advantages;
    let responses = advantages(&scores, &[1; 4], AdvantageEstimator::ReinforcePlusPlus)
        .unwrap()
        .advantages;
    for (t, token) in tokens.iter().enumerate() {
        assert!((token - responses[t / 3]).abs() < 1e-6, "{token} {}", responses[t / 3]);
    }
}

#[test]
fn numbers_that_are_none_reach_loss_and_gradient() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for t in 0..TOKENS {
            let place = |x: &[f32]| {
                let mut x = x.to_vec();
                x[t] = bad;
                x
            };
            let batch = Batch::random(13);
            let (logprobs, old, reference) = (
                place(&batch.logprobs),
                place(&batch.old_logprobs),
                place(&batch.ref_logprobs),
            );
            let config = GroupConfig {
                clip_range: ClipRange::default(),
                token_weight: TokenWeight::ResponseMean,
            };
            let inputs = batch.inputs(0, 6, Some((0.1, Estimator::K2)));
            let term = inputs.kl.unwrap();
            for inputs in [
                GroupInputs {
                    logprobs: &logprobs,
                    ..inputs
                },
                GroupInputs {
                    old_logprobs: &old,
                    ..inputs
                },
                GroupInputs {
                    kl: Some(KlTerm {
                        ref_logprobs: &reference,
                        ..term
                    }),
                    ..inputs
                },
            ] {
                let out = group_loss(&inputs, config, batch.counts()).unwrap();
                assert_eq!(!out.loss.is_finite(), batch.mask[t], "{bad} at {t}");
                for (other, grad) in out.grad_logprobs.iter().enumerate() {
                    assert_eq!(!grad.is_finite(), other == t && batch.mask[t]);
                }
            }
        }
    }
}

#[test]
fn refusals() {
    let batch = Batch::random(14);
    let inputs = batch.inputs(0, 6, Some((0.1, Estimator::K3)));
    let term = inputs.kl.unwrap();
    let config = GroupConfig {
        clip_range: ClipRange::default(),
        token_weight: TokenWeight::TokenMean,
    };
    let counts = batch.counts();
    let short = &[0.0_f32; 3][..];
    for (what, inputs) in [
        (
            "old_logprobs",
            GroupInputs {
                old_logprobs: short,
                ..inputs
            },
        ),
        (
            "mask",
            GroupInputs {
                mask: &[true],
                ..inputs
            },
        ),
        (
            "advantages",
            GroupInputs {
                advantages: short,
                ..inputs
            },
        ),
        (
            "entropies",
            GroupInputs {
                entropies: Some(short),
                ..inputs
            },
        ),
        (
            "ref_logprobs",
            GroupInputs {
                kl: Some(KlTerm {
                    ref_logprobs: short,
                    ..term
                }),
                ..inputs
            },
        ),
        (
            "advantages",
            GroupInputs {
                lengths: &LENGTHS[1..],
                ..inputs
            },
        ),
        (
            "sum of lengths",
            GroupInputs {
                lengths: &[1; 6],
                ..inputs
            },
        ),
    ] {
        let refused = group_loss(&inputs, config, counts).unwrap_err();
        assert!(
            matches!(refused, Error::ShapeMismatch { what: got, .. } if got == what),
            "{what}: {refused}"
        );
    }
    for kl_coef in [-0.1, f64::NAN, f64::INFINITY] {
        let inputs = GroupInputs {
            kl: Some(KlTerm { kl_coef, ..term }),
            ..inputs
        };
        assert!(matches!(
            group_loss(&inputs, config, counts),
            Err(Error::Setting { name: "kl_coef", .. })
        ));
    }
    for config in [
        GroupConfig {
            clip_range: ClipRange { low: -0.1, high: 0.2 },
            ..config
        },
        GroupConfig {
            clip_range: ClipRange {
                low: 0.1,
                high: f64::NAN,
            },
            ..config
        },
        GroupConfig {
            token_weight: TokenWeight::ConstantLength(0),
            ..config
        },
    ] {
        assert!(matches!(
            group_loss(&inputs, config, counts),
            Err(Error::Setting { .. })
        ));
    }
    for counts in [
        GroupCounts { responses: 5, ..counts },
        GroupCounts {
            tokens: counts.tokens - 1,
            ..counts
        },
        GroupCounts::default(),
    ] {
        assert!(matches!(
            group_loss(&inputs, config, counts),
            Err(Error::GlobalCount { .. })
        ));
    }
}
