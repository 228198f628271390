//! How the true score moves with the distance from the starting policy while a proxy of it is being optimised: Gao's two curves, fitted.
//!
//! With d = sqrt(KL(policy || starting policy)) and R(d) the true score less that of the starting policy:
//!
//! best-of-N:               R(d) = d * (alpha - beta * d)
//! reinforcement learning:  R(d) = d * (alpha - beta * ln d)
//!
//! Both are linear in alpha and beta, which least squares finds in closed form; both rise from 0, and fall again beyond a peak where beta
//! is positive.
//!
//! Source: Gao, Schulman and Hilton, "Scaling laws for reward model overoptimization", 2023, section 3.1.
//!
//! Where it differs from other implementations:
//! 1. The fit comes with its root-mean-square error and says nothing of a peak that does not exist. Both forms can be fitted to the same
//!    points and compared by that error.
//! 2. A peak may lie beyond the farthest point that was measured; the caller should say so where it does.

use crate::{Error, check_length, check_setting};

/// Which of the two curves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `d * (alpha - beta * d)`.
    BestOfN,
    /// `d * (alpha - beta * ln d)`.
    ReinforcementLearning,
}

impl Form {
    /// What beta multiplies; 0 at a distance of 0.
    fn second(self, d: f64) -> f64 {
        match self {
            Self::BestOfN => -d * d,
            Self::ReinforcementLearning if d == 0.0 => 0.0,
            Self::ReinforcementLearning => -d * hone_math::ln(d),
        }
    }
}

/// A fitted curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Its form.
    pub form: Form,
    /// Slope at the start of best-of-N's curve; in the other, slope where `ln d` is -1.
    pub alpha: f64,
    /// How strongly over-optimisation bends it down.
    pub beta: f64,
    /// Root of the mean squared difference between the points and the curve, in units of the score.
    pub rmse: f64,
}

/// The highest point of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// The divergence there, nats.
    pub kl: f64,
    /// The gain in score there.
    pub gain: f64,
}

impl Fit {
    /// The curve's gain in score at a divergence of `kl` nats, 0 or more.
    pub fn gain(&self, kl: f64) -> f64 {
        let d = kl.sqrt();
        self.alpha * d + self.beta * self.form.second(d)
    }

    /// Where the curve is highest, if it rises at all and comes down again.
    pub fn peak(&self) -> Option<Peak> {
        if self.beta <= 0.0 {
            return None;
        }
        let d = match self.form {
            Form::BestOfN => 0.5 * self.alpha / self.beta,
            Form::ReinforcementLearning => hone_math::exp(self.alpha / self.beta - 1.0),
        };
        let kl = d * d;
        (d > 0.0 && kl.is_finite()).then(|| Peak {
            kl,
            gain: self.gain(kl),
        })
    }
}

/// Fits one form to points by least squares.
///
/// `kl` is the divergence from the starting policy in nats and `gain` the true score less the starting policy's, `[points]` each.
///
/// # Errors
/// Slices of unequal length; a number that is not finite; a negative divergence (an estimate by k3 has none); fewer than three points,
/// or not two different positive divergences among them.
pub fn fit(form: Form, kl: &[f64], gain: &[f64]) -> Result<Fit, Error> {
    let op = "overoptimisation::fit";
    check_length(op, "gain", gain.len(), kl.len())?;
    for (name, numbers) in [("kl", kl), ("gain", gain)] {
        if let Some(&got) = numbers.iter().find(|x| !x.is_finite()) {
            return Err(Error::NotFinite { op, name, got });
        }
    }
    if let Some(&got) = kl.iter().find(|&&kl| kl < 0.0) {
        check_setting(op, "kl", got, false, "0 or more")?;
    }
    let positive = kl.iter().copied().filter(|&kl| kl > 0.0);
    let (least, most) = (
        positive.clone().fold(f64::INFINITY, f64::min),
        positive.fold(0.0, f64::max),
    );
    if kl.len() < 3 || least >= most {
        return Err(Error::TooFew {
            op,
            what: "the set of points, of which two must have different positive divergences,",
            at_least: 3,
        });
    }

    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b);
    let first: Vec<f64> = kl.iter().map(|kl| kl.sqrt()).collect();
    let second: Vec<f64> = first.iter().map(|&d| form.second(d)).collect();
    // The second column less its part along the first: what is left of it is beta's alone
    let along = dot(&first, &second) / dot(&first, &first);
    let rest: Vec<f64> = first.iter().zip(&second).map(|(a, b)| b - along * a).collect();
    let beta = dot(&rest, gain) / dot(&rest, &rest);
    let alpha = dot(&first, gain) / dot(&first, &first) - along * beta;
    let mut fit = Fit {
        form,
        alpha,
        beta,
        rmse: 0.0,
    };
    let squares = kl.iter().zip(gain).fold(0.0, |sum, (&kl, gain)| {
        let error = gain - fit.gain(kl);
        sum + error * error
    });
    fit.rmse = (squares / kl.len() as f64).sqrt();
    Ok(fit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Form; 2] = [Form::BestOfN, Form::ReinforcementLearning];

    #[test]
    fn a_curve_is_found_again_from_its_own_points() {
        let kl = [0.0, 0.3, 1.0, 4.0, 9.0, 25.0];
        for form in BOTH {
            let curve = Fit {
                form,
                alpha: 1.5,
                beta: 0.25,
                rmse: 0.0,
            };
            let gain: Vec<f64> = kl.iter().map(|&kl| curve.gain(kl)).collect();
            let found = fit(form, &kl, &gain).unwrap();
            assert!(
                (found.alpha - 1.5).abs() < 1e-12 && (found.beta - 0.25).abs() < 1e-12,
                "{found:?}"
            );
            assert!(found.rmse < 1e-13);
        }
    }

    #[test]
    fn curves_and_peaks_by_hand() {
        let of = |form, alpha, beta| Fit {
            form,
            alpha,
            beta,
            rmse: 0.0,
        };
        let best = of(Form::BestOfN, 2.0, 0.5);
        assert_eq!((best.gain(4.0), best.gain(16.0)), (2.0, 0.0));
        assert_eq!(best.peak(), Some(Peak { kl: 4.0, gain: 2.0 }));
        // Highest where alpha - beta - beta ln d = 0; there the gain is beta d
        let rl = of(Form::ReinforcementLearning, 2.0, 1.0);
        let e = std::f64::consts::E;
        assert!((rl.gain(1.0) - 2.0).abs() < 1e-15 && rl.gain(0.0) == 0.0);
        let peak = rl.peak().unwrap();
        assert!((peak.kl - e * e).abs() < 1e-13 && (peak.gain - e).abs() < 1e-13);
        for form in BOTH {
            let curve = of(form, 0.7, 0.2);
            let peak = curve.peak().unwrap();
            for factor in [0.9, 0.99, 1.01, 1.1] {
                assert!(curve.gain(peak.kl * factor) < peak.gain);
            }
            // A curve that does not come down has no peak
            assert_eq!(of(form, 1.0, 0.0).peak(), None);
            assert_eq!(of(form, 1.0, -0.1).peak(), None);
        }
        assert_eq!(of(Form::BestOfN, -1.0, 0.5).peak(), None);
        assert_eq!(of(Form::ReinforcementLearning, 1.0, 1e-4).peak(), None);
    }

    /// No other alpha and beta has a smaller error, and the form that made the points fits them better.
    #[test]
    fn the_fit_is_the_best_one() {
        let key = hone_math::Key::new(8, "overoptimisation", 0);
        let kl: Vec<f64> = (0..20).map(|i| 0.2 + 0.7 * i as f64).collect();
        for (form, other) in [(BOTH[0], BOTH[1]), (BOTH[1], BOTH[0])] {
            let curve = Fit {
                form,
                alpha: 1.2,
                beta: 0.3,
                rmse: 0.0,
            };
            let gain: Vec<f64> = kl
                .iter()
                .zip(0..)
                .map(|(&kl, i)| curve.gain(kl) + 0.01 * key.normal(i))
                .collect();
            let found = fit(form, &kl, &gain).unwrap();
            let error = |alpha: f64, beta: f64| {
                let curve = Fit { alpha, beta, ..found };
                let squares: f64 = kl.iter().zip(&gain).map(|(&kl, y)| (y - curve.gain(kl)).powi(2)).sum();
                (squares / 20.0).sqrt()
            };
            assert!((error(found.alpha, found.beta) - found.rmse).abs() < 1e-15);
            for (a, b) in [
                (1e-3, 0.0),
                (-1e-3, 0.0),
                (0.0, 1e-3),
                (0.0, -1e-3),
                (1e-3, 3e-4),
                (-1e-3, -3e-4),
            ] {
                assert!(error(found.alpha + a, found.beta + b) > found.rmse);
            }
            assert!(found.rmse < fit(other, &kl, &gain).unwrap().rmse);
        }
    }

    #[test]
    fn refusals() {
        let run = |kl: &[f64], gain: &[f64]| fit(Form::BestOfN, kl, gain);
        assert!(matches!(run(&[1.0, 2.0], &[1.0, 2.0]), Err(Error::TooFew { .. })));
        assert!(matches!(
            run(&[0.0, 2.0, 2.0], &[0.0, 2.0, 1.0]),
            Err(Error::TooFew { .. })
        ));
        assert!(matches!(run(&[-0.1, 2.0, 3.0], &[0.0; 3]), Err(Error::Setting { .. })));
        assert!(matches!(
            run(&[0.1, 2.0, 3.0], &[0.0, f64::NAN, 0.0]),
            Err(Error::NotFinite { name: "gain", .. })
        ));
        assert!(matches!(
            run(&[f64::NAN, 2.0, 3.0], &[0.0; 3]),
            Err(Error::NotFinite { name: "kl", .. })
        ));
        assert!(matches!(
            run(&[1.0, 2.0, 3.0], &[0.0; 2]),
            Err(Error::ShapeMismatch { .. })
        ));
    }
}
