//! Metrics and judging: what a model is worth, as pure functions of models, tokens and verdicts.
//!
//! - [`bits_per_byte`]: how well a model predicts documents, comparable across tokenizers.
//! - [`win_rate`]: how often a judge prefers one system's answers to another's; [`win_rate_difference`]: whether one of two
//!   systems is preferred more often, prompt by prompt.
//! - [`length_controlled_win_rate`]: the same with the effect of length taken out.
//! - [`accuracy`]: a share of right answers; [`best_of_table`]: what the best, any, or the majority of k samples is worth.
//! - [`kl_of_samples`]: how far a policy has moved from its reference, measured on its own samples.
//! - [`annotation_report`]: how far people who judge agree, what pulls them besides the answers, and what judging costs.
//! - [`update_similarity`]: how alike the weights of several fine-tunes moved.
#![forbid(unsafe_code)]

mod accuracy;
pub mod annotations;
mod best_of;
mod bits_per_byte;
mod error;
mod kl;
mod length_control;
mod updates;
mod win_rate;

pub use accuracy::{Accuracy, accuracy};
pub use annotations::{AnnotationReport, annotation_report};
pub use best_of::{BestOfRow, Estimate, PromptSamples, best_of_table};
pub use bits_per_byte::{BitsPerByte, bits_per_byte};
pub use error::Error;
pub use hone_objective::statistics::{Bootstrap, Outcome};
pub use kl::{KlOfSamples, kl_of_samples};
pub use length_control::{Comparison, LengthControlled, length_controlled_win_rate};
pub use updates::{PartSimilarity, Similarity, UpdateSimilarity, update_similarity};
pub use win_rate::{Difference, WinRate, win_rate, win_rate_difference};
