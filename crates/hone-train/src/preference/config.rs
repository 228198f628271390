//! `preference.toml`.

use hone_data::Source;
use hone_model::LoraConfig;
use hone_run::Configuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::preferred::PreferenceSection;
use crate::sections::{Keep, ModelSection, PassesSection, is_in, not_from_scratch};

/// Configuration of `hone preference`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PreferenceConfig {
    /// The policy's start, which is also the reference of the methods that have one.
    pub model: ModelSection,
    /// Preferences.
    pub data: PreferenceData,
    /// The method.
    pub preference: PreferenceSection,
    /// Steps and optimiser.
    pub train: PassesSection,
    /// An adapter of low rank; absent: all weights are tuned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// What is looked at on the way.
    pub eval: PreferenceEval,
    /// `last` or `best`: which model is the result.
    pub keep: Keep,
}

impl Default for PreferenceConfig {
    fn default() -> Self {
        Self {
            model: ModelSection::default(),
            data: PreferenceData::default(),
            preference: PreferenceSection::default(),
            train: PassesSection::new(32, 1e-5),
            lora: None,
            eval: PreferenceEval::default(),
            keep: Keep::Last,
        }
    }
}

impl Configuration for PreferenceConfig {
    fn defaults() -> Option<Self> {
        Some(Self::default())
    }

    fn resolve(&mut self) {
        self.train.resolve(EPOCHS);
        self.preference.resolve();
    }

    fn refused(key: &str) -> Option<&'static str> {
        let because = [
            (
                "reward",
                "preference tuning has no reward model; hone ppo improves a policy against one",
            ),
            (
                "preference.ties",
                "tied responses have no pair here, and none is learned from; hone reward has a choice",
            ),
            (
                "preference.loss_type",
                "the method is named by preference.method: dpo, ipo, kto, orpo or simpo",
            ),
            (
                "preference.lambda",
                "the weight of ORPO's term is preference.odds_ratio_coef",
            ),
            (
                "data.prompts",
                "preference tuning learns from judged responses, named by data.train",
            ),
        ];
        let reason = because.into_iter().find(|(table, _)| is_in(key, table));
        reason.map(|(_, why)| why).or_else(|| not_from_scratch(key))
    }
}

impl PreferenceConfig {
    /// The model that it starts from.
    ///
    /// # Errors
    /// If it is missing.
    pub(crate) fn starts_from(&self) -> Result<&str> {
        self.model.needed("preference tuning starts from a supervised model")
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

/// `[data]` of preference tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PreferenceData {
    /// Pairs or rankings with their weights in the mixture; of KTO also single responses with a label. Needed.
    #[schemars(example = vec!["rankings.jsonl"])]
    pub train: Vec<Source>,
    /// The share of each source that is held out; rows with one prompt fall on one side.
    pub held_out: f64,
    /// Responses that are longer with their prompt are left out, and counted.
    pub max_length: usize,
}

impl Default for PreferenceData {
    fn default() -> Self {
        Self {
            train: Vec::new(),
            held_out: 0.1,
            max_length: 512,
        }
    }
}

/// `[eval]` of preference tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PreferenceEval {
    /// Steps between evaluations; 0: only at the end.
    pub every: u64,
    /// Held-out prompts that are answered at each evaluation.
    pub samples: usize,
    /// Most tokens of such an answer.
    pub max_new_tokens: usize,
}

impl Default for PreferenceEval {
    fn default() -> Self {
        Self {
            every: 50,
            samples: 8,
            max_new_tokens: 128,
        }
    }
}

/// Passes over the preferences where neither epochs nor steps are set.
const EPOCHS: f64 = 1.0;
