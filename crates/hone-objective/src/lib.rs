//! Objectives as pure functions on slices.
//!
//! Whatever hone trains ends in a few numbers a token (its log-probability, a value) or a response (a score). A function here takes
//! such numbers and returns the loss, the gradient of the loss with respect to those numbers, and statistics. It reads no
//! configuration file, keeps no state and draws no random number that its caller did not key.
//!
//! # Two steps
//!
//! 1. `prepare`: numbers of the *whole* batch go in, constants come out (advantages after whitening, integer counts).
//! 2. `loss = sum over groups of f(group, constants)`: any part of the batch goes in, together with the constants.
//!
//! A loss is therefore normalised by counts of the global batch, which are passed in (`global_tokens`, `global_prompts`), never by the
//! size of the slice at hand. However a batch is cut into micro-batches, the gradients have the same bits and the losses add up to
//! the same sum within the rounding of `f64`. The one condition is that a prompt's group, such as the K ranked answers, stays whole.
//!
//! # Conventions
//!
//! - Numbers come in and gradients go out as `f32`; sums, exponentials and everything between them are `f64`.
//! - Per-token slices are flat: the tokens of all sequences one after another, `[sum of lengths]`. A padded `[b, t]` array is the case
//!   in which all lengths are `t`.
//! - A mask is true where a token counts. What stands where it is false is never read, and its gradient is exactly 0.
//! - A NaN or infinity under the mask reaches the loss and is not hidden; the caller skips such a step.
//! - Logarithms are natural: entropies and divergences are in nats.
#![forbid(unsafe_code)]

pub mod agreement;
pub mod best_of_n;
pub mod bradley_terry;
pub mod cross_entropy;
pub mod ema;
mod error;
pub mod gae;
pub mod group;
pub mod kl;
pub mod overoptimisation;
pub mod ppo;
pub mod preference;
pub mod rewards;
pub mod schedule;
pub mod statistics;
pub mod whiten;

pub use error::Error;

/// Refuses a slice whose length is not the expected one.
fn check_length(op: &'static str, what: &'static str, got: usize, expected: usize) -> Result<(), Error> {
    if got == expected {
        Ok(())
    } else {
        Err(Error::ShapeMismatch {
            op,
            what,
            expected,
            got,
        })
    }
}

/// Refuses a global count that is 0 or smaller than what the slice alone holds.
fn check_count(op: &'static str, what: &'static str, global: u64, local: u64) -> Result<(), Error> {
    if global == 0 || global < local {
        return Err(Error::GlobalCount {
            op,
            what,
            global,
            local,
        });
    }
    Ok(())
}

/// Refuses a setting for which `holds` is false.
fn check_setting(
    op: &'static str,
    name: &'static str,
    got: f64,
    holds: bool,
    expected: &'static str,
) -> Result<(), Error> {
    if holds {
        Ok(())
    } else {
        Err(Error::Setting {
            op,
            name,
            got,
            expected,
        })
    }
}

/// Number of tokens that count.
fn count(mask: &[bool]) -> u64 {
    mask.iter().filter(|&&counts| counts).count() as u64
}

/// The larger of two numbers; NaN if either is NaN (`f64::max` would drop it).
fn max_or_nan(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// `x` moved into `[low, high]`; NaN stays NaN.
fn clip(x: f64, low: f64, high: f64) -> f64 {
    if x < low {
        low
    } else if x > high {
        high
    } else {
        x
    }
}
