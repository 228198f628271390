//! Work on a model: training steps, sampling, reading prompts.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use hone_compute::{AdamW, Engine, Gradients, Layout, Optimizer, Precision, SamplingParameters, StepRate, Tape};
use hone_generate::{Generator, GeneratorOptions, Request};
use hone_math::Key;
use hone_model::{LoraConfig, Tokens, Transformer};

use super::{Limits, On, Report, matrix_limit, median, profile};
use crate::failure::Failure;
use crate::machine;
use crate::progress::Progress;

/// Arguments of `bench train`.
#[derive(Args)]
pub struct TrainArguments {
    #[command(flatten)]
    on: On,
    /// Sequences a step
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Tokens a sequence
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..))]
    length: u32,
    /// Steps, the first two of which are warm-up
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(3..=100_000))]
    steps: u32,
    /// Tokens that are computed together, whole sequences; a step's gradients are summed over its micro-batches
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    microbatch_tokens: u32,
    /// Trains a LoRA adapter of this rank on the query and value projections instead of all weights
    #[arg(long, value_name = "RANK", value_parser = clap::value_parser!(u32).range(1..=4096))]
    lora: Option<u32>,
    /// Computes blocks again on the way back instead of keeping what is inside them
    #[arg(long)]
    recompute: bool,
}

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

/// Steps that are not counted.
const WARM_UP: usize = 2;

fn check_context(model: &Transformer, tokens: usize) -> Result<()> {
    let context = model.architecture().context;
    if tokens > context {
        return Err(Failure::usage(format!("{tokens} tokens a sequence; the model's context is {context}")).into());
    }
    Ok(())
}

fn random_ids(model: &Transformer, count: usize, of: u64) -> Arc<[u32]> {
    let key = Key::new(1, "bench", of);
    (0..count as u64)
        .map(|i| key.below(i, model.architecture().vocab_size as u64) as u32)
        .collect()
}

/// Weights that a token is multiplied with: all but an embedding that is only looked up.
fn multiplied(model: &Transformer) -> f64 {
    let a = model.architecture();
    (a.layers * a.block_weights() + a.vocab_size * a.width) as f64
}

fn describe(what: &str, engine: &Engine, on: &On, model: &Transformer) -> String {
    let parameters = model.parameters().count().0;
    let (isa, precision, threads) = (engine.isa(), engine.precision(), engine.threads());
    format!(
        "{what}, {} ({parameters} parameters), {isa}, {precision:?}, {threads} threads",
        on.model.model
    )
}

/// Sequences of random tokens.
struct Microbatch {
    ids: Arc<[u32]>,
    targets: Arc<[u32]>,
    /// 1 where the target is the next token of the sequence.
    counts: Vec<f32>,
    layout: Layout,
}

impl Microbatch {
    fn random(model: &Transformer, sequences: Range<usize>, length: usize) -> Self {
        let ids: Arc<[u32]> = sequences
            .clone()
            .flat_map(|i| random_ids(model, length, i as u64).to_vec())
            .collect();
        let tokens = ids.len();
        Self {
            // The target of a sequence's last token is no token of it
            targets: ids.iter().cycle().skip(1).take(tokens).copied().collect(),
            counts: (0..tokens).map(|i| f32::from((i + 1) % length != 0)).collect(),
            layout: Layout::whole(&vec![length; sequences.len()]),
            ids,
        }
    }

    /// Forward and backward of the cross-entropy of every next token, each weighing `weight`.
    fn differentiate(&self, engine: &Engine, model: &Transformer, weight: f32, gradients: &mut Gradients) {
        let mut tape = Tape::training(engine, model.parameters());
        let tokens = Tokens {
            ids: &self.ids,
            layout: &self.layout,
        };
        let hidden = model.hidden(&mut tape, &tokens);
        let weights: Vec<f32> = self.counts.iter().map(|count| count * weight).collect();
        tape.backward_cross_entropy(&hidden, &model.targets(&self.targets, 1.0), &weights, gradients);
    }
}

/// Forward, backward of the cross-entropy of every next token, clipping, AdamW on all weights.
pub fn train(arguments: &TrainArguments) -> Result<()> {
    let (batch, length) = (arguments.batch as usize, arguments.length as usize);
    let engine = arguments.on.engine()?;
    let (mut model, ..) = arguments.on.model.load_weights(&engine)?;
    check_context(&model, length)?;
    model.set_recompute(arguments.recompute);
    let mut kind = "training step".to_string();
    if let Some(rank) = arguments.lora {
        let config = LoraConfig {
            rank: rank as usize,
            ..LoraConfig::default()
        };
        model.add_adapter(&engine, &config, 1)?;
        kind = format!("training step of LoRA, rank {rank} on {}", config.targets.join(" and "));
    }
    let grain = (arguments.microbatch_tokens as usize / length).clamp(1, batch);
    let microbatches: Vec<Microbatch> = (0..batch)
        .step_by(grain)
        .map(|first| Microbatch::random(&model, first..batch.min(first + grain), length))
        .collect();
    let weight = 1.0 / (batch * (length - 1)) as f32;
    let mut gradients = Gradients::zeros(&engine, model.parameters());
    let mut optimizer = Optimizer::new(&engine, model.parameters(), AdamW::default());
    let mut progress = Progress::new("steps", u64::from(arguments.steps));
    let mut speeds = Vec::new();
    let mut counted = Instant::now();
    for step in 0..arguments.steps {
        if step as usize == WARM_UP {
            engine.clear_operation_times();
            counted = Instant::now();
        }
        let start = Instant::now();
        gradients.clear();
        for microbatch in &microbatches {
            microbatch.differentiate(&engine, &model, weight, &mut gradients);
        }
        gradients.finish(&engine);
        let rate = StepRate {
            learning_rate: 1e-4,
            clip: Some(1.0),
        };
        let report = optimizer.step(&engine, model.parameters_mut(), &gradients, rate);
        if !report.applied {
            return Err(Failure::failed("a gradient is not finite").into());
        }
        speeds.push((batch * length) as f64 / start.elapsed().as_secs_f64());
        progress.set(u64::from(step) + 1, u64::from(step + 1) * (batch * length) as u64);
    }
    let profile = profile(&engine, counted.elapsed().as_secs_f64());
    drop(progress);
    let peak_bytes = machine::peak_bytes();
    let runs = speeds.split_off(WARM_UP);
    let speed = median(&runs);
    let limit = matrix_limit(&engine) / (6.0 * multiplied(&model));
    let report = Report {
        work: describe(
            &format!("{kind}, {batch} x {length} tokens"),
            &engine,
            &arguments.on,
            &model,
        ),
        tokens_per_second: Some(speed),
        runs,
        unit: "tokens/s",
        warm_up: speeds,
        peak_bytes,
        fraction_of_limit: Some(speed / limit),
        profile,
    };
    report.print(arguments.on.json)
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
    let counted = Instant::now();
    for _ in 0..arguments.steps {
        runs.push((batch * new) as f64 / time(&engine, &model, &all)?);
    }
    let profile = profile(&engine, counted.elapsed().as_secs_f64());
    let peak_bytes = machine::peak_bytes();
    let limits = Limits::measure(&engine);
    let bytes_a_weight = if engine.precision() == Precision::Bf16 {
        2.0
    } else {
        4.0
    };
    let weights = multiplied(&model);
    let prompts = 2.0 * weights * (batch * length) as f64 / limits.flops;
    let step = (2.0 * weights * batch as f64 / limits.flops).max(weights * bytes_a_weight / limits.bytes);
    let least = prompts + step * (new - 1) as f64;
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
    let counted = Instant::now();
    for _ in 0..arguments.steps {
        runs.push(tokens / time(&engine, &model, &all)?);
    }
    let profile = profile(&engine, counted.elapsed().as_secs_f64());
    let peak_bytes = machine::peak_bytes();
    let speed = median(&runs);
    let limit = matrix_limit(&engine) / (2.0 * multiplied(&model));
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
    };
    report.print(arguments.on.json)
}
