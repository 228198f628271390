//! Memory for numbers: aligned to cache lines, and to huge pages where it is large.
//!
//! # Soundness
//! A [`Memory`] owns `capacity` places, of which the first `written` hold numbers; only those are ever given out.

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;

use bytemuck::Pod;

const LINE: usize = 64;
/// The size of a huge page, and the least that asks for them.
const HUGE: usize = 2 << 20;

/// An array that owns its places, and writes them when they are first used: the system has no memory behind the others.
pub(crate) struct Memory<T> {
    pointer: NonNull<T>,
    written: usize,
    capacity: usize,
}
// SAFETY: the array owns its memory, and gives it out under the rules of borrowing.
unsafe impl<T: Send> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Memory<T> {}

impl<T> Memory<T> {
    /// No places.
    pub const fn new() -> Self {
        Self {
            pointer: NonNull::dangling(),
            written: 0,
            capacity: 0,
        }
    }

    /// Places there are.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Places that hold numbers.
    pub const fn written(&self) -> usize {
        self.written
    }

    fn layout(capacity: usize) -> Layout {
        let size = capacity
            .checked_mul(size_of::<T>())
            .expect("an array fits the address space");
        let align = if size >= HUGE { HUGE } else { LINE };
        Layout::from_size_align(size, align).expect("an array fits the address space")
    }
}

impl<T: Pod> Memory<T> {
    /// `capacity` places, none of them written.
    pub fn with_capacity(capacity: usize) -> Self {
        if capacity == 0 || size_of::<T>() == 0 {
            return Self::new();
        }
        let layout = Self::layout(capacity);
        // SAFETY: the size is not zero.
        let memory = unsafe { system::take(layout) };
        let Some(pointer) = NonNull::new(memory.cast::<T>()) else {
            handle_alloc_error(layout)
        };
        Self {
            pointer,
            written: 0,
            capacity,
        }
    }

    /// Writes zeros to the places before `length` that were never written.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn write_up_to(&mut self, length: usize) {
        assert!(length <= self.capacity, "{length} of {} places", self.capacity);
        if length > self.written {
            self.ask_for_huge_pages(length);
            // SAFETY: the places lie in the array; zeros are numbers of every `Pod` type.
            unsafe { self.pointer.add(self.written).write_bytes(0, length - self.written) };
            self.written = length;
        }
    }

    /// Huge pages for those that `length` places fill: one that is filled in part would take memory for nothing.
    fn ask_for_huge_pages(&self, length: usize) {
        let (from, to) = (self.written * size_of::<T>() / HUGE, length * size_of::<T>() / HUGE);
        if to > from {
            // SAFETY: whole pages within the array.
            unsafe { system::advise(self.pointer.as_ptr().cast::<u8>().add(from * HUGE), (to - from) * HUGE) };
        }
    }

    /// The written places.
    pub fn numbers(&self) -> &[T] {
        // SAFETY: the first `written` places hold numbers.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.written) }
    }

    /// The written places.
    pub fn numbers_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.written) }
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        if self.capacity > 0 {
            // SAFETY: taken with this layout.
            unsafe { system::give_back(self.pointer.as_ptr().cast(), Self::layout(self.capacity)) };
        }
    }
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Large arrays are mapped one by one, so that the system has them back as soon as they are dropped.
#[cfg(target_os = "linux")]
mod system {
    use super::HUGE;
    use std::alloc::{Layout, alloc, dealloc};

    /// # Safety
    /// The size is not zero.
    pub unsafe fn take(layout: Layout) -> *mut u8 {
        if layout.size() < HUGE {
            // SAFETY: as promised.
            return unsafe { alloc(layout) };
        }
        let (size, more) = (pages(layout), pages(layout) + HUGE);
        // SAFETY: a new mapping, of which all but an aligned part of `size` bytes is given back at once.
        unsafe {
            let (access, kind) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            );
            let mapped = libc::mmap(std::ptr::null_mut(), more, access, kind, -1, 0);
            if mapped == libc::MAP_FAILED {
                return std::ptr::null_mut();
            }
            let mapped = mapped.cast::<u8>();
            let before = mapped.align_offset(HUGE);
            if before > 0 {
                libc::munmap(mapped.cast(), before);
            }
            if HUGE > before {
                libc::munmap(mapped.add(before + size).cast(), HUGE - before);
            }
            mapped.add(before)
        }
    }

    /// # Safety
    /// Taken with this layout, and used no more.
    pub unsafe fn give_back(memory: *mut u8, layout: Layout) {
        // SAFETY: as promised.
        unsafe {
            if layout.size() < HUGE {
                dealloc(memory, layout);
            } else {
                libc::munmap(memory.cast(), pages(layout));
            }
        }
    }

    /// # Safety
    /// The bytes are huge pages of the caller's.
    pub unsafe fn advise(pages: *mut u8, bytes: usize) {
        // SAFETY: it is advice: a refusal changes nothing but speed.
        unsafe { libc::madvise(pages.cast(), bytes, libc::MADV_HUGEPAGE) };
    }

    /// Whole pages of at most 64 KiB, the largest that are usual.
    fn pages(layout: Layout) -> usize {
        layout.size().next_multiple_of(1 << 16)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub use std::alloc::{alloc as take, dealloc as give_back};

    pub unsafe fn advise(_: *mut u8, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_written_once_and_keep_their_numbers() {
        let mut memory: Memory<f32> = Memory::with_capacity(100);
        assert_eq!((memory.capacity(), memory.written()), (100, 0));
        memory.write_up_to(40);
        assert_eq!(memory.numbers(), [0.0; 40]);
        memory.numbers_mut().fill(1.0);
        memory.write_up_to(20);
        memory.write_up_to(50);
        assert_eq!(memory.numbers()[..40], [1.0; 40]);
        assert_eq!(memory.numbers()[40..], [0.0; 10]);
    }

    #[test]
    fn small_arrays_start_on_a_line_and_large_ones_on_a_huge_page() {
        for (count, align) in [(1, LINE), (1000, LINE), (HUGE / 4, HUGE), (HUGE, HUGE)] {
            let mut memory: Memory<f32> = Memory::with_capacity(count);
            memory.write_up_to(1);
            assert!(memory.numbers().as_ptr().addr().is_multiple_of(align), "{count}");
        }
        assert!(Memory::<u32>::new().numbers().is_empty());
    }
}
