//! What strings stages together: the quickstart on the bundled small world, recipes, and comparisons of methods.
//!
//! A pipeline holds no training code. It writes configurations, runs stages in folders of their own, and compares what
//! they made; stages talk through files, so each can be skipped when it is done or replaced by files from elsewhere.
#![forbid(unsafe_code)]

pub mod compare;
mod error;
mod files;
pub mod quickstart;
pub mod recipe;

pub use compare::{CompareOptions, CompareResult, Compared, compare};
pub use error::{PipelineError, Result};
pub use quickstart::{QuickstartOptions, QuickstartResult, Scale, quickstart};
pub use recipe::{RecipeOptions, RecipeResult, run_recipe};
