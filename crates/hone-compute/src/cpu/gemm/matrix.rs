//! Operands in the form that the kernels read.
//!
//! Both are arrays of 32-bit cells, a cell being what one multiply-add of a kernel takes in: one f32, or two bf16 that
//! are neighbours along `k`. A left operand has its cells along `k` in rows; a right one in panels of some columns,
//! each panel one row of cells after the other. `k` is padded with zeros, and so are the columns of the last panel.

use super::bf16::{narrow_kernel, rounded_bits};
use super::buffer::Buffer;
use super::transpose::{Rows, SIDE, Transpose};
use crate::cpu::Cpu;
use crate::cpu::simd::{Simd, dispatch};
use crate::isa::{Isa, Level, Precision};
use crate::pool::Parts;

/// Columns of a right operand that [`Product::cols`](super::Product) may start at are multiples of this.
pub(crate) const PANEL: usize = 64;
/// Source elements that are worth a task of their own.
const GRAIN: usize = 1 << 15;
/// Cells of a cache line; the depth of a matrix is padded to it.
const LINE: usize = 16;

/// What a cell holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Two bf16, the even `k` in the lower half.
    Pairs,
    /// One f32 that has been rounded to bf16.
    Rounded,
    /// One f32.
    Full,
}

impl Form {
    pub fn of(cpu: &Cpu) -> Self {
        match (cpu.precision, cpu.isa) {
            (Precision::F32, _) => Self::Full,
            (Precision::Bf16, Isa::Amx | Isa::Avx512Bf16) => Self::Pairs,
            (Precision::Bf16, _) => Self::Rounded,
        }
    }

    /// Cells that `k` elements fill, without padding.
    pub fn cells(self, k: usize) -> usize {
        match self {
            Self::Pairs => k.div_ceil(2),
            Self::Rounded | Self::Full => k,
        }
    }
}

/// Columns in a panel, which is what a register block is wide.
pub(super) const fn panel_width(level: Level) -> usize {
    match level {
        Level::Avx512 => PANEL,
        Level::Avx2 | Level::Portable => 16,
    }
}

/// A left operand `[m, k]` in the kernels' form. The memory is reused.
pub(crate) struct LeftMatrix {
    pub(super) cells: Buffer,
    pub(super) form: Form,
    /// Cells from one row to the next: an odd number of cache lines, so that rows fall into different cache sets.
    pub(super) stride: usize,
    m: usize,
    k: usize,
}

impl LeftMatrix {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            cells: Buffer::new(),
            form: Form::Full,
            stride: 0,
            m: 0,
            k: 0,
        }
    }

    /// Rows.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Columns: the length of the sums.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The memory held, in bytes.
    pub fn bytes(&self) -> usize {
        self.cells.bytes()
    }

    /// Takes the matrix from `a`, which is `[m, k]`.
    pub fn pack(&mut self, cpu: &Cpu, a: &[f32], m: usize, k: usize) {
        assert_eq!(a.len(), m * k, "LeftMatrix::pack: [{m}, {k}]");
        self.shape(cpu, m, k);
        let (form, stride) = (self.form, self.stride);
        let parts = Parts::new(self.cells.cells_mut());
        cpu.pool.ranges(m, GRAIN.div_ceil(k.max(1)), &|rows| {
            // SAFETY: row ranges do not overlap.
            let out = unsafe { parts.get(rows.start * stride..rows.end * stride) };
            rows_to_rows(cpu.level, form, &a[rows.start * k..rows.end * k], k, out);
        });
    }

    /// Takes the matrix from `a`, which is its transpose, `[k, m]`.
    pub fn pack_transposed(&mut self, cpu: &Cpu, a: &[f32], m: usize, k: usize) {
        assert_eq!(a.len(), k * m, "LeftMatrix::pack_transposed: [{k}, {m}]");
        self.shape(cpu, m, k);
        let (form, stride) = (self.form, self.stride);
        let parts = Parts::new(self.cells.cells_mut());
        let grain = GRAIN.div_ceil(k.max(1)).next_multiple_of(8 * SIDE);
        cpu.pool.ranges(m, grain, &|rows| {
            // SAFETY: row ranges do not overlap.
            let out = unsafe { parts.get(rows.start * stride..rows.end * stride) };
            let source = Columns {
                values: a,
                k,
                width: m,
                from: rows.start,
                to: rows.end,
            };
            columns_to_rows(cpu.level, form, source, out);
        });
    }

    fn shape(&mut self, cpu: &Cpu, m: usize, k: usize) {
        self.form = Form::of(cpu);
        self.stride = (self.form.cells(k).div_ceil(LINE) | 1) * LINE;
        self.m = m;
        self.k = k;
        self.cells.resize(m * self.stride);
    }
}

/// A right operand `[k, n]` in panels. The memory is reused.
pub(crate) struct RightMatrix {
    pub(super) cells: Buffer,
    pub(super) form: Form,
    /// Columns of a panel.
    pub(super) width: usize,
    /// Rows of cells of a panel.
    pub(super) depth: usize,
    k: usize,
    n: usize,
}

impl RightMatrix {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            cells: Buffer::new(),
            form: Form::Full,
            width: PANEL,
            depth: 0,
            k: 0,
            n: 0,
        }
    }

    /// Rows: the length of the sums.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The memory held, in bytes.
    pub fn bytes(&self) -> usize {
        self.cells.bytes()
    }

    /// Takes the matrix from `b`, which is `[k, n]`.
    pub fn pack(&mut self, cpu: &Cpu, b: &[f32], k: usize, n: usize) {
        assert_eq!(b.len(), k * n, "RightMatrix::pack: [{k}, {n}]");
        self.shape(cpu, k, n);
        let (form, width, panel) = (self.form, self.width, self.panel());
        let parts = Parts::new(self.cells.cells_mut());
        // Some panels at a time, so that what is read of a row of `b` is not too short.
        let grain = GRAIN.div_ceil(panel.max(1)).max(2 * PANEL / width);
        cpu.pool.ranges(n.div_ceil(width), grain, &|panels| {
            // SAFETY: panels do not overlap.
            let out = unsafe { parts.get(panels.start * panel..panels.end * panel) };
            let source = Columns {
                values: b,
                k,
                width: n,
                from: panels.start * width,
                to: n.min(panels.end * width),
            };
            columns_to_panels(cpu.level, form, source, width, out);
        });
    }

    /// Takes the matrix from `b`, which is its transpose, `[n, k]`: a weight stored as outputs by inputs.
    pub fn pack_transposed(&mut self, cpu: &Cpu, b: &[f32], k: usize, n: usize) {
        assert_eq!(b.len(), n * k, "RightMatrix::pack_transposed: [{n}, {k}]");
        self.shape(cpu, k, n);
        let (form, width, panel) = (self.form, self.width, self.panel());
        let parts = Parts::new(self.cells.cells_mut());
        let grain = GRAIN.div_ceil(panel.max(1));
        cpu.pool.ranges(n.div_ceil(width), grain, &|panels| {
            for p in panels {
                // SAFETY: panels do not overlap.
                let out = unsafe { parts.get(p * panel..(p + 1) * panel) };
                let rows = &b[p * width * k..n.min((p + 1) * width) * k];
                rows_to_panel(cpu.level, form, rows, k, width, out);
            }
        });
    }

    /// Cells of a panel.
    pub(super) fn panel(&self) -> usize {
        self.depth * self.width
    }

    fn shape(&mut self, cpu: &Cpu, k: usize, n: usize) {
        self.form = Form::of(cpu);
        self.width = panel_width(cpu.level);
        self.depth = self.form.cells(k).next_multiple_of(LINE);
        self.k = k;
        self.n = n;
        self.cells.resize(n.div_ceil(self.width) * self.panel());
    }
}

/// The columns `from..to` of a matrix `[k, width]`.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    values: &'a [f32],
    k: usize,
    width: usize,
    from: usize,
    to: usize,
}

impl<'a> Columns<'a> {
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

/// The cells of row `c` for `out.len()` columns from `start` on, `length` of which exist.
#[inline(always)]
fn cells_across(
    form: Form,
    source: &Columns,
    c: usize,
    start: usize,
    length: usize,
    out: &mut [u32],
) {
    match form {
        Form::Pairs => {
            let even = source.row(2 * c, start, length);
            let odd = source.row(2 * c + 1, start, length);
            if !odd.is_empty() {
                for ((out, &even), &odd) in out.iter_mut().zip(even).zip(odd) {
                    *out = rounded_bits(even) >> 16 | rounded_bits(odd);
                }
            } else {
                for (out, &even) in out.iter_mut().zip(even) {
                    *out = rounded_bits(even) >> 16;
                }
            }
        }
        Form::Rounded => {
            for (out, &x) in out.iter_mut().zip(source.row(c, start, length)) {
                *out = rounded_bits(x);
            }
        }
        Form::Full => {
            for (out, &x) in out.iter_mut().zip(source.row(c, start, length)) {
                *out = x.to_bits();
            }
        }
    }
}

/// The cells of consecutive elements along `k`.
#[inline(always)]
unsafe fn cells_along<S: Simd>(form: Form, x: &[f32], out: &mut [u32]) {
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
                    cells_across(form, &source, c + i, from, length, &mut stage[..length]);
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

#[inline(always)]
unsafe fn columns_to_panels_kernel<S: Simd>(
    form: Form,
    source: Columns<'_>,
    width: usize,
    out: &mut [u32],
) {
    let columns = source.to - source.from;
    let filled = form.cells(source.k);
    let panel = out.len() / columns.div_ceil(width);
    for c in 0..panel / width {
        for (from, out) in (0..columns)
            .step_by(width)
            .zip(out.chunks_exact_mut(panel.max(1)))
        {
            let row = &mut out[c * width..(c + 1) * width];
            let length = width.min(columns - from);
            if c >= filled {
                row.fill(0);
            } else if length == PANEL {
                // A length that is known makes straight code; so below.
                cells_across(form, &source, c, from, PANEL, &mut row[..PANEL]);
            } else if length == SIDE {
                cells_across(form, &source, c, from, SIDE, &mut row[..SIDE]);
            } else {
                cells_across(form, &source, c, from, length, &mut row[..length]);
                row[length..].fill(0);
            }
        }
    }
}

#[inline(always)]
unsafe fn rows_to_panel_kernel<S: Transpose>(
    form: Form,
    x: &[f32],
    k: usize,
    width: usize,
    out: &mut [u32],
) {
    let columns = x.len().checked_div(k).unwrap_or(0);
    let span = match form {
        Form::Pairs => 2,
        Form::Rounded | Form::Full => 1,
    };
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
