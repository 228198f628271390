//! The key-value cache of one sequence in one layer, in pages of [`BLOCK`] positions.
//!
//! Inside a page, keys are transposed, `[kv_head][head_dim][BLOCK]`, so that lanes are keys when scores are computed;
//! values are `[kv_head][BLOCK][padded]`, with `padded` the head's size rounded up to a whole vector. Places that hold
//! no position, and the padding, are 0. A page is shared by the clones of a cache until one of them writes to it.

use std::ops::Range;
use std::sync::Arc;

use super::Element;
use crate::cpu::Cpu;
use crate::cpu::gemm::to_bf16_bits;
use crate::isa::Precision;
use crate::pool::Parts;
use crate::rehearsal::Held;

/// Positions of a page, and keys of a block of the reduction.
pub(crate) const BLOCK: usize = 64;

/// A cache line, so that no vector straddles two.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([u32; 16]);

impl Line {
    pub(super) const ZERO: Self = Self([0; 16]);
}

/// Numbers of the cache's type that start on a cache line.
#[derive(Clone)]
struct Page {
    lines: Vec<Line>,
    /// In a rehearsal, which has no numbers: what they would take.
    _counted: Option<Held>,
}

impl Page {
    fn numbers<E: Element>(&self) -> &[E] {
        bytemuck::cast_slice(&self.lines)
    }

    fn numbers_mut<E: Element>(&mut self) -> &mut [E] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }
}

/// How the numbers of a page are arranged.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Layout {
    precision: Precision,
    kv_heads: usize,
    head_dim: usize,
}

impl Layout {
    /// A row of values, rounded up to a whole vector.
    fn padded(self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    /// Numbers of the keys and of the values of one head.
    fn head(self) -> usize {
        BLOCK * (self.head_dim + self.padded())
    }

    fn lines(self) -> usize {
        let bytes = match self.precision {
            Precision::Bf16 => 2,
            Precision::F32 => 4,
        };
        (self.kv_heads * self.head() * bytes).div_ceil(size_of::<Line>())
    }

    /// Writes `k` and `v`, `[rows, kv_heads * head_dim]`, at the places from `first` on.
    fn fill(self, page: &mut Page, first: usize, k: &[f32], v: &[f32]) {
        match self.precision {
            Precision::Bf16 => self.fill_as(page.numbers_mut(), first, k, v, to_bf16_bits),
            Precision::F32 => self.fill_as(page.numbers_mut(), first, k, v, |x: f32| x),
        }
    }

    fn fill_as<E: Element>(self, page: &mut [E], first: usize, k: &[f32], v: &[f32], round: impl Fn(f32) -> E) {
        // Positions and dimensions transposed at a time.
        const TILE: usize = 16;
        let (dim, padded) = (self.head_dim, self.padded());
        let width = self.kv_heads * dim;
        let rows = k.len() / width;
        for (head, page) in page.chunks_exact_mut(self.head()).enumerate() {
            let (keys, values) = page.split_at_mut(BLOCK * dim);
            for tile in (0..rows).step_by(TILE) {
                let count = TILE.min(rows - tile);
                for from in (0..dim).step_by(TILE) {
                    let mut part = [[E::zeroed(); TILE]; TILE];
                    let dims = TILE.min(dim - from);
                    for (row, part) in part[..count].iter_mut().enumerate() {
                        let source = &k[(tile + row) * width + head * dim + from..][..dims];
                        for (to, &x) in part.iter_mut().zip(source) {
                            *to = round(x);
                        }
                    }
                    for d in 0..dims {
                        let column = &mut keys[(from + d) * BLOCK + first + tile..][..count];
                        for (key, part) in column.iter_mut().zip(&part) {
                            *key = part[d];
                        }
                    }
                }
            }
            for row in 0..rows {
                let source = &v[row * width + head * dim..][..dim];
                for (value, &x) in values[(first + row) * padded..].iter_mut().zip(source) {
                    *value = round(x);
                }
            }
        }
    }

    /// Makes the places from `first` on empty.
    fn clear(self, page: &mut Page, first: usize) {
        match self.precision {
            Precision::Bf16 => self.clear_as::<u16>(page.numbers_mut(), first),
            Precision::F32 => self.clear_as::<f32>(page.numbers_mut(), first),
        }
    }

    fn clear_as<E: Element>(self, page: &mut [E], first: usize) {
        for page in page.chunks_exact_mut(self.head()) {
            let (keys, values) = page.split_at_mut(BLOCK * self.head_dim);
            for column in keys.chunks_exact_mut(BLOCK) {
                column[first..].fill(E::zeroed());
            }
            values[first * self.padded()..].fill(E::zeroed());
        }
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

/// Rows that go to one page.
struct Fill<'a> {
    layout: Layout,
    page: &'a mut Page,
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
        self.pages.len() * self.layout.lines() * size_of::<Line>()
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
        self.extend(0..rows, &mut fills);
        for mut fill in fills {
            fill.run(k, v);
        }
    }

    /// Adds `rows` positions without their numbers, for a rehearsal: `count` takes the memory of so many bytes.
    pub fn rehearse(&mut self, rows: usize, count: impl Fn(usize) -> Held) {
        let start = self.length;
        self.length += rows;
        while self.pages.len() * BLOCK < self.length {
            let page = Page {
                lines: Vec::new(),
                _counted: Some(count(self.layout.lines() * size_of::<Line>())),
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
            self.layout.clear(Arc::make_mut(page), first);
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

    /// Keys `[head_dim][BLOCK]` and values `[BLOCK][padded]` of a head in block `block`.
    pub(super) fn block<E: Element>(&self, block: usize, kv_head: usize) -> (&[E], &[E]) {
        let head = self.layout.head();
        self.pages[block].numbers()[kv_head * head..][..head].split_at(BLOCK * self.layout.head_dim)
    }

    fn width(&self) -> usize {
        self.layout.kv_heads * self.layout.head_dim
    }

    /// Makes room for the rows `rows` of some array and says where each goes.
    fn extend<'a>(&'a mut self, rows: Range<usize>, fills: &mut Vec<Fill<'a>>) {
        let start = self.length;
        self.length += rows.len();
        while self.pages.len() * BLOCK < self.length {
            let page = Page {
                lines: vec![Line::ZERO; self.layout.lines()],
                _counted: None,
            };
            self.pages.push(Arc::new(page));
        }
        let mut position = start;
        let mut row = rows.start;
        for page in self.pages.iter_mut().skip(start / BLOCK) {
            let first = position % BLOCK;
            let count = (BLOCK - first).min(rows.end - row);
            if count == 0 {
                break;
            }
            fills.push(Fill {
                layout: self.layout,
                page: Arc::make_mut(page),
                first,
                rows: row..row + count,
            });
            position += count;
            row += count;
        }
    }
}

impl Fill<'_> {
    fn run(&mut self, k: &[f32], v: &[f32]) {
        let width = self.layout.kv_heads * self.layout.head_dim;
        let part = self.rows.start * width..self.rows.end * width;
        self.layout.fill(self.page, self.first, &k[part.clone()], &v[part]);
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
        pages.extend(rows.clone(), &mut fills);
    }
    let count = fills.len();
    let parts = Parts::new(&mut fills);
    // SAFETY: each task has its own element.
    cpu.pool.run(count, &|i| unsafe { parts.get(i..i + 1) }[0].run(k, v));
}
