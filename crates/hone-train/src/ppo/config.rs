//! `ppo.toml`.

use hone_data::Source;
use hone_model::LoraConfig;
use hone_run::Configuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::rollout::{
    JudgeSection, Maximised, MissingEos, PromptData, RolloutSettings, at_least_one, check_rollout, divides, number,
};
use crate::sections::{ModelSection, ScheduleSetting, ShownSection, TrainSection, is_in, not_from_scratch};

/// The section's name.
const SECTION: &str = "ppo";

/// Configuration of `hone ppo`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct PpoConfig {
    /// The policy's start, which is also the reference.
    pub model: ModelSection,
    /// What is maximised.
    #[serde(flatten)]
    pub maximised: Maximised,
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
    /// A held-out judge that looks at the policy on its way, for the model that it finds best; absent: none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeSection>,
}

impl Default for PpoConfig {
    fn default() -> Self {
        Self {
            model: ModelSection::default(),
            maximised: Maximised::default(),
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
            judge: None,
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
                "the result of PPO is the last model, or the average that ppo.ema_decay asks for; with [judge] the one that judge.keep names",
            ),
        ];
        let reason = because.into_iter().find(|(table, _)| is_in(key, table));
        reason.map(|(_, why)| why).or_else(|| not_from_scratch(key))
    }
}

impl PpoConfig {
    /// A configuration to begin with: the defaults, and names to be replaced.
    pub fn example() -> Self {
        let mut config = Self {
            model: ModelSection::at("runs/sft/model"),
            ..Self::default()
        };
        config.maximised = Maximised::model("runs/reward/model");
        config.data.prompts = vec![Source::new("prompts.jsonl")];
        config
    }

    /// Refuses what makes no sense.
    pub(super) fn refuse(&self) -> Result<()> {
        let p = &self.ppo;
        let counts = [
            ("updates", p.updates as usize),
            ("minibatch", p.minibatch),
            ("ppo_epochs", p.ppo_epochs),
        ];
        at_least_one(SECTION, &counts)?;
        check_rollout(&p.rollout())?;
        divides(SECTION, ("minibatch", p.minibatch), ("rollout_batch", p.rollout_batch))?;
        if !p.minibatch.is_multiple_of(p.samples_per_prompt) {
            let reason = format!(
                "is {}, which does not divide ppo.minibatch = {}: the responses to a prompt are trained on together",
                p.samples_per_prompt, p.minibatch
            );
            return Err(TrainError::setting("ppo.samples_per_prompt", reason));
        }
        if p.share_beginnings && p.samples_per_prompt > 1 {
            let reason = format!(
                "is true, and with ppo.samples_per_prompt = {} the responses to a prompt share all of it; leave it out",
                p.samples_per_prompt
            );
            return Err(TrainError::setting("ppo.share_beginnings", reason));
        }
        let (above, share) = ("a number above 0", 0.0..=1.0);
        // What is absent passes
        let (kl_target, value_rate) = (p.kl_target.unwrap_or(1.0), p.value_learning_rate.unwrap_or(1.0));
        let numbers = [
            ("kl_coef", p.kl_coef, p.kl_coef >= 0.0, "0 or a number above"),
            ("clip_range", p.clip_range, p.clip_range > 0.0, above),
            ("value_clip_range", p.value_clip_range, p.value_clip_range > 0.0, above),
            ("value_coef", p.value_coef, p.value_coef > 0.0, above),
            ("gamma", p.gamma, share.contains(&p.gamma), "0 to 1"),
            ("gae_lambda", p.gae_lambda, share.contains(&p.gae_lambda), "0 to 1"),
            ("kl_target", kl_target, kl_target > 0.0, above),
            ("value_learning_rate", value_rate, value_rate > 0.0, above),
        ];
        for (key, value, holds, expected) in numbers {
            number(SECTION, (key, value), (holds, expected))?;
        }
        if let Some(ptx) = &self.ptx {
            let holds = ptx.ptx_coef >= 0.0;
            number("ptx", ("ptx_coef", ptx.ptx_coef), (holds, "0 or a number above"))?;
        }
        if let Some(decay) = p.ema_decay {
            let below_one = (0.0..1.0).contains(&decay);
            number(SECTION, ("ema_decay", decay), (below_one, "at least 0 and below 1"))?;
        }
        self.refuse_horizon()
    }

    fn refuse_horizon(&self) -> Result<()> {
        let p = &self.ppo;
        let reason = match p.kl_target {
            // The controller moves by at most a fifth an episode of a horizon: a shorter one would turn the penalty negative
            Some(_) if !(p.kl_horizon > 0.2 * p.rollout_batch as f64 && p.kl_horizon.is_finite()) => format!(
                "is {}; expected a number above a fifth of ppo.rollout_batch = {}",
                p.kl_horizon, p.rollout_batch
            ),
            None if p.kl_horizon != PpoSection::default().kl_horizon => format!(
                "is {}, and without ppo.kl_target the coefficient does not move; give kl_target, or leave it out",
                p.kl_horizon
            ),
            _ => return Ok(()),
        };
        Err(TrainError::setting("ppo.kl_horizon", reason))
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
    /// Whether what the prompts of a minibatch all begin with, the rules of a game say, is computed once a micro-batch in
    /// training. No log-probability or value changes, and gradients by no more than rounding. Of single responses to each
    /// prompt: several share their prompt in any case.
    pub share_beginnings: bool,
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
            section: SECTION,
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
            share_beginnings: false,
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
