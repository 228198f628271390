//! Settings of the stage `annotate`.

use std::path::PathBuf;

use hone_data::Source;
use hone_data::annotations::{MOST_RESPONSES, TaskKind};
use hone_run::Configuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{PipelineError, Result};
use crate::quickstart::PreferencesSetting;

/// The longest that a simulated task may be assumed to take: a day.
const MOST_SECONDS: u32 = 86_400;

/// Settings of annotating.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnnotateConfig {
    /// The model whose answers are ranked, a directory. Needed for `rank`; `write` has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// What is asked: `rank` the answers, or `write` one.
    #[serde(default = "rank")]
    pub task: TaskKind,
    /// Prompts.
    pub prompts: Vec<Source>,
    /// So many of them are passed over, so that every round has fresh ones.
    #[serde(default)]
    pub skip: usize,
    /// So many are taken; with `time_of` at most so many.
    pub count: usize,
    /// Folders of earlier stages `annotate`: no more tasks are given than their labeling time pays for. Simulated annotators only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub time_of: Vec<PathBuf>,
    /// Answers to a prompt, 2 to 9.
    #[serde(default = "four")]
    pub answers: usize,
    /// Most tokens of an answer.
    #[serde(default = "sixty_four")]
    pub max_new_tokens: usize,
    /// Of the answers, of the queue, and of simulated annotators.
    #[serde(default = "one")]
    pub seed: u64,
    /// Who does it.
    #[serde(default)]
    pub annotators: Annotators,
    /// How many of them do each task.
    #[serde(default = "once")]
    pub overlap: u32,
    /// What people are told.
    #[serde(default)]
    pub guideline: String,
    /// The simulated ones.
    #[serde(default)]
    pub simulated: SimulatedSection,
}

/// Who annotates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Annotators {
    /// People, on the pages of `hone annotate`; the stage waits for them.
    #[default]
    People,
    /// The small world's labeler, several times over, each with noise of its own.
    Simulated,
}

/// `simulated`: annotators who are no people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SimulatedSection {
    /// How many there are.
    pub count: u32,
    /// What they value: `standard`, `exchanged` or `planted`.
    pub preferences: PreferencesSetting,
    /// How they write: `experts` or `careful`.
    pub writing: Writing,
    /// What ranking the answers to one prompt is assumed to take, in seconds.
    pub seconds_a_ranking: u32,
    /// What writing one demonstration is assumed to take, in seconds.
    pub seconds_a_demonstration: u32,
}

/// How simulated annotators write demonstrations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Writing {
    /// As the small world's experts, who err and differ in style.
    #[default]
    Experts,
    /// Always right, and in the asked form.
    Careful,
}

impl Default for SimulatedSection {
    fn default() -> Self {
        Self {
            count: 3,
            preferences: PreferencesSetting::Standard,
            writing: Writing::Experts,
            seconds_a_ranking: 60,
            seconds_a_demonstration: 300,
        }
    }
}

fn rank() -> TaskKind {
    TaskKind::Rank
}

fn four() -> usize {
    4
}

fn sixty_four() -> usize {
    64
}

fn one() -> u64 {
    1
}

fn once() -> u32 {
    1
}

impl Configuration for AnnotateConfig {}

impl SimulatedSection {
    /// What a task of this kind is assumed to take, in seconds.
    pub(super) fn seconds_of(&self, task: TaskKind) -> f64 {
        f64::from(match task {
            TaskKind::Write => self.seconds_a_demonstration,
            _ => self.seconds_a_ranking,
        })
    }
}

impl AnnotateConfig {
    /// Refuses what cannot be annotated.
    pub(in crate::recipe) fn check(&self) -> Result<()> {
        let refuse = |key: &str, reason: String| Err(PipelineError::setting(key, reason));
        match (self.task, &self.model) {
            (TaskKind::Rank, None) => {
                return refuse(
                    "model",
                    "is missing; expected the model whose answers are ranked".into(),
                );
            }
            (TaskKind::Write, Some(_)) => {
                return refuse("model", "answers nothing where people write; leave it out".into());
            }
            (TaskKind::Rank | TaskKind::Write, _) => {}
            (other, _) => return refuse("task", format!("is `{}`; expected rank or write", other.name())),
        }
        for source in &self.prompts {
            source.validate()?;
        }
        for (key, value) in [
            ("prompts", self.prompts.len()),
            ("count", self.count),
            ("max_new_tokens", self.max_new_tokens),
            ("overlap", self.overlap as usize),
            ("simulated.count", self.simulated.count as usize),
        ] {
            if value == 0 {
                return refuse(key, "is 0, or empty; expected at least 1".into());
            }
        }
        if !(2..=MOST_RESPONSES).contains(&self.answers) {
            return refuse(
                "answers",
                format!("is {}; expected 2 to {MOST_RESPONSES}", self.answers),
            );
        }
        if self.annotators == Annotators::Simulated && self.overlap > self.simulated.count {
            let reason = format!(
                "is {}, and there are {} simulated annotators; nobody does a task twice",
                self.overlap, self.simulated.count
            );
            return refuse("overlap", reason);
        }
        if self.annotators == Annotators::People && !self.time_of.is_empty() {
            let reason = "is for simulated annotators, whose time for a task is known before; give count alone";
            return refuse("time_of", reason.into());
        }
        for (key, seconds) in [
            ("simulated.seconds_a_ranking", self.simulated.seconds_a_ranking),
            (
                "simulated.seconds_a_demonstration",
                self.simulated.seconds_a_demonstration,
            ),
        ] {
            if !(1..=MOST_SECONDS).contains(&seconds) {
                return refuse(key, format!("is {seconds}; expected 1 to {MOST_SECONDS}"));
            }
        }
        self.project()
            .check()
            .map_err(|problem| PipelineError::setting("config", problem.to_string()))
    }
}
