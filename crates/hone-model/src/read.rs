//! Reading a model directory: one file or shards, tensors by the family's names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hone_compute::Engine;
use serde_json::Value;

use crate::config::{self, ModelConfig};
use crate::error::Error;
use crate::heads::HEAD;
use crate::names::{FileTensor, WeightSpec, weights};
use crate::safetensors_file::TensorFile;
use crate::transformer::Transformer;

/// The largest configuration file that is read.
const MAX_CONFIG: u64 = 4 << 20;

/// Reads a model directory: the model, and what `config.json` says beside its shape.
///
/// A directory with `adapter_config.json` and no weights of its own is refused: load its base and then
/// [`load_adapter`](crate::load_adapter). For a rehearsal everything is checked, and no weight is read.
///
/// # Errors
/// If a file is missing, damaged or lies, or the architecture is unknown.
pub fn load(engine: &Engine, directory: &Path) -> Result<(Transformer, ModelConfig), Error> {
    let config = read_config(directory)?;
    let mut files = open_weights(directory)?;
    let specs = weights(&config.architecture);
    check_names(directory, &config, &specs, &files)?;
    check_shapes(&config, &specs, &files)?;
    if engine.rehearses() {
        let mut model = Transformer::zeros(engine, config.architecture.clone());
        if config.scores {
            model.add_head(engine, &vec![0.0; config.architecture.width], config.score_offset);
        }
        return Ok((model, config));
    }
    let mut whole: Option<(String, Vec<f32>)> = None;
    let mut model = Transformer::try_build(engine, config.architecture.clone(), |_, spec| {
        read_weight(&mut files, spec, &mut whole)
    })?;
    if config.scores {
        let head = files.read(HEAD)?;
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

/// The weights of a model directory, read one at a time: as many numbers are in memory as the largest of them has.
pub struct Weights {
    config: ModelConfig,
    specs: Vec<WeightSpec>,
    files: Files,
}

impl Weights {
    /// Opens a directory and checks names and shapes, as [`load`] does. A reward head is left out.
    ///
    /// # Errors
    /// As [`load`].
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let config = read_config(directory)?;
        let files = open_weights(directory)?;
        let specs = weights(&config.architecture);
        check_names(directory, &config, &specs, &files)?;
        check_shapes(&config, &specs, &files)?;
        Ok(Self { config, specs, files })
    }

    /// What `config.json` says.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// hone's names of the weights with their shapes `[rows, columns]`, in a fixed order, the same for all families:
    /// `layers.0.self_attn.q_proj.weight`. A tied output matrix is not there.
    pub fn names(&self) -> impl Iterator<Item = (&str, (usize, usize))> {
        self.specs
            .iter()
            .map(|spec| (spec.name.as_str(), (spec.rows, spec.cols)))
    }

    /// The numbers of the weight at this place of [`Self::names`], row by row.
    ///
    /// # Errors
    /// If the file cannot be read, or a number is not finite.
    ///
    /// # Panics
    /// If there are not so many weights.
    pub fn read(&mut self, place: usize) -> Result<Vec<f32>, Error> {
        // A fused tensor is read again for each of its parts rather than kept
        read_weight(&mut self.files, &self.specs[place], &mut None)
    }
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
            if let Some(first) = files.places.insert(name.to_string(), files.files.len()) {
                return Err(Error::Safetensors {
                    reason: format!(
                        "holds `{name}`, as {} does; a tensor stands in one shard, so one of the two is stale",
                        files.files[first].path().display()
                    ),
                    path,
                });
            }
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
    let mut needed: BTreeSet<String> = specs.iter().map(|s| files.actual(&s.file.name)).collect();
    if config.scores {
        needed.insert(HEAD.to_string());
    }
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

/// Every weight has the shape that the configuration gives it, so that every size stands on bytes of a file before
/// anything of that size is made. All names were found.
fn check_shapes(config: &ModelConfig, specs: &[WeightSpec], files: &Files) -> Result<(), Error> {
    for spec in specs {
        expect_shape(files, &files.actual(&spec.file.name), &file_shape(spec))?;
    }
    if config.scores {
        expect_shape(files, HEAD, &[1, config.architecture.width])?;
    }
    Ok(())
}

/// The shape of the tensor of a file that holds this weight, alone or with others.
fn file_shape(spec: &WeightSpec) -> Vec<usize> {
    let parts = spec.file.part.map_or(1, |(_, parts)| parts);
    match spec.file {
        FileTensor { vector: true, .. } => vec![spec.cols * parts],
        FileTensor { transposed: true, .. } => vec![spec.cols, spec.rows * parts],
        _ => vec![spec.rows * parts, spec.cols],
    }
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

/// The numbers of a weight as hone keeps it; its shape was checked. `whole` holds the last fused tensor that was read.
fn read_weight(
    files: &mut Files,
    spec: &WeightSpec,
    whole: &mut Option<(String, Vec<f32>)>,
) -> Result<Vec<f32>, Error> {
    let name = files.actual(&spec.file.name);
    let Some((part, parts)) = spec.file.part else {
        let numbers = files.read(&name)?;
        return Ok(if spec.file.transposed {
            transpose(&numbers, spec.cols, spec.rows)
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
    let (inputs, outputs) = (spec.cols, spec.rows);
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

/// The text of a configuration file, up to a size.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let size = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
    if size > MAX_CONFIG {
        return Err(Error::Config {
            path: path.into(),
            reason: format!("{size} bytes; at most {MAX_CONFIG} are read"),
        });
    }
    std::fs::read_to_string(path).map_err(|e| Error::io(path, e))
}
