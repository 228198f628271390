//! Reading a model directory: one file or shards, tensors by the family's names, adapters in PEFT's layout.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hone_compute::Engine;
use serde_json::Value;

use crate::config::{self, ModelConfig};
use crate::error::Error;
use crate::heads::HEAD;
use crate::lora::LoraConfig;
use crate::names::{FileTensor, WeightSpec, weights};
use crate::safetensors_file::TensorFile;
use crate::transformer::Transformer;

/// The largest configuration file that is read.
const MAX_CONFIG: u64 = 4 << 20;

/// Reads a model directory: the model, and what `config.json` says beside its shape.
///
/// A directory with `adapter_config.json` and no weights of its own is refused: load its base and then
/// [`load_adapter`].
///
/// # Errors
/// If a file is missing, damaged or lies, or the architecture is unknown.
pub fn load(engine: &Engine, directory: &Path) -> Result<(Transformer, ModelConfig), Error> {
    let config = read_config(directory)?;
    let mut files = open_weights(directory)?;
    let specs = weights(&config.architecture);
    check_names(directory, &config, &specs, &files)?;
    let mut model = {
        let mut failure = None;
        let mut whole: Option<(String, Vec<f32>)> = None;
        let model = Transformer::build(engine, config.architecture.clone(), |_, spec| {
            if failure.is_none() {
                match read_weight(&mut files, spec, &mut whole) {
                    Ok(numbers) => return numbers,
                    Err(error) => failure = Some(error),
                }
            }
            vec![0.0; spec.rows * spec.cols]
        });
        if let Some(error) = failure {
            return Err(error);
        }
        model
    };
    if config.scores {
        let head = files.read(HEAD)?;
        expect_shape(&files, HEAD, &[1, config.architecture.width])?;
        model.add_head(engine, &head, config.score_offset);
    }
    Ok((model, config))
}

/// Reads `config.json` of a model directory.
///
/// # Errors
/// As [`load`].
pub fn read_config(directory: &Path) -> Result<ModelConfig, Error> {
    let path = directory.join("config.json");
    if !path.is_file() {
        return Err(Error::NotAModel { path: directory.into() });
    }
    config::parse(&path, &read_text(&path)?)
}

/// Attaches the adapter of a directory in PEFT's layout to the model it was made for.
///
/// # Errors
/// If files are missing or do not fit the model.
pub fn load_adapter(engine: &Engine, model: &mut Transformer, directory: &Path) -> Result<(), Error> {
    let path = directory.join("adapter_config.json");
    let fail = |reason: String| Error::Config {
        path: path.clone(),
        reason,
    };
    let value: Value = serde_json::from_str(&read_text(&path)?).map_err(|e| fail(format!("not JSON: {e}")))?;
    let rank = value
        .get("r")
        .and_then(Value::as_u64)
        .ok_or_else(|| fail("`r` is missing".into()))? as usize;
    let alpha = value
        .get("lora_alpha")
        .and_then(Value::as_f64)
        .ok_or_else(|| fail("`lora_alpha` is missing".into()))?;
    for key in ["use_dora", "use_rslora", "fan_in_fan_out"] {
        if value.get(key).and_then(Value::as_bool) == Some(true) {
            return Err(fail(format!("`{key}` is true, which hone does not have")));
        }
    }
    let targets = match value.get("target_modules") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(String::from).collect(),
        other => {
            return Err(fail(format!(
                "`target_modules` is {}; expected a list of names",
                other.unwrap_or(&Value::Null)
            )));
        }
    };
    let config = LoraConfig { rank, alpha, targets };
    let mut file = TensorFile::open(&directory.join("adapter_model.safetensors"))?;
    let prefix = if model.architecture.family == crate::Family::Gpt2 {
        None
    } else {
        Some("base_model.model.model.")
    };
    let Some(prefix) = prefix else {
        return Err(fail(
            "adapters of gpt2 models are kept by merging (hone export); PEFT's fused c_attn has no place here".into(),
        ));
    };
    if model.adapter().is_some() {
        return Err(Error::AdapterPresent);
    }
    let listed = value.get("modules_to_save");
    let brings_vocabulary = model.take_saved_modules(engine, (listed, &mut file), &fail)?;
    model.attach_adapter(engine, &config, |name, rows, cols, is_a| {
        let part = if is_a { "lora_A" } else { "lora_B" };
        let tensor = format!("{prefix}{name}.{part}.weight");
        match file.shape(&tensor) {
            None => Err(Error::MissingTensors {
                path: file.path().into(),
                count: 1,
                example: tensor,
            }),
            Some(shape) if shape != [rows, cols] => Err(Error::Shape {
                path: file.path().into(),
                name: tensor.clone(),
                got: shape.to_vec(),
                expected: vec![rows, cols],
            }),
            Some(_) => file.read(&tensor),
        }
    })?;
    if let Some(adapter) = &mut model.adapter {
        adapter.base = value
            .get("base_model_name_or_path")
            .and_then(Value::as_str)
            .map(String::from);
    }
    if brings_vocabulary {
        model.adapt_vocabulary();
    }
    Ok(())
}

/// The weight files of a directory, as one.
struct Files {
    files: Vec<TensorFile>,
    places: BTreeMap<String, usize>,
    directory: PathBuf,
}

impl Files {
    fn find(&mut self, name: &str) -> Result<&mut TensorFile, Error> {
        match self.places.get(name) {
            Some(&index) => Ok(&mut self.files[index]),
            None => Err(Error::MissingTensors {
                path: self.directory.clone(),
                count: 1,
                example: name.into(),
            }),
        }
    }

    fn read(&mut self, name: &str) -> Result<Vec<f32>, Error> {
        self.find(name)?.read(name)
    }

    /// The name as it stands in the files: base models of some families lack the outer prefix.
    fn actual(&self, name: &str) -> String {
        if self.places.contains_key(name) {
            return name.to_string();
        }
        for prefix in ["transformer.", "model."] {
            if let Some(bare) = name.strip_prefix(prefix)
                && self.places.contains_key(bare)
            {
                return bare.to_string();
            }
        }
        name.to_string()
    }
}

fn open_weights(directory: &Path) -> Result<Files, Error> {
    let single = directory.join("model.safetensors");
    let index = directory.join("model.safetensors.index.json");
    let paths: Vec<PathBuf> = if single.is_file() {
        vec![single]
    } else if index.is_file() {
        shard_paths(directory, &index)?
    } else {
        for pickle in [
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "model.pt",
            "consolidated.00.pth",
        ] {
            let path = directory.join(pickle);
            if path.exists() {
                return Err(Error::Pickle { path });
            }
        }
        return Err(Error::NoWeights { path: directory.into() });
    };
    let mut files = Files {
        files: Vec::new(),
        places: BTreeMap::new(),
        directory: directory.into(),
    };
    for path in paths {
        let file = TensorFile::open(&path)?;
        for name in file.names() {
            files.places.insert(name.to_string(), files.files.len());
        }
        files.files.push(file);
    }
    Ok(files)
}

fn shard_paths(directory: &Path, index: &Path) -> Result<Vec<PathBuf>, Error> {
    let fail = |reason: String| Error::Config {
        path: index.into(),
        reason,
    };
    let value: Value = serde_json::from_str(&read_text(index)?).map_err(|e| fail(format!("not JSON: {e}")))?;
    let Some(map) = value.get("weight_map").and_then(Value::as_object) else {
        return Err(fail("`weight_map` is missing".into()));
    };
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    let mut paths = Vec::new();
    for name in names {
        if Path::new(name).components().count() != 1 || !name.ends_with(".safetensors") {
            return Err(fail(format!(
                "`{name}` is not the name of a safetensors file in this directory"
            )));
        }
        let path = directory.join(name);
        if !path.is_file() {
            return Err(fail(format!("names the shard {name}, which is not there")));
        }
        paths.push(path);
    }
    Ok(paths)
}

/// Every weight is there, and nothing else that a model of this kind would not ignore.
fn check_names(directory: &Path, config: &ModelConfig, specs: &[WeightSpec], files: &Files) -> Result<(), Error> {
    let needed: BTreeSet<String> = specs.iter().map(|s| files.actual(&s.file.name)).collect();
    let missing: Vec<_> = needed.iter().filter(|name| !files.places.contains_key(*name)).collect();
    if let Some(example) = missing.first() {
        return Err(Error::MissingTensors {
            path: directory.into(),
            count: missing.len(),
            example: (*example).clone(),
        });
    }
    let harmless = |name: &str| {
        name == "lm_head.weight"
            || (name == HEAD && config.scores)
            || name.ends_with(".rotary_emb.inv_freq")
            || name.ends_with(".attn.bias")
            || name.ends_with(".attn.masked_bias")
    };
    let extra: Vec<_> = files
        .places
        .keys()
        .filter(|name| !needed.contains(*name) && !harmless(name))
        .collect();
    if let Some(example) = extra.first() {
        return Err(Error::ExtraTensors {
            path: directory.into(),
            count: extra.len(),
            example: (*example).clone(),
            family: config.architecture.family.name(),
        });
    }
    Ok(())
}

fn expect_shape(files: &Files, name: &str, expected: &[usize]) -> Result<(), Error> {
    let file = &files.files[files.places[name]];
    match file.shape(name) {
        Some(shape) if shape == expected => Ok(()),
        shape => Err(Error::Shape {
            path: file.path().into(),
            name: name.into(),
            got: shape.unwrap_or_default().to_vec(),
            expected: expected.to_vec(),
        }),
    }
}

/// The numbers of a weight as hone keeps it. `whole` holds the last fused tensor that was read.
fn read_weight(
    files: &mut Files,
    spec: &WeightSpec,
    whole: &mut Option<(String, Vec<f32>)>,
) -> Result<Vec<f32>, Error> {
    let name = files.actual(&spec.file.name);
    let parts = spec.file.part.map_or(1, |(_, parts)| parts);
    let (rows, cols) = (spec.rows * parts, spec.cols);
    let expected = match (&spec.file, spec.rows) {
        (FileTensor { vector: true, .. }, _) => vec![spec.cols * parts],
        (FileTensor { transposed: true, .. }, _) => vec![cols, rows],
        _ => vec![rows, cols],
    };
    expect_shape(files, &name, &expected)?;
    let Some((part, parts)) = spec.file.part else {
        let numbers = files.read(&name)?;
        return Ok(if spec.file.transposed {
            transpose(&numbers, cols, rows)
        } else {
            numbers
        });
    };
    if whole.as_ref().is_none_or(|(held, _)| *held != name) {
        *whole = Some((name.clone(), files.read(&name)?));
    }
    let numbers = whole
        .as_ref()
        .map(|(_, numbers)| numbers.as_slice())
        .unwrap_or_default();
    if spec.file.vector {
        return Ok(numbers[part * spec.cols..(part + 1) * spec.cols].to_vec());
    }
    // [in, parts * out], of which columns part * out.. are wanted, turned around
    let (inputs, outputs) = (cols, spec.rows);
    let mut wanted = vec![0.0; outputs * inputs];
    for i in 0..inputs {
        for o in 0..outputs {
            wanted[o * inputs + i] = numbers[i * parts * outputs + part * outputs + o];
        }
    }
    Ok(wanted)
}

/// `[rows, cols]` turned into `[cols, rows]`.
pub(crate) fn transpose(numbers: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut turned = vec![0.0; numbers.len()];
    for r in 0..rows {
        for c in 0..cols {
            turned[c * rows + r] = numbers[r * cols + c];
        }
    }
    turned
}

fn read_text(path: &Path) -> Result<String, Error> {
    let size = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
    if size > MAX_CONFIG {
        return Err(Error::Config {
            path: path.into(),
            reason: format!("{size} bytes; at most {MAX_CONFIG} are read"),
        });
    }
    std::fs::read_to_string(path).map_err(|e| Error::io(path, e))
}
