//! The kernels of the processor: slices in, slices out. Nothing here knows of tensors or models.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod backend;
pub(crate) mod buffer;
pub(crate) mod elementwise;
pub(crate) mod embedding;
pub(crate) mod gemm;
pub(crate) mod logprob;
pub(crate) mod math;
pub(crate) mod memory;
pub(crate) mod norm;
pub(crate) mod optimizer;
pub(crate) mod rope;
pub(crate) mod sampling;
pub(crate) mod simd;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod vocabulary;

use std::sync::Arc;

use crate::isa::{Isa, Level, Precision};
use crate::pool::Pool;
use attention::PageStore;

/// What every kernel needs to know.
pub(crate) struct Cpu {
    pub isa: Isa,
    pub level: Level,
    pub precision: Precision,
    pub pool: Pool,
    /// Memory of the keys and values of caches.
    pub pages: Arc<PageStore>,
}

impl Cpu {
    /// Kernels of `isa`.
    ///
    /// # Panics
    /// If it does not run on this machine.
    pub fn new(isa: Isa, precision: Precision, threads: usize) -> Self {
        Self {
            isa,
            level: isa.level(),
            precision,
            pool: Pool::new(threads),
            pages: Arc::default(),
        }
    }
}
