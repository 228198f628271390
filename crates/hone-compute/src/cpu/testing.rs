//! What the tests of the kernels share.

use super::Cpu;
use crate::isa::{Isa, Level, Precision};

/// Odd and even widths, below, at and between multiples of the vector widths.
pub(crate) const WIDTHS: [usize; 6] = [1, 7, 16, 80, 160, 172];

/// Every instruction set of this machine, each with one thread and with three.
pub(crate) fn cpus() -> impl Iterator<Item = Cpu> {
    let isas = Isa::all_here().into_iter();
    isas.flat_map(|isa| [1, 3].map(|threads| Cpu::new(isa, Precision::F32, threads)))
}

/// The vector widths of this machine.
pub(crate) fn levels() -> Vec<Level> {
    let mut levels: Vec<_> = Isa::all_here().into_iter().map(Isa::level).collect();
    levels.dedup();
    levels
}

/// Standard normal numbers.
pub(crate) fn normal(seed: u64, n: usize) -> Vec<f32> {
    let key = hone_math::Key::new(seed, "test", 0);
    (0..n as u64).map(|i| key.normal(i) as f32).collect()
}

/// Whole numbers below `bound`.
pub(crate) fn ids(seed: u64, n: usize, bound: usize) -> Vec<u32> {
    let key = hone_math::Key::new(seed, "ids", 0);
    (0..n as u64).map(|i| key.below(i, bound as u64) as u32).collect()
}

pub(crate) fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Asserts that `got` is within `tolerance` of `expected`, relative to the larger of 1 and its size.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(g) - e).abs() / e.abs().max(1.0);
        assert!(error <= tolerance, "element {i}: {g}, expected {e}");
    }
}

/// Central differences of `loss` with respect to every element of `x`.
pub(crate) fn differences(x: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.to_vec();
    let step = 1e-5;
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + step;
            let up = loss(&x);
            x[i] = at - step;
            let down = loss(&x);
            x[i] = at;
            (up - down) / (2.0 * step)
        })
        .collect()
}

/// Sum of products.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The error function: its Taylor series, and far out the continued fraction of its complement.
pub(crate) fn erf_oracle(x: f64) -> f64 {
    if x.abs() > 3.0 {
        let a = x.abs();
        let mut fraction = a;
        for n in (1..60).rev() {
            fraction = a + f64::from(n) / 2.0 / fraction;
        }
        let complement = (-a * a).exp() / fraction / std::f64::consts::PI.sqrt();
        return (1.0 - complement).copysign(x);
    }
    let (mut sum, mut term) = (0.0, x);
    for n in 0..80 {
        sum += term / f64::from(2 * n + 1);
        term *= -x * x / f64::from(n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}
