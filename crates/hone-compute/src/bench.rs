//! Measurements of kernels, for `hone bench`.

use crate::cpu::Cpu;
use crate::cpu::gemm::{LeftMatrix, Product, RightMatrix, multiply};
use crate::cpu::memory::Memory;
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

/// 10^9 bytes a second read from an array of `bytes`, the best of `turns`.
pub fn read_speed(threads: usize, bytes: usize, turns: usize) -> f64 {
    let mut memory = Memory::with_capacity(bytes / 8);
    memory.write_up_to(bytes / 8);
    // Not zeros: pages of zeros could all be one
    memory
        .numbers_mut()
        .iter_mut()
        .zip(0_u64..)
        .for_each(|(number, i)| *number = i);
    let numbers = memory.numbers();
    let part = numbers.len().div_ceil(threads.max(1)).max(1);
    let mut best = f64::INFINITY;
    for _ in 0..turns.max(1) {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in numbers.chunks(part) {
                scope.spawn(move || std::hint::black_box(sum(part)));
            }
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    (numbers.len() * 8) as f64 / best / 1e9
}

/// Many sums at once, so that loads and not additions are waited for.
fn sum(numbers: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    let (blocks, rest) = numbers.as_chunks::<32>();
    for block in blocks {
        for (sum, &number) in sums.iter_mut().zip(block) {
            *sum = sum.wrapping_add(number);
        }
    }
    sums.iter().chain(rest).fold(0, |sum, &number| sum.wrapping_add(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_read_once() {
        let numbers: Vec<u64> = (0..1000).collect();
        assert_eq!(sum(&numbers), 499_500);
    }
}
