//! Measurements of kernels, for `hone bench`.

use crate::cpu::Cpu;
use crate::cpu::gemm::{LeftMatrix, Product, RightMatrix, multiply};
use crate::{Isa, Precision};
use std::time::{Duration, Instant};

/// What product to measure, and how.
#[derive(Clone, Copy, Debug)]
pub struct MatrixProduct {
    /// The instruction set, which must run on this machine.
    pub isa: Isa,
    /// That of the operands.
    pub precision: Precision,
    /// Threads to use.
    pub threads: usize,
    /// Rows of the left operand.
    pub m: usize,
    /// Length of the sums.
    pub k: usize,
    /// Columns of the right operand.
    pub n: usize,
    /// Whether both operands are packed anew each time, as in a weight gradient.
    pub packing: bool,
}

impl MatrixProduct {
    /// Repeats the product for about `seconds`, and gives 10^9 floating-point operations a second of the best time.
    pub fn measure(&self, seconds: f64) -> f64 {
        let Self { m, k, n, .. } = *self;
        let cpu = Cpu::new(self.isa, self.precision, self.threads);
        let numbers = |count: usize| -> Vec<f32> { (0..count).map(|i| (i % 251) as f32 / 128.0 - 0.977).collect() };
        let (left, right) = (numbers(k * m), numbers(k * n));
        let (mut a, mut b) = (LeftMatrix::new(), RightMatrix::new());
        a.pack_transposed(&cpu, &left, m, k);
        b.pack(&cpu, &right, k, n);
        let mut c = vec![0.0; m * n];
        let limit = Duration::from_secs_f64(seconds);
        let start = Instant::now();
        let mut best = f64::INFINITY;
        while best.is_infinite() || start.elapsed() < limit {
            let turn = Instant::now();
            if self.packing {
                a.pack_transposed(&cpu, &left, m, k);
                b.pack(&cpu, &right, k, n);
            }
            multiply(&cpu, &Product::of(&a, &b), &mut c, n);
            best = best.min(turn.elapsed().as_secs_f64());
            std::hint::black_box(&mut c);
        }
        2.0 * m as f64 * k as f64 * n as f64 / best / 1e9
    }
}
