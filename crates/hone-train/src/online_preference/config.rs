//! `online-preference.toml`.

use hone_model::LoraConfig;
use hone_run::Configuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::preferred::{MethodSetting, PreferenceSection};
use crate::rollout::{
    JudgeSection, Maximised, MissingEos, PromptData, RolloutSettings, at_least_one, check_rollout, divides,
};
use crate::sections::{ModelSection, ScheduleSetting, ShownSection, TrainSection, is_in, not_from_scratch};

/// The section's name.
const SECTION: &str = "online_preference";

/// Configuration of `hone online-preference`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct OnlinePreferenceConfig {
    /// The policy's start, which is also the reference of the methods that have one.
    pub model: ModelSection,
    /// What is maximised.
    #[serde(flatten)]
    pub maximised: Maximised,
    /// Prompts.
    pub data: PromptData,
    /// The method, as in preference tuning; one of those that learn from pairs.
    pub preference: PreferenceSection,
    /// Updates, and the pairs of each.
    pub online_preference: OnlinePreferenceSection,
    /// The optimiser.
    pub train: TrainSection,
    /// An adapter of low rank; absent: all weights are tuned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// What is looked at on the way.
    pub eval: ShownSection,
    /// A held-out judge that looks at the policy on its way, for the model that it finds best; absent: none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeSection>,
}

impl Default for OnlinePreferenceConfig {
    fn default() -> Self {
        Self {
            model: ModelSection::default(),
            maximised: Maximised::default(),
            data: PromptData::default(),
            preference: PreferenceSection::default(),
            online_preference: OnlinePreferenceSection::default(),
            train: TrainSection {
                learning_rate: 1e-5,
                schedule: ScheduleSetting::Constant,
                eps: 1e-5,
                ..TrainSection::default()
            },
            lora: None,
            eval: ShownSection::default(),
            judge: None,
        }
    }
}

impl Configuration for OnlinePreferenceConfig {
    fn defaults() -> Option<Self> {
        Some(Self::default())
    }

    fn resolve(&mut self) {
        self.preference.resolve();
    }

    fn refused(key: &str) -> Option<&'static str> {
        let because = [
            (
                "train.epochs",
                "an update passes over its own rollout: see online_preference.updates and online_preference.epochs",
            ),
            (
                "train.steps",
                "the run's length is online_preference.updates; an update has online_preference.epochs passes over its \
                 rollout",
            ),
            (
                "train.batch",
                "batches are online_preference.rollout_batch and online_preference.minibatch",
            ),
            (
                "online_preference.method",
                "the method and its settings stand in [preference]: preference.method, preference.beta ...",
            ),
            (
                "online_preference.beta",
                "the method and its settings stand in [preference]: preference.method, preference.beta ...",
            ),
            (
                "preference.ties",
                "responses with one score have no pair, and none is learned from",
            ),
            (
                "preference.loss_type",
                "the method is named by preference.method: dpo, ipo, orpo or simpo",
            ),
            (
                "eval.max_new_tokens",
                "online_preference.max_new_tokens holds for every answer",
            ),
            (
                "data.train",
                "the policy's own responses to data.prompts are learned from; hone preference learns from files",
            ),
            (
                "data.max_length",
                "see data.max_prompt_length and online_preference.max_new_tokens",
            ),
            (
                "keep",
                "the result is the last model; with [judge] the one that judge.keep names",
            ),
        ];
        let reason = because.into_iter().find(|(table, _)| is_in(key, table));
        reason.map(|(_, why)| why).or_else(|| not_from_scratch(key))
    }
}

impl OnlinePreferenceConfig {
    /// A configuration to begin with: the defaults, and names to be replaced.
    pub fn example() -> Self {
        let mut config = Self {
            model: ModelSection::at("runs/sft/model"),
            ..Self::default()
        };
        config.maximised = Maximised::model("runs/reward/model");
        config.data.prompts = vec![hone_data::Source::new("prompts.jsonl")];
        config
    }

    /// Refuses what makes no sense; the method's own settings are its own to refuse.
    pub(super) fn refuse(&self) -> Result<()> {
        self.online_preference.check()?;
        if self.preference.method == MethodSetting::Kto {
            let reason = "is kto, which learns from single responses with labels; scores make pairs here. Choose dpo, \
                          ipo, orpo or simpo";
            return Err(TrainError::setting("preference.method", reason));
        }
        Ok(())
    }
}

/// Which pairs a prompt's responses make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PairRule {
    /// The best and the worst.
    #[default]
    Extremes,
    /// Every two whose scores differ.
    All,
}

/// `[online_preference]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OnlinePreferenceSection {
    /// Updates: a rollout and its optimiser steps each.
    pub updates: u64,
    /// Responses a rollout.
    pub rollout_batch: usize,
    /// Responses to each prompt, at least 2; divides `minibatch`.
    #[doc(alias = "num_generations")]
    pub samples_per_prompt: usize,
    /// `extremes`: the best and the worst response to a prompt are a pair; `all`: every two whose scores differ.
    pub pairs: PairRule,
    /// Responses an optimiser step, those without a pair included; divides the rollout.
    pub minibatch: usize,
    /// Passes over a rollout.
    pub epochs: usize,
    /// Most tokens of a response.
    pub max_new_tokens: usize,
    /// Divides the logits when sampling and in every log-probability.
    pub temperature: f64,
    /// What becomes of the score of a response that did not end.
    pub missing_eos: MissingEos,
    /// What replaces it, under `missing_eos = "replace"`.
    pub missing_eos_score: f64,
}

impl Default for OnlinePreferenceSection {
    fn default() -> Self {
        Self {
            updates: 100,
            rollout_batch: 64,
            samples_per_prompt: 2,
            pairs: PairRule::Extremes,
            minibatch: 64,
            epochs: 1,
            max_new_tokens: 64,
            temperature: 1.0,
            missing_eos: MissingEos::Replace,
            missing_eos_score: -1.0,
        }
    }
}

impl OnlinePreferenceSection {
    /// What its rollouts are like.
    pub(super) fn rollout(&self) -> RolloutSettings {
        RolloutSettings {
            section: SECTION,
            rollout_batch: self.rollout_batch,
            samples_per_prompt: self.samples_per_prompt,
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            missing_eos: self.missing_eos,
            missing_eos_score: self.missing_eos_score,
        }
    }

    /// Prompts an optimiser step, those without a pair included.
    pub(super) fn prompts_a_step(&self) -> usize {
        self.minibatch / self.samples_per_prompt
    }

    fn check(&self) -> Result<()> {
        let samples = self.samples_per_prompt;
        let counts = [
            ("updates", self.updates as usize),
            ("minibatch", self.minibatch),
            ("epochs", self.epochs),
        ];
        at_least_one(SECTION, &counts)?;
        check_rollout(&self.rollout())?;
        if samples < 2 {
            let reason = format!("is {samples}; a pair takes at least 2 responses to a prompt");
            return Err(TrainError::setting(format!("{SECTION}.samples_per_prompt"), reason));
        }
        divides(
            SECTION,
            ("minibatch", self.minibatch),
            ("rollout_batch", self.rollout_batch),
        )?;
        divides(SECTION, ("samples_per_prompt", samples), ("minibatch", self.minibatch))
    }
}
