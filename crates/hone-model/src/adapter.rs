//! Reading an adapter in PEFT's layout. What hone does not compute is refused by name: an adapter of which a part is
//! left out gives other numbers, and nothing would say so.

use std::collections::BTreeSet;
use std::path::Path;

use hone_compute::Engine;
use serde_json::{Map, Value};

use crate::architecture::Family;
use crate::error::Error;
use crate::lora::LoraConfig;
use crate::read::read_text;
use crate::safetensors_file::TensorFile;
use crate::transformer::Transformer;

/// The way out for adapters that hone cannot compute.
const HINT: &str =
    "merge the adapter into its base with PEFT (merge_and_unload, then save_pretrained) and give the merged model";

/// Settings that change no number of a finished adapter: notes, how it was trained, how its weights started, and
/// details of settings that are refused themselves.
const WITHOUT_EFFECT: [&str; 17] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "layers_pattern",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// Settings that are read here, or checked by a rule of their own.
const READ: [&str; 7] = [
    "bias",
    "init_lora_weights",
    "lora_alpha",
    "modules_to_save",
    "peft_type",
    "r",
    "target_modules",
];

/// Values of `init_lora_weights` that leave the base as it is. With others (`pissa`, `olora`, `loftq`, `corda`) the
/// adapter stands on a changed base.
const STARTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Attaches the adapter of a directory in PEFT's layout to the model it was made for.
///
/// # Errors
/// If files are missing, do not fit the model, or hold or ask for something that hone does not compute.
pub fn load_adapter(engine: &Engine, model: &mut Transformer, directory: &Path) -> Result<(), Error> {
    let path = directory.join("adapter_config.json");
    let settings = Settings::read(&path)?;
    let config = settings.lora()?;
    if model.architecture.family == Family::Gpt2 {
        return settings.fail(
            "adapters of gpt2 models are kept by merging (hone export); PEFT's fused c_attn has no place here".into(),
        );
    }
    let mut file = TensorFile::open(&directory.join("adapter_model.safetensors"))?;
    if model.adapter().is_some() {
        return Err(Error::AdapterPresent);
    }
    let fail = |reason: String| Error::Config {
        path: path.clone(),
        reason,
    };
    let listed = settings.fields.get("modules_to_save");
    let brought = model.take_saved_modules(engine, (listed, &mut file), &fail)?;
    let brings_vocabulary = !brought.is_empty();
    let mut taken: BTreeSet<String> = brought.into_iter().collect();
    model.attach_adapter(engine, &config, |name, rows, cols, is_a| {
        let part = if is_a { "lora_A" } else { "lora_B" };
        let tensor = format!("base_model.model.model.{name}.{part}.weight");
        let numbers = read_matrix(&mut file, &tensor, (rows, cols))?;
        taken.insert(tensor);
        Ok(numbers)
    })?;
    let extra: Vec<_> = file.names().filter(|name| !taken.contains(*name)).collect();
    if let Some(example) = extra.first() {
        return Err(Error::AdapterTensors {
            path: file.path().into(),
            count: extra.len(),
            example: (*example).into(),
            hint: HINT,
        });
    }
    if let Some(adapter) = &mut model.adapter {
        adapter.base = settings.text("base_model_name_or_path");
    }
    if brings_vocabulary {
        model.adapt_vocabulary();
    }
    Ok(())
}

fn read_matrix(file: &mut TensorFile, name: &str, (rows, cols): (usize, usize)) -> Result<Vec<f32>, Error> {
    match file.shape(name) {
        Some(shape) if shape != [rows, cols] => Err(Error::Shape {
            path: file.path().into(),
            name: name.into(),
            got: shape.to_vec(),
            expected: vec![rows, cols],
        }),
        _ => file.read(name),
    }
}

/// `adapter_config.json`.
struct Settings<'a> {
    path: &'a Path,
    fields: Map<String, Value>,
}

impl<'a> Settings<'a> {
    fn read(path: &'a Path) -> Result<Self, Error> {
        let parsed: Result<Value, _> = serde_json::from_str(&read_text(path)?);
        let reason = match parsed {
            Ok(Value::Object(fields)) => return Ok(Self { path, fields }),
            Ok(_) => "expected a JSON object".into(),
            Err(error) => format!("not JSON: {error}"),
        };
        Err(Error::Config {
            path: path.into(),
            reason,
        })
    }

    fn fail<T>(&self, reason: String) -> Result<T, Error> {
        Err(Error::Config {
            path: self.path.into(),
            reason,
        })
    }

    fn text(&self, key: &str) -> Option<String> {
        self.fields.get(key).and_then(Value::as_str).map(String::from)
    }

    /// Rank, alpha and targets, once nothing else would change a number.
    fn lora(&self) -> Result<LoraConfig, Error> {
        self.refuse_what_hone_lacks()?;
        let Some(rank) = self.fields.get("r").and_then(Value::as_u64) else {
            return self.fail("`r` is missing or no whole number".into());
        };
        let Some(alpha) = self.fields.get("lora_alpha").and_then(Value::as_f64) else {
            return self.fail("`lora_alpha` is missing or no number".into());
        };
        let named = self.fields.get("target_modules").unwrap_or(&Value::Null);
        let names = named.as_array().map(|names| names.iter().map(Value::as_str).collect());
        let Some(Some(names)) = names.map(|names: Option<Vec<_>>| names.filter(|names| !names.is_empty())) else {
            return self.fail(format!("`target_modules` is {named}; expected a list of names"));
        };
        Ok(LoraConfig {
            rank: rank as usize,
            alpha,
            targets: names.into_iter().map(String::from).collect(),
            vocabulary: false,
        })
    }

    /// Every setting that is not known to be without effect has to be off: `null`, `false`, `"none"` or empty.
    fn refuse_what_hone_lacks(&self) -> Result<(), Error> {
        match self.fields.get("peft_type") {
            None | Some(Value::Null) => {}
            Some(Value::String(kind)) if kind == "LORA" => {}
            Some(other) => return self.lacks("peft_type", other, "LORA"),
        }
        match self.fields.get("init_lora_weights") {
            None | Some(Value::Null | Value::Bool(_)) => {}
            Some(Value::String(start)) if STARTS.contains(&start.as_str()) => {}
            Some(other) => return self.lacks("init_lora_weights", other, "a start that leaves the base as it is"),
        }
        for (key, value) in &self.fields {
            let known = WITHOUT_EFFECT.contains(&key.as_str()) || (READ.contains(&key.as_str()) && key != "bias");
            let off = match value {
                Value::Null | Value::Bool(false) => true,
                Value::String(text) => text.is_empty() || text == "none",
                Value::Array(list) => list.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                Value::Bool(true) | Value::Number(_) => false,
            };
            if !known && !off {
                return self.lacks(key, value, "it off");
            }
        }
        Ok(())
    }

    fn lacks<T>(&self, key: &str, value: &Value, has: &str) -> Result<T, Error> {
        self.fail(format!("`{key}` is {value}; hone has {has} only; {HINT}"))
    }
}
