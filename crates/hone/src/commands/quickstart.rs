//! `hone quickstart`: the whole pipeline on the bundled small world.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::{Args, ValueEnum};
use hone_pipeline::{QuickstartOptions, QuickstartResult, Scale, quickstart};
use hone_run::Shutdown;

use super::shared::RunArguments;
use crate::failure::Failure;
use crate::output::Output;
use crate::watch::Watch;

/// Pre-train, tune, judge and practise on the bundled small world, in a few minutes
///
/// Trains a small GPT on generated text, tunes it on experts' answers, has a simulated labeler rank its answers, trains
/// a reward model on the rankings, improves the model by PPO, and compares all of them on held-out questions.
#[derive(Args)]
pub struct Arguments {
    /// The folder to write; the same command goes on where it was stopped
    #[arg(long, value_name = "DIR", default_value = "runs/quickstart")]
    out: PathBuf,
    /// How much of everything
    #[arg(long, value_enum, default_value = "default")]
    scale: ScaleArgument,
    /// Every random number follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Set a key of a stage, such as ppo.kl_coef=0 or sft.train.steps=100, or take one out, as sft.train.steps= does; may
    /// be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    run: RunArguments,
    /// results.json on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScaleArgument {
    /// A check that everything runs, in half a minute
    Smoke,
    /// A few minutes
    Default,
}

/// Runs it and prints the table.
pub fn run(arguments: &Arguments, shutdown: Shutdown) -> Result<()> {
    let options = QuickstartOptions {
        out: arguments.out.clone(),
        scale: match arguments.scale {
            ScaleArgument::Smoke => Scale::Smoke,
            ScaleArgument::Default => Scale::Default,
        },
        seed: arguments.seed,
        set: arguments.set.clone(),
        threads: arguments.run.threads(),
        allow_isa_change: arguments.run.allow_isa_change,
    };
    let result = quickstart(&options, Arc::new(Watch::new()), shutdown)?;
    let mut out = Output::new();
    if arguments.json {
        out.json(&result)?;
    } else {
        table(&mut out, &result)?;
    }
    out.finish()?;
    if result.expectation_missed() {
        let failed = result.checks.iter().filter(|check| !check.holds);
        let expected: Vec<_> = failed.map(|c| format!("{} ({})", c.expected, c.found)).collect();
        return Err(Failure::expectation(format!("the order was expected otherwise: {}", expected.join("; "))).into());
    }
    Ok(())
}

fn table(out: &mut Output, result: &QuickstartResult) -> Result<()> {
    out.line(&format!(
        "{:<10} {:>9} {:>15} {:>9} {:>14}",
        "", "win rate", "95% interval", "kl", "bits per byte"
    ))?;
    for row in &result.rows {
        let kl = row.kl.map_or_else(|| "-".to_string(), |kl| format!("{kl:.3}"));
        let interval = format!("{:.3} to {:.3}", row.low, row.high);
        out.line(&format!(
            "{:<10} {:>9.3} {interval:>15} {kl:>9} {:>14.4}",
            row.name, row.win_rate, row.bits_per_byte
        ))?;
    }
    out.line("")?;
    out.line(&format!("report  {}/report.html", result.out))?;
    out.line(&format!("chat    hone chat --model {}/ppo-ptx/model", result.out))?;
    Ok(())
}
