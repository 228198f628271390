//! `hone tokenizer`: making a tokenizer from text.

use std::cell::RefCell;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use hone_data::{DataError, Source, hold_out_documents, load_documents};
use hone_text::{AddSpecial, Digits, TrainOptions, train_bpe};
use serde_json::json;

use crate::input::{check_output_directory, parse_share};
use crate::model::resolve_directory;
use crate::output::{self, Output};

/// Train and look at tokenizers
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a byte-level BPE tokenizer with a ChatML template
    Train(TrainArguments),
    /// Show the tokens of a text
    Encode(EncodeArguments),
}

#[derive(Args)]
struct TrainArguments {
    /// Text files: plain, or JSON lines, CSV or Parquet with a text column
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Ids wanted: 3 control tokens, 256 bytes, the rest merges
    #[arg(long, default_value_t = 8192)]
    vocab_size: usize,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Leaves out the last share of each file, such as 0.05: what pre-training holds out
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    held_out: Option<f64>,
    /// How digits are cut
    #[arg(long, value_enum, default_value = "single")]
    digits: DigitsArgument,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum DigitsArgument {
    /// Each digit is a token
    Single,
    /// Groups of up to three
    UpToThree,
}

#[derive(Args)]
struct EncodeArguments {
    /// The tokenizer's directory, or a hub id
    #[arg(long, value_name = "DIR")]
    model: String,
    /// The text
    text: String,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Command::Train(arguments) => train(arguments),
        Command::Encode(arguments) => encode(arguments),
    }
}

fn train(arguments: &TrainArguments) -> Result<()> {
    check_output_directory(&arguments.out)?;
    let digits = match arguments.digits {
        DigitsArgument::Single => Digits::Single,
        DigitsArgument::UpToThree => Digits::UpToThree,
    };
    let read = |path: &PathBuf| {
        let items = load_documents(&Source::new(path))?.items;
        match arguments.held_out {
            Some(share) => Ok(hold_out_documents(items, share)?.train),
            None => Ok(items),
        }
    };
    // One file at a time is in memory; the first that fails ends the text and is told of.
    let failure: RefCell<Option<DataError>> = RefCell::new(None);
    let texts = arguments.files.iter().map_while(|path| match read(path) {
        Ok(items) => {
            output::note(&format!("{}: {} documents", path.display(), items.len()));
            Some(items.into_iter().map(|document| document.text))
        }
        Err(error) => {
            *failure.borrow_mut() = Some(error);
            None
        }
    });
    let options = TrainOptions {
        vocab_size: arguments.vocab_size,
        digits,
        ..TrainOptions::default()
    };
    let trained = train_bpe(texts.flatten(), &options);
    if let Some(error) = failure.into_inner() {
        return Err(error.into());
    }
    let tokenizer = trained?;
    hone_run::publish_dir(&arguments.out, &mut |folder| {
        tokenizer.save(folder).map(|_| ()).map_err(|error| hone_run::Error::Io {
            action: "write the tokenizer",
            path: folder.to_path_buf(),
            source: std::io::Error::other(error),
        })
    })?;
    let size = tokenizer.vocab_size();
    if size < arguments.vocab_size {
        output::note(&format!(
            "the text is too small for {} ids: {size}",
            arguments.vocab_size
        ));
    }
    let mut output = Output::new();
    if arguments.json {
        output.json(&json!({ "out": arguments.out, "vocab_size": size, "digest": tokenizer.digest() }))?;
    } else {
        output.line(&format!("{}: {size} ids", arguments.out.display()))?;
    }
    Ok(output.finish()?)
}

fn encode(arguments: &EncodeArguments) -> Result<()> {
    let tokenizer = hone_text::Tokenizer::from_dir(resolve_directory(&arguments.model)?)?;
    let ids = tokenizer.encode(&arguments.text, AddSpecial::Yes)?;
    let tokens: Vec<String> = ids
        .iter()
        .map(|&id| tokenizer.id_to_token(id).unwrap_or_default())
        .collect();
    let mut output = Output::new();
    if arguments.json {
        output.json(&json!({ "ids": ids, "tokens": tokens }))?;
    } else {
        for (id, token) in ids.iter().zip(&tokens) {
            output.line(&format!("{id:>7}  {token}"))?;
        }
    }
    Ok(output.finish()?)
}
