//! Matrices that an adapter brings whole: the embedding and the output matrix of a vocabulary that grew for it, or that it
//! is to train.
//!
//! PEFT calls them `modules_to_save` and writes them beside the adapter under the base model's names. PEFT wraps each
//! module apart, also where the base ties them, so both are always written; here tied ones must be equal.

use hone_compute::{Engine, Parameter};
use serde_json::Value;

use crate::error::Error;
use crate::safetensors_file::{TensorFile, TensorToWrite};
use crate::transformer::Transformer;

/// PEFT's names of the modules, the names of their weights here, and the prefixes of their tensors.
const MODULES: [(&str, &str, &str); 2] = [
    ("embed_tokens", "embed_tokens.weight", "base_model.model.model."),
    ("lm_head", "lm_head.weight", "base_model.model."),
];

impl Transformer {
    /// Trains the embedding and the output matrix beside the adapter and keeps them with it, as a vocabulary that grew
    /// needs it: the base model has no rows for its new tokens. Without an adapter nothing changes.
    pub fn adapt_vocabulary(&mut self) {
        if let Some(adapter) = &mut self.adapter {
            adapter.config.vocabulary = true;
            for id in [self.embedding, self.output] {
                self.parameters.set_trainable(id, true);
            }
        }
    }

    /// `modules_to_save` of `adapter_config.json`.
    pub(crate) fn modules_to_save(&self) -> Option<Vec<&'static str>> {
        let brings = self.adapter.as_ref().is_some_and(|a| a.config.vocabulary);
        brings.then(|| MODULES.iter().map(|(module, _, _)| *module).collect())
    }

    /// The tensors of these modules for `adapter_model.safetensors`.
    pub(crate) fn saved_modules<'a>(&'a self, engine: &'a Engine) -> Vec<TensorToWrite<'a>> {
        if self.modules_to_save().is_none() {
            return Vec::new();
        }
        let write = |(name, parameter): (String, &'a Parameter)| TensorToWrite {
            name,
            shape: vec![parameter.value().rows(), parameter.value().cols()],
            numbers: Box::new(move || engine.read(parameter.value())),
        };
        MODULES
            .iter()
            .zip([self.embedding, self.output])
            .map(|((_, name, prefix), id)| write((format!("{prefix}{name}"), self.parameters.get(id))))
            .collect()
    }

    /// Puts in place what an adapter brings, and grows the vocabulary for it; before the adapter is attached. Gives the
    /// names of the tensors that it took.
    ///
    /// # Errors
    /// If the modules are others, or do not fit the model.
    pub(crate) fn take_saved_modules(
        &mut self,
        engine: &Engine,
        (listed, file): (Option<&Value>, &mut TensorFile),
        fail: &dyn Fn(String) -> Error,
    ) -> Result<Vec<String>, Error> {
        let listed: Vec<&str> = match listed {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
                names.iter().filter_map(Value::as_str).collect()
            }
            Some(other) => return Err(fail(format!("`modules_to_save` is {other}; expected a list of names"))),
        };
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(other) = listed.iter().find(|name| MODULES.iter().all(|m| m.0 != **name)) {
            let reason = format!("`modules_to_save` names {other}; hone reads embed_tokens and lm_head");
            return Err(fail(reason));
        }
        let (before, width) = (self.architecture.vocab_size, self.architecture.width);
        let (mut found, mut taken) = (Vec::new(), Vec::new());
        for (module, name, prefix) in MODULES.iter().filter(|m| listed.contains(&m.0)) {
            let tensor = format!("{prefix}{name}");
            let rows = match file.shape(&tensor) {
                Some([rows, cols]) if *cols == width && *rows >= before => *rows,
                Some(shape) => {
                    return Err(Error::Shape {
                        path: file.path().into(),
                        got: shape.to_vec(),
                        name: tensor,
                        expected: vec![before, width],
                    });
                }
                None => {
                    return Err(Error::MissingTensors {
                        path: file.path().into(),
                        count: 1,
                        example: tensor,
                    });
                }
            };
            found.push((*module, rows, file.read(&tensor)?));
            taken.push(tensor);
        }
        let rows = found[0].1;
        let differ =
            |a: &[f32], b: &[f32]| a.len() != b.len() || a.iter().zip(b).any(|(a, b)| a.to_bits() != b.to_bits());
        if self.architecture.tied {
            let alone = found.len() == 1 && found[0].0 == "lm_head";
            if alone || found.iter().any(|(_, _, numbers)| differ(numbers, &found[0].2)) {
                let reason = "`modules_to_save` has an output matrix of its own, and the base model's is its embedding; \
                              untie the base model first";
                return Err(fail(reason.into()));
            }
        } else if rows > before && found.len() < 2 || found.iter().any(|f| f.1 != rows) {
            let reason = "`modules_to_save` grows one of embed_tokens and lm_head; both must have the same rows";
            return Err(fail(reason.into()));
        }
        if rows > before {
            *self = self.with_vocabulary(engine, rows);
        }
        for (module, _, numbers) in found {
            let id = if module == "embed_tokens" {
                self.embedding
            } else {
                self.output
            };
            self.parameters.set(engine, id, &numbers);
        }
        Ok(taken)
    }
}
