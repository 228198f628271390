//! Attention's output: the same code, and so the same bits, for training, prefill and decoding.

use std::cmp::Reverse;

use bytemuck::cast_slice_mut;

use super::arithmetic::{Arithmetic, Way, dispatch_way};
use super::tiles::{Chain, Left, ROWS, Right, RowsMut, Start, combine, scores};
use super::{AttentionShape, BLOCK, PLACES, SEGMENT, Span, with_scratch};
use crate::cpu::Cpu;
use crate::cpu::math::exp_below_88;
use crate::cpu::simd::Simd;
use crate::pool::Parts;

/// Rows of a task, about: queries times the heads that share a head of the keys.
const TASK_ROWS: usize = 128;
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
}

/// What a task works in. Rows are queries, each with its group's heads: row `query * group + head`.
pub(super) struct Scratch<'a> {
    /// Queries as left operands of `stride` numbers to a row, scaled.
    q: &'a mut [u32],
    stride: usize,
    /// `[rows, padded]`: a segment's output before division by its sum.
    out: &'a mut [f32],
    /// `[rows]`: a segment's maximum and sum.
    maximum: &'a mut [f32],
    sum: &'a mut [f32],
    /// The same of the segments merged so far.
    total_out: &'a mut [f32],
    total_maximum: &'a mut [f32],
    total_sum: &'a mut [f32],
    /// `[ROWS, BLOCK]`: scores, then weights, then those as left operands.
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
        };
        let rows = task.rows();
        let sizes = [
            rows * padded,
            rows * padded,
            rows,
            rows,
            rows * padded,
            rows,
            rows,
            ROWS * BLOCK,
        ];
        with_scratch(
            sizes,
            |[q, out, maximum, sum, total_out, total_maximum, total_sum, scores]| {
                let mut scratch = Scratch {
                    q,
                    stride: padded,
                    out: cast_slice_mut(out),
                    maximum: cast_slice_mut(maximum),
                    sum: cast_slice_mut(sum),
                    total_out: cast_slice_mut(total_out),
                    total_maximum: cast_slice_mut(total_maximum),
                    total_sum: cast_slice_mut(total_sum),
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
    let tasks = chunks.len() * shape.kv_heads;
    let grain = (TASK_LEAST / largest.max(1)).clamp(1, tasks.div_ceil(4 * cpu.pool.threads()).max(1));
    cpu.pool.ranges(tasks, grain, &|range| range.for_each(&run));
}

impl Task<'_> {
    fn rows(&self) -> usize {
        self.count * self.shape.group()
    }

    /// Keys that a row sees.
    fn limit(&self, row: usize) -> usize {
        let position = self.span.start + self.first + row / self.shape.group();
        self.shape.limit(position, self.span.kv.len())
    }

    /// The first row that sees something of `block`; those after it do too.
    fn first_row(&self, block: usize) -> usize {
        (0..self.rows())
            .step_by(self.shape.group())
            .find(|&row| self.limit(row) > block * BLOCK)
            .unwrap_or(self.rows())
    }
}

dispatch_way! { fn attend(task: &Task<'_>, scratch: &mut Scratch<'_>) = attend_kernel; }

#[inline(always)]
unsafe fn attend_kernel<A: Arithmetic>(task: &Task<'_>, s: &mut Scratch<'_>) {
    let (shape, span) = (task.shape, task.span);
    let (dim, padded, group) = (shape.head_dim, shape.padded(), shape.group());
    let rows = task.rows();
    let source = |row: usize| {
        let query = span.row + task.first + row / group;
        query * shape.heads + task.kv_head * group + row % group
    };
    for row in 0..rows {
        let q = &task.q[source(row) * dim..][..dim];
        // SAFETY: the caller has what `A` needs.
        unsafe { A::left_row(q, shape.scale, &mut s.q[row * s.stride..][..s.stride]) };
    }
    let blocks = task.limit(rows - 1).div_ceil(BLOCK);
    for segment in (0..blocks).step_by(SEGMENT) {
        let begin = task.first_row(segment);
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

/// Adds one block of keys to the rows that see it.
#[inline(always)]
unsafe fn block_kernel<A: Arithmetic>(task: &Task<'_>, s: &mut Scratch<'_>, block: usize) {
    let rows = task.rows();
    let mut row = task.first_row(block);
    while row < rows {
        // SAFETY: the rows lie in scratch, and a page holds a whole block.
        unsafe {
            row += match rows - row {
                // Seven, a common group, are no six and one.
                6 | 8.. if A::ROWS == ROWS => rows_kernel::<A, ROWS>(task, s, block, row),
                3 => rows_kernel::<A, 3>(task, s, block, row),
                4.. => rows_kernel::<A, 4>(task, s, block, row),
                2.. => rows_kernel::<A, 2>(task, s, block, row),
                _ => rows_kernel::<A, 1>(task, s, block, row),
            };
        }
    }
}

/// One step of the online softmax for `R` rows from `row` on, and their number.
#[inline(always)]
unsafe fn rows_kernel<A: Arithmetic, const R: usize>(
    task: &Task<'_>,
    s: &mut Scratch<'_>,
    block: usize,
    row: usize,
) -> usize {
    let (dim, padded) = (task.shape.head_dim, task.shape.padded());
    let (keys, values) = task.span.kv.block(block, task.kv_head);
    let mut limits = [0; R];
    for r in 0..R {
        limits[r] = (task.limit(row + r) - block * BLOCK).min(BLOCK);
    }
    let vectors = limits[R - 1].div_ceil(A::S::LANES);
    let places = RowsMut {
        start: s.scores.as_mut_ptr(),
        stride: BLOCK,
    };
    // SAFETY: `s.q` and `s.out` have `row + R` rows of `padded`, `s.scores` has `R` of `BLOCK`.
    unsafe {
        let q = Left::along::<A>(s.q.as_ptr().add(row * s.stride), s.stride);
        let keys = Right {
            start: keys.as_ptr(),
            stride: BLOCK,
        };
        scores::<A, R>(q, keys, dim.div_ceil(A::SPAN), vectors, places);

        // Limits that are known make straight code.
        let factors = if limits[0] == BLOCK {
            weigh::<A, R>(s, row, [BLOCK; R])
        } else {
            weigh::<A, R>(s, row, limits)
        };
        let weights = Left::along::<A>(places.start.cast(), BLOCK);
        let values = Right {
            start: values.as_ptr(),
            stride: padded,
        };
        let out = RowsMut {
            start: s.out.as_mut_ptr().add(row * padded),
            stride: padded,
        };
        let start = if block.is_multiple_of(SEGMENT) {
            Start::Zero
        } else {
            Start::Scaled(factors)
        };
        let chain = Chain { from: 0, to: limits };
        combine::<A, R>((weights, values), chain, padded / A::S::LANES, out, start);
    }
    R
}

/// Turns the scores of `R` rows into weights as a left operand, raises their maxima and adds to their sums. Gives the factors
/// by which the sums so far were lowered.
#[inline(always)]
unsafe fn weigh<A: Arithmetic, const R: usize>(s: &mut Scratch<'_>, row: usize, limits: [usize; R]) -> [f32; R] {
    let vectors = limits[R - 1].div_ceil(A::S::LANES);
    // SAFETY: `s.scores` has `R` rows of `BLOCK`; the caller has what `A` needs.
    unsafe {
        let mut shifts = [0.0; 16];
        for r in 0..R {
            let scores = s.scores.as_mut_ptr().add(r * BLOCK);
            let mut top = A::S::splat(f32::NEG_INFINITY);
            for c in 0..vectors {
                let mut x = A::S::load(scores.add(c * A::S::LANES));
                if limits[r] < (c + 1) * A::S::LANES {
                    let place = A::S::load(PLACES.as_ptr().add(c * A::S::LANES));
                    let limit = A::S::splat(limits[r] as f32);
                    x = A::S::select_less(place, limit, x, A::S::splat(f32::NEG_INFINITY));
                    A::S::store(scores.add(c * A::S::LANES), x);
                }
                top = A::S::max(top, x);
            }
            let (old, top) = (s.maximum[row + r], A::S::max_lanes(top));
            let new = if old > top { old } else { top };
            shifts[r] = old - new;
            s.maximum[row + r] = new;
        }
        let shifts = A::S::to_array(exp_below_88::<A::S>(A::S::load(shifts.as_ptr())));
        let mut factors = [0.0; R];
        for r in 0..R {
            let scores = s.scores.as_mut_ptr().add(r * BLOCK);
            let maximum = A::S::splat(s.maximum[row + r]);
            let mut sum = A::S::splat(0.0);
            for c in 0..vectors {
                let x = A::S::load(scores.add(c * A::S::LANES));
                let weight = exp_below_88::<A::S>(A::S::sub(x, maximum));
                A::S::store(scores.add(c * A::S::LANES), weight);
                sum = A::S::add(sum, weight);
            }
            factors[r] = shifts[r];
            s.sum[row + r] = s.sum[row + r] * shifts[r] + A::S::sum_lanes(sum);
            A::narrow(scores, limits[r]);
        }
        factors
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
