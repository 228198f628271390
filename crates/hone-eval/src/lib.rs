//! Metrics and judging: what a model is worth, as pure functions of models, tokens and verdicts.
//!
//! - [`bits_per_byte`]: how well a model predicts documents, comparable across tokenizers.
//! - [`win_rate`]: how often a judge prefers one system's answers to another's; [`win_rate_difference`]: whether one of two
//!   systems is preferred more often, prompt by prompt.
//! - [`kl_of_samples`]: how far a policy has moved from its reference, measured on its own samples.
//! - [`annotation_report`]: how far people who judge agree, what pulls them besides the answers, and what judging costs.
#![forbid(unsafe_code)]

mod annotations;
mod bits_per_byte;
mod error;
mod kl;
mod win_rate;

pub use annotations::{AnnotationReport, AnnotatorReport, Cost, Estimate, Pair, Question, annotation_report};
pub use bits_per_byte::{BitsPerByte, bits_per_byte};
pub use error::Error;
pub use hone_objective::statistics::{Bootstrap, Outcome};
pub use kl::{KlOfSamples, kl_of_samples};
pub use win_rate::{Difference, WinRate, win_rate, win_rate_difference};
