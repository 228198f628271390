//! `sft.toml`.

use hone_data::Source;
use hone_model::LoraConfig;
use hone_run::Configuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::sections::{Keep, ModelSection, PassesSection, not_from_scratch};

/// Configuration of `hone sft`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SftConfig {
    /// Where the model comes from.
    pub model: ModelSection,
    /// Demonstrations.
    pub data: SftData,
    /// Steps and optimiser.
    pub train: PassesSection,
    /// An adapter of low rank; absent: all weights are tuned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// What is looked at on the way.
    pub eval: SftEval,
    /// `last` or `best`: which model is the result.
    pub keep: Keep,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            model: ModelSection::default(),
            data: SftData::default(),
            train: PassesSection::new(32, 1e-4),
            lora: None,
            eval: SftEval::default(),
            keep: Keep::Last,
        }
    }
}

impl Configuration for SftConfig {
    fn defaults() -> Option<Self> {
        Some(Self::default())
    }

    fn resolve(&mut self) {
        self.train.resolve(EPOCHS);
    }

    fn refused(key: &str) -> Option<&'static str> {
        not_from_scratch(key)
    }
}

impl SftConfig {
    /// The model that it starts from.
    ///
    /// # Errors
    /// If it is missing.
    pub(crate) fn starts_from(&self) -> Result<&str> {
        self.model.needed("supervised tuning starts from a model")
    }

    /// A configuration to begin with: the defaults, and names to be replaced.
    pub fn example() -> Self {
        let mut config = Self {
            model: ModelSection::at("runs/pretrain/model"),
            ..Self::default()
        };
        config.data.train = vec![Source::new("demonstrations.jsonl")];
        config.train.epochs = Some(EPOCHS);
        config
    }
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
    /// Demonstrations with their weights in the mixture. Needed.
    #[schemars(example = vec!["demonstrations.jsonl"])]
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

/// `[eval]` of supervised tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SftEval {
    /// Steps between evaluations; 0: only at the end.
    pub every: u64,
    /// Held-out prompts that are answered at each evaluation.
    pub samples: usize,
    /// Most tokens of such an answer.
    pub max_new_tokens: usize,
}

impl Default for SftEval {
    fn default() -> Self {
        Self {
            every: 50,
            samples: 8,
            max_new_tokens: 128,
        }
    }
}

/// Passes over the conversations where neither epochs nor steps are set.
const EPOCHS: f64 = 3.0;
