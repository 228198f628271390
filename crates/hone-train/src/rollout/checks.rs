//! Settings of stages with rollouts that make no sense.

use super::sections::RolloutSettings;
use crate::error::{Result, TrainError};

/// Refuses counts of 0.
pub(crate) fn at_least_one(section: &str, counts: &[(&str, usize)]) -> Result<()> {
    match counts.iter().find(|(_, count)| *count == 0) {
        None => Ok(()),
        Some((key, _)) => Err(TrainError::setting(
            format!("{section}.{key}"),
            "is 0; expected at least 1",
        )),
    }
}

/// Refuses a part that does not divide the whole; both are a key and its value.
pub(crate) fn divides(section: &str, (key, part): (&str, usize), (whole, of): (&str, usize)) -> Result<()> {
    if of.is_multiple_of(part) {
        return Ok(());
    }
    let reason = format!("is {part}, which does not divide {section}.{whole} = {of}");
    Err(TrainError::setting(format!("{section}.{key}"), reason))
}

/// Refuses a number that is none, or for which `holds` is false.
pub(crate) fn number(section: &str, (key, value): (&str, f64), (holds, expected): (bool, &str)) -> Result<()> {
    if holds && value.is_finite() {
        return Ok(());
    }
    let reason = format!("is {value}; expected {expected}");
    Err(TrainError::setting(format!("{section}.{key}"), reason))
}

/// Refuses rollouts that cannot be.
pub(crate) fn check_rollout(settings: &RolloutSettings) -> Result<()> {
    let section = settings.section;
    let (batch, samples) = (settings.rollout_batch, settings.samples_per_prompt);
    let counts = [
        ("rollout_batch", batch),
        ("samples_per_prompt", samples),
        ("max_new_tokens", settings.max_new_tokens),
    ];
    at_least_one(section, &counts)?;
    divides(section, ("samples_per_prompt", samples), ("rollout_batch", batch))?;
    let temperature = settings.temperature;
    number(
        section,
        ("temperature", temperature),
        (temperature > 0.0, "a number above 0"),
    )?;
    number(
        section,
        ("missing_eos_score", settings.missing_eos_score),
        (true, "a number"),
    )
}
