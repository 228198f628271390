//! What can be wrong with a model.

use std::path::PathBuf;

/// A model that cannot be read, written or adapted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a model directory.
    #[error("{}: no config.json; expected a Hugging Face model directory (config.json, model.safetensors, tokenizer.json)", path.display())]
    NotAModel {
        /// Where.
        path: PathBuf,
    },
    /// A JSON file that is not JSON, or lacks a field.
    #[error("{}: {reason}", path.display())]
    Config {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what is expected.
        reason: String,
    },
    /// An architecture that hone does not have.
    #[error("{}: model_type is `{got}`, which hone does not know; it knows {known}", path.display())]
    UnknownArchitecture {
        /// The configuration.
        path: PathBuf,
        /// What it says.
        got: String,
        /// What there is.
        known: String,
    },
    /// Weights as a pickle, which could run code.
    #[error("{}: pickled weights are never read, since loading them can run code; convert them once with transformers: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR, safe_serialization=True)", path.display())]
    Pickle {
        /// Which.
        path: PathBuf,
    },
    /// A directory without weights.
    #[error("{}: no model.safetensors and no model.safetensors.index.json", path.display())]
    NoWeights {
        /// Where.
        path: PathBuf,
    },
    /// A safetensors file that lies.
    #[error("{}: {reason}", path.display())]
    Safetensors {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Tensors that the architecture needs are not there.
    #[error("{}: {count} missing, such as `{example}`", path.display())]
    MissingTensors {
        /// The directory.
        path: PathBuf,
        /// How many.
        count: usize,
        /// One of them.
        example: String,
    },
    /// Tensors that the architecture does not have.
    #[error("{}: {count} tensors that a {family} of this configuration does not have, such as `{example}`", path.display())]
    ExtraTensors {
        /// The directory.
        path: PathBuf,
        /// How many.
        count: usize,
        /// One of them.
        example: String,
        /// The family.
        family: &'static str,
    },
    /// Tensors of an adapter that hone would not use.
    #[error("{}: holds {count} tensors that are no LoRA matrix of its targets, such as `{example}`; hone would leave them out; {hint}", path.display())]
    AdapterTensors {
        /// The file.
        path: PathBuf,
        /// How many.
        count: usize,
        /// One of them.
        example: String,
        /// The way out.
        hint: &'static str,
    },
    /// A tensor of another shape.
    #[error("{}: `{name}` has shape {got:?}; the configuration needs {expected:?}", path.display())]
    Shape {
        /// Which file.
        path: PathBuf,
        /// Which tensor.
        name: String,
        /// Its shape.
        got: Vec<usize>,
        /// The shape that the configuration gives it.
        expected: Vec<usize>,
    },
    /// A tensor of a type that is not a float.
    #[error("{}: `{name}` is of type {got}; expected F32, F16 or BF16", path.display())]
    Dtype {
        /// Which file.
        path: PathBuf,
        /// Which tensor.
        name: String,
        /// Its type.
        got: String,
    },
    /// A number that is not finite.
    #[error("{}: `{name}` holds a number that is not finite; the file is damaged, or its training diverged", path.display())]
    NotFinite {
        /// Which file.
        path: PathBuf,
        /// Which tensor.
        name: String,
    },
    /// A matrix that LoRA cannot find.
    #[error("lora.targets: `{target}` is not a matrix of this model; it has {known}")]
    UnknownTarget {
        /// What was asked.
        target: String,
        /// What there is.
        known: String,
    },
    /// A second adapter.
    #[error("the model carries an adapter already; merge it first (hone export)")]
    AdapterPresent,
    /// A rank of 0, or above the model's width.
    #[error("lora.rank is {got}; expected 1 to {most}, the model's width")]
    AdapterRank {
        /// The rank asked for.
        got: usize,
        /// The model's width.
        most: usize,
    },
    /// An alpha that scales the adapter to nothing, or to something that is no number.
    #[error("lora.alpha is {got}; expected a number above 0")]
    AdapterAlpha {
        /// The alpha asked for.
        got: f64,
    },
    /// Sizes that make no transformer.
    #[error("[model.new]: {reason}")]
    New {
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// Whether a setting that the user gave is at fault, not a file.
    pub fn is_setting(&self) -> bool {
        matches!(
            self,
            Self::NotAModel { .. }
                | Self::UnknownTarget { .. }
                | Self::AdapterRank { .. }
                | Self::AdapterAlpha { .. }
                | Self::New { .. }
        )
    }

    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }
}
