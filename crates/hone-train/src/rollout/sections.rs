//! Sections of configurations that stages with rollouts share.

use hone_data::Source;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[reward]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardSection {
    /// A reward model's directory, or a hub id. Its tokenizer may be another than the policy's: it is scored from text.
    /// Needed.
    #[schemars(example = &"runs/reward/model")]
    pub path: String,
}

/// `[data]` of a stage that samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PromptData {
    /// Prompts with their weights in the mixture. Needed.
    #[schemars(example = vec!["prompts.jsonl"])]
    pub prompts: Vec<Source>,
    /// The share at the end of each source that is not practised on, so that it can be judged on later. The run measures
    /// nothing on it.
    pub held_out: f64,
    /// Longer prompts are dropped, and counted.
    pub max_prompt_length: usize,
}

impl Default for PromptData {
    fn default() -> Self {
        Self {
            prompts: Vec::new(),
            held_out: 0.05,
            max_prompt_length: 256,
        }
    }
}

/// What becomes of the score of a response that did not end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MissingEos {
    /// It is replaced by `missing_eos_score`.
    #[default]
    Replace,
    /// It stays what the reward model says.
    Keep,
}

/// What a rollout is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RolloutSettings {
    /// The section of the configuration that says so, for messages.
    pub section: &'static str,
    /// Episodes.
    pub rollout_batch: usize,
    /// Responses to each prompt.
    pub samples_per_prompt: usize,
    /// Most tokens of a response.
    pub max_new_tokens: usize,
    /// Divides the logits.
    pub temperature: f64,
    /// What becomes of the score of a response that did not end.
    pub missing_eos: MissingEos,
    /// What replaces it.
    pub missing_eos_score: f64,
}

impl RolloutSettings {
    /// Prompts of a rollout.
    pub fn prompts(&self) -> usize {
        self.rollout_batch / self.samples_per_prompt
    }
}
