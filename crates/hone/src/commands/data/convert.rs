//! `hone data convert`: any file that hone reads, as JSON lines.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use hone_data::{
    DataError, Limits, LoadReport, Source, for_each_demonstration, for_each_document, for_each_prompt,
    for_each_ranking, inspect,
};
use serde_json::{Map, Value, json};

use super::FileArguments;
use crate::failure::Failure;
use crate::output::note;

#[derive(Args)]
pub struct ConvertArguments {
    #[command(flatten)]
    file: FileArguments,
    /// What its rows become; what the file's format is for, unless given
    #[arg(long = "as", value_enum)]
    wanted: Option<Wanted>,
    /// The file to write, which appears whole or not at all; standard output unless given
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Rows read at most
    #[arg(long, value_name = "N")]
    rows: Option<u64>,
}

/// What rows become.
#[derive(Clone, Copy, ValueEnum)]
enum Wanted {
    /// `text`: documents to pre-train on
    Text,
    /// `messages`: conversations to imitate
    Conversations,
    /// `prompt`, `responses`, `ranking`: which reply is better
    Preferences,
    /// `prompt`: what to answer
    Prompts,
}

impl From<hone_data::Kind> for Wanted {
    fn from(kind: hone_data::Kind) -> Self {
        match kind {
            hone_data::Kind::Text => Self::Text,
            hone_data::Kind::Conversations => Self::Conversations,
            hone_data::Kind::Preferences => Self::Preferences,
            hone_data::Kind::Prompts => Self::Prompts,
        }
    }
}

/// Runs the command. One row is in memory at a time; of a dump of posts, a part of it.
pub fn run(arguments: &ConvertArguments) -> Result<()> {
    let mut source = arguments.file.source();
    source.max_rows = arguments.rows;
    let wanted = match arguments.wanted {
        Some(wanted) => wanted,
        None => kind_of(&source, &arguments.file.file)?.into(),
    };
    let report = match &arguments.out {
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            let report = convert(&source, wanted, &mut out)?;
            out.flush()?;
            report
        }
        Some(path) => to_file(path, |out| convert(&source, wanted, out))?,
    };
    let file = arguments.file.file.display();
    note(&format!(
        "{file}: {} rows, {} of them written",
        report.rows, report.items
    ));
    if report.bad > 0 {
        let first = report.samples_of_bad.first();
        let first = first.map_or(String::new(), |row| format!("; line {}: {}", row.line, row.reason));
        note(&format!("{file}: {} rows could not be used{first}", report.bad));
    }
    for text in &report.notes {
        note(&format!("{file}: {text}"));
    }
    Ok(())
}

/// What the file's format is for, by its first rows.
fn kind_of(source: &Source, path: &Path) -> Result<hone_data::Kind> {
    let found = inspect(&Source {
        max_rows: Some(100),
        ..source.clone()
    })?;
    found.kind.or(found.format.map(hone_data::Format::kind)).ok_or_else(|| {
        let text = format!("{}: of no known format: {}", path.display(), found.notes.join("; "));
        Failure::failed(text).into()
    })
}

/// Writes to a file beside the place, and moves it there when it is whole.
fn to_file<T>(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<T>) -> Result<T> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let context = || path.display().to_string();
    let mut out = BufWriter::new(File::create(&temporary).with_context(context)?);
    let made = write(&mut out);
    let whole = made.and_then(|made| {
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        Ok(made)
    });
    if whole.is_err() {
        // What stands there is half a file
        let _ = std::fs::remove_file(&temporary);
    }
    whole.with_context(context)
}

fn convert(source: &Source, wanted: Wanted, out: &mut dyn Write) -> Result<LoadReport> {
    let mut failure = None;
    let mut line = |row: Value| {
        let wrote = serde_json::to_writer(&mut *out, &row).map_err(io::Error::from);
        wrote.and_then(|()| out.write_all(b"\n")).map_err(|error| {
            let reason = error.to_string();
            failure.get_or_insert(error);
            DataError::Row { reason }
        })
    };
    let with = |mut row: Map<String, Value>, key: &str, value: Value| {
        row.insert(key.into(), value);
        Value::Object(row)
    };
    let limits = Limits::default();
    let report = match wanted {
        Wanted::Text => for_each_document(source, &limits, &mut |d| line(json!({ "text": d.text }))),
        Wanted::Conversations => for_each_demonstration(source, &limits, &mut |d| {
            line(with(d.extra, "messages", json!(d.messages)))
        }),
        Wanted::Preferences => for_each_ranking(source, &limits, &mut |r| {
            let row = json!({ "prompt": r.prompt, "responses": r.responses, "ranking": r.groups });
            match (row, r.margins) {
                (Value::Object(row), Some(margins)) => line(with(row, "margins", json!(margins))),
                (row, _) => line(row),
            }
        }),
        Wanted::Prompts => for_each_prompt(source, &limits, &mut |p| line(with(p.extra, "prompt", json!(p.input)))),
    };
    match failure {
        // The place to write to refused; the rows are not at fault
        Some(error) => Err(error.into()),
        None => Ok(report?),
    }
}
