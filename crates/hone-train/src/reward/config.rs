//! `reward.toml`.

use hone_data::Source;
use hone_model::LoraConfig;
use hone_objective::bradley_terry::Ties;
use hone_run::Configuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::sections::{ModelSection, PassesSection, ShownSection, is_in, not_from_scratch};

/// Configuration of `hone reward`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardConfig {
    /// The supervised model to start from.
    pub model: ModelSection,
    /// Rankings.
    pub data: RewardData,
    /// Steps and optimiser.
    pub train: PassesSection,
    /// An adapter of low rank, merged into the result; absent: all weights are tuned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// What is looked at on the way.
    pub eval: ShownSection,
    /// The method.
    pub reward: RewardSection,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self {
            model: ModelSection::default(),
            data: RewardData::default(),
            train: PassesSection::new(32, 5e-5),
            lora: None,
            eval: ShownSection::default(),
            reward: RewardSection::default(),
        }
    }
}

impl Configuration for RewardConfig {
    fn defaults() -> Option<Self> {
        Some(Self::default())
    }

    fn resolve(&mut self) {
        self.train.resolve(EPOCHS);
    }

    fn refused(key: &str) -> Option<&'static str> {
        let because = [
            (
                "eval.max_new_tokens",
                "a reward model writes no answers; eval.samples says how many rankings are shown with their scores",
            ),
            (
                "keep",
                "the result of hone reward is the model of the last step; hone sft has a choice",
            ),
        ];
        let reason = because.into_iter().find(|(table, _)| is_in(key, table));
        reason.map(|(_, why)| why).or_else(|| not_from_scratch(key))
    }
}

impl RewardConfig {
    /// The model that it starts from.
    ///
    /// # Errors
    /// If it is missing.
    pub(crate) fn starts_from(&self) -> Result<&str> {
        self.model.needed("a reward model starts from a supervised model")
    }

    /// A configuration to begin with: the defaults, and names to be replaced.
    pub fn example() -> Self {
        let mut config = Self {
            model: ModelSection::at("runs/sft/model"),
            ..Self::default()
        };
        config.data.train = vec![Source::new("rankings.jsonl")];
        config.train.epochs = Some(EPOCHS);
        config
    }
}

/// `[data]` of reward modelling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardData {
    /// Pairs or rankings with their weights in the mixture. Needed.
    #[schemars(example = vec!["rankings.jsonl"])]
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
    #[schemars(example = vec!["demonstrations.jsonl"])]
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

/// Passes over the rankings where neither epochs nor steps are set; more overfits.
const EPOCHS: f64 = 1.0;
