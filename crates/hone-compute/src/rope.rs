//! Rotary position embeddings: frequencies and their scalings, and the table of angles kernels read.
//!
//! Su et al. 2021 (RoFormer); linear scaling by Chen et al. 2023 (position interpolation); YaRN by Peng et al. 2023;
//! the scaling of Llama 3.1. Definitions, and the names of the fields, are those of transformers'
//! `modeling_rope_utils`. Differences:
//!
//! 1. Frequencies are computed in f64 and rounded once to f32; transformers computes them in f32.
//! 2. Angles are the f32 product of position and frequency, as in transformers; cosine and sine are taken in f64.

use std::f64::consts::PI;

/// How frequencies are changed to reach longer contexts than a model was trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// Every frequency divided by `factor`.
    Linear {
        /// New context length by old.
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, those between interpolated by wavelength.
    Llama3 {
        /// New context length by old.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are scaled.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context length before scaling.
        original_max_position_embeddings: usize,
    },
    /// Low frequencies divided by `factor`, high ones kept, those between interpolated by dimension; attention scaled.
    Yarn {
        /// New context length by old.
        factor: f64,
        /// The context length before scaling.
        original_max_position_embeddings: usize,
        /// Dimensions that turn more often over the original context are kept; 32 if absent.
        beta_fast: f64,
        /// Dimensions that turn less often are scaled; 1 if absent.
        beta_slow: f64,
        /// What cosine and sine are multiplied by, if given.
        attention_factor: Option<f64>,
        /// With `mscale_all_dim`, another way to give the attention factor.
        mscale: Option<f64>,
        /// See `mscale`.
        mscale_all_dim: Option<f64>,
        /// Whether the interpolated dimensions begin and end at whole numbers; true if absent.
        truncate: bool,
    },
}

/// A setting of rotary embeddings is out of its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("rotary position embeddings: {field} is {got}; expected {expected}")]
pub struct RopeError {
    /// The setting.
    pub field: &'static str,
    /// What it is.
    pub got: String,
    /// What it may be.
    pub expected: &'static str,
}

fn check(ok: bool, field: &'static str, got: impl ToString, expected: &'static str) -> Result<(), RopeError> {
    if ok {
        return Ok(());
    }
    Err(RopeError {
        field,
        got: got.to_string(),
        expected,
    })
}

fn check_factor(factor: f64) -> Result<(), RopeError> {
    let ok = factor.is_finite() && factor >= 1.0;
    check(ok, "factor", factor, "a finite number of at least 1")
}

/// The angle by which each pair of dimensions turns a position, `[head_dim / 2]`, and what cosine and sine are
/// multiplied by (YaRN's attention factor, otherwise 1).
///
/// # Errors
/// If `head_dim` is odd or 0, or `theta` or a setting of the scaling is out of its range.
pub fn inverse_frequencies(head_dim: usize, theta: f64, scaling: &RopeScaling) -> Result<(Vec<f64>, f64), RopeError> {
    let even = head_dim > 0 && head_dim.is_multiple_of(2);
    check(even, "head_dim", head_dim, "an even number above 0")?;
    let above = theta.is_finite() && theta > 1.0;
    check(above, "rope_theta", theta, "a finite number above 1")?;
    let plain: Vec<f64> = (0..head_dim / 2)
        .map(|i| 1.0 / hone_math::pow(theta, (2 * i) as f64 / head_dim as f64))
        .collect();
    match *scaling {
        RopeScaling::Default => Ok((plain, 1.0)),
        RopeScaling::Linear { factor } => {
            check_factor(factor)?;
            Ok((plain.into_iter().map(|f| f / factor).collect(), 1.0))
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: length,
        } => {
            check_factor(factor)?;
            check_length(length)?;
            let ok = low.is_finite() && low > 0.0;
            check(ok, "low_freq_factor", low, "a finite number above 0")?;
            let ok = high.is_finite() && high > low;
            let expected = "a finite number above low_freq_factor";
            check(ok, "high_freq_factor", high, expected)?;
            let length = length as f64;
            let scale = |f: f64| {
                let wavelength = 2.0 * PI / f;
                if wavelength < length / high {
                    f
                } else if wavelength > length / low {
                    f / factor
                } else {
                    let smooth = (length / wavelength - low) / (high - low);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            };
            Ok((plain.into_iter().map(scale).collect(), 1.0))
        }
        RopeScaling::Yarn { .. } => yarn(head_dim, theta, plain, scaling),
    }
}

fn check_length(length: usize) -> Result<(), RopeError> {
    let field = "original_max_position_embeddings";
    check(length > 0, field, length, "a number above 0")
}

fn yarn(head_dim: usize, theta: f64, plain: Vec<f64>, scaling: &RopeScaling) -> Result<(Vec<f64>, f64), RopeError> {
    let RopeScaling::Yarn {
        factor,
        original_max_position_embeddings,
        beta_fast,
        beta_slow,
        attention_factor,
        mscale,
        mscale_all_dim,
        truncate,
    } = *scaling
    else {
        return Ok((plain, 1.0));
    };
    check_factor(factor)?;
    check_length(original_max_position_embeddings)?;
    let ok = beta_slow.is_finite() && beta_slow > 0.0;
    check(ok, "beta_slow", beta_slow, "a finite number above 0")?;
    let ok = beta_fast.is_finite() && beta_fast >= beta_slow;
    let expected = "a finite number of at least beta_slow";
    check(ok, "beta_fast", beta_fast, expected)?;
    let magnitude = |mscale: f64| {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * mscale * hone_math::ln(factor) + 1.0
        }
    };
    let attention_factor = match (attention_factor, mscale, mscale_all_dim) {
        (Some(given), ..) => given,
        // As there, 0 means absent.
        (None, Some(one), Some(all)) if one != 0.0 && all != 0.0 => magnitude(one) / magnitude(all),
        _ => magnitude(1.0),
    };
    let ok = attention_factor.is_finite() && attention_factor > 0.0;
    let expected = "a finite number above 0";
    check(ok, "attention_factor", attention_factor, expected)?;

    // The dimension that makes so many turns over the original context
    let dimension = |turns: f64| {
        let length = original_max_position_embeddings as f64;
        head_dim as f64 * hone_math::ln(length / (turns * 2.0 * PI)) / (2.0 * hone_math::ln(theta))
    };
    let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    let scale = |(i, f): (usize, f64)| {
        let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        f / factor * interpolated + f * (1.0 - interpolated)
    };
    let frequencies = plain.into_iter().enumerate().map(scale).collect();
    Ok((frequencies, attention_factor))
}

/// Cosines and sines of every position, `[positions, half]` each, for heads of which `2 half` dimensions turn.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
    pub(crate) half: usize,
}

impl RopeTable {
    /// The table of positions `0..positions` for what [`inverse_frequencies`] gave.
    pub fn new(inverse_frequencies: &[f64], attention_factor: f64, positions: usize) -> Self {
        let half = inverse_frequencies.len();
        let mut cos = Vec::with_capacity(positions * half);
        let mut sin = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for &frequency in inverse_frequencies {
                let angle = f64::from(position as f32 * frequency as f32);
                cos.push((hone_math::cos(angle) * attention_factor) as f32);
                sin.push((hone_math::sin(angle) * attention_factor) as f32);
            }
        }
        Self { cos, sin, half }
    }

    /// How many positions there are.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }

    /// How many dimensions of a head turn.
    pub fn rotary_dim(&self) -> usize {
        2 * self.half
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (i, (g, e)) in got.iter().zip(expected).enumerate() {
            assert!((g - e).abs() <= 1e-9 * e.abs(), "{i}: {g}, expected {e}");
        }
    }

    #[test]
    fn default_and_linear_by_hand() {
        // 10000^(-2 i / 8)
        let (plain, factor) = inverse_frequencies(8, 1e4, &RopeScaling::Default).expect("valid");
        assert_near(&plain, &[1.0, 0.1, 0.01, 0.001]);
        assert_eq!(factor, 1.0);
        let linear = RopeScaling::Linear { factor: 4.0 };
        let (linear, _) = inverse_frequencies(8, 1e4, &linear).expect("valid");
        assert_near(&linear, &[0.25, 0.025, 0.0025, 0.00025]);
    }

    #[test]
    fn llama3_by_hand() {
        // Wavelengths 2 pi, 20 pi = 62.8, 200 pi = 628, 2000 pi; kept below 256 / 4 = 64, divided by 8 above 256 / 1.
        // With 512: kept below 128, divided above 512. With 1024: kept below 256, divided above 1024, and 628 between:
        // smooth = (1024 / 628.3185307 - 1) / 3 = 0.2099156200, 0.01 * (0.79008438 / 8 + 0.20991562) = 0.0030867617
        let scaling = |length| RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: length,
        };
        let (low, factor) = inverse_frequencies(8, 1e4, &scaling(256)).expect("valid");
        assert_near(&low, &[1.0, 0.1, 0.00125, 0.000125]);
        assert_eq!(factor, 1.0);
        let (between, _) = inverse_frequencies(8, 1e4, &scaling(1024)).expect("valid");
        let smooth = (1024.0 / (200.0 * PI) - 1.0) / 3.0;
        let expected = 0.01 * ((1.0 - smooth) / 8.0 + smooth);
        assert!((expected - 0.003_086_761_7).abs() < 1e-9);
        assert_near(&between, &[1.0, 0.1, expected, 0.000125]);
    }

    fn yarn(attention_factor: Option<f64>, mscale: Option<(f64, f64)>, truncate: bool) -> RopeScaling {
        RopeScaling::Yarn {
            factor: 4.0,
            original_max_position_embeddings: 2048,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor,
            mscale: mscale.map(|m| m.0),
            mscale_all_dim: mscale.map(|m| m.1),
            truncate,
        }
    }

    #[test]
    fn yarn_by_hand() {
        // dimension(turns) = 8 ln(2048 / (turns 2 pi)) / (2 ln 10000): 1.0074 for 32 turns, 2.5126 for 1. Truncated to
        // 1 and 3, the ramp is 0, 0, 1/2, 1.
        let (got, factor) = inverse_frequencies(8, 1e4, &yarn(None, None, true)).expect("valid");
        assert_near(&got, &[1.0, 0.1, 0.01 * (0.5 / 4.0 + 0.5), 0.00025]);
        assert!((factor - (1.0 + 0.1 * 4.0_f64.ln())).abs() < 1e-12);
        let dimension = |turns: f64| 8.0 * (2048.0 / (turns * 2.0 * PI)).ln() / (2.0 * 1e4_f64.ln());
        let (low, high) = (dimension(32.0), dimension(1.0));
        assert!(
            (low - 1.0074).abs() < 1e-3 && (high - 2.5126).abs() < 1e-3,
            "{low} {high}"
        );
        let ramp = (2.0 - low) / (high - low);
        let (got, _) = inverse_frequencies(8, 1e4, &yarn(None, None, false)).expect("valid");
        assert_near(&got, &[1.0, 0.1, 0.01 * (ramp / 4.0 + 1.0 - ramp), 0.00025]);
    }

    #[test]
    fn yarns_attention_factor() {
        let factor = |scaling| inverse_frequencies(8, 1e4, &scaling).expect("valid").1;
        assert_eq!(factor(yarn(Some(1.25), Some((1.0, 0.5)), true)), 1.25);
        let ln = 4.0_f64.ln();
        let expected = (0.1 * 1.0 * ln + 1.0) / (0.1 * 0.5 * ln + 1.0);
        assert!((factor(yarn(None, Some((1.0, 0.5)), true)) - expected).abs() < 1e-12);
        assert_eq!(factor(yarn(None, Some((0.7, 0.7)), true)), 1.0);
    }

    #[test]
    fn refuses_what_is_out_of_range() {
        let field = |head_dim, theta, scaling| {
            inverse_frequencies(head_dim, theta, &scaling)
                .expect_err("out of range")
                .field
        };
        assert_eq!(field(7, 1e4, RopeScaling::Default), "head_dim");
        assert_eq!(field(0, 1e4, RopeScaling::Default), "head_dim");
        assert_eq!(field(8, 1.0, RopeScaling::Default), "rope_theta");
        assert_eq!(field(8, f64::NAN, RopeScaling::Default), "rope_theta");
        assert_eq!(field(8, 1e4, RopeScaling::Linear { factor: 0.0 }), "factor");
        let equal = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 4.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        assert_eq!(field(8, 1e4, equal), "high_freq_factor");
        assert_eq!(field(8, 1e4, yarn(Some(f64::NAN), None, true)), "attention_factor");
    }

    #[test]
    fn the_table_holds_cosines_and_sines() {
        let table = RopeTable::new(&[1.0, 0.01], 2.0, 50);
        assert_eq!((table.positions(), table.rotary_dim()), (50, 4));
        assert_eq!((table.cos[0], table.sin[0]), (2.0, 0.0));
        let angle = f64::from(37.0_f32 * 0.01_f32);
        assert!((f64::from(table.cos[37 * 2 + 1]) - 2.0 * angle.cos()).abs() < 2e-7);
        assert!((f64::from(table.sin[37 * 2 + 1]) - 2.0 * angle.sin()).abs() < 2e-7);
    }
}
