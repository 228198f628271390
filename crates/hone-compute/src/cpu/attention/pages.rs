//! The key-value cache of one sequence in one layer, in pages of [`BLOCK`] positions.
//!
//! A page is made of 32-bit cells, as right operands are: one f32, or two bf16. Inside it, keys are transposed,
//! `[kv_head][cells of head_dim][BLOCK]`, a cell being neighbours along the head, so that lanes are keys when scores are
//! computed; values are `[kv_head][cells of BLOCK][padded]`, a cell being neighbouring positions, with `padded` the head's
//! size rounded up to a whole vector. Places that hold no position, and the padding, are 0. A page is shared by the clones
//! of a cache until one of them writes to it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::BLOCK;
use super::fill::{clear, fill};
use crate::cpu::Cpu;
use crate::cpu::gemm::{Form, fetch, fetch_near};
use crate::cpu::memory::{Memory, Regions};
use crate::isa::{Level, Precision};
use crate::pool::Parts;
use crate::rehearsal::Held;

/// Cells of a cache line.
const LINE: usize = 16;

/// A cache line, so that no vector straddles two.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([u32; LINE]);

impl Line {
    pub(super) const ZERO: Self = Self([0; LINE]);
}

/// Memory of pages: near each other, and used again.
#[derive(Default)]
pub(crate) struct PageStore {
    regions: Regions,
    free: Mutex<Vec<Memory<u32>>>,
}

impl PageStore {
    /// Memory for `cells`, of any numbers.
    fn take(&self, cells: usize) -> Memory<u32> {
        let found = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let place = free.iter().rposition(|idle| idle.capacity() == cells);
            place.map(|place| free.swap_remove(place))
        };
        found.unwrap_or_else(|| {
            let mut cells = Memory::within(&self.regions, cells);
            cells.write_up_to(cells.capacity());
            cells
        })
    }

    /// Bytes that wait for use.
    pub fn idle_bytes(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.iter().map(|idle| idle.capacity() * size_of::<u32>()).sum()
    }

    /// Gives idle memory back to the system.
    pub fn clear(&self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Cells that start on a cache line.
struct Page {
    cells: Memory<u32>,
    /// Where the memory goes when it is dropped.
    home: Arc<PageStore>,
    /// In a rehearsal, which has no numbers: what they would take.
    _counted: Option<Held>,
}

impl Page {
    fn cells(&self) -> &[u32] {
        self.cells.numbers()
    }

    fn cells_mut(&mut self) -> &mut [u32] {
        self.cells.numbers_mut()
    }
}

impl Clone for Page {
    fn clone(&self) -> Self {
        let mut cells = Memory::new();
        if self.cells.capacity() > 0 {
            cells = self.home.take(self.cells.capacity());
            cells.numbers_mut().copy_from_slice(self.cells.numbers());
        }
        Self {
            cells,
            home: Arc::clone(&self.home),
            _counted: self._counted.clone(),
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let cells = std::mem::take(&mut self.cells);
        if cells.capacity() > 0 {
            self.home
                .free
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(cells);
        }
    }
}

/// How the numbers of a page are arranged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub precision: Precision,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Layout {
    /// What a cell holds.
    pub fn form(self) -> Form {
        match self.precision {
            Precision::Bf16 => Form::Pairs,
            Precision::F32 => Form::Full,
        }
    }

    /// A row of values, rounded up to a whole vector.
    pub fn padded(self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    /// Cells of the keys of one head.
    pub fn keys(self) -> usize {
        BLOCK * self.form().cells(self.head_dim)
    }

    /// Cells of the keys and of the values of one head.
    pub fn head(self) -> usize {
        self.keys() + self.form().cells(BLOCK) * self.padded()
    }

    /// Cells of a page.
    fn cells(self) -> usize {
        (self.kv_heads * self.head()).next_multiple_of(LINE)
    }

    fn bytes(self) -> usize {
        self.cells() * size_of::<u32>()
    }
}

/// Keys (after position encoding) and values of one sequence in one layer, rounded to the cache's type.
///
/// A clone shares the pages; one of the two gets its own copy of a page when it writes to it.
#[derive(Clone)]
pub(crate) struct KvPages {
    layout: Layout,
    length: usize,
    pages: Vec<Arc<Page>>,
}

/// Numbers of a page's rows below which a page is not worth a task of its own.
const SMALL: usize = 4096;

/// Rows that go to one page.
struct Fill<'a> {
    layout: Layout,
    page: &'a mut Page,
    /// Whether the page holds what was there before, not zeros.
    new: bool,
    first: usize,
    rows: Range<usize>,
}

impl KvPages {
    /// An empty cache. Both sizes must be at least 1.
    pub fn new(precision: Precision, kv_heads: usize, head_dim: usize) -> Self {
        assert!(kv_heads > 0 && head_dim > 0, "a cache of empty rows");
        Self {
            layout: Layout {
                precision,
                kv_heads,
                head_dim,
            },
            length: 0,
            pages: Vec::new(),
        }
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Bytes of the pages, those shared with clones counted in full.
    pub fn bytes(&self) -> usize {
        self.pages.len() * self.layout.bytes()
    }

    /// Adds `rows` positions; `k` and `v` are `[rows, kv_heads * head_dim]` and are rounded here.
    #[cfg(test)]
    pub fn append(&mut self, k: &[f32], v: &[f32], rows: usize) {
        let width = self.width();
        assert!(
            k.len() == rows * width && v.len() == rows * width,
            "append of {rows} rows of {width}: {} keys, {} values",
            k.len(),
            v.len()
        );
        let mut fills = Vec::new();
        self.extend(0..rows, &Arc::default(), &mut fills);
        for mut fill in fills {
            fill.run(Level::Portable, k, v);
        }
    }

    /// Adds `rows` positions without their numbers, for a rehearsal: `count` takes the memory of so many bytes.
    pub fn rehearse(&mut self, rows: usize, count: impl Fn(usize) -> Held) {
        let start = self.length;
        self.length += rows;
        while self.pages.len() * BLOCK < self.length {
            let page = Page {
                cells: Memory::new(),
                home: Arc::default(),
                _counted: Some(count(self.layout.bytes())),
            };
            self.pages.push(Arc::new(page));
        }
        if rows > 0 {
            for page in self.pages.iter_mut().skip(start / BLOCK) {
                Arc::make_mut(page);
            }
        }
    }

    /// Keeps the first `length` positions; the places of the others become 0.
    pub fn truncate(&mut self, length: usize) {
        if length >= self.length {
            return;
        }
        self.length = length;
        self.pages.truncate(length.div_ceil(BLOCK));
        if let (Some(page), first @ 1..) = (self.pages.last_mut(), length % BLOCK) {
            clear(self.layout, Arc::make_mut(page).cells_mut(), first);
        }
    }

    pub(super) fn precision(&self) -> Precision {
        self.layout.precision
    }

    pub(super) fn kv_heads(&self) -> usize {
        self.layout.kv_heads
    }

    pub(super) fn head_dim(&self) -> usize {
        self.layout.head_dim
    }

    /// Cells of the keys, `[cells of head_dim][BLOCK]`, and of the values, `[cells of BLOCK][padded]`, of a head in block
    /// `block`.
    pub(super) fn block(&self, block: usize, kv_head: usize) -> (&[u32], &[u32]) {
        let head = self.layout.head();
        self.pages[block].cells()[kv_head * head..][..head].split_at(self.layout.keys())
    }

    /// Asks for the keys of a head in block `block` to be brought nearer.
    #[inline(always)]
    pub(super) fn fetch_keys(&self, block: usize, kv_head: usize) {
        let filled = (self.length - block * BLOCK).min(BLOCK);
        let keys = self.block(block, kv_head).0;
        // Columns of places that are filled; the first lines of all rows come before the second ones
        for line in 0..filled.div_ceil(LINE) {
            keys[line * LINE..]
                .iter()
                .step_by(BLOCK)
                .for_each(|cell| fetch_near(cell));
        }
    }

    /// The same for values.
    #[inline(always)]
    pub(super) fn fetch_values(&self, block: usize, kv_head: usize) {
        let filled = (self.length - block * BLOCK).min(BLOCK);
        let values = self.block(block, kv_head).1;
        let cells = self.layout.form().cells(filled) * self.layout.padded();
        values[..cells].iter().step_by(LINE).for_each(|cell| fetch_near(cell));
    }

    fn width(&self) -> usize {
        self.layout.kv_heads * self.layout.head_dim
    }

    /// Makes room for the rows `rows` of some array and says where each goes.
    fn extend<'a>(&'a mut self, rows: Range<usize>, store: &Arc<PageStore>, fills: &mut Vec<Fill<'a>>) {
        let start = self.length;
        self.length += rows.len();
        let before = self.pages.len();
        while self.pages.len() * BLOCK < self.length {
            let page = Page {
                cells: store.take(self.layout.cells()),
                home: Arc::clone(store),
                _counted: None,
            };
            self.pages.push(Arc::new(page));
        }
        let mut position = start;
        let mut row = rows.start;
        for (i, page) in self.pages.iter_mut().enumerate().skip(start / BLOCK) {
            let first = position % BLOCK;
            let count = (BLOCK - first).min(rows.end - row);
            if count == 0 {
                break;
            }
            fills.push(Fill {
                layout: self.layout,
                page: Arc::make_mut(page),
                new: i >= before,
                first,
                rows: row..row + count,
            });
            position += count;
            row += count;
        }
    }
}

impl Fill<'_> {
    /// Asks for the cells of a single row to be brought nearer.
    fn fetch(&self) {
        if self.rows.len() != 1 || self.new {
            return;
        }
        let (layout, place) = (self.layout, self.first);
        let row = place / (BLOCK / layout.form().cells(BLOCK)) * layout.padded();
        for head in self.page.cells().chunks_exact(layout.head()).take(layout.kv_heads) {
            let (keys, values) = head.split_at(layout.keys());
            keys[place..].iter().step_by(BLOCK).for_each(|cell| fetch(cell));
            values[row..][..layout.head_dim]
                .chunks(LINE)
                .for_each(|line| fetch(line.as_ptr()));
        }
    }

    fn run(&mut self, level: Level, k: &[f32], v: &[f32]) {
        let width = self.layout.kv_heads * self.layout.head_dim;
        let part = self.rows.start * width..self.rows.end * width;
        let page = self.page.cells_mut();
        // A page whose places are all written needs no zeros, if there is no padding
        let whole = self.rows.len() == BLOCK && self.layout.padded() == self.layout.head_dim;
        if self.new && !whole {
            page.fill(0);
        }
        fill(level, self.layout, page, self.first, &k[part.clone()], &v[part]);
    }
}

/// Appends to many caches at once: `rows[i]` of `k` and `v`, `[n, kv_heads * head_dim]`, go to `pages[i]`.
pub(crate) fn append_all(cpu: &Cpu, pages: &mut [&mut KvPages], k: &[f32], v: &[f32], rows: &[Range<usize>]) {
    assert_eq!(pages.len(), rows.len(), "a range of rows for each cache");
    assert_eq!(k.len(), v.len(), "as many values as keys");
    let mut fills = Vec::new();
    for (pages, rows) in pages.iter_mut().zip(rows) {
        assert!(
            rows.start <= rows.end && rows.end * pages.width() <= k.len(),
            "rows {rows:?} of an array of {} with {} to a row",
            k.len(),
            pages.width()
        );
        pages.extend(rows.clone(), &cpu.pages, &mut fills);
    }
    let count = fills.len();
    let parts = Parts::new(&mut fills);
    let grain = if k.len() < count * SMALL {
        count.div_ceil(4 * cpu.pool.threads())
    } else {
        1
    };
    cpu.pool.ranges(count, grain, &|range| {
        // SAFETY: each task has its own elements.
        let mut fills = unsafe { parts.get(range) };
        while let Some((fill, rest)) = fills.split_first_mut() {
            if let Some(next) = rest.first() {
                next.fetch();
            }
            fill.run(cpu.level, k, v);
            fills = rest;
        }
    });
}
