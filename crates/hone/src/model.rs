//! Loading what `--model` names: a directory, an adapter's directory, or a hub id, with its tokenizer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use hone_compute::{Engine, EngineOptions, Precision};
use hone_model::{ModelConfig, Transformer, load, load_adapter};
use hone_run::verify_dir;
use hone_text::{Chat, Tokenizer};
use hone_train::hub;

use crate::failure::Failure;
use crate::output;

/// How matrix products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArgument {
    /// Operands rounded to bf16, summed in f32.
    Bf16,
    /// Everything in f32.
    F32,
}

/// The engine's arguments.
#[derive(Args, Clone, Debug)]
pub struct EngineArguments {
    /// How matrix products are computed
    #[arg(long, value_enum, default_value = "bf16")]
    pub precision: PrecisionArgument,
    /// Threads; results do not depend on it [default: HONE_THREADS, or one a core]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub threads: Option<u32>,
}

impl EngineArguments {
    /// Starts the engine.
    pub fn engine(&self) -> Result<Engine> {
        Ok(Engine::new(&self.options())?)
    }

    /// An engine that computes nothing and counts what [`Self::engine`] would do.
    pub fn rehearsal(&self) -> Result<Engine> {
        Ok(Engine::rehearsal(&self.options())?)
    }

    fn options(&self) -> EngineOptions {
        EngineOptions {
            isa: None,
            precision: match self.precision {
                PrecisionArgument::Bf16 => Precision::Bf16,
                PrecisionArgument::F32 => Precision::F32,
            },
            threads: self.threads.map(|threads| threads as usize),
        }
    }
}

/// Which model.
#[derive(Args, Clone, Debug)]
pub struct ModelArguments {
    /// A model directory in Hugging Face layout, an adapter's directory, or a hub id (org/name or org/name@revision)
    #[arg(long, value_name = "DIR")]
    pub model: String,
    /// A LoRA adapter's directory in PEFT layout, put onto the model
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
}

/// A model that is ready to run.
pub struct LoadedModel {
    /// Its weights, an adapter unmerged.
    pub model: Transformer,
    /// What `config.json` says beside the shape.
    pub config: ModelConfig,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Where the base model stands.
    pub directory: PathBuf,
    /// Where the tokenizer stands.
    pub tokenizer_directory: PathBuf,
}

impl ModelArguments {
    /// Loads the model and its tokenizer, and checks that they fit together.
    pub fn load(&self, engine: &Engine) -> Result<LoadedModel> {
        let (model, mut config, place) = self.load_weights(engine)?;
        let tokenizer_directory = place.tokenizer_directory();
        let tokenizer = Tokenizer::from_dir(&tokenizer_directory)?;
        check_tokenizer(&tokenizer, model.architecture().vocab_size, &tokenizer_directory)?;
        if tokenizer_directory != place.base {
            config.tokens = hone_train::artefact::token_fields(&tokenizer);
        }
        Ok(LoadedModel {
            model,
            config,
            tokenizer,
            directory: place.base,
            tokenizer_directory,
        })
    }

    /// Loads the model without a tokenizer.
    pub fn load_weights(&self, engine: &Engine) -> Result<(Transformer, ModelConfig, Place)> {
        let place = self.resolve()?;
        // What hone wrote must be as it was written: a changed bit of a weight is still a number.
        verify_dir(&place.base)?;
        let (mut model, config) = load(engine, &place.base)?;
        if let Some(adapter) = &place.adapter {
            verify_dir(adapter)?;
            load_adapter(engine, &mut model, adapter)?;
        }
        Ok((model, config, place))
    }

    /// The directories that are read.
    ///
    /// # Errors
    /// If a directory is not there, or an adapter's base is not known.
    pub fn resolve(&self) -> Result<Place> {
        let directory = resolve_directory(&self.model)?;
        let adapter = self.adapter.as_deref();
        if adapter.is_none() && is_adapter(&directory) {
            let base = base_of(&directory)?;
            return Ok(Place {
                base,
                adapter: Some(directory),
            });
        }
        if let Some(adapter) = adapter
            && !adapter.join("adapter_config.json").is_file()
        {
            let text = format!(
                "{}: no adapter_config.json; expected a directory in PEFT layout",
                adapter.display()
            );
            return Err(Failure::usage(text).into());
        }
        Ok(Place {
            base: directory,
            adapter: adapter.map(Path::to_path_buf),
        })
    }
}

/// The directories that make a model.
pub struct Place {
    /// The model's own.
    pub base: PathBuf,
    /// Its adapter's.
    pub adapter: Option<PathBuf>,
}

impl Place {
    /// The adapter's directory where it has a tokenizer of its own, else the base model's.
    pub fn tokenizer_directory(&self) -> PathBuf {
        let own = self.adapter.as_ref().filter(|dir| dir.join("tokenizer.json").is_file());
        own.unwrap_or(&self.base).clone()
    }
}

/// What hub ids were found to name: one command asks once, and stands on one revision.
static FETCHED: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());

/// A directory that is there, or the local copy of what a hub id names.
pub fn resolve_directory(name: &str) -> Result<PathBuf> {
    let path = PathBuf::from(name);
    if path.is_dir() {
        return Ok(path);
    }
    if path.exists() {
        let text = format!("{name}: a file; expected a model directory or a hub id");
        return Err(Failure::usage(text)
            .hint("name the directory that holds config.json")
            .into());
    }
    match hub::Id::parse(name) {
        Some(id) => {
            let mut known = FETCHED.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(directory) = known.get(name) {
                return Ok(directory.clone());
            }
            let fetched = hub::fetch(&id).map_err(|error| Failure::failed(error.message).hint(error.hint))?;
            if let Some(note) = fetched.note {
                output::note(&note);
            }
            known.insert(name.to_owned(), fetched.directory.clone());
            Ok(fetched.directory)
        }
        None => {
            let text = format!("{name}: no such directory, and not a hub id (org/name)");
            Err(Failure::usage(text).into())
        }
    }
}

fn is_adapter(directory: &Path) -> bool {
    directory.join("adapter_config.json").is_file() && !directory.join("config.json").is_file()
}

/// The base model that an adapter's directory names: as it stands, beside the adapter, or on the hub.
pub fn base_of(adapter: &Path) -> Result<PathBuf> {
    let path = adapter.join("adapter_config.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let value: serde_json::Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let Some(base) = value.get("base_model_name_or_path").and_then(|v| v.as_str()) else {
        let text = format!("{}: `base_model_name_or_path` is missing", path.display());
        return Err(Failure::failed(text)
            .hint("give the base by --model and this directory by --adapter")
            .into());
    };
    let beside = adapter.join(base);
    let found = if beside.is_dir() {
        Ok(beside)
    } else {
        resolve_directory(base)
    };
    found.with_context(|| format!("the base model of {}", adapter.display()))
}

/// Refuses a tokenizer with ids that the embedding has no row for.
pub fn check_tokenizer(tokenizer: &Tokenizer, rows: usize, directory: &Path) -> Result<()> {
    let ids = tokenizer.vocab_size();
    if ids > rows {
        let text = format!(
            "{}: the tokenizer has {ids} ids, and the model's embedding {rows} rows",
            directory.display()
        );
        return Err(Failure::failed(text)
            .hint("the tokenizer belongs to another model, or the embedding was not resized")
            .into());
    }
    Ok(())
}

impl LoadedModel {
    /// Its chat template.
    pub fn chat(&self) -> Result<Chat> {
        let chat = Chat::new(&self.tokenizer);
        chat.map_err(|error| {
            let text = format!("{}: {error}", self.tokenizer_directory.display());
            Failure::failed(text)
                .hint("a base model takes raw text: hone sample --prompt TEXT")
                .into()
        })
    }

    /// Refuses a sequence longer than the context or with ids beyond the vocabulary.
    pub fn check_length(&self, place: &str, tokens: usize) -> Result<()> {
        let context = self.model.architecture().context;
        if tokens > context {
            let text = format!("{place}: {tokens} tokens; the model's context is {context}");
            return Err(Failure::failed(text).into());
        }
        Ok(())
    }
}
