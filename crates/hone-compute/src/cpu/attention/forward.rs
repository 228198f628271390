//! Attention's output: the same code, and so the same bits, for training, prefill and decoding.

use std::cmp::Reverse;

use super::{
    AttentionShape, BLOCK, Element, PLACES, ROWS, Rows, RowsMut, SEGMENT, Span, Weights, combine, max_lane, scores,
    sum_lanes, with_scratch,
};
use crate::cpu::Cpu;
use crate::cpu::math::exp;
use crate::cpu::simd::{Simd, dispatch};
use crate::isa::Precision;
use crate::pool::Parts;

/// Rows of a task, about: queries times the heads that share a head of the keys.
const TASK_ROWS: usize = 128;
/// From so many rows on, keys and values in bf16 are widened once for all of them.
const WIDEN_ROWS: usize = 2 * ROWS;

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
    /// `[rows, padded]`, scaled.
    q: &'a mut [f32],
    /// `[rows, padded]`: a segment's output before division by its sum.
    out: &'a mut [f32],
    /// `[rows]`: a segment's maximum and sum.
    maximum: &'a mut [f32],
    sum: &'a mut [f32],
    /// The same of the segments merged so far.
    total_out: &'a mut [f32],
    total_maximum: &'a mut [f32],
    total_sum: &'a mut [f32],
    /// A block's keys and values in f32, where they are widened.
    keys: &'a mut [f32],
    values: &'a mut [f32],
    /// `[ROWS, BLOCK]`: scores, then weights.
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
    let out = Parts::new(out);
    let log_sum = log_sum.map(Parts::new);
    cpu.pool.run(chunks.len() * shape.kv_heads, &|i| {
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
        let (rows, padded) = (count * shape.group(), shape.padded());
        let wide = if task.widens() { BLOCK * padded } else { 0 };
        with_scratch(
            [
                rows * padded,
                rows * padded,
                rows,
                rows,
                rows * padded,
                rows,
                rows,
                wide,
                wide,
                ROWS * BLOCK,
            ],
            |[
                q,
                out,
                maximum,
                sum,
                total_out,
                total_maximum,
                total_sum,
                keys,
                values,
                scores,
            ]| {
                let mut scratch = Scratch {
                    q,
                    out,
                    maximum,
                    sum,
                    total_out,
                    total_maximum,
                    total_sum,
                    keys,
                    values,
                    scores,
                };
                attend(cpu.level, &task, &mut scratch)
            },
        );
    });
}

impl Task<'_> {
    fn rows(&self) -> usize {
        self.count * self.shape.group()
    }

    fn widens(&self) -> bool {
        self.span.kv.precision() == Precision::Bf16 && self.rows() >= WIDEN_ROWS
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

dispatch! { fn attend(task: &Task<'_>, scratch: &mut Scratch<'_>) = attend_kernel; }

#[inline(always)]
unsafe fn attend_kernel<S: Simd>(task: &Task<'_>, s: &mut Scratch<'_>) {
    let (shape, span) = (task.shape, task.span);
    let (dim, padded, group) = (shape.head_dim, shape.padded(), shape.group());
    let rows = task.rows();
    let source = |row: usize| {
        let query = span.row + task.first + row / group;
        query * shape.heads + task.kv_head * group + row % group
    };
    for row in 0..rows {
        let q = &task.q[source(row) * dim..][..dim];
        for (scaled, &x) in s.q[row * padded..][..dim].iter_mut().zip(q) {
            *scaled = x * shape.scale;
        }
    }
    let blocks = task.limit(rows - 1).div_ceil(BLOCK);
    for segment in (0..blocks).step_by(SEGMENT) {
        let begin = task.first_row(segment);
        s.maximum[begin..].fill(f32::NEG_INFINITY);
        s.sum[begin..].fill(0.0);
        for block in segment..blocks.min(segment + SEGMENT) {
            // SAFETY: the caller has the vectors of `S`.
            unsafe {
                match span.kv.precision() {
                    Precision::F32 => {
                        let (keys, values) = span.kv.block::<f32>(block, task.kv_head);
                        block_kernel::<S, f32>(task, s, block, (keys.as_ptr(), values.as_ptr()));
                    }
                    Precision::Bf16 => {
                        let (keys, values) = span.kv.block::<u16>(block, task.kv_head);
                        if task.widens() {
                            widen::<S>(keys, s.keys);
                            widen::<S>(values, s.values);
                            let wide = (s.keys.as_ptr(), s.values.as_ptr());
                            block_kernel::<S, f32>(task, s, block, wide);
                        } else {
                            let narrow = (keys.as_ptr(), values.as_ptr());
                            block_kernel::<S, u16>(task, s, block, narrow);
                        }
                    }
                }
            }
        }
        // SAFETY: as above.
        unsafe { merge::<S>(s, begin, padded, segment == 0) };
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

#[inline(always)]
pub(super) unsafe fn widen<S: Simd>(from: &[u16], to: &mut [f32]) {
    assert!(from.len() <= to.len() && from.len().is_multiple_of(S::LANES));
    for i in (0..from.len()).step_by(S::LANES) {
        // SAFETY: both slices hold a whole number of vectors, by the assertion.
        unsafe { S::store(to.as_mut_ptr().add(i), S::load_bf16(from.as_ptr().add(i))) };
    }
}

/// Adds one block of keys to the rows that see it.
#[inline(always)]
unsafe fn block_kernel<S: Simd, E: Element>(
    task: &Task<'_>,
    s: &mut Scratch<'_>,
    block: usize,
    kv: (*const E, *const E),
) {
    let rows = task.rows();
    let mut row = task.first_row(block);
    while row < rows {
        // SAFETY: the rows lie in scratch, and a page holds a whole block.
        unsafe {
            row += match rows - row {
                6.. => rows_kernel::<S, E, ROWS>(task, s, block, row, kv),
                4.. => rows_kernel::<S, E, 4>(task, s, block, row, kv),
                2.. => rows_kernel::<S, E, 2>(task, s, block, row, kv),
                _ => rows_kernel::<S, E, 1>(task, s, block, row, kv),
            };
        }
    }
}

/// One step of the online softmax for `R` rows from `row` on, and their number.
#[inline(always)]
unsafe fn rows_kernel<S: Simd, E: Element, const R: usize>(
    task: &Task<'_>,
    s: &mut Scratch<'_>,
    block: usize,
    row: usize,
    (keys, values): (*const E, *const E),
) -> usize {
    let (dim, padded) = (task.shape.head_dim, task.shape.padded());
    let mut limits = [0; R];
    for r in 0..R {
        limits[r] = (task.limit(row + r) - block * BLOCK).min(BLOCK);
    }
    let vectors = limits[R - 1].div_ceil(S::LANES);
    let places = RowsMut {
        start: s.scores.as_mut_ptr(),
        stride: BLOCK,
    };
    // SAFETY: `s.q` and `s.out` have `row + R` rows of `padded`, `s.scores` has `R` of `BLOCK`.
    unsafe {
        let q = Rows {
            start: s.q.as_ptr().add(row * padded),
            stride: padded,
        };
        let keys = Rows {
            start: keys,
            stride: BLOCK,
        };
        scores::<S, E, R>(q, keys, dim, vectors, places);

        let mut shifts = [0.0; 16];
        for r in 0..R {
            let scores = places.start.add(r * BLOCK);
            let mut top = S::splat(f32::NEG_INFINITY);
            for c in 0..vectors {
                let mut x = S::load(scores.add(c * S::LANES));
                if limits[r] < (c + 1) * S::LANES {
                    let place = S::load(PLACES.as_ptr().add(c * S::LANES));
                    let limit = S::splat(limits[r] as f32);
                    x = S::select_less(place, limit, x, S::splat(f32::NEG_INFINITY));
                    S::store(scores.add(c * S::LANES), x);
                }
                top = S::max(top, x);
            }
            let (old, top) = (s.maximum[row + r], max_lane::<S>(top));
            let new = if old > top { old } else { top };
            shifts[r] = old - new;
            s.maximum[row + r] = new;
        }
        let shifts = S::to_array(exp::<S>(S::load(shifts.as_ptr())));
        let mut factors = [0.0; R];
        for r in 0..R {
            let scores = places.start.add(r * BLOCK);
            let maximum = S::splat(s.maximum[row + r]);
            let mut sum = S::splat(0.0);
            for c in 0..vectors {
                let x = S::load(scores.add(c * S::LANES));
                let weight = exp::<S>(S::sub(x, maximum));
                S::store(scores.add(c * S::LANES), weight);
                sum = S::add(sum, weight);
            }
            factors[r] = shifts[r];
            s.sum[row + r] = s.sum[row + r] * factors[r] + sum_lanes::<S>(sum);
        }
        let weights = Weights {
            start: places.start,
            row: BLOCK,
            place: 1,
            from: 0,
            to: limits,
        };
        let values = Rows {
            start: values,
            stride: padded,
        };
        let out = RowsMut {
            start: s.out.as_mut_ptr().add(row * padded),
            stride: padded,
        };
        let factors = (!block.is_multiple_of(SEGMENT)).then_some(factors);
        combine::<S, E, R>(weights, values, padded / S::LANES, out, factors);
    }
    R
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
        let [left, right, ..] = unsafe { S::to_array(exp::<S>(S::load(shifts.as_ptr()))) };
        s.total_maximum[row] = maximum;
        s.total_sum[row] = s.total_sum[row] * left + s.sum[row] * right;
        let row = row * padded..(row + 1) * padded;
        for (total, &x) in s.total_out[row.clone()].iter_mut().zip(&s.out[row]) {
            *total = *total * left + x * right;
        }
    }
}
