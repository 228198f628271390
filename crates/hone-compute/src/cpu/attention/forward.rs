//! Attention's output: the same code, and so the same bits, for training, prefill and decoding.

use std::cmp::Reverse;

use bytemuck::cast_slice_mut;

use super::arithmetic::{Arithmetic, Way, dispatch_way};
use super::tiles::{BAND, Chain, Left, ROWS, Right, RowsMut, Start, by_tiles, combine, scores};
use super::{AttentionShape, BLOCK, KvPages, PLACES, SEGMENT, Span, with_scratch};
use crate::cpu::Cpu;
use crate::cpu::math::exp_below_88;
use crate::cpu::simd::Simd;
use crate::pool::Parts;

/// Rows of a task, about: queries times the heads that share a head of the keys.
const TASK_ROWS: usize = 128;
/// Rows up to which keys and values are waited for rather than computed with.
const FEW_ROWS: usize = 2 * ROWS;
/// Rows times keys that are worth a task of their own.
const TASK_LEAST: usize = 2048;

/// A run of queries of one span, for one head of the keys.
pub(super) struct Task<'a> {
    shape: &'a AttentionShape,
    span: Span<'a>,
    /// Queries, counted from the span's first.
    first: usize,
    count: usize,
    kv_head: usize,
    q: &'a [f32],
    out: &'a Parts<'a, f32>,
    log_sum: Option<&'a Parts<'a, f32>>,
    /// The cache and the head that the next task reads from the first block on.
    next: Option<(&'a KvPages, usize)>,
}

/// What a task works in. Rows are queries, each with its group's heads: row `query * group + head`.
pub(super) struct Scratch<'a> {
    /// Queries as left operands of `stride` numbers to a row, scaled.
    q: &'a mut [u32],
    stride: usize,
    /// `[rows]`: the keys that a row sees, not decreasing.
    limits: &'a mut [u32],
    /// `[rows, padded]`: a segment's output before division by its sum.
    out: &'a mut [f32],
    /// `[rows]`: a segment's maximum and sum.
    maximum: &'a mut [f32],
    sum: &'a mut [f32],
    /// The same of the segments merged so far.
    total_out: &'a mut [f32],
    total_maximum: &'a mut [f32],
    total_sum: &'a mut [f32],
    /// `[BAND]`: what the sums so far of a band's rows are multiplied by.
    factors: &'a mut [f32],
    /// `[BAND, BLOCK]`: scores, then weights, then those as left operands.
    scores: &'a mut [f32],
}

/// Computes `softmax(scale * q k^T) v` for the queries of all spans.
///
/// `q` and `out` are `[n, heads * head_dim]`. `log_sum`, `[n, heads]`, gets the logarithm of each softmax's denominator.
/// Rows that belong to no span are left as they are.
pub(crate) fn forward(
    cpu: &Cpu,
    shape: &AttentionShape,
    q: &[f32],
    spans: &[Span],
    out: &mut [f32],
    log_sum: Option<&mut [f32]>,
) {
    let rows = q.len() / (shape.heads * shape.head_dim);
    assert_eq!(q.len(), rows * shape.heads * shape.head_dim, "queries");
    assert_eq!(out.len(), q.len(), "outputs");
    if let Some(log_sum) = &log_sum {
        assert_eq!(log_sum.len(), rows * shape.heads, "logarithms of the sums");
    }
    shape.check(cpu.precision, spans, rows);
    let grain = (TASK_ROWS / shape.group()).clamp(1, BLOCK);
    let mut chunks: Vec<(usize, usize, usize)> = Vec::new();
    for (i, span) in spans.iter().enumerate() {
        for first in (0..span.length).step_by(grain) {
            chunks.push((i, first, grain.min(span.length - first)));
        }
    }
    // The longest first, so that no thread is left with one at the end.
    chunks.sort_by_key(|&(i, first, count)| {
        let span = &spans[i];
        Reverse(count * shape.limit(span.start + first + count - 1, span.kv.len()))
    });
    let (way, padded) = (Way::of(cpu), shape.padded());
    let out = Parts::new(out);
    let log_sum = log_sum.map(Parts::new);
    let tasks = chunks.len() * shape.kv_heads;
    let run = |i: usize| {
        let (span, first, count) = chunks[i / shape.kv_heads];
        let task = Task {
            shape,
            span: spans[span],
            first,
            count,
            kv_head: i % shape.kv_heads,
            q,
            out: &out,
            log_sum: log_sum.as_ref(),
            next: (i + 1 < tasks).then(|| (spans[chunks[(i + 1) / shape.kv_heads].0].kv, (i + 1) % shape.kv_heads)),
        };
        let rows = task.rows();
        let sizes = [
            rows * padded,
            rows,
            rows * padded,
            rows,
            rows,
            rows * padded,
            rows,
            rows,
            BAND,
            BAND * BLOCK,
        ];
        with_scratch(
            sizes,
            |[
                q,
                limits,
                out,
                maximum,
                sum,
                total_out,
                total_maximum,
                total_sum,
                factors,
                scores,
            ]| {
                let mut scratch = Scratch {
                    q,
                    stride: padded,
                    limits,
                    out: cast_slice_mut(out),
                    maximum: cast_slice_mut(maximum),
                    sum: cast_slice_mut(sum),
                    total_out: cast_slice_mut(total_out),
                    total_maximum: cast_slice_mut(total_maximum),
                    total_sum: cast_slice_mut(total_sum),
                    factors: cast_slice_mut(factors),
                    scores: cast_slice_mut(scores),
                };
                attend(way, &task, &mut scratch)
            },
        );
    };
    // Small ones, as in decoding, several to a task: the first is the largest.
    let largest = chunks.first().map_or(1, |&(i, first, count)| {
        let span = &spans[i];
        count * shape.group() * shape.limit(span.start + first + count - 1, span.kv.len())
    });
    let grain = (TASK_LEAST / largest.max(1)).clamp(1, tasks.div_ceil(4 * cpu.pool.threads()).max(1));
    cpu.pool.ranges(tasks, grain, &|range| range.for_each(&run));
}

impl Task<'_> {
    fn rows(&self) -> usize {
        self.count * self.shape.group()
    }
}

impl Scratch<'_> {
    /// The first row that sees something of `block`; those after it do too.
    fn first_row(&self, block: usize) -> usize {
        self.limits.partition_point(|&limit| limit as usize <= block * BLOCK)
    }

    /// Places of `block` that the rows from `row` on see.
    #[inline(always)]
    fn places<const R: usize>(&self, block: usize, row: usize) -> [usize; R] {
        let mut places = [0; R];
        for (places, &limit) in places.iter_mut().zip(&self.limits[row..row + R]) {
            *places = (limit as usize - block * BLOCK).min(BLOCK);
        }
        places
    }
}

dispatch_way! { fn attend(task: &Task<'_>, scratch: &mut Scratch<'_>) = attend_kernel; }

#[inline(always)]
unsafe fn attend_kernel<A: Arithmetic>(task: &Task<'_>, s: &mut Scratch<'_>) {
    let (shape, span) = (task.shape, task.span);
    let (dim, padded, group) = (shape.head_dim, shape.padded(), shape.group());
    let rows = task.rows();
    for (query, limits) in s.limits.chunks_exact_mut(group).enumerate() {
        let position = span.start + task.first + query;
        limits.fill(shape.limit(position, span.kv.len()) as u32);
    }
    let source = |row: usize| {
        let query = span.row + task.first + row / group;
        query * shape.heads + task.kv_head * group + row % group
    };
    for row in 0..rows {
        let q = &task.q[source(row) * dim..][..dim];
        // SAFETY: the caller has what `A` needs.
        unsafe { A::left_row(q, shape.scale, &mut s.q[row * s.stride..][..s.stride]) };
    }
    let blocks = (s.limits[rows - 1] as usize).div_ceil(BLOCK);
    for segment in (0..blocks).step_by(SEGMENT) {
        let begin = s.first_row(segment);
        s.maximum[begin..].fill(f32::NEG_INFINITY);
        s.sum[begin..].fill(0.0);
        for block in segment..blocks.min(segment + SEGMENT) {
            // SAFETY: the caller has what `A` needs.
            unsafe { block_kernel::<A>(task, s, block) };
        }
        // SAFETY: as above.
        unsafe { merge::<A::S>(s, begin, padded, segment == 0) };
    }
    for row in 0..rows {
        let at = source(row);
        // SAFETY: spans do not overlap, and tasks of a span differ in the query or the head.
        let out = unsafe { task.out.get(at * dim..(at + 1) * dim) };
        let (maximum, sum) = (s.total_maximum[row], s.total_sum[row]);
        if blocks == 0 {
            out.fill(0.0);
        } else {
            for (out, &x) in out.iter_mut().zip(&s.total_out[row * padded..]) {
                *out = x / sum;
            }
        }
        if let Some(log_sum) = task.log_sum {
            // SAFETY: as above.
            let log_sum = unsafe { log_sum.get(at..at + 1) };
            log_sum[0] = if blocks == 0 {
                f32::NEG_INFINITY
            } else {
                (f64::from(maximum) + hone_math::ln(f64::from(sum))) as f32
            };
        }
    }
}

/// Adds one block of keys to the rows that see it: one step of the online softmax.
#[inline(always)]
unsafe fn block_kernel<A: Arithmetic>(task: &Task<'_>, s: &mut Scratch<'_>, block: usize) {
    let rows = task.rows();
    // What is read after this block, so that it comes while this one is computed
    let next = if rows > FEW_ROWS {
        None
    } else if (block + 1) * BLOCK < task.span.kv.len() {
        Some((task.span.kv, block + 1, task.kv_head))
    } else {
        task.next
            .filter(|(kv, _)| kv.len() > 0)
            .map(|(kv, kv_head)| (kv, 0, kv_head))
    };
    if let Some((kv, block, kv_head)) = next {
        kv.fetch_keys(block, kv_head);
    }
    for first in (s.first_row(block)..rows).step_by(BAND) {
        let band = first..rows.min(first + BAND);
        // SAFETY: the rows lie in scratch, a page holds a whole block, and the caller has what `A` needs.
        unsafe {
            by_tiles!(band.clone(), score::<A>(task, s, (block, first)));
            by_tiles!(band.clone(), weigh::<A>(s, (block, first)));
            if let (Some((kv, block, kv_head)), true) = (next, band.end == rows) {
                kv.fetch_values(block, kv_head);
            }
            by_tiles!(band, add_values::<A>(task, s, (block, first)));
        }
    }
}

/// The scores of `R` rows of a band that begins at `first`.
#[inline(always)]
unsafe fn score<A: Arithmetic, const R: usize>(
    task: &Task<'_>,
    s: &mut Scratch<'_>,
    (block, first): (usize, usize),
    row: usize,
) {
    let limits: [usize; R] = s.places(block, row);
    let (keys, _) = task.span.kv.block(block, task.kv_head);
    // SAFETY: `s.q` has `row + R` rows, `s.scores` those of a band; a page has a row of keys for each cell of a query.
    unsafe {
        let q = Left::along::<A>(s.q.as_ptr().add(row * s.stride), s.stride);
        let keys = Right {
            start: keys.as_ptr(),
            stride: BLOCK,
        };
        let places = RowsMut {
            start: s.scores.as_mut_ptr().add((row - first) * BLOCK),
            stride: BLOCK,
        };
        let cells = task.shape.head_dim.div_ceil(A::SPAN);
        scores::<A, R>(q, keys, cells, limits[R - 1].div_ceil(A::S::LANES), places);
    }
}

/// Turns the scores of `R` rows into weights as a left operand, raises their maxima and adds to their sums.
#[inline(always)]
unsafe fn weigh<A: Arithmetic, const R: usize>(s: &mut Scratch<'_>, (block, first): (usize, usize), row: usize) {
    let limits: [usize; R] = s.places(block, row);
    // SAFETY: the caller's promise. Limits that are known make straight code.
    unsafe {
        if limits[0] == BLOCK {
            weigh_places::<A, R>(s, (row, row - first), [BLOCK; R]);
        } else {
            weigh_places::<A, R>(s, (row, row - first), limits);
        }
    }
}

#[inline(always)]
unsafe fn weigh_places<A: Arithmetic, const R: usize>(
    s: &mut Scratch<'_>,
    (row, place): (usize, usize),
    limits: [usize; R],
) {
    let lanes = A::S::LANES;
    let vectors = limits[R - 1].div_ceil(lanes);
    // SAFETY: `s.scores` has rows of `BLOCK` for a band; the caller has what `A` needs.
    unsafe {
        let places = s.scores.as_mut_ptr().add(place * BLOCK);
        let mut shifts = [0.0; 16];
        for r in 0..R {
            let scores = places.add(r * BLOCK);
            let mut top = A::S::splat(f32::NEG_INFINITY);
            for c in 0..vectors {
                let mut x = A::S::load(scores.add(c * lanes));
                if limits[r] < (c + 1) * lanes {
                    let place = A::S::load(PLACES.as_ptr().add(c * lanes));
                    let limit = A::S::splat(limits[r] as f32);
                    x = A::S::select_less(place, limit, x, A::S::splat(f32::NEG_INFINITY));
                    A::S::store(scores.add(c * lanes), x);
                }
                top = A::S::max(top, x);
            }
            let (old, top) = (s.maximum[row + r], A::S::max_lanes(top));
            let new = if old > top { old } else { top };
            shifts[r] = old - new;
            s.maximum[row + r] = new;
        }
        let factors = A::S::to_array(exp_below_88::<A::S>(A::S::load(shifts.as_ptr())));
        for r in 0..R {
            let scores = places.add(r * BLOCK);
            let maximum = A::S::splat(s.maximum[row + r]);
            let mut sum = A::S::splat(0.0);
            for c in 0..vectors {
                let x = A::S::load(scores.add(c * lanes));
                let weight = exp_below_88::<A::S>(A::S::sub(x, maximum));
                A::S::store(scores.add(c * lanes), weight);
                sum = A::S::add(sum, weight);
            }
            s.factors[place + r] = factors[r];
            s.sum[row + r] = s.sum[row + r] * factors[r] + A::S::sum_lanes(sum);
            A::narrow(scores, limits[r]);
        }
    }
}

/// Adds the values of `R` rows, times their weights, to the output.
#[inline(always)]
unsafe fn add_values<A: Arithmetic, const R: usize>(
    task: &Task<'_>,
    s: &mut Scratch<'_>,
    (block, first): (usize, usize),
    row: usize,
) {
    let (to, padded): ([usize; R], _) = (s.places(block, row), task.shape.padded());
    let (_, values) = task.span.kv.block(block, task.kv_head);
    let mut factors = [0.0; R];
    factors.copy_from_slice(&s.factors[row - first..][..R]);
    let start = if block.is_multiple_of(SEGMENT) {
        Start::Zero
    } else {
        Start::Scaled(factors)
    };
    // SAFETY: `s.out` has `row + R` rows, `s.scores` those of a band; a page has a row of values for each cell of a block.
    unsafe {
        let weights = Left::along::<A>(s.scores.as_ptr().add((row - first) * BLOCK).cast(), BLOCK);
        let values = Right {
            start: values.as_ptr(),
            stride: padded,
        };
        let out = RowsMut {
            start: s.out.as_mut_ptr().add(row * padded),
            stride: padded,
        };
        let chain = Chain { from: 0, to };
        combine::<A, R>((weights, values), chain, padded / A::S::LANES, out, start);
    }
}

/// Adds a segment of the rows from `begin` on to what the segments before it gave.
#[inline(always)]
unsafe fn merge<S: Simd>(s: &mut Scratch<'_>, begin: usize, padded: usize, first: bool) {
    if first {
        // All rows see the first segment.
        std::mem::swap(&mut s.total_maximum, &mut s.maximum);
        std::mem::swap(&mut s.total_sum, &mut s.sum);
        std::mem::swap(&mut s.total_out, &mut s.out);
        return;
    }
    for row in begin..s.maximum.len() {
        let (left, right) = (s.total_maximum[row], s.maximum[row]);
        let maximum = if left > right { left } else { right };
        let mut shifts = [0.0; 16];
        shifts[0] = left - maximum;
        shifts[1] = right - maximum;
        // SAFETY: the caller has the vectors of `S`.
        let [left, right, ..] = unsafe { S::to_array(exp_below_88::<S>(S::load(shifts.as_ptr()))) };
        s.total_maximum[row] = maximum;
        s.total_sum[row] = s.total_sum[row] * left + s.sum[row] * right;
        let row = row * padded..(row + 1) * padded;
        for (total, &x) in s.total_out[row.clone()].iter_mut().zip(&s.out[row]) {
            *total = *total * left + x * right;
        }
    }
}
