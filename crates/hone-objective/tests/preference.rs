//! The methods of preference tuning by hand, against naive loops and finite differences, and identities that they share.

use hone_math::Key;
use hone_objective::Error;
use hone_objective::preference::kto::prepare as kto_prepare;
use hone_objective::preference::{
    DpoConfig, IpoConfig, IpoForm, KtoConfig, KtoConstants, KtoInputs, OrpoConfig, PairCounts, PairInputs, PairLoss,
    SftMean, SimpoConfig, dpo, ipo, kto, orpo, prepare, response_logprobs, simpo,
};

const LENGTHS: [usize; 8] = [6, 3, 1, 9, 4, 4, 2, 5];
const TOKENS: usize = 34;

/// Four pairs with padding and foreign tokens, or eight responses without pairs.
struct Batch {
    logprobs: Vec<f32>,
    mask: Vec<bool>,
    reference: Vec<f64>,
    desirable: Vec<bool>,
}

impl Batch {
    fn random(seed: u64) -> Self {
        let key = Key::new(seed, "preference batch", 0);
        let logprobs: Vec<f32> = (0..TOKENS as u64)
            .map(|i| (-0.05 - key.normal(i).powi(2)) as f32)
            .collect();
        let moved: Vec<f32> = (0..TOKENS as u64)
            .map(|i| logprobs[i as usize] + 0.3 * key.child(1).normal(i) as f32)
            .collect();
        let mut mask: Vec<bool> = (0..TOKENS as u64).map(|i| key.child(2).uniform(i) < 0.8).collect();
        let mut start = 0;
        for length in LENGTHS {
            mask[start] = true;
            start += length;
        }
        Self {
            reference: response_logprobs(&moved, &mask, &LENGTHS).unwrap(),
            desirable: (0..8).map(|i| key.child(3).uniform(i) < 0.5).collect(),
            logprobs,
            mask,
        }
    }

    /// The pairs from `from` to `to`.
    fn pairs(&self, from: usize, to: usize) -> (PairInputs<'_>, &[f64]) {
        let (first, last) = (2 * from, 2 * to);
        let tokens = LENGTHS[..first].iter().sum()..LENGTHS[..last].iter().sum();
        let inputs = PairInputs {
            logprobs: &self.logprobs[tokens.clone()],
            mask: &self.mask[tokens],
            lengths: &LENGTHS[first..last],
        };
        (inputs, &self.reference[first..last])
    }

    fn responses(&self, from: usize, to: usize) -> KtoInputs<'_> {
        let tokens = LENGTHS[..from].iter().sum()..LENGTHS[..to].iter().sum();
        KtoInputs {
            logprobs: &self.logprobs[tokens.clone()],
            mask: &self.mask[tokens],
            lengths: &LENGTHS[from..to],
            ref_logprobs: &self.reference[from..to],
            desirable: &self.desirable[from..to],
        }
    }

    fn counts(&self) -> PairCounts {
        prepare(&self.mask, &LENGTHS).unwrap()
    }

    /// Sum and number of the tokens of each response.
    fn sums(&self, logprobs: &[f64]) -> Vec<(f64, f64)> {
        let mut start = 0;
        LENGTHS
            .map(|length| {
                let tokens = (start..start + length).filter(|&t| self.mask[t]);
                start += length;
                (tokens.clone().map(|t| logprobs[t]).sum(), tokens.count() as f64)
            })
            .to_vec()
    }
}

/// Every paired method, with settings that none has by default.
#[derive(Clone, Copy, Debug)]
enum Method {
    Dpo(f64),
    Ipo(IpoForm),
    Orpo(SftMean),
    Simpo,
}

const METHODS: [Method; 7] = [
    Method::Dpo(0.0),
    Method::Dpo(0.2),
    Method::Ipo(IpoForm::Summed),
    Method::Ipo(IpoForm::PerToken),
    Method::Orpo(SftMean::Responses),
    Method::Orpo(SftMean::Tokens),
    Method::Simpo,
];

impl Method {
    fn run(self, (inputs, reference): (PairInputs<'_>, &[f64]), counts: PairCounts) -> Result<PairLoss, Error> {
        match self {
            Self::Dpo(label_smoothing) => dpo(
                &inputs,
                reference,
                DpoConfig {
                    beta: 0.3,
                    label_smoothing,
                },
                counts,
            ),
            Self::Ipo(form) => ipo(&inputs, reference, IpoConfig { beta: 0.3, form }, counts),
            Self::Orpo(sft_mean) => {
                let config = OrpoConfig {
                    odds_ratio_coef: 0.3,
                    sft_mean,
                };
                orpo(&inputs, config, counts).map(|out| PairLoss {
                    loss: out.loss,
                    grad_logprobs: out.grad_logprobs,
                    stats: out.stats.pairs,
                })
            }
            Self::Simpo => simpo(&inputs, SimpoConfig { beta: 1.5, gamma: 0.4 }, counts),
        }
    }

    /// The definition, with the standard library's mathematics.
    fn naive(self, batch: &Batch, logprobs: &[f64]) -> f64 {
        let log_sigmoid = |x: f64| -(-x).exp().ln_1p();
        let sums = batch.sums(logprobs);
        let chosen_tokens: f64 = sums.iter().step_by(2).map(|sum| sum.1).sum();
        let mut total = 0.0;
        for i in (0..8).step_by(2) {
            let ((chosen, n), (rejected, m)) = (sums[i], sums[i + 1]);
            let (chosen_ratio, rejected_ratio) = (chosen - batch.reference[i], rejected - batch.reference[i + 1]);
            total += match self {
                Self::Dpo(e) => {
                    let margin = 0.3 * (chosen_ratio - rejected_ratio);
                    -(1.0 - e) * log_sigmoid(margin) - e * log_sigmoid(-margin)
                }
                Self::Ipo(IpoForm::Summed) => (chosen_ratio - rejected_ratio - 1.0 / 0.6).powi(2),
                Self::Ipo(IpoForm::PerToken) => (chosen_ratio / n - rejected_ratio / m - 1.0 / 0.6).powi(2),
                Self::Orpo(mean) => {
                    let nll = match mean {
                        SftMean::Responses => -chosen / n,
                        SftMean::Tokens => -chosen * 4.0 / chosen_tokens,
                    };
                    let odds = |mean: f64| mean.exp() / (1.0 - mean.exp());
                    nll - 0.3 * log_sigmoid((odds(chosen / n) / odds(rejected / m)).ln())
                }
                Self::Simpo => -log_sigmoid(1.5 * (chosen / n - rejected / m) - 0.4),
            };
        }
        total / 4.0
    }
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Central differences of a naive loss at every token, masked ones included, whose gradient must be exactly 0.
fn check_gradient(what: &str, batch: &Batch, grad: &[f32], loss: impl Fn(&[f64]) -> f64) {
    let x = widen(&batch.logprobs);
    let h = 1e-5;
    for t in 0..TOKENS {
        if !batch.mask[t] {
            assert_eq!(grad[t].to_bits(), 0, "{what}: token {t} is outside the mask");
            continue;
        }
        let (mut up, mut down) = (x.clone(), x.clone());
        up[t] += h;
        down[t] -= h;
        let numeric = (loss(&up) - loss(&down)) / (2.0 * h);
        assert!(numeric.abs() > 1e-6, "{what}: token {t} teaches nothing");
        assert!(
            (f64::from(grad[t]) - numeric).abs() < 1e-7 * (1.0 + numeric.abs()),
            "{what}: token {t}: {} {numeric}",
            grad[t]
        );
    }
}

#[test]
fn losses_agree_with_naive_loops_and_gradients_with_finite_differences() {
    for seed in 0..6 {
        let batch = Batch::random(seed);
        for method in METHODS {
            let what = format!("{method:?}");
            let out = method.run(batch.pairs(0, 4), batch.counts()).unwrap();
            let expected = method.naive(&batch, &widen(&batch.logprobs));
            assert!((out.loss - expected).abs() < 1e-12, "{what}: {} {expected}", out.loss);
            assert!((out.stats.loss.mean() - expected).abs() < 1e-12, "{what}");
            check_gradient(&what, &batch, &out.grad_logprobs, |x| method.naive(&batch, x));
        }
        let config = KtoConfig {
            beta: 0.3,
            desirable_weight: 1.2,
            undesirable_weight: 0.7,
        };
        let constants = KtoConstants { kl: 0.4, responses: 8 };
        let naive = |x: &[f64]| {
            let sums = batch.sums(x);
            let one = |i: usize| {
                let above = 0.3 * (sums[i].0 - batch.reference[i] - 0.4);
                if batch.desirable[i] {
                    1.2 * (1.0 - 1.0 / (1.0 + (-above).exp()))
                } else {
                    0.7 * (1.0 - 1.0 / (1.0 + above.exp()))
                }
            };
            (0..8).map(one).sum::<f64>() / 8.0
        };
        let out = kto(&batch.responses(0, 8), config, constants).unwrap();
        assert!((out.loss - naive(&widen(&batch.logprobs))).abs() < 1e-12);
        check_gradient("kto", &batch, &out.grad_logprobs, naive);
    }
}

#[test]
fn any_split_into_micro_batches_gives_the_same_gradients_and_sums() {
    let batch = Batch::random(20);
    let counts = batch.counts();
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-13, "{a} {b}");
    for method in METHODS {
        let whole = method.run(batch.pairs(0, 4), counts).unwrap();
        for cuts in [&[0, 1, 2, 3, 4][..], &[0, 3, 4], &[0, 2, 4]] {
            let (mut grad, mut loss) = (Vec::new(), 0.0);
            let mut stats = hone_objective::preference::PairStats::default();
            for cut in cuts.windows(2) {
                let part = method.run(batch.pairs(cut[0], cut[1]), counts).unwrap();
                grad.extend(part.grad_logprobs);
                loss += part.loss;
                stats.merge(&part.stats);
            }
            assert_eq!(grad, whole.grad_logprobs, "{method:?}");
            close(loss, whole.loss);
            assert_eq!((stats.pairs(), stats.accuracy()), (4, whole.stats.accuracy()));
            close(stats.loss.mean(), whole.stats.loss.mean());
            close(stats.margins.variance(), whole.stats.margins.variance());
            close(stats.chosen_rewards.mean(), whole.stats.chosen_rewards.mean());
            close(stats.rejected_rewards.mean(), whole.stats.rejected_rewards.mean());
            close(stats.chosen_logprobs.mean(), whole.stats.chosen_logprobs.mean());
            close(stats.rejected_logprobs.mean(), whole.stats.rejected_logprobs.mean());
        }
    }
    let constants = KtoConstants { kl: 0.2, responses: 8 };
    let whole = kto(&batch.responses(0, 8), KtoConfig::default(), constants).unwrap();
    let (mut grad, mut loss, mut stats) = (Vec::new(), 0.0, hone_objective::preference::KtoStats::default());
    for cut in [0, 1, 4, 6, 8].windows(2) {
        let part = kto(&batch.responses(cut[0], cut[1]), KtoConfig::default(), constants).unwrap();
        grad.extend(part.grad_logprobs);
        loss += part.loss;
        stats.merge(&part.stats);
    }
    assert_eq!(grad, whole.grad_logprobs);
    close(loss, whole.loss);
    close(stats.loss.mean(), whole.stats.loss.mean());
    close(stats.margin(), whole.stats.margin());
    close(stats.chosen_logprobs.mean(), whole.stats.chosen_logprobs.mean());
    close(stats.rejected_logprobs.mean(), whole.stats.rejected_logprobs.mean());
    assert_eq!(stats.accuracy(), whole.stats.accuracy());
}

#[test]
fn counts_of_parts_add_up() {
    let batch = Batch::random(21);
    let mut sum = PairCounts::default();
    for i in 0..4 {
        let (inputs, _) = batch.pairs(i, i + 1);
        sum.merge(&prepare(inputs.mask, inputs.lengths).unwrap());
    }
    assert_eq!(sum, batch.counts());
    let chosen: f64 = batch
        .sums(&widen(&batch.logprobs))
        .iter()
        .step_by(2)
        .map(|sum| sum.1)
        .sum();
    assert_eq!((sum.pairs, sum.chosen_tokens), (4, chosen as u64));
}

/// Log-ratios of 2 and -2 where the reference is: everything by hand.
#[test]
fn by_hand() {
    let inputs = PairInputs {
        logprobs: &[-1.0, -2.0, f32::NAN, -7.0],
        mask: &[true, true, false, true],
        lengths: &[3, 1],
    };
    let reference = [-5.0, -5.0];
    let counts = prepare(inputs.mask, inputs.lengths).unwrap();
    assert_eq!((counts.pairs, counts.chosen_tokens), (1, 2));
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());

    let out = dpo(
        &inputs,
        &reference,
        DpoConfig {
            beta: 0.5,
            label_smoothing: 0.0,
        },
        counts,
    )
    .unwrap();
    assert!((out.loss + sigmoid(2.0).ln()).abs() < 1e-15);
    let slope = (0.5 * sigmoid(-2.0)) as f32;
    assert_eq!(out.grad_logprobs, [-slope, -slope, 0.0, slope]);
    assert_eq!(
        (out.stats.chosen_rewards.mean(), out.stats.rejected_rewards.mean()),
        (1.0, -1.0)
    );
    assert_eq!((out.stats.margins.mean(), out.stats.accuracy()), (2.0, 1.0));
    assert_eq!(
        (out.stats.chosen_logprobs.mean(), out.stats.rejected_logprobs.mean()),
        (-3.0, -7.0)
    );

    // 4 - 1/(2 * 0.25), and 1 + 2 - 2
    let config = IpoConfig {
        beta: 0.25,
        form: IpoForm::Summed,
    };
    let out = ipo(&inputs, &reference, config, counts).unwrap();
    assert_eq!((out.loss, out.grad_logprobs), (4.0, vec![4.0, 4.0, 0.0, -4.0]));
    let config = IpoConfig {
        beta: 0.25,
        form: IpoForm::PerToken,
    };
    let out = ipo(&inputs, &reference, config, counts).unwrap();
    assert_eq!((out.loss, out.grad_logprobs), (1.0, vec![1.0, 1.0, 0.0, -2.0]));
    assert_eq!(out.stats.margins.mean(), 0.75);

    // Means -1.5 and -7
    let out = simpo(&inputs, SimpoConfig { beta: 2.0, gamma: 11.0 }, counts).unwrap();
    assert!((out.loss - std::f64::consts::LN_2).abs() < 1e-15);
    assert_eq!(out.grad_logprobs, [-0.5, -0.5, 0.0, 1.0]);

    let out = orpo(
        &inputs,
        OrpoConfig {
            odds_ratio_coef: 0.0,
            sft_mean: SftMean::Tokens,
        },
        counts,
    )
    .unwrap();
    assert_eq!((out.loss, out.grad_logprobs), (1.5, vec![-0.5, -0.5, 0.0, 0.0]));
    assert_eq!(out.stats.nll.mean(), 1.5);
    let odds = |p: f64| p / (1.0 - p);
    let log_odds = (odds((-1.5_f64).exp()) / odds((-7.0_f64).exp())).ln();
    assert!((out.stats.log_odds.mean() - log_odds).abs() < 1e-13);
    assert!((out.stats.log_odds_ratio.mean() - sigmoid(log_odds).ln()).abs() < 1e-15);

    // Ratios 2 (good) and -2 (bad), divergence 1: 1 and 3 on their side
    let inputs = KtoInputs {
        logprobs: inputs.logprobs,
        mask: inputs.mask,
        lengths: inputs.lengths,
        ref_logprobs: &reference,
        desirable: &[true, false],
    };
    let constants = kto_prepare(&[-2.0, -4.0], &[-3.5, -4.5], 2).unwrap();
    assert_eq!(constants, KtoConstants { kl: 1.0, responses: 2 });
    let config = KtoConfig {
        beta: 1.0,
        desirable_weight: 2.0,
        undesirable_weight: 1.0,
    };
    let out = kto(&inputs, config, constants).unwrap();
    assert!((out.loss - (2.0 * sigmoid(-1.0) + sigmoid(-3.0)) / 2.0).abs() < 1e-15);
    let (good, bad) = (sigmoid(1.0) * sigmoid(-1.0), sigmoid(3.0) * sigmoid(-3.0) / 2.0);
    for (got, expected) in out.grad_logprobs.iter().zip([-good, -good, 0.0, bad]) {
        assert!((f64::from(*got) - expected).abs() < 1e-8);
    }
    assert_eq!((out.stats.accuracy(), out.stats.margin()), (1.0, 4.0));
}

#[test]
fn a_policy_equal_to_its_reference_has_no_implicit_reward() {
    let batch = Batch::random(30);
    let reference = response_logprobs(&batch.logprobs, &batch.mask, &LENGTHS).unwrap();
    let (inputs, _) = batch.pairs(0, 4);
    let counts = batch.counts();
    for (out, loss) in [
        (
            dpo(&inputs, &reference, DpoConfig::default(), counts),
            std::f64::consts::LN_2,
        ),
        (
            dpo(
                &inputs,
                &reference,
                DpoConfig {
                    beta: 0.1,
                    label_smoothing: 0.3,
                },
                counts,
            ),
            std::f64::consts::LN_2,
        ),
        (ipo(&inputs, &reference, IpoConfig::default(), counts), 25.0),
        (
            ipo(
                &inputs,
                &reference,
                IpoConfig {
                    beta: 0.1,
                    form: IpoForm::PerToken,
                },
                counts,
            ),
            25.0,
        ),
    ] {
        let out = out.unwrap();
        assert!((out.loss - loss).abs() < 1e-14, "{}", out.loss);
        assert_eq!((out.stats.margins.mean(), out.stats.margins.variance()), (0.0, 0.0));
        // Equal rewards are half right
        assert_eq!(out.stats.accuracy(), 0.5);
    }
    let constants = kto_prepare(&reference, &reference, 8).unwrap();
    assert_eq!(constants.kl, 0.0);
    let inputs = KtoInputs {
        ref_logprobs: &reference,
        ..batch.responses(0, 8)
    };
    let out = kto(&inputs, KtoConfig::default(), constants).unwrap();
    assert_eq!((out.loss, out.stats.accuracy()), (0.5, 0.5));
}

/// Swapping chosen and rejected turns smoothing by e into smoothing by 1 - e; at a half the loss knows no direction.
#[test]
fn label_smoothing_of_a_half_has_no_preference() {
    let batch = Batch::random(31);
    let (inputs, reference) = batch.pairs(1, 2);
    let counts = PairCounts {
        pairs: 1,
        chosen_tokens: 1,
    };
    let smoothed = dpo(
        &inputs,
        reference,
        DpoConfig {
            beta: 0.3,
            label_smoothing: 0.5,
        },
        counts,
    )
    .unwrap();
    let (first, rest) = (inputs.lengths[0], inputs.lengths[1]);
    let swap = |x: &[f32]| [&x[first..], &x[..first]].concat();
    let swapped = PairInputs {
        logprobs: &swap(inputs.logprobs),
        mask: &[&inputs.mask[first..], &inputs.mask[..first]].concat(),
        lengths: &[rest, first],
    };
    let other = dpo(
        &swapped,
        &[reference[1], reference[0]],
        DpoConfig {
            beta: 0.3,
            label_smoothing: 0.5,
        },
        counts,
    )
    .unwrap();
    assert!((smoothed.loss - other.loss).abs() < 1e-15);
    for (a, b) in swap(&smoothed.grad_logprobs).iter().zip(&other.grad_logprobs) {
        assert!((a - b).abs() < 1e-9);
    }
    assert!((smoothed.stats.margins.mean() + other.stats.margins.mean()).abs() < 1e-15);
}

/// SimPO without margin, on responses of one token, is DPO from a reference that gives everything the same probability.
#[test]
fn simpo_is_dpo_where_the_two_cannot_differ() {
    let inputs = PairInputs {
        logprobs: &[-0.5, -2.0, -3.0, -0.25],
        mask: &[true; 4],
        lengths: &[1; 4],
    };
    let counts = prepare(inputs.mask, inputs.lengths).unwrap();
    let with = dpo(
        &inputs,
        &[-1.0; 4],
        DpoConfig {
            beta: 0.5,
            label_smoothing: 0.0,
        },
        counts,
    )
    .unwrap();
    let without = simpo(&inputs, SimpoConfig { beta: 0.5, gamma: 0.0 }, counts).unwrap();
    assert_eq!(with.loss, without.loss);
    assert_eq!(with.grad_logprobs, without.grad_logprobs);
    assert_eq!(without.stats.accuracy(), 0.5);
}

#[test]
fn kto_clamps_its_divergence_at_0_and_can_leave_out_a_side() {
    assert_eq!(kto_prepare(&[-3.0], &[-2.0], 4).unwrap().kl.to_bits(), 0);
    let batch = Batch::random(32);
    let constants = KtoConstants { kl: 0.0, responses: 8 };
    let config = KtoConfig {
        undesirable_weight: 0.0,
        ..KtoConfig::default()
    };
    let out = kto(&batch.responses(0, 8), config, constants).unwrap();
    let mut start = 0;
    for (length, desirable) in LENGTHS.into_iter().zip(&batch.desirable) {
        let moved = out.grad_logprobs[start..start + length].iter().any(|&grad| grad != 0.0);
        assert_eq!(moved, *desirable);
        start += length;
    }
    assert!(matches!(kto_prepare(&[], &[], 4), Err(Error::TooFew { .. })));
    assert!(matches!(
        kto_prepare(&[f64::NAN], &[0.0], 4),
        Err(Error::NotFinite { .. })
    ));
    assert!(matches!(kto_prepare(&[0.0], &[0.0], 0), Err(Error::GlobalCount { .. })));
    assert!(matches!(kto_prepare(&[0.0], &[], 4), Err(Error::ShapeMismatch { .. })));
}

/// Also where the formula saturates: a rejected response of probability 0 would have a loss and gradient of 0.
#[test]
fn numbers_that_are_none_reach_loss_and_gradient_of_their_pair_alone() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for t in 0..TOKENS {
            let mut batch = Batch::random(40);
            batch.logprobs[t] = bad;
            let pair_of = |t: usize| {
                let mut end = 0;
                LENGTHS.iter().position(|length| {
                    end += length;
                    t < end
                })
            };
            let response = pair_of(t).unwrap();
            for method in METHODS {
                let out = method.run(batch.pairs(0, 4), batch.counts()).unwrap();
                assert_eq!(out.loss.is_nan(), batch.mask[t], "{method:?} {bad} at {t}");
                for (other, grad) in out.grad_logprobs.iter().enumerate() {
                    let same = pair_of(other).unwrap() / 2 == response / 2;
                    let expected = same && batch.mask[t] && batch.mask[other];
                    assert_eq!(grad.is_nan(), expected, "{method:?} {bad} at {t}, gradient at {other}");
                }
            }
            let constants = KtoConstants { kl: 0.0, responses: 8 };
            let out = kto(&batch.responses(0, 8), KtoConfig::default(), constants).unwrap();
            assert_eq!(out.loss.is_nan(), batch.mask[t]);
            assert_eq!(out.grad_logprobs[t].is_nan(), batch.mask[t]);
        }
    }
    let batch = Batch::random(41);
    let (inputs, _) = batch.pairs(0, 4);
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for i in 0..8 {
            let mut reference = batch.reference.clone();
            reference[i] = bad;
            assert!(
                dpo(&inputs, &reference, DpoConfig::default(), batch.counts())
                    .unwrap()
                    .loss
                    .is_nan()
            );
            assert!(
                ipo(&inputs, &reference, IpoConfig::default(), batch.counts())
                    .unwrap()
                    .loss
                    .is_nan()
            );
        }
    }
}

/// A certain chosen response is what the loss asks for; a certain rejected one has no finite loss.
#[test]
fn orpo_at_certainty() {
    let run = |logprobs: &[f32]| {
        let inputs = PairInputs {
            logprobs,
            mask: &[true; 3],
            lengths: &[2, 1],
        };
        orpo(
            &inputs,
            OrpoConfig::default(),
            prepare(inputs.mask, inputs.lengths).unwrap(),
        )
        .unwrap()
    };
    let certain = run(&[0.0, 0.0, -1.0]);
    assert_eq!(certain.loss, 0.0);
    let near = run(&[-1e-7, -1e-7, -1.0]);
    for (a, b) in certain.grad_logprobs.iter().zip(&near.grad_logprobs) {
        assert!(a.is_finite() && (a - b).abs() < 1e-6, "{a} {b}");
    }
    assert_eq!(run(&[-1.0, -1.0, 0.0]).loss, f64::INFINITY);
}

#[test]
fn refusals() {
    let batch = Batch::random(50);
    let (inputs, reference) = batch.pairs(0, 4);
    let counts = batch.counts();
    for method in METHODS {
        let refused = |inputs: PairInputs<'_>, counts: PairCounts| method.run((inputs, reference), counts).unwrap_err();
        let few = PairCounts { pairs: 3, ..counts };
        assert!(
            matches!(refused(inputs, few), Error::GlobalCount { what: "pairs", .. }),
            "{method:?}"
        );
        let short = PairInputs {
            mask: &inputs.mask[1..],
            ..inputs
        };
        assert!(matches!(
            refused(short, counts),
            Error::ShapeMismatch { what: "mask", .. }
        ));
        let lengths = [1; 8];
        let wrong = PairInputs {
            lengths: &lengths,
            ..inputs
        };
        assert!(matches!(
            refused(wrong, counts),
            Error::ShapeMismatch {
                what: "sum of lengths",
                ..
            }
        ));
        let mut mask = batch.mask.clone();
        mask[..6].fill(false);
        let empty = PairInputs { mask: &mask, ..inputs };
        assert!(matches!(refused(empty, counts), Error::EmptyResponse { index: 0, .. }));
    }
    let odd = PairInputs {
        lengths: &LENGTHS[..7],
        ..inputs
    };
    assert!(matches!(
        simpo(&odd, SimpoConfig::default(), counts),
        Err(Error::OddResponses { got: 7, .. })
    ));
    assert!(matches!(
        prepare(&batch.mask, &LENGTHS[..7]),
        Err(Error::OddResponses { got: 7, .. })
    ));
    assert!(prepare(&[false, true], &[1, 1]).is_err() && prepare(&[true], &[1, 1]).is_err());
    let few = PairCounts {
        chosen_tokens: 2,
        ..counts
    };
    assert!(matches!(
        orpo(&inputs, OrpoConfig::default(), few),
        Err(Error::GlobalCount {
            what: "tokens of chosen responses",
            ..
        })
    ));
    for (beta, label_smoothing) in [
        (0.0, 0.0),
        (-1.0, 0.0),
        (f64::NAN, 0.0),
        (0.1, -0.1),
        (0.1, 0.6),
        (0.1, f64::NAN),
    ] {
        assert!(dpo(&inputs, reference, DpoConfig { beta, label_smoothing }, counts).is_err());
    }
    assert!(dpo(&inputs, &reference[1..], DpoConfig::default(), counts).is_err());
    assert!(ipo(&inputs, &reference[1..], IpoConfig::default(), counts).is_err());
    assert!(
        ipo(
            &inputs,
            reference,
            IpoConfig {
                beta: 0.0,
                form: IpoForm::Summed
            },
            counts
        )
        .is_err()
    );
    for (beta, gamma) in [(0.0, 0.0), (f64::INFINITY, 0.0), (1.0, -0.1), (1.0, f64::NAN)] {
        assert!(simpo(&inputs, SimpoConfig { beta, gamma }, counts).is_err());
    }
    let negative = OrpoConfig {
        odds_ratio_coef: -0.1,
        ..OrpoConfig::default()
    };
    assert!(orpo(&inputs, negative, counts).is_err());

    let inputs = batch.responses(0, 8);
    let constants = KtoConstants { kl: 0.0, responses: 8 };
    let config = KtoConfig::default();
    assert!(kto(&inputs, KtoConfig { beta: 0.0, ..config }, constants).is_err());
    assert!(
        kto(
            &inputs,
            KtoConfig {
                desirable_weight: -1.0,
                ..config
            },
            constants
        )
        .is_err()
    );
    assert!(
        kto(
            &inputs,
            KtoConfig {
                undesirable_weight: f64::NAN,
                ..config
            },
            constants
        )
        .is_err()
    );
    assert!(kto(&inputs, config, KtoConstants { kl: -0.1, ..constants }).is_err());
    assert!(
        kto(
            &inputs,
            config,
            KtoConstants {
                responses: 7,
                ..constants
            }
        )
        .is_err()
    );
    assert!(
        kto(
            &KtoInputs {
                desirable: &[true],
                ..inputs
            },
            config,
            constants
        )
        .is_err()
    );
    assert!(
        kto(
            &KtoInputs {
                ref_logprobs: &[],
                ..inputs
            },
            config,
            constants
        )
        .is_err()
    );
}
