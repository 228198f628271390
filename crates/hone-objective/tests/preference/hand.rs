//! The methods by hand, and identities between them.

use super::{Batch, LENGTHS};
use hone_objective::preference::kto::prepare as kto_prepare;
use hone_objective::preference::{
    DpoConfig, IpoConfig, IpoForm, KtoConfig, KtoConstants, KtoInputs, OrpoConfig, PairCounts, PairInputs, SftMean,
    SimpoConfig, dpo, ipo, kto, orpo, prepare, response_logprobs, simpo,
};

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
