//! `hone score`: what a reward model thinks of answers.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use hone_data::PromptInput;
use hone_text::Message;
use hone_train::Scorer;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::input::{Prompt, read_rows};
use crate::model::{EngineArguments, ModelArguments};
use crate::output::Output;
use crate::progress::Progress;

/// Sequences computed between two writes; results do not depend on it.
const BLOCK: usize = 64;

/// Scores of answers, from a reward model
///
/// A conversation goes through the chat template and is scored at the end of its last reply. A string prompt is the
/// user's turn, as in training; a reward model without a template takes prompt and completion as they stand, tokenized
/// apart, and scores them at an end token put after them.
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
        return Err(Failure::usage(text).hint("train one with hone reward").into());
    }
    let context = loaded.model.architecture().context;
    let scorer = Scorer::new(loaded.model, loaded.tokenizer)?;
    let mut sequences = Vec::with_capacity(rows.len());
    for row in rows {
        let ids = encode(&scorer, row.value, &row.place)?;
        if ids.len() > context {
            let text = format!("{}: {} tokens; the model's context is {context}", row.place, ids.len());
            return Err(Failure::failed(text).into());
        }
        sequences.push(ids);
    }
    let mut progress = Progress::new("answers", sequences.len() as u64);
    let (mut output, mut done, mut tokens) = (Output::new(), 0, 0);
    for block in sequences.chunks(BLOCK) {
        let slices: Vec<&[u32]> = block.iter().map(Vec::as_slice).collect();
        for scored in scorer.score_tokens(&engine, &slices)? {
            if arguments.json {
                output.json(&Score { score: scored })?;
            } else {
                output.line(&format!("{:.6}", scored))?;
            }
        }
        done += block.len() as u64;
        tokens += block.iter().map(|ids| ids.len() as u64).sum::<u64>();
        progress.set(done, tokens);
    }
    drop(progress);
    Ok(output.finish()?)
}

/// The tokens that are scored, as the reward stage and PPO make them.
fn encode(scorer: &Scorer, input: Input, place: &str) -> Result<Vec<u32>> {
    let (prompt, response) = match input {
        Input {
            prompt: Some(Prompt::Text(text)),
            completion: Some(completion),
            messages: None,
        } => (PromptInput::Text(text), completion),
        Input {
            prompt: Some(Prompt::Messages(turns)),
            completion: Some(completion),
            messages: None,
        } => (PromptInput::Messages(turns.into_iter().map(turn).collect()), completion),
        Input {
            prompt: None,
            completion: None,
            messages: Some(mut turns),
        } => match turns.pop() {
            Some(last) if last.is_assistant() => (
                PromptInput::Messages(turns.into_iter().map(turn).collect()),
                last.content,
            ),
            _ => {
                let text = format!(
                    "{place}: the conversation does not end with a reply; expected a last turn of the assistant"
                );
                return Err(Failure::failed(text).into());
            }
        },
        _ => return Err(Failure::failed(format!("{place}: expected {EXPECTED}")).into()),
    };
    scorer
        .encode(&prompt, &response)
        .map_err(|error| Failure::failed(format!("{place}: {error}")).into())
}

fn turn(message: Message) -> hone_data::Message {
    hone_data::Message::new(message.role, message.content)
}
