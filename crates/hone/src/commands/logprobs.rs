//! `hone logprobs`: log-probabilities of given texts, one number a token.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use hone_generate::logprobs_of;
use hone_text::AddSpecial;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::input::read_rows;
use crate::model::{EngineArguments, LoadedModel, ModelArguments};
use crate::output::Output;
use crate::progress::Progress;

/// Sequences computed between two writes; results do not depend on it.
const BLOCK: usize = 64;

/// Log-probabilities of given texts, one number a token
///
/// The first token has none. A prompt and its completion are tokenized apart, special tokens as the tokenizer adds them.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    engine: EngineArguments,
    /// JSON lines of {"text"} or {"prompt","completion"}; - is stdin
    #[arg(long, value_name = "FILE.jsonl")]
    input: PathBuf,
    /// Divides the logits
    #[arg(long, default_value_t = 1.0, value_parser = parse_temperature, allow_negative_numbers = true)]
    temperature: f32,
    /// One JSON object a line: {"ids":[...],"logprobs":[null,...]}
    #[arg(long)]
    json: bool,
}

fn parse_temperature(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && f32::is_finite(number) => Ok(number),
        _ => Err("expected a number above 0".into()),
    }
}

#[derive(Deserialize)]
struct Input {
    text: Option<String>,
    prompt: Option<String>,
    completion: Option<String>,
}

#[derive(Serialize)]
struct Scored<'a> {
    ids: &'a [u32],
    logprobs: Vec<Option<f32>>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let rows = read_rows(&arguments.input, EXPECTED)?;
    let engine = arguments.engine.engine()?;
    let loaded = arguments.model.load(&engine)?;
    let mut sequences = Vec::with_capacity(rows.len());
    for row in &rows {
        sequences.push(encode(&loaded, &row.value, &row.place)?);
    }
    let mut progress = Progress::new("texts", sequences.len() as u64);
    let (mut output, mut done, mut tokens) = (Output::new(), 0, 0);
    for block in sequences.chunks(BLOCK) {
        let slices: Vec<&[u32]> = block.iter().map(Vec::as_slice).collect();
        let scores = logprobs_of(&engine, &loaded.model, &slices, arguments.temperature);
        for (ids, score) in block.iter().zip(scores) {
            if arguments.json {
                let first = ids.first().map(|_| None);
                let logprobs = first
                    .into_iter()
                    .chain(score.logprobs.into_iter().map(Some))
                    .collect();
                output.json(&Scored { ids, logprobs })?;
            } else {
                let sum: f64 = score.logprobs.iter().map(|&x| f64::from(x)).sum();
                let mean = sum / score.logprobs.len().max(1) as f64;
                output.line(&format!(
                    "{} tokens, log-probability {sum:.4}, {mean:.4} a token",
                    ids.len()
                ))?;
            }
            tokens += ids.len() as u64;
        }
        done += block.len() as u64;
        progress.set(done, tokens);
    }
    drop(progress);
    Ok(output.finish()?)
}

const EXPECTED: &str = r#"{"text"} or {"prompt","completion"}"#;

fn encode(loaded: &LoadedModel, input: &Input, place: &str) -> Result<Vec<u32>> {
    let at = |error: hone_text::TextError| Failure::failed(format!("{place}: {error}"));
    let tokenizer = &loaded.tokenizer;
    let ids = match input {
        Input {
            text: Some(text),
            prompt: None,
            completion: None,
        } => tokenizer.encode(text, AddSpecial::Yes).map_err(at)?,
        Input {
            text: None,
            prompt: Some(prompt),
            completion: Some(completion),
        } => {
            let mut ids = tokenizer.encode(prompt, AddSpecial::Yes).map_err(at)?;
            ids.extend(tokenizer.encode(completion, AddSpecial::No).map_err(at)?);
            ids
        }
        _ => return Err(Failure::failed(format!("{place}: other columns than {EXPECTED}")).into()),
    };
    loaded.check_length(place, ids.len())?;
    Ok(ids)
}
