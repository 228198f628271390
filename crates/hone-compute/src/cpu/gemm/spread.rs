//! The bf16 kernel of processors without bf16 arithmetic, or on which it is slow: a pair of the right operand is spread to
//! two f32, each of which is one multiply-add, the even element first. The left operand is in f32, rounded to bf16.
//!
//! So weights take as little memory as where there is bf16 arithmetic, and the chain is that of f32: see [`fma`]. Few rows
//! take pairs as they come; for many, a part of a panel is spread once and then multiplied as f32.
//!
//! # Soundness
//! As in [`fma`], with twice `depth` columns of `a`.

use std::mem::MaybeUninit;

use super::fma::{self, strip_by_rows};
use super::{PANEL, Strip};
use crate::cpu::simd::{Portable, Simd};

/// Rows up to which pairs are spread in registers.
const FEW: usize = 24;
/// Cells along `k` that are spread at once: what the kernels of f32 take of a panel at once.
const DEPTH: usize = super::BLOCK_DEPTH / 2;

/// # Safety
/// The processor has AVX-512, and the strip's pointers are good for its sizes, with panels of 64 columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn avx512(strip: &Strip) {
    use crate::cpu::simd::Avx512;
    unsafe {
        match (strip.columns == PANEL, strip.rows) {
            (true, ..=6) => strip_by_rows!(strip, block::<Avx512, 4, 1>, [1, 2, 3, 4, 5, 6]),
            (true, 7..=8) => {
                for half in strip.halves() {
                    strip_by_rows!(&half, block::<Avx512, 2, 2>, [1, 2, 3, 4, 5, 6, 7, 8]);
                }
            }
            (true, ..=FEW) => {
                for half in strip.halves() {
                    strip_by_rows!(&half, block::<Avx512, 2, 1>, [1, 2, 3, 4, 5, 6, 7, 8]);
                }
            }
            (false, ..=FEW) => strip_by_rows!(strip, block::<Avx512, 2, 1>, [1, 2, 3, 4, 5, 6, 7, 8]),
            _ => spread_first::<Avx512, PANEL>(strip, fma::avx512),
        }
    }
}

/// # Safety
/// The processor has AVX2 and FMA, and the strip's pointers are good for its sizes, with panels of 16 columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2(strip: &Strip) {
    use crate::cpu::simd::Avx2;
    unsafe {
        match strip.rows {
            ..=FEW => strip_by_rows!(strip, block::<Avx2, 2, 1>, [1, 2, 3, 4]),
            _ => spread_first::<Avx2, 16>(strip, fma::avx2),
        }
    }
}

/// # Safety
/// The strip's pointers are good for its sizes, with panels of 16 columns.
pub(super) unsafe fn portable(strip: &Strip) {
    unsafe { strip_by_rows!(strip, block::<Portable, 2, 1>, [1, 2]) }
}

/// Vectors that cells are spread to.
#[repr(align(64))]
struct Spread([MaybeUninit<f32>; 2 * DEPTH * PANEL]);

/// Spreads the strip's part of the panel, of `WIDTH` columns, and multiplies with it by `run`, the kernel of f32 for such
/// panels; [`DEPTH`] cells at a time.
#[inline(always)]
unsafe fn spread_first<S: Simd, const WIDTH: usize>(strip: &Strip, run: unsafe fn(&Strip)) {
    let mut spread = Spread([const { MaybeUninit::uninit() }; 2 * DEPTH * PANEL]);
    let to = spread.0.as_mut_ptr().cast::<f32>();
    for from in (0..strip.depth).step_by(DEPTH) {
        let depth = DEPTH.min(strip.depth - from);
        unsafe {
            let cells = strip.b.add(from * WIDTH);
            for k in 0..depth {
                for column in (0..strip.columns).step_by(S::LANES) {
                    let cells = cells.add(k * WIDTH + column);
                    S::store(to.add(2 * k * WIDTH + column), S::load_lower(cells));
                    S::store(to.add((2 * k + 1) * WIDTH + column), S::load_upper(cells));
                }
            }
            run(&Strip {
                a: strip.a.add(2 * from),
                b: to.cast(),
                next: strip.next.wrapping_add(from * WIDTH),
                // The next panel has half as many cells as are multiplied here: half as many passes fetch all of it
                panel: strip.panel / 2,
                depth: 2 * depth,
                load: strip.load || from > 0,
                ..*strip
            });
        }
    }
}

#[inline(always)]
unsafe fn block<S: Simd, const R: usize, const V: usize, const N: usize>(
    strip: &Strip,
    a: *const u32,
    c: *mut f32,
    (mut line, line_step): (*const u32, usize),
) {
    unsafe {
        let mut sums = fma::first_sums::<S, R, V>(strip, c);
        let mut b = strip.b;
        let a = a.cast::<f32>();
        // Half a panel of the widest vectors has the stride of a whole one.
        let panel = if S::LANES == 16 { PANEL } else { V * S::LANES };
        for k in 0..strip.depth {
            for i in 0..N {
                super::fetch(line.wrapping_add(i * super::LINE));
            }
            line = line.wrapping_add(line_step);
            add::<S, R, V, 0>(&mut sums, (a.add(2 * k), strip.a_stride), b);
            add::<S, R, V, 1>(&mut sums, (a.add(2 * k), strip.a_stride), b);
            b = b.add(panel);
        }
        fma::store_sums::<S, R, V>(strip, c, &sums);
    }
}

/// Adds the products of the element `ODD` of each cell in `V` vectors of `b`, with that of each of `R` rows of `a`.
#[inline(always)]
unsafe fn add<S: Simd, const R: usize, const V: usize, const ODD: usize>(
    sums: &mut [[S::V; V]; R],
    (a, a_stride): (*const f32, usize),
    b: *const u32,
) {
    unsafe {
        let mut right = [S::splat(0.0); V];
        for v in 0..V {
            let cells = b.add(v * S::LANES);
            right[v] = if ODD == 1 {
                S::load_upper(cells)
            } else {
                S::load_lower(cells)
            };
        }
        for r in 0..R {
            let left = S::splat(*a.add(r * a_stride + ODD));
            for v in 0..V {
                sums[r][v] = S::fma(left, right[v], sums[r][v]);
            }
        }
    }
}
