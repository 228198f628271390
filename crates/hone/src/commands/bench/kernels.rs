//! What the machine can do at best: matrix products and reads.

use anyhow::Result;
use clap::Args;

use super::Report;
use crate::input::parse_size;
use crate::machine;
use crate::model::EngineArguments;

/// Arguments of `bench gemm`.
#[derive(Args)]
pub struct GemmArguments {
    #[command(flatten)]
    engine: EngineArguments,
    /// Rows, columns and length of the sums
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    size: u32,
    /// Measurements
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: u32,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `bench memory`.
#[derive(Args)]
pub struct MemoryArguments {
    #[command(flatten)]
    engine: EngineArguments,
    /// Bytes of the array that is read
    #[arg(long, default_value = "512M", value_parser = parse_size)]
    bytes: usize,
    /// Measurements
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: u32,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Square matrix products with the instruction set in use.
pub fn gemm(arguments: &GemmArguments) -> Result<()> {
    let engine = arguments.engine.engine()?;
    let (isa, precision, threads) = (engine.isa(), engine.precision(), engine.threads());
    let size = arguments.size as usize;
    let measure = |_| machine::matrix_speed(isa, precision, threads, size, 0.2);
    let warm_up = vec![measure(0)];
    let runs: Vec<f64> = (0..arguments.steps).map(measure).collect();
    let report = Report {
        work: format!("matrix product {size} x {size} x {size}, {isa}, {precision:?}, {threads} threads"),
        unit: "GFLOP/s",
        warm_up,
        peak_bytes: machine::peak_bytes(),
        runs,
        ..Report::default()
    };
    report.print(arguments.json)
}

/// Reads of an array by all threads.
pub fn memory(arguments: &MemoryArguments) -> Result<()> {
    let threads = arguments.engine.engine()?.threads();
    let bytes = arguments.bytes.max(1 << 16);
    let runs: Vec<f64> = (0..arguments.steps)
        .map(|_| machine::read_speed(threads, bytes, 2))
        .collect();
    let report = Report {
        work: format!("reading {bytes} bytes, {threads} threads"),
        unit: "GB/s",
        peak_bytes: machine::peak_bytes(),
        runs,
        ..Report::default()
    };
    report.print(arguments.json)
}
