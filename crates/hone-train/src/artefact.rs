//! Models on disk, as stages hand them on: a directory in Hugging Face's layout with its tokenizer.

use std::path::{Path, PathBuf};

use hone_compute::Engine;
use hone_model::{Dtype, Family, ModelConfig, Transformer, load_adapter};
use hone_run::{Run, digest_of, publish_dir, verify_dir};
use hone_text::Tokenizer;
use serde_json::{Map, Value};

use crate::error::{Result, TrainError};
use crate::hub;

/// A model with what belongs to it.
pub struct Artefact {
    /// The model.
    pub model: Transformer,
    /// What goes with it.
    pub companion: Companion,
}

/// What belongs to a model besides its weights.
pub struct Companion {
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// `bos_token_id` and its like, as they go into `config.json`.
    pub tokens: Map<String, Value>,
    /// Where it came from; under an adapter, where its base is.
    pub base: Option<PathBuf>,
}

/// Loads a model directory, or an adapter's directory onto its base. What hone wrote is compared with its manifest first:
/// a changed bit of a weight is still a number. For a rehearsal no weights are read.
///
/// # Errors
/// If files are missing or damaged, or the tokenizer has more tokens than the model.
pub fn load(engine: &Engine, directory: &Path) -> Result<Artefact> {
    if is_adapter(directory) {
        return load_with_adapter(engine, directory);
    }
    verify_dir(directory)?;
    let (model, config) = hone_model::load(engine, directory)?;
    let tokenizer = tokenizer_for(directory, &model)?;
    let companion = Companion {
        tokenizer,
        tokens: config.tokens,
        base: Some(directory.into()),
    };
    Ok(Artefact { model, companion })
}

fn load_with_adapter(engine: &Engine, directory: &Path) -> Result<Artefact> {
    verify_dir(directory)?;
    let base = adapter_base(directory)?;
    verify_dir(&base)?;
    let (mut model, ModelConfig { tokens, .. }) = hone_model::load(engine, &base)?;
    load_adapter(engine, &mut model, directory)?;
    let own = directory.join("tokenizer.json").is_file();
    let tokenizer = tokenizer_for(if own { directory } else { &base }, &model)?;
    let tokens = if own { token_fields(&tokenizer) } else { tokens };
    Ok(Artefact {
        model,
        companion: Companion {
            tokenizer,
            tokens,
            base: Some(base),
        },
    })
}

/// Loads what a stage is to train as a language model.
///
/// # Errors
/// As [`load`], and if it is a reward model.
pub(crate) fn load_language_model(engine: &Engine, directory: &Path) -> Result<Artefact> {
    let artefact = load(engine, directory)?;
    if artefact.model.has_head() {
        let reason = format!("{} is a reward model; expected a language model", directory.display());
        return Err(TrainError::setting("model.path", reason));
    }
    Ok(artefact)
}

/// Whether a directory holds an adapter and no model.
pub(crate) fn is_adapter(directory: &Path) -> bool {
    !directory.join("config.json").is_file() && directory.join("adapter_config.json").is_file()
}

/// Where an adapter's base model is: as its configuration says, taken from the adapter's directory, or on the hub.
pub(crate) fn adapter_base(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("adapter_config.json");
    let fail = |reason: String| TrainError::Artefact {
        path: path.display().to_string(),
        reason,
    };
    let text = std::fs::read_to_string(&path).map_err(|e| fail(e.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| fail(format!("not JSON: {e}")))?;
    let base = value.get("base_model_name_or_path").and_then(Value::as_str);
    let base = base.ok_or_else(|| fail("`base_model_name_or_path` is missing".into()))?;
    let beside = directory.join(base);
    match hub::Id::parse(base) {
        Some(id) if !beside.exists() => {
            let fetched = hub::fetch(&id).map_err(|error| fail(format!("its base model {error}")))?;
            Ok(fetched.directory)
        }
        _ => Ok(beside),
    }
}

/// What tells a model from another: the digest of what its directory holds, of an adapter with that of its base; none of what is not
/// there.
///
/// # Errors
/// When the system refuses to read it, or an adapter does not say what its base is.
pub fn fingerprint(directory: &Path) -> Result<Option<String>> {
    let own = digest_of(directory)?;
    if !is_adapter(directory) {
        return Ok(own);
    }
    let base = digest_of(&adapter_base(directory)?)?;
    Ok(own.map(|own| format!("{own} on {}", base.unwrap_or_default())))
}

fn tokenizer_for(directory: &Path, model: &Transformer) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_dir(directory)?;
    let rows = model.architecture().vocab_size;
    if tokenizer.vocab_size() > rows {
        let reason = format!(
            "the tokenizer has {} ids, and the model's embedding {rows} rows; the tokenizer belongs to another model, or \
             the embedding was not resized",
            tokenizer.vocab_size()
        );
        return Err(TrainError::Artefact {
            path: directory.display().to_string(),
            reason,
        });
    }
    Ok(tokenizer)
}

/// `bos_token_id`, `eos_token_id` and `pad_token_id` of a tokenizer.
pub fn token_fields(tokenizer: &Tokenizer) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |key: &str, id: Option<u32>| {
        if let Some(id) = id {
            fields.insert(key.into(), id.into());
        }
    };
    put("bos_token_id", tokenizer.bos());
    put("eos_token_id", tokenizer.eos());
    put("pad_token_id", tokenizer.pad());
    fields
}

/// Publishes a model as `model/` of a run: complete or not at all.
///
/// # Errors
/// If writing fails.
pub fn publish(engine: &Engine, run: &Run, companion: &Companion, model: &Transformer) -> Result<PathBuf> {
    Ok(run.publish("model", &mut |dir| write(engine, dir, companion, model))?)
}

/// Publishes a model at a path of its own.
///
/// # Errors
/// If writing fails.
pub fn publish_at(engine: &Engine, path: &Path, companion: &Companion, model: &Transformer) -> Result<()> {
    publish_dir(path, &mut |dir| write(engine, dir, companion, model))?;
    Ok(())
}

/// Whether a model's adapter is merged into what is written: PEFT knows gpt2's queries, keys and values as one matrix, so
/// their adapters have no place there.
pub(crate) fn merges(model: &Transformer) -> bool {
    model.adapter().is_some() && model.architecture().family == Family::Gpt2
}

fn write(engine: &Engine, dir: &Path, companion: &Companion, model: &Transformer) -> Result<(), hone_run::Error> {
    if merges(model) {
        return write(engine, dir, companion, &model.duplicate().merge_adapter(engine));
    }
    let caller = |error: std::io::Error| hone_run::Error::caller(error);
    companion.tokenizer.save(dir).map_err(hone_run::Error::caller)?;
    let file = |name: &str| {
        std::fs::File::create(dir.join(name))
            .map(std::io::BufWriter::new)
            .map_err(caller)
    };
    if let (Some(base), Some(_)) = (&companion.base, model.adapter()) {
        let base = std::path::absolute(base).map_err(caller)?;
        let json = model.adapter_json(&base.display().to_string()).unwrap_or_default();
        std::fs::write(dir.join("adapter_config.json"), json).map_err(caller)?;
        let mut out = file("adapter_model.safetensors")?;
        model.write_adapter(engine, &mut out).map_err(caller)?;
        return std::io::Write::flush(&mut out).map_err(caller);
    }
    std::fs::write(dir.join("config.json"), model.config_json(&companion.tokens)).map_err(caller)?;
    let mut out = file("model.safetensors")?;
    model.write_weights(engine, Dtype::F32, &mut out).map_err(caller)?;
    std::io::Write::flush(&mut out).map_err(caller)
}
