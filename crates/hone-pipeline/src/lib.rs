//! What strings stages together: the quickstart on the bundled small world, recipes, and comparisons of methods; and what lets
//! several models work through a file of prompts: [`prompting`], [`best_of`].
//!
//! A pipeline holds no training code. It writes configurations, runs stages in folders of their own, and compares what
//! they made; stages talk through files, so each can be skipped when it is done or replaced by files from elsewhere.
#![forbid(unsafe_code)]

pub mod best_of;
pub mod compare;
mod error;
mod files;
pub mod prompting;
pub mod quickstart;
pub mod recipe;
mod rows;

pub use compare::{CompareOptions, CompareResult, Compared, compare};
pub use error::{PipelineError, Result};
pub use quickstart::{QuickstartOptions, QuickstartResult, Scale, quickstart};
pub use recipe::{RecipeOptions, RecipeResult, run_recipe};
pub use rows::carried;
