//! Pre-training: next-token prediction on a weighted mixture of texts.
//!
//! Sources: Radford et al., "Language models are unsupervised multitask learners" (2019); Brown et al., "Language
//! models are few-shot learners" (2020) for mixtures. Where this differs:
//!
//! 1. Documents do not see each other inside a window, and positions restart, unless `data.cross_document` is set.
//! 2. A batch is a number of windows drawn from the mixture in a fixed order; the last window of a source is shorter.
//! 3. Held out is the last share of each source, never trained on.

mod config;
mod plan;
mod run;
mod step;

pub use config::{PretrainConfig, PretrainData, PretrainModel};
pub use plan::plan;
pub use run::run;
