//! Supervised tuning: imitation of demonstrations.
//!
//! Source: Ouyang et al., "Training language models to follow instructions with human feedback" (2022). Where this
//! differs:
//!
//! 1. There is no dropout (InstructGPT used 0.2 on residuals).
//! 2. The loss is on the reply's tokens and its end-of-turn token, found by position, so that a padding token equal to
//!    the end token does no harm. User and system turns are never trained on.
//! 3. The loss is the mean over all targets of the global batch, not a mean of means.
//! 4. Examples are laid side by side without padding and never see each other.

mod batch;
mod config;
mod plan;
mod run;
mod step;

pub use crate::sections::Keep;
pub use config::{SftConfig, SftData, SftEval, Turns};
pub use plan::plan;
pub use run::run;
