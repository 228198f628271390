//! Sections of a configuration that stages share.

use hone_data::Source;
use hone_model::NewModel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[model]`: where the weights come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSection {
    /// A model directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A model from scratch, of these sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<NewModel>,
    /// A tokenizer's directory, for a model from scratch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Computes blocks again on the way back instead of keeping what is inside them: less memory, a third more time.
    pub recompute: bool,
}

/// Arithmetic of matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionSetting {
    /// bf16 operands, f32 sums.
    #[default]
    Bf16,
    /// All f32.
    F32,
}

impl From<PrecisionSetting> for hone_compute::Precision {
    fn from(setting: PrecisionSetting) -> Self {
        match setting {
            PrecisionSetting::Bf16 => Self::Bf16,
            PrecisionSetting::F32 => Self::F32,
        }
    }
}

/// How the learning rate moves after its warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleSetting {
    /// Stays.
    Constant,
    /// Falls in a straight line.
    Linear,
    /// Falls along half a cosine.
    #[default]
    Cosine,
}

/// `[train]`: steps, batches and the optimiser. Where a default depends on the stage, its page says which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSection {
    /// Every random number of the run follows from it.
    pub seed: u64,
    /// `bf16` or `f32`.
    pub precision: PrecisionSetting,
    /// Passes over the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Optimiser steps, instead of `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Sequences a step (pre-training: windows).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Tokens computed together: memory follows from it, results do not (beyond rounding).
    pub microbatch_tokens: usize,
    /// Virtual shards of a batch, over which gradients are summed in a fixed tree; later, ranks divide them.
    pub shards: usize,
    /// Highest learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// `constant`, `linear` or `cosine`; where absent, cosine, in reinforcement learning constant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleSetting>,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: u64,
    /// The learning rate at the end, as a share of the highest.
    pub final_fraction: f64,
    /// Decoupled weight decay, on matrices.
    pub weight_decay: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second moment; where absent 1e-8, in PPO 1e-5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// Gradients are scaled down to this norm; 0: never.
    pub clip_norm: f64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Checkpoints kept; at least 2.
    pub keep_checkpoints: usize,
    /// Refuses to start where the memory that is planned is more than this machine has.
    pub check_memory: bool,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            seed: 1,
            precision: PrecisionSetting::Bf16,
            epochs: None,
            steps: None,
            batch: None,
            microbatch_tokens: 4096,
            shards: 1,
            learning_rate: None,
            schedule: None,
            warmup_steps: 10,
            final_fraction: 0.1,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.95,
            eps: None,
            clip_norm: 1.0,
            checkpoint_every: 100,
            keep_checkpoints: 2,
            check_memory: true,
        }
    }
}

/// `[eval]`: what is looked at while training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSection {
    /// Steps between evaluations; 0: only at the end.
    pub every: u64,
    /// Held-out prompts that are answered at each evaluation.
    pub samples: usize,
    /// Most tokens of such an answer.
    pub max_new_tokens: usize,
}

impl Default for EvalSection {
    fn default() -> Self {
        Self {
            every: 50,
            samples: 8,
            max_new_tokens: 128,
        }
    }
}

/// Sources with their paths taken from the directory of the configuration.
pub(crate) fn resolved(sources: &[Source], directory: &std::path::Path) -> Vec<Source> {
    sources
        .iter()
        .map(|source| source.clone().resolved_in(directory))
        .collect()
}
