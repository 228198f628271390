//! Softmax attention over the keys and values of each sequence, and its gradient.
//!
//! The reduction follows a grid anchored at position 0 of each sequence, so that a query's output has the same bits
//! whether it is computed with the whole sequence, in any chunks, or alone over a cache:
//!
//! 1. a score is a chain over the head's dimensions in order (the query is scaled first);
//! 2. keys go in blocks of [`BLOCK`], blocks in segments of [`SEGMENT`]; within a segment a running maximum, a running
//!    sum and a running output are carried over its blocks from left to right (Milakov and Gimelshein, "Online
//!    normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022), the output a chain over the keys;
//! 3. segments are merged from left to right.
//!
//! In the bf16 mode all operands of products are rounded to bf16: queries after scaling, keys and values where they are
//! produced, weights after their sum is taken, in the gradient that of the output and of the scores. Sums are f32; how a
//! chain adds its elements is in [`arithmetic`]. Softmax is f32.
//!
//! Nothing as long as the sequence squared is ever held: scratch is per thread and per block, or as long as a sequence.
//!
//! # Soundness
//! Kernels reach memory through the operands of [`tiles`]. Outputs are written through `Parts`, and the place where one is
//! taken says why no other task has it. Arithmetic is sound as said in [`simd`](super::simd).

mod arithmetic;
mod backward;
mod fill;
mod forward;
mod pack;
mod pages;
#[cfg(test)]
mod tests;
mod tiles;

use std::cell::RefCell;

pub(crate) use backward::{Backward, backward};
pub(crate) use forward::forward;
pub(crate) use pages::{KvPages, PageStore, append_all};

use crate::isa::Precision;
pub(crate) use crate::layout::{AttentionShape, Mask};
use pages::Line;

/// Positions of a page, and keys of a block of the reduction.
pub(crate) const BLOCK: usize = 64;

/// Blocks of a segment: 512 keys.
pub(crate) const SEGMENT: usize = 8;

impl AttentionShape {
    /// Heads of the queries that share one head of the keys.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// A row of one head, rounded up to a whole vector.
    fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    /// Keys that the query at `position` sees in a cache of `length`.
    fn limit(&self, position: usize, length: usize) -> usize {
        match self.mask {
            Mask::Causal => position + 1,
            Mask::Full => length,
        }
    }

    /// Panics where the shape or the spans do not fit `rows` rows of queries.
    fn check(&self, precision: Precision, spans: &[Span], rows: usize) {
        assert!(
            self.head_dim > 0 && self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "{self:?}"
        );
        let mut taken: Vec<_> = spans.iter().map(|s| s.row..s.row + s.length).collect();
        taken.retain(|range| !range.is_empty());
        taken.sort_by_key(|range| range.start);
        assert!(
            taken.windows(2).all(|pair| pair[0].end <= pair[1].start)
                && taken.last().is_none_or(|range| range.end <= rows),
            "spans overlap or go beyond {rows} rows: {taken:?}"
        );
        assert!(
            self.mask == Mask::Causal || spans.iter().all(|span| span.after.is_none()),
            "a beginning that sees what follows it has no branches"
        );
        for span in spans {
            assert!(
                span.kv.precision() == precision
                    && span.kv.kv_heads() == self.kv_heads
                    && span.kv.head_dim() == self.head_dim,
                "a cache of another shape or precision than {self:?}"
            );
            assert!(
                self.mask == Mask::Full || span.start + span.length <= span.kv.len(),
                "queries at {}..{}, but the cache holds {} positions",
                span.start,
                span.start + span.length,
                span.kv.len()
            );
        }
    }
}

/// One sequence of a call.
#[derive(Clone, Copy)]
pub(crate) struct Span<'a> {
    /// Its first row in the array of queries.
    pub row: usize,
    /// Its rows.
    pub length: usize,
    /// The position of its first query.
    pub start: usize,
    /// Its keys and values, those of these queries' positions already appended.
    pub kv: &'a KvPages,
    /// The span of the same call that it goes on from, where it shares that one's beginning.
    pub after: Option<usize>,
}

/// 0, 1, 2, .. as numbers, to compare places with limits.
static PLACES: [f32; BLOCK] = {
    let mut places = [0.0; BLOCK];
    let mut i = 0;
    while i < BLOCK {
        places[i] = i as f32;
        i += 1;
    }
    places
};

/// Lends this thread's scratch, as one slice of 32-bit numbers for each of `sizes`, each on a cache line of its own. What
/// they hold is left from before.
fn with_scratch<const N: usize>(sizes: [usize; N], run: impl FnOnce([&mut [u32]; N])) {
    thread_local! {
        static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|lines| {
        let needed: usize = sizes.iter().map(|size| size.div_ceil(16)).sum();
        if lines.len() < needed {
            lines.resize(needed, Line::ZERO);
        }
        let mut rest: &mut [u32] = bytemuck::cast_slice_mut(lines);
        run(sizes.map(|size| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(size.next_multiple_of(16));
            rest = after;
            &mut part[..size]
        }));
    })
}
