//! `hone doctor`: what this machine has, and how fast it is.

use anyhow::Result;
use clap::Args;
use hone_compute::{Isa, Precision};
use serde_json::json;

use crate::machine;
use crate::model::EngineArguments;
use crate::output::Output;

/// Show what this machine has: instruction sets, threads, memory, measured speeds
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    engine: EngineArguments,
    /// Leaves the measurements out
    #[arg(long)]
    quick: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Seconds a matrix product is measured.
const SECONDS: f64 = 0.5;

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let engine = arguments.engine.engine()?;
    let (isa, threads) = (engine.isa(), engine.threads());
    let sets: Vec<_> = Isa::ALL
        .iter()
        .map(|set| json!({ "name": set.name(), "here": how(*set), "chosen": *set == isa }))
        .collect();
    let memory = machine::memory_bytes();
    let mut report = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "processor": machine::processor(),
        "instruction_sets": sets,
        "chosen": isa.name(),
        "threads": threads,
        "memory_bytes": memory.map(|(total, _)| total),
        "available_bytes": memory.map(|(_, available)| available),
    });
    if !arguments.quick {
        let size = if isa == Isa::Portable { 512 } else { 1536 };
        let speed = |precision| machine::matrix_speed(isa, precision, threads, size, SECONDS);
        report["matrix_gflops"] =
            json!({ "bf16": speed(Precision::Bf16), "f32": speed(Precision::F32), "size": size });
        report["memory_gb_per_second"] = json!(machine::read_speed(threads, 512 << 20, 3));
    }
    let mut output = Output::new();
    if arguments.json {
        output.json(&report)?;
        return Ok(output.finish()?);
    }
    let mut line = |name: &str, text: String| output.line(&format!("{name:<18} {text}"));
    line("hone", env!("CARGO_PKG_VERSION").into())?;
    line(
        "processor",
        machine::processor().unwrap_or_else(|| "unknown".into()),
    )?;
    for set in Isa::ALL {
        let chosen = if set == isa { ", in use" } else { "" };
        line(
            if set == Isa::ALL[0] {
                "instruction sets"
            } else {
                ""
            },
            format!("{:<11} {}{chosen}", set.name(), how(set)),
        )?;
    }
    line("threads", threads.to_string())?;
    if let Some((total, available)) = memory {
        line(
            "memory",
            format!(
                "{:.1} GB, {:.1} GB available",
                total as f64 / 1e9,
                available as f64 / 1e9
            ),
        )?;
    }
    if !arguments.quick {
        let speed = &report["matrix_gflops"];
        let number = |value: &serde_json::Value| value.as_f64().unwrap_or_default();
        let (bf16, f32) = (number(&speed["bf16"]), number(&speed["f32"]));
        line(
            "matrix products",
            format!(
                "{bf16:.0} GFLOP/s in bf16, {f32:.0} in f32 ({0} x {0})",
                speed["size"]
            ),
        )?;
        line(
            "memory reads",
            format!("{:.1} GB/s", number(&report["memory_gb_per_second"])),
        )?;
    }
    Ok(output.finish()?)
}

fn how(isa: Isa) -> &'static str {
    match (isa.in_hardware(), isa.runs_here()) {
        (true, _) => "in hardware",
        (false, true) => "emulated",
        (false, false) => "not here",
    }
}
