//! Transposition of square blocks of cells.
//!
//! # Soundness
//! An implementation reads `SIDE` rows of `SIDE` cells from `from` and writes `rows` rows of `SIDE` cells at `to`, good
//! for that by the caller's promise. Its instructions are there as said in [`simd`](crate::cpu::simd).

use crate::cpu::simd::{Portable, Simd};

/// Rows and columns of a block: a cache line each.
pub(crate) const SIDE: usize = 16;

/// A width of vectors that can transpose a block.
///
/// # Safety
/// As for [`Simd`].
pub(crate) trait Transpose: Simd {
    /// Writes the transpose of a block to the first `rows` rows of `to`, at most `SIDE`.
    unsafe fn transpose(from: Rows<*const u32>, to: Rows<*mut u32>, rows: usize);
}

/// Where rows of cells lie.
#[derive(Clone, Copy)]
pub(crate) struct Rows<P> {
    pub first: P,
    /// Cells from one to the next.
    pub stride: usize,
}

impl Transpose for Portable {
    #[inline(always)]
    unsafe fn transpose(from: Rows<*const u32>, to: Rows<*mut u32>, rows: usize) {
        for i in 0..rows {
            for j in 0..SIDE {
                unsafe {
                    *to.first.add(i * to.stride + j) = *from.first.add(j * from.stride + i);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Rows, SIDE, Transpose};
    use crate::cpu::simd::{Avx2, Avx512};
    use std::arch::x86_64::*;

    impl Transpose for Avx512 {
        #[inline(always)]
        unsafe fn transpose(from: Rows<*const u32>, to: Rows<*mut u32>, rows: usize) {
            unsafe {
                let mut a = [_mm512_setzero_si512(); SIDE];
                let mut b = a;
                for i in 0..SIDE {
                    a[i] = _mm512_loadu_si512(from.first.add(i * from.stride).cast());
                }
                // Pairs of rows, then fours: within each quarter of a vector.
                for i in 0..8 {
                    b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
                    b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
                }
                for i in 0..4 {
                    a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
                    a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
                    a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
                    a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
                }
                // Quarters: a[4 i + j] holds columns j, 4 + j, 8 + j, 12 + j of rows 4 i ..
                for j in 0..4 {
                    b[j] = _mm512_shuffle_i32x4::<0x88>(a[j], a[4 + j]);
                    b[4 + j] = _mm512_shuffle_i32x4::<0xdd>(a[j], a[4 + j]);
                    b[8 + j] = _mm512_shuffle_i32x4::<0x88>(a[8 + j], a[12 + j]);
                    b[12 + j] = _mm512_shuffle_i32x4::<0xdd>(a[8 + j], a[12 + j]);
                }
                for j in 0..4 {
                    a[j] = _mm512_shuffle_i32x4::<0x88>(b[j], b[8 + j]);
                    a[8 + j] = _mm512_shuffle_i32x4::<0xdd>(b[j], b[8 + j]);
                    a[4 + j] = _mm512_shuffle_i32x4::<0x88>(b[4 + j], b[12 + j]);
                    a[12 + j] = _mm512_shuffle_i32x4::<0xdd>(b[4 + j], b[12 + j]);
                }
                for i in 0..SIDE {
                    if i < rows {
                        _mm512_storeu_si512(to.first.add(i * to.stride).cast(), a[i]);
                    }
                }
            }
        }
    }

    impl Transpose for Avx2 {
        #[inline(always)]
        unsafe fn transpose(from: Rows<*const u32>, to: Rows<*mut u32>, rows: usize) {
            for i in (0..rows).step_by(8) {
                for j in [0, 8] {
                    unsafe {
                        let quarter = transposed_quarter(from.first.add(j * from.stride + i), from.stride);
                        for (r, row) in quarter.into_iter().enumerate() {
                            if i + r < rows {
                                _mm256_storeu_si256(to.first.add((i + r) * to.stride + j).cast(), row);
                            }
                        }
                    }
                }
            }
        }
    }

    /// The transpose of 8 by 8 cells.
    #[inline(always)]
    unsafe fn transposed_quarter(first: *const u32, stride: usize) -> [__m256i; 8] {
        unsafe {
            let mut a = [_mm256_setzero_si256(); 8];
            let mut b = a;
            for i in 0..8 {
                a[i] = _mm256_loadu_si256(first.add(i * stride).cast());
            }
            for i in 0..4 {
                b[2 * i] = _mm256_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
                b[2 * i + 1] = _mm256_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
            }
            for i in 0..2 {
                a[4 * i] = _mm256_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
                a[4 * i + 1] = _mm256_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
                a[4 * i + 2] = _mm256_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
                a[4 * i + 3] = _mm256_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
            }
            for j in 0..4 {
                b[j] = _mm256_permute2x128_si256::<0x20>(a[j], a[4 + j]);
                b[4 + j] = _mm256_permute2x128_si256::<0x31>(a[j], a[4 + j]);
            }
            b
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::dispatch;

    #[inline(always)]
    unsafe fn kernel<S: Transpose>(from: &[u32], stride: usize, to: &mut [u32], rows: usize) {
        let from = Rows {
            first: from.as_ptr(),
            stride,
        };
        let to = Rows {
            first: to.as_mut_ptr(),
            stride: SIDE + 1,
        };
        unsafe { S::transpose(from, to, rows) }
    }
    dispatch! { fn transpose(from: &[u32], stride: usize, to: &mut [u32], rows: usize) = kernel; }

    #[test]
    fn rows_become_columns() {
        let stride = SIDE + 5;
        let from: Vec<u32> = (0..SIDE * stride).map(|i| i as u32).collect();
        for isa in crate::Isa::all_here() {
            for rows in 1..=SIDE {
                let mut to = vec![u32::MAX; SIDE * (SIDE + 1)];
                transpose(isa.level(), &from, stride, &mut to, rows);
                for (at, &cell) in to.iter().enumerate() {
                    let (i, j) = (at / (SIDE + 1), at % (SIDE + 1));
                    let want = if i < rows && j < SIDE {
                        (j * stride + i) as u32
                    } else {
                        u32::MAX
                    };
                    assert_eq!(cell, want, "{isa}, {rows} rows: {i}, {j}");
                }
            }
        }
    }
}
