//! `hone run RECIPE.toml`: stages in order, each resumable, with stated expectations.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use hone_pipeline::{RecipeOptions, run_recipe};
use hone_run::Shutdown;
use serde_json::json;

use super::shared::RunArguments;
use crate::failure::Failure;
use crate::output::Output;
use crate::watch::Watch;

/// Run the stages of a recipe in order
#[derive(Args)]
pub struct Arguments {
    /// The recipe
    #[arg(value_name = "RECIPE.toml")]
    path: PathBuf,
    /// Where its runs are kept; the same command goes on where it was stopped
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// Set a key of a stage by its name in the recipe, such as base.train.steps=200, or take one out, as base.train.steps=
    /// does; may be repeated
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    run: RunArguments,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Runs it and says what became of its expectations.
pub fn run(arguments: &Arguments, shutdown: Shutdown) -> Result<()> {
    let options = RecipeOptions {
        path: arguments.path.clone(),
        runs: arguments.runs.clone(),
        base: PathBuf::new(),
        set: arguments.set.clone(),
        threads: arguments.run.threads(),
        allow_isa_change: arguments.run.allow_isa_change,
    };
    let result = run_recipe(&options, Arc::new(Watch::new()), shutdown)?;
    let mut out = Output::new();
    if arguments.json {
        let stages: Vec<_> = result
            .stages
            .iter()
            .map(|s| json!({ "name": s.name, "dir": s.dir, "summary": s.summary }))
            .collect();
        let met: Vec<_> = result
            .expectations
            .iter()
            .map(|e| json!({ "expected": e.that, "found": e.found, "holds": e.holds }))
            .collect();
        out.json(&json!({ "stages": stages, "expectations": met }))?;
    } else {
        for stage in &result.stages {
            out.line(&format!("{:<20} {}", stage.name, stage.dir.display()))?;
        }
        for expectation in &result.expectations {
            let mark = if expectation.holds { "holds" } else { "does not hold" };
            out.line(&format!("{mark}: {} ({})", expectation.that, expectation.found))?;
        }
    }
    out.finish()?;
    if result.expectation_missed() {
        let failed = result.expectations.iter().filter(|e| !e.holds).count();
        return Err(Failure::expectation(format!(
            "{failed} of {} expectations do not hold",
            result.expectations.len()
        ))
        .into());
    }
    Ok(())
}
