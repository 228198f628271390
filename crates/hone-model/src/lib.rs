//! Transformers, heads, LoRA and their files.
//!
//! A family is data: how its configuration maps to an [`Architecture`] and what its weights are called. The forward
//! pass is written once, on the tape, for training and for decoding.

mod adapter;
mod architecture;
mod config;
mod error;
mod heads;
mod lora;
mod names;
mod prefixes;
mod read;
mod safetensors_file;
mod saved_modules;
mod transformer;
mod write;

pub use adapter::load_adapter;
pub use architecture::{Architecture, Biases, Family, MlpKind, NormKind, Positions};
pub use config::{ModelConfig, NewModel};
pub use error::Error;
pub use lora::{Adapter, LoraConfig};
pub use prefixes::{SharedPrefixes, common_prefix};
pub use read::{Weights, load, read_config};
pub use safetensors_file::{Dtype, TensorFile, TensorToWrite, write_tensors};
pub use transformer::{Tokens, Transformer};
