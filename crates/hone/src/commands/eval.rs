//! `hone eval`: measurements of models.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use hone_data::{DEFAULT_TOKEN_CAP, Source, TokenStream, hold_out_documents, load_documents};
use hone_eval::{BitsPerByte, bits_per_byte};
use serde::Serialize;

use crate::failure::Failure;
use crate::input::parse_share;
use crate::model::{EngineArguments, ModelArguments};
use crate::output::{self, Output};
use crate::progress::Progress;

/// Measure a model
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    metric: Metric,
}

#[derive(Subcommand)]
enum Metric {
    /// -log2 likelihood of documents over their UTF-8 bytes
    ///
    /// Each document follows <|endoftext|>, in consecutive windows, without a template.
    BitsPerByte(BitsPerByteArguments),
}

#[derive(Args)]
struct BitsPerByteArguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    engine: EngineArguments,
    /// Text files: plain, or JSON lines, CSV or Parquet with a text column
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Takes the last share of each file only, such as 0.05
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    held_out: Option<f64>,
    /// Tokens a window; `eval/bits_per_byte` of a run has its data.max_length [default: the model's context]
    #[arg(long, value_name = "TOKENS")]
    length: Option<usize>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    all: BitsPerByte,
    files: Vec<FileReport>,
}

#[derive(Serialize)]
struct FileReport {
    path: PathBuf,
    #[serde(flatten)]
    measured: BitsPerByte,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.metric {
        Metric::BitsPerByte(arguments) => run_bits_per_byte(arguments),
    }
}

fn run_bits_per_byte(arguments: &BitsPerByteArguments) -> Result<()> {
    let engine = arguments.engine.engine()?;
    let loaded = arguments.model.load(&engine)?;
    let Some(separator) = loaded.tokenizer.document_separator() else {
        let text = format!(
            "{}: the tokenizer has no <|endoftext|>, bos or eos to begin a document with",
            loaded.tokenizer_directory.display()
        );
        return Err(Failure::failed(text).into());
    };
    let mut report = Report {
        all: BitsPerByte::default(),
        files: Vec::new(),
    };
    for path in &arguments.data {
        let read = load_documents(&Source::new(path))?;
        for sentence in &read.report.notes {
            output::note(&format!("{}: {sentence}", path.display()));
        }
        let documents = match arguments.held_out {
            Some(share) => hold_out_documents(read.items, share)?.held_out,
            None => read.items,
        };
        let mut stream = TokenStream::new(separator, DEFAULT_TOKEN_CAP);
        for document in documents {
            stream.push_ids(
                &loaded.tokenizer.encode_ordinary(&document.text)?,
                document.text.len() as u64,
            )?;
        }
        let length = arguments.length.unwrap_or(loaded.model.architecture().context);
        let total = (stream.ids().len() - 1 - stream.documents()) as u64;
        let mut progress = Progress::new("tokens", total);
        let measured = bits_per_byte(&engine, &loaded.model, &stream, length, &mut |done| {
            progress.set(done, done)
        })?;
        report.all = report.all.joined(&measured);
        report.files.push(FileReport {
            path: path.clone(),
            measured,
        });
    }
    let mut output = Output::new();
    if arguments.json {
        output.json(&report)?;
    } else {
        for file in &report.files {
            output.line(&line(&file.path.display().to_string(), &file.measured))?;
        }
        if report.files.len() > 1 {
            output.line(&line("all", &report.all))?;
        }
    }
    Ok(output.finish()?)
}

fn line(name: &str, measured: &BitsPerByte) -> String {
    let BitsPerByte {
        bits_per_byte,
        tokens,
        bytes,
        documents,
        ..
    } = measured;
    format!("{name}: {bits_per_byte:.4} bits a byte ({documents} documents, {bytes} bytes, {tokens} tokens)")
}
