//! Answers of models to the prompts of a project, sampled as `hone sample` does and kept beside the store.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hone_compute::Engine;
use hone_data::annotations::ItemFile;
use hone_data::{Message, identity_of};
use hone_generate::{Generator, GeneratorOptions, samples_of};
use hone_run::{BulkFile, Shutdown, for_each_line};
use hone_text::Message as Turn;
use serde::Deserialize;
use serde_json::Map;

use crate::bulk::Plan;
use crate::commands::sample::{Asked, Origin, SamplingArguments, prepare, sampled};
use crate::commands::serve::{Named, named};
use crate::failure::Failure;
use crate::input::{Prompt, Row};
use crate::model::{EngineArguments, LoadedModel, ModelArguments};
use crate::output::note;
use crate::progress::Progress;

/// Prompts answered between two looks at whether to stop; what is answered does not depend on it.
const BLOCK: usize = 64;

/// What is to be sampled.
pub(super) struct Sampling {
    /// The models, `DIR` or `NAME=DIR`.
    pub models: Vec<String>,
    /// How it is computed.
    pub engine: EngineArguments,
    /// How tokens are drawn.
    pub how: SamplingArguments,
    /// Answers of each model to a prompt.
    pub n: u32,
    /// Where answers are kept.
    pub folder: PathBuf,
}

/// The answers of one model.
pub(super) struct Answers {
    /// Its file, as `hone sample --json` writes it. It may have answers to other prompts, too, of earlier calls.
    pub file: ItemFile,
    /// Digest of the model's weights.
    pub weights: String,
}

/// Answers of each model to each prompt, of which there is at least one. Those that an earlier call has sampled in the same way are taken as
/// they are; so a call that was interrupted, or that has more prompts, samples only what is missing.
///
/// # Errors
/// Two models of one name; a model that cannot be loaded; a prompt that it cannot answer; a request to stop, after which the same call goes
/// on.
pub(super) fn answers(sampling: &Sampling, prompts: &[Vec<Message>], shutdown: &Shutdown) -> Result<Vec<Answers>> {
    let models: Vec<Named> = sampling.models.iter().map(|text| named(text)).collect();
    for (i, model) in models.iter().enumerate() {
        if models[..i].iter().any(|earlier| earlier.name == model.name) {
            let message = format!("--models has two models called `{}`", model.name);
            return Err(Failure::usage(message).hint("name them apart with NAME=DIR").into());
        }
    }
    let engine = sampling.engine.engine()?;
    std::fs::create_dir_all(&sampling.folder).with_context(|| sampling.folder.display().to_string())?;
    models
        .iter()
        .map(|model| of_model(sampling, (&engine, model), prompts, shutdown))
        .collect()
}

fn of_model(
    sampling: &Sampling,
    (engine, model): (&Engine, &Named),
    prompts: &[Vec<Message>],
    shutdown: &Shutdown,
) -> Result<Answers> {
    let arguments = ModelArguments {
        model: model.place.clone(),
        adapter: None,
    };
    let origin = Origin::of(&arguments, &sampling.how)?.called(&model.name);
    let mut plan = Plan::new("annotate", u64::MAX, u64::from(sampling.n));
    plan.model(&arguments, engine)?;
    plan.settings.extend(sampling.how.settings());
    plan.set("--k", sampling.n);
    plan.set("weights", origin.weights());
    let path = sampling.folder.join(file_name(&model.name, &plan));
    let mut file = BulkFile::open(&path, plan.of_file())?;
    let known = answered(&path)?;
    let missing = |turns: &[Message]| !known.contains(&identity_of(turns));
    let total = prompts.iter().filter(|turns| missing(turns)).count();
    if total > 0 {
        note(&format!(
            "{}: {total} of {} prompts are to be answered",
            model.name,
            prompts.len()
        ));
        let done = fill(
            sampling,
            (engine, &arguments, &origin),
            (prompts, &known),
            (&mut file, shutdown),
        )?;
        file.sync()?;
        if done < total {
            let text = format!(
                "stopped after {done} of {total} prompts of {}; the same command goes on from there",
                model.name
            );
            return Err(Failure::resumable(text).into());
        }
    }
    Ok(Answers {
        file: ItemFile {
            path,
            model: Some(model.name.clone()),
        },
        weights: origin.weights().into(),
    })
}

/// The model's name and a digest of what its answers depend on.
fn file_name(name: &str, plan: &Plan) -> String {
    let plain: String = name
        .chars()
        .map(|c| match c {
            c if c.is_alphanumeric() || "-_.".contains(c) => c,
            _ => '-',
        })
        .take(80)
        .collect();
    let table = plan
        .settings
        .iter()
        .map(|(key, value)| (key.clone(), value.clone().into()));
    let digest = hone_run::config::digest(&table.collect());
    format!("{plain}-{}.jsonl", &digest[..16])
}

/// The prompts of a file of answers.
fn answered(path: &Path) -> Result<HashSet<String>> {
    #[derive(Deserialize)]
    struct Line {
        prompt: Prompt,
    }
    let mut known = HashSet::new();
    for_each_line(path, &mut |number, line| {
        let line: Line = serde_json::from_str(line).map_err(|error| {
            Failure::failed(format!("{}: line {number}: {error}", path.display()))
                .hint("it is no row that this command wrote; delete the file to sample its answers anew")
        })?;
        known.insert(identity_of(&turns_of(line.prompt)));
        Ok::<(), anyhow::Error>(())
    })?;
    Ok(known)
}

/// A text is what a user says.
fn turns_of(prompt: Prompt) -> Vec<Message> {
    match prompt {
        Prompt::Text(text) => vec![Message::user(text)],
        Prompt::Messages(turns) => turns.into_iter().map(|m| Message::new(m.role, m.content)).collect(),
    }
}

/// Samples what is missing, and gives the number of prompts that were answered: fewer than were missing where it was asked to stop.
fn fill(
    sampling: &Sampling,
    (engine, model, origin): (&Engine, &ModelArguments, &Origin),
    (prompts, known): (&[Vec<Message>], &HashSet<String>),
    (file, shutdown): (&mut BulkFile, &Shutdown),
) -> Result<usize> {
    let loaded = model.load(engine)?;
    let rows = prompts.iter().map(|turns| row(&loaded, turns)).collect();
    // All are prepared, so that a prompt's random numbers are those of its place whatever is there already
    let prepared = prepare(&loaded, rows, &sampling.how)?;
    let missing: Vec<_> = prepared
        .into_iter()
        .filter(|of| !known.contains(&identity_of(&turns_of(of.prompt.clone()))))
        .collect();
    let n = sampling.n as usize;
    let mut progress = Progress::new("answers", (missing.len() * n) as u64);
    let generator = Generator::new(engine, &loaded.model, GeneratorOptions::default());
    let (mut ended, mut tokens, mut lines) = (0, 0, 0);
    for block in missing.chunks(BLOCK) {
        let requests: Vec<_> = block.iter().flat_map(|of| samples_of(&of.request, n)).collect();
        let all = generator.run_in_order(
            &requests,
            &mut |event| {
                tokens += 1;
                ended += u64::from(event.finish.is_some());
                progress.set(ended, tokens);
                !shutdown.requested()
            },
            &mut |i, completion| {
                let row = sampled(&loaded, &block[i / n], &completion, (origin, &sampling.how.stop))?;
                file.append(&serde_json::to_string(&row)?)?;
                lines += 1;
                Ok::<(), anyhow::Error>(())
            },
        )?;
        if !all {
            break;
        }
    }
    Ok(lines / n)
}

/// A conversation for the chat template. A model without one goes on with a single message as it stands.
fn row(loaded: &LoadedModel, turns: &[Message]) -> Row<Asked> {
    let prompt = match turns {
        [only] if loaded.tokenizer.chat_template().is_none() => Prompt::Text(only.content.clone()),
        _ => Prompt::Messages(turns.iter().map(|m| Turn::new(&m.role, &m.content)).collect()),
    };
    let asked: String = turns
        .last()
        .map_or("", |m| m.content.as_str())
        .chars()
        .take(60)
        .collect();
    Row {
        value: Asked {
            prompt,
            columns: Map::new(),
        },
        place: format!("the prompt {asked:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_belongs_to_what_its_answers_depend_on() {
        let plan = |temperature: &str| {
            let mut plan = Plan::new("annotate", u64::MAX, 2);
            plan.set("--temperature", temperature);
            plan
        };
        let (one, other) = (file_name("org/a b", &plan("1")), file_name("org/a b", &plan("0.5")));
        assert!(one.starts_with("org-a-b-") && one.ends_with(".jsonl"), "{one}");
        assert_eq!(one, file_name("org/a b", &plan("1")));
        assert_ne!(one, other);
    }

    #[test]
    fn a_text_and_a_users_only_message_are_one_prompt() {
        let text = identity_of(&turns_of(Prompt::Text("Why?".into())));
        let turns = identity_of(&turns_of(Prompt::Messages(vec![Turn::user("Why?")])));
        assert_eq!(text, turns);
        assert_ne!(text, identity_of(&[Message::new("system", "Why?")]));
        // Where a turn ends matters
        let split = |a: &str, b: &str| identity_of(&[Message::user(a), Message::user(b)]);
        assert_ne!(split("a", "bc"), split("ab", "c"));
    }
}
