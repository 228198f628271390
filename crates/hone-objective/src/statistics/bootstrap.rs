//! Bootstrap intervals over prompts.
//!
//! Source: Efron, "Bootstrap methods: another look at the jackknife", 1979; Efron and Tibshirani, "An introduction to the bootstrap", 1993,
//! chapter 13 (percentile intervals).
//!
//! Where it differs from other implementations:
//! 1. What is drawn again is the prompt: where a prompt has several answers, pass their mean.
//! 2. The draws are functions of the key, so that an interval is the same on every machine and in every order of evaluation.
//! 3. Percentiles interpolate between order statistics (Hyndman and Fan's type 7, as in NumPy).

use super::interval::{Interval, check_confidence};
use crate::{Error, check_length};
use hone_math::Key;

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub struct Bootstrap {
    /// How many times the prompts are drawn again. Default 1,000.
    pub resamples: u32,
    /// Share of the resampled means inside the interval. Default 0.95.
    pub confidence: f64,
    /// Where the draws come from.
    pub key: Key,
}

impl Bootstrap {
    /// 1,000 resamples at 95%.
    pub fn new(key: Key) -> Self {
        Self {
            resamples: 1000,
            confidence: 0.95,
            key,
        }
    }

    fn check(&self, op: &'static str) -> Result<(), Error> {
        check_confidence(op, self.confidence)?;
        crate::check_setting(
            op,
            "resamples",
            f64::from(self.resamples),
            self.resamples > 0,
            "1 or more",
        )
    }

    /// The means of all resamples, in ascending order.
    fn means(&self, values: &[f64]) -> Vec<f64> {
        let n = values.len() as u64;
        let mut means: Vec<f64> = (0..u64::from(self.resamples))
            .map(|resample| {
                let key = self.key.child(resample);
                (0..n).map(|draw| values[key.below(draw, n) as usize]).sum::<f64>() / n as f64
            })
            .collect();
        means.sort_unstable_by(f64::total_cmp);
        means
    }

    fn interval(&self, estimate: f64, sorted: &[f64]) -> Interval {
        let outside = 0.5 * (1.0 - self.confidence);
        Interval {
            estimate,
            low: percentile(sorted, outside),
            high: percentile(sorted, 1.0 - outside),
        }
    }
}

/// The mean of one number a prompt, with its percentile interval.
///
/// # Errors
/// No value; a value that is not finite; no resamples; a confidence outside (0, 1).
pub fn bootstrap_interval(values: &[f64], bootstrap: &Bootstrap) -> Result<Interval, Error> {
    bootstrap.check("bootstrap_interval")?;
    check_values("bootstrap_interval", values)?;
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    Ok(bootstrap.interval(mean, &bootstrap.means(values)))
}

/// A difference between two systems on the same prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// Mean of the first less mean of the second, with its percentile interval.
    pub difference: Interval,
    /// Share of resamples in which the first is ahead, equal means as a half.
    pub ahead: f64,
}

/// Compares two systems by one number each a prompt, drawing prompts, so that what is hard for both cancels.
///
/// # Errors
/// As [`bootstrap_interval`]; slices of unequal length.
pub fn paired_bootstrap(first: &[f64], second: &[f64], bootstrap: &Bootstrap) -> Result<Paired, Error> {
    bootstrap.check("paired_bootstrap")?;
    check_length("paired_bootstrap", "second", second.len(), first.len())?;
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    check_values("paired_bootstrap", &differences)?;
    let means = bootstrap.means(&differences);
    let ahead: f64 = means
        .iter()
        .map(|&mean| {
            if mean > 0.0 {
                1.0
            } else if mean == 0.0 {
                0.5
            } else {
                0.0
            }
        })
        .sum();
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    Ok(Paired {
        difference: bootstrap.interval(mean, &means),
        ahead: ahead / means.len() as f64,
    })
}

/// A statistic with its interval over resamples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resampled {
    /// The statistic of all units, with its percentile interval.
    pub interval: Interval,
    /// Resamples in which the statistic was undefined; the interval is of the others.
    pub undefined: u32,
}

/// Any statistic of units, such as items that several people judged, with its percentile interval. `statistic` gets the indices of the
/// units that were drawn and answers `None` where it is undefined; so does the result where it is so for all units or all resamples.
///
/// # Errors
/// No unit; no resamples; a confidence outside (0, 1); what `statistic` returns, and a value of it that is not finite.
pub fn bootstrap_statistic(
    units: usize,
    bootstrap: &Bootstrap,
    mut statistic: impl FnMut(&[usize]) -> Result<Option<f64>, Error>,
) -> Result<Option<Resampled>, Error> {
    const OP: &str = "bootstrap_statistic";
    bootstrap.check(OP)?;
    if units == 0 {
        return Err(Error::TooFew {
            op: OP,
            what: "the set of units",
            at_least: 1,
        });
    }
    let mut finite = |drawn: &[usize]| match statistic(drawn)? {
        Some(got) if !got.is_finite() => Err(Error::NotFinite {
            op: OP,
            name: "statistic",
            got,
        }),
        value => Ok(value),
    };
    let mut drawn: Vec<usize> = (0..units).collect();
    let Some(estimate) = finite(&drawn)? else {
        return Ok(None);
    };
    let mut values = Vec::with_capacity(bootstrap.resamples as usize);
    for resample in 0..u64::from(bootstrap.resamples) {
        let key = bootstrap.key.child(resample);
        for (draw, index) in drawn.iter_mut().enumerate() {
            *index = key.below(draw as u64, units as u64) as usize;
        }
        values.extend(finite(&drawn)?);
    }
    if values.is_empty() {
        return Ok(None);
    }
    let undefined = bootstrap.resamples - values.len() as u32;
    values.sort_unstable_by(f64::total_cmp);
    Ok(Some(Resampled {
        interval: bootstrap.interval(estimate, &values),
        undefined,
    }))
}

fn check_values(op: &'static str, values: &[f64]) -> Result<(), Error> {
    if values.is_empty() {
        return Err(Error::TooFew {
            op,
            what: "the set of prompts",
            at_least: 1,
        });
    }
    match values.iter().find(|value| !value.is_finite()) {
        Some(&got) => Err(Error::NotFinite {
            op,
            name: "values",
            got,
        }),
        None => Ok(()),
    }
}

/// The point of a sorted set below which a share of it lies, interpolated.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap() -> Bootstrap {
        Bootstrap::new(Key::new(1, "bootstrap", 0))
    }

    #[test]
    fn percentiles_by_hand() {
        assert_eq!(percentile(&[1.0, 2.0, 4.0, 8.0, 16.0], 0.25), 2.0);
        assert_eq!(percentile(&[1.0, 2.0, 4.0, 8.0, 16.0], 0.875), 12.0);
        assert_eq!(percentile(&[1.0, 2.0], 1.0), 2.0);
        assert_eq!(percentile(&[3.0], 0.5), 3.0);
    }

    /// The mean of n numbers is about normal, with the standard deviation of the numbers over sqrt(n).
    #[test]
    fn the_interval_has_the_width_of_the_normal_approximation() {
        let key = Key::new(2, "values", 0);
        let values: Vec<f64> = (0..400).map(|i| key.normal(i)).collect();
        let out = bootstrap_interval(&values, &bootstrap()).unwrap();
        let moments: super::super::Moments = values.iter().copied().collect();
        let half = 1.96 * (moments.variance() / 400.0).sqrt();
        assert!((out.estimate - moments.mean()).abs() < 1e-12);
        assert!(
            ((out.high - out.low) / (2.0 * half) - 1.0).abs() < 0.08,
            "{out:?} {half}"
        );
    }

    #[test]
    fn covers_the_truth_about_as_often_as_it_says() {
        let covered = (0..200_u64)
            .filter(|&trial| {
                let key = Key::new(3, "coverage", trial);
                let values: Vec<f64> = (0..60).map(|i| f64::from(u8::from(key.uniform(i) < 0.6))).collect();
                let draws = Bootstrap {
                    resamples: 200,
                    confidence: 0.9,
                    key: key.child(1),
                };
                let out = bootstrap_interval(&values, &draws).unwrap();
                (out.low..=out.high).contains(&0.6)
            })
            .count();
        assert!((165..=192).contains(&covered), "{covered} of 200 at 90%");
    }

    #[test]
    fn the_same_key_gives_the_same_interval_and_constant_values_a_point() {
        let values = [0.0, 1.0, 1.0, 0.5];
        assert_eq!(
            bootstrap_interval(&values, &bootstrap()),
            bootstrap_interval(&values, &bootstrap())
        );
        let point = bootstrap_interval(&[0.25; 9], &bootstrap()).unwrap();
        assert_eq!((point.low, point.estimate, point.high), (0.25, 0.25, 0.25));
    }

    #[test]
    fn pairing_removes_what_is_common() {
        let key = Key::new(4, "paired", 0);
        let first: Vec<f64> = (0..100).map(|i| 10.0 * key.normal(i) + 0.5).collect();
        let second: Vec<f64> = (0..100).map(|i| 10.0 * key.normal(i)).collect();
        let out = paired_bootstrap(&first, &second, &bootstrap()).unwrap();
        assert!((out.difference.low - 0.5).abs() < 1e-9 && (out.difference.high - 0.5).abs() < 1e-9);
        assert_eq!(out.ahead, 1.0);
        let same = paired_bootstrap(&first, &first, &bootstrap()).unwrap();
        assert_eq!((same.difference.estimate, same.ahead), (0.0, 0.5));
    }

    /// For the mean it is the interval of the mean, to the bit.
    #[test]
    fn a_statistic_over_units() {
        let values = [0.0, 1.0, 1.0, 0.5, 3.0];
        let mean = |drawn: &[usize]| Ok(Some(drawn.iter().map(|&i| values[i]).sum::<f64>() / drawn.len() as f64));
        let out = bootstrap_statistic(5, &bootstrap(), mean).unwrap().unwrap();
        assert_eq!(out.interval, bootstrap_interval(&values, &bootstrap()).unwrap());
        assert_eq!(out.undefined, 0);
        // Undefined where unit 0 is not drawn, which is so in about (4/5)^5 of the resamples
        let some = |drawn: &[usize]| Ok(drawn.contains(&0).then_some(2.0));
        let out = bootstrap_statistic(5, &bootstrap(), some).unwrap().unwrap();
        assert!((278..=378).contains(&out.undefined), "{}", out.undefined);
        assert_eq!((out.interval.low, out.interval.high), (2.0, 2.0));
        assert_eq!(bootstrap_statistic(5, &bootstrap(), |_| Ok(None)), Ok(None));
        assert!(bootstrap_statistic(0, &bootstrap(), |_| Ok(Some(1.0))).is_err());
        assert!(bootstrap_statistic(2, &bootstrap(), |_| Ok(Some(f64::NAN))).is_err());
    }

    #[test]
    fn refusals() {
        assert!(bootstrap_interval(&[], &bootstrap()).is_err());
        assert!(bootstrap_interval(&[f64::NAN], &bootstrap()).is_err());
        assert!(
            bootstrap_interval(
                &[1.0],
                &Bootstrap {
                    resamples: 0,
                    ..bootstrap()
                }
            )
            .is_err()
        );
        assert!(
            bootstrap_interval(
                &[1.0],
                &Bootstrap {
                    confidence: 1.0,
                    ..bootstrap()
                }
            )
            .is_err()
        );
        assert!(paired_bootstrap(&[1.0], &[], &bootstrap()).is_err());
    }
}
