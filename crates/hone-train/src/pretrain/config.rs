//! `pretrain.toml`.

use hone_data::Source;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sections::{EvalSection, ModelSection, TrainSection};

/// Configuration of `hone pretrain`. Defaults of `[train]` here: batch 16 windows, learning rate 1e-3, one epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainConfig {
    /// Where the model comes from.
    pub model: ModelSection,
    /// What it reads.
    pub data: PretrainData,
    /// Steps and optimiser.
    pub train: TrainSection,
    /// What is looked at on the way.
    pub eval: EvalSection,
}

/// `[data]` of pre-training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainData {
    /// Texts with their weights in the mixture.
    pub train: Vec<Source>,
    /// The share at the end of each source that is never trained on.
    pub held_out: f64,
    /// Tokens of a window.
    #[doc(alias = "sequence_length")]
    pub max_length: usize,
    /// Whether a window's documents see each other.
    pub cross_document: bool,
    /// Most tokens held in memory.
    pub token_cap: usize,
}

impl Default for PretrainData {
    fn default() -> Self {
        Self {
            train: Vec::new(),
            held_out: 0.05,
            max_length: 256,
            cross_document: false,
            token_cap: hone_data::DEFAULT_TOKEN_CAP,
        }
    }
}

/// Windows a step where nothing is set.
pub(super) const BATCH: usize = 16;
/// Learning rate where nothing is set.
pub(super) const LEARNING_RATE: f64 = 1e-3;
