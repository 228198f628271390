//! Coefficients of an exponential moving average of weights.
//!
//! Source: Ouyang et al. (InstructGPT), 2022, appendix C.4, which averages the policy's weights with decay 0.992.
//!
//! Where it differs from other implementations:
//! 1. The average starts at the weights themselves, so that it needs no bias correction.
//! 2. Warm-up is a function of its own, with the rule `min(decay, (1 + step)/(10 + step))` of TensorFlow's `ExponentialMovingAverage`.

use crate::{Error, check_setting};

/// InstructGPT's decay.
pub const DECAY: f64 = 0.992;

/// The two factors of `average = keep * average + take * weights`; they sum to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// Factor of the average so far.
    pub keep: f64,
    /// Factor of the new weights.
    pub take: f64,
}

/// The factors at a constant `decay`.
///
/// # Errors
/// A decay outside `[0, 1)`.
pub fn coefficients(decay: f64) -> Result<Coefficients, Error> {
    check_setting(
        "ema",
        "decay",
        decay,
        (0.0..1.0).contains(&decay),
        "0 or more and less than 1",
    )?;
    Ok(Coefficients {
        keep: decay,
        take: 1.0 - decay,
    })
}

/// The factors at optimiser step `step` (from 0), with a decay that grows to `decay`, so that early weights are forgotten soon.
///
/// # Errors
/// A decay outside `[0, 1)`.
pub fn coefficients_with_warmup(decay: f64, step: u64) -> Result<Coefficients, Error> {
    let step = step as f64;
    coefficients(if decay > (1.0 + step) / (10.0 + step) {
        (1.0 + step) / (10.0 + step)
    } else {
        decay
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_of_constant_weights_is_those_weights_and_a_jump_decays_geometrically() {
        let c = coefficients(0.75).unwrap();
        let mut average = 1.0;
        for _ in 0..3 {
            average = c.keep * average + c.take * 5.0;
        }
        // 5 - 4 * 0.75^3
        assert_eq!(average, 5.0 - 4.0 * 0.421_875);
        assert_eq!(c.keep * 2.0 + c.take * 2.0, 2.0);
    }

    #[test]
    fn warm_up_ends_at_the_decay() {
        assert_eq!(coefficients_with_warmup(DECAY, 0).unwrap().keep, 0.1);
        assert_eq!(coefficients_with_warmup(DECAY, 8).unwrap().keep, 0.5);
        assert_eq!(coefficients_with_warmup(DECAY, 1_000_000).unwrap().keep, DECAY);
        // A setting out of range stays out of range at every step
        assert!(
            coefficients_with_warmup(f64::NAN, 3).is_err() && coefficients(1.0).is_err() && coefficients(-0.1).is_err()
        );
    }
}
