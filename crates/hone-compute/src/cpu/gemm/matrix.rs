//! Operands in the form that the kernels read.
//!
//! Both are arrays of 32-bit cells: one f32, or two bf16 that are neighbours along `k`. A left operand has its cells along
//! `k` in rows; a right one in panels of some columns, each panel one row of cells after the other. `k` is padded with
//! zeros, and so are the columns of the last panel. [`Forms`] says what the cells of each operand hold.

use super::buffer::Buffer;
use super::pack::{
    Columns, TransposedTile, columns_to_panels, columns_to_rows, row_to_row, rows_to_panel, rows_to_rows, tile_to_rows,
};
use super::transpose::SIDE;
use crate::cpu::Cpu;
use crate::cpu::memory::Regions;
use crate::isa::{Isa, Level, Precision};
use crate::pool::Parts;
use std::ops::Range;
use std::sync::Arc;

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
    /// Elements along `k` in a cell.
    pub const fn elements(self) -> usize {
        match self {
            Self::Pairs => 2,
            Self::Rounded | Self::Full => 1,
        }
    }

    /// Cells that `k` elements fill, without padding.
    pub const fn cells(self, k: usize) -> usize {
        match self {
            Self::Pairs => k.div_ceil(2),
            Self::Rounded | Self::Full => k,
        }
    }
}

/// The forms of the operands of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forms {
    pub left: Form,
    pub right: Form,
}

impl Forms {
    pub fn of(cpu: &Cpu) -> Self {
        Self::under(cpu.isa, cpu.precision)
    }

    /// Those of an instruction set and a precision. Weights, which are right operands, take two bytes in bf16 in any case.
    pub fn under(isa: Isa, precision: Precision) -> Self {
        let (left, right) = match (precision, isa) {
            (Precision::F32, _) => (Form::Full, Form::Full),
            (Precision::Bf16, Isa::Amx | Isa::Avx512Bf16) => (Form::Pairs, Form::Pairs),
            (Precision::Bf16, _) => (Form::Rounded, Form::Pairs),
        };
        Self { left, right }
    }

    /// Cells of the left operand that are multiplied with one of the right.
    pub const fn left_cells(self) -> usize {
        self.right.elements() / self.left.elements()
    }
}

/// Columns in a panel, which is what a register block is wide.
pub(crate) const fn panel_width(level: Level) -> usize {
    match level {
        Level::Avx512(_) => PANEL,
        Level::Avx2(_) | Level::Portable => 16,
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

    /// Cells that there is memory for.
    pub const fn capacity(&self) -> usize {
        self.cells.capacity()
    }

    /// Rows.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Columns: the length of the sums.
    pub fn k(&self) -> usize {
        self.k
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

    /// The same of some columns of a matrix, once `change` has changed every part of a row: it is given the row, the columns
    /// of the matrix and their numbers, each once.
    pub fn pack_changed(&mut self, cpu: &Cpu, a: SomeColumns<'_>, change: &Change) {
        let tiles = Tiles::of(&a);
        let out = self.parts(cpu, (tiles.rows, tiles.columns));
        let a = a.parts();
        cpu.pool.run(tiles.count(), &|task| {
            let (rows, columns) = tiles.get(task);
            for row in rows {
                // SAFETY: tiles do not overlap.
                unsafe {
                    let part = a.get(row, columns.clone());
                    change(row, a.columns(&columns), part);
                    out.put(cpu.level, row, &columns, part);
                }
            }
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

    /// Shapes it `[m, k]`, to be filled part by part.
    fn parts(&mut self, cpu: &Cpu, (m, k): (usize, usize)) -> LeftParts<'_> {
        self.shape(cpu, m, k);
        LeftParts {
            form: self.form,
            stride: self.stride,
            k,
            cells: Parts::new(self.cells.cells_mut()),
        }
    }

    /// Cells from one row to the next of an operand whose sums are `k` long.
    const fn stride(form: Form, k: usize) -> usize {
        (form.cells(k).div_ceil(LINE) | 1) * LINE
    }

    /// Cells of an operand `[m, k]`.
    pub const fn cells_of(form: Form, m: usize, k: usize) -> usize {
        m * Self::stride(form, k)
    }

    fn shape(&mut self, cpu: &Cpu, m: usize, k: usize) {
        self.form = Forms::of(cpu).left;
        self.stride = Self::stride(self.form, k);
        self.m = m;
        self.k = k;
        self.cells.resize(Self::cells_of(self.form, m, k));
    }
}

/// Some columns of a matrix that is changed while it is packed.
pub(crate) struct SomeColumns<'a> {
    numbers: &'a mut [f32],
    /// Rows and columns of the matrix.
    whole: (usize, usize),
    columns: Range<usize>,
}

impl<'a> SomeColumns<'a> {
    /// Those of `numbers`, `[rows, width]`.
    pub fn of(numbers: &'a mut [f32], (rows, width): (usize, usize), columns: Range<usize>) -> Self {
        assert!(
            numbers.len() == rows * width && columns.end <= width,
            "columns {columns:?} of {} numbers, [{rows}, {width}]",
            numbers.len()
        );
        Self {
            numbers,
            whole: (rows, width),
            columns,
        }
    }

    fn parts(self) -> RowParts<'a> {
        RowParts {
            numbers: Parts::new(self.numbers),
            width: self.whole.1,
            first: self.columns.start,
        }
    }
}

/// The rows of [`SomeColumns`], of which each task has parts of its own; columns are counted from the first of these.
struct RowParts<'a> {
    numbers: Parts<'a, f32>,
    width: usize,
    first: usize,
}

impl RowParts<'_> {
    /// The columns of the matrix that these are.
    fn columns(&self, columns: &Range<usize>) -> Range<usize> {
        self.first + columns.start..self.first + columns.end
    }

    /// A part of a row.
    ///
    /// # Safety
    /// No two parts that are alive at once may overlap.
    #[allow(clippy::mut_from_ref)]
    unsafe fn get(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        let columns = self.columns(&columns);
        // SAFETY: by the caller's promise.
        unsafe {
            self.numbers
                .get(row * self.width + columns.start..row * self.width + columns.end)
        }
    }
}

/// A left operand that is filled part by part.
struct LeftParts<'a> {
    cells: Parts<'a, u32>,
    form: Form,
    stride: usize,
    /// Columns.
    k: usize,
}

impl LeftParts<'_> {
    /// Packs `part`, these columns of a row, and behind the last column the padding.
    ///
    /// # Safety
    /// No other task packs them.
    unsafe fn put(&self, level: Level, row: usize, columns: &Range<usize>, part: &[f32]) {
        let first = row * self.stride;
        let last = if columns.end == self.k {
            self.stride
        } else {
            columns.end / self.form.elements()
        };
        // SAFETY: by the caller's promise: a part that is not the last ends where a cell does.
        let out = unsafe {
            self.cells
                .get(first + columns.start / self.form.elements()..first + last)
        };
        row_to_row(level, self.form, part, out);
        out[self.form.cells(part.len())..].fill(0);
    }
}

/// Changes a part of a row before it is packed, given the row, the columns and the numbers.
pub(crate) type Change<'a> = dyn Fn(usize, Range<usize>, &mut [f32]) + Sync + 'a;

/// Rows of a tile: a multiple of what a transposition takes at once.
const TILE_ROWS: usize = 64;
/// Columns of one: as many as a transposition stages, and few enough that a slice of few rows is work for many threads.
const TILE_COLUMNS: usize = 256;

/// A matrix cut into the tasks that pack it.
struct Tiles {
    rows: usize,
    columns: usize,
}

impl Tiles {
    fn of(a: &SomeColumns<'_>) -> Self {
        Self {
            rows: a.whole.0,
            columns: a.columns.len(),
        }
    }

    fn across(&self) -> usize {
        self.columns.div_ceil(TILE_COLUMNS)
    }

    fn count(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS) * self.across()
    }

    /// Rows and columns of a tile.
    fn get(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let (i, j) = (task / self.across(), task % self.across());
        (
            i * TILE_ROWS..self.rows.min((i + 1) * TILE_ROWS),
            j * TILE_COLUMNS..self.columns.min((j + 1) * TILE_COLUMNS),
        )
    }
}

/// Packs some columns of a matrix as a left operand and their transpose as another, reading them once. Before a part of a row
/// is packed `change` may change it, as in [`LeftMatrix::pack_changed`].
pub(crate) fn pack_both(
    cpu: &Cpu,
    a: SomeColumns<'_>,
    (left, transposed): (&mut LeftMatrix, &mut LeftMatrix),
    change: &Change,
) {
    let tiles = Tiles::of(&a);
    let out = left.parts(cpu, (tiles.rows, tiles.columns));
    let transposed = transposed.parts(cpu, (tiles.columns, tiles.rows));
    let a = a.parts();
    cpu.pool.run(tiles.count(), &|task| {
        let (rows, columns) = tiles.get(task);
        // SAFETY: tiles do not overlap.
        let part = |row: usize| unsafe { a.get(row, columns.clone()) };
        let mut tile: Vec<&mut [f32]> = rows.clone().map(part).collect();
        for (row, part) in rows.clone().zip(&mut tile) {
            change(row, a.columns(&columns), part);
            // SAFETY: as above.
            unsafe { out.put(cpu.level, row, &columns, part) };
        }
        let out = TransposedTile {
            cells: &transposed.cells,
            first: columns.start * transposed.stride + rows.start / transposed.form.elements(),
            stride: transposed.stride,
        };
        tile_to_rows(cpu.level, transposed.form, &tile, out);
    });
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
        Self::of(Buffer::new())
    }

    /// An empty one whose memory will be next to that of others: a weight.
    pub const fn within(regions: Arc<Regions>) -> Self {
        Self::of(Buffer::within(regions))
    }

    const fn of(cells: Buffer) -> Self {
        Self {
            cells,
            form: Form::Full,
            width: PANEL,
            depth: 0,
            k: 0,
            n: 0,
        }
    }

    /// Cells that there is memory for.
    pub const fn capacity(&self) -> usize {
        self.cells.capacity()
    }

    /// Rows: the length of the sums.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
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

    /// Rows of cells of a panel of an operand whose sums are `k` long.
    const fn depth(form: Form, k: usize) -> usize {
        form.cells(k).next_multiple_of(LINE)
    }

    /// Cells of an operand `[k, n]` in panels of `width` columns.
    pub const fn cells_of(form: Form, width: usize, k: usize, n: usize) -> usize {
        n.div_ceil(width) * Self::depth(form, k) * width
    }

    fn shape(&mut self, cpu: &Cpu, k: usize, n: usize) {
        self.form = Forms::of(cpu).right;
        self.width = panel_width(cpu.level);
        self.depth = Self::depth(self.form, k);
        self.k = k;
        self.n = n;
        self.cells.resize(Self::cells_of(self.form, self.width, k, n));
    }
}
