//! Matrix products.
//!
//! An element of a product is one chain of accumulation over `k` in one fixed order. The chain is a property of the
//! instruction set and the precision alone: which rows and columns are asked for, how the work is cut into blocks and
//! how many threads share it change nothing. A block that covers a part of `k` takes the accumulators up from the
//! output and lays them down there again, as f32, which is exact.
//!
//! | operands | instruction set | chain |
//! |---|---|---|
//! | bf16 | `amx` | 32 elements at a time, as `tdpbf16ps` adds them: [`amx`] |
//! | bf16 | `avx512bf16` | 2 elements at a time, as `vdpbf16ps` adds them: [`avx512bf16`] |
//! | bf16 | others | operands rounded to bf16, otherwise as f32; 0 is added to a sum of an odd length: [`spread`] |
//! | f32 | `portable` | multiply, then add: [`fma`] |
//! | f32 | others | fused multiply-add: [`fma`] |

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_emulated;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod bf16;
mod buffer;
mod fma;
mod matrix;
mod pack;
mod spread;
#[cfg(test)]
mod tests;
pub(crate) mod transpose;

use crate::cpu::Cpu;
use crate::isa::{Isa, Precision};
pub(crate) use bf16::rounded_bits;
#[cfg(test)]
pub(crate) use bf16::to_bf16_bits;
pub(crate) use matrix::{Form, Forms, LeftMatrix, PANEL, RightMatrix, SomeColumns, pack_both, panel_width};
pub(crate) use pack::cells_along;
use std::ops::Range;

/// Rows of a task: a multiple of every kernel's rows.
const TASK_ROWS: usize = 192;
/// Columns of a task.
const TASK_COLUMNS: usize = 8 * PANEL;
/// Cells along `k` of the left operand that all rows of a task are multiplied with before the next: a multiple of every step.
/// Deeper than the first cache holds, which costs the kernels nothing and saves reloading accumulators.
const BLOCK_DEPTH: usize = 256;
/// Multiply-adds of cells below which a task is not worth its start.
const TASK_LEAST: usize = 1 << 17;
/// Tasks wanted for each thread, so that none waits long for another.
const TASKS_PER_THREAD: usize = 8;
/// Rows that tasks have at least, where there are as many.
const STREAM_ROWS: usize = 32;
/// Rows up to which a task takes a panel whole, each of its blocks of rows in one go.
const WHOLE_ROWS: usize = 96;
/// Cells of the left operand that the second cache holds beside the rest.
const NEAR_CELLS: usize = 1 << 17;
/// The lengths of parts of sums are multiples of this, but for the last: a multiple of the elements of every kernel's step.
pub(crate) const DEPTH_UNIT: usize = 64;
/// Rows of the scratch block that takes the columns of an incomplete panel.
const EDGE_ROWS: usize = 32;

/// What happens to the output's former content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// It is replaced: the chain starts from 0.
    Overwrite,
    /// It is added to: the chain starts from it.
    Accumulate,
}

/// A product, or a part of one: `a[rows, :] b[:, cols]`.
pub(crate) struct Product<'a> {
    pub a: &'a LeftMatrix,
    pub b: &'a RightMatrix,
    pub rows: Range<usize>,
    /// Starts at a multiple of [`PANEL`].
    pub cols: Range<usize>,
    pub store: Store,
}

impl<'a> Product<'a> {
    /// All of `a b`, overwriting.
    pub fn of(a: &'a LeftMatrix, b: &'a RightMatrix) -> Self {
        Self {
            a,
            b,
            rows: 0..a.m(),
            cols: 0..b.n(),
            store: Store::Overwrite,
        }
    }

    /// Only these columns.
    pub fn cols(self, cols: Range<usize>) -> Self {
        Self { cols, ..self }
    }

    /// Only these rows.
    pub fn rows(self, rows: Range<usize>) -> Self {
        Self { rows, ..self }
    }

    /// Added to the output. Products over parts of longer sums that are added to each other in order are the same chain as the
    /// whole, if all but the last are multiples of [`DEPTH_UNIT`] long.
    pub fn accumulate(self) -> Self {
        Self {
            store: Store::Accumulate,
            ..self
        }
    }

    /// Added to the output or instead of it, as `add` says.
    pub fn added_if(self, add: bool) -> Self {
        if add { self.accumulate() } else { self }
    }
}

/// A column strip of a product, for a kernel: `c[rows, columns] = a[rows, depth] b[depth, columns]`, in cells of `b`, or
/// `+=`.
///
/// `columns` is the width of a panel, or, where the kernel can, half of it. `depth` is above 0.
struct Strip {
    a: *const u32,
    /// Cells from one row of `a` to the next.
    a_stride: usize,
    b: *const u32,
    /// The cells of `b` that the next strip reads, for fetching them ahead; need not exist.
    next: *const u32,
    rows: usize,
    columns: usize,
    /// Columns of the panel, of which the strip has all or half.
    panel: usize,
    /// Strips of the same panel and rows that came before this one.
    pass: usize,
    depth: usize,
    c: *mut f32,
    /// Numbers from one row of `c` to the next.
    c_stride: usize,
    /// Whether the chain starts from what `c` holds.
    load: bool,
}

/// How many of the `left` rows a block of `most` takes next: the last two blocks share evenly.
#[inline(always)]
fn next_rows(left: usize, most: usize) -> usize {
    if left >= 2 * most || left == most {
        most
    } else if left > most {
        left.div_ceil(2)
    } else {
        left
    }
}

/// Cells of a cache line.
const LINE: usize = 16;

impl Strip {
    /// What to fetch while the block that starts at `row` is computed, `lines` cache lines for each cell of the depth, and
    /// how far apart: the first passes over a panel fetch all of the next one, and later ones nothing new. A single
    /// pass reads memory in one stream, which the processor itself fetches ahead.
    #[inline(always)]
    fn ahead(&self, row: usize, block_rows: usize, lines: usize) -> (*const u32, usize) {
        let blocks = self.rows.div_ceil(block_rows);
        let pass = self.pass * blocks + row.div_ceil(block_rows);
        if (blocks > 1 || self.columns < self.panel) && pass * lines * LINE < self.panel {
            (self.next.wrapping_add(pass * lines * self.depth * LINE), lines * LINE)
        } else {
            (self.b, 0)
        }
    }

    /// The two halves of the columns of a strip of a whole panel.
    #[inline(always)]
    fn halves(&self) -> [Self; 2] {
        let half = self.columns / 2;
        [0, 1].map(|pass| Self {
            b: self.b.wrapping_add(pass * half),
            c: self.c.wrapping_add(pass * half),
            columns: half,
            pass,
            ..*self
        })
    }
}

/// Asks for a cache line to be brought to the second cache.
#[inline(always)]
pub(crate) fn fetch(line: *const u32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that a program can see, and may be given any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(line.cast())
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Asks for a cache line to be brought to the first cache.
#[inline(always)]
pub(crate) fn fetch_near(line: *const u32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast())
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// The code that computes strips, and how it wants them.
struct Kernel {
    run: unsafe fn(&Strip),
    /// Cells of `b` along `k` that it takes at a time: the depth is padded to a multiple of it.
    step: usize,
}

/// Cells of the right operand that a step of a kernel's chain takes.
fn step_of(isa: Isa, forms: Forms) -> usize {
    match (forms.left, isa) {
        #[cfg(target_arch = "x86_64")]
        (Form::Pairs, Isa::Amx) => amx::STEP,
        _ => 1,
    }
}

/// Elements along `k` that a step of the chain takes: what it is given as 0 in whole steps, counted from the first element, may
/// be left out.
pub(crate) fn elements_of_a_step(isa: Isa, precision: Precision) -> usize {
    let forms = Forms::under(isa, precision);
    step_of(isa, forms) * forms.right.elements()
}

impl Kernel {
    fn of(cpu: &Cpu, forms: Forms) -> Self {
        #[cfg(target_arch = "x86_64")]
        use crate::isa::Level;
        let run: unsafe fn(&Strip) = match (forms.left, cpu.level) {
            #[cfg(target_arch = "x86_64")]
            (Form::Pairs, _) => match cpu.isa {
                Isa::Amx if cpu.isa.in_hardware() => amx::strip,
                Isa::Amx => amx_emulated::strip,
                _ => avx512bf16::strip,
            },
            #[cfg(target_arch = "x86_64")]
            (Form::Rounded, Level::Avx512(_)) => spread::avx512,
            #[cfg(target_arch = "x86_64")]
            (Form::Rounded, Level::Avx2(_)) => spread::avx2,
            (Form::Rounded, _) => spread::portable,
            #[cfg(target_arch = "x86_64")]
            (_, Level::Avx512(_)) => fma::avx512,
            #[cfg(target_arch = "x86_64")]
            (_, Level::Avx2(_)) => fma::avx2,
            _ => fma::portable,
        };
        Self {
            run,
            step: step_of(cpu.isa, forms),
        }
    }
}

/// What is done to each block of the output as soon as it is finished, while it is near.
pub(crate) struct Epilogue<'a> {
    /// Rows of a block: a multiple of 32.
    pub rows: usize,
    /// Columns of a block: a multiple of [`PANEL`].
    pub columns: usize,
    pub run: &'a (dyn Fn(&Finished<'_>) + Sync),
}

/// A finished block of the output.
pub(crate) struct Finished<'a> {
    /// Its rows and columns, counted from the first of the product's.
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    work: &'a Work<'a>,
}

impl Finished<'_> {
    /// The block's part of a row.
    pub fn row(&self, row: usize) -> &[f32] {
        assert!(self.rows.contains(&row), "row {row} of a block of {:?}", self.rows);
        // SAFETY: the row's part lies in the output, and until `run` returns only this task reaches it.
        unsafe { std::slice::from_raw_parts(self.work.at(row, self.columns.start), self.columns.len()) }
    }
}

/// Computes `product` into `c`, whose row `i` starts at `i * ldc` and has as many elements as there are columns.
pub(crate) fn multiply(cpu: &Cpu, product: &Product<'_>, c: &mut [f32], ldc: usize) {
    Region::of(cpu, vec![(product, c, ldc)], None).run();
}

/// The same, and runs `epilogue` on every block of the output. The blocks are of the size it asks for (but for the last
/// rows and columns), or have fewer rows, so that all threads have work.
pub(crate) fn multiply_then(cpu: &Cpu, product: &Product<'_>, c: &mut [f32], ldc: usize, epilogue: &Epilogue<'_>) {
    Region::of(cpu, vec![(product, c, ldc)], Some(epilogue)).run();
}

/// The same for several products at once, so that threads wait for each other once.
pub(crate) fn multiply_all(cpu: &Cpu, products: Vec<(&Product<'_>, &mut [f32], usize)>) {
    Region::of(cpu, products, None).run();
}

/// Products that are computed in one parallel region.
struct Region<'a> {
    cpu: &'a Cpu,
    jobs: Vec<Job<'a>>,
    tasks: usize,
    epilogue: Option<&'a Epilogue<'a>>,
}

/// A product of a region, cut into tasks.
struct Job<'a> {
    work: Work<'a>,
    /// Rows and columns of the output.
    size: (usize, usize),
    cut: Cut,
    /// Tasks of a column of blocks.
    down: usize,
    /// The number of its first task.
    first: usize,
}

impl<'a> Region<'a> {
    fn of(
        cpu: &'a Cpu,
        products: Vec<(&'a Product<'a>, &'a mut [f32], usize)>,
        epilogue: Option<&'a Epilogue<'a>>,
    ) -> Self {
        let forms = Forms::of(cpu);
        let mut region = Self {
            cpu,
            jobs: Vec::with_capacity(products.len()),
            tasks: 0,
            epilogue,
        };
        for (product, c, ldc) in products {
            let Product { a, b, .. } = *product;
            let (rows, cols) = (product.rows.clone(), product.cols.clone());
            assert_eq!(a.k(), b.k(), "multiply: lengths of the sums");
            assert!(rows.end <= a.m() && cols.end <= b.n(), "multiply: range");
            assert_eq!(cols.start % PANEL, 0, "multiply: first column");
            if rows.is_empty() || cols.is_empty() {
                continue;
            }
            let (m, n) = (rows.len(), cols.len());
            assert!(ldc >= n && c.len() >= (m - 1) * ldc + n, "multiply: output");
            assert!(
                a.form == forms.left && b.form == forms.right && b.width == panel_width(cpu.level),
                "multiply: operands packed for something else"
            );
            let kernel = Kernel::of(cpu, forms);
            let work = Work {
                product,
                depth: forms.right.cells(b.k()).next_multiple_of(kernel.step),
                left_cells: forms.left_cells(),
                kernel,
                c: c.as_mut_ptr(),
                ldc,
            };
            let cut = match epilogue {
                None => Cut::of(m, n, work.left_depth(), cpu.pool.threads()),
                Some(epilogue) => Cut::with_columns(m, n, epilogue, cpu.pool.threads()),
            };
            let down = m.div_ceil(cut.rows);
            let tasks = down * n.div_ceil(cut.columns);
            region.jobs.push(Job {
                work,
                size: (m, n),
                cut,
                down,
                first: region.tasks,
            });
            region.tasks += tasks;
        }
        region
    }

    fn run(&self) {
        let pool = &self.cpu.pool;
        if self
            .jobs
            .iter()
            .all(|job| job.size.0 * job.work.left_depth() <= NEAR_CELLS)
        {
            // Each thread goes through panels of its own, fetching the next one.
            pool.run_apart(self.tasks, &|task| self.task(task));
        } else {
            // Tasks that follow each other share columns, so that threads read the same panels at about the same time.
            pool.run(self.tasks, &|task| self.task(task));
        }
    }

    fn task(&self, task: usize) {
        let job = &self.jobs[self.jobs.partition_point(|job| job.first <= task) - 1];
        let (task, (m, n)) = (task - job.first, job.size);
        let (i, j) = (task % job.down, task / job.down);
        let rows = i * job.cut.rows..m.min((i + 1) * job.cut.rows);
        let columns = j * job.cut.columns..n.min((j + 1) * job.cut.columns);
        job.work.block(rows.clone(), columns.clone());
        if let Some(epilogue) = self.epilogue {
            (epilogue.run)(&Finished {
                rows,
                columns,
                work: &job.work,
            });
        }
    }
}

/// The size of a task.
struct Cut {
    rows: usize,
    columns: usize,
}

impl Cut {
    /// Blocks for an epilogue.
    fn with_columns(m: usize, n: usize, epilogue: &Epilogue<'_>, threads: usize) -> Self {
        assert!(
            epilogue.rows.is_multiple_of(STREAM_ROWS) && epilogue.columns.is_multiple_of(PANEL),
            "blocks of {} rows and {} columns",
            epilogue.rows,
            epilogue.columns
        );
        let mut rows = epilogue.rows;
        while threads > 1 && rows > STREAM_ROWS && m.div_ceil(rows) * n.div_ceil(epilogue.columns) < 2 * threads {
            rows = (rows / 2).next_multiple_of(STREAM_ROWS);
        }
        Self {
            rows,
            columns: epilogue.columns,
        }
    }

    fn of(m: usize, n: usize, depth: usize, threads: usize) -> Self {
        let mut cut = Self {
            rows: TASK_ROWS.min(m.next_multiple_of(STREAM_ROWS)),
            columns: TASK_COLUMNS.min(n.next_multiple_of(PANEL)),
        };
        if threads == 1 {
            return cut;
        }
        let tasks = |cut: &Self| m.div_ceil(cut.rows) * n.div_ceil(cut.columns);
        while tasks(&cut) < TASKS_PER_THREAD * threads && cut.rows.min(m) * cut.columns * depth > 2 * TASK_LEAST {
            if cut.columns > PANEL && cut.columns * 2 >= cut.rows {
                cut.columns = (cut.columns / 2).next_multiple_of(PANEL);
            } else if cut.rows > STREAM_ROWS {
                cut.rows = (cut.rows / 2).next_multiple_of(STREAM_ROWS);
            } else if cut.columns > PANEL {
                cut.columns = (cut.columns / 2).next_multiple_of(PANEL);
            } else {
                break;
            }
        }
        cut
    }
}

struct Work<'a> {
    product: &'a Product<'a>,
    kernel: Kernel,
    /// Cells of the right operand along `k`.
    depth: usize,
    /// Cells of the left operand for each of these.
    left_cells: usize,
    /// The output: `m` rows of `n` numbers, `ldc` apart.
    c: *mut f32,
    ldc: usize,
}
// SAFETY: tasks write blocks of the output that do not overlap, and everything else is only read.
unsafe impl Sync for Work<'_> {}

impl Work<'_> {
    /// Cells of the left operand along `k`.
    fn left_depth(&self) -> usize {
        self.depth * self.left_cells
    }

    /// Computes rows and columns of the output, counted within it.
    fn block(&self, rows: Range<usize>, columns: Range<usize>) {
        if self.depth == 0 {
            if self.product.store == Store::Overwrite {
                for row in rows {
                    // SAFETY: the row lies in the output, and its columns belong to this task.
                    unsafe { self.at(row, columns.start).write_bytes(0, columns.len()) };
                }
            }
            return;
        }
        let step = if rows.len() <= WHOLE_ROWS {
            self.depth
        } else {
            BLOCK_DEPTH / self.left_cells
        };
        let width = self.product.b.width;
        let near = rows.len() * self.left_depth() <= NEAR_CELLS;
        let strip = |from: usize, first: usize| {
            let depths = from..self.depth.min(from + step);
            let next = if near {
                depths.len() * width
            } else {
                self.product.b.panel()
            };
            let columns = first..columns.end.min(first + width);
            self.strip(rows.clone(), columns, depths, next);
        };
        if near {
            // All of `a` stays near, so that each panel's columns are finished in one go.
            for first in columns.clone().step_by(width) {
                (0..self.depth).step_by(step).for_each(|from| strip(from, first));
            }
        } else {
            for from in (0..self.depth).step_by(step) {
                columns.clone().step_by(width).for_each(|first| strip(from, first));
            }
        }
    }

    /// Adds the part `depths` of the chains of one panel's columns; `next` cells on, the next call reads.
    fn strip(&self, rows: Range<usize>, columns: Range<usize>, depths: Range<usize>, next: usize) {
        let (a, b) = (self.product.a, self.product.b);
        let width = b.width;
        let panel = (self.product.cols.start + columns.start) / width;
        let row = (self.product.rows.start + rows.start) * a.stride;
        let left = row + depths.start * self.left_cells;
        let right = panel * b.panel() + depths.start * width;
        let (a_cells, b_cells) = (a.cells.cells(), b.cells.cells());
        assert!(left + (rows.len() - 1) * a.stride + depths.len() * self.left_cells <= a_cells.len());
        assert!(right + depths.len() * width <= b_cells.len());
        // Half a panel where that is enough, in the kernels whose panels are wide.
        let unit = if width == PANEL { PANEL / 2 } else { width };
        let load = depths.start > 0 || self.product.store == Store::Accumulate;
        let mut strip = Strip {
            a: &raw const a_cells[left],
            a_stride: a.stride,
            b: &raw const b_cells[right],
            next: (&raw const b_cells[right]).wrapping_add(next),
            rows: rows.len(),
            columns: columns.len().next_multiple_of(unit),
            panel: width,
            pass: 0,
            depth: depths.len(),
            c: self.at(rows.start, columns.start),
            c_stride: self.ldc,
            load,
        };
        if columns.len() == strip.columns {
            // SAFETY: operands by the assertions; the block of `c` lies in the output and belongs to this task.
            unsafe { (self.kernel.run)(&strip) };
            return;
        }
        let mut edge = [0.0_f32; EDGE_ROWS * PANEL];
        for from in rows.clone().step_by(EDGE_ROWS) {
            strip.rows = EDGE_ROWS.min(rows.end - from);
            strip.c = edge.as_mut_ptr();
            strip.c_stride = width;
            // SAFETY: as above, with `c` a block of scratch, which `edge` is large enough for.
            unsafe {
                for (i, edge) in edge.chunks_exact_mut(width).take(strip.rows).enumerate() {
                    let c = self.at(from + i, columns.start);
                    edge.as_mut_ptr().copy_from_nonoverlapping(c, columns.len());
                }
                (self.kernel.run)(&strip);
                for (i, edge) in edge.chunks_exact(width).take(strip.rows).enumerate() {
                    let c = self.at(from + i, columns.start);
                    c.copy_from_nonoverlapping(edge.as_ptr(), columns.len());
                }
            }
            strip.a = strip.a.wrapping_add(EDGE_ROWS * a.stride);
        }
    }

    fn at(&self, row: usize, column: usize) -> *mut f32 {
        self.c.wrapping_add(row * self.ldc + column)
    }
}
