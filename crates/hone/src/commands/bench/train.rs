//! `bench train`: optimiser steps on random tokens.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use hone_compute::{AdamW, Engine, Gradients, Layout, Optimizer, Packing, StepRate, Tape};
use hone_math::Key;
use hone_model::{LoraConfig, Tokens, Transformer};

use super::model::{check_context, describe, random_ids};
use super::{On, Report, counted, matrix_limit, median, profile};
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
    /// Draws each sequence's length from 1 to --length, as many sequences as make --batch times --length tokens
    #[arg(long)]
    ragged: bool,
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

/// Steps that are not counted.
const WARM_UP: usize = 2;

/// Sequences of random tokens.
struct Microbatch {
    ids: Arc<[u32]>,
    targets: Arc<[u32]>,
    /// 1 where the target is the next token of the sequence.
    counts: Vec<f32>,
    layout: Layout,
}

impl Microbatch {
    /// Sequences of these lengths, the first of which is the `first` of its step.
    fn random(model: &Transformer, first: usize, lengths: &[usize]) -> Self {
        let sequences = (first as u64..).zip(lengths);
        let ids: Arc<[u32]> = sequences
            .flat_map(|(i, &length)| random_ids(model, length, i).to_vec())
            .collect();
        let tokens = ids.len();
        let counted = |&length: &usize| (1..=length).map(move |i| f32::from(i < length));
        Self {
            // The target of a sequence's last token is no token of it
            targets: ids.iter().cycle().skip(1).take(tokens).copied().collect(),
            counts: lengths.iter().flat_map(counted).collect(),
            layout: Layout::whole(lengths),
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

/// The lengths of a step's sequences.
fn lengths(batch: usize, length: usize, ragged: bool) -> Vec<usize> {
    if !ragged {
        return vec![length; batch];
    }
    let key = Key::new(1, "bench lengths", 0);
    let mut left = batch * length;
    let mut lengths = Vec::new();
    while left > 0 {
        let drawn = 1 + key.below(lengths.len() as u64, length as u64) as usize;
        lengths.push(drawn.min(left));
        left -= drawn.min(left);
    }
    lengths
}

/// Cuts a step's sequences into micro-batches of at most so many tokens, or of one sequence; the number of the first
/// sequence of each, and their lengths.
fn cut(lengths: &[usize], microbatch_tokens: usize) -> Vec<(usize, &[usize])> {
    let mut parts = Vec::new();
    let (mut first, mut tokens) = (0, 0);
    for (i, &length) in lengths.iter().enumerate() {
        if tokens + length > microbatch_tokens && i > first {
            parts.push((first, &lengths[first..i]));
            (first, tokens) = (i, 0);
        }
        tokens += length;
    }
    parts.push((first, &lengths[first..]));
    parts
}

/// The model that is trained, and what kind of step that is.
fn subject(arguments: &TrainArguments, engine: &Engine) -> Result<(Transformer, String)> {
    let (mut model, ..) = arguments.on.model.load_weights(engine)?;
    check_context(&model, arguments.length as usize)?;
    model.set_recompute(arguments.recompute);
    let Some(rank) = arguments.lora else {
        return Ok((model, "training step".into()));
    };
    let config = LoraConfig {
        rank: rank as usize,
        ..LoraConfig::default()
    };
    model.add_adapter(engine, &config, 1)?;
    let kind = format!("training step of LoRA, rank {rank} on {}", config.targets.join(" and "));
    Ok((model, kind))
}

/// Operations of a step.
fn operations(arguments: &TrainArguments, microbatches: &[Microbatch]) -> Result<f64> {
    let engine = arguments.on.engine.rehearsal()?;
    let (mut model, _) = subject(arguments, &engine)?;
    model.parameters_mut().set_packing(Packing::of_step(microbatches.len()));
    let mut gradients = Gradients::zeros(&engine, model.parameters());
    counted(&engine, || {
        for microbatch in microbatches {
            microbatch.differentiate(&engine, &model, 1.0, &mut gradients);
        }
        Ok(())
    })
}

/// Forward, backward of the cross-entropy of every next token, clipping, AdamW on all weights.
pub fn run(arguments: &TrainArguments) -> Result<()> {
    let (batch, length) = (arguments.batch as usize, arguments.length as usize);
    let engine = arguments.on.engine()?;
    let (mut model, kind) = subject(arguments, &engine)?;
    // As before the first step of a run
    hone_compute::return_freed_memory();
    let lengths = lengths(batch, length, arguments.ragged);
    let microbatches: Vec<Microbatch> = cut(&lengths, arguments.microbatch_tokens as usize)
        .into_iter()
        .map(|(first, lengths)| Microbatch::random(&model, first, lengths))
        .collect();
    let operations = operations(arguments, &microbatches)?;
    model.parameters_mut().set_packing(Packing::of_step(microbatches.len()));
    let predicted: usize = lengths.iter().map(|length| length - 1).sum();
    let weight = 1.0 / predicted.max(1) as f32;
    let mut gradients = Gradients::zeros(&engine, model.parameters());
    let mut optimizer = Optimizer::new(&engine, model.parameters(), AdamW::default());
    let mut progress = Progress::new("steps", u64::from(arguments.steps));
    let mut speeds = Vec::new();
    let mut from = Instant::now();
    for step in 0..arguments.steps {
        if step as usize == WARM_UP {
            engine.clear_operation_times();
            from = Instant::now();
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
    let profile = profile(&engine, from.elapsed().as_secs_f64());
    drop(progress);
    let peak_bytes = machine::peak_bytes();
    let runs = speeds.split_off(WARM_UP);
    let speed = median(&runs);
    let limit = matrix_limit(&engine) * (batch * length) as f64 / operations;
    let shape = if arguments.ragged {
        format!(
            "{} tokens in {} sequences of 1 to {length}",
            batch * length,
            lengths.len()
        )
    } else {
        format!("{batch} x {length} tokens")
    };
    let report = Report {
        work: describe(&format!("{kind}, {shape}"), &engine, &arguments.on, &model),
        tokens_per_second: Some(speed),
        runs,
        unit: "tokens/s",
        warm_up: speeds,
        peak_bytes,
        fraction_of_limit: Some(speed / limit),
        tokens: Some((batch * length) as u64),
        operations: Some(operations),
        profile,
    };
    report.print(arguments.on.json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ragged_lengths_make_the_same_number_of_tokens() {
        assert_eq!(lengths(3, 7, false), [7, 7, 7]);
        let ragged = lengths(64, 256, true);
        assert_eq!(ragged.iter().sum::<usize>(), 64 * 256);
        assert!(ragged.iter().all(|length| (1..=256).contains(length)));
        // Even over 1 to 256: a mean of 128.5, in so many draws within a few standard errors of 6.5
        let mean = (64 * 256) as f64 / ragged.len() as f64;
        assert!((100.0..160.0).contains(&mean), "{mean}");
        assert!(ragged.iter().any(|&length| length < 32) && ragged.iter().any(|&length| length > 224));
    }

    #[test]
    fn micro_batches_hold_whole_sequences() {
        assert_eq!(cut(&[4, 4, 4], 8), [(0, &[4, 4][..]), (2, &[4])]);
        assert_eq!(cut(&[9, 1, 2], 8), [(0, &[9][..]), (1, &[1, 2])]);
        assert_eq!(cut(&[3, 3, 3], 1), [(0, &[3][..]), (1, &[3]), (2, &[3])]);
    }
}
