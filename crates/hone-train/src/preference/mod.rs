//! Preference tuning: a policy learns from which responses people prefer, without a reward model.
//!
//! Sources: Rafailov et al., "Direct preference optimization" (2023); Azar et al., "A general theoretical paradigm to
//! understand learning from human preferences" (2024), IPO; Ethayarajh et al., "KTO: model alignment as prospect theoretic
//! optimization" (2024); Hong et al., "ORPO: monolithic preference optimization without reference model" (2024); Meng et
//! al., "SimPO: simple preference optimization with a reference-free reward" (2024). The losses are in `hone-objective`.
//! Where this stage differs:
//!
//! 1. Rankings of K responses are learned from by every pair that differs in rank. Each response is computed once, the
//!    prompt that a ranking's responses share too, and a ranking is never split.
//! 2. The reference is the model that the run starts from. Its log-probabilities are summed over each response once, before
//!    the first step, so no second model is in memory while the policy learns.
//! 3. KTO's divergence is estimated from each prompt with the responses to the next prompt of its source, over the whole
//!    batch of a step.

mod batch;
mod config;
mod evaluation;
mod plan;
mod reference;
mod run;
mod step;

pub use crate::preferred::{IpoFormSetting, MethodSetting, PreferenceSection, SftMeanSetting, WeighSetting};
pub use config::{PreferenceConfig, PreferenceData, PreferenceEval};
pub use plan::plan;
pub use run::run;
