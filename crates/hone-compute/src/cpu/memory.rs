//! Memory for numbers: aligned to cache lines, and to huge pages where it is large.
//!
//! # Soundness
//! A [`Memory`] owns `capacity` places, of which the first `written` hold numbers; only those are ever given out.

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytemuck::Pod;

const LINE: usize = 64;
/// The size of a huge page, and the least that asks for them.
const HUGE: usize = 2 << 20;

/// An array that owns its places, and writes them when they are first used: the system has no memory behind the others.
pub(crate) struct Memory<T> {
    pointer: NonNull<T>,
    written: usize,
    capacity: usize,
    /// Where the places are, if not in memory of their own.
    region: Option<Arc<Region>>,
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
            region: None,
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
            region: None,
        }
    }

    /// The same next to other arrays of `regions`, if it is large enough to gain by it and too small for huge pages of its
    /// own.
    pub fn within(regions: &Regions, capacity: usize) -> Self {
        let size = capacity * size_of::<T>();
        if !(SHARED..HUGE).contains(&size) {
            return Self::with_capacity(capacity);
        }
        let Some((pointer, region)) = regions.take(size) else {
            return Self::with_capacity(capacity);
        };
        Self {
            pointer: pointer.cast(),
            written: 0,
            capacity,
            region: Some(region),
        }
    }

    /// Writes zeros to the places before `length` that were never written.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn write_up_to(&mut self, length: usize) {
        assert!(length <= self.capacity, "{length} of {} places", self.capacity);
        if length > self.written {
            if self.region.is_none() {
                self.ask_for_huge_pages(length);
            }
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
        if self.region.is_some() {
            // SAFETY: the places are this array's, and used no more.
            unsafe { system::forget(self.pointer.as_ptr().cast(), self.capacity * size_of::<T>()) };
        } else if self.capacity > 0 {
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

/// The least size of an array that shares huge pages with others.
const SHARED: usize = 1 << 14;
/// The size of a region: of addresses, for memory is there once it is written to.
const REGION: usize = 16 * HUGE;

/// Huge pages of which several arrays have a part each. A part is not given out twice.
struct Region {
    start: NonNull<u8>,
}
// SAFETY: a region only keeps the memory; those who have a part of it say what they do with it.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    fn layout() -> Layout {
        Layout::from_size_align(REGION, HUGE).expect("a region fits the address space")
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: taken with this layout; no array has a part of it any more.
        unsafe { system::give_back(self.start.as_ptr(), Self::layout()) };
    }
}

/// Memory for arrays that live long and are read one after another, such as a model's weights: close together on huge pages,
/// so that fetching ahead is not held up by looking for pages.
#[derive(Default)]
pub(crate) struct Regions {
    /// The region whose end is free, and where that begins. It goes with the last array that has a part of it.
    open: Mutex<(Weak<Region>, usize)>,
}

impl Regions {
    /// `size` bytes, at most [`HUGE`], on a cache line; none where a system has no memory to be asked for in advance.
    fn take(&self, size: usize) -> Option<(NonNull<u8>, Arc<Region>)> {
        if !cfg!(target_os = "linux") {
            return None;
        }
        let size = size.next_multiple_of(LINE);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (region, used) = match open.0.upgrade() {
            Some(region) if open.1 + size <= REGION => (region, open.1),
            _ => {
                // SAFETY: the size is not zero.
                let start = NonNull::new(unsafe { system::take(Region::layout()) })?;
                // SAFETY: whole huge pages of this region.
                unsafe { system::advise(start.as_ptr(), REGION) };
                (Arc::new(Region { start }), 0)
            }
        };
        *open = (Arc::downgrade(&region), used + size);
        // SAFETY: the part ends within the region.
        Some((unsafe { region.start.add(used) }, region))
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

    /// Gives the memory of whole pages back and keeps the addresses. The system is told to leave it at that: where some of
    /// a huge page is in use, it would otherwise fill the gaps again, seconds later.
    ///
    /// # Safety
    /// What they hold is not read again.
    pub unsafe fn forget(memory: *mut u8, bytes: usize) {
        let before = memory.align_offset(PAGE).min(bytes);
        let whole = (bytes - before) / PAGE * PAGE;
        if whole > 0 {
            // SAFETY: as promised.
            unsafe {
                let gap = memory.add(before).cast();
                libc::madvise(gap, whole, libc::MADV_NOHUGEPAGE);
                libc::madvise(gap, whole, libc::MADV_DONTNEED);
            }
        }
    }

    /// The largest size of an ordinary page.
    const PAGE: usize = 1 << 16;

    /// Whole pages.
    fn pages(layout: Layout) -> usize {
        layout.size().next_multiple_of(PAGE)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub use std::alloc::{alloc as take, dealloc as give_back};

    pub unsafe fn advise(_: *mut u8, _: usize) {}

    pub unsafe fn forget(_: *mut u8, _: usize) {}
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
    fn arrays_of_a_region_lie_next_to_each_other_and_outlive_it() {
        let regions = Regions::default();
        let (small, large) = (SHARED / 4 - 1, HUGE / 4);
        assert!(Memory::<u32>::within(&regions, small).region.is_none());
        assert!(Memory::<u32>::within(&regions, large).region.is_none());
        if !cfg!(target_os = "linux") {
            return;
        }
        let count = HUGE / 4 - 3;
        let mut arrays: Vec<Memory<u32>> = (0..20).map(|_| Memory::within(&regions, count)).collect();
        for (i, array) in arrays.iter_mut().enumerate() {
            array.write_up_to(count);
            assert!(array.numbers().iter().all(|&x| x == 0), "new memory");
            array.numbers_mut().fill(i as u32);
        }
        let address = |array: &Memory<u32>| array.numbers().as_ptr().addr();
        assert_eq!(address(&arrays[1]) - address(&arrays[0]), HUGE);
        // More than a region holds; of some only every second is left
        drop(regions);
        let mut i = 0;
        arrays.retain(|_| {
            i += 1;
            i % 2 == 0
        });
        for (i, array) in arrays.iter().enumerate() {
            let expected = 2 * i as u32 + 1;
            assert!(array.numbers().iter().all(|&x| x == expected), "array {expected}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_region_goes_with_its_last_array() {
        let regions = Regions::default();
        let is_there = || regions.open.lock().unwrap().0.strong_count() > 0;
        let array = || Memory::<u32>::within(&regions, HUGE / 8);
        let (first, second) = (array(), array());
        drop(first);
        assert!(is_there());
        drop(second);
        assert!(!is_there());
        let third = array();
        assert!(is_there() && third.region.is_some(), "another one");
    }

    /// The lines that the system has on the mapping with an address, such as its size and its flags.
    #[cfg(target_os = "linux")]
    fn mapping_of(address: usize) -> Vec<String> {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let begins = |line: &str| {
            let (from, to) = line.split(' ').next()?.split_once('-')?;
            let [from, to] = [from, to].map(|x| usize::from_str_radix(x, 16).ok());
            Some(from? <= address && address < to?)
        };
        let lines = maps.lines().skip_while(|line| begins(line) != Some(true));
        let rest = lines.skip(1).take_while(|line| begins(line).is_none());
        rest.map(String::from).collect()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_leaves_gaps_of_a_region_empty() {
        let regions = Regions::default();
        let mut arrays: Vec<Memory<u32>> = (0..3).map(|_| Memory::within(&regions, HUGE / 8)).collect();
        for array in &mut arrays {
            array.write_up_to(HUGE / 8);
        }
        let gap = arrays[1].numbers().as_ptr().addr() + (1 << 17);
        let flag = |name: &str| {
            let lines = mapping_of(gap);
            let flags = lines.iter().find_map(|line| line.strip_prefix("VmFlags:"));
            flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == name))
        };
        if !flag("hg") {
            // A system without huge pages, or one that does not say
            return;
        }
        drop(arrays.remove(1));
        assert!(!flag("hg") && flag("nh"));
        let resident = mapping_of(gap).into_iter().find(|line| line.starts_with("Rss:"));
        assert_eq!(resident.unwrap().split_whitespace().nth(1), Some("0"));
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
