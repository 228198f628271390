//! Writing rows of keys and values into a page.
//!
//! # Soundness
//! Cells go through slices with bounds checked; a transposition reads a whole stage and writes where an assertion before
//! it says that it may. Arithmetic is sound as said in [`simd`](crate::cpu::simd).

use super::BLOCK;
use super::pages::Layout;
use crate::cpu::gemm::transpose::{Rows, SIDE, Transpose};
use crate::cpu::gemm::{Form, cells_along, rounded_bits};
use crate::cpu::simd::dispatch;

dispatch! {
    /// Writes `k` and `v`, `[rows, kv_heads * head_dim]`, rounded to the cache's type, at the places from `first` on, which
    /// are empty, as are those after them.
    fn fill(layout: Layout, page: &mut [u32], first: usize, k: &[f32], v: &[f32]) = fill_kernel;
}

#[inline(always)]
unsafe fn fill_kernel<S: Transpose>(layout: Layout, page: &mut [u32], first: usize, k: &[f32], v: &[f32]) {
    let width = layout.kv_heads * layout.head_dim;
    let rows = k.len() / width;
    assert!(first + rows <= BLOCK, "{rows} rows from place {first} of a page");
    for (head, page) in page.chunks_exact_mut(layout.head()).take(layout.kv_heads).enumerate() {
        let (keys, values) = page.split_at_mut(layout.keys());
        let source = Source {
            width,
            at: head * layout.head_dim,
            dim: layout.head_dim,
        };
        if rows == 1 {
            fill_key(layout.form(), keys, first, source.row(k, 0));
        } else {
            // SAFETY: the caller has the vectors of `S`.
            unsafe { fill_keys::<S>(layout.form(), keys, (first, rows), k, source) };
        }
        fill_values(layout, values, (first, rows), v, source);
    }
}

/// Where the rows of a head lie.
#[derive(Clone, Copy)]
struct Source {
    width: usize,
    at: usize,
    dim: usize,
}

impl Source {
    #[inline(always)]
    fn row(self, x: &[f32], row: usize) -> &[f32] {
        &x[row * self.width + self.at..][..self.dim]
    }
}

/// One position: a cell of each row of the page.
#[inline(always)]
fn fill_key(form: Form, keys: &mut [u32], place: usize, k: &[f32]) {
    match form {
        Form::Pairs => {
            let (pairs, rest) = k.as_chunks::<2>();
            let mut column = keys[place..].iter_mut().step_by(BLOCK);
            for (&[even, odd], key) in pairs.iter().zip(&mut column) {
                *key = rounded_bits(even) >> 16 | rounded_bits(odd);
            }
            if let ([even], Some(key)) = (rest, column.next()) {
                *key = rounded_bits(*even) >> 16;
            }
        }
        Form::Rounded | Form::Full => {
            for (key, &x) in keys[place..].iter_mut().step_by(BLOCK).zip(k) {
                *key = x.to_bits();
            }
        }
    }
}

/// Some positions: blocks of [`SIDE`] positions and cells transposed at a time.
#[inline(always)]
unsafe fn fill_keys<S: Transpose>(
    form: Form,
    keys: &mut [u32],
    (first, rows): (usize, usize),
    k: &[f32],
    source: Source,
) {
    let elements = SIDE * if form == Form::Pairs { 2 } else { 1 };
    for tile in (0..rows).step_by(SIDE) {
        let count = SIDE.min(rows - tile);
        let place = first + tile;
        for from in (0..source.dim).step_by(elements) {
            let mut stage = [[0_u32; SIDE]; SIDE];
            let some = elements.min(source.dim - from);
            for (row, stage) in stage[..count].iter_mut().enumerate() {
                let x = &source.row(k, tile + row)[from..from + some];
                // SAFETY: the caller has the vectors of `S`.
                unsafe { cells_along::<S>(form, x, stage) };
            }
            let cells = form.cells(some);
            let at = form.cells(from) * BLOCK + place;
            if place + SIDE <= BLOCK {
                // Beyond the last position are zeros, as before.
                assert!(at + (cells - 1) * BLOCK + SIDE <= keys.len());
                let from = Rows {
                    first: stage.as_flattened().as_ptr(),
                    stride: SIDE,
                };
                let to = Rows {
                    first: keys[at..].as_mut_ptr(),
                    stride: BLOCK,
                };
                // SAFETY: `from` is a whole stage, and the last row written ends within `keys`.
                unsafe { S::transpose(from, to, cells) };
            } else {
                for cell in 0..cells {
                    let column = &mut keys[at + cell * BLOCK..][..count];
                    for (key, stage) in column.iter_mut().zip(&stage) {
                        *key = stage[cell];
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn fill_values(layout: Layout, values: &mut [u32], (first, rows): (usize, usize), v: &[f32], source: Source) {
    let padded = layout.padded();
    match layout.form() {
        Form::Pairs => {
            let mut row = 0;
            while row < rows {
                let place = first + row;
                let cells = &mut values[place / 2 * padded..][..source.dim];
                let x = source.row(v, row);
                if place % 2 == 1 {
                    for (cell, &x) in cells.iter_mut().zip(x) {
                        *cell |= rounded_bits(x);
                    }
                    row += 1;
                } else if row + 1 < rows {
                    for ((cell, &even), &odd) in cells.iter_mut().zip(x).zip(source.row(v, row + 1)) {
                        *cell = rounded_bits(even) >> 16 | rounded_bits(odd);
                    }
                    row += 2;
                } else {
                    for (cell, &x) in cells.iter_mut().zip(x) {
                        *cell = rounded_bits(x) >> 16;
                    }
                    row += 1;
                }
            }
        }
        Form::Rounded | Form::Full => {
            for row in 0..rows {
                let cells = &mut values[(first + row) * padded..][..source.dim];
                for (cell, &x) in cells.iter_mut().zip(source.row(v, row)) {
                    *cell = x.to_bits();
                }
            }
        }
    }
}

/// Makes the places from `first` on empty.
pub(super) fn clear(layout: Layout, page: &mut [u32], first: usize) {
    let padded = layout.padded();
    for page in page.chunks_exact_mut(layout.head()) {
        let (keys, values) = page.split_at_mut(layout.keys());
        for column in keys.chunks_exact_mut(BLOCK) {
            column[first..].fill(0);
        }
        let mut whole = first;
        if layout.form() == Form::Pairs && first % 2 == 1 {
            for cell in &mut values[first / 2 * padded..][..padded] {
                *cell &= 0xffff;
            }
            whole += 1;
        }
        values[layout.form().cells(whole) * padded..].fill(0);
    }
}
