//! Tensors, kernels, the tape, the optimiser step and random numbers.
//!
//! Everything that is trained ends in a few numbers a token: its log-probability, an entropy, a value or a score.
//! This crate turns tokens into those numbers and, given the gradient of a loss with respect to them, into weight
//! gradients. It is the only crate of the workspace in which `unsafe` is usual: kernels need it.
#![allow(unsafe_code)]

mod backend;
pub mod bench;
mod cpu;
mod engine;
mod isa;
mod layout;
mod ops;
mod optimizer;
mod parameter;
mod pool;
mod profile;
mod rehearsal;
pub mod rope;
mod rows_left;
mod sampling;
mod system;
mod tape;
mod tensor;

pub use backend::Activation;
pub use cpu::logprob::VOCAB_CHUNK;
pub use cpu::sampling::choose;
pub use cpu::vocabulary::logits_bytes;
pub use engine::{Engine, EngineOptions};
pub use isa::{Isa, IsaError, Precision};
pub use layout::{AttentionShape, Layout, Mask, SequenceCache, Span};
pub use ops::{AttentionInputs, LinearWeight, TokenLogprobs, TokenTargets};
pub use optimizer::{AdamW, Optimizer, StepRate, StepReport};
pub use parameter::{GradientTree, Gradients, Packing, Parameter, ParameterId, Parameters};
pub use profile::OperationTime;
pub use rehearsal::{Account, MemoryUse, Speeds};
pub use rows_left::RowsLeft;
pub use sampling::{Adjustment, BestRow, Choice, SampleRow, SamplingError, SamplingParameters};
pub use system::return_freed_memory;
pub use tape::{Tape, Var};
pub use tensor::Tensor;
