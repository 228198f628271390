//! `hone sample`: completions of prompts, with the log-probability that each token had.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use hone_compute::{Engine, SamplingParameters};
use hone_generate::{
    Completion, FinishReason, Generator, GeneratorOptions, Request, completion_text, raw_stop_tokens, samples_of,
    stop_text,
};
use hone_math::Key;
use hone_pipeline::carried;
use hone_run::{BulkSettings, Shutdown, digest_of};
use hone_text::{AddSpecial, DecodeStream, Message, SkipSpecial};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::shared::DecodingArguments;
use crate::bulk::{self, Target};
use crate::failure::Failure;
use crate::input::{Prompt, Row, read_rows};
use crate::model::{EngineArguments, LoadedModel, ModelArguments, Place};
use crate::output::{self, Output};
use crate::progress::Progress;

/// Completions asked for at once; what they are does not depend on it.
const BLOCK: usize = 4096;

/// Sample completions of prompts
///
/// A string prompt is taken as it stands; `messages` go through the model's chat template. With --out, completions are
/// appended to a file in the order of the input, and the same command goes on with a file that was not finished.
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
    /// JSON lines of {"prompt"} or {"messages"}; other columns are carried through; - is stdin
    #[arg(long, value_name = "FILE.jsonl")]
    input: Option<PathBuf>,
    /// Where completions go, one JSON object a line; the same command again goes on where it was stopped
    #[arg(long, value_name = "FILE.jsonl")]
    pub out: Option<PathBuf>,
    /// Completions a prompt
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    n: u32,
    #[command(flatten)]
    decoding: DecodingArguments,
    /// One JSON object a completion; with --out, one about the file
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

/// A temperature, as an argument.
pub fn parse_temperature(text: &str) -> Result<f32, String> {
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

impl SamplingArguments {
    /// What completions depend on, for a file that is gone on with.
    pub fn settings(&self) -> BulkSettings {
        let optional = |k: Option<u32>| k.map(|k| k.to_string()).unwrap_or_default();
        BulkSettings::from([
            ("--temperature".to_string(), self.temperature.to_string()),
            ("--top-k".to_string(), optional(self.top_k)),
            ("--top-p".to_string(), self.top_p.to_string()),
            ("--min-p".to_string(), self.min_p.to_string()),
            ("--stop".to_string(), self.stop.join("\u{1f}")),
            ("--max-new-tokens".to_string(), self.max_new_tokens.to_string()),
            ("--seed".to_string(), self.seed.to_string()),
        ])
    }

    /// Temperature and truncation.
    pub fn parameters(&self) -> SamplingParameters {
        SamplingParameters {
            temperature: self.temperature,
            top_k: self.top_k.map(|k| k as usize),
            top_p: self.top_p,
            min_p: self.min_p,
        }
    }
}

/// A row of the input.
#[derive(Deserialize)]
struct Input {
    prompt: Option<Prompt>,
    messages: Option<Vec<Message>>,
    #[serde(flatten)]
    columns: Map<String, Value>,
}

/// What is asked, and what else its row holds.
pub(super) struct Asked {
    pub prompt: Prompt,
    pub columns: Map<String, Value>,
}

/// Names that completions have for themselves.
const OWN: [&str; 9] = [
    "prompt",
    "completion",
    "prompt_ids",
    "completion_ids",
    "logprobs",
    "finish_reason",
    "model",
    "sampling",
    "weights",
];

/// Where completions come from, as each of them says.
pub(super) struct Origin {
    model: String,
    sampling: HowSampled,
    weights: String,
}

/// How tokens were drawn; what did nothing is left out.
#[derive(Serialize)]
struct HowSampled {
    temperature: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    #[serde(skip_serializing_if = "is_one")]
    top_p: f32,
    #[serde(skip_serializing_if = "is_zero")]
    min_p: f32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop: Vec<String>,
    max_new_tokens: u32,
    seed: u64,
}

fn is_one(number: &f32) -> bool {
    *number == 1.0
}

fn is_zero(number: &f32) -> bool {
    *number == 0.0
}

impl Origin {
    /// Of a model's completions. The digest is that of the directory, as runs keep it of their inputs; with an adapter that of the base
    /// and that of the adapter, `+` between them.
    ///
    /// # Errors
    /// A directory that is not there or cannot be read.
    pub fn of(model: &ModelArguments, sampling: &SamplingArguments) -> Result<Self> {
        let weights = Self::weights_of(&model.resolve()?)?;
        let adapter = model.adapter.as_ref();
        Ok(Self {
            model: adapter.map_or(model.model.clone(), |adapter| {
                format!("{}+{}", model.model, adapter.display())
            }),
            sampling: HowSampled {
                temperature: sampling.temperature,
                top_k: sampling.top_k,
                top_p: sampling.top_p,
                min_p: sampling.min_p,
                stop: sampling.stop.clone(),
                max_new_tokens: sampling.max_new_tokens,
                seed: sampling.seed,
            },
            weights,
        })
    }

    /// The digest of a model's weights.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn weights_of(place: &Place) -> Result<String> {
        let mut weights = digest_of(&place.base)?.unwrap_or_default();
        if let Some(adapter) = &place.adapter {
            weights += "+";
            weights += &digest_of(adapter)?.unwrap_or_default();
        }
        Ok(weights)
    }

    /// The same under another name of the model.
    pub fn called(self, model: &str) -> Self {
        Self {
            model: model.into(),
            ..self
        }
    }

    /// Digest of the weights.
    pub fn weights(&self) -> &str {
        &self.weights
    }
}

/// A completion as it is printed.
#[derive(Serialize)]
pub(super) struct Sampled<'a> {
    prompt: &'a Prompt,
    completion: String,
    prompt_ids: &'a [u32],
    completion_ids: &'a [u32],
    logprobs: &'a [f32],
    finish_reason: FinishReason,
    model: &'a str,
    sampling: &'a HowSampled,
    weights: &'a str,
    #[serde(flatten)]
    columns: &'a Map<String, Value>,
}

/// A prompt as tokens.
pub(super) struct Prepared {
    pub prompt: Prompt,
    columns: Map<String, Value>,
    pub request: Request,
}

/// Runs the command.
pub fn run(arguments: &Arguments, shutdown: &Shutdown) -> Result<()> {
    let rows = match (&arguments.prompt, &arguments.input) {
        (Some(text), _) => vec![Row {
            value: Asked {
                prompt: Prompt::Text(text.clone()),
                columns: Map::new(),
            },
            place: "--prompt".into(),
        }],
        (None, Some(path)) => read_prompts(path)?,
        (None, None) => return Err(Failure::usage("neither --prompt nor --input").into()),
    };
    let engine = arguments.engine.engine()?;
    let n = arguments.n as usize;
    let mut target = match &arguments.out {
        None => Target::Stdout(Output::new()),
        Some(out) => bulk::open(out, &plan(arguments, &engine, rows.len())?)?,
    };
    if target.is_finished() {
        return target.told(arguments.json, true, None);
    }
    let loaded = arguments.model.load(&engine)?;
    let has_text = |row: &Row<Asked>| matches!(row.value.prompt, Prompt::Text(_));
    if loaded.tokenizer.chat_template().is_some() && rows.iter().any(has_text) {
        output::note(
            "prompts that are text are completed as they stand; for the model's answers give {\"messages\": ..}",
        );
    }
    let prepared = prepare(&loaded, rows, &arguments.decoding.sampling)?;
    if let ([only], 1, false, None) = (prepared.as_slice(), arguments.n, arguments.json, &arguments.out) {
        return stream(&engine, &loaded, only, &arguments.decoding.sampling.stop);
    }
    let (total, begun) = ((prepared.len() * n) as u64, target.rows() as usize);
    let mut progress = Progress::from("completions", total, (begun * n) as u64);
    let (mut done, mut tokens) = ((begun * n) as u64, 0);
    let options = GeneratorOptions {
        max_batch: arguments.decoding.batch(),
        ..GeneratorOptions::default()
    };
    let generator = Generator::new(&engine, &loaded.model, options);
    let as_json = arguments.json || arguments.out.is_some();
    let origin = match as_json {
        true => Some(Origin::of(&arguments.model, &arguments.decoding.sampling)?),
        false => None,
    };
    for block in prepared[begun..].chunks((BLOCK / n).max(1)) {
        let requests: Vec<Request> = block.iter().flat_map(|p| samples_of(&p.request, n)).collect();
        let all = generator.run_in_order(
            &requests,
            &mut |event| {
                tokens += 1;
                done += u64::from(event.finish.is_some());
                progress.set(done, tokens);
                !shutdown.requested()
            },
            &mut |i, completion| {
                write(
                    &mut target,
                    &loaded,
                    (&block[i / n], i % n),
                    &completion,
                    (arguments, origin.as_ref()),
                )
            },
        )?;
        if !all {
            return Err(target.stopped(total / n as u64, "prompts")?);
        }
    }
    drop(progress);
    target.told(arguments.json, false, None)
}

/// What the file's lines depend on.
fn plan(arguments: &Arguments, engine: &Engine, rows: usize) -> Result<bulk::Plan> {
    let mut plan = bulk::Plan::new("sample", rows as u64, u64::from(arguments.n));
    plan.model(&arguments.model, engine)?;
    plan.settings.extend(arguments.decoding.sampling.settings());
    plan.set("--n", arguments.n);
    plan.set("--prompt", arguments.prompt.as_deref().unwrap_or_default());
    if let Some(input) = &arguments.input {
        plan.file("--input", input)?;
    }
    Ok(plan)
}

/// One completion: with its origin as JSON, without one for a person.
fn write(
    target: &mut Target,
    loaded: &LoadedModel,
    (of, sample): (&Prepared, usize),
    completion: &Completion,
    (arguments, origin): (&Arguments, Option<&Origin>),
) -> Result<()> {
    let stop = &arguments.decoding.sampling.stop;
    let Some(origin) = origin else {
        target.line(&format!("--- {} ({})", sample + 1, last_words(&of.prompt)))?;
        return target.line(&text_of(loaded, of, completion, stop)?);
    };
    target.json(&sampled(loaded, of, completion, (origin, stop))?)
}

/// A completion as a row.
pub(super) fn sampled<'a>(
    loaded: &LoadedModel,
    of: &'a Prepared,
    completion: &'a Completion,
    (origin, stop): (&'a Origin, &[String]),
) -> Result<Sampled<'a>> {
    Ok(Sampled {
        prompt: &of.prompt,
        completion: text_of(loaded, of, completion, stop)?,
        prompt_ids: &of.request.prompt,
        completion_ids: &completion.ids,
        logprobs: &completion.logprobs,
        finish_reason: completion.finish,
        model: &origin.model,
        sampling: &origin.sampling,
        weights: &origin.weights,
        columns: &of.columns,
    })
}

/// The text of a completion.
fn text_of(loaded: &LoadedModel, of: &Prepared, completion: &Completion, stop: &[String]) -> Result<String> {
    let raw = matches!(of.prompt, Prompt::Text(_)).then_some(&*of.request.prompt);
    Ok(completion_text(&loaded.tokenizer, raw, completion, stop)?)
}

fn read_prompts(path: &std::path::Path) -> Result<Vec<Row<Asked>>> {
    const EXPECTED: &str = r#"{"prompt"} or {"messages"}"#;
    let asked = |prompt: Prompt, columns: &Map<String, Value>, place: String| Row {
        value: Asked {
            prompt,
            columns: carried(columns, &OWN),
        },
        place,
    };
    let prompt = |row: Row<Input>| match (row.value.prompt, row.value.messages) {
        (Some(prompt), None) => Ok(asked(prompt, &row.value.columns, row.place)),
        (None, Some(messages)) => Ok(asked(Prompt::Messages(messages), &row.value.columns, row.place)),
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

/// Prompts as tokens; the i-th has the random numbers of child i of the seed.
///
/// # Errors
/// A prompt that the model's template refuses, that has no token, or that fills the context.
pub(super) fn prepare(
    loaded: &LoadedModel,
    rows: Vec<Row<Asked>>,
    sampling: &SamplingArguments,
) -> Result<Vec<Prepared>> {
    let chat = if rows.iter().any(|row| matches!(row.value.prompt, Prompt::Messages(_))) {
        Some(loaded.chat()?)
    } else {
        None
    };
    let raw_stop: Arc<[u32]> = raw_stop_tokens(&loaded.tokenizer).into();
    let chat_stop: Arc<[u32]> = match &chat {
        Some(chat) => chat.stop_ids()?.into(),
        None => Arc::clone(&raw_stop),
    };
    let key = Key::new(sampling.seed, "sample", 0);
    let mut prepared = Vec::with_capacity(rows.len());
    for (index, row) in rows.into_iter().enumerate() {
        let at = |error: hone_text::TextError| Failure::failed(format!("{}: {error}", row.place));
        let (ids, stop) = match (&row.value.prompt, &chat) {
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
            prompt: row.value.prompt,
            columns: row.value.columns,
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

/// A request for one completion.
pub fn request(
    loaded: &LoadedModel,
    prompt: Arc<[u32]>,
    key: Key,
    stop_tokens: Arc<[u32]>,
    sampling: &SamplingArguments,
) -> Request {
    Request {
        prompt,
        sampling: sampling.parameters(),
        key,
        max_new_tokens: sampling.max_new_tokens as usize,
        stop_tokens,
        stop_texts: stop_text(&loaded.tokenizer, &sampling.stop),
    }
}

/// One completion, shown as it comes.
fn stream(engine: &Engine, loaded: &LoadedModel, of: &Prepared, stop: &[String]) -> Result<()> {
    let mut output = Output::new();
    // The same request as the first of `samples_of`, so that the seed gives the same text
    let requests = samples_of(&of.request, 1);
    if !stop.is_empty() {
        let completions = Generator::new(engine, &loaded.model, GeneratorOptions::default()).run(&requests)?;
        output.line(&text_of(loaded, of, &completions[0], stop)?)?;
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
