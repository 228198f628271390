//! Naive f64 oracles and tiny models for tests.
//!
//! Everything here is written from the formulas, in f64, with dense arrays and plain loops, and shares no code with what
//! it judges: elementary functions are the standard library's, attention builds its whole score matrix, the log of a
//! softmax is taken over the whole vocabulary.
#![forbid(unsafe_code)]
// Oracles call the platform's mathematics on purpose: they must share nothing with what they judge.
#![allow(clippy::disallowed_methods)]

mod check;
mod layers;
mod matrix;
mod model;
mod tokenizer;

pub use check::{Differences, assert_bits, assert_near, differences, relative_error};
pub use layers::{
    AttentionSizes, TokenNumbers, add_bias, attention, gelu_erf, gelu_tanh, layer_norm, linear, map, relu, rms_norm,
    rotate, silu, token_numbers,
};
pub use matrix::{Matrix, Rounding};
pub use model::{Feed, NaiveModel, NaiveShape, Place};
pub use tokenizer::spaced_tokenizer_json;
