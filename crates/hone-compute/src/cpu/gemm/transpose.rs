//! Transposition of square blocks of cells.

use crate::cpu::simd::{Portable, Simd};

/// Rows and columns of a block: a cache line each.
pub(super) const SIDE: usize = 16;

/// A width of vectors that can transpose a block.
///
/// # Safety
/// As for [`Simd`].
pub(super) trait Transpose: Simd {
    unsafe fn transpose(block: &mut [[u32; SIDE]; SIDE]);
}

#[inline(always)]
fn transpose_scalar(block: &mut [[u32; SIDE]; SIDE]) {
    for i in 0..SIDE {
        for j in 0..i {
            let x = block[i][j];
            block[i][j] = block[j][i];
            block[j][i] = x;
        }
    }
}

impl Transpose for Portable {
    #[inline(always)]
    unsafe fn transpose(block: &mut [[u32; SIDE]; SIDE]) {
        transpose_scalar(block);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{SIDE, Transpose};
    use crate::cpu::simd::{Avx2, Avx512};
    use std::arch::x86_64::*;

    impl Transpose for Avx512 {
        #[inline(always)]
        unsafe fn transpose(block: &mut [[u32; SIDE]; SIDE]) {
            unsafe {
                let mut a = [_mm512_setzero_si512(); SIDE];
                let mut b = a;
                for i in 0..SIDE {
                    a[i] = _mm512_loadu_si512(block[i].as_ptr().cast());
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
                    _mm512_storeu_si512(block[i].as_mut_ptr().cast(), a[i]);
                }
            }
        }
    }

    impl Transpose for Avx2 {
        #[inline(always)]
        unsafe fn transpose(block: &mut [[u32; SIDE]; SIDE]) {
            unsafe {
                for (i, j) in [(0, 0), (8, 8), (0, 8)] {
                    let first = transpose_quarter(block, i, j);
                    if i != j {
                        let second = transpose_quarter(block, j, i);
                        store_quarter(block, i, j, second);
                    }
                    store_quarter(block, j, i, first);
                }
            }
        }
    }

    /// The transposed 8 by 8 block whose first cell is at `row`, `column`.
    #[inline(always)]
    unsafe fn transpose_quarter(
        block: &[[u32; SIDE]; SIDE],
        row: usize,
        column: usize,
    ) -> [__m256i; 8] {
        unsafe {
            let mut a = [_mm256_setzero_si256(); 8];
            let mut b = a;
            for i in 0..8 {
                a[i] = _mm256_loadu_si256(block[row + i].as_ptr().add(column).cast());
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

    #[inline(always)]
    unsafe fn store_quarter(
        block: &mut [[u32; SIDE]; SIDE],
        row: usize,
        column: usize,
        values: [__m256i; 8],
    ) {
        for (i, value) in values.into_iter().enumerate() {
            unsafe { _mm256_storeu_si256(block[row + i].as_mut_ptr().add(column).cast(), value) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::dispatch;

    #[inline(always)]
    unsafe fn kernel<S: Transpose>(block: &mut [[u32; SIDE]; SIDE]) {
        unsafe { S::transpose(block) }
    }
    dispatch! { fn transpose(block: &mut [[u32; SIDE]; SIDE]) = kernel; }

    #[test]
    fn rows_become_columns() {
        for isa in crate::Isa::all_here() {
            let mut block = [[0; SIDE]; SIDE];
            for i in 0..SIDE {
                for j in 0..SIDE {
                    block[i][j] = (100 * i + j) as u32;
                }
            }
            transpose(isa.level(), &mut block);
            for i in 0..SIDE {
                for j in 0..SIDE {
                    assert_eq!(block[i][j], (100 * j + i) as u32, "{isa}: {i}, {j}");
                }
            }
        }
    }
}
