//! Reward modelling: a model that gives a response a score, learned from which responses people prefer.
//!
//! Sources: Ouyang et al., "Training language models to follow instructions with human feedback" (2022), section 3.5
//! and equation 1; Stiennon et al., "Learning to summarize from human feedback" (2020), for the head's start and the
//! normalisation; Touvron et al., "Llama 2" (2023), for margins. Where this differs:
//!
//! 1. The trunk is the supervised model itself, of any size (InstructGPT: a 6B model for all policies), and the default
//!    learning rate is 5e-5: the paper's 9e-6 suits models a thousand times larger.
//! 2. Every prompt weighs the same whatever its number of responses, and its responses stay in one micro-batch.
//! 3. The score is read at the token that ends the response. Responses in data are text and are read as ended.
//! 4. The offset is set after training so that demonstrations (or else the best responses of the training rankings)
//!    score 0 on average.
//! 5. An adapter is merged into the result: PEFT's files have no place for a head with an offset.

mod batch;
mod config;
mod evaluation;
mod plan;
mod run;
mod step;

pub use config::{RewardConfig, RewardData, RewardSection, TiesSetting};
pub use plan::plan;
pub use run::run;
