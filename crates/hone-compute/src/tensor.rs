//! Tensors: rows of f32 in storage that only a backend looks into.

use crate::cpu::buffer::Buffer;
use crate::rehearsal;

/// A matrix of f32, `[rows, cols]`, row-major, on the device of the engine that made it.
///
/// Models and stages pass tensors around and read them back through [`Engine`](crate::Engine); only kernels see the
/// numbers in place.
pub struct Tensor {
    rows: usize,
    cols: usize,
    storage: Storage,
}

/// Where the numbers are. A device adds a variant here.
enum Storage {
    Cpu(Buffer),
    /// Nowhere: a rehearsal only counts them.
    Counted {
        _memory: rehearsal::Buffer,
    },
}

const NOWHERE: &str = "a tensor of a rehearsal has no numbers: it was given to another engine";

impl Tensor {
    pub(crate) fn on_cpu(rows: usize, cols: usize, buffer: Buffer) -> Self {
        assert_eq!(buffer.len(), rows * cols, "a tensor's buffer has rows x cols numbers");
        Self {
            rows,
            cols,
            storage: Storage::Cpu(buffer),
        }
    }

    pub(crate) fn counted(rows: usize, cols: usize, buffer: rehearsal::Buffer) -> Self {
        assert_eq!(buffer.len(), rows * cols, "a tensor's buffer has rows x cols numbers");
        Self {
            rows,
            cols,
            storage: Storage::Counted { _memory: buffer },
        }
    }

    /// Rows: tokens, or the outputs of a weight.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: the width, or the inputs of a weight.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// `rows * cols`.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether there is no number in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn cpu(&self) -> &[f32] {
        match &self.storage {
            Storage::Cpu(buffer) => buffer,
            Storage::Counted { .. } => panic!("{NOWHERE}"),
        }
    }

    pub(crate) fn cpu_mut(&mut self) -> &mut [f32] {
        match &mut self.storage {
            Storage::Cpu(buffer) => buffer,
            Storage::Counted { .. } => panic!("{NOWHERE}"),
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor[{}, {}]", self.rows, self.cols)
    }
}
