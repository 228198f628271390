//! `hone sample`: completions of prompts, with the log-probability that each token had.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use hone_compute::{Engine, SamplingParameters};
use hone_generate::{Completion, FinishReason, Generator, GeneratorOptions, Request, StopText, samples_of};
use hone_math::Key;
use hone_text::{AddSpecial, DecodeStream, Message, SkipSpecial, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::input::{Prompt, Row, read_rows};
use crate::model::{EngineArguments, LoadedModel, ModelArguments};
use crate::output::{self, Output};
use crate::progress::Progress;

/// Completions held in memory at once; what they are does not depend on it.
const BLOCK: usize = 4096;

/// Sample completions of prompts
///
/// A string prompt is taken as it stands; `messages` go through the model's chat template.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    engine: EngineArguments,
    /// The prompt, taken as it stands
    #[arg(
        long,
        conflicts_with = "input",
        required_unless_present = "input",
        allow_hyphen_values = true
    )]
    prompt: Option<String>,
    /// JSON lines of {"prompt"} or {"messages"}; - is stdin
    #[arg(long, value_name = "FILE.jsonl")]
    input: Option<PathBuf>,
    /// Completions a prompt
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    n: u32,
    /// Sequences decoded together; results do not depend on it
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// One JSON object a completion
    #[arg(long)]
    json: bool,
}

/// How tokens are drawn and when a completion ends.
#[derive(Args, Clone, Debug)]
pub struct SamplingArguments {
    /// Divides the logits; 0 takes the most probable token
    #[arg(long, default_value_t = 1.0, value_parser = parse_temperature, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Draws from the K most probable tokens only
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: Option<u32>,
    /// Draws from the most probable tokens that together reach this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = parse_top_p, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Draws from tokens at least this probable relative to the most probable
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = parse_min_p, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Ends a completion where this text comes; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Most tokens of a completion
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_new_tokens: u32,
    /// Determines the random numbers
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

fn parse_number(text: &str, expected: &str, holds: impl Fn(f32) -> bool) -> Result<f32, String> {
    match text.parse() {
        Ok(number) if holds(number) => Ok(number),
        _ => Err(format!("expected {expected}")),
    }
}

fn parse_temperature(text: &str) -> Result<f32, String> {
    parse_number(text, "a number of at least 0", |x| x >= 0.0 && x.is_finite())
}

fn parse_top_p(text: &str) -> Result<f32, String> {
    parse_number(text, "a number above 0 and at most 1", |x| x > 0.0 && x <= 1.0)
}

fn parse_min_p(text: &str) -> Result<f32, String> {
    parse_number(text, "a number of at least 0 and at most 1", |x| {
        (0.0..=1.0).contains(&x)
    })
}

/// A row of the input.
#[derive(Deserialize)]
struct Input {
    prompt: Option<Prompt>,
    messages: Option<Vec<Message>>,
}

/// A completion as it is printed.
#[derive(Serialize)]
struct Sampled<'a> {
    prompt: &'a Prompt,
    completion: String,
    prompt_ids: &'a [u32],
    completion_ids: &'a [u32],
    logprobs: &'a [f32],
    finish_reason: FinishReason,
}

/// A prompt as tokens.
struct Prepared {
    prompt: Prompt,
    request: Request,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let rows = match (&arguments.prompt, &arguments.input) {
        (Some(text), _) => vec![Row {
            value: Prompt::Text(text.clone()),
            place: "--prompt".into(),
        }],
        (None, Some(path)) => read_prompts(path)?,
        (None, None) => return Err(Failure::usage("neither --prompt nor --input").into()),
    };
    let engine = arguments.engine.engine()?;
    let loaded = arguments.model.load(&engine)?;
    if loaded.tokenizer.chat_template().is_some() && rows.iter().any(|row| matches!(row.value, Prompt::Text(_))) {
        output::note(
            "prompts that are text are completed as they stand; for the model's answers give {\"messages\": ..}",
        );
    }
    let prepared = prepare(&loaded, rows, &arguments.sampling)?;
    if let ([only], 1, false) = (prepared.as_slice(), arguments.n, arguments.json) {
        return stream(&engine, &loaded, only, &arguments.sampling.stop);
    }
    let n = arguments.n as usize;
    let mut progress = Progress::new("completions", (prepared.len() * n) as u64);
    let (mut output, mut done, mut tokens) = (Output::new(), 0, 0);
    let options = GeneratorOptions {
        max_batch: arguments.batch as usize,
        ..GeneratorOptions::default()
    };
    let generator = Generator::new(&engine, &loaded.model, options);
    for block in prepared.chunks((BLOCK / n).max(1)) {
        let requests: Vec<Request> = block.iter().flat_map(|p| samples_of(&p.request, n)).collect();
        let completions = generator.run_with(&requests, &mut |event| {
            tokens += 1;
            done += u64::from(event.finish.is_some());
            progress.set(done, tokens);
            true
        })?;
        for (i, completion) in completions.iter().enumerate() {
            let of = &block[i / n];
            let text = completion_text(&loaded.tokenizer, of, completion, &arguments.sampling.stop)?;
            if arguments.json {
                output.json(&Sampled {
                    prompt: &of.prompt,
                    completion: text,
                    prompt_ids: &of.request.prompt,
                    completion_ids: &completion.ids,
                    logprobs: &completion.logprobs,
                    finish_reason: completion.finish,
                })?;
            } else {
                output.line(&format!("--- {} ({})", (i % n) + 1, last_words(&of.prompt)))?;
                output.line(&text)?;
            }
        }
    }
    drop(progress);
    Ok(output.finish()?)
}

fn read_prompts(path: &std::path::Path) -> Result<Vec<Row<Prompt>>> {
    const EXPECTED: &str = r#"{"prompt"} or {"messages"}"#;
    let prompt = |row: Row<Input>| match (row.value.prompt, row.value.messages) {
        (Some(prompt), None) => Ok(Row {
            value: prompt,
            place: row.place,
        }),
        (None, Some(messages)) => Ok(Row {
            value: Prompt::Messages(messages),
            place: row.place,
        }),
        (Some(_), Some(_)) => Err(Failure::failed(format!(
            "{}: both `prompt` and `messages`; expected {EXPECTED}",
            row.place
        ))),
        (None, None) => Err(Failure::failed(format!(
            "{}: neither `prompt` nor `messages`; expected {EXPECTED}",
            row.place
        ))),
    };
    let rows = read_rows(path, EXPECTED)?;
    Ok(rows.into_iter().map(prompt).collect::<Result<_, _>>()?)
}

fn prepare(loaded: &LoadedModel, rows: Vec<Row<Prompt>>, sampling: &SamplingArguments) -> Result<Vec<Prepared>> {
    let chat = if rows.iter().any(|row| matches!(row.value, Prompt::Messages(_))) {
        Some(loaded.chat()?)
    } else {
        None
    };
    let raw_stop = raw_stop_tokens(loaded);
    let chat_stop: Arc<[u32]> = match &chat {
        Some(chat) => chat.stop_ids()?.into(),
        None => Arc::clone(&raw_stop),
    };
    let key = Key::new(sampling.seed, "sample", 0);
    let mut prepared = Vec::with_capacity(rows.len());
    for (index, row) in rows.into_iter().enumerate() {
        let at = |error: hone_text::TextError| Failure::failed(format!("{}: {error}", row.place));
        let (ids, stop) = match (&row.value, &chat) {
            (Prompt::Messages(messages), Some(chat)) => (chat.prompt_ids(messages).map_err(at)?, &chat_stop),
            (Prompt::Messages(_), None) => return Err(Failure::failed("no chat template").into()),
            (Prompt::Text(text), _) => (loaded.tokenizer.encode(text, AddSpecial::Yes).map_err(at)?, &raw_stop),
        };
        let ids = or_separator(loaded, ids, &row.place)?;
        let context = loaded.model.architecture().context;
        if ids.len() >= context {
            let text = format!(
                "{}: the prompt has {} tokens; the model's context is {context}, and the completion needs at least one place",
                row.place,
                ids.len()
            );
            return Err(Failure::failed(text).hint("shorten the prompt").into());
        }
        let request = request(loaded, ids.into(), key.child(index as u64), Arc::clone(stop), sampling);
        prepared.push(Prepared {
            prompt: row.value,
            request,
        });
    }
    Ok(prepared)
}

/// An empty prompt begins a document, as the model saw it begin.
fn or_separator(loaded: &LoadedModel, ids: Vec<u32>, place: &str) -> Result<Vec<u32>> {
    if !ids.is_empty() {
        return Ok(ids);
    }
    match loaded.tokenizer.document_separator() {
        Some(separator) => Ok(vec![separator]),
        None => Err(Failure::failed(format!("{place}: the prompt has no token; expected at least one")).into()),
    }
}

/// What ends a completion of raw text: the tokenizer's ends of sequence, and the separator of documents.
fn raw_stop_tokens(loaded: &LoadedModel) -> Arc<[u32]> {
    let mut ids = loaded.tokenizer.eos_ids().to_vec();
    if let Some(separator) = loaded.tokenizer.token_to_id("<|endoftext|>")
        && !ids.contains(&separator)
    {
        ids.push(separator);
    }
    ids.into()
}

/// A request for one completion.
pub fn request(
    loaded: &LoadedModel,
    prompt: Arc<[u32]>,
    key: Key,
    stop_tokens: Arc<[u32]>,
    sampling: &SamplingArguments,
) -> Request {
    let tokenizer = loaded.tokenizer.clone();
    let stop_texts = (!sampling.stop.is_empty()).then(|| StopText {
        texts: sampling.stop.clone().into(),
        bytes: Arc::new(move |id| tokenizer.token_bytes(id).unwrap_or_default().to_vec()),
    });
    Request {
        prompt,
        sampling: SamplingParameters {
            temperature: sampling.temperature,
            top_k: sampling.top_k.map(|k| k as usize),
            top_p: sampling.top_p,
            min_p: sampling.min_p,
        },
        key,
        max_new_tokens: sampling.max_new_tokens as usize,
        stop_tokens,
        stop_texts,
    }
}

/// The text of a completion: without control tokens, and up to the stop text that ended it. After a raw prompt it is what
/// the whole text has beyond the prompt's, so that the first space is kept.
fn completion_text(tokenizer: &Tokenizer, of: &Prepared, completion: &Completion, stop: &[String]) -> Result<String> {
    let decode = |ids: &[u32]| tokenizer.decode(ids, SkipSpecial::Yes);
    let mut text = match &of.prompt {
        Prompt::Messages(_) => decode(&completion.ids)?,
        Prompt::Text(_) => {
            let prompt = decode(&of.request.prompt)?;
            let whole = decode(&[&of.request.prompt, completion.ids.as_slice()].concat())?;
            match whole.strip_prefix(&prompt) {
                Some(rest) => rest.to_string(),
                None => decode(&completion.ids)?,
            }
        }
    };
    if completion.finish == FinishReason::Stop
        && let Some(end) = stop
            .iter()
            .filter(|stop| !stop.is_empty())
            .filter_map(|stop| text.find(stop.as_str()))
            .min()
    {
        text.truncate(end);
    }
    Ok(text)
}

/// One completion, shown as it comes.
fn stream(engine: &Engine, loaded: &LoadedModel, of: &Prepared, stop: &[String]) -> Result<()> {
    let mut output = Output::new();
    // The same request as the first of `samples_of`, so that the seed gives the same text
    let requests = samples_of(&of.request, 1);
    if !stop.is_empty() {
        let completions = Generator::new(engine, &loaded.model, GeneratorOptions::default()).run(&requests)?;
        output.line(&completion_text(&loaded.tokenizer, of, &completions[0], stop)?)?;
        return Ok(output.finish()?);
    }
    let mut decoder = loaded.tokenizer.decode_stream(SkipSpecial::Yes);
    if let Prompt::Text(_) = of.prompt {
        for &id in of.request.prompt.iter() {
            decoder.push(id)?;
        }
    }
    stream_text(engine, loaded, (&requests, decoder), &mut output)?;
    output.line("")?;
    Ok(output.finish()?)
}

/// Writes the text of one request's completion as it comes out of the decoder, and gives it.
pub fn stream_text(
    engine: &Engine,
    loaded: &LoadedModel,
    (requests, mut decoder): (&[Request], DecodeStream),
    output: &mut Output,
) -> Result<String> {
    let mut text = String::new();
    let mut failure = None;
    let generator = Generator::new(engine, &loaded.model, GeneratorOptions::default());
    generator.run_with(requests, &mut |event| {
        let piece = decoder.push(event.token).map_err(anyhow::Error::from);
        let shown = piece.and_then(|piece| {
            text.push_str(&piece);
            Ok(output.stream(&piece)?)
        });
        failure = shown.err();
        failure.is_none()
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    let rest = decoder.finish()?;
    output.stream(&rest)?;
    text.push_str(&rest);
    Ok(text)
}

/// The end of a prompt, for a person.
fn last_words(prompt: &Prompt) -> String {
    let text = match prompt {
        Prompt::Text(text) => text.as_str(),
        Prompt::Messages(messages) => messages.last().map_or("", |m| m.content.as_str()),
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let count = text.chars().count();
    if count <= 60 {
        text
    } else {
        format!("...{}", text.chars().skip(count - 57).collect::<String>())
    }
}
