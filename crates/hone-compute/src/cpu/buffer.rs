//! Memory of tensors, taken from a store and given back to it, so that a training step in its steady state asks the
//! system for nothing.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use super::memory::Memory;

/// Free buffers by capacity. A buffer is as long as it was ever used: what lies behind that was never written, so the
/// system has no memory for it.
#[derive(Default)]
pub(crate) struct Store {
    free: Mutex<BTreeMap<usize, Vec<Memory<f32>>>>,
}

/// Numbers of a tensor; goes back to its store when dropped.
pub(crate) struct Buffer {
    data: Memory<f32>,
    length: usize,
    store: Arc<Store>,
}

/// Capacities are powers of two, so that micro-batches of other sizes use the same buffers.
pub(crate) fn capacity_class(length: usize) -> usize {
    match length {
        0 => 0,
        _ => length.next_power_of_two().max(64),
    }
}

/// Which of some idle buffers of a class to take for `length` numbers: the shortest that is long enough, else the
/// longest. Of equal ones the last.
pub(crate) fn best_fit(idle: impl Iterator<Item = usize>, length: usize) -> Option<usize> {
    let key = |written: usize| {
        (
            written < length,
            if written < length {
                usize::MAX - written
            } else {
                written
            },
        )
    };
    let best = idle
        .enumerate()
        .min_by_key(|&(i, written)| (key(written), std::cmp::Reverse(i)));
    best.map(|(index, _)| index)
}

impl Store {
    /// A buffer of `length` numbers of any value (but finite or not, always initialised).
    pub fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let class = capacity_class(length);
        let found = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.get_mut(&class).and_then(|idle| {
                let index = best_fit(idle.iter().map(Memory::written), length)?;
                Some(idle.swap_remove(index))
            })
        };
        // Behind its length memory is not written, zeros neither
        let mut data = found.unwrap_or_else(|| Memory::with_capacity(class));
        data.write_up_to(length);
        Buffer {
            data,
            length,
            store: Arc::clone(self),
        }
    }

    /// Bytes that wait for use.
    pub fn idle_bytes(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.values()
            .flatten()
            .map(|data| data.written() * size_of::<f32>())
            .sum()
    }

    /// The lengths that waiting buffers of each capacity were used to, in order.
    #[cfg(test)]
    pub fn waiting(&self) -> BTreeMap<usize, Vec<usize>> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let lengths = |idle: &Vec<Memory<f32>>| idle.iter().map(Memory::written).collect();
        free.iter().map(|(class, idle)| (*class, lengths(idle))).collect()
    }

    /// Gives idle memory back to the system.
    pub fn clear(&self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        let class = capacity_class(self.length);
        if class > 0 {
            let mut free = self.store.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.entry(class).or_default().push(data);
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data.numbers()[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data.numbers_mut()[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again() {
        let store = Arc::new(Store::default());
        let first = store.take(1000);
        let address = first.as_ptr();
        drop(first);
        assert!(store.idle_bytes() >= 4000);
        let second = store.take(999);
        assert_eq!(second.as_ptr(), address);
        assert_eq!(second.len(), 999);
        assert_eq!(store.idle_bytes(), 0);
    }

    #[test]
    fn other_lengths_of_a_class_share_buffers() {
        let store = Arc::new(Store::default());
        drop((store.take(900), store.take(600)));
        let short = store.take(600);
        assert_eq!(
            (short.len(), store.idle_bytes()),
            (600, 3600),
            "the shortest that is long enough"
        );
        let long = store.take(1000);
        assert_eq!(
            (long.len(), store.idle_bytes()),
            (1000, 0),
            "else the longest, made longer"
        );
        drop((short, long));
        assert_eq!(store.idle_bytes(), 6400);
        assert_eq!(store.take(2000).len(), 2000);
        assert_eq!(store.idle_bytes(), 14_400, "another class has buffers of its own");
    }

    #[test]
    fn the_best_of_idle_buffers() {
        let idle = |length| best_fit([5, 9, 7, 9, 7].into_iter(), length);
        assert_eq!(
            [idle(4), idle(6), idle(8), idle(10)],
            [Some(0), Some(4), Some(3), Some(3)]
        );
        assert_eq!(best_fit(std::iter::empty(), 1), None);
        assert_eq!([0, 1, 64, 65, 1 << 20].map(capacity_class), [0, 64, 64, 128, 1 << 20]);
    }
}
