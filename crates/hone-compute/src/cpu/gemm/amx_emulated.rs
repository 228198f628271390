//! `tdpbf16ps` to the bit, in AVX-512.
//!
//! The instruction sums, for each output, the 16 products of even elements of a tile and the 16 of odd ones, each as
//! a chain of fused multiply-adds from 0; adds the two sums; and adds that to the accumulator. Every operation rounds
//! to nearest even and takes and leaves denormals as zeros (Intel, Software Developer's Manual, volume 2). Here MXCSR
//! makes the processor treat denormals in this way while a strip is computed.

use super::amx::STEP;
use super::fma::strip_by_rows;
use super::{PANEL, Strip};
use crate::cpu::simd::{Avx512, Simd};
use std::arch::asm;
use std::arch::x86_64::*;

/// All exceptions masked, rounding to nearest, denormals zero both ways.
const TILE_MXCSR: u32 = 0x1f80 | 0x8000 | 0x0040;
/// Columns computed at once: two vectors.
const WIDTH: usize = 32;

/// # Safety
/// The processor has AVX-512, and the strip's pointers are good for its sizes, with panels of 64 columns and a depth
/// that is a multiple of [`STEP`].
pub(super) unsafe fn strip(strip: &Strip) {
    let mut before = 0_u32;
    // SAFETY: the kernel is a call that the compiler cannot see into or move: all its arithmetic is on numbers that it
    // loads and stores between these two instructions, and MXCSR is restored before anything else runs.
    unsafe {
        asm!("stmxcsr [{0}]", "ldmxcsr [{1}]", in(reg) &raw mut before, in(reg) &TILE_MXCSR, options(nostack));
        flushing_strip(strip);
        asm!("ldmxcsr [{0}]", in(reg) &raw const before, options(nostack));
    }
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn flushing_strip(strip: &Strip) {
    unsafe { strip_by_rows!(strip, block::<Avx512, 2>, [1, 2, 3, 4, 5, 6]) }
}

#[inline(always)]
unsafe fn block<S: Simd, const R: usize, const V: usize>(
    strip: &Strip,
    a: *const u32,
    c: *mut f32,
    _: (*const u32, usize),
) {
    unsafe {
        for column in (0..strip.columns).step_by(WIDTH) {
            let c = c.add(column);
            let b = strip.b.add(column);
            if !strip.load {
                for r in 0..R {
                    for v in 0..V {
                        _mm512_storeu_ps(c.add(r * strip.c_stride + v * S::LANES), _mm512_setzero_ps());
                    }
                }
            }
            for k in (0..strip.depth).step_by(STEP) {
                tile::<S, R, V>(strip, a.add(k), b.add(k * PANEL), c);
            }
        }
    }
}

/// Adds the 32 products of a tile to each output.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const V: usize>(strip: &Strip, a: *const u32, b: *const u32, c: *mut f32) {
    unsafe {
        let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        let mut even = [[_mm512_setzero_ps(); V]; R];
        let mut odd = even;
        for k in 0..STEP {
            let mut right_even = [_mm512_setzero_ps(); V];
            let mut right_odd = right_even;
            for v in 0..V {
                let right = _mm512_loadu_si512(b.add(k * PANEL + v * S::LANES).cast());
                right_even[v] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(right));
                right_odd[v] = _mm512_castsi512_ps(_mm512_and_si512(right, upper));
            }
            for r in 0..R {
                let left = _mm512_set1_epi32(*a.add(r * strip.a_stride + k) as i32);
                let left_even = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(left));
                let left_odd = _mm512_castsi512_ps(_mm512_and_si512(left, upper));
                for v in 0..V {
                    even[r][v] = _mm512_fmadd_ps(left_even, right_even[v], even[r][v]);
                    odd[r][v] = _mm512_fmadd_ps(left_odd, right_odd[v], odd[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                let c = c.add(r * strip.c_stride + v * S::LANES);
                let sum = _mm512_add_ps(even[r][v], odd[r][v]);
                _mm512_storeu_ps(c, _mm512_add_ps(_mm512_loadu_ps(c), sum));
            }
        }
    }
}
