//! The optimiser step, the gradient's norm and weight averaging.
//!
//! # Soundness
//! As in [`norm`](super::norm).

use super::Cpu;
use super::elementwise::{GRAIN, Map, map};
use super::simd::{Simd, dispatch};
use crate::pool::Parts;

/// One step of Adam with decoupled weight decay (Loshchilov and Hutter 2019), in the order of `torch.optim.AdamW`:
///
/// ```text
/// g = gradient_scale gradient
/// p = p (1 - learning_rate weight_decay)
/// m = m + (1 - beta1) (g - m)
/// v = beta2 v + (1 - beta2) g^2
/// p = p - learning_rate / (1 - beta1^step) m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
/// ```
///
/// Constants are computed in f64 and rounded once to f32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamW {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Steps taken, this one included: 1 for the first.
    pub step: u64,
    /// What the gradient is multiplied by first, such as the factor that clips its norm.
    pub gradient_scale: f32,
}

struct Update {
    gradient_scale: f32,
    keep: f32,
    beta1_rest: f32,
    beta2: f32,
    beta2_rest: f32,
    root_correction: f32,
    eps: f32,
    step_size: f32,
}

impl AdamW {
    fn constants(&self) -> Update {
        assert!(self.step > 0, "steps are counted from 1");
        let correction = |beta: f64| 1.0 - hone_math::pow(beta, self.step as f64);
        Update {
            gradient_scale: self.gradient_scale,
            keep: (1.0 - self.learning_rate * self.weight_decay) as f32,
            beta1_rest: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            beta2_rest: (1.0 - self.beta2) as f32,
            root_correction: correction(self.beta2).sqrt() as f32,
            eps: self.eps as f32,
            step_size: (self.learning_rate / correction(self.beta1)) as f32,
        }
    }
}

impl Map<1, 3> for Update {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [gradient]: [S::V; 1], [p, m, v]: [S::V; 3]) -> [S::V; 3] {
        unsafe {
            let g = S::mul(gradient, S::splat(self.gradient_scale));
            let p = S::mul(p, S::splat(self.keep));
            let m = S::fma(S::splat(self.beta1_rest), S::sub(g, m), m);
            let square = S::mul(S::mul(g, g), S::splat(self.beta2_rest));
            let v = S::fma(v, S::splat(self.beta2), square);
            let root = S::div(S::sqrt(v), S::splat(self.root_correction));
            let direction = S::div(m, S::add(root, S::splat(self.eps)));
            [S::fma(S::splat(-self.step_size), direction, p), m, v]
        }
    }
}

/// Changes `parameter` and its moments `m` and `v` in one pass.
pub(crate) fn adamw_step(
    cpu: &Cpu,
    adamw: AdamW,
    parameter: &mut [f32],
    gradient: &[f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    map(cpu, &adamw.constants(), [gradient], [parameter, m, v]);
}

dispatch! {
    fn sum_of_squares_here(x: &[f32]) -> f64 = sum_of_squares_kernel;
}

#[inline(always)]
unsafe fn sum_of_squares_kernel<S: Simd>(x: &[f32]) -> f64 {
    // Squares of f32 are exact in f64, so every width gives the same bits.
    const { assert!(S::LANES == 8 || S::LANES == 16) };
    let mut lanes = [0.0_f64; 16];
    let blocks = x.chunks_exact(16);
    let rest = blocks.remainder();
    for block in blocks {
        for j in 0..16 {
            let x = f64::from(block[j]);
            lanes[j] += x * x;
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(x) * f64::from(x);
    }
    for apart in [8, 4, 2, 1] {
        for j in 0..apart {
            lanes[j] += lanes[j + apart];
        }
    }
    lanes[0]
}

/// The sum of squares in f64: sixteen running sums in each block of [`GRAIN`] numbers, then the blocks in order. The
/// same bits for every instruction set and number of threads.
pub(crate) fn sum_of_squares(cpu: &Cpu, x: &[f32]) -> f64 {
    let mut sums = vec![0.0; x.len().div_ceil(GRAIN)];
    let parts = Parts::new(&mut sums);
    cpu.pool.ranges(x.len(), GRAIN, &|range| {
        let block = range.start / GRAIN;
        // SAFETY: each task has its own element.
        let sum = unsafe { parts.get(block..block + 1) };
        sum[0] = sum_of_squares_here(cpu.level, &x[range]);
    });
    sums.iter().sum()
}

struct Average(f32);

impl Map<1, 1> for Average {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [x]: [S::V; 1], [average]: [S::V; 1]) -> [S::V; 1] {
        unsafe { [S::fma(S::splat(self.0), S::sub(x, average), average)] }
    }
}

/// `average = decay average + (1 - decay) x`, computed as `average + (1 - decay) (x - average)`.
pub(crate) fn exponential_average(cpu: &Cpu, average: &mut [f32], x: &[f32], decay: f64) {
    map(cpu, &Average((1.0 - decay) as f32), [x], [average]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{assert_close, bits, cpus, f64s, normal};

    const ADAMW: AdamW = AdamW {
        learning_rate: 0.1,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.5,
        step: 1,
        gradient_scale: 1.0,
    };

    #[test]
    fn two_steps_by_hand() {
        for cpu in cpus() {
            let (mut p, mut m, mut v) = ([1.0], [0.0], [0.0]);
            // g = 2: m = 0.2, v = 0.04; corrected 2 and 4; p = 1 * 0.95 - 0.1 * 2 / 2
            adamw_step(&cpu, ADAMW, &mut p, &[2.0], &mut m, &mut v);
            assert_close(&[p[0], m[0], v[0]], &[0.85, 0.2, 0.04], 1e-7);
            // g = -1 (half of -2): m = 0.2 + 0.1 * -1.2 = 0.08, v = 0.0396 + 0.01 = 0.0496; corrected by 0.19 and
            // 0.0199: 0.421052631578947 and 2.49246231155779, of which the root is 1.57875340429847;
            // p = 0.85 * 0.95 - 0.1 * 0.421052631578947 / 1.57875340429847 = 0.8075 - 0.0266699427
            let second = AdamW {
                step: 2,
                gradient_scale: 0.5,
                ..ADAMW
            };
            adamw_step(&cpu, second, &mut p, &[-2.0], &mut m, &mut v);
            assert_close(&[p[0], m[0], v[0]], &[0.780_830_057_3, 0.08, 0.0496], 1e-7);
        }
    }

    #[test]
    fn many_steps_agree_with_f64_and_threads_change_nothing() {
        let n = GRAIN + 37;
        let mut last: Option<(&str, Vec<u32>)> = None;
        let (mut p64, mut m64, mut v64) = (f64s(&normal(1, n)), vec![0.0; n], vec![0.0; n]);
        for step in 1..=5 {
            let g = normal(10 + step, n);
            let t = step as i32;
            for i in 0..n {
                let g = f64::from(g[i]) * 0.25;
                p64[i] *= 1.0 - 0.1 * 0.5;
                m64[i] = 0.9 * m64[i] + 0.1 * g;
                v64[i] = 0.99 * v64[i] + 0.01 * g * g;
                let (m, v) = (m64[i] / (1.0 - 0.9_f64.powi(t)), v64[i] / (1.0 - 0.99_f64.powi(t)));
                p64[i] -= 0.1 * m / (v.sqrt() + 1e-8);
            }
        }
        for cpu in cpus() {
            let (mut p, mut m, mut v) = (normal(1, n), vec![0.0; n], vec![0.0; n]);
            for step in 1..=5 {
                let adamw = AdamW {
                    step,
                    gradient_scale: 0.25,
                    ..ADAMW
                };
                adamw_step(&cpu, adamw, &mut p, &normal(10 + step, n), &mut m, &mut v);
            }
            assert_close(&p, &p64, 1e-5);
            assert_close(&m, &m64, 1e-6);
            assert_close(&v, &v64, 1e-6);
            if let Some((isa, bits_before)) = last.filter(|(isa, _)| *isa == cpu.isa.name()) {
                assert_eq!(bits_before, bits(&p), "{isa}");
            }
            last = Some((cpu.isa.name(), bits(&p)));
        }
    }

    #[test]
    fn sum_of_squares_has_one_result() {
        for n in [0, 1, 7, 16, 172, GRAIN, 3 * GRAIN + 5] {
            let mut x = normal(1, n);
            if let Some(first) = x.first_mut() {
                *first = 1e25; // its square is no f32
            }
            let expected: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let mut first = None;
            for cpu in cpus() {
                let got = sum_of_squares(&cpu, &x);
                assert!((got - expected).abs() <= 1e-12 * expected, "{got}, {expected}");
                assert_eq!(got.to_bits(), *first.get_or_insert(got.to_bits()));
            }
        }
    }

    #[test]
    fn averages_by_hand() {
        for cpu in cpus() {
            let mut average = [1.0, -2.0, 4.0];
            exponential_average(&cpu, &mut average, &[5.0, 2.0, 4.0], 0.75);
            assert_eq!(average, [2.0, -1.0, 4.0]);
        }
    }
}
