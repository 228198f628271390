//! The loops that put operands into cells: by rows or by columns, as they are or transposed.
//!
//! # Soundness
//! Cells go through slices with bounds checked. A transposition reads a block of a stage, which is as wide as its longest
//! use and one block more, and writes where an assertion before it says that it may.

use super::bf16::{narrow_kernel, rounded_bits};
use super::matrix::{Form, PANEL};
use super::transpose::{Rows, SIDE, Transpose};
use crate::cpu::simd::{Simd, dispatch};
use crate::pool::Parts;

/// The columns `from..to` of a matrix `[k, width]`.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub values: &'a [f32],
    pub k: usize,
    pub width: usize,
    pub from: usize,
    pub to: usize,
}

impl<'a> Columns<'a> {
    /// The rows that make the cells of row `c`, `length` columns from `start` on.
    #[inline(always)]
    fn pair(&self, form: Form, c: usize, start: usize, length: usize) -> (&'a [f32], &'a [f32]) {
        let first = c * form.elements();
        let second = if form.elements() == 2 { first + 1 } else { self.k };
        (self.row(first, start, length), self.row(second, start, length))
    }

    /// Columns `start..start + length`, counted from `from`, of row `k`; nothing beyond the last row.
    #[inline(always)]
    fn row(&self, k: usize, start: usize, length: usize) -> &'a [f32] {
        if k >= self.k {
            return &[];
        }
        let at = k * self.width + self.from + start;
        &self.values[at..at + length]
    }
}

/// The cells of neighbouring rows of `k` for some columns: of an even row and the odd one after it (empty where there is
/// none) where a cell holds two, else of `even` alone.
#[inline(always)]
fn cells_across(form: Form, even: &[f32], odd: &[f32], out: &mut [u32]) {
    match form {
        Form::Pairs if !odd.is_empty() => {
            for ((out, &even), &odd) in out.iter_mut().zip(even).zip(odd) {
                *out = rounded_bits(even) >> 16 | rounded_bits(odd);
            }
        }
        Form::Pairs => {
            for (out, &even) in out.iter_mut().zip(even) {
                *out = rounded_bits(even) >> 16;
            }
        }
        Form::Rounded => {
            for (out, &x) in out.iter_mut().zip(even) {
                *out = rounded_bits(x);
            }
        }
        Form::Full => {
            for (out, &x) in out.iter_mut().zip(even) {
                *out = x.to_bits();
            }
        }
    }
}

/// The cells of consecutive elements along `k`.
#[inline(always)]
pub(crate) unsafe fn cells_along<S: Simd>(form: Form, x: &[f32], out: &mut [u32]) {
    match form {
        // The even element is the lower half of its cell, so on a little-endian machine the halves are in order.
        #[cfg(target_endian = "little")]
        Form::Pairs => unsafe {
            narrow_kernel::<S>(x, bytemuck::cast_slice_mut(out));
            if x.len() % 2 == 1 {
                out[x.len() / 2] &= 0xffff;
            }
        },
        #[cfg(not(target_endian = "little"))]
        Form::Pairs => {
            for (out, x) in out.iter_mut().zip(x.chunks(2)) {
                *out = rounded_bits(x[0]) >> 16 | x.get(1).map_or(0, |&x| rounded_bits(x));
            }
        }
        Form::Rounded => {
            for (out, &x) in out.iter_mut().zip(x) {
                *out = rounded_bits(x);
            }
        }
        Form::Full => {
            for (out, &x) in out.iter_mut().zip(x) {
                *out = x.to_bits();
            }
        }
    }
}

dispatch! { fn row_to_row(form: Form, x: &[f32], out: &mut [u32]) = cells_along; }
dispatch! { fn tile_to_rows(form: Form, tile: &[&mut [f32]], out: TransposedTile<'_>) = tile_to_rows_kernel; }
dispatch! { fn rows_to_rows(form: Form, x: &[f32], k: usize, out: &mut [u32]) = rows_to_rows_kernel; }
dispatch! { fn columns_to_rows(form: Form, source: Columns<'_>, out: &mut [u32]) = columns_to_rows_kernel; }
dispatch! { fn columns_to_panels(form: Form, source: Columns<'_>, width: usize, out: &mut [u32]) = columns_to_panels_kernel; }
dispatch! { fn rows_to_panel(form: Form, x: &[f32], k: usize, width: usize, out: &mut [u32]) = rows_to_panel_kernel; }

#[inline(always)]
unsafe fn rows_to_rows_kernel<S: Simd>(form: Form, x: &[f32], k: usize, out: &mut [u32]) {
    let rows = x.len().checked_div(k).unwrap_or(0);
    if rows == 0 {
        return;
    }
    let stride = out.len() / rows;
    for (x, out) in x.chunks_exact(k).zip(out.chunks_exact_mut(stride)) {
        unsafe { cells_along::<S>(form, x, out) };
        out[form.cells(k)..].fill(0);
    }
}

/// Rows of cells on their way to be transposed: long enough that they are written before they are read.
type Stage = [[u32; STAGE + SIDE]; SIDE];
/// Cells of a row that are used; the rest keeps rows out of each other's cache sets.
const STAGE: usize = 16 * SIDE;

/// The transposed block of a stage whose first column is `at`.
#[inline(always)]
fn staged(stage: &Stage, at: usize) -> Rows<*const u32> {
    Rows {
        first: &raw const stage[0][at],
        stride: STAGE + SIDE,
    }
}

#[inline(always)]
unsafe fn columns_to_rows_kernel<S: Transpose>(form: Form, source: Columns<'_>, out: &mut [u32]) {
    let rows = source.to - source.from;
    let stride = out.len() / rows;
    let filled = form.cells(source.k);
    let depth = filled.next_multiple_of(SIDE);
    let mut stage: Stage = [[0; STAGE + SIDE]; SIDE];
    for c in (0..depth).step_by(SIDE) {
        for from in (0..rows).step_by(STAGE) {
            let length = STAGE.min(rows - from);
            for (i, stage) in stage.iter_mut().enumerate() {
                if c + i < filled {
                    let (even, odd) = source.pair(form, c + i, from, length);
                    cells_across(form, even, odd, &mut stage[..length]);
                } else {
                    stage.fill(0);
                }
            }
            for start in (0..length).step_by(SIDE) {
                let some = SIDE.min(length - start);
                let at = (from + start) * stride + c;
                assert!(at + (some - 1) * stride + SIDE <= out.len());
                let to = Rows {
                    first: &raw mut out[at],
                    stride,
                };
                // SAFETY: the last row written ends within `out`.
                unsafe { S::transpose(staged(&stage, start), to, some) };
            }
        }
    }
    for row in out.chunks_exact_mut(stride) {
        row[depth..].fill(0);
    }
}

/// Where the transpose of a tile goes: row `c` of it to `cells[c * stride..]`, as many as the tile has columns.
pub(crate) struct TransposedTile<'a> {
    pub cells: &'a Parts<'a, u32>,
    pub first: usize,
    pub stride: usize,
}

/// Writes the transpose of a tile of some rows: the cells of its rows, padded with zeros to a multiple of [`SIDE`].
///
/// # Safety
/// The machine has the vectors of `S`, and no other task has the places that are written.
#[inline(always)]
unsafe fn tile_to_rows_kernel<S: Transpose>(form: Form, tile: &[&mut [f32]], out: TransposedTile<'_>) {
    let columns = tile.first().map_or(0, |row| row.len());
    let span = form.elements();
    let mut stage: Stage = [[0; STAGE + SIDE]; SIDE];
    for (group, rows) in tile.chunks(SIDE * span).enumerate() {
        for from in (0..columns).step_by(STAGE) {
            let length = STAGE.min(columns - from);
            for (i, stage) in stage.iter_mut().enumerate() {
                match rows.get(i * span) {
                    Some(even) => {
                        let odd = rows.get(i * span + 1).filter(|_| span == 2);
                        let odd = odd.map_or(&[][..], |odd| &odd[from..from + length]);
                        cells_across(form, &even[from..from + length], odd, &mut stage[..length]);
                    }
                    None => stage[..length].fill(0),
                }
            }
            for start in (0..length).step_by(SIDE) {
                let some = SIDE.min(length - start);
                let at = out.first + (from + start) * out.stride + group * SIDE;
                let to = Rows {
                    first: out.cells.start(at..at + (some - 1) * out.stride + SIDE),
                    stride: out.stride,
                };
                // SAFETY: the last row written ends in bounds, as `start` saw; the places are this task's.
                unsafe { S::transpose(staged(&stage, start), to, some) };
            }
        }
    }
}

#[inline(always)]
unsafe fn columns_to_panels_kernel<S: Simd>(form: Form, source: Columns<'_>, width: usize, out: &mut [u32]) {
    let columns = source.to - source.from;
    let filled = form.cells(source.k);
    let panel = out.len() / columns.div_ceil(width);
    for c in 0..panel / width {
        for (from, out) in (0..columns).step_by(width).zip(out.chunks_exact_mut(panel.max(1))) {
            let row = &mut out[c * width..(c + 1) * width];
            let length = width.min(columns - from);
            if c >= filled {
                row.fill(0);
                continue;
            }
            let (even, odd) = source.pair(form, c, from, length);
            if length == PANEL {
                // A length that is known makes straight code; so below.
                cells_across(form, even, odd, &mut row[..PANEL]);
            } else if length == SIDE {
                cells_across(form, even, odd, &mut row[..SIDE]);
            } else {
                cells_across(form, even, odd, &mut row[..length]);
                row[length..].fill(0);
            }
        }
    }
}

#[inline(always)]
unsafe fn rows_to_panel_kernel<S: Transpose>(form: Form, x: &[f32], k: usize, width: usize, out: &mut [u32]) {
    let columns = x.len().checked_div(k).unwrap_or(0);
    let span = form.elements();
    let depth = out.len() / width;
    let mut stage: Stage = [[0; STAGE + SIDE]; SIDE];
    for start in (0..width).step_by(SIDE) {
        for c in (0..depth).step_by(STAGE) {
            let length = STAGE.min(depth - c);
            let elements = k.min(c * span)..k.min((c + length) * span);
            for (i, stage) in stage.iter_mut().enumerate() {
                let mut end = 0;
                if start + i < columns {
                    let x = &x[(start + i) * k..][elements.clone()];
                    end = form.cells(x.len());
                    unsafe { cells_along::<S>(form, x, &mut stage[..end]) };
                }
                stage[end..length].fill(0);
            }
            for j in (0..length).step_by(SIDE) {
                let at = (c + j) * width + start;
                assert!(at + (SIDE - 1) * width + SIDE <= out.len());
                let to = Rows {
                    first: &raw mut out[at],
                    stride: width,
                };
                // SAFETY: the last row written ends within `out`.
                unsafe { S::transpose(staged(&stage, j), to, SIDE) };
            }
        }
    }
}
