//! `hone compare RECIPE.toml`: methods from one start under one judge.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use hone_pipeline::compare::{MethodResult, PAGE};
use hone_pipeline::{CompareOptions, Compared, compare};
use hone_run::Shutdown;

use super::shared::RunArguments;
use crate::failure::Failure;
use crate::output::Output;
use crate::watch::Watch;

/// Compare methods: one start, the same prompts, the same judge, one picture of reward against KL
///
/// Runs the recipe's stages and every method once a seed, has each model answer the judge's prompts, and writes compare.json and compare.html.
/// What is there is not made again: the same command goes on where it was stopped.
#[derive(Args)]
pub struct Arguments {
    /// The comparison
    #[arg(value_name = "RECIPE.toml")]
    path: PathBuf,
    /// The folder of everything [default: runs/ and the recipe's name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Set a key of a stage or method by its name, such as grpo.train.learning_rate=1e-5, or of compare, judge and proxy, such as
    /// judge.episodes=50; may be repeated
    #[arg(long = "set", value_name = "NAME.KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    run: RunArguments,
    /// compare.json on stdout
    #[arg(long)]
    json: bool,
}

/// Runs it and prints the table.
pub fn run(arguments: &Arguments, shutdown: Shutdown) -> Result<()> {
    let options = CompareOptions {
        path: arguments.path.clone(),
        out: arguments.out.clone(),
        base: PathBuf::new(),
        set: arguments.set.clone(),
        threads: arguments.run.threads(),
        allow_isa_change: arguments.run.allow_isa_change,
    };
    let compared = compare(&options, Arc::new(Watch::new()), shutdown)?;
    let mut out = Output::new();
    if arguments.json {
        out.json(&compared.result)?;
    } else {
        table(&mut out, &compared)?;
    }
    out.finish()?;
    if compared.expectation_missed() {
        let failed = compared.expectations.iter().filter(|e| !e.holds).count();
        return Err(Failure::expectation(format!(
            "{failed} of {} expectations do not hold",
            compared.expectations.len()
        ))
        .into());
    }
    Ok(())
}

fn table(out: &mut Output, compared: &Compared) -> Result<()> {
    let methods = &compared.result.methods;
    let width = methods
        .iter()
        .map(|method| method.name.len() + 2)
        .max()
        .unwrap_or(0)
        .max(6);
    out.line(&format!(
        "{:<width$} {:>8} {:>18} {:>8} {:>8} {:>8} {:>10}",
        "", "reward", "95% interval", "optimum", "kl", "wins", "sampled"
    ))?;
    for method in methods {
        out.line(&line(method, width))?;
    }
    if methods.iter().any(MethodResult::is_upper_bound) {
        out.line("* the judge itself chose among the samples: an upper bound")?;
    }
    out.line("")?;
    for took in &compared.times {
        let planned = took
            .planned
            .map_or(String::new(), |minutes| format!(" of {minutes:.1} planned"));
        out.line(&format!(
            "{}, seed {}: {:.1} minutes{planned}",
            took.method, took.seed, took.minutes
        ))?;
    }
    if let Some(found) = &compared.result.overoptimisation {
        for look in found.looks() {
            out.line(&format!("look here: {look}"))?;
        }
    }
    for course in compared.result.overoptimisation.iter().flat_map(|found| &found.courses) {
        if course.parted.is_some() {
            out.line(&format!(
                "look here: from update {} to the end of {}, seed {}, what it maximised rose and what counts fell",
                course.best_step, course.method, course.seed
            ))?;
        }
    }
    for overlap in compared.result.overlaps.iter().filter(|overlap| overlap.judged > 0) {
        out.line(&format!(
            "{}: practised on {} of the {} that are judged",
            overlap.by, overlap.judged, compared.result.prompts
        ))?;
    }
    for expectation in &compared.expectations {
        let mark = if expectation.holds { "holds" } else { "does not hold" };
        out.line(&format!("{mark}: {} ({})", expectation.that, expectation.found))?;
    }
    out.line(&format!("page  {}", compared.out.join(PAGE).display()))?;
    Ok(())
}

fn line(method: &MethodResult, width: usize) -> String {
    let m = &method.measures;
    let number = |value: Option<f64>, places: usize| value.map_or("-".to_string(), |value| format!("{value:.places$}"));
    let mark = if method.is_upper_bound() { " *" } else { "" };
    format!(
        "{:<width$} {:>8.3} {:>18} {:>8} {:>8} {:>8.3} {:>10}",
        format!("{}{mark}", method.name),
        m.reward.mean,
        format!("{:.3} to {:.3}", m.reward.low, m.reward.high),
        number(m.share_of_optimum, 3),
        number(m.kl.map(|kl| kl.mean), 3),
        m.win_rate.mean,
        number(m.tokens_sampled, 0)
    )
}
