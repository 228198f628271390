//! Vectors of f32 at three widths, so that a kernel is written once.
//!
//! A kernel is a generic function over [`Simd`], marked `#[inline(always)]`, and [`dispatch!`] makes the function
//! that picks the width at run time. Lanes never meet but in the reductions below, whose order is part of the result.
//!
//! # Soundness
//! Functions here are `unsafe` for two reasons: the processor must have their instructions, and some read or write
//! `LANES` numbers at a pointer. A kernel runs at `Avx512` or `Avx2` only beneath [`dispatch!`] or a function like it,
//! which is compiled for the features and chosen by a [`Level`](crate::isa::Level), the witness that the machine has
//! them. So arithmetic within a kernel is sound wherever the kernel was entered in that way, and its blocks have to
//! answer for loads and stores alone. Each implementation below calls the intrinsics that its features give.

/// One width of vector arithmetic.
///
/// # Safety
/// The methods of `Avx512` and `Avx2` may be called only inside functions compiled for those features.
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Simd: Copy {
    /// Lanes of a vector: 16 or 8.
    const LANES: usize;
    type V: Copy;
    unsafe fn splat(x: f32) -> Self::V;
    /// Reads `LANES` numbers.
    unsafe fn load(p: *const f32) -> Self::V;
    /// Reads the lower halves of `LANES` cells of two bf16 numbers.
    unsafe fn load_lower(p: *const u32) -> Self::V;
    /// Reads the upper halves.
    unsafe fn load_upper(p: *const u32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`: fused, but for the portable width.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; the second where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; the second where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// The nearest whole number, halves to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `2^k` for whole `k` in -126..=127.
    unsafe fn exp2_whole(k: Self::V) -> Self::V;
    /// `x * 2^k` for whole `k` in -126..=127.
    #[inline(always)]
    unsafe fn scale_whole(x: Self::V, k: Self::V) -> Self::V {
        unsafe { Self::mul(x, Self::exp2_whole(k)) }
    }
    /// Rounded to the nearest bf16 number, halves to even; NaN stays NaN.
    unsafe fn round_bf16(x: Self::V) -> Self::V;
    /// `if a < b { x } else { y }`, lane by lane.
    unsafe fn select_less(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// The lanes as numbers; those beyond `LANES` are 0.
    unsafe fn to_array(v: Self::V) -> [f32; 16];

    /// The sum of the lanes: the upper half is added to the lower until one is left.
    #[inline(always)]
    unsafe fn sum_lanes(v: Self::V) -> f32 {
        let lanes = unsafe { Self::to_array(v) };
        halved(lanes, Self::LANES, |a, b| a + b)
    }

    /// The largest of the lanes, halves compared as in [`max`](Simd::max).
    #[inline(always)]
    unsafe fn max_lanes(v: Self::V) -> f32 {
        let lanes = unsafe { Self::to_array(v) };
        halved(lanes, Self::LANES, |a, b| if a > b { a } else { b })
    }
}

#[inline(always)]
fn halved(mut lanes: [f32; 16], mut width: usize, join: impl Fn(f32, f32) -> f32) -> f32 {
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] = join(lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}

/// 16 lanes.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512;
/// 8 lanes.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx2;
/// 8 lanes of plain Rust, multiplications and additions rounded apart.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// The upper eight lanes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn upper_half(v: __m512) -> __m256 {
    unsafe { _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v))) }
}

#[cfg(target_arch = "x86_64")]
impl Simd for Avx512 {
    const LANES: usize = 16;
    type V = __m512;
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_lower(p: *const u32) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_upper(p: *const u32) -> __m512 {
        unsafe {
            let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p.cast()), upper))
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sqrt(a: __m512) -> __m512 {
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(k: __m512) -> __m512 {
        unsafe {
            let k = _mm512_add_epi32(_mm512_cvtps_epi32(k), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(k))
        }
    }
    #[inline(always)]
    unsafe fn scale_whole(x: __m512, k: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(x, k) }
    }
    #[inline(always)]
    unsafe fn round_bf16(x: __m512) -> __m512 {
        unsafe {
            let (bits, quiet) = (_mm512_castps_si512(x), _mm512_set1_epi32(0x0040_0000));
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let rounded = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), bits, quiet);
            _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(0xffff_0000_u32 as i32)))
        }
    }
    #[inline(always)]
    unsafe fn select_less(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    unsafe fn to_array(v: __m512) -> [f32; 16] {
        let mut out = [0.0; 16];
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) };
        out
    }
    #[inline(always)]
    unsafe fn sum_lanes(v: __m512) -> f32 {
        unsafe {
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), upper_half(v));
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }
    #[inline(always)]
    unsafe fn max_lanes(v: __m512) -> f32 {
        unsafe {
            let v = _mm256_max_ps(_mm512_castps512_ps256(v), upper_half(v));
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Simd for Avx2 {
    const LANES: usize = 8;
    type V = __m256;
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_lower(p: *const u32) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_loadu_si256(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_upper(p: *const u32) -> __m256 {
        unsafe {
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(p.cast()), upper))
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sqrt(a: __m256) -> __m256 {
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    unsafe fn round(a: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(k: __m256) -> __m256 {
        unsafe {
            let k = _mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(k))
        }
    }
    #[inline(always)]
    unsafe fn round_bf16(x: __m256) -> __m256 {
        unsafe {
            let (bits, quiet) = (_mm256_castps_si256(x), _mm256_set1_epi32(0x0040_0000));
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let rounded = _mm256_blendv_epi8(
                rounded,
                _mm256_or_si256(bits, quiet),
                _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x)),
            );
            _mm256_castsi256_ps(_mm256_and_si256(rounded, _mm256_set1_epi32(0xffff_0000_u32 as i32)))
        }
    }
    #[inline(always)]
    unsafe fn select_less(a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }
    #[inline(always)]
    unsafe fn to_array(v: __m256) -> [f32; 16] {
        let mut out = [0.0; 16];
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) };
        out
    }
    #[inline(always)]
    unsafe fn sum_lanes(v: __m256) -> f32 {
        unsafe {
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }
    #[inline(always)]
    unsafe fn max_lanes(v: __m256) -> f32 {
        unsafe {
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }
}

impl Simd for Portable {
    const LANES: usize = 8;
    type V = [f32; 8];
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 8] {
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_lower(p: *const u32) -> [f32; 8] {
        unsafe { p.cast::<[u32; 8]>().read_unaligned() }.map(|cell| f32::from_bits(cell << 16))
    }
    #[inline(always)]
    unsafe fn load_upper(p: *const u32) -> [f32; 8] {
        unsafe { p.cast::<[u32; 8]>().read_unaligned() }.map(|cell| f32::from_bits(cell & 0xffff_0000))
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 8]) {
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn sqrt(a: [f32; 8]) -> [f32; 8] {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    unsafe fn round(a: [f32; 8]) -> [f32; 8] {
        // Adding and taking away 1.5 * 2^23 rounds to a whole number in the current mode, which is to nearest even.
        a.map(|x| {
            if x.abs() < 4_194_304.0 {
                (x + 12_582_912.0) - 12_582_912.0
            } else {
                x
            }
        })
    }
    #[inline(always)]
    unsafe fn exp2_whole(k: [f32; 8]) -> [f32; 8] {
        k.map(|k| f32::from_bits(((k as i32).wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn round_bf16(x: [f32; 8]) -> [f32; 8] {
        x.map(|x| f32::from_bits(crate::cpu::gemm::rounded_bits(x)))
    }
    #[inline(always)]
    unsafe fn select_less(a: [f32; 8], b: [f32; 8], x: [f32; 8], y: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    unsafe fn to_array(v: [f32; 8]) -> [f32; 16] {
        std::array::from_fn(|i| if i < 8 { v[i] } else { 0.0 })
    }
}

/// Makes a function that runs a generic kernel at the width of a [`Level`](crate::isa::Level).
///
/// `dispatch! { fn name(x: &[f32], y: &mut [f32]) -> f32 = kernel; }` makes
/// `fn name(level: Level, x: &[f32], y: &mut [f32]) -> f32`, which calls `kernel::<Avx512>(x, y)` or its like.
/// The kernel is an `unsafe fn kernel<S: Simd>(..)` marked `#[inline(always)]`.
macro_rules! dispatch {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $kernel:ident;) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        pub(crate) fn $name(level: $crate::isa::Level, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                unsafe { $kernel::<$crate::cpu::simd::Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                unsafe { $kernel::<$crate::cpu::simd::Avx2>($($arg),*) }
            }
            // SAFETY: a level is a witness that the machine has its features.
            match level {
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Level::Avx512(_) => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Level::Avx2(_) => unsafe { avx2($($arg),*) },
                _ => unsafe { $kernel::<$crate::cpu::simd::Portable>($($arg),*) },
            }
        }
    };
}
pub(crate) use dispatch;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gemm::rounded_bits;
    use crate::cpu::testing::levels;

    #[inline(always)]
    unsafe fn rounded_kernel<S: Simd>(x: &[f32; 16], y: &mut [f32; 16]) {
        for i in (0..16).step_by(S::LANES) {
            // SAFETY: both hold 16 numbers.
            unsafe { S::store(y.as_mut_ptr().add(i), S::round_bf16(S::load(x.as_ptr().add(i)))) };
        }
    }
    dispatch! { fn rounded(x: &[f32; 16], y: &mut [f32; 16]) = rounded_kernel; }

    #[inline(always)]
    unsafe fn halves_kernel<S: Simd>(x: &[u32; 16], lower: &mut [f32; 16], upper: &mut [f32; 16]) {
        for i in (0..16).step_by(S::LANES) {
            // SAFETY: all hold 16 numbers.
            unsafe {
                S::store(lower.as_mut_ptr().add(i), S::load_lower(x.as_ptr().add(i)));
                S::store(upper.as_mut_ptr().add(i), S::load_upper(x.as_ptr().add(i)));
            }
        }
    }
    dispatch! { fn halves(x: &[u32; 16], lower: &mut [f32; 16], upper: &mut [f32; 16]) = halves_kernel; }

    #[inline(always)]
    unsafe fn reduced_kernel<S: Simd>(x: &[f32; 16], of: &mut [f32; 4]) {
        // SAFETY: there are 16 numbers.
        unsafe {
            let v = S::load(x.as_ptr());
            let lanes = S::to_array(v);
            *of = [
                S::sum_lanes(v),
                S::max_lanes(v),
                halved(lanes, S::LANES, |a, b| a + b),
                halved(lanes, S::LANES, |a, b| if a > b { a } else { b }),
            ];
        }
    }
    dispatch! { fn reduced(x: &[f32; 16], of: &mut [f32; 4]) = reduced_kernel; }

    #[test]
    fn reductions_have_one_order() {
        let key = hone_math::Key::new(1, "reductions", 0);
        for level in levels() {
            for turn in 0..200_u64 {
                let mut x: [f32; 16] = std::array::from_fn(|i| key.normal(turn * 16 + i as u64) as f32 * 100.0);
                match turn % 4 {
                    1 => x = x.map(|x| if x < 0.0 { -0.0 } else { 0.0 }),
                    2 => x[(turn / 4 % 16) as usize] = f32::NAN,
                    _ => {}
                }
                let mut of = [0.0; 4];
                reduced(level, &x, &mut of);
                let [sum, max, expected_sum, expected_max] = of.map(f32::to_bits);
                let nan = |x: u32| f32::from_bits(x).is_nan();
                assert!(sum == expected_sum || nan(sum) && nan(expected_sum), "{level:?}: {x:?}");
                assert!(max == expected_max || nan(max) && nan(expected_max), "{level:?}: {x:?}");
            }
        }
    }

    #[test]
    fn rounding_and_halves_have_the_bits_of_plain_rust() {
        let special = [
            0,
            1,
            0x7f7f_ffff,
            0x7f80_0000,
            0x7f80_0001,
            0x7fc0_1234,
            0x007f_ffff,
            0x3f80_8000,
            0x3f81_8000,
        ];
        let bits = special.iter().flat_map(|&x| [x, x | 1 << 31]);
        let spread = (0..16 * 4096_u32).map(|i| i.wrapping_mul(0x9e37_79b9));
        let all: Vec<u32> = bits.chain(spread).collect();
        for level in levels() {
            for cells in all.as_chunks::<16>().0 {
                let (x, mut y, mut z) = (cells.map(f32::from_bits), [0.0; 16], [0.0; 16]);
                rounded(level, &x, &mut y);
                assert_eq!(y.map(f32::to_bits), x.map(rounded_bits), "{level:?}");
                halves(level, cells, &mut y, &mut z);
                assert_eq!(y.map(f32::to_bits), cells.map(|cell| cell << 16), "{level:?}");
                assert_eq!(z.map(f32::to_bits), cells.map(|cell| cell & 0xffff_0000), "{level:?}");
            }
        }
    }
}
