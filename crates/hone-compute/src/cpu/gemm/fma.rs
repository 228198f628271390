//! The f32 kernel: one multiply-add an element, `k` ascending.
//!
//! # Soundness
//! A block reads and writes what a strip's pointers are good for by its caller's promise: `R` rows of `a` and of `c`, `V`
//! vectors of columns, and `depth` rows of a panel of `b`. Arithmetic is sound as said in [`simd`](crate::cpu::simd).

use super::{PANEL, Strip};
use crate::cpu::simd::{Portable, Simd};

/// Computes a strip `V` vectors wide, some rows at a time; a step along `k` fetches `N` lines ahead.
macro_rules! strip_by_rows {
    ($strip:expr, $kernel:ident::<$s:ty, $v:literal, $n:literal>, [$($r:literal),*]) => {{
        let strip: &Strip = $strip;
        const MOST: usize = { let rows = [$($r),*]; rows[rows.len() - 1] };
        let mut row = 0;
        while row < strip.rows {
            let left = strip.rows - row;
            let a = strip.a.add(row * strip.a_stride);
            let c = strip.c.add(row * strip.c_stride);
            let ahead = strip.ahead(row, MOST, $n);
            row += match super::next_rows(left, MOST) {
                $($r => { $kernel::<$s, $r, $v, $n>(strip, a, c, ahead); $r })*
                _ => unreachable!("at most {MOST} rows"),
            };
        }
    }};
}

/// Computes a strip of panels of 64 columns: whole panels, or for few rows their halves one after the other, in which
/// blocks have twice as many rows, so that the passes over a panel fetch all of the next one.
macro_rules! strip_of_wide_panel {
    ($strip:expr, $kernel:ident, $s:ty) => {{
        let strip: &Strip = $strip;
        match (strip.columns == PANEL, strip.rows) {
            (true, 7..=12) => {
                for half in strip.halves() {
                    strip_by_rows!(&half, $kernel::<$s, 2, 2>, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
                }
            }
            (true, 13..=24) => {
                for half in strip.halves() {
                    strip_by_rows!(&half, $kernel::<$s, 2, 1>, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
                }
            }
            (true, _) => strip_by_rows!(strip, $kernel::<$s, 4, 1>, [1, 2, 3, 4, 5, 6]),
            (false, _) => strip_by_rows!(strip, $kernel::<$s, 2, 1>, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        }
    }};
}

pub(super) use {strip_by_rows, strip_of_wide_panel};

/// # Safety
/// The processor has AVX-512, and the strip's pointers are good for its sizes, with panels of 64 columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn avx512(strip: &Strip) {
    use crate::cpu::simd::Avx512;
    unsafe { strip_of_wide_panel!(strip, block, Avx512) }
}

/// # Safety
/// The processor has AVX2 and FMA, and the strip's pointers are good for its sizes, with panels of 16 columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2(strip: &Strip) {
    use crate::cpu::simd::Avx2;
    unsafe { strip_by_rows!(strip, block::<Avx2, 2, 1>, [1, 2, 3, 4, 5, 6]) }
}

/// # Safety
/// The strip's pointers are good for its sizes, with panels of 16 columns.
pub(super) unsafe fn portable(strip: &Strip) {
    unsafe { strip_by_rows!(strip, block::<Portable, 2, 1>, [1, 2]) }
}

/// What a block's sums begin with: `c`, if the strip adds to it, else zeros.
///
/// # Safety
/// The processor has `S`, and `c` is good for `R` rows of the strip's stride with `V` vectors each.
#[inline(always)]
pub(super) unsafe fn first_sums<S: Simd, const R: usize, const V: usize>(
    strip: &Strip,
    c: *const f32,
) -> [[S::V; V]; R] {
    unsafe {
        let mut sums = [[S::splat(0.0); V]; R];
        if strip.load {
            for r in 0..R {
                for v in 0..V {
                    sums[r][v] = S::load(c.add(r * strip.c_stride + v * S::LANES));
                }
            }
        }
        sums
    }
}

/// Writes a block's sums to `c`.
///
/// # Safety
/// As for [`first_sums`].
#[inline(always)]
pub(super) unsafe fn store_sums<S: Simd, const R: usize, const V: usize>(
    strip: &Strip,
    c: *mut f32,
    sums: &[[S::V; V]; R],
) {
    unsafe {
        for r in 0..R {
            for v in 0..V {
                S::store(c.add(r * strip.c_stride + v * S::LANES), sums[r][v]);
            }
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
        let mut sums = first_sums::<S, R, V>(strip, c);
        let mut b = strip.b.cast::<f32>();
        let a = a.cast::<f32>();
        // Half a panel of the widest vectors has the stride of a whole one.
        let panel = if S::LANES == 16 { PANEL } else { V * S::LANES };
        for k in 0..strip.depth {
            for i in 0..N {
                super::fetch(line.wrapping_add(i * super::LINE));
            }
            line = line.wrapping_add(line_step);
            let mut right = [S::splat(0.0); V];
            for v in 0..V {
                right[v] = S::load(b.add(v * S::LANES));
            }
            for r in 0..R {
                let left = S::splat(*a.add(r * strip.a_stride + k));
                for v in 0..V {
                    sums[r][v] = S::fma(left, right[v], sums[r][v]);
                }
            }
            b = b.add(panel);
        }
        store_sums::<S, R, V>(strip, c, &sums);
    }
}
