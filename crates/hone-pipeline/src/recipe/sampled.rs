//! Answers of a model to a list of prompts, in a file that can be gone on with.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use hone_compute::{Engine, EngineOptions};
use hone_data::{Message, Prompt, Source, load_prompts};
use hone_math::Key;
use hone_run::Event;
use hone_text::Message as Turn;
use serde::{Deserialize, Serialize};

use super::Kitchen;
use crate::error::{PipelineError, Result};
use crate::files::{read_lines, record_instruction_set, write_lines};
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

/// As [`identity`], of the turns.
pub(super) fn identity_of(turns: &[Message]) -> String {
    turns.iter().map(|m| format!("{}\0{}\0", m.role, m.content)).collect()
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

/// The answers of the file, and those that it lacks.
///
/// # Errors
/// [`PipelineError::Stopped`] when it was asked to stop; a file with answers to other prompts; whatever stops sampling.
pub(super) fn sample(kitchen: &Kitchen, engine: &Engine, sampling: &Sampling) -> Result<Vec<SampledRow>> {
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
