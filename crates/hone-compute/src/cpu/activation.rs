//! Activations and their gradients, element by element.
//!
//! # Soundness
//! Blocks hold arithmetic alone, sound as said in [`simd`](super::simd).

use super::Cpu;
use super::elementwise::{Map, map};
use super::math::{erf, exp, sigmoid};
use super::simd::Simd;

/// Declares an activation of one input: its [`Map`]s, `y = f(x)` and `dx = dy f'(x)`.
macro_rules! activation {
    (
        $(#[$meta:meta])* $forward:ident, $backward:ident, $value:ident, $gradient:ident;
        |$S:ident, $x:ident| $y:expr;
        |$gx:ident| $slope:expr;
    ) => {
        struct $value;

        impl Map<1, 1> for $value {
            #[inline(always)]
            unsafe fn apply<$S: Simd>(&self, [$x]: [$S::V; 1], _: [$S::V; 1]) -> [$S::V; 1] {
                unsafe { [$y] }
            }
        }

        struct $gradient;

        impl Map<1, 1> for $gradient {
            #[inline(always)]
            unsafe fn apply<$S: Simd>(&self, [dy]: [$S::V; 1], [$gx]: [$S::V; 1]) -> [$S::V; 1] {
                unsafe { [$S::mul(dy, $slope)] }
            }
        }

        $(#[$meta])*
        pub(crate) fn $forward(cpu: &Cpu, x: &[f32], y: &mut [f32]) {
            map(cpu, &$value, [x], [y]);
        }

        #[doc = concat!("Turns `x` into `dx`: `dy` times the derivative of [`", stringify!($forward), "`] at `x`.")]
        pub(crate) fn $backward(cpu: &Cpu, x: &mut [f32], dy: &[f32]) {
            map(cpu, &$gradient, [dy], [x]);
        }
    };
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;
const FRAC_1_SQRT_2_PI: f32 = 0.398_942_3;

/// `sigmoid(2 u)` for `u = sqrt(2 / pi) (x + 0.044715 x^3)`: equal to `(1 + tanh u) / 2` and accurate in both tails.
#[inline(always)]
unsafe fn gelu_gate<S: Simd>(x: S::V) -> S::V {
    unsafe {
        let z = S::mul(x, x);
        let inner = S::fma(S::mul(z, x), S::splat(CUBIC), x);
        sigmoid::<S>(S::mul(inner, S::splat(2.0 * SQRT_2_OVER_PI)))
    }
}

/// The normal distribution function, by the error function.
#[inline(always)]
unsafe fn normal_distribution<S: Simd>(x: S::V) -> S::V {
    unsafe {
        let half = S::splat(0.5);
        let e = erf::<S>(S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2)));
        S::fma(half, e, half)
    }
}

activation! {
    /// `y = x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))`: GELU's approximation by tanh. (Hendrycks and Gimpel 2016.)
    gelu_tanh_forward, gelu_tanh_backward, GeluTanh, GeluTanhGradient;
    |S, x| S::mul(x, gelu_gate::<S>(x));
    |x| {
        // g + x g (1 - g) 2 u'
        let gate = gelu_gate::<S>(x);
        let scale = S::splat(2.0 * SQRT_2_OVER_PI);
        let inner = S::fma(S::mul(x, x), S::splat(6.0 * SQRT_2_OVER_PI * CUBIC), scale);
        let rest = S::mul(gate, S::sub(S::splat(1.0), gate));
        S::fma(S::mul(x, rest), inner, gate)
    };
}

activation! {
    /// `y = x Phi(x)`, with the normal distribution function. (Hendrycks and Gimpel 2016.)
    gelu_erf_forward, gelu_erf_backward, GeluErf, GeluErfGradient;
    |S, x| S::mul(x, normal_distribution::<S>(x));
    |x| {
        let square = S::mul(S::mul(x, x), S::splat(-0.5));
        let density = S::mul(exp::<S>(square), S::splat(FRAC_1_SQRT_2_PI));
        S::fma(x, density, normal_distribution::<S>(x))
    };
}

activation! {
    /// `y = max(x, 0)`; its derivative at 0 is 0.
    relu_forward, relu_backward, Relu, ReluGradient;
    |S, x| S::max(S::splat(0.0), x);
    |x| S::select_less(S::splat(0.0), x, S::splat(1.0), S::splat(0.0));
}

activation! {
    /// `y = x sigmoid(x)`. (Elfwing, Uchibe and Doya 2017.)
    silu_forward, silu_backward, Silu, SiluGradient;
    |S, x| S::mul(x, sigmoid::<S>(x));
    |x| silu_slope::<S>(x, sigmoid::<S>(x));
}

/// The derivative of `x sigmoid(x)`, given `s = sigmoid(x)`: `s (1 + x (1 - s))`.
#[inline(always)]
unsafe fn silu_slope<S: Simd>(x: S::V, s: S::V) -> S::V {
    unsafe {
        let one = S::splat(1.0);
        S::mul(s, S::fma(x, S::sub(one, s), one))
    }
}

struct Swiglu;

impl Map<2, 1> for Swiglu {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [gate, up]: [S::V; 2], _: [S::V; 1]) -> [S::V; 1] {
        unsafe { [S::mul(S::mul(gate, sigmoid::<S>(gate)), up)] }
    }
}

struct SwigluGradient;

impl Map<1, 2> for SwigluGradient {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [dy]: [S::V; 1], [gate, up]: [S::V; 2]) -> [S::V; 2] {
        unsafe {
            let s = sigmoid::<S>(gate);
            let dgate = S::mul(S::mul(dy, up), silu_slope::<S>(gate, s));
            [dgate, S::mul(dy, S::mul(gate, s))]
        }
    }
}

/// `y = silu(gate) up`. (Shazeer 2020.)
pub(crate) fn swiglu_forward(cpu: &Cpu, gate: &[f32], up: &[f32], y: &mut [f32]) {
    map(cpu, &Swiglu, [gate, up], [y]);
}

/// Turns `gate` into `dgate = dy up silu'(gate)` and `up` into `dup = dy silu(gate)`.
pub(crate) fn swiglu_backward(cpu: &Cpu, gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    map(cpu, &SwigluGradient, [dy], [gate, up]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::elementwise::GRAIN;
    use crate::cpu::testing::{assert_close, bits, cpus, differences, erf_oracle, f64s, normal};
    use std::collections::HashMap;

    fn silu(x: f64) -> f64 {
        x / (1.0 + (-x).exp())
    }

    type Forward = fn(&Cpu, &[f32], &mut [f32]);
    type Backward = fn(&Cpu, &mut [f32], &[f32]);

    type Oracle = fn(f64) -> f64;

    const ALL: [(&str, Forward, Backward, Oracle); 4] = [
        ("gelu_tanh", gelu_tanh_forward, gelu_tanh_backward, |x| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }),
        ("gelu_erf", gelu_erf_forward, gelu_erf_backward, |x| {
            0.5 * x * (1.0 + erf_oracle(x / 2.0_f64.sqrt()))
        }),
        ("relu", relu_forward, relu_backward, |x| x.max(0.0)),
        ("silu", silu_forward, silu_backward, silu),
    ];

    #[test]
    fn activations_of_one_input() {
        let mut seen: HashMap<(&str, &str), _> = HashMap::new();
        for (name, forward, backward, oracle) in ALL {
            for n in [1, 7, 172, GRAIN + 3] {
                let mut x = normal(1, n);
                x.iter_mut().for_each(|x| *x *= 2.0);
                let dy = normal(2, n);
                let expected: Vec<f64> = x.iter().map(|&x| oracle(x.into())).collect();
                let slopes: Vec<f64> = x
                    .iter()
                    .zip(&dy)
                    .map(|(&x, &dy)| differences(&[x.into()], |x| oracle(x[0]))[0] * f64::from(dy))
                    .collect();
                for cpu in cpus() {
                    let (mut y, mut dx) = (vec![0.0; n], x.clone());
                    forward(&cpu, &x, &mut y);
                    assert_close(&y, &expected, 6e-7);
                    backward(&cpu, &mut dx, &dy);
                    assert_close(&dx, &slopes, 2e-6);
                    let both = (n, bits(&y), bits(&dx));
                    let key = (name, cpu.isa.name());
                    let first = seen.entry(key).or_insert_with(|| both.clone());
                    assert!(first.0 != n || *first == both, "{name}: threads change bits");
                    *first = both;
                }
            }
        }
    }

    #[test]
    fn tails_vanish() {
        for cpu in cpus() {
            for (name, forward, backward, _) in ALL {
                let (mut y, mut dx) = ([0.0; 2], [-100.0, 100.0]);
                forward(&cpu, &dx, &mut y);
                backward(&cpu, &mut dx, &[1.0, 1.0]);
                assert_eq!((y, dx), ([0.0, 100.0], [0.0, 1.0]), "{name}");
            }
        }
    }

    #[test]
    fn swiglu_and_its_gradients() {
        for n in [1, 7, 172, GRAIN + 3] {
            let (gate, up, dy) = (normal(1, n), normal(2, n), normal(3, n));
            let [gate64, up64, dy64] = [&gate, &up, &dy].map(|x| f64s(x));
            let value = |i: usize| silu(gate64[i]) * up64[i];
            let expected: Vec<f64> = (0..n).map(value).collect();
            let dgate64: Vec<f64> = (0..n)
                .map(|i| differences(&[gate64[i]], |g| silu(g[0]) * up64[i])[0] * dy64[i])
                .collect();
            let dup64: Vec<f64> = (0..n).map(|i| silu(gate64[i]) * dy64[i]).collect();
            for cpu in cpus() {
                let (mut y, mut dgate, mut dup) = (vec![0.0; n], gate.clone(), up.clone());
                swiglu_forward(&cpu, &gate, &up, &mut y);
                assert_close(&y, &expected, 5e-7);
                swiglu_backward(&cpu, &mut dgate, &mut dup, &dy);
                assert_close(&dgate, &dgate64, 2e-6);
                assert_close(&dup, &dup64, 5e-7);
            }
        }
    }
}
