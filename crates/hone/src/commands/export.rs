//! `hone export`: a model directory for other programs, its adapter merged, that proves itself.
//!
//! What was written is read back and run; its log-probabilities are compared with the original's, token by token.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use hone_compute::Engine;
use hone_generate::logprobs_of;
use hone_math::Key;
use hone_model::{Dtype, Transformer, load, load_adapter};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::input::check_output_directory;
use crate::model::{EngineArguments, LoadedModel, ModelArguments, Place, PrecisionArgument};
use crate::output::Output;

/// Files that belong to a tokenizer, copied as they are.
const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
];

/// Write a model for other programs, a LoRA adapter merged into it
///
/// The written model is read back and run, and its log-probabilities are compared with the original's.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The type of the written numbers
    #[arg(long, value_enum, default_value = "f32")]
    dtype: DtypeArgument,
    /// How the comparison is computed
    #[arg(long, value_enum, default_value = "f32")]
    precision: PrecisionArgument,
    /// Threads; results do not depend on it
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,
    /// The largest difference of log-probabilities that is let pass [default: 0.001 for f32, else none]
    #[arg(long, value_name = "NATS")]
    tolerance: Option<f64>,
    /// Writes the adapter alone, in PEFT layout, instead of merging it
    #[arg(long)]
    unmerged: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DtypeArgument {
    F32,
    Bf16,
    F16,
}

impl DtypeArgument {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::Bf16,
            Self::F16 => Dtype::F16,
        }
    }

    /// As `config.json` spells it.
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }
}

/// How far the written model is from the original.
struct Comparison {
    tokens: usize,
    largest: f64,
    mean: f64,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let out = &arguments.out;
    check_output_directory(out)?;
    check_not_a_source(out, &arguments.model.resolve()?)?;
    let engine = EngineArguments {
        precision: arguments.precision,
        threads: arguments.threads,
    }
    .engine()?;
    let loaded = arguments.model.load(&engine)?;
    if arguments.unmerged && loaded.model.adapter().is_none() {
        let failure = Failure::usage("--unmerged writes an adapter, and the model has none");
        return Err(failure.hint("name its directory by --adapter").into());
    }
    let merges = !arguments.unmerged && loaded.model.adapter().is_some();
    let merged = merges.then(|| loaded.model.duplicate().merge_adapter(&engine));
    let writes = Writes {
        engine: &engine,
        loaded: &loaded,
        model: merged.as_ref().unwrap_or(&loaded.model),
    };
    hone_run::publish_dir(out, &mut |folder| {
        let written = if arguments.unmerged {
            writes.adapter(folder)
        } else {
            writes.model(folder, arguments.dtype)
        };
        written.map_err(|source| hone_run::Error::Io {
            action: "write the model",
            path: folder.to_path_buf(),
            source,
        })
    })?;
    drop(merged);
    let written = if arguments.unmerged {
        let (mut base, _) = load(&engine, &loaded.directory)?;
        load_adapter(&engine, &mut base, out)?;
        base
    } else {
        load(&engine, out)?.0
    };
    let compared = compare(&engine, &loaded.model, &written);
    let mut output = Output::new();
    if arguments.json {
        output.json(&json!({
            "out": out, "dtype": arguments.dtype.name(), "merged": merges,
            "tokens": compared.tokens, "largest_difference": compared.largest, "mean_difference": compared.mean,
        }))?;
    } else {
        let Comparison { tokens, largest, mean } = compared;
        output.line(&format!("{}: {}", out.display(), arguments.dtype.name()))?;
        output.line(&format!(
            "largest difference of log-probabilities: {largest:.3e} nats over {tokens} tokens (mean {mean:.3e})"
        ))?;
    }
    output.finish()?;
    let tolerance = arguments
        .tolerance
        .or((arguments.dtype == DtypeArgument::F32).then_some(1e-3));
    match tolerance {
        Some(tolerance) if compared.largest.is_nan() || compared.largest > tolerance => {
            let text = format!(
                "{}: differs from the original by {:.3e} nats; at most {tolerance:.3e} was to pass",
                out.display(),
                compared.largest
            );
            Err(Failure::expectation(text).into())
        }
        _ => Ok(()),
    }
}

/// Refuses to replace what is read, or the result of a run.
fn check_not_a_source(out: &Path, from: &Place) -> Result<()> {
    let Ok(target) = fs::canonicalize(out) else {
        return Ok(());
    };
    let refuse = |what: String| {
        let failure = Failure::usage(format!("{}: {what}; expected another folder", out.display()));
        Err(failure.hint("name a folder that is not there yet").into())
    };
    for (source, what) in [(Some(&from.base), "model"), (from.adapter.as_ref(), "adapter")] {
        let source = source.and_then(|source| fs::canonicalize(source).ok());
        if source.is_some_and(|source| source.starts_with(&target)) {
            return refuse(format!("the {what} itself"));
        }
    }
    let in_a_run = target.parent().is_some_and(|parent| parent.join("run.toml").is_file());
    if in_a_run && target.ends_with("model") {
        return refuse("the result of a run".into());
    }
    Ok(())
}

struct Writes<'a> {
    engine: &'a Engine,
    loaded: &'a LoadedModel,
    model: &'a Transformer,
}

impl Writes<'_> {
    /// The adapter in PEFT's layout, on the base model as it stands here, with its tokenizer where it has its own.
    fn adapter(&self, folder: &Path) -> io::Result<()> {
        let base = fs::canonicalize(&self.loaded.directory)?;
        let config = self.model.adapter_json(&base.to_string_lossy());
        fs::write(folder.join("adapter_config.json"), config.unwrap_or_default())?;
        let mut file = BufWriter::new(File::create(folder.join("adapter_model.safetensors"))?);
        self.model.write_adapter(self.engine, &mut file)?;
        file.flush()?;
        if self.loaded.tokenizer_directory == self.loaded.directory {
            return Ok(());
        }
        self.tokenizer(folder)
    }

    fn model(&self, folder: &Path, dtype: DtypeArgument) -> io::Result<()> {
        let mut config: Value = serde_json::from_str(&self.model.config_json(&self.loaded.config.tokens))?;
        for key in ["dtype", "torch_dtype"] {
            config[key] = json!(dtype.name());
        }
        let mut text = serde_json::to_string_pretty(&config)?;
        text.push('\n');
        fs::write(folder.join("config.json"), text)?;
        let mut file = BufWriter::new(File::create(folder.join("model.safetensors"))?);
        self.model.write_weights(self.engine, dtype.dtype(), &mut file)?;
        file.flush()?;
        self.tokenizer(folder)
    }

    fn tokenizer(&self, folder: &Path) -> io::Result<()> {
        let from = &self.loaded.tokenizer_directory;
        if !from.join("tokenizer.json").is_file() {
            self.loaded.tokenizer.save(folder).map_err(io::Error::other)?;
        }
        for name in TOKENIZER_FILES {
            let path = from.join(name);
            if path.is_file() && !folder.join(name).exists() {
                fs::copy(path, folder.join(name))?;
            }
        }
        Ok(())
    }
}

/// Sequences and tokens of each that are compared; the tokens are drawn from the vocabulary.
const SEQUENCES: u64 = 4;
const LENGTH: usize = 128;

fn compare(engine: &Engine, original: &Transformer, written: &Transformer) -> Comparison {
    let architecture = original.architecture();
    let length = LENGTH.min(architecture.context);
    let drawn = |sequence: u64| -> Vec<u32> {
        let key = Key::new(1, "export", sequence);
        (0..length as u64)
            .map(|i| key.below(i, architecture.vocab_size as u64) as u32)
            .collect()
    };
    let sequences: Vec<Vec<u32>> = (0..SEQUENCES).map(drawn).collect();
    let slices: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let numbers = |model: &Transformer| -> Vec<f32> {
        logprobs_of(engine, model, &slices, 1.0)
            .into_iter()
            .flat_map(|scores| scores.logprobs)
            .collect()
    };
    let (before, after) = (numbers(original), numbers(written));
    let differences: Vec<f64> = before
        .iter()
        .zip(&after)
        .map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs())
        .collect();
    // Not f64::max, which passes NaN over
    let largest = differences
        .iter()
        .fold(0.0, |m: f64, &x| if x > m || x.is_nan() { x } else { m });
    let mean = differences.iter().sum::<f64>() / differences.len().max(1) as f64;
    Comparison {
        tokens: differences.len(),
        largest,
        mean,
    }
}
