//! `hone score`: what a reward model thinks of answers.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use hone_generate::scores_of;
use hone_text::{AddSpecial, Chat, Message, TrainedTurns};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::input::{Prompt, read_rows};
use crate::model::{EngineArguments, LoadedModel, ModelArguments};
use crate::output::Output;
use crate::progress::Progress;

/// Sequences computed between two writes; results do not depend on it.
const BLOCK: usize = 64;

/// Scores of answers, from a reward model
///
/// A conversation goes through the chat template and is scored at the end of its last reply. A string prompt and its
/// completion are taken as they stand, tokenized apart, and scored at the last token.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    engine: EngineArguments,
    /// JSON lines of {"prompt","completion"} or {"messages"}; - is stdin
    #[arg(long, value_name = "FILE.jsonl")]
    input: PathBuf,
    /// One JSON object a line: {"score"}
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Input {
    prompt: Option<Prompt>,
    completion: Option<String>,
    messages: Option<Vec<Message>>,
}

#[derive(Serialize)]
struct Score {
    score: f32,
}

const EXPECTED: &str = r#"{"prompt","completion"} or {"messages"}"#;

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let rows = read_rows(&arguments.input, EXPECTED)?;
    let engine = arguments.engine.engine()?;
    let loaded = arguments.model.load(&engine)?;
    if !loaded.model.has_head() {
        let text = format!(
            "{}: not a reward model: its config.json names no ...ForSequenceClassification",
            loaded.directory.display()
        );
        return Err(Failure::usage(text)
            .hint("train one with hone reward")
            .into());
    }
    let mut chat = None;
    let mut sequences = Vec::with_capacity(rows.len());
    for row in rows {
        let ids = encode(&loaded, &mut chat, row.value, &row.place)?;
        loaded.check_length(&row.place, ids.len())?;
        sequences.push(ids);
    }
    let mut progress = Progress::new("answers", sequences.len() as u64);
    let (mut output, mut done, mut tokens) = (Output::new(), 0, 0);
    for block in sequences.chunks(BLOCK) {
        let slices: Vec<&[u32]> = block.iter().map(Vec::as_slice).collect();
        for scored in scores_of(&engine, &loaded.model, &slices) {
            if arguments.json {
                output.json(&Score { score: scored.0 })?;
            } else {
                output.line(&format!("{:.6}", scored.0))?;
            }
        }
        done += block.len() as u64;
        tokens += block.iter().map(|ids| ids.len() as u64).sum::<u64>();
        progress.set(done, tokens);
    }
    drop(progress);
    Ok(output.finish()?)
}

fn encode(
    loaded: &LoadedModel,
    chat: &mut Option<Chat>,
    input: Input,
    place: &str,
) -> Result<Vec<u32>> {
    let at = |error: hone_text::TextError| Failure::failed(format!("{place}: {error}"));
    let messages = match input {
        Input {
            prompt: Some(Prompt::Text(prompt)),
            completion: Some(completion),
            messages: None,
        } => {
            let mut ids = loaded
                .tokenizer
                .encode(&prompt, AddSpecial::Yes)
                .map_err(at)?;
            ids.extend(
                loaded
                    .tokenizer
                    .encode(&completion, AddSpecial::No)
                    .map_err(at)?,
            );
            if ids.is_empty() {
                return Err(
                    Failure::failed(format!("{place}: no token; expected at least one")).into(),
                );
            }
            return Ok(ids);
        }
        Input {
            prompt: Some(Prompt::Messages(mut messages)),
            completion: Some(completion),
            messages: None,
        } => {
            messages.push(Message::assistant(completion));
            messages
        }
        Input {
            prompt: None,
            completion: None,
            messages: Some(messages),
        } => messages,
        _ => return Err(Failure::failed(format!("{place}: other columns than {EXPECTED}")).into()),
    };
    let chat = match chat {
        Some(chat) => chat,
        None => chat.insert(loaded.chat()?),
    };
    let mut tokens = chat.encode(&messages, TrainedTurns::Last).map_err(at)?;
    if let Some(reply) = tokens.spans.last() {
        tokens.ids.truncate(reply.end);
    }
    Ok(tokens.ids)
}
