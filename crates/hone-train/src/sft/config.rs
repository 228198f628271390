//! `sft.toml`.

use hone_data::Source;
use hone_model::LoraConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sections::{EvalSection, ModelSection, TrainSection};

/// Configuration of `hone sft`. Defaults of `[train]` here: batch 32, learning rate 1e-4, 3 epochs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SftConfig {
    /// Where the model comes from.
    pub model: ModelSection,
    /// Demonstrations.
    pub data: SftData,
    /// Steps and optimiser.
    pub train: TrainSection,
    /// An adapter of low rank; absent: all weights are tuned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// What is looked at on the way.
    pub eval: EvalSection,
    /// `last` or `best`: which model is the result.
    pub keep: Keep,
}

/// Which model a run gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// That of the last step.
    #[default]
    Last,
    /// That of the evaluation with the lowest held-out loss.
    Best,
}

/// Which assistant turns are trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Turns {
    /// Every one.
    #[default]
    All,
    /// The last one.
    Last,
}

/// `[data]` of supervised tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SftData {
    /// Demonstrations with their weights in the mixture.
    pub train: Vec<Source>,
    /// The share of each source that is held out; rows with one prompt fall on one side.
    pub held_out: f64,
    /// Longer conversations are dropped, and counted.
    pub max_length: usize,
    /// `all` or `last` assistant turns.
    pub turns: Turns,
}

impl Default for SftData {
    fn default() -> Self {
        Self {
            train: Vec::new(),
            held_out: 0.05,
            max_length: 512,
            turns: Turns::All,
        }
    }
}

pub(super) const BATCH: usize = 32;
pub(super) const LEARNING_RATE: f64 = 1e-4;
pub(super) const EPOCHS: f64 = 3.0;
