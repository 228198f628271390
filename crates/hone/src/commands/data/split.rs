//! `hone data split`: conversations in two parts by chance, one to learn from and one to judge by.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use hone_pipeline::recipe::{SplitConfig, split};
use serde_json::json;

use super::FileArguments;
use crate::failure::Failure;
use crate::output::{Output, note};

#[derive(Args)]
pub struct SplitArguments {
    #[command(flatten)]
    file: FileArguments,
    /// The folder to write, which appears whole or not at all
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The probability of a row to be held out
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    held_out: f64,
    /// Which rows these are follows from it and from what the rows ask
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leaves longer replies out of what is learned from, never out of what is held out
    #[arg(long, value_name = "CHARACTERS")]
    longest_reply: Option<usize>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: &SplitArguments) -> Result<()> {
    let out = &arguments.out;
    let free = !out.exists() || std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    if !free {
        let message = format!("{}: is there already; expected a new folder", out.display());
        return Err(Failure::usage(message).hint("give another --out, or delete it").into());
    }
    let config = SplitConfig {
        file: arguments.file.source(),
        held_out: arguments.held_out,
        seed: arguments.seed,
        longest_reply: arguments.longest_reply,
    };
    let report = split(&config, out)?;
    let file = arguments.file.file.display();
    if report.loading.bad > 0 {
        let first = report.loading.samples_of_bad.first();
        let first = first.map_or(String::new(), |row| format!("; line {}: {}", row.line, row.reason));
        note(&format!("{file}: {} rows could not be used{first}", report.loading.bad));
    }
    for text in &report.loading.notes {
        note(&format!("{file}: {text}"));
    }
    let mut output = Output::new();
    if arguments.json {
        output.json(&json!({
            "out": out,
            "train": report.train,
            "held_out": report.held_out,
            "longer": report.longer,
        }))?;
    } else {
        let longer = match (report.longer, arguments.longest_reply) {
            (0, _) | (_, None) => String::new(),
            (rows, Some(most)) => format!(", {rows} with a reply of more than {most} characters left out"),
        };
        output.line(&format!(
            "{}: {} rows to learn from, {} held out{longer}",
            out.display(),
            report.train,
            report.held_out
        ))?;
    }
    Ok(output.finish()?)
}
