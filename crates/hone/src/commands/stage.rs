//! `hone pretrain|sft|reward|preference|ppo|grpo|expert-iteration|online-preference CONFIG.toml`: one stage in a run directory of its own.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use hone_run::{Configuration, Resolved, Shutdown, config};
use hone_train::{Job, Outcome};
use serde_json::json;

use super::shared::RunArguments;
use crate::failure::Failure;
use crate::output::Output;
use crate::watch::Watch;

/// A stage's arguments.
#[derive(Args)]
pub struct Arguments {
    /// The configuration; `hone config init STAGE` writes one with comments
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Set a key of the configuration, such as train.learning_rate=1e-4, or take one out, as train.steps= does; may be
    /// repeated. Relative paths in it, as in the file, are taken from the working directory
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The run's name [default: the configuration's file name without its ending]
    #[arg(long, value_name = "NAME")]
    name: Option<PathBuf>,
    /// Where runs are kept; the same command goes on with a run that was stopped
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    #[command(flatten)]
    run: RunArguments,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Runs a stage, or goes on with it.
pub fn run<T>(
    arguments: &Arguments,
    shutdown: Shutdown,
    stage: fn(&Job, &Resolved<T>) -> Result<Outcome, hone_train::TrainError>,
) -> Result<()>
where
    T: Configuration,
{
    let resolved = config::load::<T>(&arguments.config, &arguments.set)?;
    let name = arguments
        .name
        .clone()
        .unwrap_or_else(|| config::run_name(&arguments.config));
    let job = Job {
        dir: arguments.runs.join(name),
        base: PathBuf::new(),
        observer: Arc::new(Watch::new()),
        shutdown,
        allow_isa_change: arguments.run.allow_isa_change,
        threads: arguments.run.threads(),
    };
    let dir = job.dir.clone();
    match stage(&job, &resolved)? {
        Outcome::Done { model, summary, before } => {
            let mut out = Output::new();
            if arguments.json {
                out.json(&json!({ "run": dir, "model": model, "finished_before": before, "summary": summary }))?;
            } else {
                let when = if before { "was finished before" } else { "is finished" };
                out.line(&format!("The run {} {when}.", dir.display()))?;
                out.line(&format!("model   {}", model.display()))?;
                out.line(&format!("report  {}", dir.join("report.html").display()))?;
            }
            Ok(out.finish()?)
        }
        Outcome::Stopped { step } => Err(Failure::resumable(format!(
            "stopped after step {step}; the same command goes on from there"
        ))
        .into()),
    }
}
