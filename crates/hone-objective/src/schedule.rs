//! Learning-rate schedules: a pure function of the optimiser step.
//!
//! warm-up, step < w:   (step + 1) / w
//! afterwards, with p = (step - w) / (total - w):
//!   constant           1
//!   linear             f + (1 - f) (1 - p)
//!   cosine             f + (1 - f) (1 + cos(pi p)) / 2
//!
//! Sources: Loshchilov and Hutter, "SGDR", 2017, equation 5 (cosine); Ouyang et al. (InstructGPT), 2022, appendix C (cosine to 10% of the
//! peak); Ziegler et al., 2019, code (linear).
//!
//! Where it differs from other implementations:
//! 1. The first step already moves: warm-up counts `step + 1`. In transformers and TRL the first step's rate is 0.
//! 2. The final fraction is reached at `step == total_steps`, one after the last step, as in transformers; so that no step is spent
//!    on a rate of 0. Steps beyond that stay at the final fraction.
//! 3. The final fraction applies to linear decay as well.

use crate::{Error, check_setting};

/// Shape after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Stays at the peak.
    Constant,
    /// A straight line to the final fraction.
    Linear,
    /// Half a cosine wave to the final fraction.
    Cosine,
}

/// A schedule; it gives the share of the peak learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    decay: Decay,
    warmup_steps: u64,
    total_steps: u64,
    final_fraction: f64,
}

impl Schedule {
    /// A schedule over `total_steps`, the first `warmup_steps` of which rise to the peak, and which ends at `final_fraction` of it
    /// (which `Decay::Constant` ignores).
    ///
    /// # Errors
    /// A warm-up longer than the whole; a final fraction outside `[0, 1]`.
    pub fn new(decay: Decay, warmup_steps: u64, total_steps: u64, final_fraction: f64) -> Result<Self, Error> {
        let fits = warmup_steps <= total_steps;
        check_setting(
            "schedule",
            "warmup_steps",
            warmup_steps as f64,
            fits,
            "at most the total number of steps",
        )?;
        let within = (0.0..=1.0).contains(&final_fraction);
        check_setting("schedule", "final_fraction", final_fraction, within, "0 to 1")?;
        Ok(Self {
            decay,
            warmup_steps,
            total_steps,
            final_fraction,
        })
    }

    /// The share of the peak learning rate at `step`, from 0.
    pub fn fraction(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return (step + 1) as f64 / self.warmup_steps as f64;
        }
        if self.decay == Decay::Constant {
            return 1.0;
        }
        if step >= self.total_steps {
            return self.final_fraction;
        }
        let p = (step - self.warmup_steps) as f64 / (self.total_steps - self.warmup_steps) as f64;
        let left = match self.decay {
            Decay::Constant | Decay::Linear => 1.0 - p,
            Decay::Cosine => 0.5 * (1.0 + hone_math::cos(std::f64::consts::PI * p)),
        };
        self.final_fraction + (1.0 - self.final_fraction) * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_by_hand() {
        let schedule = Schedule::new(Decay::Linear, 2, 6, 0.0).unwrap();
        let fractions: Vec<f64> = (0..8).map(|step| schedule.fraction(step)).collect();
        assert_eq!(fractions, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]);
        let schedule = Schedule::new(Decay::Linear, 0, 4, 0.5).unwrap();
        assert_eq!(
            (0..5).map(|step| schedule.fraction(step)).collect::<Vec<_>>(),
            [1.0, 0.875, 0.75, 0.625, 0.5]
        );
    }

    #[test]
    fn cosine_by_hand() {
        let schedule = Schedule::new(Decay::Cosine, 10, 110, 0.1).unwrap();
        assert_eq!(schedule.fraction(0), 0.1);
        assert_eq!(schedule.fraction(9), 1.0);
        assert_eq!(schedule.fraction(10), 1.0);
        assert!((schedule.fraction(60) - 0.55).abs() < 1e-15);
        // A third of the way: (1 + cos 60 degrees)/2 = 3/4
        let schedule = Schedule::new(Decay::Cosine, 0, 3, 0.0).unwrap();
        assert!((schedule.fraction(1) - 0.75).abs() < 1e-15);
        assert_eq!(schedule.fraction(u64::MAX), 0.0);
    }

    #[test]
    fn constant_and_edges() {
        let schedule = Schedule::new(Decay::Constant, 4, 4, 0.0).unwrap();
        assert_eq!(
            (0..6).map(|step| schedule.fraction(step)).collect::<Vec<_>>(),
            [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
        );
        assert_eq!(Schedule::new(Decay::Cosine, 0, 0, 0.25).unwrap().fraction(0), 0.25);
        assert!(Schedule::new(Decay::Linear, 5, 4, 0.0).is_err());
        assert!(Schedule::new(Decay::Linear, 0, 4, 1.5).is_err());
        assert!(Schedule::new(Decay::Linear, 0, 4, f64::NAN).is_err());
    }

    #[test]
    fn never_rises_after_the_warm_up() {
        for decay in [Decay::Linear, Decay::Cosine] {
            let schedule = Schedule::new(decay, 7, 100, 0.1).unwrap();
            for step in 7..120 {
                assert!(schedule.fraction(step + 1) <= schedule.fraction(step));
            }
        }
    }
}
