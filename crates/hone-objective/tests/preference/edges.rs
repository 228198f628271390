//! Clamps, numbers that are none, certainty, refusals.

use super::{Batch, LENGTHS, METHODS, TOKENS};
use hone_objective::Error;
use hone_objective::preference::kto::prepare as kto_prepare;
use hone_objective::preference::{
    DpoConfig, IpoConfig, IpoForm, KtoConfig, KtoConstants, KtoInputs, OrpoConfig, PairCounts, PairInputs, SimpoConfig,
    dpo, ipo, kto, orpo, prepare, simpo,
};

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
