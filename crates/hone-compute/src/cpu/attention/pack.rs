//! Keys and values of a block as right operands of the gradient: keys in cells along the keys, values in cells along the
//! head, where a page has them the other way round.
//!
//! # Soundness
//! A transposition reads and writes blocks of [`SIDE`] by [`SIDE`] cells; assertions before it say that they lie within the
//! slices. Arithmetic is sound as said in [`simd`](crate::cpu::simd).

use super::BLOCK;
use super::arithmetic::Arithmetic;
use crate::cpu::gemm::transpose::{Rows, SIDE, Transpose};

/// `from`, rows of `stride` cells, transposed to `to`, rows of `to_stride`: `columns` rows of as many cells as `from` has
/// rows, filled up with zeros to a multiple of [`SIDE`].
#[inline(always)]
unsafe fn transpose<S: Transpose>(
    (from, stride): (&[u32], usize),
    columns: usize,
    (to, to_stride): (&mut [u32], usize),
) {
    let rows = from.len() / stride;
    assert!(rows.next_multiple_of(SIDE) <= to_stride && columns * to_stride <= to.len());
    assert!(columns.next_multiple_of(SIDE) <= stride);
    for row in (0..rows).step_by(SIDE) {
        let mut stage = [0; SIDE * BLOCK];
        let some = SIDE.min(rows - row);
        let part = &from[row * stride..(row + some) * stride];
        let part = if some < SIDE {
            // The rows that are missing are zeros.
            stage[..part.len()].copy_from_slice(part);
            &stage[..SIDE * stride]
        } else {
            part
        };
        for column in (0..columns).step_by(SIDE) {
            let from = Rows {
                first: part[column..].as_ptr(),
                stride,
            };
            let to = Rows {
                first: to[column * to_stride + row..].as_mut_ptr(),
                stride: to_stride,
            };
            // SAFETY: `part` has whole rows, and `columns` rows of `to` are good up to the next multiple of `SIDE`.
            unsafe { S::transpose(from, to, SIDE.min(columns - column)) };
        }
    }
}

/// A block's keys, `[cells of the head, BLOCK]`, as `[cells of BLOCK, padded]`. `stage` holds `[BLOCK, padded]`.
#[inline(always)]
pub(super) unsafe fn keys_across<A: Arithmetic>(keys: &[u32], padded: usize, stage: &mut [u32], out: &mut [u32]) {
    if A::SPAN == 1 {
        // SAFETY: the caller has what `A` needs.
        unsafe { transpose::<A::S>((keys, BLOCK), BLOCK, (out, padded)) };
        return;
    }
    // SAFETY: as above.
    unsafe { transpose::<A::S>((keys, BLOCK), BLOCK, (stage, padded)) };
    // Each row of the stage holds a key's elements in order, two to a cell.
    for (two, out) in stage.chunks_exact(2 * padded).zip(out.chunks_exact_mut(padded)) {
        let (even, odd) = two.split_at(padded);
        let (out, _) = out.as_chunks_mut::<2>();
        for (([low, high], &even), &odd) in out.iter_mut().zip(even).zip(odd) {
            *low = even & 0xffff | odd << 16;
            *high = even >> 16 | odd & 0xffff_0000;
        }
    }
}

/// A block's values, `[cells of BLOCK, padded]`, as `[cells of the head, BLOCK]`. `stage` holds `[BLOCK, padded]`.
#[inline(always)]
pub(super) unsafe fn values_across<A: Arithmetic>(
    values: &[u32],
    (dim, padded): (usize, usize),
    stage: &mut [u32],
    out: &mut [u32],
) {
    if A::SPAN == 1 {
        // SAFETY: the caller has what `A` needs.
        unsafe { transpose::<A::S>((values, padded), dim, (out, BLOCK)) };
        return;
    }
    for (values, two) in values.chunks_exact(padded).zip(stage.chunks_exact_mut(2 * padded)) {
        let (values, _) = values.as_chunks::<2>();
        let (even, odd) = two.split_at_mut(padded);
        for ((&[low, high], even), odd) in values.iter().zip(even).zip(odd) {
            *even = low & 0xffff | high << 16;
            *odd = low >> 16 | high & 0xffff_0000;
        }
    }
    let cells = dim.div_ceil(A::SPAN);
    // SAFETY: as above.
    unsafe { transpose::<A::S>((stage, padded), cells, (out, BLOCK)) };
}
