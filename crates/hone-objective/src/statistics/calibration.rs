//! Calibration: whether what is predicted with probability p happens a share p of the time.
//!
//! Sources: Guo et al., "On calibration of modern neural networks", 2017 (reliability bins, expected calibration error); Brier,
//! "Verification of forecasts expressed in terms of probability", 1950.
//!
//! Where it differs from other implementations:
//! 1. Bins have equal widths over [0, 1] and are closed below; the last is closed at 1 too. Empty bins are kept, so that a plot has its
//!    axis, and weigh nothing.

use crate::{Error, check_setting};

/// What was predicted and what came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Probability given to the outcome being true.
    pub probability: f64,
    /// What came: 1 true, 0 false, and a half where it is undecided.
    pub outcome: f64,
}

/// Predictions of nearly the same probability.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    /// How many predictions.
    pub count: u64,
    /// Their mean probability; NaN of none.
    pub predicted: f64,
    /// Share of them that came true, undecided ones a half; NaN of none.
    pub observed: f64,
}

/// A reliability diagram and its summaries.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Bins of equal width over `[0, 1]`.
    pub bins: Vec<Bin>,
    /// Mean over predictions of their bin's |predicted - observed|.
    pub expected_error: f64,
    /// The largest |predicted - observed| of a bin.
    pub maximum_error: f64,
    /// Mean squared difference of probability and outcome.
    pub brier: f64,
}

/// Sorts predictions into `bins` bins.
///
/// # Errors
/// No prediction; a probability or an outcome outside `[0, 1]`; no bin, or more than 10,000.
pub fn calibration(predictions: &[Prediction], bins: usize) -> Result<Calibration, Error> {
    check_setting(
        "calibration",
        "bins",
        bins as f64,
        (1..=10_000).contains(&bins),
        "1 to 10000",
    )?;
    if predictions.is_empty() {
        return Err(Error::TooFew {
            op: "calibration",
            what: "the set of predictions",
            at_least: 1,
        });
    }
    let (mut counts, mut probabilities, mut outcomes) = (vec![0_u64; bins], vec![0.0; bins], vec![0.0; bins]);
    let mut squares = 0.0;
    for &Prediction { probability, outcome } in predictions {
        check_setting(
            "calibration",
            "probability",
            probability,
            (0.0..=1.0).contains(&probability),
            "0 to 1",
        )?;
        check_setting(
            "calibration",
            "outcome",
            outcome,
            (0.0..=1.0).contains(&outcome),
            "0 to 1",
        )?;
        let bin = ((probability * bins as f64) as usize).min(bins - 1);
        counts[bin] += 1;
        probabilities[bin] += probability;
        outcomes[bin] += outcome;
        let miss = probability - outcome;
        squares += miss * miss;
    }
    let bins: Vec<Bin> = (0..bins)
        .map(|bin| {
            let n = counts[bin] as f64;
            Bin {
                count: counts[bin],
                predicted: probabilities[bin] / n,
                observed: outcomes[bin] / n,
            }
        })
        .collect();
    let n = predictions.len() as f64;
    let (mut expected_error, mut maximum_error) = (0.0, 0.0);
    for bin in bins.iter().filter(|bin| bin.count > 0) {
        let error = (bin.predicted - bin.observed).abs();
        expected_error += bin.count as f64 / n * error;
        maximum_error = if error > maximum_error { error } else { maximum_error };
    }
    Ok(Calibration {
        bins,
        expected_error,
        maximum_error,
        brier: squares / n,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    fn of(pairs: &[(f64, bool)]) -> Vec<Prediction> {
        pairs
            .iter()
            .map(|&(probability, outcome)| Prediction {
                probability,
                outcome: f64::from(u8::from(outcome)),
            })
            .collect()
    }

    #[test]
    fn by_hand() {
        let out = calibration(
            &of(&[(0.0, false), (0.25, true), (0.5, true), (1.0, true), (0.75, false)]),
            2,
        )
        .unwrap();
        // Lower bin: 0 and 0.25, one of two true. Upper: 0.5, 1, 0.75, two of three true.
        assert_eq!(
            out.bins[0],
            Bin {
                count: 2,
                predicted: 0.125,
                observed: 0.5
            }
        );
        assert_eq!(
            out.bins[1],
            Bin {
                count: 3,
                predicted: 0.75,
                observed: 2.0 / 3.0
            }
        );
        assert!((out.expected_error - (0.4 * 0.375 + 0.6 * (0.75 - 2.0 / 3.0))).abs() < 1e-15);
        assert_eq!(out.maximum_error, 0.375);
        assert_eq!(out.brier, (0.5625 + 0.25 + 0.5625) / 5.0);
    }

    #[test]
    fn outcomes_drawn_with_the_predicted_probabilities_are_calibrated() {
        let key = Key::new(6, "calibration", 0);
        let predictions: Vec<Prediction> = (0..20_000)
            .map(|i| {
                let probability = key.uniform(i);
                Prediction {
                    probability,
                    outcome: f64::from(u8::from(key.child(1).uniform(i) < probability)),
                }
            })
            .collect();
        let out = calibration(&predictions, 10).unwrap();
        assert!(out.expected_error < 0.015, "{}", out.expected_error);
        // The mean of p (1 - p) over [0, 1] is a sixth
        assert!((out.brier - 1.0 / 6.0).abs() < 0.005);
    }

    #[test]
    fn empty_bins_stay_and_weigh_nothing() {
        let out = calibration(&of(&[(0.95, true)]), 10).unwrap();
        assert_eq!(out.bins.len(), 10);
        assert!(out.bins[0].count == 0 && out.bins[0].predicted.is_nan());
        assert!((out.expected_error - 0.05).abs() < 1e-15);
    }

    #[test]
    fn refusals() {
        assert!(calibration(&[], 10).is_err());
        assert!(calibration(&of(&[(0.5, true)]), 0).is_err());
        assert!(calibration(&of(&[(0.5, true)]), usize::MAX).is_err());
        assert!(calibration(&of(&[(1.5, true)]), 10).is_err());
        assert!(calibration(&of(&[(f64::NAN, true)]), 10).is_err());
    }
}
