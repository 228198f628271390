//! Memory for packed matrices.

use crate::cpu::memory::{Memory, Regions};
use std::sync::Arc;

/// A growing array of 32-bit cells that is reused, never copied.
pub(super) struct Buffer {
    memory: Memory<u32>,
    length: usize,
    /// Where to take memory from, if not on its own.
    regions: Option<Arc<Regions>>,
}

impl Buffer {
    pub const fn new() -> Self {
        Self {
            memory: Memory::new(),
            length: 0,
            regions: None,
        }
    }

    /// The same next to other arrays.
    pub const fn within(regions: Arc<Regions>) -> Self {
        Self {
            memory: Memory::new(),
            length: 0,
            regions: Some(regions),
        }
    }

    /// Makes it `length` cells long. What it held is lost: the cells hold arbitrary numbers.
    pub fn resize(&mut self, length: usize) {
        if length > self.memory.capacity() {
            // The old array goes first
            self.memory = Memory::new();
            self.memory = match &self.regions {
                Some(regions) => Memory::within(regions, length),
                None => Memory::with_capacity(length),
            };
        }
        self.memory.write_up_to(length);
        self.length = length;
    }

    pub fn cells(&self) -> &[u32] {
        &self.memory.numbers()[..self.length]
    }

    pub fn cells_mut(&mut self) -> &mut [u32] {
        &mut self.memory.numbers_mut()[..self.length]
    }

    /// Cells that there is memory for.
    pub const fn capacity(&self) -> usize {
        self.memory.capacity()
    }
}
