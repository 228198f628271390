//! Tensors, kernels, the tape, the optimiser step and random numbers.
//!
//! Everything that is trained ends in a few numbers a token: its log-probability, an entropy, a value or a score.
//! This crate turns tokens into those numbers and, given the gradient of a loss with respect to them, into weight
//! gradients. It is the only crate of the workspace in which `unsafe` is usual: kernels need it.
#![allow(unsafe_code)]

mod cpu;
mod isa;
mod pool;
pub mod rope;

pub use cpu::logprob::VOCAB_CHUNK;
pub use cpu::sampling::{SamplingError, SamplingParameters, choose};
pub use isa::{Isa, IsaError, Precision};
