//! Work of a model that is not trained: sampling, reading prompts.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use hone_compute::{Engine, Precision, SamplingParameters};
use hone_generate::{Generator, GeneratorOptions, Request};
use hone_math::Key;
use hone_model::{Architecture, Transformer};

use super::{Limits, On, Report, counted, matrix_limit, median, profile};
use crate::failure::Failure;
use crate::machine;

/// Arguments of `bench generate`.
#[derive(Args)]
pub struct GenerateArguments {
    #[command(flatten)]
    on: On,
    /// Sequences at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Tokens of each prompt
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    length: u32,
    /// Tokens sampled a prompt
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..))]
    new: u32,
    /// Measurements
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,
}

/// Arguments of `bench prefill`.
#[derive(Args)]
pub struct PrefillArguments {
    #[command(flatten)]
    on: On,
    /// Prompts
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Tokens of each prompt
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    length: u32,
    /// Measurements
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,
}

/// Refuses sequences of so many tokens that the model cannot read.
pub(super) fn check_context(model: &Transformer, tokens: usize) -> Result<()> {
    let context = model.architecture().context;
    if tokens > context {
        return Err(Failure::usage(format!("{tokens} tokens a sequence; the model's context is {context}")).into());
    }
    Ok(())
}

/// Random tokens, the same for the same `of`.
pub(super) fn random_ids(model: &Transformer, count: usize, of: u64) -> Arc<[u32]> {
    let key = Key::new(1, "bench", of);
    (0..count as u64)
        .map(|i| key.below(i, model.architecture().vocab_size as u64) as u32)
        .collect()
}

/// Weights that a token is multiplied with: all but an embedding that is only looked up.
pub(super) fn multiplied(a: &Architecture) -> f64 {
    (a.layers * a.block_weights() + a.vocab_size * a.width) as f64
}

/// A measurement in words.
pub(super) fn describe(what: &str, engine: &Engine, on: &On, model: &Transformer) -> String {
    let parameters = model.parameters().count().0;
    let (isa, precision, threads) = (engine.isa(), engine.precision(), engine.threads());
    format!(
        "{what}, {} ({parameters} parameters), {isa}, {precision:?}, {threads} threads",
        on.model.model
    )
}

fn requests(model: &Transformer, batch: usize, length: usize, new: usize) -> Vec<Request> {
    let request = |i: usize| Request {
        prompt: random_ids(model, length, i as u64),
        sampling: SamplingParameters::default(),
        key: Key::new(1, "bench sample", i as u64),
        max_new_tokens: new,
        stop_tokens: Arc::new([]),
        stop_texts: None,
    };
    (0..batch).map(request).collect()
}

/// Seconds to complete the requests.
fn time(engine: &Engine, model: &Transformer, requests: &[Request]) -> Result<f64> {
    let options = GeneratorOptions {
        max_batch: requests.len(),
        ..GeneratorOptions::default()
    };
    let start = Instant::now();
    let completions = Generator::new(engine, model, options).run(requests)?;
    let took = start.elapsed().as_secs_f64();
    std::hint::black_box(completions);
    Ok(took)
}

/// Operations of so many requests, each of so many tokens and new ones.
fn operations(on: &On, (batch, length, new): (usize, usize, usize)) -> Result<f64> {
    let engine = on.engine.rehearsal()?;
    let (model, ..) = on.model.load_weights(&engine)?;
    let all = requests(&model, batch, length, new);
    counted(&engine, || time(&engine, &model, &all).map(drop))
}

/// Sampled tokens a second, the prompts' computation in the time.
pub fn generate(arguments: &GenerateArguments) -> Result<()> {
    let (batch, length, new) = (
        arguments.batch as usize,
        arguments.length as usize,
        arguments.new as usize,
    );
    let engine = arguments.on.engine()?;
    let (model, ..) = arguments.on.model.load_weights(&engine)?;
    check_context(&model, length + new)?;
    let warm_up =
        vec![(batch * new.min(8)) as f64 / time(&engine, &model, &requests(&model, batch, length, new.min(8)))?];
    let all = requests(&model, batch, length, new);
    let mut runs = Vec::new();
    engine.clear_operation_times();
    let from = Instant::now();
    for _ in 0..arguments.steps {
        runs.push((batch * new) as f64 / time(&engine, &model, &all)?);
    }
    let profile = profile(&engine, from.elapsed().as_secs_f64());
    let peak_bytes = machine::peak_bytes();
    let limits = Limits::measure(&engine);
    let bytes_a_weight = if engine.precision() == Precision::Bf16 {
        2.0
    } else {
        4.0
    };
    let operations = operations(&arguments.on, (batch, length, new))?;
    // Each pass of a new token reads every weight
    let weights = multiplied(model.architecture());
    let reading = (weights * bytes_a_weight / limits.bytes - 2.0 * weights * batch as f64 / limits.flops).max(0.0);
    let least = operations / limits.flops + reading * (new - 1) as f64;
    let speed = median(&runs);
    let work = format!("sampling, {batch} x ({length} + {new}) tokens");
    let report = Report {
        work: describe(&work, &engine, &arguments.on, &model),
        tokens_per_second: Some(speed),
        runs,
        unit: "tokens/s",
        warm_up,
        peak_bytes,
        fraction_of_limit: Some(speed * least / (batch * new) as f64),
        profile,
        tokens: Some((batch * new) as u64),
        operations: Some(operations),
    };
    report.print(arguments.on.json)
}

/// Tokens of prompts read a second, up to the first sampled token.
pub fn prefill(arguments: &PrefillArguments) -> Result<()> {
    let (batch, length) = (arguments.batch as usize, arguments.length as usize);
    let engine = arguments.on.engine()?;
    let (model, ..) = arguments.on.model.load_weights(&engine)?;
    check_context(&model, length + 1)?;
    let all = requests(&model, batch, length, 1);
    let tokens = (batch * length) as f64;
    let warm_up = vec![tokens / time(&engine, &model, &all)?];
    let mut runs = Vec::new();
    engine.clear_operation_times();
    let from = Instant::now();
    for _ in 0..arguments.steps {
        runs.push(tokens / time(&engine, &model, &all)?);
    }
    let profile = profile(&engine, from.elapsed().as_secs_f64());
    let peak_bytes = machine::peak_bytes();
    let speed = median(&runs);
    let operations = operations(&arguments.on, (batch, length, 1))?;
    let limit = matrix_limit(&engine) * tokens / operations;
    let report = Report {
        work: describe(
            &format!("reading prompts, {batch} x {length} tokens"),
            &engine,
            &arguments.on,
            &model,
        ),
        tokens_per_second: Some(speed),
        runs,
        unit: "tokens/s",
        warm_up,
        peak_bytes,
        fraction_of_limit: Some(speed / limit),
        profile,
        tokens: Some((batch * length) as u64),
        operations: Some(operations),
    };
    report.print(arguments.on.json)
}
