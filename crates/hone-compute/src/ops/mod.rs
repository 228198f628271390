//! The operations of the tape, one fused operation a file: its forward, what it keeps, its backward.

mod activation;
mod attention;
mod embedding;
mod head;
mod linear;
mod norm;
mod recompute;
pub(crate) mod remake;
mod rotation;
mod rows;
mod sum;
mod vocabulary;

pub use attention::AttentionInputs;
pub use linear::LinearWeight;
pub use vocabulary::{TokenLogprobs, TokenTargets};
