//! What answers are worth.

use std::collections::BTreeMap;
use std::path::Path;

use hone_compute::Engine;
use hone_data::PromptInput;
use hone_generate::sample_to_judge;
use hone_run::Shutdown;
use hone_task::{Place, PromptRow, RewardEntry, RewardRule, RewardSetup, Rewards};
use hone_train::Scorer;
use hone_world::Labeler;

use super::config::directory;
use super::player::{Answer, Player};
use super::tasks::Tasks;
use crate::error::{PipelineError, Result};
use crate::quickstart::PreferencesSetting;
use crate::rows::unreadable;

/// Answers that a reward model scores between two looks at whether to stop.
const TOGETHER: usize = 256;

/// What says what answers are worth.
pub(super) enum Scale {
    /// What the actions earned.
    Environment,
    /// A reward model.
    Model(Box<Scorer>),
    /// A weighted sum, with the reward models in it.
    Rewards(Box<Rewards>, Vec<Scorer>),
    /// The small world's labeler, without its noise.
    Labeler(Labeler),
}

/// What a scale is made of, by a recipe.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub rewards: &'a [RewardEntry],
    pub reward: Option<&'a str>,
    pub labeler: Option<PreferencesSetting>,
}

/// Answers to be scored.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// Whose answers they are.
    pub player: &'a Player,
    pub tasks: &'a Tasks,
    pub answers: &'a [Answer],
    /// Tells calls of one folder apart, for programs that are asked again after a stop.
    pub update: u64,
    pub shutdown: &'a Shutdown,
}

impl Plan<'_> {
    /// Whether it is the labeler, or rules alone.
    pub fn costs_nothing(&self) -> bool {
        let rule = |entry: &RewardEntry| !matches!(entry.rule, RewardRule::Program { .. } | RewardRule::Model { .. });
        self.labeler.is_some() || (!self.rewards.is_empty() && self.rewards.iter().all(rule))
    }

    /// Refuses tasks that rules or the labeler cannot read, whatever the answer.
    pub fn check(&self, tasks: &Tasks, key: &str) -> Result<()> {
        let mut found = self
            .unreadable(tasks, 1)
            .map_err(|e| PipelineError::setting(key, e.to_string()))?;
        match found.pop() {
            Some((place, reason)) => {
                let at = tasks.origin(place);
                Err(PipelineError::setting(key, format!("{at}: {reason}")))
            }
            None => Ok(()),
        }
    }

    /// The first `most` tasks that rules or the labeler cannot read, whatever the answer, by their places; and why.
    pub fn unreadable(&self, tasks: &Tasks, most: usize) -> Result<Vec<(usize, String)>> {
        if self.labeler.is_some() {
            let unread = |(place, task): (usize, &super::tasks::Task)| {
                let problem = task.question().err()?;
                let reason = format!(
                    "the labeler cannot read it: {problem}; expected `answer`, `kind` and `group`, as in the prompts of \
                     hone world"
                );
                Some((place, reason))
            };
            return Ok(tasks.tasks.iter().enumerate().filter_map(unread).take(most).collect());
        }
        let rows = tasks.tasks.iter().zip(0..).map(|(task, row)| {
            let prompt = task.shown.clone();
            let columns = task.columns.clone();
            (row, PromptRow { prompt, columns })
        });
        let found = unreadable(self.rewards, &mut { rows }, most)?;
        Ok(found.into_iter().map(|(row, reason)| (row as usize, reason)).collect())
    }
}

impl Scale {
    /// Opens what a plan names; one that names nothing takes what is earned. Programs have their journals in `folder`.
    pub fn open(engine: &Engine, plan: Plan<'_>, (base, folder, run): (&Path, &Path, &str)) -> Result<Self> {
        let scorer = |name: &str| -> Result<Scorer> { Ok(Scorer::load(engine, &directory(base, "reward", name)?)?) };
        if let Some(name) = plan.reward {
            return Ok(Self::Model(Box::new(scorer(name)?)));
        }
        if let Some(setting) = plan.labeler {
            return Ok(Self::Labeler(Labeler::new(setting.preferences(), 0)));
        }
        if plan.rewards.is_empty() {
            return Ok(Self::Environment);
        }
        let setup = RewardSetup {
            run,
            folder,
            offsets: &BTreeMap::new(),
        };
        let rewards = Rewards::open(plan.rewards, setup)?;
        let scorers: Vec<Scorer> = rewards.models().map(scorer).collect::<Result<_>>()?;
        Ok(Self::Rewards(Box::new(rewards), scorers))
    }

    /// What each answer is worth; none if it is asked to stop on the way. What programs have said is in their journals then.
    pub fn score(&mut self, engine: &Engine, asked: Asked<'_>) -> Result<Option<Vec<f64>>> {
        let Asked { tasks, answers, .. } = asked;
        match self {
            Self::Environment => Ok(Some(
                answers.iter().map(|answer| answer.earned.unwrap_or(0.0)).collect(),
            )),
            Self::Model(scorer) => scores_of(engine, scorer, asked),
            Self::Labeler(labeler) => {
                let utility = |answer: &Answer| {
                    let question = tasks.tasks[answer.task].question();
                    let question = question.map_err(|e| PipelineError::setting("judge.labeler", e))?;
                    Ok(labeler.utility(&question, &answer.response))
                };
                answers.iter().map(utility).collect::<Result<_>>().map(Some)
            }
            Self::Rewards(rewards, scorers) => {
                let mut models = Vec::new();
                for scorer in scorers.iter() {
                    let Some(scores) = scores_of(engine, scorer, asked)? else {
                        return Ok(None);
                    };
                    models.push(scores);
                }
                summed(rewards, &models, asked)
            }
        }
    }
}

/// One after another: a program may be slow, and whoever asks to stop waits for no more than one answer.
fn summed(rewards: &mut Rewards, models: &[Vec<f64>], asked: Asked<'_>) -> Result<Option<Vec<f64>>> {
    let mut row: Option<(usize, PromptRow)> = None;
    let mut totals = Vec::with_capacity(asked.answers.len());
    for (i, answer) in asked.answers.iter().enumerate() {
        if asked.shutdown.requested() {
            rewards.sync()?;
            return Ok(None);
        }
        let (_, row) = match row.take() {
            Some(known) if known.0 == answer.task => row.insert(known),
            _ => row.insert((answer.task, asked.player.row(&asked.tasks.tasks[answer.task])?)),
        };
        let sample = sample_to_judge(row, (&answer.response, answer.judged_tokens));
        let place = Place {
            update: asked.update,
            index: i as u64,
        };
        let models: Vec<Vec<f64>> = models.iter().map(|scores| vec![scores[i]]).collect();
        totals.push(rewards.score(place, &[sample], &models)?.total[0]);
    }
    rewards.sync()?;
    Ok(Some(totals))
}

fn scores_of(engine: &Engine, scorer: &Scorer, asked: Asked<'_>) -> Result<Option<Vec<f64>>> {
    let prompts: Vec<PromptInput> = asked.tasks.tasks.iter().map(super::tasks::Task::input).collect();
    let mut scores = Vec::with_capacity(asked.answers.len());
    for together in asked.answers.chunks(TOGETHER) {
        if asked.shutdown.requested() {
            return Ok(None);
        }
        let pairs: Vec<(&PromptInput, &str)> = together
            .iter()
            .map(|answer| (&prompts[answer.task], answer.response.as_str()))
            .collect();
        scores.extend(scorer.score(engine, &pairs)?.into_iter().map(f64::from));
    }
    Ok(Some(scores))
}
