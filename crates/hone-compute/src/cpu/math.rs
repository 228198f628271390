//! Elementary functions on vectors, and reductions of a row in one fixed order.
//!
//! The functions are polynomials fitted by weighted least squares at Chebyshev points. Errors are in units in the
//! last place (ulp), the largest found by sweeps over the range at every width.
//!
//! A reduction keeps sixteen running results at every width (lane `j` takes elements `j`, `j + 16`, ...), combined
//! by halving: so its order depends on the length of the row alone, and widths differ only in fused rounding.
//!
//! # Soundness
//! Blocks hold arithmetic, sound as said in [`simd`](super::simd), and loads and stores: [`Lanes::load`] and
//! [`Lanes::store`] take pointers good for sixteen numbers from their caller; everything else goes through slices, of
//! which those of sixteen are read and written whole, shorter ones by way of an array.

use super::simd::Simd;

/// Lanes of a reduction, at every width.
pub(crate) const REDUCTION_LANES: usize = 16;

const LN_2_HIGH: f32 = 0.693_359_4; // 355 / 512: products with whole numbers of up to 15 bits are exact
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// Largest `x` below which `e^x` is taken to be 0: that of the smallest normal number.
const EXP_LOWEST: f32 = -87.336_54;

/// `(e^r - 1 - r) / r^2` as a polynomial of `r` for `|r| <= ln 2 / 2`.
const EXP_COEFFICIENTS: [f32; 5] = [0.5, 1.666_657_6e-1, 4.166_646_7e-2, 8.363_175e-3, 1.393_364_4e-3];

/// The polynomial with these coefficients, the constant first.
#[inline(always)]
unsafe fn polynomial<S: Simd, const N: usize>(x: S::V, coefficients: [f32; N]) -> S::V {
    unsafe {
        let mut sum = S::splat(coefficients[N - 1]);
        for i in (0..N - 1).rev() {
            sum = S::fma(sum, x, S::splat(coefficients[i]));
        }
        sum
    }
}

/// `e^x` within 1.1 ulp: exactly 1 at 0, 0 below -87.33, infinity above 88.72, NaN for NaN.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    unsafe {
        let upper = S::min(S::splat(89.0), x);
        // x = k ln 2 + r with |r| <= ln 2 / 2
        let k = S::round(S::mul(upper, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(k, S::splat(-LN_2_HIGH), upper);
        let r = S::fma(k, S::splat(-LN_2_LOW), r);
        let q = polynomial::<S, 5>(r, EXP_COEFFICIENTS);
        let p = S::add(S::splat(1.0), S::fma(S::mul(r, r), q, r));
        // 2^128 is no f32, so it is multiplied in two steps
        let low = S::min(k, S::splat(127.0));
        let rest = S::select_less(S::splat(127.0), k, S::splat(2.0), S::splat(1.0));
        let y = S::mul(S::mul(p, S::exp2_whole(low)), rest);
        S::select_less(x, S::splat(EXP_LOWEST), S::splat(0.0), y)
    }
}

/// The bits of [`exp`] for `x` below 88, in fewer steps.
#[inline(always)]
pub(crate) unsafe fn exp_below_88<S: Simd>(x: S::V) -> S::V {
    unsafe {
        let k = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(k, S::splat(-LN_2_HIGH), x);
        let r = S::fma(k, S::splat(-LN_2_LOW), r);
        let q = polynomial::<S, 5>(r, EXP_COEFFICIENTS);
        let p = S::add(S::splat(1.0), S::fma(S::mul(r, r), q, r));
        S::select_less(x, S::splat(EXP_LOWEST), S::splat(0.0), S::scale_whole(p, k))
    }
}

/// `1 / (1 + e^-x)` within 3 ulp; 0 below -88.72.
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    unsafe {
        let one = S::splat(1.0);
        S::div(one, S::add(one, exp::<S>(S::sub(S::splat(0.0), x))))
    }
}

/// `|x|`.
#[inline(always)]
pub(crate) unsafe fn abs<S: Simd>(x: S::V) -> S::V {
    unsafe { S::max(x, S::sub(S::splat(0.0), x)) }
}

/// The error function within 2 ulp.
#[inline(always)]
pub(crate) unsafe fn erf<S: Simd>(x: S::V) -> S::V {
    unsafe {
        let a = abs::<S>(x);
        // erf(x) / x - 1 as a polynomial of x^2 below 1
        let p = polynomial::<S, 7>(
            S::mul(x, x),
            [
                1.283_791_7e-1,
                -3.761_262_6e-1,
                1.128_359_7e-1,
                -2.685_432_9e-2,
                5.189_312e-3,
                -8.018_855e-4,
                7.882_497e-5,
            ],
        );
        let small = S::fma(x, p, x);
        // ln(1 - erf(a)) as a polynomial of a - 2 from 1 to 4, where it is below half an ulp of 1
        let t = S::sub(S::min(S::splat(4.0), a), S::splat(2.0));
        let p = polynomial::<S, 9>(
            t,
            [
                -5.364_941,
                -4.418_161,
                -9.237_506_4e-1,
                -1.646_512_7e-2,
                3.569_756_9e-3,
                -7.330_128e-4,
                1.367_404_3e-4,
                -1.982_345e-5,
                1.179_261_7e-6,
            ],
        );
        let zero = S::splat(0.0);
        let large = S::sub(S::splat(1.0), exp::<S>(p));
        let large = S::select_less(x, zero, S::sub(zero, large), large);
        S::select_less(a, S::splat(1.0), small, large)
    }
}

/// Sixteen lanes at every width: one vector, or two.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<S: Simd>([S::V; 2]);

impl<S: Simd> Lanes<S> {
    const ONE: bool = S::LANES == REDUCTION_LANES;

    #[inline(always)]
    pub(crate) unsafe fn splat(x: f32) -> Self {
        unsafe { Self([S::splat(x); 2]) }
    }

    #[inline(always)]
    unsafe fn new(low: S::V, high: S::V) -> Self {
        Self([low, if Self::ONE { low } else { high }])
    }

    /// Reads sixteen numbers.
    #[inline(always)]
    pub(crate) unsafe fn load(p: *const f32) -> Self {
        unsafe {
            let low = S::load(p);
            if Self::ONE {
                return Self([low; 2]);
            }
            Self([low, S::load(p.add(8))])
        }
    }

    /// Reads up to sixteen numbers; the other lanes hold `fill`.
    #[inline(always)]
    pub(crate) unsafe fn load_part(x: &[f32], fill: f32) -> Self {
        unsafe {
            if x.len() == REDUCTION_LANES {
                return Self::load(x.as_ptr());
            }
            let mut padded = [fill; REDUCTION_LANES];
            padded[..x.len()].copy_from_slice(x);
            Self::load(padded.as_ptr())
        }
    }

    /// Writes sixteen numbers.
    #[inline(always)]
    pub(crate) unsafe fn store(self, p: *mut f32) {
        unsafe {
            S::store(p, self.0[0]);
            if !Self::ONE {
                S::store(p.add(8), self.0[1]);
            }
        }
    }

    /// Writes the first lanes, as many as `x` has places (up to sixteen).
    #[inline(always)]
    pub(crate) unsafe fn store_part(self, x: &mut [f32]) {
        unsafe {
            if x.len() == REDUCTION_LANES {
                return self.store(x.as_mut_ptr());
            }
            x.copy_from_slice(&self.to_array()[..x.len()]);
        }
    }

    #[inline(always)]
    pub(crate) unsafe fn add(self, x: Self) -> Self {
        unsafe { Self::new(S::add(self.0[0], x.0[0]), S::add(self.0[1], x.0[1])) }
    }

    #[inline(always)]
    pub(crate) unsafe fn sub(self, x: Self) -> Self {
        unsafe { Self::new(S::sub(self.0[0], x.0[0]), S::sub(self.0[1], x.0[1])) }
    }

    #[inline(always)]
    pub(crate) unsafe fn mul(self, x: Self) -> Self {
        unsafe { Self::new(S::mul(self.0[0], x.0[0]), S::mul(self.0[1], x.0[1])) }
    }

    /// `self * x + y`.
    #[inline(always)]
    pub(crate) unsafe fn fma(self, x: Self, y: Self) -> Self {
        unsafe { Self::new(S::fma(self.0[0], x.0[0], y.0[0]), S::fma(self.0[1], x.0[1], y.0[1])) }
    }

    /// The larger; `x` where either is NaN.
    #[inline(always)]
    pub(crate) unsafe fn max(self, x: Self) -> Self {
        unsafe { Self::new(S::max(self.0[0], x.0[0]), S::max(self.0[1], x.0[1])) }
    }

    #[inline(always)]
    pub(crate) unsafe fn exp(self) -> Self {
        unsafe {
            let low = exp::<S>(self.0[0]);
            if Self::ONE {
                return Self([low; 2]);
            }
            Self([low, exp::<S>(self.0[1])])
        }
    }

    #[inline(always)]
    unsafe fn to_array(self) -> [f32; REDUCTION_LANES] {
        unsafe {
            let mut lanes = S::to_array(self.0[0]);
            if !Self::ONE {
                lanes[8..].copy_from_slice(&S::to_array(self.0[1])[..8]);
            }
            lanes
        }
    }

    /// The sum of the lanes: `j` and `j + 8` first, then 4, 2 and 1 apart.
    #[inline(always)]
    pub(crate) unsafe fn total(self) -> f32 {
        let mut lanes = unsafe { self.to_array() };
        for apart in [8, 4, 2, 1] {
            for j in 0..apart {
                lanes[j] += lanes[j + apart];
            }
        }
        lanes[0]
    }

    /// The largest lane.
    #[inline(always)]
    pub(crate) unsafe fn largest(self) -> f32 {
        let lanes = unsafe { self.to_array() };
        lanes
            .into_iter()
            .fold(f32::NEG_INFINITY, |a, b| if a > b || b.is_nan() { a } else { b })
    }
}

/// The sum of a row.
#[inline(always)]
pub(crate) unsafe fn sum_row<S: Simd>(x: &[f32]) -> f32 {
    unsafe {
        let mut sum = Lanes::<S>::splat(0.0);
        let blocks = x.chunks_exact(REDUCTION_LANES);
        let rest = blocks.remainder();
        for block in blocks {
            sum = sum.add(Lanes::load(block.as_ptr()));
        }
        if !rest.is_empty() {
            sum = sum.add(Lanes::load_part(rest, 0.0));
        }
        sum.total()
    }
}

/// The largest of a row, -infinity for an empty one. Which NaN are passed over is not defined.
#[inline(always)]
pub(crate) unsafe fn max_row<S: Simd>(x: &[f32]) -> f32 {
    unsafe {
        let mut max = Lanes::<S>::splat(f32::NEG_INFINITY);
        let blocks = x.chunks_exact(REDUCTION_LANES);
        let rest = blocks.remainder();
        for block in blocks {
            max = Lanes::load(block.as_ptr()).max(max);
        }
        if !rest.is_empty() {
            max = Lanes::load_part(rest, f32::NEG_INFINITY).max(max);
        }
        max.largest()
    }
}

/// The sum of products of two rows of one length.
#[inline(always)]
pub(crate) unsafe fn dot<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot product of rows of two lengths");
    unsafe {
        let mut sum = Lanes::<S>::splat(0.0);
        let (a_blocks, b_blocks) = (a.chunks_exact(REDUCTION_LANES), b.chunks_exact(REDUCTION_LANES));
        let (a_rest, b_rest) = (a_blocks.remainder(), b_blocks.remainder());
        for (a, b) in a_blocks.zip(b_blocks) {
            sum = Lanes::load(a.as_ptr()).fma(Lanes::load(b.as_ptr()), sum);
        }
        if !a_rest.is_empty() {
            sum = Lanes::load_part(a_rest, 0.0).fma(Lanes::load_part(b_rest, 0.0), sum);
        }
        sum.total()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::dispatch;
    use crate::cpu::testing::{assert_close, erf_oracle, f64s, levels, normal};
    use crate::isa::Level;

    macro_rules! scalar {
        ($($(#[$meta:meta])* $name:ident, $kernel:ident, $function:ident;)*) => {$(
            #[inline(always)]
            unsafe fn $kernel<S: Simd>(x: f32) -> f32 {
                unsafe { S::to_array($function::<S>(S::splat(x)))[0] }
            }
            dispatch! {
                $(#[$meta])*
                fn $name(x: f32) -> f32 = $kernel;
            }
        )*};
    }

    scalar! {
        /// [`exp`] of one number, with the bits a vector of this width gives it.
        exp_scalar, exp_kernel, exp;
        /// [`exp_below_88`] of one number.
        exp_below_88_scalar, exp_below_88_kernel, exp_below_88;
        /// [`sigmoid`] of one number.
        sigmoid_scalar, sigmoid_kernel, sigmoid;
        /// [`erf`] of one number.
        erf_scalar, erf_kernel, erf;
    }

    dispatch! { fn sum(x: &[f32]) -> f32 = sum_row; }
    dispatch! { fn largest(x: &[f32]) -> f32 = max_row; }
    dispatch! { fn product(a: &[f32], b: &[f32]) -> f32 = dot; }

    /// `|got - expected|` in units in the last place of `expected`.
    fn ulp(got: f32, expected: f64) -> f64 {
        let size = (expected.abs() as f32).max(f32::MIN_POSITIVE);
        let unit = f64::from(f32::from_bits(size.to_bits() + 1)) - f64::from(size);
        (f64::from(got) - expected).abs() / unit
    }

    /// The largest error over an even sweep of `low..high` and the numbers of every size within it.
    fn worst(function: fn(Level, f32) -> f32, oracle: fn(f64) -> f64, (low, high): (f32, f32)) -> f64 {
        let mut worst = 0.0_f64;
        for level in levels() {
            let even = (0..40_000).map(|i| low + (high - low) * (i as f32 / 40_000.0));
            let sizes = (0..30_000_u32).map(|i| f32::from_bits(0x0080_0000 + i * (0x7e00_0000 / 30_000)));
            let sizes = sizes.flat_map(|x| [x, -x]).filter(|&x| low <= x && x <= high);
            for x in even.chain(sizes) {
                let expected = oracle(f64::from(x));
                let error = ulp(function(level, x), expected);
                assert!(error < 4.0, "{level:?}: {x:e}: {error} ulp");
                worst = worst.max(error);
            }
        }
        worst
    }

    #[test]
    fn the_short_exp_has_the_bits_of_the_long_one() {
        for level in levels() {
            let even = (0..200_000).map(|i| -100.0 + 188.0 * (i as f32 / 200_000.0));
            let sizes = (0..60_000_u32).map(|i| -f32::from_bits(i * (0x7f80_0000 / 60_000)));
            let lowest = (0..64).flat_map(|i| [EXP_LOWEST.to_bits() + i, EXP_LOWEST.to_bits() - i]);
            let special = [0.0, -0.0, f32::NEG_INFINITY, f32::MIN, -f32::MIN_POSITIVE, 87.999];
            for x in even.chain(sizes).chain(lowest.map(f32::from_bits)).chain(special) {
                let (short, long) = (exp_below_88_scalar(level, x), exp_scalar(level, x));
                assert_eq!(short.to_bits(), long.to_bits(), "{level:?}: {x:e}: {short:e}, {long:e}");
            }
            assert!(exp_below_88_scalar(level, f32::NAN).is_nan());
        }
    }

    #[test]
    fn functions_are_accurate() {
        let exp = worst(exp_scalar, f64::exp, (-87.33, 88.72));
        let sigmoid = worst(sigmoid_scalar, |x| 1.0 / (1.0 + (-x).exp()), (-87.0, 30.0));
        let erf = worst(erf_scalar, erf_oracle, (-4.2, 4.2));
        let measured = format!("exp {exp:.2}, sigmoid {sigmoid:.2}, erf {erf:.2}");
        assert!(exp < 1.1 && sigmoid < 3.0 && erf < 2.0, "{measured}");
    }

    #[test]
    fn ends_of_the_range() {
        for level in levels() {
            assert_eq!(exp_scalar(level, 0.0), 1.0);
            assert_eq!(exp_scalar(level, -0.0), 1.0);
            for x in [f32::NEG_INFINITY, -1e30, -1e9, -200.0, -88.0] {
                assert_eq!(exp_scalar(level, x), 0.0, "{x}");
            }
            for x in [88.73, 89.0, 1e9, f32::INFINITY] {
                assert_eq!(exp_scalar(level, x), f32::INFINITY, "{x}");
            }
            assert!(exp_scalar(level, 88.72).is_finite());
            for f in [exp_scalar, sigmoid_scalar, erf_scalar] {
                assert!(f(level, f32::NAN).is_nan());
            }
            assert_eq!(erf_scalar(level, f32::INFINITY), 1.0);
            assert_eq!(erf_scalar(level, f32::NEG_INFINITY), -1.0);
            assert_eq!(erf_scalar(level, 0.0), 0.0);
            assert_eq!(sigmoid_scalar(level, f32::NEG_INFINITY), 0.0);
            assert_eq!(sigmoid_scalar(level, f32::INFINITY), 1.0);
            assert_eq!(sigmoid_scalar(level, 0.0), 0.5);
        }
    }

    #[test]
    fn reductions_keep_one_order() {
        for n in [0, 1, 7, 15, 16, 17, 80, 172, 1000] {
            let (a, b) = (normal(1, n), normal(2, n));
            // The order the module promises, one number at a time.
            let mut lanes = [0.0_f32; 16];
            for (i, x) in a.iter().enumerate() {
                lanes[i % 16] += x;
            }
            for apart in [8, 4, 2, 1] {
                for j in 0..apart {
                    lanes[j] += lanes[j + apart];
                }
            }
            for level in levels() {
                assert_eq!(sum(level, &a), lanes[0], "{level:?}, {n}");
                let max = a.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert_eq!(largest(level, &a), max);
                let expected: f64 = f64s(&a).iter().zip(f64s(&b)).map(|(a, b)| a * b).sum();
                assert_close(&[product(level, &a, &b)], &[expected], 1e-5);
            }
        }
    }

    #[test]
    fn the_largest_passes_over_nan() {
        for level in levels() {
            for at in 0..20 {
                let mut x = vec![1.0; 20];
                x[at] = f32::NAN;
                assert_eq!(largest(level, &x), 1.0);
            }
        }
    }
}
