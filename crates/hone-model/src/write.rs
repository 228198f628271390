//! Writing a model directory that transformers and PEFT load unchanged.

use std::io::{self, Write};

use hone_compute::{Engine, ParameterId};
use serde_json::{Map, Value, json};

use crate::architecture::Family;
use crate::config;
use crate::heads::HEAD;
use crate::names::{WeightSpec, weights};
use crate::read::transpose;
use crate::safetensors_file::{Dtype, TensorToWrite, write_tensors};
use crate::transformer::Transformer;

impl Transformer {
    /// `config.json`; `tokens` are the fields `bos_token_id`, `eos_token_id`, `pad_token_id`.
    pub fn config_json(&self, tokens: &Map<String, Value>) -> String {
        let value = config::render(&self.architecture, self.head_offset(), tokens);
        let mut text = serde_json::to_string_pretty(&value).unwrap_or_default();
        text.push('\n');
        text
    }

    /// `model.safetensors`: the trunk and the head, without the adapter.
    ///
    /// # Errors
    /// If `out` does.
    pub fn write_weights(&self, engine: &Engine, dtype: Dtype, out: &mut dyn Write) -> io::Result<()> {
        let specs = weights(&self.architecture);
        let mut tensors = Vec::new();
        let mut index = 0;
        while index < specs.len() {
            let spec = &specs[index];
            // The parts of one tensor of the file: its weights stand apart here, its biases between them.
            let parts: Vec<&WeightSpec> = match spec.file.part {
                None => vec![spec],
                Some((0, _)) => specs.iter().filter(|s| s.file.name == spec.file.name).collect(),
                Some(_) => Vec::new(),
            };
            index += 1;
            if parts.is_empty() {
                continue;
            }
            let rows: usize = parts.iter().map(|p| if p.file.vector { p.cols } else { p.rows }).sum();
            let shape = match (spec.file.vector, spec.file.transposed) {
                (true, _) => vec![rows],
                (false, true) => vec![spec.cols, rows],
                (false, false) => vec![rows, spec.cols],
            };
            let (transposed, cols) = (spec.file.transposed && !spec.file.vector, spec.cols);
            let ids: Vec<ParameterId> = parts.iter().filter_map(|p| self.parameters.find(&p.name)).collect();
            let numbers = move || {
                let read = |id: ParameterId| engine.read(self.parameters.get(id).value());
                let joined: Vec<f32> = match ids[..] {
                    [id] => read(id),
                    _ => ids.iter().flat_map(|&id| read(id)).collect(),
                };
                if transposed {
                    transpose(&joined, rows, cols)
                } else {
                    joined
                }
            };
            tensors.push(TensorToWrite {
                name: spec.file.name.clone(),
                shape,
                numbers: Box::new(numbers),
            });
        }
        if let Some(head) = self.head {
            let numbers = move || engine.read(self.parameters.get(head.weight).value());
            let shape = vec![1, self.architecture.width];
            tensors.push(TensorToWrite {
                name: HEAD.into(),
                shape,
                numbers: Box::new(numbers),
            });
        }
        write_tensors(out, dtype, tensors)
    }

    /// `adapter_config.json` in PEFT's layout; none without an adapter. `base` is where the base model stands.
    pub fn adapter_json(&self, base: &str) -> Option<String> {
        let adapter = self.adapter.as_ref()?;
        let targets: Vec<String> = self.adapter_places();
        let value = json!({
            "base_model_name_or_path": base,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": adapter.config.alpha,
            "lora_dropout": 0.0,
            "modules_to_save": self.modules_to_save(),
            "peft_type": "LORA",
            "r": adapter.config.rank,
            "target_modules": targets,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": false,
        });
        let mut text = serde_json::to_string_pretty(&value).unwrap_or_default();
        text.push('\n');
        Some(text)
    }

    /// `adapter_model.safetensors` in PEFT's layout: the adapter, and what else it brings.
    ///
    /// # Errors
    /// If `out` does.
    pub fn write_adapter(&self, engine: &Engine, out: &mut dyn Write) -> io::Result<()> {
        if self.architecture.family == Family::Gpt2 {
            return Err(io::Error::other(
                "an adapter of a gpt2 model has no form in PEFT's layout; merge it (hone export)",
            ));
        }
        let adapters = self.parameters.iter().filter(|(_, p)| p.name().contains(".lora_"));
        let tensors = adapters.map(|(_, p)| TensorToWrite {
            name: format!("base_model.model.model.{}", p.name()),
            shape: vec![p.value().rows(), p.value().cols()],
            numbers: Box::new(move || engine.read(p.value())),
        });
        let tensors = tensors.chain(self.saved_modules(engine));
        write_tensors(out, Dtype::F32, tensors.collect())
    }

    /// PEFT's names of the matrices with an adapter, each once, in order.
    fn adapter_places(&self) -> Vec<String> {
        let mut places: Vec<String> = Vec::new();
        for (_, parameter) in self.parameters.iter() {
            if let Some(place) = parameter.name().strip_suffix(".lora_A.weight")
                && let Some(last) = place.rsplit('.').next()
                && !places.iter().any(|p| p == last)
            {
                places.push(last.to_string());
            }
        }
        places
    }
}
