//! What is asked of the sampler a row, and what it gives.

pub use crate::cpu::sampling::{SamplingError, SamplingParameters};

/// One token to be drawn.
#[derive(Clone, Copy, Debug)]
pub struct SampleRow {
    /// Temperature and truncation.
    pub parameters: SamplingParameters,
    /// Uniform in (0, 1).
    pub uniform: f64,
}

impl SampleRow {
    /// # Errors
    /// If a parameter or `uniform` is out of its range.
    pub(crate) fn validate(&self) -> Result<(), SamplingError> {
        self.parameters.validate()?;
        if !(0.0..1.0).contains(&self.uniform) {
            return Err(SamplingError::Parameter {
                field: "uniform",
                got: self.uniform,
                expected: "at least 0 and below 1",
            });
        }
        Ok(())
    }

    /// The temperature under which the log-probability is given: that of the sampling, or 1 for greedy choice.
    pub(crate) fn logprob_temperature(&self) -> f32 {
        let temperature = self.parameters.temperature;
        if temperature > 0.0 { temperature } else { 1.0 }
    }
}

/// A token that was drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choice {
    /// Its id.
    pub token: u32,
    /// ln p under the temperature, before any truncation.
    pub logprob: f32,
}

/// A change of one token's logit before a token is drawn: what repetition penalties and a caller's bias amount to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adjustment {
    /// The token.
    pub token: u32,
    /// Divides a logit above 0 and multiplies one below; 1 changes nothing. (Keskar et al. 2019.)
    pub penalty: f32,
    /// Added after that.
    pub bias: f32,
}

impl Adjustment {
    /// The logit as it is changed.
    pub(crate) fn of(&self, logit: f32) -> f32 {
        let penalised = if logit > 0.0 {
            logit / self.penalty
        } else {
            logit * self.penalty
        };
        penalised + self.bias
    }
}

/// How many of a row's most probable tokens are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BestRow {
    /// Tokens; fewer come where the vocabulary has fewer.
    pub count: usize,
    /// Divides the logits; above 0.
    pub temperature: f32,
}
