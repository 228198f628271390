//! The stage `annotate`: a model's answers, or prompts to be answered, go into a store of annotations, and people or simulated
//! annotators work through its queue. The store is what the stages `reward`, `preference` and `sft` read.
//!
//! Sources: Ouyang et al. (InstructGPT), 2022, section 3.5, and Bai et al., "Training a helpful and harmless assistant", 2022, section
//! 4.5 (answers of the newest policy are labelled, round after round).
//!
//! Where it differs:
//! 1. Simulated annotators take the same way as people, claim and submit on one store, so the queue is what is tried.
//! 2. The time of simulated annotators is assumed, and the record says so; that of people is measured.

mod config;
mod cost;
mod people;
mod simulated;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use hone_data::annotations::{self, Input, NewItem, Project, Response, Settings, Store, TaskKind, same_text};
use hone_data::{Message, Prompt};
use hone_math::Key;
use hone_run::Resolved;
use hone_world::Question;
use serde_json::{Value, json};

use super::Kitchen;
use super::ongoing::Ongoing;
use super::sampled::{Sampling, engine, identity, prompts, sample, weights_of};
use crate::error::{PipelineError, Result};
use crate::rows::labeler_question;

pub use config::{AnnotateConfig, Annotators, SimulatedSection, Writing};
pub(super) use cost::Labels;

/// What the stage came to.
const RECORD: &str = "annotate.run.json";
/// The store.
const STORE: &str = "annotations.db";
/// The model's answers.
const ANSWERS: &str = "answers.jsonl";

/// Runs the stage called `name` in its folder, or goes on with it; gives its summary.
///
/// # Errors
/// [`PipelineError::Stopped`] when it was asked to stop, while it samples, labels or waits for people: the same call goes on.
pub(super) fn run(kitchen: &Kitchen, name: &str, resolved: &Resolved<AnnotateConfig>, dir: &Path) -> Result<Value> {
    let ongoing = Ongoing::open(dir, RECORD, resolved)?;
    if let Some(before) = ongoing.finished()? {
        return Ok(before);
    }
    let c = &resolved.config;
    let asked = chosen(kitchen, c)?;
    let questions = match c.annotators {
        Annotators::People => HashMap::new(),
        Annotators::Simulated => questions(c, &asked)?,
    };
    let items = items(kitchen, c, (name, dir), &asked)?;
    let left_out = asked.len() - items.len();
    if items.is_empty() {
        let reason = "all answers to every prompt are alike; there is nothing to compare: give more prompts or answers, \
                      or a longer max_new_tokens";
        return Err(PipelineError::setting("answers", reason));
    }
    let path = dir.join(STORE);
    let (store, project) = filled(c, name, &path, items)?;
    match c.annotators {
        Annotators::People => {
            // The pages write: here the store is only looked at
            drop(store);
            people::wait(kitchen, name, &path)?;
        }
        Annotators::Simulated => simulated::annotate(kitchen, c, (&store, &project), &questions)?,
    }
    let store = Store::open_to_read(&path)?;
    let project = store.project(name)?;
    let progress = store.progress(&project)?;
    let labels = Labels::of(c.task, &store.records(&project)?, c.annotators == Annotators::Simulated);
    kitchen.say(format!("{name}: {}", labels.sentence()));
    let summary = json!({
        "prompts": asked.len(),
        "items": progress.items,
        "left_out": left_out,
        "overlap": project.settings.overlap,
        "annotators": progress.annotators.len(),
        "cost": labels,
        "store": path,
    });
    ongoing.finish(&summary)
}

/// What earlier annotating cost, from the folder of its stage.
///
/// # Errors
/// A folder in which no stage `annotate` was finished.
pub(super) fn cost_of(kitchen: &Kitchen, dir: &Path) -> Result<Labels> {
    let path = kitchen.base.join(dir).join(RECORD);
    if !path.is_file() {
        let reason = "is not there; expected the folder of a stage `annotate` that is done";
        return Err(PipelineError::file(&path, reason));
    }
    let record = crate::files::read_json(&path)?;
    serde_json::from_value(record["cost"].clone())
        .map_err(|e| PipelineError::file(&path, format!("`cost` is not what was written there: {e}")))
}

/// The prompts of the stage: `count` of them behind the first `skip`.
fn chosen(kitchen: &Kitchen, c: &AnnotateConfig) -> Result<Vec<Prompt>> {
    let all = prompts(kitchen, &c.prompts)?;
    let (skip, count) = (c.skip, affordable(kitchen, c)?);
    if all.len() < skip.saturating_add(count) {
        let reason = format!(
            "is {count} behind the {skip} that `skip` passes over, and there are {} different prompts",
            all.len()
        );
        return Err(PipelineError::setting("count", reason));
    }
    Ok(all.into_iter().skip(skip).take(count).collect())
}

/// `count`, or with `time_of` as many tasks as the labeling time of those stages pays for.
fn affordable(kitchen: &Kitchen, c: &AnnotateConfig) -> Result<usize> {
    if c.time_of.is_empty() {
        return Ok(c.count);
    }
    let mut seconds = 0.0;
    for dir in &c.time_of {
        let spent = cost_of(kitchen, dir)?.seconds;
        seconds += spent.ok_or_else(|| {
            let reason = format!(
                "{}: no time was measured there; leave it out and give count alone",
                dir.display()
            );
            PipelineError::setting("time_of", reason)
        })?;
    }
    let pays = (seconds / (c.simulated.seconds_of(c.task) * f64::from(c.overlap))).floor() as usize;
    if pays == 0 || pays > c.count {
        let reason = format!(
            "is {}; the time of `time_of` pays for {pays} tasks; expected 1 <= that <= count",
            c.count
        );
        return Err(PipelineError::setting("count", reason));
    }
    Ok(pays)
}

/// What the simulated annotators know of each prompt, by its identity.
fn questions(c: &AnnotateConfig, asked: &[Prompt]) -> Result<HashMap<String, Question>> {
    let mut questions = HashMap::new();
    for (i, prompt) in asked.iter().enumerate() {
        let question = labeler_question(&prompt.input, &prompt.extra).map_err(|e| PipelineError::Unscorable {
            row: (c.skip + i) as u64 + 1,
            reason: format!(
                "simulated annotators cannot read it: {e}; expected `answer`, `kind` and `group`, as in the prompts of \
                 hone world; set annotators = \"people\" for prompts of your own"
            ),
        })?;
        questions.insert(identity(prompt), question);
    }
    Ok(questions)
}

/// The tasks, without those whose answers are all alike.
fn items(kitchen: &Kitchen, c: &AnnotateConfig, (name, dir): (&str, &Path), asked: &[Prompt]) -> Result<Vec<NewItem>> {
    let Some(model) = &c.model else {
        let bare = |prompt: &Prompt| item(c.task, prompt.input.to_messages(), Vec::new());
        return Ok(asked.iter().map(bare).collect());
    };
    let engine = engine(kitchen, dir)?;
    let model: PathBuf = kitchen.base.join(model);
    let sampling = Sampling {
        stage: name,
        model: &model,
        prompts: asked,
        n: c.answers,
        max_new_tokens: c.max_new_tokens,
        key: Key::new(c.seed, "recipe/answers to annotate", 0),
        file: dir.join(ANSWERS),
    };
    let rows = sample(kitchen, &engine, &sampling)?;
    let (told, weights) = (model.display().to_string(), weights_of(&sampling.file)?);
    let sampled = json!({ "temperature": 1.0, "max_new_tokens": c.max_new_tokens, "seed": c.seed });
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        let mut responses: Vec<Response> = Vec::new();
        for text in row.responses {
            if !responses.iter().any(|known| same_text(&known.text, &text)) {
                responses.push(Response {
                    model: Some(told.clone()),
                    sampling: Some(sampled.clone()),
                    weights: weights.clone(),
                    ..Response::new(text)
                });
            }
        }
        if responses.len() > 1 {
            items.push(item(c.task, row.prompt, responses));
        }
    }
    Ok(items)
}

fn item(kind: TaskKind, prompt: Vec<Message>, responses: Vec<Response>) -> NewItem {
    let input = Input { prompt, responses };
    NewItem {
        kind,
        input,
        gold: None,
    }
}

/// The store with its one project and all items. A project that is there stays as it is: its owner may have set it otherwise.
fn filled(c: &AnnotateConfig, name: &str, path: &Path, items: Vec<NewItem>) -> Result<(Store, Project)> {
    let now = match c.annotators {
        Annotators::People => annotations::now(),
        Annotators::Simulated => 0,
    };
    let store = Store::open(path)?;
    let project = match store.projects()?.iter().any(|known| known == name) {
        true => store.project(name)?,
        false => store.put_project(name, &c.project(), now)?,
    };
    store.add_items(&project, items)?;
    Ok((store, project))
}

impl AnnotateConfig {
    /// How the store's project is run.
    fn project(&self) -> Settings {
        let seconds = self.simulated.seconds_of(self.task);
        let shortest = Settings::default().lease_seconds;
        Settings {
            overlap: self.overlap,
            // Longer than a simulated task takes
            lease_seconds: shortest.max(seconds as u32 + 1),
            seed: self.seed,
            gold_share: 0.0,
            guideline: self.guideline.clone(),
            ..Settings::default()
        }
    }
}

#[cfg(test)]
mod tests;
