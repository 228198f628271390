//! Rounding to bf16: to nearest, halves to even, NaN kept and made quiet.
//!
//! It is integer arithmetic, the same on every instruction set. Denormals are rounded like other numbers; the
//! bf16 instructions read them as zero, plain arithmetic does not.

use crate::cpu::Cpu;
use crate::cpu::simd::{Simd, dispatch};

/// Elements that are worth a task of their own.
const GRAIN: usize = 1 << 16;

/// The bits of `x` rounded to bf16, in the upper half; the lower half is 0.
#[inline(always)]
pub(super) fn rounded_bits(x: f32) -> u32 {
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

/// The bf16 number nearest to `x`.
#[inline(always)]
pub(crate) fn round_bf16(x: f32) -> f32 {
    f32::from_bits(rounded_bits(x))
}

/// Writes `x` rounded to bf16 to `y`, of the same length.
pub(crate) fn round_bf16_slice(cpu: &Cpu, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "round_bf16_slice: lengths");
    let parts = crate::pool::Parts::new(y);
    cpu.pool.ranges(x.len(), GRAIN, &|range| {
        // SAFETY: ranges do not overlap.
        round(cpu.level, &x[range.clone()], unsafe { parts.get(range) })
    });
}

/// Writes the bits of `x` rounded to bf16 to `y`, of the same length.
pub(crate) fn to_bf16_slice(cpu: &Cpu, x: &[f32], y: &mut [u16]) {
    assert_eq!(x.len(), y.len(), "to_bf16_slice: lengths");
    let parts = crate::pool::Parts::new(y);
    cpu.pool.ranges(x.len(), GRAIN, &|range| {
        // SAFETY: ranges do not overlap.
        narrow(cpu.level, &x[range.clone()], unsafe { parts.get(range) })
    });
}

dispatch! { fn round(x: &[f32], y: &mut [f32]) = round_kernel; }
dispatch! { fn narrow(x: &[f32], y: &mut [u16]) = narrow_kernel; }

#[inline(always)]
unsafe fn round_kernel<S: Simd>(x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = round_bf16(x);
    }
}

#[inline(always)]
pub(super) unsafe fn narrow_kernel<S: Simd>(x: &[f32], y: &mut [u16]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = to_bf16_bits(x);
    }
}
