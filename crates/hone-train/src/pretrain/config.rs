//! `pretrain.toml`.

use hone_data::Source;
use hone_model::NewModel;
use hone_run::Configuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::sections::{EvalSection, PassesSection, is_in};

/// Configuration of `hone pretrain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainConfig {
    /// Where the model comes from.
    pub model: PretrainModel,
    /// What it reads.
    pub data: PretrainData,
    /// Steps and optimiser.
    pub train: PassesSection,
    /// What is looked at on the way.
    pub eval: EvalSection,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            model: PretrainModel::default(),
            data: PretrainData::default(),
            train: PassesSection::new(16, 1e-3),
            eval: EvalSection::default(),
        }
    }
}

impl Configuration for PretrainConfig {
    fn defaults() -> Option<Self> {
        Some(Self::default())
    }

    fn resolve(&mut self) {
        self.train.resolve(EPOCHS);
        if let Some(new) = &mut self.model.new {
            new.resolve();
        }
    }

    fn refused(key: &str) -> Option<&'static str> {
        let because = [
            (
                "eval.samples",
                "pre-training answers no prompts; what is held out is measured every eval.every steps",
            ),
            (
                "eval.max_new_tokens",
                "pre-training answers no prompts; what is held out is measured every eval.every steps",
            ),
            ("lora", "pre-training trains all weights; hone sft has adapters"),
            (
                "keep",
                "the result of pre-training is the model of the last step; hone sft has a choice",
            ),
            (
                "train.batch_tokens",
                "windows a step are train.batch, each of data.max_length tokens",
            ),
        ];
        because
            .into_iter()
            .find(|(table, _)| is_in(key, table))
            .map(|(_, why)| why)
    }
}

impl PretrainConfig {
    /// A configuration to begin with: the defaults, and names and sizes to be replaced.
    pub fn example() -> Self {
        let mut config = Self::default();
        config.model.tokenizer = Some("tokenizer".into());
        config.model.new = Some(NewModel {
            family: "llama".into(),
            width: 128,
            layers: 4,
            heads: 4,
            kv_heads: None,
            head_dim: None,
            intermediate: None,
            context: 1024,
            tied: true,
            rope_theta: 10_000.0,
        });
        config.data.train = vec![Source::new("text.txt")];
        config.train.epochs = Some(EPOCHS);
        config
    }
}

/// `[model]` of pre-training: either `path`, or `[model.new]` with `tokenizer`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainModel {
    /// A model to go on from: a directory, or a hub id (`org/name` or `org/name@revision`).
    #[schemars(example = &"runs/pretrain/model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A tokenizer's directory, for a model from scratch.
    #[schemars(example = &"tokenizer")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Computes blocks again on the way back instead of keeping what is inside them: less memory, a third more time.
    pub recompute: bool,
    /// A model from scratch, of these sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<NewModel>,
}

impl PretrainModel {
    /// Sizes and tokenizer of a model from scratch; none of one to go on from.
    ///
    /// # Errors
    /// If neither is given, or both are.
    pub(crate) fn scratch(&self) -> Result<Option<(&NewModel, &str)>> {
        match (&self.path, &self.new, &self.tokenizer) {
            (Some(_), None, None) => Ok(None),
            (None, Some(new), Some(tokenizer)) => Ok(Some((new, tokenizer))),
            (None, Some(_), None) => Err(TrainError::setting(
                "model.tokenizer",
                "is missing; a model from scratch needs one (hone tokenizer train FILES --vocab-size 4096 --out DIR)",
            )),
            _ => Err(TrainError::setting(
                "model",
                "expected either path, or [model.new] with tokenizer",
            )),
        }
    }
}

/// `[data]` of pre-training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainData {
    /// Texts with their weights in the mixture. Needed.
    #[schemars(example = vec!["text.txt"])]
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

/// Passes over the training tokens where neither epochs nor steps are set.
const EPOCHS: f64 = 1.0;
