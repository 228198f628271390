//! PPO's losses against naive loops in `f64`, finite differences and identities of the method.

use hone_math::Key;
use hone_objective::gae::{GaeConfig, GaeInputs, gae};
use hone_objective::kl::Estimator;
use hone_objective::ppo::{
    ClipRange, PolicyInputs, PrepareConfig, Prepared, Rollout, ValueConfig, ValueInputs, policy_loss, prepare,
    prepare_advantages, prepare_rewards, value_loss,
};
use hone_objective::rewards::RewardInputs;

const TOKENS: usize = 60;
const LENGTHS: [usize; 5] = [10, 3, 20, 1, 26];

/// A rollout batch with padding, and the same numbers as the policy moved on.
struct Batch {
    old_logprobs: Vec<f32>,
    ref_logprobs: Vec<f32>,
    old_values: Vec<f32>,
    mask: Vec<bool>,
    scores: Vec<f32>,
    logprobs: Vec<f32>,
    values: Vec<f32>,
}

impl Batch {
    fn random(seed: u64) -> Self {
        let key = Key::new(seed, "ppo batch", 0);
        let normal = |salt: u64, scale: f64| -> Vec<f64> {
            (0..TOKENS as u64).map(|i| scale * key.child(salt).normal(i)).collect()
        };
        let single = |x: Vec<f64>| -> Vec<f32> { x.into_iter().map(|x| x as f32).collect() };
        let add =
            |a: &[f32], b: Vec<f64>| -> Vec<f32> { a.iter().zip(b).map(|(&a, b)| (f64::from(a) + b) as f32).collect() };
        let old_logprobs: Vec<f32> = normal(0, 1.0).into_iter().map(|x| (-0.1 - x * x) as f32).collect();
        let old_values = single(normal(1, 1.0));
        // Each sequence's first token counts; others now and then do not
        let mut mask: Vec<bool> = (0..TOKENS as u64).map(|i| key.child(2).uniform(i) < 0.8).collect();
        let mut start = 0;
        for length in LENGTHS {
            mask[start] = true;
            start += length;
        }
        Self {
            ref_logprobs: add(&old_logprobs, normal(3, 0.3)),
            logprobs: add(&old_logprobs, normal(4, 0.3)),
            values: add(&old_values, normal(5, 0.3)),
            scores: (0..5).map(|i| key.child(6).normal(i) as f32).collect(),
            old_logprobs,
            old_values,
            mask,
        }
    }

    fn prepare(&self, config: &PrepareConfig) -> Prepared {
        let rollout = Rollout {
            logprobs: &self.old_logprobs,
            ref_logprobs: &self.ref_logprobs,
            values: &self.old_values,
            mask: &self.mask,
            lengths: &LENGTHS,
            scores: &self.scores,
        };
        prepare(&rollout, config).unwrap()
    }

    fn policy<'a>(&'a self, prepared: &'a Prepared, range: std::ops::Range<usize>) -> PolicyInputs<'a> {
        PolicyInputs {
            logprobs: &self.logprobs[range.clone()],
            old_logprobs: &self.old_logprobs[range.clone()],
            advantages: &prepared.advantages[range.clone()],
            mask: &self.mask[range],
            entropies: None,
        }
    }

    fn value<'a>(&'a self, prepared: &'a Prepared, range: std::ops::Range<usize>) -> ValueInputs<'a> {
        ValueInputs {
            values: &self.values[range.clone()],
            old_values: &self.old_values[range.clone()],
            returns: &prepared.returns[range.clone()],
            mask: &self.mask[range],
        }
    }

    fn tokens(&self) -> u64 {
        self.mask.iter().filter(|&&counts| counts).count() as u64
    }
}

/// Everything of step one, written out as the papers have it.
#[test]
fn prepare_agrees_with_naive_loops() {
    let batch = Batch::random(1);
    let config = PrepareConfig {
        kl_coef: 0.3,
        gae: GaeConfig {
            gamma: 0.98,
            gae_lambda: 0.9,
        },
        ..Default::default()
    };
    let out = batch.prepare(&config);
    let (mut advantages, mut returns) = (vec![0.0_f64; TOKENS], vec![0.0_f64; TOKENS]);
    let mut start = 0;
    for (sequence, length) in LENGTHS.into_iter().enumerate() {
        let tokens: Vec<usize> = (start..start + length).filter(|&t| batch.mask[t]).collect();
        start += length;
        let reward = |i: usize| -> f64 {
            let t = tokens[i];
            let kl = f64::from(batch.old_logprobs[t]) - f64::from(batch.ref_logprobs[t]);
            let score = if i + 1 == tokens.len() {
                f64::from(batch.scores[sequence])
            } else {
                0.0
            };
            f64::from((score - 0.3 * kl) as f32)
        };
        let value = |i: usize| tokens.get(i).map_or(0.0, |&t| f64::from(batch.old_values[t]));
        for i in 0..tokens.len() {
            let sum: f64 = (i..tokens.len())
                .map(|l| (0.98 * 0.9_f64).powi((l - i) as i32) * (reward(l) + 0.98 * value(l + 1) - value(l)))
                .sum();
            advantages[tokens[i]] = sum;
            returns[tokens[i]] = sum + value(i);
        }
    }
    let n = batch.tokens() as f64;
    let mean = advantages.iter().sum::<f64>() / n;
    let variance = (0..TOKENS)
        .filter(|&t| batch.mask[t])
        .map(|t| (advantages[t] - mean).powi(2))
        .sum::<f64>()
        / n;
    for t in 0..TOKENS {
        assert!((f64::from(out.returns[t]) - returns[t]).abs() < 1e-6);
        let whitened = if batch.mask[t] {
            (advantages[t] - mean) / (variance + 1e-8).sqrt()
        } else {
            0.0
        };
        assert!((f64::from(out.advantages[t]) - whitened).abs() < 1e-6);
    }
}

#[test]
fn whitening_rewards_keeps_their_mean_and_leaves_what_is_reported() {
    let batch = Batch::random(2);
    let plain = batch.prepare(&PrepareConfig {
        whiten_advantages: false,
        ..Default::default()
    });
    let whitened = batch.prepare(&PrepareConfig {
        whiten_advantages: false,
        whiten_rewards: true,
        ..Default::default()
    });
    assert_eq!(plain.rewards, whitened.rewards);
    assert_eq!(plain.stats, whitened.stats);
    // With values of 0, gamma and lambda 1, a sequence's first advantage is the sum of its rewards
    let flat = Batch {
        old_values: vec![0.0; TOKENS],
        ..batch
    };
    let config = PrepareConfig {
        gae: GaeConfig {
            gamma: 1.0,
            gae_lambda: 1.0,
        },
        whiten_advantages: false,
        whiten_rewards: true,
        ..Default::default()
    };
    let out = flat.prepare(&config);
    let kept: Vec<f64> = (0..TOKENS)
        .filter(|&t| flat.mask[t])
        .map(|t| f64::from(out.rewards[t]))
        .collect();
    let n = kept.len() as f64;
    let mean = kept.iter().sum::<f64>() / n;
    let scale = 1.0 / (kept.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + 1e-8).sqrt();
    let first: f64 = (0..LENGTHS[0])
        .filter(|&t| flat.mask[t])
        .map(|t| (f64::from(out.rewards[t]) - mean) * scale + mean)
        .sum();
    assert!((f64::from(out.advantages[0]) - first).abs() < 1e-5);
}

/// Values may be known later than scores, and of one part of a batch before the others: nothing changes by a bit.
#[test]
fn the_halves_of_prepare_give_what_it_gives_and_returns_of_parts_are_those_of_the_whole() {
    let batch = Batch::random(3);
    for (whiten_rewards, whiten_advantages) in [(false, true), (true, true), (true, false)] {
        let config = PrepareConfig {
            whiten_rewards,
            whiten_advantages,
            ..Default::default()
        };
        let whole = batch.prepare(&config);
        let inputs = RewardInputs {
            logprobs: &batch.old_logprobs,
            ref_logprobs: &batch.ref_logprobs,
            mask: &batch.mask,
            lengths: &LENGTHS,
            scores: &batch.scores,
        };
        let rewarded = prepare_rewards(&inputs, &config).unwrap();
        assert_eq!((&rewarded.rewards, rewarded.stats), (&whole.rewards, whole.stats));
        assert_eq!(rewarded.effective() == whole.rewards, !whiten_rewards);
        let inputs = GaeInputs {
            rewards: rewarded.effective(),
            values: &batch.old_values,
            mask: &batch.mask,
            lengths: &LENGTHS,
        };
        let later = prepare_advantages(&inputs, &config).unwrap();
        assert_eq!((later.advantages, &later.returns), (whole.advantages, &whole.returns));
        let mut start = 0;
        for lengths in LENGTHS.chunks(2) {
            let range = start..start + lengths.iter().sum::<usize>();
            start = range.end;
            let part = GaeInputs {
                rewards: &inputs.rewards[range.clone()],
                values: &inputs.values[range.clone()],
                mask: &inputs.mask[range.clone()],
                lengths,
            };
            assert_eq!(gae(&part, config.gae).unwrap().returns, whole.returns[range]);
        }
    }
}

/// The definition, with the standard library's mathematics.
fn naive_policy(new: &[f64], inputs: &PolicyInputs<'_>, clip: ClipRange) -> f64 {
    let mut sum = 0.0;
    for t in (0..new.len()).filter(|&t| inputs.mask[t]) {
        let advantage = f64::from(inputs.advantages[t]);
        let ratio = (new[t] - f64::from(inputs.old_logprobs[t])).exp();
        sum += (-advantage * ratio).max(-advantage * ratio.clamp(1.0 - clip.low, 1.0 + clip.high));
    }
    sum
}

fn naive_value(new: &[f64], inputs: &ValueInputs<'_>, range: f64) -> f64 {
    let mut sum = 0.0;
    for t in (0..new.len()).filter(|&t| inputs.mask[t]) {
        let (old, target) = (f64::from(inputs.old_values[t]), f64::from(inputs.returns[t]));
        sum += 0.5
            * (new[t] - target)
                .powi(2)
                .max((new[t].clamp(old - range, old + range) - target).powi(2));
    }
    sum
}

/// Central differences of the naive loss at each token, against the gradient; tokens for which `near_kink` holds are left out.
fn check_gradient(x: &[f32], grad: &[f32], loss: impl Fn(&[f64]) -> f64, near_kink: impl Fn(usize) -> bool) {
    let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let h = 1e-5;
    let mut checked = 0;
    for t in (0..x.len()).filter(|&t| !near_kink(t)) {
        let (mut up, mut down) = (x.clone(), x.clone());
        up[t] += h;
        down[t] -= h;
        let numeric = (loss(&up) - loss(&down)) / (2.0 * h);
        assert!(
            (f64::from(grad[t]) - numeric).abs() < 1e-7 * (1.0 + numeric.abs()),
            "token {t}: {} {numeric}",
            grad[t]
        );
        checked += 1;
    }
    assert!(checked > TOKENS * 9 / 10);
}

#[test]
fn gradients_agree_with_finite_differences() {
    for seed in 0..8 {
        let batch = Batch::random(100 + seed);
        let prepared = batch.prepare(&PrepareConfig::default());
        let n = batch.tokens();

        for clip in [
            ClipRange::default(),
            ClipRange { low: 0.2, high: 0.28 },
            ClipRange::symmetric(f64::INFINITY),
        ] {
            let inputs = batch.policy(&prepared, 0..TOKENS);
            let out = policy_loss(&inputs, clip, n).unwrap();
            assert!((out.loss - naive_policy(&widen(&batch.logprobs), &inputs, clip) / n as f64).abs() < 1e-12);
            let kink = |t: usize| {
                let ratio = f64::from(batch.logprobs[t] - batch.old_logprobs[t]).exp();
                (ratio - 1.0 + clip.low).abs() < 1e-4 || (ratio - 1.0 - clip.high).abs() < 1e-4
            };
            check_gradient(
                &batch.logprobs,
                &out.grad_logprobs,
                |x| naive_policy(x, &inputs, clip) / n as f64,
                kink,
            );
            assert_eq!(out.stats.clipfrac() == 0.0, clip.low.is_infinite());
        }

        let config = ValueConfig {
            value_clip_range: 0.2,
            value_coef: 0.7,
        };
        let inputs = batch.value(&prepared, 0..TOKENS);
        let out = value_loss(&inputs, config, n).unwrap();
        let scale = 0.7 / n as f64;
        assert!((out.loss - scale * naive_value(&widen(&batch.values), &inputs, 0.2)).abs() < 1e-12);
        let kink = |t: usize| {
            let (value, old, target) = (batch.values[t], batch.old_values[t], prepared.returns[t]);
            let near = value.clamp(old - 0.2, old + 0.2);
            ((value - old).abs() - 0.2).abs() < 1e-4
                || ((value - target).powi(2) - (near - target).powi(2)).abs() < 1e-4 && near != value
        };
        check_gradient(
            &batch.values,
            &out.grad_values,
            |x| scale * naive_value(x, &inputs, 0.2),
            kink,
        );
    }
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn any_split_into_micro_batches_gives_the_same_gradients_and_sums() {
    let batch = Batch::random(3);
    let prepared = batch.prepare(&PrepareConfig::default());
    let n = batch.tokens();
    let whole = policy_loss(&batch.policy(&prepared, 0..TOKENS), ClipRange::default(), n).unwrap();
    let whole_value = value_loss(&batch.value(&prepared, 0..TOKENS), ValueConfig::default(), n).unwrap();
    for size in [1, 7, 13, 59, 60] {
        let (mut grad, mut grad_value) = (Vec::new(), Vec::new());
        let (mut loss, mut loss_value) = (0.0, 0.0);
        let (mut stats, mut stats_value) = (whole.stats, whole_value.stats);
        for start in (0..TOKENS).step_by(size) {
            let range = start..(start + size).min(TOKENS);
            let part = policy_loss(&batch.policy(&prepared, range.clone()), ClipRange::default(), n).unwrap();
            let value = value_loss(&batch.value(&prepared, range), ValueConfig::default(), n).unwrap();
            if start == 0 {
                (stats, stats_value) = (part.stats, value.stats);
            } else {
                stats.merge(&part.stats);
                stats_value.merge(&value.stats);
            }
            grad.extend(part.grad_logprobs);
            grad_value.extend(value.grad_values);
            loss += part.loss;
            loss_value += value.loss;
        }
        assert_eq!(grad, whole.grad_logprobs);
        assert_eq!(grad_value, whole_value.grad_values);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-13, "{a} {b}");
        close(loss, whole.loss);
        close(loss_value, whole_value.loss);
        close(stats.clipfrac(), whole.stats.clipfrac());
        close(stats.approxkl(Estimator::K3), whole.stats.approxkl(Estimator::K3));
        close(stats.ratio.variance(), whole.stats.ratio.variance());
        close(stats_value.explained_variance(), whole_value.stats.explained_variance());
        close(stats_value.mean_loss(), whole_value.stats.mean_loss());
    }
}

/// Clip at infinity, lambda 1, no whitening, the first step: REINFORCE with the value as baseline.
#[test]
fn without_its_refinements_ppo_is_reinforce_with_a_baseline() {
    let batch = Batch::random(4);
    let config = PrepareConfig {
        gae: GaeConfig {
            gamma: 1.0,
            gae_lambda: 1.0,
        },
        whiten_advantages: false,
        ..Default::default()
    };
    let prepared = batch.prepare(&config);
    let inputs = PolicyInputs {
        logprobs: &batch.old_logprobs,
        ..batch.policy(&prepared, 0..TOKENS)
    };
    let n = batch.tokens();
    let out = policy_loss(&inputs, ClipRange::symmetric(f64::INFINITY), n).unwrap();
    let mut start = 0;
    for length in LENGTHS {
        for t in start..start + length {
            let to_go: f64 = (t..start + length)
                .filter(|&l| batch.mask[l])
                .map(|l| f64::from(prepared.rewards[l]))
                .sum();
            let reinforce = if batch.mask[t] {
                -(to_go - f64::from(batch.old_values[t])) / n as f64
            } else {
                0.0
            };
            assert!((f64::from(out.grad_logprobs[t]) - reinforce).abs() < 1e-7);
        }
        start += length;
    }
}

/// The same responses padded to a rectangle on either side, or not at all.
#[test]
fn padding_on_either_side_changes_nothing() {
    let batch = Batch {
        mask: vec![true; TOKENS],
        ..Batch::random(5)
    };
    let plain = batch.prepare(&PrepareConfig::default());
    let width = 30;
    for left in [false, true] {
        let pad = |x: &[f32]| -> Vec<f32> {
            let mut out = Vec::new();
            let mut start = 0;
            for length in LENGTHS {
                let padding = vec![f32::NAN; width - length];
                let row = &x[start..start + length];
                out.extend(if left {
                    [&padding, row].concat()
                } else {
                    [row, &padding].concat()
                });
                start += length;
            }
            out
        };
        let (logprobs, ref_logprobs, values) = (
            pad(&batch.old_logprobs),
            pad(&batch.ref_logprobs),
            pad(&batch.old_values),
        );
        let mask: Vec<bool> = logprobs.iter().map(|x| !x.is_nan()).collect();
        let rollout = Rollout {
            logprobs: &logprobs,
            ref_logprobs: &ref_logprobs,
            values: &values,
            mask: &mask,
            lengths: &[width; 5],
            scores: &batch.scores,
        };
        let padded = prepare(&rollout, &PrepareConfig::default()).unwrap();
        let kept = |x: &[f32]| -> Vec<f32> { x.iter().zip(&mask).filter(|&(_, &m)| m).map(|(&x, _)| x).collect() };
        assert_eq!(kept(&padded.advantages), plain.advantages);
        assert_eq!(kept(&padded.returns), plain.returns);
        assert_eq!(padded.stats, plain.stats);
    }
}
