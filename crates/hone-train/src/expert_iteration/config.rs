//! `expert-iteration.toml`.

use hone_model::LoraConfig;
use hone_run::Configuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::rollout::{
    JudgeSection, Maximised, MissingEos, PromptData, RolloutSettings, at_least_one, check_rollout, number,
};
use crate::sections::{ModelSection, ScheduleSetting, ShownSection, TrainSection, is_in, not_from_scratch};

/// The section's name.
const SECTION: &str = "expert_iteration";

/// Configuration of `hone expert-iteration`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct ExpertIterationConfig {
    /// The model that answers first, which is also the reference.
    pub model: ModelSection,
    /// What is maximised.
    #[serde(flatten)]
    pub maximised: Maximised,
    /// Prompts.
    pub data: PromptData,
    /// Rounds, and what is kept in each.
    pub expert_iteration: ExpertIterationSection,
    /// The optimiser; the schedule is that of each round.
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

impl Default for ExpertIterationConfig {
    fn default() -> Self {
        Self {
            model: ModelSection::default(),
            maximised: Maximised::default(),
            data: PromptData::default(),
            expert_iteration: ExpertIterationSection::default(),
            train: TrainSection {
                learning_rate: 1e-5,
                schedule: ScheduleSetting::Constant,
                // Rounds are few and long
                checkpoint_every: 1,
                ..TrainSection::default()
            },
            lora: None,
            eval: ShownSection {
                every: 1,
                ..ShownSection::default()
            },
            judge: None,
        }
    }
}

impl Configuration for ExpertIterationConfig {
    fn defaults() -> Option<Self> {
        Some(Self::default())
    }

    fn resolve(&mut self) {
        if self.expert_iteration.keep != KeepRule::Above {
            self.expert_iteration.keep_best.get_or_insert(1);
        }
    }

    fn refused(key: &str) -> Option<&'static str> {
        let because = [
            (
                "train.epochs",
                "a round passes over what it kept: see expert_iteration.rounds and expert_iteration.epochs",
            ),
            (
                "train.steps",
                "the run's length is expert_iteration.rounds; how many steps a round has follows from what it kept",
            ),
            (
                "train.batch",
                "batches are expert_iteration.rollout_batch and expert_iteration.minibatch",
            ),
            (
                "expert_iteration.updates",
                "an update is a round here: see expert_iteration.rounds",
            ),
            (
                "expert_iteration.kl_coef",
                "there is no penalty on the divergence here, it is measured: see expert_iteration.measure_kl",
            ),
            (
                "eval.max_new_tokens",
                "expert_iteration.max_new_tokens holds for every answer",
            ),
            ("data.train", "prompts are named by data.prompts"),
            (
                "data.max_length",
                "see data.max_prompt_length and expert_iteration.max_new_tokens",
            ),
            (
                "keep",
                "the result is the last round's model, with [judge] the one that judge.keep names; which responses are kept is \
                 expert_iteration.keep",
            ),
        ];
        let reason = because.into_iter().find(|(table, _)| is_in(key, table));
        reason.map(|(_, why)| why).or_else(|| not_from_scratch(key))
    }
}

impl ExpertIterationConfig {
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
}

/// Which responses are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeepRule {
    /// The best `keep_best` of each prompt; with a `threshold`, those of them that reach it.
    #[default]
    Best,
    /// All that reach `threshold`.
    Above,
    /// The first `keep_best` of each prompt, whatever their scores: a control. Answers to a prompt are drawn alike, so these are as any
    /// others, and the model is tuned as if scores had been dealt out anew by chance.
    First,
}

/// Which model a round tunes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TuneFrom {
    /// That of the round before, which gave the answers.
    #[default]
    Last,
    /// The first one, on what this round kept alone.
    Start,
}

/// `[expert_iteration]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExpertIterationSection {
    /// Rounds: prompts are answered, the best answers kept, and the model tuned on them.
    pub rounds: u64,
    /// Responses a round.
    pub rollout_batch: usize,
    /// Responses to each prompt, its group; divides `rollout_batch`.
    #[doc(alias = "num_generations")]
    pub samples_per_prompt: usize,
    /// `best`: the best `keep_best` of each group; `above`: all with a score of at least `threshold`; `first`: the first
    /// `keep_best`, whatever their scores, as a control.
    pub keep: KeepRule,
    /// Of `keep = "best"` and `keep = "first"`: so many of each group, 1 if absent.
    #[schemars(example = 1)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_best: Option<usize>,
    /// The lowest score that is kept. Needed by `keep = "above"`; of `keep = "best"`, absent: there is none.
    #[schemars(example = 0.5)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Whether equal responses of a group count once; if not, each copy is one of its own.
    pub distinct: bool,
    /// `last`: a round goes on from the model that answered; `start`: each round tunes the first model on what it kept.
    pub from: TuneFrom,
    /// Passes over what a round kept.
    pub epochs: usize,
    /// Kept responses an optimiser step; the last of a pass may have fewer.
    pub minibatch: usize,
    /// Most tokens of a response.
    pub max_new_tokens: usize,
    /// Divides the logits when sampling and in every log-probability.
    pub temperature: f64,
    /// Whether the divergence from the first model is measured, which costs a pass of that model over each response.
    pub measure_kl: bool,
    /// What becomes of the score of a response that did not end.
    pub missing_eos: MissingEos,
    /// What replaces it, under `missing_eos = "replace"`.
    pub missing_eos_score: f64,
}

impl Default for ExpertIterationSection {
    fn default() -> Self {
        Self {
            rounds: 8,
            rollout_batch: 256,
            samples_per_prompt: 8,
            keep: KeepRule::Best,
            keep_best: None,
            threshold: None,
            distinct: true,
            from: TuneFrom::Last,
            epochs: 1,
            minibatch: 32,
            max_new_tokens: 64,
            temperature: 1.0,
            measure_kl: true,
            missing_eos: MissingEos::Replace,
            missing_eos_score: -1.0,
        }
    }
}

impl ExpertIterationSection {
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

    /// Most responses of a group that are kept.
    pub(super) fn most(&self) -> usize {
        match self.keep {
            KeepRule::Best | KeepRule::First => self.keep_best.unwrap_or(1),
            KeepRule::Above => self.samples_per_prompt,
        }
    }

    /// Refuses what makes no sense.
    pub(super) fn check(&self) -> Result<()> {
        check_rollout(&self.rollout())?;
        let counts = [
            ("rounds", self.rounds as usize),
            ("epochs", self.epochs),
            ("minibatch", self.minibatch),
            ("keep_best", self.keep_best.unwrap_or(1)),
        ];
        at_least_one(SECTION, &counts)?;
        let refused = |key: &str, reason: String| Err(TrainError::setting(format!("{SECTION}.{key}"), reason));
        match (self.keep, self.keep_best) {
            (KeepRule::Best | KeepRule::First, Some(most)) if most > self.samples_per_prompt => {
                return refused(
                    "keep_best",
                    format!(
                        "is {most}; expected at most {SECTION}.samples_per_prompt = {}",
                        self.samples_per_prompt
                    ),
                );
            }
            (KeepRule::Above, Some(most)) => {
                return refused(
                    "keep_best",
                    format!(
                        "is {most}, and under keep = \"above\" all that reach the threshold are kept; leave it out, or \
                         choose keep = \"best\""
                    ),
                );
            }
            _ => {}
        }
        match (self.keep, self.threshold) {
            (KeepRule::Above, None) => refused(
                "threshold",
                "is missing; keep = \"above\" keeps the responses whose score is at least this".into(),
            ),
            (KeepRule::First, Some(threshold)) => refused(
                "threshold",
                format!(
                    "is {threshold}, and under keep = \"first\" scores choose nothing; leave it out, or choose keep = \
                     \"best\" or \"above\""
                ),
            ),
            (_, Some(threshold)) => number(SECTION, ("threshold", threshold), (true, "a number")),
            (KeepRule::Best | KeepRule::First, None) => Ok(()),
        }
    }
}
