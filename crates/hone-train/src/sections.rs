//! Sections of a configuration that stages share.

use std::ops::{Deref, DerefMut};

use hone_data::Source;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// `[model]` of a stage that starts from a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSection {
    /// A model directory, an adapter's directory, or a hub id (`org/name` or `org/name@revision`). Needed.
    #[schemars(example = &"runs/pretrain/model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Computes blocks again on the way back instead of keeping what is inside them: less memory, a third more time.
    pub recompute: bool,
}

impl ModelSection {
    /// The section with this path.
    pub fn at(path: impl Into<String>) -> Self {
        Self {
            path: Some(path.into()),
            ..Self::default()
        }
    }

    /// The path, of a stage that starts from a model.
    ///
    /// # Errors
    /// If it is missing; `why` says what the stage starts from.
    pub(crate) fn needed(&self, why: &str) -> Result<&str> {
        let missing = || TrainError::setting("model.path", format!("is missing; {why}"));
        self.path.as_deref().ok_or_else(missing)
    }
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

/// `[train]`: batches and the optimiser. Each stage has its own defaults; they lie in its configuration's `Default`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrainSection {
    /// Every random number of the run follows from it.
    pub seed: u64,
    /// `bf16` or `f32`.
    pub precision: PrecisionSetting,
    /// Tokens computed together: memory follows from it, results do not (beyond rounding).
    pub microbatch_tokens: usize,
    /// Virtual shards of a batch, over which gradients are summed in a fixed tree; later, ranks divide them.
    pub shards: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// `constant`, `linear` or `cosine`: how the learning rate moves after the warm-up.
    pub schedule: ScheduleSetting,
    /// Steps (in PPO: updates) over which the learning rate rises from 0; never more than half of all.
    pub warmup_steps: u64,
    /// The learning rate at the end, as a share of the highest; of the schedules that fall.
    pub final_fraction: f64,
    /// Decoupled weight decay, on matrices.
    pub weight_decay: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Gradients are scaled down to this norm; 0: never.
    pub clip_norm: f64,
    /// Steps (in PPO: updates) between checkpoints.
    pub checkpoint_every: u64,
    /// Checkpoints kept; at least 2.
    pub keep_checkpoints: usize,
    /// Refuses to start where the memory that is planned is more than this machine has.
    pub check_memory: bool,
}

/// Where nothing else is given; it says something under the schedules that fall.
pub(crate) const FINAL_FRACTION: f64 = 0.1;

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            seed: 1,
            precision: PrecisionSetting::Bf16,
            microbatch_tokens: 1024,
            shards: 1,
            learning_rate: 1e-4,
            schedule: ScheduleSetting::Cosine,
            warmup_steps: 10,
            final_fraction: FINAL_FRACTION,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            clip_norm: 1.0,
            checkpoint_every: 100,
            keep_checkpoints: 2,
            check_memory: true,
        }
    }
}

/// `[train]` of the stages that pass over data: how long, in what batches, and the optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PassesSection {
    /// Passes over the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Optimiser steps, instead of `epochs`; both together are an error.
    #[schemars(example = 1000)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Sequences a step: windows in pre-training; conversations in supervised tuning and prompts with all their responses in
    /// reward modelling and preference tuning, of these never more than there are.
    pub batch: usize,
    /// What every stage has.
    #[serde(flatten)]
    pub common: TrainSection,
}

impl Default for PassesSection {
    fn default() -> Self {
        Self::new(32, 1e-4)
    }
}

impl PassesSection {
    /// The section with a stage's defaults.
    pub fn new(batch: usize, learning_rate: f64) -> Self {
        Self {
            epochs: None,
            steps: None,
            batch,
            common: TrainSection {
                learning_rate,
                ..TrainSection::default()
            },
        }
    }

    /// Where neither says how long a run is, it is so many epochs.
    pub(crate) fn resolve(&mut self, epochs: f64) {
        if self.steps.is_none() {
            self.epochs.get_or_insert(epochs);
        }
    }
}

impl Deref for PassesSection {
    type Target = TrainSection;

    fn deref(&self) -> &TrainSection {
        &self.common
    }
}

impl DerefMut for PassesSection {
    fn deref_mut(&mut self) -> &mut TrainSection {
        &mut self.common
    }
}

/// `[eval]` of pre-training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSection {
    /// Steps between evaluations; 0: only at the end.
    pub every: u64,
}

impl Default for EvalSection {
    fn default() -> Self {
        Self { every: 50 }
    }
}

/// `[eval]` of reward modelling and of PPO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ShownSection {
    /// Steps (in PPO: updates) between evaluations; 0: only at the end.
    pub every: u64,
    /// What is written to `samples.jsonl` at each: so many held-out prompts with their best and worst response, in PPO so
    /// many episodes of the rollout.
    pub samples: usize,
}

impl Default for ShownSection {
    fn default() -> Self {
        Self { every: 50, samples: 8 }
    }
}

/// Which model a run gives: the last one, or the best one so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// That of the last step.
    #[default]
    Last,
    /// That of the best evaluation: of the lowest held-out loss, or of the highest score of a held-out judge.
    Best,
}

/// Whether a dotted key is `table`, or stands in it.
pub(crate) fn is_in(key: &str, table: &str) -> bool {
    let rest = key.strip_prefix(table);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Why a stage that starts from a model has no keys for one from scratch.
pub(crate) fn not_from_scratch(key: &str) -> Option<&'static str> {
    (is_in(key, "model.new") || is_in(key, "model.tokenizer")).then_some(
        "this stage starts from a model that exists, with its tokenizer; name it by model.path (hone pretrain makes \
         models from scratch)",
    )
}

/// Sources with their paths taken from the directory of the configuration.
pub(crate) fn resolved(sources: &[Source], directory: &std::path::Path) -> Vec<Source> {
    sources
        .iter()
        .map(|source| source.clone().resolved_in(directory))
        .collect()
}
