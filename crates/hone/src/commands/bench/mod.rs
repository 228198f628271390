//! `hone bench`: how fast the machine does the work that users wait for, and how near that is to its limit.

mod kernels;
mod model;
mod rl;
mod train;

use anyhow::Result;
use clap::{Args, Subcommand};
use hone_compute::Engine;
use serde::Serialize;

use crate::machine;
use crate::model::{EngineArguments, ModelArguments};
use crate::output::Output;

/// Measure speeds: tokens a second of training and generating, and what the machine's limits are
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand)]
enum Work {
    /// Optimiser steps on random tokens: forward, backward, clipping, AdamW
    Train(train::TrainArguments),
    /// Sampling with a key-value cache, prompts included
    Generate(model::GenerateArguments),
    /// Reading prompts
    Prefill(model::PrefillArguments),
    /// Updates of PPO on random prompts: rollout, reference, values, scores, optimiser steps
    Rl(rl::RlArguments),
    /// Matrix products
    Gemm(kernels::GemmArguments),
    /// Reading memory
    Memory(kernels::MemoryArguments),
}

/// Model and engine of a measurement.
#[derive(Args)]
struct On {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    engine: EngineArguments,
    /// Also say what the time went into, operation by operation
    #[arg(long)]
    profile: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl On {
    /// The engine, its operations timed where that is asked for.
    fn engine(&self) -> Result<Engine> {
        let engine = self.engine.engine()?;
        Ok(if self.profile { engine.profiled() } else { engine })
    }
}

/// What was measured.
#[derive(Default, Serialize)]
struct Report {
    /// In words: what, on what, how much of it.
    work: String,
    /// The median of `runs`; none where no tokens are counted.
    tokens_per_second: Option<f64>,
    /// Each run's figure, in `unit`.
    runs: Vec<f64>,
    unit: &'static str,
    /// Runs that came first and are not counted.
    warm_up: Vec<f64>,
    /// The most memory that the process held.
    peak_bytes: Option<u64>,
    /// The figure over what the measured matrix and memory speed would allow.
    fraction_of_limit: Option<f64>,
    /// Tokens of a run, where every run has the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<u64>,
    /// Floating-point operations of a run's matrix products and attention; each query counts the keys that it sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    operations: Option<f64>,
    /// What the time of the counted runs went into, the most costly first; empty where it was not asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    profile: Vec<ProfileLine>,
}

/// A line of a profile.
#[derive(Serialize)]
struct ProfileLine {
    operation: String,
    calls: u64,
    seconds: f64,
    /// Of the time of the counted runs.
    share: f64,
}

/// The times of an engine's operations since they were cleared, and what is left of `total` seconds.
fn profile(engine: &Engine, total: f64) -> Vec<ProfileLine> {
    let times = engine.operation_times();
    if times.is_empty() {
        return Vec::new();
    }
    let line = |operation: &str, calls, seconds: f64| ProfileLine {
        operation: operation.into(),
        calls,
        seconds,
        share: seconds / total,
    };
    let mut lines: Vec<_> = times
        .into_iter()
        .map(|(operation, time)| line(operation, time.calls, time.time.as_secs_f64()))
        .collect();
    let known: f64 = lines.iter().map(|line| line.seconds).sum();
    lines.push(line("outside operations", 0, (total - known).max(0.0)));
    lines.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    lines
}

impl Report {
    fn print(&self, json: bool) -> Result<()> {
        let mut output = Output::new();
        if json {
            output.json(self)?;
            return Ok(output.finish()?);
        }
        let (low, high) = self
            .runs
            .iter()
            .fold((f64::INFINITY, 0.0), |(low, high), &run| (run.min(low), run.max(high)));
        output.line(&self.work)?;
        output.line(&format!(
            "{:.1} {} (median of {}; {low:.1} to {high:.1})",
            median(&self.runs),
            self.unit,
            self.runs.len()
        ))?;
        if let Some(fraction) = self.fraction_of_limit {
            output.line(&format!(
                "{:.0}% of what this machine's matrix and memory speed allow",
                fraction * 100.0
            ))?;
        }
        if let Some(bytes) = self.peak_bytes {
            output.line(&format!("{:.2} GB at most", bytes as f64 / 1e9))?;
        }
        for line in &self.profile {
            output.line(&format!(
                "{:>6.1}%  {:>9.3} s  {:>8}  {}",
                line.share * 100.0,
                line.seconds,
                line.calls,
                line.operation
            ))?;
        }
        Ok(output.finish()?)
    }
}

fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n.is_multiple_of(2) => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
        n => sorted[n / 2],
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.work {
        Work::Train(arguments) => train::run(arguments),
        Work::Generate(arguments) => model::generate(arguments),
        Work::Prefill(arguments) => model::prefill(arguments),
        Work::Rl(arguments) => rl::run(arguments),
        Work::Gemm(arguments) => kernels::gemm(arguments),
        Work::Memory(arguments) => kernels::memory(arguments),
    }
}

/// The machine's limits, as measured: operations a second, and bytes a second.
struct Limits {
    flops: f64,
    bytes: f64,
}

impl Limits {
    fn measure(engine: &Engine) -> Self {
        let bytes = machine::read_speed(engine.threads(), 256 << 20, 3) * 1e9;
        Self {
            flops: matrix_limit(engine),
            bytes,
        }
    }
}

/// Floating-point operations of the matrix products and the attention of `work` on an engine that only counts.
fn counted(rehearsal: &Engine, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let operations = || rehearsal.account().map_or(0.0, |account| account.operations);
    let before = operations();
    work()?;
    Ok(operations() - before)
}

/// Operations a second of large matrix products. Unlike reading memory, it takes none to speak of to measure.
fn matrix_limit(engine: &Engine) -> f64 {
    machine::matrix_speed(engine.isa(), engine.precision(), engine.threads(), 1024, 0.3) * 1e9
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
