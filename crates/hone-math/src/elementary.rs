//! Elementary functions in double precision.
//!
//! Accuracy, as the tests hold it against the system's library: `exp`, `ln`, `sigmoid` and `softplus` within 4e-15 of
//! the result, `sin` and `cos` within 1e-15 for angles up to 2^20. `pow` multiplies the rounding of its logarithm, so its
//! relative error grows with the size of `y ln x`: below 4e-16 (1 + |y ln x|).

const LN_2_HI: f64 = 6.931_471_803_691_238e-1;
const LN_2_LO: f64 = 1.908_214_929_270_587_7e-10;

/// 1/3, 1/5, .. 1/25.
const ODD_RECIPROCALS: [f64; 12] = {
    let mut reciprocals = [0.0; 12];
    let mut n = 0;
    while n < 12 {
        reciprocals[n] = 1.0 / (2 * n + 3) as f64;
        n += 1;
    }
    reciprocals
};

/// `e^x`; 0 below -745, infinity above 709.78.
pub fn exp(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x > 709.782_712_893_384 {
        return f64::INFINITY;
    }
    if x < -745.133_219_101_941_2 {
        return 0.0;
    }
    // x = k ln 2 + r with |r| <= ln 2 / 2
    let k = (x * std::f64::consts::LOG2_E).round_ties_even();
    let r = (x - k * LN_2_HI) - k * LN_2_LO;
    // Taylor series, the smallest term first
    let mut sum = 0.0;
    for n in (1..=14).rev() {
        sum = (1.0 + sum) * (r / f64::from(n));
    }
    // Two factors, so that results below the normal range round once
    let k = k as i64;
    let (half, rest) = (k / 2, k - k / 2);
    (1.0 + sum) * power_of_two(half) * power_of_two(rest)
}

fn power_of_two(k: i64) -> f64 {
    f64::from_bits(((k + 1023) as u64) << 52)
}

/// Natural logarithm; NaN below 0, -infinity at 0.
pub fn ln(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x == f64::INFINITY {
        return x;
    }
    // x = 2^k m with m in [sqrt(1/2), sqrt(2))
    let (x, shift) = if x < f64::MIN_POSITIVE {
        (x * power_of_two(54), -54)
    } else {
        (x, 0)
    };
    let bits = x.to_bits();
    let mut k = ((bits >> 52) as i64) - 1023 + shift;
    let mut m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        k += 1;
    }
    // ln m = 2 atanh(s) = 2 (s + s^3/3 + s^5/5 + ...)
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut sum = 0.0;
    for reciprocal in ODD_RECIPROCALS.into_iter().rev() {
        sum = (sum + reciprocal) * z;
    }
    let k = k as f64;
    k * LN_2_HI + (2.0 * s + (2.0 * s * sum + k * LN_2_LO))
}

/// `x^y` for positive `x`; relative error below 4e-16 (1 + |y ln x|).
pub fn pow(x: f64, y: f64) -> f64 {
    exp(y * ln(x))
}

/// Sine of an angle in radians, for |x| up to 2^20.
pub fn sin(x: f64) -> f64 {
    let (quadrant, r) = reduce(x);
    match quadrant {
        0 => sin_kernel(r),
        1 => cos_kernel(r),
        2 => -sin_kernel(r),
        _ => -cos_kernel(r),
    }
}

/// Cosine of an angle in radians, for |x| up to 2^20.
pub fn cos(x: f64) -> f64 {
    let (quadrant, r) = reduce(x);
    match quadrant {
        0 => cos_kernel(r),
        1 => -sin_kernel(r),
        2 => -cos_kernel(r),
        _ => sin_kernel(r),
    }
}

/// `x` less the nearest multiple of pi/2 (taken away in three parts), and which multiple modulo 4.
fn reduce(x: f64) -> (i64, f64) {
    const HALF_PI_1: f64 = 1.570_796_326_734_125_6;
    const HALF_PI_2: f64 = 6.077_100_506_303_966e-11;
    const HALF_PI_3: f64 = 2.022_266_248_795_950_6e-21;
    let k = (x * std::f64::consts::FRAC_2_PI).round_ties_even();
    let r = ((x - k * HALF_PI_1) - k * HALF_PI_2) - k * HALF_PI_3;
    ((k as i64).rem_euclid(4), r)
}

fn sin_kernel(r: f64) -> f64 {
    let z = r * r;
    let mut sum = 0.0;
    for n in (1..=9).rev() {
        let n = f64::from(n);
        sum = -(1.0 + sum) * z / ((2.0 * n) * (2.0 * n + 1.0));
    }
    r + r * sum
}

fn cos_kernel(r: f64) -> f64 {
    let z = r * r;
    let mut sum = 0.0;
    for n in (1..=9).rev() {
        let n = f64::from(n);
        sum = -(1.0 + sum) * z / ((2.0 * n - 1.0) * (2.0 * n));
    }
    1.0 + sum
}

/// `1 / (1 + e^-x)`, without overflow.
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + exp(-x))
    } else {
        let e = exp(x);
        e / (1.0 + e)
    }
}

/// `ln(1 + e^x)`, without overflow and exact for very negative `x`.
pub fn softplus(x: f64) -> f64 {
    let e = exp(-x.abs());
    // ln(1 + e) by the same series as `ln`, which keeps the digits of a small e
    let s = e / (2.0 + e);
    let z = s * s;
    let mut sum = 0.0;
    for n in (1..=18).rev() {
        sum = (sum + 1.0 / f64::from(2 * n + 1)) * z;
    }
    let tail = 2.0 * s + 2.0 * s * sum;
    if x > 0.0 { x + tail } else { tail }
}

/// `ln sigmoid(x)`.
pub fn log_sigmoid(x: f64) -> f64 {
    -softplus(-x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(name: &str, x: f64, got: f64, expected: f64) {
        let scale = expected.abs().max(1e-300);
        assert!(
            (got - expected).abs() / scale < 4e-15,
            "{name}({x}) = {got:e}, expected {expected:e}"
        );
    }

    #[test]
    fn agrees_with_the_systems_library() {
        for i in -4000..4000 {
            let x = f64::from(i) * 0.0871;
            close("exp", x, exp(x), x.exp());
            close("sigmoid", x, sigmoid(x), 1.0 / (1.0 + (-x).exp()));
            assert!((sin(x) - x.sin()).abs() < 1e-15, "sin {x}");
            assert!((cos(x) - x.cos()).abs() < 1e-15, "cos {x}");
            if x.abs() < 30.0 {
                close(
                    "softplus",
                    x,
                    softplus(x),
                    if x > 0.0 {
                        x + (-x).exp().ln_1p()
                    } else {
                        x.exp().ln_1p()
                    },
                );
            }
            let y = exp(x);
            if (y - 1.0).abs() > 1e-3 && y.is_finite() && y > 0.0 {
                close("ln", y, ln(y), y.ln());
            }
        }
    }

    #[test]
    fn angles_up_to_the_longest_context() {
        for i in 0..200_000 {
            let x = f64::from(i) * 5.242_87 + f64::from(i % 7) * 0.1;
            assert!(x < 1_048_600.0);
            assert!((sin(x) - x.sin()).abs() < 1e-15, "sin {x}");
            assert!((cos(-x) - x.cos()).abs() < 1e-15, "cos -{x}");
        }
    }

    #[test]
    fn powers_as_angles_and_moments_need_them() {
        let check = |x: f64, y: f64| {
            let (got, expected) = (pow(x, y), x.powf(y));
            let bound = 4e-16 * (1.0 + (y * x.ln()).abs()) * expected;
            assert!(
                (got - expected).abs() <= bound,
                "{x}^{y} = {got:e}, expected {expected:e}"
            );
        };
        // Rotary frequencies: theta^(2 i / head_dim)
        for theta in [1.5, 50.0, 1e4, 5e5, 1e6, 1e9] {
            for head_dim in [2, 12, 64, 80, 128, 256] {
                (0..head_dim / 2).for_each(|i| check(theta, f64::from(2 * i) / f64::from(head_dim)));
            }
        }
        // Bias corrections: beta^step, as long as it is a normal number
        for beta in [0.5, 0.9, 0.95, 0.99, 0.999, 0.999_9] {
            for step in (1..100).chain((1..700).map(|i| 1000 * i)) {
                if f64::from(step) * f64::ln(beta) > -700.0 {
                    check(beta, f64::from(step));
                }
            }
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e9), 0.0);
        assert_eq!(exp(1e9), f64::INFINITY);
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(ln(0.0), f64::NEG_INFINITY);
        assert!(ln(-1.0).is_nan());
        assert!((ln(5e-324) + 744.440_071_921_381_2).abs() < 1e-10);
        assert_eq!(sin(0.0), 0.0);
        assert_eq!(cos(0.0), 1.0);
        assert_eq!(log_sigmoid(-1000.0), -1000.0);
    }
}
