//! The bf16 kernel of AVX-512: one `vdpbf16ps` a pair of elements, `k` ascending.
//!
//! The instruction adds the product of the odd elements and then that of the even ones, each as a fused multiply-add
//! that rounds to nearest even and takes and leaves denormals as zeros, whatever MXCSR says.
//!
//! # Soundness
//! As in [`fma`](super::fma); the caller has seen to it that the processor has AVX512-BF16, too.

use super::fma::{self, strip_by_rows, strip_of_wide_panel};
use super::{PANEL, Strip};
use crate::cpu::simd::{Avx512, Simd};
use std::arch::x86_64::*;

/// # Safety
/// The processor has AVX512-BF16, and the strip's pointers are good for its sizes, with panels of 64 columns.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16")]
pub(super) unsafe fn strip(strip: &Strip) {
    unsafe { strip_of_wide_panel!(strip, block, Avx512) }
}

#[inline(always)]
unsafe fn block<S: Simd<V = __m512>, const R: usize, const V: usize, const N: usize>(
    strip: &Strip,
    a: *const u32,
    c: *mut f32,
    (mut line, line_step): (*const u32, usize),
) {
    unsafe {
        let mut sums = fma::first_sums::<S, R, V>(strip, c);
        let mut b = strip.b;
        for k in 0..strip.depth {
            for i in 0..N {
                super::fetch(line.wrapping_add(i * super::LINE));
            }
            line = line.wrapping_add(line_step);
            let mut right = [_mm512_setzero_si512(); V];
            for v in 0..V {
                right[v] = _mm512_loadu_si512(b.add(v * S::LANES).cast());
            }
            for r in 0..R {
                let left = _mm512_set1_epi32(*a.add(r * strip.a_stride + k) as i32);
                for v in 0..V {
                    sums[r][v] = _mm512_dpbf16_ps(sums[r][v], pairs(left), pairs(right[v]));
                }
            }
            b = b.add(PANEL);
        }
        fma::store_sums::<S, R, V>(strip, c, &sums);
    }
}

#[inline(always)]
unsafe fn pairs(x: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(x) }
}
