//! The methods of preference tuning against naive loops and finite differences, and cut into micro-batches.

mod edges;
mod hand;

use hone_math::Key;
use hone_objective::Error;
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
