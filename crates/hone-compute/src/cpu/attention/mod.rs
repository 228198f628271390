//! Softmax attention over the keys and values of each sequence, and its gradient.
//!
//! The reduction follows a grid anchored at position 0 of each sequence, so that a query's output has the same bits
//! whether it is computed with the whole sequence, in any chunks, or alone over a cache:
//!
//! 1. a score is a chain of fused multiply-adds over the head's dimensions in order (the query is scaled first);
//! 2. keys go in blocks of [`BLOCK`], blocks in segments of [`SEGMENT`]; within a segment a running maximum, a running
//!    sum and a running output are carried over its blocks from left to right (Milakov and Gimelshein, "Online
//!    normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022), the output a chain over the keys;
//! 3. segments are merged from left to right.
//!
//! Nothing as long as the sequence squared is ever held: scratch is per thread and per block.
//!
//! # Soundness
//! Kernels reach memory through [`Rows`] and [`RowsMut`], which carry no length: a start and a stride. What lies behind
//! them is scratch or a page, both made of whole blocks of rows that are padded to whole vectors, so the last vector of a
//! row that is partly filled stays inside; the function that builds them says how many rows there are. Outputs are written
//! through `Parts`, and the place where one is taken says why no other task has it. Arithmetic is sound as said in
//! [`simd`](super::simd).

mod backward;
mod forward;
mod pages;
#[cfg(test)]
mod tests;

use std::cell::RefCell;

pub(crate) use backward::{Backward, backward};
pub(crate) use forward::forward;
pub(crate) use pages::{BLOCK, KvPages, append_all};

use super::simd::Simd;
use crate::isa::Precision;
pub(crate) use crate::layout::{AttentionShape, Mask};
use pages::Line;

/// Blocks of a segment: 512 keys.
pub(crate) const SEGMENT: usize = 8;

/// Rows that the tiles below take at once: with 4 vectors to a row (2 where there are 16 registers), all registers.
const ROWS: usize = 6;

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
}

/// A type that the cache may hold.
trait Element: bytemuck::Pod {
    /// Reads `S::LANES` numbers as f32.
    ///
    /// # Safety
    /// They can be read, and the machine has the vectors of `S`.
    unsafe fn load<S: Simd>(p: *const Self) -> S::V;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const f32) -> S::V {
        unsafe { S::load(p) }
    }
}

impl Element for u16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u16) -> S::V {
        unsafe { S::load_bf16(p) }
    }
}

/// A matrix read by the kernels: rows `stride` numbers apart.
#[derive(Clone, Copy)]
struct Rows<E> {
    start: *const E,
    stride: usize,
}

/// A matrix written by the kernels.
#[derive(Clone, Copy)]
struct RowsMut {
    start: *mut f32,
    stride: usize,
}

/// `out[r][j] = sum over d of a[r][d] * b[d][j]`, `d` in order, for `R` rows and `vectors * LANES` columns.
///
/// # Safety
/// `a` holds `R` rows of `depth`, `b` `depth` rows of the columns and `out` `R` rows of them; the machine has the
/// vectors of `S`.
#[inline(always)]
unsafe fn scores<S: Simd, E: Element, const R: usize>(
    a: Rows<f32>,
    b: Rows<E>,
    depth: usize,
    vectors: usize,
    out: RowsMut,
) {
    let mut column = 0;
    while column < vectors {
        let at = column * S::LANES;
        // SAFETY: the columns of a tile lie within `vectors`.
        unsafe {
            let b = Rows {
                start: b.start.add(at),
                ..b
            };
            let out = RowsMut {
                start: out.start.add(at),
                ..out
            };
            column += match vectors - column {
                4.. if S::LANES == 16 => scores_tile::<S, E, R, 4>(a, b, depth, out),
                2.. => scores_tile::<S, E, R, 2>(a, b, depth, out),
                _ => scores_tile::<S, E, R, 1>(a, b, depth, out),
            };
        }
    }
}

#[inline(always)]
unsafe fn scores_tile<S: Simd, E: Element, const R: usize, const C: usize>(
    a: Rows<f32>,
    b: Rows<E>,
    depth: usize,
    out: RowsMut,
) -> usize {
    unsafe {
        let mut sums = [[S::splat(0.0); C]; R];
        for d in 0..depth {
            let row = b.start.add(d * b.stride);
            let mut columns = [S::splat(0.0); C];
            for c in 0..C {
                columns[c] = E::load::<S>(row.add(c * S::LANES));
            }
            for r in 0..R {
                let x = S::splat(*a.start.add(r * a.stride + d));
                for c in 0..C {
                    sums[r][c] = S::fma(x, columns[c], sums[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                S::store(out.start.add(r * out.stride + c * S::LANES), sums[r][c]);
            }
        }
    }
    C
}

/// The left operand of [`combine`]: row `r`, place `j` is at `r * row + j * place`.
#[derive(Clone, Copy)]
struct Weights<const R: usize> {
    start: *const f32,
    row: usize,
    place: usize,
    /// The first place of the chain.
    from: usize,
    /// The end of each row's chain, not decreasing.
    to: [usize; R],
}

/// `out[r] = factor[r] * out[r] + sum over j of w[r][j] * v[j]`, `j` in order; with no factors, `out` starts at 0.
///
/// # Safety
/// `v` has rows for all places, of `vectors * LANES`, as have the `R` rows of `out`; the machine has the vectors of `S`.
#[inline(always)]
unsafe fn combine<S: Simd, E: Element, const R: usize>(
    w: Weights<R>,
    v: Rows<E>,
    vectors: usize,
    out: RowsMut,
    factors: Option<[f32; R]>,
) {
    let mut column = 0;
    while column < vectors {
        let at = column * S::LANES;
        // SAFETY: the columns of a tile lie within `vectors`.
        unsafe {
            let v = Rows {
                start: v.start.add(at),
                ..v
            };
            let out = RowsMut {
                start: out.start.add(at),
                ..out
            };
            column += match vectors - column {
                4.. if S::LANES == 16 => combine_tile::<S, E, R, 4>(w, v, out, factors),
                2.. => combine_tile::<S, E, R, 2>(w, v, out, factors),
                _ => combine_tile::<S, E, R, 1>(w, v, out, factors),
            };
        }
    }
}

#[inline(always)]
unsafe fn combine_tile<S: Simd, E: Element, const R: usize, const C: usize>(
    w: Weights<R>,
    v: Rows<E>,
    out: RowsMut,
    factors: Option<[f32; R]>,
) -> usize {
    unsafe {
        let mut sums = [[S::splat(0.0); C]; R];
        if let Some(factors) = factors {
            for r in 0..R {
                let factor = S::splat(factors[r]);
                for c in 0..C {
                    let old = S::load(out.start.add(r * out.stride + c * S::LANES));
                    sums[r][c] = S::mul(old, factor);
                }
            }
        }
        for j in w.from..w.to[0] {
            let row = v.start.add(j * v.stride);
            let mut columns = [S::splat(0.0); C];
            for c in 0..C {
                columns[c] = E::load::<S>(row.add(c * S::LANES));
            }
            for r in 0..R {
                let x = S::splat(*w.start.add(r * w.row + j * w.place));
                for c in 0..C {
                    sums[r][c] = S::fma(x, columns[c], sums[r][c]);
                }
            }
        }
        // The last few keys, which not all rows see.
        for j in w.to[0].max(w.from)..w.to[R - 1] {
            let row = v.start.add(j * v.stride);
            for r in 0..R {
                if j < w.to[r] {
                    let x = S::splat(*w.start.add(r * w.row + j * w.place));
                    for c in 0..C {
                        let column = E::load::<S>(row.add(c * S::LANES));
                        sums[r][c] = S::fma(x, column, sums[r][c]);
                    }
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                S::store(out.start.add(r * out.stride + c * S::LANES), sums[r][c]);
            }
        }
    }
    C
}

/// The largest lane.
#[inline(always)]
unsafe fn max_lane<S: Simd>(v: S::V) -> f32 {
    let mut lanes = unsafe { S::to_array(v) };
    let mut width = S::LANES / 2;
    while width > 0 {
        for i in 0..width {
            let (a, b) = (lanes[i], lanes[i + width]);
            lanes[i] = if a > b { a } else { b };
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of the lanes: halves are added until one is left.
#[inline(always)]
unsafe fn sum_lanes<S: Simd>(v: S::V) -> f32 {
    let mut lanes = unsafe { S::to_array(v) };
    let mut width = S::LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
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

/// Lends this thread's scratch, as one slice for each of `sizes`, each on a cache line of its own. What they hold is
/// left from before.
fn with_scratch<const N: usize>(sizes: [usize; N], run: impl FnOnce([&mut [f32]; N])) {
    thread_local! {
        static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|lines| {
        let needed: usize = sizes.iter().map(|size| size.div_ceil(16)).sum();
        if lines.len() < needed {
            lines.resize(needed, Line::ZERO);
        }
        let mut rest: &mut [f32] = bytemuck::cast_slice_mut(lines);
        run(sizes.map(|size| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(size.next_multiple_of(16));
            rest = after;
            &mut part[..size]
        }));
    })
}
