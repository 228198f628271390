//! Products of small blocks, a tile of registers at a time: [`scores`] and [`combine`].
//!
//! Each element of an output is one chain in one order, whatever the tile that it falls into.
//!
//! # Soundness
//! Operands carry no length. What lies behind them is scratch or a page, both made of whole blocks of rows that are
//! padded to whole vectors, so the last vector of a row that is partly filled stays inside; the function that makes an
//! operand says how many rows there are. Arithmetic is sound as said in [`simd`](crate::cpu::simd).

use super::arithmetic::{Arithmetic, Vector};
use crate::cpu::simd::Simd;

/// Rows that a tile takes at most: with 4 vectors to a row (2 where there are 16 registers), all registers.
pub(super) const ROWS: usize = 6;

/// Rows whose tiles take a step before the next one begins, so that one tile's latencies hide behind another's work.
pub(super) const BAND: usize = 4 * ROWS;

/// Calls a kernel for all of some rows, a tile at a time: the tile's rows are its last type parameter, and the first of them
/// its last argument.
macro_rules! by_tiles {
    ($rows:expr, $kernel:ident::<$arithmetic:ty>($($argument:expr),*)) => {{
        let rows: std::ops::Range<usize> = $rows;
        let mut row = rows.start;
        while row < rows.end {
            row += match rows.end - row {
                // Seven, a common group of heads, are no six and one.
                6 | 8.. if <$arithmetic>::ROWS == ROWS => {
                    $kernel::<$arithmetic, ROWS>($($argument,)* row);
                    ROWS
                }
                4.. => {
                    $kernel::<$arithmetic, 4>($($argument,)* row);
                    4
                }
                3 => {
                    $kernel::<$arithmetic, 3>($($argument,)* row);
                    3
                }
                2 => {
                    $kernel::<$arithmetic, 2>($($argument,)* row);
                    2
                }
                _ => {
                    $kernel::<$arithmetic, 1>($($argument,)* row);
                    1
                }
            };
        }
    }};
}
pub(super) use by_tiles;

/// A left operand: row `r`, cell `j` is at `r * row + j * place`, its odd element (where a cell has two numbers) `odd` further on.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub start: *const u32,
    pub row: usize,
    pub place: usize,
    pub odd: usize,
}

impl Left {
    /// Rows `row` numbers apart whose chain runs along them.
    pub fn along<A: Arithmetic>(start: *const u32, row: usize) -> Self {
        Self {
            start,
            row,
            place: A::PARTS,
            odd: 1,
        }
    }
}

/// A right operand: rows of cells `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Right {
    pub start: *const u32,
    pub stride: usize,
}

/// A matrix that is written: rows `stride` numbers apart.
#[derive(Clone, Copy)]
pub(super) struct RowsMut {
    pub start: *mut f32,
    pub stride: usize,
}

/// Which elements of the chain each of `R` rows takes.
#[derive(Clone, Copy)]
pub(super) struct Chain<const R: usize> {
    /// The first, a multiple of a cell's elements.
    pub from: usize,
    /// The end for each row, not decreasing.
    pub to: [usize; R],
}

/// Where a chain starts.
#[derive(Clone, Copy)]
pub(super) enum Start<const R: usize> {
    /// At 0.
    Zero,
    /// From what the output holds.
    Kept,
    /// From that times a factor for each row.
    Scaled([f32; R]),
}

/// `out[r][j] = sum over d of a[r][d] * b[d][j]`, `d` in order, for `R` rows and `vectors * LANES` columns.
///
/// # Safety
/// `a` holds `R` rows of `cells`, `b` `cells` rows of the columns and `out` `R` rows of them; the machine has what `A`
/// needs.
#[inline(always)]
pub(super) unsafe fn scores<A: Arithmetic, const R: usize>(
    a: Left,
    b: Right,
    cells: usize,
    vectors: usize,
    out: RowsMut,
) {
    let mut column = 0;
    while column < vectors {
        let at = column * A::S::LANES;
        // SAFETY: the columns of a tile lie within `vectors`.
        unsafe {
            let b = Right {
                start: b.start.add(at),
                ..b
            };
            let out = RowsMut {
                start: out.start.add(at),
                ..out
            };
            column += match vectors - column {
                4.. if A::S::LANES == 16 => scores_tile::<A, R, 4>(a, b, cells, out),
                2.. => scores_tile::<A, R, 2>(a, b, cells, out),
                _ => scores_tile::<A, R, 1>(a, b, cells, out),
            };
        }
    }
}

#[inline(always)]
unsafe fn scores_tile<A: Arithmetic, const R: usize, const C: usize>(
    a: Left,
    b: Right,
    cells: usize,
    out: RowsMut,
) -> usize {
    unsafe {
        let mut sums = [[A::S::splat(0.0); C]; R];
        for d in 0..cells {
            add::<A, R, C>((a, d), b, &mut sums);
        }
        store::<A, R, C>(&sums, out);
    }
    C
}

/// `out[r] += sum over j of w[r][j] * v[j]`, `j` in order along `chain`.
///
/// # Safety
/// `w` and `v` have all cells of the chain, `v` with `vectors * LANES` columns, as have the `R` rows of `out`; the machine
/// has what `A` needs.
#[inline(always)]
pub(super) unsafe fn combine<A: Arithmetic, const R: usize>(
    (w, v): (Left, Right),
    chain: Chain<R>,
    vectors: usize,
    out: RowsMut,
    start: Start<R>,
) {
    let mut column = 0;
    while column < vectors {
        let at = column * A::S::LANES;
        // SAFETY: the columns of a tile lie within `vectors`.
        unsafe {
            let v = Right {
                start: v.start.add(at),
                ..v
            };
            let out = RowsMut {
                start: out.start.add(at),
                ..out
            };
            column += match vectors - column {
                4.. if A::S::LANES == 16 => combine_tile::<A, R, 4>((w, v), chain, out, start),
                2.. => combine_tile::<A, R, 2>((w, v), chain, out, start),
                _ => combine_tile::<A, R, 1>((w, v), chain, out, start),
            };
        }
    }
}

#[inline(always)]
unsafe fn combine_tile<A: Arithmetic, const R: usize, const C: usize>(
    (w, v): (Left, Right),
    chain: Chain<R>,
    out: RowsMut,
    start: Start<R>,
) -> usize {
    unsafe {
        let mut sums = [[A::S::splat(0.0); C]; R];
        if !matches!(start, Start::Zero) {
            for r in 0..R {
                for c in 0..C {
                    sums[r][c] = A::S::load(out.start.add(r * out.stride + c * A::S::LANES));
                }
            }
        }
        if let Start::Scaled(factors) = start {
            for r in 0..R {
                let factor = A::S::splat(factors[r]);
                for c in 0..C {
                    sums[r][c] = A::S::mul(sums[r][c], factor);
                }
            }
        }
        let (first, whole) = (chain.from / A::SPAN, chain.to[0] / A::SPAN);
        for j in first..whole {
            add::<A, R, C>((w, j), v, &mut sums);
        }
        // The last few elements, which not all rows take.
        for j in whole.max(first)..chain.to[R - 1].div_ceil(A::SPAN) {
            for part in 0..A::PARTS {
                let right = vectors_at::<A, C>(v.start.add(j * v.stride), part);
                let left = w.start.add(j * w.place + part * w.odd);
                for r in 0..R {
                    let left = left.add(r * w.row);
                    let elements = chain.to[r].saturating_sub(j * A::SPAN);
                    if elements >= A::SPAN {
                        for c in 0..C {
                            sums[r][c] = A::add(left, right[c], sums[r][c]);
                        }
                    } else if elements > 0 && part == 0 {
                        for c in 0..C {
                            sums[r][c] = A::add(left, A::even(right[c]), sums[r][c]);
                        }
                    }
                }
            }
        }
        store::<A, R, C>(&sums, out);
    }
    C
}

/// Adds the products of a cell of `w` with a row of `v`.
#[inline(always)]
unsafe fn add<A: Arithmetic, const R: usize, const C: usize>(
    (w, cell): (Left, usize),
    v: Right,
    sums: &mut [[Vector<A>; C]; R],
) {
    unsafe {
        let (left, right) = (w.start.add(cell * w.place), v.start.add(cell * v.stride));
        add_part::<A, R, C>((left, w.row), vectors_at::<A, C>(right, 0), sums);
        if A::PARTS == 2 {
            add_part::<A, R, C>((left.add(w.odd), w.row), vectors_at::<A, C>(right, 1), sums);
        }
    }
}

#[inline(always)]
unsafe fn add_part<A: Arithmetic, const R: usize, const C: usize>(
    (left, row): (*const u32, usize),
    right: [A::Right; C],
    sums: &mut [[Vector<A>; C]; R],
) {
    for r in 0..R {
        for c in 0..C {
            sums[r][c] = unsafe { A::add(left.add(r * row), right[c], sums[r][c]) };
        }
    }
}

/// A part of `C` vectors of cells from `p` on.
#[inline(always)]
unsafe fn vectors_at<A: Arithmetic, const C: usize>(p: *const u32, part: usize) -> [A::Right; C] {
    unsafe {
        let mut right = [A::right(p, part); C];
        for c in 1..C {
            right[c] = A::right(p.add(c * A::S::LANES), part);
        }
        right
    }
}

#[inline(always)]
unsafe fn store<A: Arithmetic, const R: usize, const C: usize>(sums: &[[Vector<A>; C]; R], out: RowsMut) {
    for r in 0..R {
        for c in 0..C {
            unsafe { A::S::store(out.start.add(r * out.stride + c * A::S::LANES), sums[r][c]) };
        }
    }
}
