//! Rows that are left where others are left out, and sums over rows: the gradients of biases and of norms' weights.
//!
//! Rows are summed in chunks, and the chunks one after another, so that threads change nothing. Where rows were left out
//! whose gradients are 0, the chunks are those of all rows, so that leaving them out changes nothing either.

use std::ops::Range;
use std::sync::Arc;

/// Rows whose contributions to a column are summed before they join the others. Part of the result.
pub(crate) const ROW_CHUNK: usize = 64;

/// The rows of `n` that are left where rows are left out that nothing is asked of, in order: whole groups of neighbours, as
/// many as a product that sums over rows takes at a time, so that its other sums are as with all rows
/// ([`Engine::rows_left`](crate::Engine::rows_left)).
#[derive(Clone, Debug)]
pub struct RowsLeft {
    rows: Arc<[u32]>,
    /// How many there were.
    of: usize,
}

impl RowsLeft {
    /// The groups of `size` rows, counted from the first of all, that have a wanted one; the last may be shorter.
    pub(crate) fn with(wanted: &[u32], of: usize, size: usize) -> Self {
        let mut has_wanted = vec![false; of.div_ceil(size)];
        for &row in wanted {
            assert!((row as usize) < of, "row {row} of {of}");
            has_wanted[row as usize / size] = true;
        }
        Self {
            rows: (0..of as u32).filter(|&row| has_wanted[row as usize / size]).collect(),
            of,
        }
    }

    /// The numbers that they had.
    pub fn rows(&self) -> &Arc<[u32]> {
        &self.rows
    }

    /// How many there were.
    pub fn of(&self) -> usize {
        self.of
    }

    /// Where these rows are among those that are left.
    ///
    /// # Panics
    /// If one of them is not.
    pub fn places(&self, rows: &[u32]) -> Arc<[u32]> {
        let place = |row| self.rows.binary_search(row).expect("a row that is left");
        rows.iter().map(|row| place(row) as u32).collect()
    }

    pub(crate) fn chunks(&self) -> RowChunks {
        let chunk = |row: u32| row as usize / ROW_CHUNK;
        let ends = self.rows.chunk_by(|&a, &b| chunk(a) == chunk(b)).scan(0, |end, rows| {
            *end += rows.len();
            Some(*end)
        });
        RowChunks {
            ends: Some(ends.collect()),
        }
    }
}

/// How sums over rows are cut.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowChunks {
    /// Where each chunk ends; none: every [`ROW_CHUNK`] rows.
    ends: Option<Arc<[usize]>>,
}

impl RowChunks {
    /// Whether they are those of all rows.
    pub fn are_of_all(&self) -> bool {
        self.ends.is_none()
    }

    /// The chunks of `n` rows, in order.
    ///
    /// # Panics
    /// If they are those of another number of rows.
    pub fn ranges(&self, n: usize) -> Vec<Range<usize>> {
        let every = || (ROW_CHUNK..n).step_by(ROW_CHUNK).chain((n > 0).then_some(n)).collect();
        let ends = self.ends.clone().unwrap_or_else(every);
        assert_eq!(ends.last().copied().unwrap_or(0), n, "chunks of as many rows");
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(ends.iter()).map(|(start, &end)| start..end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_groups_are_left() {
        let left = RowsLeft::with(&[9, 1, 6, 1], 10, 4);
        assert_eq!(left.rows()[..], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let left = RowsLeft::with(&[9, 1, 9], 10, 4);
        assert_eq!(left.rows()[..], [0, 1, 2, 3, 8, 9]);
        assert_eq!(left.places(&[9, 1, 9])[..], [5, 1, 5]);
        assert_eq!(RowsLeft::with(&[7, 3], 10, 1).rows()[..], [3, 7]);
    }

    #[test]
    fn rows_left_stay_in_their_chunks() {
        for n in [0, 1, 64, 65, 130] {
            let every: Vec<u32> = (0..n as u32).collect();
            let all = RowChunks::default().ranges(n);
            assert_eq!(all, RowsLeft::with(&every, n, 1).chunks().ranges(n));
            assert_eq!(all.len(), n.div_ceil(ROW_CHUNK));
        }
        assert_eq!(RowChunks::default().ranges(130), [0..64, 64..128, 128..130]);
        let some = RowsLeft::with(&[3, 63, 64, 65, 200, 201, 255], 300, 1);
        assert_eq!(some.chunks().ranges(7), [0..2, 2..4, 4..7]);
    }
}
