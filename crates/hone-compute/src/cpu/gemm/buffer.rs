//! Memory for packed matrices: aligned to cache lines, and to huge pages where it is large.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

const LINE: usize = 64;
/// The size of a huge page, and the least that asks for them.
const HUGE: usize = 2 << 20;

/// A growing array of 32-bit cells that is reused, never copied.
pub(super) struct Buffer {
    pointer: NonNull<u32>,
    length: usize,
    capacity: usize,
}
// SAFETY: the buffer owns its memory, and gives it out under the rules of borrowing.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub const fn new() -> Self {
        Self {
            pointer: NonNull::dangling(),
            length: 0,
            capacity: 0,
        }
    }

    /// Makes it `length` cells long. What it held is lost: the cells hold arbitrary numbers.
    pub fn resize(&mut self, length: usize) {
        if length > self.capacity {
            self.release();
            let layout = Self::layout(length);
            // SAFETY: the size is not zero, for `length` is above some capacity.
            let memory = unsafe { alloc(layout) };
            let Some(pointer) = NonNull::new(memory.cast::<u32>()) else {
                handle_alloc_error(layout)
            };
            advise(memory, layout);
            // SAFETY: the memory is as large; writing it makes every later read defined.
            unsafe { pointer.write_bytes(0, length) };
            self.pointer = pointer;
            self.capacity = length;
        }
        self.length = length;
    }

    pub fn cells(&self) -> &[u32] {
        // SAFETY: `length` is at most `capacity`, and all of that has been written.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.length) }
    }

    pub fn cells_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.length) }
    }

    /// Cells that there is memory for.
    #[cfg(test)]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    fn layout(cells: usize) -> Layout {
        let size = cells
            .checked_mul(size_of::<u32>())
            .expect("a matrix fits the address space");
        let align = if size >= HUGE { HUGE } else { LINE };
        Layout::from_size_align(size, align).expect("a matrix fits the address space")
    }

    fn release(&mut self) {
        if self.capacity > 0 {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(self.pointer.as_ptr().cast(), Self::layout(self.capacity)) };
        }
        self.pointer = NonNull::dangling();
        self.length = 0;
        self.capacity = 0;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(target_os = "linux")]
fn advise(memory: *mut u8, layout: Layout) {
    if layout.size() >= HUGE {
        // SAFETY: the range is ours. It is advice: a refusal changes nothing but speed.
        unsafe { libc::madvise(memory.cast(), layout.size(), libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise(_: *mut u8, _: Layout) {}
