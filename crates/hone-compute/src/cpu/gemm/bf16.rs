//! Rounding to bf16: to nearest, halves to even, NaN kept and made quiet.
//!
//! It is integer arithmetic, the same on every instruction set. Denormals are rounded like other numbers; the
//! bf16 instructions read them as zero, plain arithmetic does not.
//!
//! # Soundness
//! The kernel is safe code, `unsafe` only because it is compiled for a width of vectors.

use crate::cpu::simd::Simd;

/// The bits of `x` rounded to bf16, in the upper half; the lower half is 0.
#[inline(always)]
pub(crate) fn rounded_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let quiet = bits | 0x0040_0000;
    (if x.is_nan() { quiet } else { rounded }) & 0xffff_0000
}

/// The bf16 number nearest to `x`, as its bits.
#[inline(always)]
pub(crate) fn to_bf16_bits(x: f32) -> u16 {
    (rounded_bits(x) >> 16) as u16
}

/// Writes the bits of `x` rounded to bf16 to `y`, of the same length.
#[inline(always)]
pub(super) unsafe fn narrow_kernel<S: Simd>(x: &[f32], y: &mut [u16]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = to_bf16_bits(x);
    }
}
