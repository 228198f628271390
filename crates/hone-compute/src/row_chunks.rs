//! Sums over rows: the gradients of biases and of norms' weights.
//!
//! Rows are summed in chunks, and the chunks one after another, so that threads change nothing. Where rows were left out
//! whose gradients are 0, the chunks are those of all rows, so that leaving them out changes nothing either.

use std::ops::Range;
use std::sync::Arc;

/// Rows whose contributions to a column are summed before they join the others. Part of the result.
pub(crate) const ROW_CHUNK: usize = 64;

/// How sums over rows are cut.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowChunks {
    /// Where each chunk ends; none: every [`ROW_CHUNK`] rows.
    ends: Option<Arc<[usize]>>,
}

impl RowChunks {
    /// The chunks of more rows, of which these are left, in order.
    pub fn of_rows_left(rows: &[u32]) -> Self {
        debug_assert!(rows.is_sorted(), "rows in order");
        let chunk = |row: u32| row as usize / ROW_CHUNK;
        let changes = (1..rows.len()).filter(|&i| chunk(rows[i]) != chunk(rows[i - 1]));
        let ends = changes.chain((!rows.is_empty()).then_some(rows.len()));
        Self {
            ends: Some(ends.collect()),
        }
    }

    /// How many chunks `n` rows have.
    ///
    /// # Panics
    /// If these are the chunks of another number of rows.
    pub fn count(&self, n: usize) -> usize {
        match &self.ends {
            Some(ends) => {
                assert_eq!(ends.last().copied().unwrap_or(0), n, "chunks of as many rows");
                ends.len()
            }
            None => n.div_ceil(ROW_CHUNK),
        }
    }

    /// The rows of a chunk of `n` rows.
    pub fn rows(&self, chunk: usize, n: usize) -> Range<usize> {
        match &self.ends {
            Some(ends) => chunk.checked_sub(1).map_or(0, |before| ends[before])..ends[chunk],
            None => chunk * ROW_CHUNK..n.min((chunk + 1) * ROW_CHUNK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(chunks: &RowChunks, n: usize) -> Vec<Range<usize>> {
        (0..chunks.count(n)).map(|chunk| chunks.rows(chunk, n)).collect()
    }

    #[test]
    fn rows_left_stay_in_their_chunks() {
        assert_eq!(all(&RowChunks::default(), 130), [0..64, 64..128, 128..130]);
        let every: Vec<u32> = (0..130).collect();
        assert_eq!(all(&RowChunks::of_rows_left(&every), 130), [0..64, 64..128, 128..130]);
        let some = RowChunks::of_rows_left(&[3, 63, 64, 65, 200, 201, 255]);
        assert_eq!(all(&some, 7), [0..2, 2..4, 4..7]);
        assert!(all(&RowChunks::of_rows_left(&[]), 0).is_empty());
    }
}
