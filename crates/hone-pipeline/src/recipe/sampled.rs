//! Answers of a model to a list of prompts, in a file that can be gone on with.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use hone_compute::{Engine, EngineOptions};
use hone_data::{Message, Prompt, Source, identity_of, load_prompts};
use hone_math::Key;
use hone_run::Event;
use hone_text::Message as Turn;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Kitchen;
use crate::error::{PipelineError, Result};
use crate::files::{read_json, read_lines, record_instruction_set, write_json, write_lines};
use crate::quickstart::answer::Answerer;

/// Prompts that are answered between two looks at whether to stop. Random numbers follow from it: it stays as it is.
const BLOCK: usize = 32;

/// What is sampled.
pub(super) struct Sampling<'a> {
    /// The stage, for whoever watches.
    pub stage: &'a str,
    /// The model's directory.
    pub model: &'a Path,
    /// What is asked.
    pub prompts: &'a [Prompt],
    /// Answers to each prompt.
    pub n: usize,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Determines the random numbers.
    pub key: Key,
    /// Where the answers are kept.
    pub file: PathBuf,
}

/// A prompt with its answers: a line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SampledRow {
    pub prompt: Vec<Message>,
    pub responses: Vec<String>,
}

/// The prompts of several sources one after another, each once.
///
/// # Errors
/// A source that cannot be read.
pub(super) fn prompts(kitchen: &Kitchen, sources: &[Source]) -> Result<Vec<Prompt>> {
    let (mut prompts, mut known) = (Vec::new(), HashSet::new());
    for source in sources {
        let source = source.clone().resolved_in(&kitchen.base);
        let loaded = load_prompts(&source)?;
        kitchen.tell(&source, &loaded.report);
        let fresh = loaded.items.into_iter().filter(|prompt| known.insert(identity(prompt)));
        prompts.extend(fresh);
    }
    Ok(prompts)
}

/// What tells a prompt from others: its turns.
pub(super) fn identity(prompt: &Prompt) -> String {
    identity_of(&prompt.input.to_messages())
}

/// The engine of a stage, whose answers are those of one instruction set.
///
/// # Errors
/// A folder whose answers come from another one, unless that is allowed.
pub(super) fn engine(kitchen: &Kitchen, dir: &Path) -> Result<Engine> {
    let engine = Engine::new(&EngineOptions {
        threads: kitchen.threads,
        ..EngineOptions::default()
    })?;
    record_instruction_set(dir, engine.isa().name(), kitchen.allow_isa_change)?;
    Ok(engine)
}

/// The file beside one of answers that says whose they are.
fn of_model(file: &Path) -> PathBuf {
    file.with_extension("model.json")
}

/// The digest of the model whose answers a file has, as it was when the file was begun.
///
/// # Errors
/// A note that cannot be read.
pub(super) fn weights_of(file: &Path) -> Result<Option<String>> {
    let path = of_model(file);
    match path.exists() {
        true => Ok(read_json(&path)?["weights"].as_str().map(String::from)),
        false => Ok(None),
    }
}

/// Notes whose answers a file has; one that has some goes on with the same model. A model that is not there any more is not compared.
///
/// # Errors
/// A file that was begun with another model.
fn record_model(sampling: &Sampling) -> Result<()> {
    let Some(weights) = hone_run::digest_of(sampling.model)? else {
        return Ok(());
    };
    let before = match sampling.file.exists() {
        true => weights_of(&sampling.file)?,
        false => None,
    };
    match before {
        Some(before) if before == weights => Ok(()),
        Some(before) => {
            let reason = format!(
                "was begun with another model: its answers are of weights {before}, and {} holds {weights}; put that model back, \
                 or give the stage another name",
                sampling.model.display()
            );
            Err(PipelineError::file(&sampling.file, reason))
        }
        None => write_json(&of_model(&sampling.file), &json!({ "weights": weights })),
    }
}

/// The answers of the file, and those that it lacks.
///
/// # Errors
/// [`PipelineError::Stopped`] when it was asked to stop; a file with answers to other prompts, or of another model; whatever stops sampling.
pub(super) fn sample(kitchen: &Kitchen, engine: &Engine, sampling: &Sampling) -> Result<Vec<SampledRow>> {
    record_model(sampling)?;
    let mut rows: Vec<SampledRow> = match sampling.file.exists() {
        true => read_lines(&sampling.file)?,
        false => Vec::new(),
    };
    let same = |(row, prompt): (&SampledRow, &Prompt)| {
        row.responses.len() == sampling.n && row.prompt == prompt.input.to_messages()
    };
    if rows.len() > sampling.prompts.len() || !rows.iter().zip(sampling.prompts).all(same) {
        let reason = "has answers to other prompts than there are now; undo the change, or give the stage another name";
        return Err(PipelineError::file(&sampling.file, reason));
    }
    if rows.len() == sampling.prompts.len() {
        return Ok(rows);
    }
    // Blocks are written whole
    rows.truncate(rows.len() / BLOCK * BLOCK);
    let total = sampling.prompts.len() as u64;
    kitchen.observer.event(&Event::Started {
        stage: format!("{}: answers", sampling.stage),
        step: rows.len() as u64,
        total,
    });
    let model = Answerer::open(engine, sampling.model)?;
    for (number, block) in sampling.prompts.chunks(BLOCK).enumerate().skip(rows.len() / BLOCK) {
        if kitchen.shutdown.requested() {
            let step = rows.len() as u64;
            kitchen.observer.event(&Event::Finished { step, stopped: true });
            let stage = sampling.stage.to_owned();
            return Err(PipelineError::Stopped { stage, step });
        }
        let turns: Vec<Vec<Turn>> = block.iter().map(turns).collect();
        let limits = (sampling.n, sampling.max_new_tokens);
        let answers = model.chat_turns(engine, &turns, limits, sampling.key.child(number as u64))?;
        let tokens = answers.iter().map(|a| (a.ids.len() - a.prompt_length) as u64).sum();
        for (prompt, answers) in block.iter().zip(answers.chunks(sampling.n)) {
            rows.push(SampledRow {
                prompt: prompt.input.to_messages(),
                responses: answers.iter().map(|answer| answer.text.clone()).collect(),
            });
        }
        write_lines(&sampling.file, &rows)?;
        kitchen.observer.event(&Event::Step {
            step: rows.len() as u64,
            total,
            tokens,
            headline: Vec::new(),
        });
    }
    kitchen.observer.event(&Event::Finished {
        step: total,
        stopped: false,
    });
    Ok(rows)
}

fn turns(prompt: &Prompt) -> Vec<Turn> {
    let messages = prompt.input.to_messages().into_iter();
    messages.map(|m| Turn::new(m.role, m.content)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hone_run::{Shutdown, Silent};

    use super::*;

    type Test = std::result::Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn a_file_of_answers_belongs_to_one_model() -> Test {
        let dir = tempfile::tempdir()?;
        let model = dir.path().join("model");
        std::fs::create_dir(&model)?;
        std::fs::write(model.join("weights"), "first")?;
        let kitchen = Kitchen {
            base: dir.path().into(),
            threads: Some(1),
            allow_isa_change: false,
            observer: Arc::new(Silent),
            shutdown: Shutdown::default(),
        };
        std::fs::write(dir.path().join("prompts.jsonl"), "{\"prompt\": \"Why?\"}\n")?;
        let asked = prompts(&kitchen, &[Source::new("prompts.jsonl")])?;
        let sampling = Sampling {
            stage: "labels",
            model: &model,
            prompts: &asked,
            n: 2,
            max_new_tokens: 1,
            key: Key::new(1, "test", 0),
            file: dir.path().join("answers.jsonl"),
        };
        let rows = vec![SampledRow {
            prompt: asked[0].input.to_messages(),
            responses: vec!["So.".into(), "Thus.".into()],
        }];
        let engine = engine(&kitchen, dir.path())?;
        record_model(&sampling)?;
        write_lines(&sampling.file, &rows)?;
        assert_eq!(sample(&kitchen, &engine, &sampling)?, rows);
        let begun = hone_run::digest_of(&model)?;
        assert!(begun.is_some());
        std::fs::write(model.join("weights"), "second")?;
        match sample(&kitchen, &engine, &sampling) {
            Ok(_) => return Err("answers of another model were taken".into()),
            Err(error) => assert!(error.to_string().contains("was begun with another model"), "{error}"),
        }
        assert_eq!(weights_of(&sampling.file)?, begun);
        // A file that is not there yet is begun with the model that is
        std::fs::remove_file(&sampling.file)?;
        record_model(&sampling)?;
        assert_eq!(weights_of(&sampling.file)?, hone_run::digest_of(&model)?);
        // What is complete needs the model no more
        write_lines(&sampling.file, &rows)?;
        std::fs::remove_dir_all(&model)?;
        assert_eq!(sample(&kitchen, &engine, &sampling)?, rows);
        Ok(())
    }
}
