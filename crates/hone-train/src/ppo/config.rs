//! `ppo.toml`.

use hone_data::Source;
use hone_model::LoraConfig;
use hone_run::Configuration;
use hone_task::RewardEntry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rollout::{
    EnvironmentSection, Maximised, MissingEos, PromptData, RewardSection, RolloutSettings, example_environment,
    example_rewards,
};
use crate::sections::{ModelSection, ScheduleSetting, ShownSection, TrainSection, is_in, not_from_scratch};

/// Configuration of `hone ppo`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PpoConfig {
    /// The policy's start, which is also the reference.
    pub model: ModelSection,
    /// What is maximised: a reward model's score. Exactly one of this, `[[rewards]]` and `[environment]` is given.
    #[serde(skip_serializing_if = "RewardSection::is_empty")]
    pub reward: RewardSection,
    /// Or a weighted sum: verifiers, programs and reward models, each with a `kind` and its keys (see `docs/rewards.md`).
    #[schemars(example = example_rewards())]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<RewardEntry>,
    /// Or what an environment gives in which the policy acts: `maze` or `word-game` (see `docs/environments.md`).
    #[schemars(example = example_environment())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentSection>,
    /// Prompts.
    pub data: PromptData,
    /// The method.
    pub ppo: PpoSection,
    /// The pre-training term; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ptx: Option<PtxSection>,
    /// The optimiser.
    pub train: TrainSection,
    /// An adapter of low rank; absent: all weights are tuned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// What is looked at on the way.
    pub eval: ShownSection,
}

impl Default for PpoConfig {
    fn default() -> Self {
        Self {
            model: ModelSection::default(),
            reward: RewardSection::default(),
            rewards: Vec::new(),
            environment: None,
            data: PromptData::default(),
            ppo: PpoSection::default(),
            ptx: None,
            train: TrainSection {
                learning_rate: 1e-5,
                schedule: ScheduleSetting::Constant,
                // Huang et al., 2024
                eps: 1e-5,
                ..TrainSection::default()
            },
            lora: None,
            eval: ShownSection::default(),
        }
    }
}

impl Configuration for PpoConfig {
    fn defaults() -> Option<Self> {
        Some(Self::default())
    }

    fn resolve(&mut self) {
        self.ppo.value_learning_rate.get_or_insert(self.train.learning_rate);
    }

    fn refused(key: &str) -> Option<&'static str> {
        let because = [
            (
                "train.epochs",
                "PPO passes over each rollout: see ppo.updates and ppo.ppo_epochs",
            ),
            (
                "train.steps",
                "PPO's length is ppo.updates; an update has ppo.ppo_epochs passes over its rollout",
            ),
            ("train.batch", "PPO's batches are ppo.rollout_batch and ppo.minibatch"),
            ("eval.max_new_tokens", "ppo.max_new_tokens holds for every answer"),
            ("data.train", "PPO's prompts are named by data.prompts"),
            ("data.max_length", "see data.max_prompt_length and ppo.max_new_tokens"),
            (
                "keep",
                "the result of PPO is the last model, or the average that ppo.ema_decay asks for",
            ),
        ];
        let reason = because.into_iter().find(|(table, _)| is_in(key, table));
        reason.map(|(_, why)| why).or_else(|| not_from_scratch(key))
    }
}

impl PpoConfig {
    /// What is maximised.
    pub(super) fn maximised(&self) -> Maximised<'_> {
        Maximised {
            reward: &self.reward,
            rewards: &self.rewards,
            environment: self.environment.as_ref(),
        }
    }

    /// A configuration to begin with: the defaults, and names to be replaced.
    pub fn example() -> Self {
        let mut config = Self {
            model: ModelSection::at("runs/sft/model"),
            ..Self::default()
        };
        config.reward.path = "runs/reward/model".into();
        config.data.prompts = vec![Source::new("prompts.jsonl")];
        config
    }
}

/// `[ppo]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PpoSection {
    /// Updates: a rollout and its optimiser steps each.
    pub updates: u64,
    /// Episodes a rollout.
    #[doc(alias = "batch_size")]
    pub rollout_batch: usize,
    /// Responses to each prompt of a rollout; divides `minibatch`. What they share is computed once.
    #[doc(alias = "num_generations")]
    pub samples_per_prompt: usize,
    /// Episodes an optimiser step; divides the rollout.
    #[doc(alias = "mini_batch_size")]
    pub minibatch: usize,
    /// Passes over a rollout.
    #[doc(alias = "num_ppo_epochs")]
    pub ppo_epochs: usize,
    /// Most tokens of a response; in an environment of one action.
    pub max_new_tokens: usize,
    /// Divides the logits when sampling and in every log-probability.
    pub temperature: f64,
    /// Weight of the KL penalty to the reference, a token.
    #[doc(alias = "beta")]
    pub kl_coef: f64,
    /// KL to be held, in nats a response; absent: `kl_coef` stays as it is.
    #[schemars(example = 6.0)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_target: Option<f64>,
    /// Episodes over which the controller of `kl_target` reacts.
    pub kl_horizon: f64,
    /// The ratio is clipped to 1 plus and minus this.
    #[doc(alias = "cliprange")]
    pub clip_range: f64,
    /// New values stay within this of the old ones.
    #[doc(alias = "cliprange_value")]
    pub value_clip_range: f64,
    /// Weight of the value loss.
    #[doc(alias = "vf_coef")]
    pub value_coef: f64,
    /// Discount.
    pub gamma: f64,
    /// GAE's lambda.
    #[doc(alias = "lam")]
    pub gae_lambda: f64,
    /// Advantages are whitened over the rollout.
    pub whiten_advantages: bool,
    /// Rewards are whitened over the rollout, their mean kept.
    pub whiten_rewards: bool,
    /// What becomes of the score of a response that did not end. In an environment a cut action is taken as it stands.
    pub missing_eos: MissingEos,
    /// What replaces it, under `missing_eos = "replace"`.
    pub missing_eos_score: f64,
    /// Decay of the moving average of weights, which is then the result; absent: the last weights are.
    #[schemars(example = 0.992)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// The learning rate of the value network; the policy's where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_learning_rate: Option<f64>,
    /// Updates in which only the value network learns.
    pub value_warmup_updates: u64,
    /// Where the value network starts.
    pub value_start: ValueStart,
}

impl PpoSection {
    /// What its rollouts are like.
    pub(super) fn rollout(&self) -> RolloutSettings {
        RolloutSettings {
            section: "ppo",
            rollout_batch: self.rollout_batch,
            samples_per_prompt: self.samples_per_prompt,
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            missing_eos: self.missing_eos,
            missing_eos_score: self.missing_eos_score,
        }
    }

    /// Whether only the value network learns in this update, counted from 0.
    pub(super) fn warms_up_value(&self, update: u64) -> bool {
        update < self.value_warmup_updates
    }
}

/// Where the value network starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ValueStart {
    /// At the reward model where both share a tokenizer, else at the policy's start.
    #[default]
    RewardModel,
    /// At the policy's start, with a head of zeros.
    Policy,
}

impl Default for PpoSection {
    fn default() -> Self {
        Self {
            updates: 100,
            rollout_batch: 64,
            samples_per_prompt: 1,
            minibatch: 64,
            ppo_epochs: 4,
            max_new_tokens: 64,
            temperature: 1.0,
            kl_coef: 0.05,
            kl_target: None,
            kl_horizon: 10_000.0,
            clip_range: 0.2,
            value_clip_range: 0.2,
            value_coef: 0.1,
            gamma: 1.0,
            gae_lambda: 0.95,
            whiten_advantages: true,
            whiten_rewards: false,
            missing_eos: MissingEos::Replace,
            missing_eos_score: -1.0,
            ema_decay: None,
            value_learning_rate: None,
            value_warmup_updates: 0,
            value_start: ValueStart::RewardModel,
        }
    }
}

/// `[ptx]`: the gradient of the pre-training loss is added to the policy's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PtxSection {
    /// Texts, as in pre-training. Needed.
    #[schemars(example = vec!["text.txt"])]
    pub train: Vec<Source>,
    /// The share at the end of each source that is left out: as pre-training held it out, so that it stays unseen.
    pub held_out: f64,
    /// Weight of the pre-training loss.
    #[doc(alias = "gamma_ptx")]
    pub ptx_coef: f64,
    /// Tokens of a window.
    pub max_length: usize,
    /// Windows an optimiser step.
    pub windows: usize,
}

impl Default for PtxSection {
    fn default() -> Self {
        Self {
            train: Vec::new(),
            held_out: 0.05,
            ptx_coef: 1.0,
            max_length: 256,
            windows: 8,
        }
    }
}
