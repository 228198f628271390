//! The gradient of attention: the weights are computed again, block by block, from the logarithms of their sums
//! (Dao et al., "FlashAttention", 2022, algorithm 4).
//!
//! With `p = exp(s - log_sum)` and `D = sum(dout * out)` of a row: `dv = p^T dout`, `ds = p * (dout v^T - D)`,
//! `dq = scale * ds k`, `dk = ds^T (scale * q)`. A task is a head of the keys of one sequence; its blocks of keys go
//! from left to right, and within one the blocks of queries and the heads of the group, so that every sum has one order.

use std::cmp::Reverse;

use super::forward::widen;
use super::{AttentionShape, BLOCK, Mask, PLACES, ROWS, Rows, RowsMut, Span, Weights, combine, scores, with_scratch};
use crate::cpu::Cpu;
use crate::cpu::math::{dot, exp};
use crate::cpu::simd::{Simd, dispatch};
use crate::isa::Precision;
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
    /// The sequences, each whole: starting at 0 and with as many queries as keys.
    pub spans: &'a [Span<'a>],
}

pub(super) struct Task<'a> {
    b: &'a Backward<'a>,
    span: Span<'a>,
    kv_head: usize,
    dq: &'a Parts<'a, f32>,
    dk: &'a Parts<'a, f32>,
    dv: &'a Parts<'a, f32>,
}

/// What a task works in; all but the last are of one block.
pub(super) struct Scratch<'a> {
    /// `[head_dim, BLOCK]`, a block of keys and of values transposed.
    keys_t: &'a mut [f32],
    values_t: &'a mut [f32],
    /// `[BLOCK, padded]`: keys, queries (scaled), gradients.
    keys: &'a mut [f32],
    q: &'a mut [f32],
    dout: &'a mut [f32],
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    /// `[BLOCK queries, BLOCK keys]`: scores, then weights; their gradient.
    weights: &'a mut [f32],
    dscores: &'a mut [f32],
    /// `[rows, group]`: sum of `dout * out`.
    dots: &'a mut [f32],
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
    for span in b.spans {
        assert!(
            span.start == 0 && span.kv.len() == span.length,
            "queries at {}.. of {}, keys {}: a gradient needs the whole sequence",
            span.start,
            span.length,
            span.kv.len()
        );
    }
    // The longest first, so that no thread is left with one at the end.
    let mut spans: Vec<Span> = b.spans.iter().filter(|s| s.length > 0).copied().collect();
    spans.sort_by_key(|span| Reverse(span.length));
    let (dq, dk, dv) = (Parts::new(dq), Parts::new(dk), Parts::new(dv));
    cpu.pool.run(spans.len() * shape.kv_heads, &|i| {
        let span = spans[i / shape.kv_heads];
        let task = Task {
            b,
            span,
            kv_head: i % shape.kv_heads,
            dq: &dq,
            dk: &dk,
            dv: &dv,
        };
        let block = BLOCK * shape.padded();
        with_scratch(
            [
                block,
                block,
                block,
                block,
                block,
                block,
                block,
                block,
                BLOCK * BLOCK,
                BLOCK * BLOCK,
                span.length * shape.group(),
            ],
            |[keys_t, values_t, keys, q, dout, dq, dk, dv, weights, dscores, dots]| {
                let mut scratch = Scratch {
                    keys_t,
                    values_t,
                    keys,
                    q,
                    dout,
                    dq,
                    dk,
                    dv,
                    weights,
                    dscores,
                    dots,
                };
                differentiate(cpu.level, &task, &mut scratch)
            },
        );
    });
}

dispatch! { fn differentiate(task: &Task<'_>, scratch: &mut Scratch<'_>) = differentiate_kernel; }

#[inline(always)]
unsafe fn differentiate_kernel<S: Simd>(task: &Task<'_>, s: &mut Scratch<'_>) {
    let (b, span) = (task.b, task.span);
    let shape = b.shape;
    let (dim, padded, group) = (shape.head_dim, shape.padded(), shape.group());
    let source = |query: usize, g: usize| (span.row + query) * shape.heads + task.kv_head * group + g;
    for query in 0..span.length {
        for g in 0..group {
            let at = source(query, g) * dim;
            // SAFETY: the caller has the vectors of `S`.
            s.dots[query * group + g] = unsafe { dot::<S>(&b.out[at..at + dim], &b.dout[at..at + dim]) };
        }
    }
    let blocks = span.length.div_ceil(BLOCK);
    for block in 0..blocks {
        let keys = BLOCK.min(span.length - block * BLOCK);
        // SAFETY: the caller has the vectors of `S`.
        unsafe { load_block::<S>(task, s, block) };
        s.dk.fill(0.0);
        s.dv.fill(0.0);
        let from = match shape.mask {
            Mask::Causal => block,
            Mask::Full => 0,
        };
        for queries in from..blocks {
            let first = queries * BLOCK;
            let rows = BLOCK.min(span.length - first);
            let pair = Pair {
                rows,
                keys,
                diagonal: shape.mask == Mask::Causal && queries == block,
            };
            for g in 0..group {
                let mut log_sums = [0.0; BLOCK];
                let mut dots = [0.0; BLOCK];
                for row in 0..rows {
                    let at = source(first + row, g);
                    log_sums[row] = b.log_sum[at];
                    dots[row] = s.dots[(first + row) * group + g];
                    let part = at * dim..(at + 1) * dim;
                    let local = row * padded..row * padded + dim;
                    for (scaled, &x) in s.q[local.clone()].iter_mut().zip(&b.q[part.clone()]) {
                        *scaled = x * shape.scale;
                    }
                    s.dout[local.clone()].copy_from_slice(&b.dout[part.clone()]);
                    if block == 0 {
                        s.dq[local].fill(0.0);
                    } else {
                        // SAFETY: spans do not overlap, and tasks of a span differ in the head.
                        s.dq[local].copy_from_slice(unsafe { task.dq.get(part) });
                    }
                }
                // SAFETY: as above.
                unsafe { pair_kernel::<S>(shape, s, &pair, &log_sums, &dots) };
                let last = pair.diagonal || block + 1 == blocks;
                let factor = if last { shape.scale } else { 1.0 };
                for row in 0..rows {
                    let at = source(first + row, g) * dim;
                    // SAFETY: as above.
                    let dq = unsafe { task.dq.get(at..at + dim) };
                    for (dq, &x) in dq.iter_mut().zip(&s.dq[row * padded..]) {
                        *dq = x * factor;
                    }
                }
            }
        }
        for key in 0..keys {
            let row = span.row + block * BLOCK + key;
            let at = (row * shape.kv_heads + task.kv_head) * dim;
            // SAFETY: as above.
            let (dk, dv) = unsafe { (task.dk.get(at..at + dim), task.dv.get(at..at + dim)) };
            dk.copy_from_slice(&s.dk[key * padded..][..dim]);
            dv.copy_from_slice(&s.dv[key * padded..][..dim]);
        }
    }
}

/// Fetches keys and values of a block, as they are and transposed.
#[inline(always)]
unsafe fn load_block<S: Simd>(task: &Task<'_>, s: &mut Scratch<'_>, block: usize) {
    let (dim, padded) = (task.b.shape.head_dim, task.b.shape.padded());
    // Values come through the place that then holds queries.
    match task.span.kv.precision() {
        Precision::F32 => {
            let (keys, values) = task.span.kv.block::<f32>(block, task.kv_head);
            s.keys_t[..keys.len()].copy_from_slice(keys);
            s.q[..values.len()].copy_from_slice(values);
        }
        Precision::Bf16 => {
            let (keys, values) = task.span.kv.block::<u16>(block, task.kv_head);
            // SAFETY: the caller has the vectors of `S`.
            unsafe {
                widen::<S>(keys, s.keys_t);
                widen::<S>(values, s.q);
            }
        }
    }
    for d in 0..dim {
        for j in 0..BLOCK {
            s.keys[j * padded + d] = s.keys_t[d * BLOCK + j];
            s.values_t[d * BLOCK + j] = s.q[j * padded + d];
        }
    }
}

/// A block of queries against a block of keys.
struct Pair {
    rows: usize,
    keys: usize,
    /// Whether query `i` sees only keys up to `i`.
    diagonal: bool,
}

/// Adds a block's part of `dq`, `dk` and `dv`.
#[inline(always)]
unsafe fn pair_kernel<S: Simd>(
    shape: &AttentionShape,
    s: &mut Scratch<'_>,
    pair: &Pair,
    log_sums: &[f32; BLOCK],
    dots: &[f32; BLOCK],
) {
    // SAFETY: all rows lie in scratch; the caller has the vectors of `S`.
    unsafe {
        let mut row = 0;
        while row < pair.rows {
            row += match pair.rows - row {
                6.. => query_rows::<S, ROWS>(shape, s, pair, row, (log_sums, dots)),
                4.. => query_rows::<S, 4>(shape, s, pair, row, (log_sums, dots)),
                2.. => query_rows::<S, 2>(shape, s, pair, row, (log_sums, dots)),
                _ => query_rows::<S, 1>(shape, s, pair, row, (log_sums, dots)),
            };
        }
        let mut key = 0;
        while key < pair.keys {
            key += match pair.keys - key {
                6.. => key_rows::<S, ROWS>(shape, s, pair, key),
                4.. => key_rows::<S, 4>(shape, s, pair, key),
                2.. => key_rows::<S, 2>(shape, s, pair, key),
                _ => key_rows::<S, 1>(shape, s, pair, key),
            };
        }
    }
}

/// The weights and their gradients of `R` queries from `row` on, and what follows for `dq`.
#[inline(always)]
unsafe fn query_rows<S: Simd, const R: usize>(
    shape: &AttentionShape,
    s: &mut Scratch<'_>,
    pair: &Pair,
    row: usize,
    (log_sums, dots): (&[f32; BLOCK], &[f32; BLOCK]),
) -> usize {
    let (dim, padded) = (shape.head_dim, shape.padded());
    let mut limits = [pair.keys; R];
    if pair.diagonal {
        for r in 0..R {
            limits[r] = row + r + 1;
        }
    }
    let vectors = limits[R - 1].div_ceil(S::LANES);
    // SAFETY: blocks have `BLOCK` rows, and `row + R` is at most that.
    unsafe {
        let keys_t = Rows {
            start: s.keys_t.as_ptr(),
            stride: BLOCK,
        };
        let values_t = Rows {
            start: s.values_t.as_ptr(),
            stride: BLOCK,
        };
        let q = Rows {
            start: s.q.as_ptr().add(row * padded),
            stride: padded,
        };
        let dout = Rows {
            start: s.dout.as_ptr().add(row * padded),
            stride: padded,
        };
        let weights = RowsMut {
            start: s.weights.as_mut_ptr().add(row * BLOCK),
            stride: BLOCK,
        };
        let dscores = RowsMut {
            start: s.dscores.as_mut_ptr().add(row * BLOCK),
            stride: BLOCK,
        };
        scores::<S, f32, R>(q, keys_t, dim, vectors, weights);
        scores::<S, f32, R>(dout, values_t, dim, vectors, dscores);
        for r in 0..R {
            let log_sum = S::splat(log_sums[row + r]);
            let dot = S::splat(dots[row + r]);
            let limit = S::splat(limits[r] as f32);
            for c in 0..vectors {
                let at = r * BLOCK + c * S::LANES;
                let x = S::load(weights.start.add(at));
                let mut weight = exp::<S>(S::sub(x, log_sum));
                let mut d = S::mul(weight, S::sub(S::load(dscores.start.add(at)), dot));
                if limits[r] < (c + 1) * S::LANES {
                    let place = S::load(PLACES.as_ptr().add(c * S::LANES));
                    weight = S::select_less(place, limit, weight, S::splat(0.0));
                    d = S::select_less(place, limit, d, S::splat(0.0));
                }
                S::store(weights.start.add(at), weight);
                S::store(dscores.start.add(at), d);
            }
            for c in vectors..BLOCK / S::LANES {
                let at = r * BLOCK + c * S::LANES;
                S::store(weights.start.add(at), S::splat(0.0));
                S::store(dscores.start.add(at), S::splat(0.0));
            }
        }
        let chain = Weights {
            start: dscores.start,
            row: BLOCK,
            place: 1,
            from: 0,
            to: limits,
        };
        let keys = Rows {
            start: s.keys.as_ptr(),
            stride: padded,
        };
        let dq = RowsMut {
            start: s.dq.as_mut_ptr().add(row * padded),
            stride: padded,
        };
        combine::<S, f32, R>(chain, keys, padded / S::LANES, dq, Some([1.0; R]));
    }
    R
}

/// What a block of queries adds to `dk` and `dv` of `R` keys from `key` on.
#[inline(always)]
unsafe fn key_rows<S: Simd, const R: usize>(
    shape: &AttentionShape,
    s: &mut Scratch<'_>,
    pair: &Pair,
    key: usize,
) -> usize {
    let padded = shape.padded();
    // No query before `key` sees these keys; of those that see only some of them, the other weights are 0.
    let from = if pair.diagonal { key } else { 0 };
    // SAFETY: blocks have `BLOCK` rows, and `key + R` is at most that.
    unsafe {
        for (weights, rows, out) in [(&*s.weights, &*s.dout, &mut *s.dv), (&*s.dscores, &*s.q, &mut *s.dk)] {
            let chain = Weights {
                start: weights.as_ptr().add(key),
                row: 1,
                place: BLOCK,
                from,
                to: [pair.rows; R],
            };
            let rows = Rows {
                start: rows.as_ptr(),
                stride: padded,
            };
            let out = RowsMut {
                start: out.as_mut_ptr().add(key * padded),
                stride: padded,
            };
            combine::<S, f32, R>(chain, rows, padded / S::LANES, out, Some([1.0; R]));
        }
    }
    R
}
