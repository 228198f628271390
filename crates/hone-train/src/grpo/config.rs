//! `grpo.toml`.

use hone_model::LoraConfig;
use hone_objective::group::{self, AdvantageEstimator, GroupConfig, TokenWeight};
use hone_objective::kl::Estimator;
use hone_objective::ppo::ClipRange;
use hone_run::Configuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::rollout::{
    JudgeSection, Maximised, MissingEos, PromptData, RolloutSettings, at_least_one, check_rollout, divides, number,
};
use crate::sections::{ModelSection, ScheduleSetting, ShownSection, TrainSection, is_in, not_from_scratch};

/// The section's name.
const SECTION: &str = "grpo";

/// Configuration of `hone grpo`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct GrpoConfig {
    /// The policy's start, which is also the reference.
    pub model: ModelSection,
    /// What is maximised.
    #[serde(flatten)]
    pub maximised: Maximised,
    /// Prompts.
    pub data: PromptData,
    /// The method.
    pub grpo: GrpoSection,
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

impl Default for GrpoConfig {
    fn default() -> Self {
        Self {
            model: ModelSection::default(),
            maximised: Maximised::default(),
            data: PromptData::default(),
            grpo: GrpoSection::default(),
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

impl Configuration for GrpoConfig {
    fn defaults() -> Option<Self> {
        Some(Self::default())
    }

    fn resolve(&mut self) {
        let method = self.grpo.method;
        let usual = method.clip_range();
        let high = self.grpo.clip_range.unwrap_or(usual.high);
        self.grpo.clip_range.get_or_insert(usual.low);
        self.grpo.clip_range_high.get_or_insert(high);
        self.grpo.kl_coef.get_or_insert(method.kl_coef());
        self.grpo.dynamic_sampling.get_or_insert(method == GroupMethod::Dapo);
        if method == GroupMethod::Dapo && self.maximised.environment.is_none() {
            self.grpo.overlong_cache.get_or_insert(self.grpo.max_new_tokens / 5);
        }
    }

    fn refused(key: &str) -> Option<&'static str> {
        let because = [
            (
                "train.epochs",
                "an update passes over its own rollout: see grpo.updates and grpo.epochs",
            ),
            (
                "train.steps",
                "the run's length is grpo.updates; an update has grpo.epochs passes over its rollout",
            ),
            ("train.batch", "batches are grpo.rollout_batch and grpo.minibatch"),
            ("eval.max_new_tokens", "grpo.max_new_tokens holds for every answer"),
            ("data.train", "prompts are named by data.prompts"),
            ("data.max_length", "see data.max_prompt_length and grpo.max_new_tokens"),
            (
                "keep",
                "the result is the last model, or the average that grpo.ema_decay asks for; with [judge] the one that judge.keep names",
            ),
        ];
        let reason = because.into_iter().find(|(table, _)| is_in(key, table));
        reason.map(|(_, why)| why).or_else(|| not_from_scratch(key))
    }
}

impl GrpoConfig {
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

    /// Refuses what makes no sense.
    pub(super) fn refuse(&self) -> Result<()> {
        let g = &self.grpo;
        let counts = [
            ("updates", g.updates as usize),
            ("minibatch", g.minibatch),
            ("epochs", g.epochs),
            ("sampling_attempts", g.sampling_attempts),
        ];
        at_least_one(SECTION, &counts)?;
        let samples = g.samples_per_prompt;
        let least = g.method.estimator().smallest_group();
        if (1..least).contains(&samples) {
            let reason = format!(
                "is {samples}; this method compares a prompt's responses with one another and needs at least {least}"
            );
            return Err(TrainError::setting("grpo.samples_per_prompt", reason));
        }
        check_rollout(&g.rollout())?;
        divides(SECTION, ("minibatch", g.minibatch), ("rollout_batch", g.rollout_batch))?;
        divides(SECTION, ("samples_per_prompt", samples), ("minibatch", g.minibatch))?;
        let (clip, kl_coef) = (g.loss().clip_range, g.kl_coef());
        let above = "a number above 0";
        number(SECTION, ("kl_coef", kl_coef), (kl_coef >= 0.0, "0 or a number above"))?;
        number(SECTION, ("clip_range", clip.low), (clip.low > 0.0, above))?;
        number(SECTION, ("clip_range_high", clip.high), (clip.high > 0.0, above))?;
        if let Some(decay) = g.ema_decay {
            let below_one = (0.0..1.0).contains(&decay);
            number(SECTION, ("ema_decay", decay), (below_one, "at least 0 and below 1"))?;
        }
        self.refuse_cache()?;
        self.refuse_dynamic_sampling()
    }

    fn refuse_cache(&self) -> Result<()> {
        let g = &self.grpo;
        let reason = match g.overlong_cache {
            Some(cache) if self.maximised.environment.is_some() => {
                format!("is {cache}, and an environment's episodes have no limit of length; leave it out")
            }
            Some(cache) if cache > g.max_new_tokens => {
                format!(
                    "is {cache}; expected at most grpo.max_new_tokens = {}",
                    g.max_new_tokens
                )
            }
            _ => return Ok(()),
        };
        Err(TrainError::setting("grpo.overlong_cache", reason))
    }

    fn refuse_dynamic_sampling(&self) -> Result<()> {
        let g = &self.grpo;
        if g.samples_dynamically() {
            let taught = match g.method.kl_place() {
                _ if g.method == GroupMethod::ReinforcePlusPlus => Some("scores are whitened over the rollout"),
                KlPlace::Score if g.kl_coef() > 0.0 => Some("the divergence is taken off the score"),
                _ => None,
            };
            if let Some(why) = taught {
                let reason =
                    format!("is true, and {why}, so that groups whose scores are all equal teach, too; leave it out");
                return Err(TrainError::setting("grpo.dynamic_sampling", reason));
            }
        } else if g.sampling_attempts != GrpoSection::default().sampling_attempts {
            let reason = format!(
                "is {}, and without grpo.dynamic_sampling one rollout is sampled for an update; leave it out",
                g.sampling_attempts
            );
            return Err(TrainError::setting("grpo.sampling_attempts", reason));
        }
        Ok(())
    }
}

/// A method of group-relative reinforcement learning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GroupMethod {
    /// Scores relative to mean and deviation of the group; the divergence (k3) is a term of the loss.
    #[default]
    Grpo,
    /// GRPO without the deviation and without the responses' lengths in its means.
    DrGrpo,
    /// GRPO with a wider clip above, a mean over tokens, dynamic sampling and a soft limit of length.
    Dapo,
    /// Each score less the mean of the group's others; the divergence is taken off the score.
    Rloo,
    /// Scores whitened over the rollout; the divergence is taken off the score.
    ReinforcePlusPlus,
    /// Scores less the group's mean, whitened over the rollout; the divergence (k2) is a term of the loss.
    ReinforcePlusPlusBaseline,
}

/// Where a method puts the divergence from the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KlPlace {
    /// A term of the loss.
    Loss(Estimator),
    /// Taken off the score.
    Score,
}

impl GroupMethod {
    /// How scores become advantages.
    pub(super) fn estimator(self) -> AdvantageEstimator {
        match self {
            Self::Grpo | Self::Dapo => AdvantageEstimator::Grpo,
            Self::DrGrpo => AdvantageEstimator::DrGrpo,
            Self::Rloo => AdvantageEstimator::Rloo,
            Self::ReinforcePlusPlus => AdvantageEstimator::ReinforcePlusPlus,
            Self::ReinforcePlusPlusBaseline => AdvantageEstimator::ReinforcePlusPlusBaseline,
        }
    }

    pub(super) fn kl_place(self) -> KlPlace {
        match self {
            Self::Grpo | Self::DrGrpo | Self::Dapo => KlPlace::Loss(Estimator::K3),
            Self::ReinforcePlusPlusBaseline => KlPlace::Loss(Estimator::K2),
            Self::Rloo | Self::ReinforcePlusPlus => KlPlace::Score,
        }
    }

    fn token_weight(self, max_new_tokens: usize) -> TokenWeight {
        match self {
            Self::Grpo => TokenWeight::ResponseMean,
            Self::DrGrpo => TokenWeight::ConstantLength(max_new_tokens as u64),
            Self::Rloo => TokenWeight::ConstantLength(1),
            Self::Dapo | Self::ReinforcePlusPlus | Self::ReinforcePlusPlusBaseline => TokenWeight::TokenMean,
        }
    }

    fn clip_range(self) -> ClipRange {
        match self {
            Self::Dapo => group::DAPO_CLIP_RANGE,
            _ => ClipRange::default(),
        }
    }

    fn kl_coef(self) -> f64 {
        match self {
            Self::Grpo => group::GRPO_KL_COEF,
            Self::DrGrpo | Self::Dapo => 0.0,
            Self::Rloo => 0.05,
            Self::ReinforcePlusPlus | Self::ReinforcePlusPlusBaseline => 0.01,
        }
    }
}

/// `[grpo]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GrpoSection {
    /// Which method; those of its values that are not given below follow from it.
    pub method: GroupMethod,
    /// Updates: a rollout and its optimiser steps each.
    pub updates: u64,
    /// Responses a rollout.
    pub rollout_batch: usize,
    /// Responses to each prompt, its group; divides `minibatch`.
    #[doc(alias = "num_generations")]
    pub samples_per_prompt: usize,
    /// Responses an optimiser step; divides the rollout.
    pub minibatch: usize,
    /// Passes over a rollout.
    #[doc(alias = "num_iterations")]
    pub epochs: usize,
    /// Most tokens of a response; in an environment of one action.
    pub max_new_tokens: usize,
    /// Divides the logits when sampling and in every log-probability.
    pub temperature: f64,
    /// Weight of the divergence from the reference; the method's own where absent. With 0 the reference is not computed, but for
    /// `measure_kl`.
    #[doc(alias = "beta")]
    #[schemars(example = 0.04)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_coef: Option<f64>,
    /// Whether the divergence from the reference is measured though its weight is 0, which costs a pass of the reference over each
    /// response. Where the weight is not 0 it is measured anyway.
    pub measure_kl: bool,
    /// The ratio is clipped to 1 minus this; the method's own where absent.
    #[doc(alias = "epsilon")]
    #[schemars(example = 0.2)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_range: Option<f64>,
    /// And to 1 plus this; the method's own where absent.
    #[doc(alias = "epsilon_high")]
    #[schemars(example = 0.2)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_range_high: Option<f64>,
    /// Whether groups whose scores are all equal are replaced by those of further prompts; the method's own where absent.
    #[schemars(example = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic_sampling: Option<bool>,
    /// Rollouts that are sampled at most for one update of dynamic sampling.
    pub sampling_attempts: usize,
    /// Tokens before `max_new_tokens` over which a response loses up to 1 of its score; absent: none does.
    #[schemars(example = 16)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlong_cache: Option<usize>,
    /// What becomes of the score of a response that did not end. In an environment a cut action is taken as it stands.
    pub missing_eos: MissingEos,
    /// What replaces it, under `missing_eos = "replace"`.
    pub missing_eos_score: f64,
    /// Decay of the moving average of weights, which is then the result; absent: the last weights are.
    #[schemars(example = 0.992)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
}

impl Default for GrpoSection {
    fn default() -> Self {
        Self {
            method: GroupMethod::default(),
            updates: 100,
            rollout_batch: 64,
            samples_per_prompt: 8,
            minibatch: 64,
            epochs: 1,
            max_new_tokens: 64,
            temperature: 1.0,
            kl_coef: None,
            measure_kl: false,
            clip_range: None,
            clip_range_high: None,
            dynamic_sampling: None,
            sampling_attempts: 4,
            overlong_cache: None,
            missing_eos: MissingEos::Replace,
            missing_eos_score: -1.0,
            ema_decay: None,
        }
    }
}

impl GrpoSection {
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

    /// Weight of the divergence.
    pub(super) fn kl_coef(&self) -> f64 {
        self.kl_coef.unwrap_or_else(|| self.method.kl_coef())
    }

    /// Whether the reference reads the responses.
    pub(super) fn reads_reference(&self) -> bool {
        self.measure_kl || self.kl_coef() > 0.0
    }

    /// The loss that this method has.
    pub(super) fn loss(&self) -> GroupConfig {
        let usual = self.method.clip_range();
        GroupConfig {
            clip_range: ClipRange {
                low: self.clip_range.unwrap_or(usual.low),
                high: self.clip_range_high.or(self.clip_range).unwrap_or(usual.high),
            },
            token_weight: self.method.token_weight(self.max_new_tokens),
        }
    }

    /// Whether groups without a difference are replaced.
    pub(super) fn samples_dynamically(&self) -> bool {
        self.dynamic_sampling.unwrap_or(self.method == GroupMethod::Dapo)
    }
}
