//! The gradient of attention: the weights are computed again, block by block, from the logarithms of their sums
//! (Dao et al., "FlashAttention", 2022, algorithm 4).
//!
//! With `p = exp(s - log_sum)` and `D = sum(dout * out)` of a row: `dv = p^T dout`, `ds = p * (dout v^T - D)`,
//! `dq = scale * ds k`, `dk = ds^T (scale * q)`. A task is a head of the keys of one sequence. Its blocks of queries go from
//! the first to the last, each with the heads of the group in turn, and for each of these the blocks of keys. So every sum
//! has one order: that of `dq` runs over the keys, that of `dk` and `dv` over blocks of queries, their heads, and queries.
//! Sequences that go on from a common beginning are one task with it: their queries' parts of its `dk` and `dv` follow those
//! of its own, sequence by sequence. Blocks of queries, like those of keys, begin at multiples of [`BLOCK`] or where the
//! sequence leaves its beginning.
//!
//! In the bf16 mode, `dout`, `p` and `ds` are rounded to bf16 where they are operands of products; `D` is taken of the
//! rounded `dout`, like the products that it is subtracted from.

use std::cmp::Reverse;

use bytemuck::cast_slice_mut;

use super::arithmetic::{Arithmetic, Way, dispatch_way};
use super::pack::{keys_across, values_across};
use super::tiles::{BAND, Chain, Left, ROWS, Right, RowsMut, Start, by_tiles, combine, scores};
use super::{AttentionShape, BLOCK, Mask, PLACES, Span, with_scratch};
use crate::cpu::Cpu;
use crate::cpu::math::{dot, exp_below_88};
use crate::cpu::simd::Simd;
use crate::pool::Parts;

/// What the gradient is computed from.
pub(crate) struct Backward<'a> {
    /// The sizes.
    pub shape: &'a AttentionShape,
    /// `[n, heads * head_dim]`: the queries.
    pub q: &'a [f32],
    /// `[n, heads * head_dim]`: the output.
    pub out: &'a [f32],
    /// `[n, heads * head_dim]`: the gradient with respect to the output.
    pub dout: &'a [f32],
    /// `[n, heads]`: what the forward pass stored.
    pub log_sum: &'a [f32],
    /// The sequences, each whole, with as many queries as keys, or going on from the end of a whole one.
    pub spans: &'a [Span<'a>],
}

pub(super) struct Task<'a> {
    b: &'a Backward<'a>,
    family: &'a Family<'a>,
    kv_head: usize,
    dq: &'a Parts<'a, f32>,
    dk: &'a Parts<'a, f32>,
    dv: &'a Parts<'a, f32>,
}

/// A whole sequence and those that go on from its end.
struct Family<'a> {
    first: Span<'a>,
    branches: Vec<Span<'a>>,
}

impl<'a> Family<'a> {
    /// The families of these spans, the longest first, so that no thread is left with one at the end.
    fn of(spans: &[Span<'a>]) -> Vec<Self> {
        let mut families: Vec<Self> = Vec::new();
        let mut place = vec![0; spans.len()];
        for (i, span) in spans.iter().enumerate() {
            match span.after {
                None => {
                    assert!(
                        span.start == 0 && span.kv.len() == span.length,
                        "queries at {}.. of {}, keys {}: a gradient needs the whole sequence",
                        span.start,
                        span.length,
                        span.kv.len()
                    );
                    place[i] = families.len();
                    families.push(Self {
                        first: *span,
                        branches: Vec::new(),
                    });
                }
                Some(after) => {
                    assert!(
                        after < i && spans[after].after.is_none(),
                        "a branch goes on from a whole sequence before it"
                    );
                    let family = &mut families[place[after]];
                    assert!(
                        span.start == family.first.length && span.kv.len() == span.start + span.length,
                        "queries at {}.. of {}, keys {}: a gradient needs all that follows the beginning of {}",
                        span.start,
                        span.length,
                        span.kv.len(),
                        family.first.length
                    );
                    family.branches.push(*span);
                }
            }
        }
        families.retain(|family| family.rows() > 0);
        families.sort_by_key(|family| Reverse(family.rows()));
        families
    }

    /// Rows of all its spans.
    fn rows(&self) -> usize {
        self.first.length + self.branches.iter().map(|span| span.length).sum::<usize>()
    }

    /// Positions of its longest sequence.
    fn longest(&self) -> usize {
        let branch = self.branches.iter().map(|span| span.length).max();
        self.first.length + branch.unwrap_or(0)
    }
}

/// What a task works in.
pub(super) struct Scratch<'a> {
    /// Of each block of the sequence: right operands along the keys, `[cells of BLOCK, padded]`, and, of the values, along
    /// the head, `[cells of head_dim, BLOCK]`.
    keys: &'a mut [u32],
    values_t: &'a mut [u32],
    /// `[length in whole blocks, padded]`: sums.
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    /// Queries of a block (scaled) and the gradient of its output: left operands, `[BLOCK, padded]` numbers, and right
    /// operands along the queries, `[cells of BLOCK, padded]`.
    q: Operands<'a>,
    dout: Operands<'a>,
    /// `[BLOCK, padded]`: sums of a block of queries.
    dq: &'a mut [f32],
    /// Weights and the gradient of the scores as left operands along the queries, at most `[BLOCK, BLOCK]`.
    weights: &'a mut [u32],
    dscores: &'a mut [u32],
    /// `[BAND, BLOCK]` of a band: the same in f32; the latter then as a left operand along the keys.
    tile_weights: &'a mut [f32],
    tile_dscores: &'a mut [f32],
    /// `[padded]`: a row, rounded.
    row: &'a mut [f32],
    /// `[BLOCK, padded]`: where a block is put on its way to be transposed.
    stage: &'a mut [u32],
}

struct Operands<'a> {
    left: &'a mut [u32],
    right: &'a mut [u32],
}

/// Computes the gradients with respect to queries, keys and values.
///
/// `dq` is `[n, heads * head_dim]`, `dk` and `dv` are `[n, kv_heads * head_dim]`; rows of the spans are overwritten.
/// The gradient passes the rounding of keys and values unchanged.
pub(crate) fn backward(cpu: &Cpu, b: &Backward, dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
    let shape = b.shape;
    let rows = b.q.len() / (shape.heads * shape.head_dim);
    let (wide, narrow) = (
        rows * shape.heads * shape.head_dim,
        rows * shape.kv_heads * shape.head_dim,
    );
    assert!(
        [b.q.len(), b.out.len(), b.dout.len(), dq.len()] == [wide; 4],
        "arrays of {wide}"
    );
    assert!([dk.len(), dv.len()] == [narrow; 2], "arrays of {narrow}");
    assert_eq!(b.log_sum.len(), rows * shape.heads, "logarithms of the sums");
    shape.check(cpu.precision, b.spans, rows);
    let families = Family::of(b.spans);
    let (dq, dk, dv) = (Parts::new(dq), Parts::new(dk), Parts::new(dv));
    let way = Way::of(cpu);
    cpu.pool.run(families.len() * shape.kv_heads, &|i| {
        let family = &families[i / shape.kv_heads];
        let task = Task {
            b,
            family,
            kv_head: i % shape.kv_heads,
            dq: &dq,
            dk: &dk,
            dv: &dv,
        };
        let padded = shape.padded();
        let (whole, block) = (family.longest().next_multiple_of(BLOCK) * padded, BLOCK * padded);
        let (square, tile) = (BLOCK * BLOCK, BAND * BLOCK);
        let cells = whole / way.span();
        let sizes = [
            cells, cells, whole, whole, block, block, block, block, block, square, square, tile, tile, padded, block,
        ];
        with_scratch(sizes, |parts| {
            let [keys, values_t, dk, dv, q, q_right, dout, dout_right, dq, rest @ ..] = parts;
            let [weights, dscores, tile_weights, tile_dscores, row, stage] = rest;
            let mut scratch = Scratch {
                keys,
                values_t,
                dk: cast_slice_mut(dk),
                dv: cast_slice_mut(dv),
                q: Operands {
                    left: q,
                    right: q_right,
                },
                dout: Operands {
                    left: dout,
                    right: dout_right,
                },
                dq: cast_slice_mut(dq),
                weights,
                dscores,
                tile_weights: cast_slice_mut(tile_weights),
                tile_dscores: cast_slice_mut(tile_dscores),
                row: cast_slice_mut(row),
                stage,
            };
            differentiate(way, &task, &mut scratch)
        });
    });
}

dispatch_way! { fn differentiate(task: &Task<'_>, scratch: &mut Scratch<'_>) = differentiate_kernel; }

/// The heads of a group at a block of queries, against one block of keys.
struct Pair {
    rows: usize,
    keys: usize,
    /// The block of keys.
    block: usize,
    /// The place in its block of the first query, where it is the block of these keys: query `i` sees keys up to that of
    /// its own place.
    diagonal: Option<usize>,
    log_sums: [f32; BLOCK],
    dots: [f32; BLOCK],
}

#[inline(always)]
unsafe fn differentiate_kernel<A: Arithmetic>(task: &Task<'_>, s: &mut Scratch<'_>) {
    let Family { first, branches } = task.family;
    s.dk.fill(0.0);
    s.dv.fill(0.0);
    for span in [first].into_iter().chain(branches) {
        // SAFETY: the caller has what `A` needs.
        unsafe { differentiate_span::<A>(task, span, s) };
        if span.after.is_some() {
            store_keys(task, span, s);
        }
    }
    store_keys(task, first, s);
}

/// Adds what the queries of one span give.
#[inline(always)]
unsafe fn differentiate_span<A: Arithmetic>(task: &Task<'_>, span: &Span<'_>, s: &mut Scratch<'_>) {
    let b = task.b;
    let shape = b.shape;
    let (dim, padded, group) = (shape.head_dim, shape.padded(), shape.group());
    let length = span.start + span.length;
    let blocks = length.div_ceil(BLOCK);
    let size = BLOCK * padded / A::SPAN;
    // Whole blocks of the beginning are still there.
    for block in span.start / BLOCK..blocks {
        let (keys, values) = span.kv.block(block, task.kv_head);
        let part = block * size..(block + 1) * size;
        // SAFETY: the caller has what `A` needs.
        unsafe {
            keys_across::<A>(keys, padded, s.stage, &mut s.keys[part.clone()]);
            values_across::<A>(values, (dim, padded), s.stage, &mut s.values_t[part]);
        }
    }
    let mut position = span.start;
    while position < length {
        let (queries, offset) = (position / BLOCK, position % BLOCK);
        let mut pair = Pair {
            rows: (BLOCK - offset).min(length - position),
            keys: BLOCK,
            block: 0,
            diagonal: None,
            log_sums: [0.0; BLOCK],
            dots: [0.0; BLOCK],
        };
        for g in 0..group {
            let source = |row: usize| {
                let query = span.row + position - span.start + row;
                query * shape.heads + task.kv_head * group + g
            };
            // SAFETY: the caller has what `A` needs.
            unsafe { load_queries::<A>(task, s, &mut pair, &source) };
            s.dq.fill(0.0);
            let end = match shape.mask {
                Mask::Causal => queries + 1,
                Mask::Full => blocks,
            };
            for block in 0..end {
                pair.block = block;
                pair.keys = BLOCK.min(length - block * BLOCK);
                pair.diagonal = (shape.mask == Mask::Causal && block == queries).then_some(offset);
                // SAFETY: as above.
                unsafe { pair_kernel::<A>((task, span), s, &pair) };
            }
            for row in 0..pair.rows {
                let at = source(row) * dim;
                // SAFETY: spans do not overlap, and tasks of a span differ in the head.
                let dq = unsafe { task.dq.get(at..at + dim) };
                for (dq, &x) in dq.iter_mut().zip(&s.dq[row * padded..]) {
                    *dq = x * shape.scale;
                }
            }
        }
        position += pair.rows;
    }
}

/// Writes the sums of a span's own keys and values, and begins them anew.
fn store_keys(task: &Task<'_>, span: &Span<'_>, s: &mut Scratch<'_>) {
    let shape = task.b.shape;
    let (dim, padded) = (shape.head_dim, shape.padded());
    for key in 0..span.length {
        let at = ((span.row + key) * shape.kv_heads + task.kv_head) * dim;
        // SAFETY: spans do not overlap, and tasks of a span differ in the head.
        let (dk, dv) = unsafe { (task.dk.get(at..at + dim), task.dv.get(at..at + dim)) };
        let sums = (span.start + key) * padded;
        dk.copy_from_slice(&s.dk[sums..][..dim]);
        dv.copy_from_slice(&s.dv[sums..][..dim]);
    }
    let own = span.start * padded..(span.start + span.length) * padded;
    s.dk[own.clone()].fill(0.0);
    s.dv[own].fill(0.0);
}

/// Makes operands of the queries of a block and of the gradient of its output, at `source(row)` for one head.
#[inline(always)]
unsafe fn load_queries<A: Arithmetic>(
    task: &Task<'_>,
    s: &mut Scratch<'_>,
    pair: &mut Pair,
    source: &impl Fn(usize) -> usize,
) {
    let b = task.b;
    let (dim, padded, scale) = (b.shape.head_dim, b.shape.padded(), b.shape.scale);
    for row in 0..pair.rows {
        let at = source(row);
        let part = at * dim..(at + 1) * dim;
        pair.log_sums[row] = b.log_sum[at];
        let left = row * padded..(row + 1) * padded;
        // SAFETY: the caller has what `A` needs.
        unsafe {
            let dout = A::rounded(&b.dout[part.clone()], &mut s.row[..dim]);
            pair.dots[row] = dot::<A::S>(&b.out[part.clone()], dout);
            A::left_row(&b.q[part.clone()], scale, &mut s.q.left[left.clone()]);
            A::left_row(&b.dout[part], 1.0, &mut s.dout.left[left]);
        }
    }
    for cell in 0..pair.rows.div_ceil(A::SPAN) {
        let rows = [0, 1].map(|i| {
            let row = cell * A::SPAN + i;
            if i < A::SPAN && row < pair.rows {
                source(row) * dim..(source(row) + 1) * dim
            } else {
                0..0
            }
        });
        let right = cell * padded..cell * padded + dim;
        let [even, odd] = rows;
        // SAFETY: as above.
        unsafe {
            let q = [&b.q[even.clone()], &b.q[odd.clone()]];
            A::right_row(q, scale, &mut s.q.right[right.clone()]);
            A::right_row([&b.dout[even], &b.dout[odd]], 1.0, &mut s.dout.right[right]);
        }
    }
}

/// Adds a pair's part of `dq`, `dk` and `dv`.
#[inline(always)]
unsafe fn pair_kernel<A: Arithmetic>((task, span): (&Task<'_>, &Span<'_>), s: &mut Scratch<'_>, pair: &Pair) {
    // SAFETY: all rows lie in scratch; the caller has what `A` needs.
    unsafe {
        for first in (0..pair.rows).step_by(BAND) {
            let band = first..pair.rows.min(first + BAND);
            by_tiles!(band.clone(), score::<A>((task, span), s, (pair, first)));
            by_tiles!(band.clone(), weigh::<A>(s, (pair, first)));
            by_tiles!(band, add_keys::<A>(task, s, (pair, first)));
        }
        by_tiles!(0..pair.keys, add_queries::<A>(task.b.shape, s, pair));
    }
}

impl Pair {
    /// Keys of the block that the queries from `row` on see.
    #[inline(always)]
    fn limits<const R: usize>(&self, row: usize) -> [usize; R] {
        let mut limits = [self.keys; R];
        if let Some(offset) = self.diagonal {
            for r in 0..R {
                limits[r] = offset + row + r + 1;
            }
        }
        limits
    }
}

/// The scores of `R` queries of a band that begins at `first`, and the products of their `dout` with the values.
#[inline(always)]
unsafe fn score<A: Arithmetic, const R: usize>(
    (task, span): (&Task<'_>, &Span<'_>),
    s: &mut Scratch<'_>,
    (pair, first): (&Pair, usize),
    row: usize,
) {
    let (cells, padded) = (task.b.shape.head_dim.div_ceil(A::SPAN), task.b.shape.padded());
    let limits: [usize; R] = pair.limits(row);
    let vectors = limits[R - 1].div_ceil(A::S::LANES);
    let (keys, _) = span.kv.block(pair.block, task.kv_head);
    let right = |start: *const u32| Right { start, stride: BLOCK };
    // SAFETY: blocks have `BLOCK` rows, and `row + R` is at most that; a tile has the rows of a band.
    unsafe {
        let [weights, dscores] = [&mut *s.tile_weights, &mut *s.tile_dscores].map(|tile| RowsMut {
            start: tile.as_mut_ptr().add((row - first) * BLOCK),
            stride: BLOCK,
        });
        let q = Left::along::<A>(s.q.left.as_ptr().add(row * padded), padded);
        let dout = Left::along::<A>(s.dout.left.as_ptr().add(row * padded), padded);
        let values = s.values_t.as_ptr().add(pair.block * BLOCK * padded / A::SPAN);
        scores::<A, R>(q, right(keys.as_ptr()), cells, vectors, weights);
        scores::<A, R>(dout, right(values), cells, vectors, dscores);
    }
}

/// Turns the scores of `R` queries and the products of `dout` with the values into left operands: weights and their
/// gradients along the queries, the latter along the keys, too.
#[inline(always)]
unsafe fn weigh<A: Arithmetic, const R: usize>(s: &mut Scratch<'_>, (pair, first): (&Pair, usize), row: usize) {
    let limits: [usize; R] = pair.limits(row);
    // SAFETY: the caller's promise. Limits that are known make straight code.
    unsafe {
        if limits[0] == BLOCK {
            weigh_places::<A, R>(s, pair, (row, row - first), [BLOCK; R]);
        } else {
            weigh_places::<A, R>(s, pair, (row, row - first), limits);
        }
    }
}

#[inline(always)]
unsafe fn weigh_places<A: Arithmetic, const R: usize>(
    s: &mut Scratch<'_>,
    pair: &Pair,
    (row, place): (usize, usize),
    limits: [usize; R],
) {
    let lanes = A::S::LANES;
    let vectors = limits[R - 1].div_ceil(lanes);
    // SAFETY: tiles have rows of `BLOCK` for a band, and the block's operands for all queries; the caller has what `A` needs.
    unsafe {
        let weights = s.tile_weights.as_mut_ptr().add(place * BLOCK);
        let dscores = s.tile_dscores.as_mut_ptr().add(place * BLOCK);
        for first in (0..R).step_by(2) {
            // Of pairs of rows, of which the last may be one row and zeros.
            let part = (row + first) * BLOCK / A::PACKED;
            let to_weights = s.weights.as_mut_ptr().add(part);
            let to_dscores = s.dscores.as_mut_ptr().add(part);
            for c in 0..vectors {
                let zero = A::S::splat(0.0);
                let (mut weights_of, mut dscores_of) = ([zero; 2], [zero; 2]);
                for i in 0..2 {
                    let r = first + i;
                    if r < R {
                        let at = r * BLOCK + c * lanes;
                        let x = A::S::sub(A::S::load(weights.add(at)), A::S::splat(pair.log_sums[row + r]));
                        let mut weight = exp_below_88::<A::S>(x);
                        let d = A::S::load(dscores.add(at));
                        let mut d = A::S::mul(weight, A::S::sub(d, A::S::splat(pair.dots[row + r])));
                        if limits[r] < (c + 1) * lanes {
                            let place = A::S::load(PLACES.as_ptr().add(c * lanes));
                            let limit = A::S::splat(limits[r] as f32);
                            weight = A::S::select_less(place, limit, weight, zero);
                            d = A::S::select_less(place, limit, d, zero);
                        }
                        A::S::store(dscores.add(at), d);
                        (weights_of[i], dscores_of[i]) = (weight, d);
                    }
                }
                A::across(weights_of, to_weights.add(c * lanes));
                A::across(dscores_of, to_dscores.add(c * lanes));
            }
            for c in vectors..BLOCK / lanes {
                let zeros = [A::S::splat(0.0); 2];
                A::across(zeros, to_weights.add(c * lanes));
                A::across(zeros, to_dscores.add(c * lanes));
            }
        }
        for r in 0..R {
            A::narrow(dscores.add(r * BLOCK), limits[r]);
        }
    }
}

/// Adds the keys, times the gradients of `R` queries' scores, to `dq`.
#[inline(always)]
unsafe fn add_keys<A: Arithmetic, const R: usize>(
    task: &Task<'_>,
    s: &mut Scratch<'_>,
    (pair, first): (&Pair, usize),
    row: usize,
) {
    let padded = task.b.shape.padded();
    // SAFETY: blocks have `BLOCK` rows, and `row + R` is at most that; a tile has the rows of a band.
    unsafe {
        let left = Left::along::<A>(s.tile_dscores.as_ptr().add((row - first) * BLOCK).cast(), BLOCK);
        let keys = Right {
            start: s.keys.as_ptr().add(pair.block * BLOCK * padded / A::SPAN),
            stride: padded,
        };
        let dq = RowsMut {
            start: s.dq.as_mut_ptr().add(row * padded),
            stride: padded,
        };
        let chain = Chain {
            from: 0,
            to: pair.limits(row),
        };
        combine::<A, R>((left, keys), chain, padded / A::S::LANES, dq, Start::Kept);
    }
}

/// What a block of queries adds to `dk` and `dv` of `R` keys from `key` on.
#[inline(always)]
unsafe fn add_queries<A: Arithmetic, const R: usize>(
    shape: &AttentionShape,
    s: &mut Scratch<'_>,
    pair: &Pair,
    key: usize,
) {
    let padded = shape.padded();
    let chain = Chain {
        // No query before `key`'s place sees these keys; of those that see only some of them, the other weights are 0.
        from: pair.diagonal.map_or(0, |offset| key.saturating_sub(offset) & !1),
        to: [pair.rows; R],
    };
    let at = (pair.block * BLOCK + key) * padded;
    // SAFETY: blocks have `BLOCK` rows, and `key + R` is at most that.
    unsafe {
        for (weights, rows, out) in [
            (&*s.weights, &*s.dout.right, &mut s.dv[at..]),
            (&*s.dscores, &*s.q.right, &mut s.dk[at..]),
        ] {
            let left = Left {
                start: weights.as_ptr().add(key),
                row: 1,
                place: A::PARTS * BLOCK,
                odd: BLOCK,
            };
            let rows = Right {
                start: rows.as_ptr(),
                stride: padded,
            };
            let out = RowsMut {
                start: out.as_mut_ptr(),
                stride: padded,
            };
            combine::<A, R>((left, rows), chain, padded / A::S::LANES, out, Start::Kept);
        }
    }
}
