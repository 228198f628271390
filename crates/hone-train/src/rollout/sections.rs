//! Sections of configurations that stages with rollouts share.

use hone_data::Source;
use hone_task::{EnvironmentSetting, RewardEntry, RewardRule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// `[reward]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardSection {
    /// A reward model's directory, or a hub id. Its tokenizer may be another than the policy's: it is scored from text.
    #[schemars(example = &"runs/reward/model")]
    pub path: String,
}

impl RewardSection {
    /// Whether it names nothing.
    pub fn is_empty(&self) -> bool {
        self.path.is_empty()
    }
}

/// `[environment]` of a stage: which one, and how long its episodes may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnvironmentSection {
    /// The environment, with its own keys.
    #[serde(flatten)]
    pub setting: EnvironmentSetting,
    /// Turns after which an episode is cut off.
    #[serde(default = "max_turns")]
    pub max_turns: usize,
}

fn max_turns() -> usize {
    16
}

impl EnvironmentSection {
    /// This environment, with the usual number of turns.
    pub fn new(setting: EnvironmentSetting) -> Self {
        Self {
            setting,
            max_turns: max_turns(),
        }
    }
}

/// `rewards`, as an example.
pub(crate) fn example_rewards() -> serde_json::Value {
    serde_json::json!([{ "kind": "numeric", "column": "answer" }, { "kind": "length", "max": 60, "weight": 0.1 }])
}

/// `[environment]`, as an example.
pub(crate) fn example_environment() -> serde_json::Value {
    serde_json::json!({ "kind": "maze", "size": 5, "difficulty": "medium", "max_turns": 16 })
}

/// The sections of a stage of which exactly one says what is maximised.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maximised<'a> {
    pub reward: &'a RewardSection,
    pub rewards: &'a [RewardEntry],
    pub environment: Option<&'a EnvironmentSection>,
}

/// What is maximised.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Chosen<'a> {
    /// A reward model's score.
    Model(&'a RewardSection),
    /// A sum of scores.
    Rewards(&'a [RewardEntry]),
    /// What an environment gives.
    Environment(&'a EnvironmentSection),
}

impl<'a> Maximised<'a> {
    /// The one that is given.
    ///
    /// # Errors
    /// If none is, or more than one.
    pub fn chosen(&self, section: &str) -> Result<Chosen<'a>> {
        const ALL: &str = "exactly one of [reward] with a path, [[rewards]] and [environment]";
        let model = (!self.reward.is_empty()).then_some(("reward.path", Chosen::Model(self.reward)));
        let sum = (!self.rewards.is_empty()).then_some(("rewards", Chosen::Rewards(self.rewards)));
        let acted = self
            .environment
            .map(|environment| ("environment", Chosen::Environment(environment)));
        let mut given = model.into_iter().chain(sum).chain(acted);
        match (given.next(), given.next()) {
            (Some((_, chosen)), None) => Ok(chosen),
            (None, _) => {
                let reason = format!("is missing; {section} maximises {ALL}");
                Err(TrainError::setting("reward.path", reason))
            }
            (Some((first, _)), Some((second, _))) => {
                let reason = format!("stands beside {first}; {section} maximises {ALL}");
                Err(TrainError::setting(second, reason))
            }
        }
    }

    /// The reward models that are named, for the inputs of a run.
    pub fn models(&self) -> Vec<Option<String>> {
        let entries = self.rewards.iter().filter_map(|entry| match &entry.rule {
            RewardRule::Model { path } => Some(path.clone()),
            _ => None,
        });
        std::iter::once(self.reward.path.clone())
            .chain(entries)
            .map(Some)
            .collect()
    }
}

/// `[data]` of a stage that samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PromptData {
    /// Prompts with their weights in the mixture. Needed, but in an environment, which has its own.
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
    /// Most tokens of a response; in an environment of one action.
    pub max_new_tokens: usize,
    /// Divides the logits.
    pub temperature: f64,
    /// What becomes of the score of a response that did not end. In an environment it has no part.
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
