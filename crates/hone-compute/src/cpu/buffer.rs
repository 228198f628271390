//! Memory of tensors, taken from a store and given back to it, so that a training step in its steady state asks the
//! system for nothing.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Free buffers by capacity.
#[derive(Default)]
pub(crate) struct Store {
    free: Mutex<BTreeMap<usize, Vec<Vec<f32>>>>,
}

/// Numbers of a tensor; goes back to its store when dropped.
pub(crate) struct Buffer {
    data: Vec<f32>,
    store: Arc<Store>,
}

/// Capacities are rounded up to an eighth of a power of two, so that buffers of nearly equal size are shared.
pub(crate) fn capacity_class(length: usize) -> usize {
    let step = (length.next_power_of_two() / 16).max(64);
    length.div_ceil(step) * step
}

impl Store {
    /// A buffer of `length` numbers of any value (but finite or not, always initialised).
    pub fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let class = capacity_class(length);
        let found = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(&class)
            .and_then(Vec::pop);
        let mut data = found.unwrap_or_else(|| vec![0.0; class]);
        data.truncate(length);
        if data.len() < length {
            data.resize(length, 0.0);
        }
        Buffer {
            data,
            store: Arc::clone(self),
        }
    }

    /// Bytes that wait for use.
    pub fn idle_bytes(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.iter().map(|(class, buffers)| class * buffers.len() * 4).sum()
    }

    /// How many buffers of each capacity wait for use.
    #[cfg(test)]
    pub fn waiting(&self) -> BTreeMap<usize, usize> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.iter().map(|(class, buffers)| (*class, buffers.len())).collect()
    }

    /// Gives idle memory back to the system.
    pub fn clear(&self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        if data.capacity() > 0 {
            let class = data.capacity();
            let mut free = self.store.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.entry(class).or_default().push(data);
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data
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
    fn classes_waste_at_most_an_eighth() {
        for length in [1_usize, 63, 64, 65, 1000, 4097, 1_000_000] {
            let class = capacity_class(length);
            assert!(
                class >= length && (class - length) * 8 <= length.max(512),
                "{length} -> {class}"
            );
        }
    }
}
