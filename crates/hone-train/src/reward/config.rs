//! `reward.toml`.

use hone_data::Source;
use hone_model::LoraConfig;
use hone_objective::bradley_terry::Ties;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sections::{EvalSection, ModelSection, TrainSection};

/// Configuration of `hone reward`. Defaults of `[train]` here: batch 32 prompts with all their responses, learning rate
/// 5e-5 falling along a cosine to a tenth, one epoch (more overfits).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardConfig {
    /// The supervised model to start from.
    pub model: ModelSection,
    /// Rankings.
    pub data: RewardData,
    /// Steps and optimiser.
    pub train: TrainSection,
    /// An adapter of low rank, merged into the result; absent: all weights are tuned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// What is looked at on the way.
    pub eval: EvalSection,
    /// The method.
    pub reward: RewardSection,
}

/// `[data]` of reward modelling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardData {
    /// Pairs or rankings with their weights in the mixture.
    pub train: Vec<Source>,
    /// The share of each source that is held out; rankings of one prompt fall on one side.
    pub held_out: f64,
    /// Rankings with a longer conversation are dropped, and counted.
    pub max_length: usize,
}

impl Default for RewardData {
    fn default() -> Self {
        Self {
            train: Vec::new(),
            held_out: 0.1,
            max_length: 512,
        }
    }
}

/// `[reward]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardSection {
    /// What becomes of responses ranked alike: `drop` leaves their pairs out, `half` counts them as half a preference
    /// either way.
    pub ties: TiesSetting,
    /// Demonstrations whose mean score becomes 0; absent: the best responses of the training rankings are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub centre_on: Option<Vec<Source>>,
}

/// What becomes of tied pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TiesSetting {
    /// They are left out.
    #[default]
    Drop,
    /// They count as half a preference in either direction.
    Half,
}

impl From<TiesSetting> for Ties {
    fn from(setting: TiesSetting) -> Self {
        match setting {
            TiesSetting::Drop => Self::Drop,
            TiesSetting::Half => Self::Half,
        }
    }
}

pub(super) const BATCH: usize = 32;
pub(super) const LEARNING_RATE: f64 = 5e-5;
pub(super) const EPOCHS: f64 = 1.0;
