//! Measurements of kernels, for `hone bench`.

use crate::cpu::Cpu;
use crate::cpu::attention::{Backward, KvPages, Span, append_all, backward, forward};
use crate::cpu::gemm::{LeftMatrix, Product, RightMatrix, multiply};
use crate::cpu::memory::Memory;
use crate::{AttentionShape, Isa, Mask, Precision};
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

/// What attention to measure, and how: `sequences` of the same length, each of `past` positions in the cache and `length`
/// new ones.
#[derive(Clone, Copy, Debug)]
pub struct AttentionCall {
    /// The instruction set, which must run on this machine.
    pub isa: Isa,
    /// That of the operands.
    pub precision: Precision,
    /// Threads to use.
    pub threads: usize,
    /// The sizes of a head.
    pub shape: AttentionShape,
    /// Sequences of the call.
    pub sequences: usize,
    /// Positions of each that the cache holds already.
    pub past: usize,
    /// Rows of each.
    pub length: usize,
}

/// The shortest times of the parts of an [`AttentionCall`], in seconds.
#[derive(Clone, Copy, Debug)]
pub struct AttentionTimes {
    /// Of appending the new keys and values to the caches.
    pub append: f64,
    /// Of the output.
    pub forward: f64,
    /// Of the gradients; not measured where there is a past.
    pub backward: Option<f64>,
}

impl AttentionTimes {
    /// Floating-point operations a second of the output and, where they were measured, the gradients of `call`.
    pub fn operations_per_second(&self, call: &AttentionCall) -> f64 {
        match self.backward {
            Some(backward) => 3.5 * call.operations() / (self.forward + backward),
            None => call.operations() / self.forward,
        }
    }
}

impl AttentionCall {
    /// Repeats each part for about `seconds`.
    pub fn measure(&self, seconds: f64) -> AttentionTimes {
        let cpu = Cpu::new(self.isa, self.precision, self.threads);
        let shape = &self.shape;
        let numbers = |rows: usize, heads: usize, step: usize| -> Vec<f32> {
            (0..rows * heads * shape.head_dim)
                .map(|i| (i * step % 251) as f32 / 128.0 - 0.977)
                .collect()
        };
        let rows = self.sequences * self.length;
        let (q, dout) = (numbers(rows, shape.heads, 1), numbers(rows, shape.heads, 7));
        let (k, v) = (numbers(rows, shape.kv_heads, 3), numbers(rows, shape.kv_heads, 5));
        let old = numbers(self.past, shape.kv_heads, 11);
        let mut caches = vec![KvPages::new(self.precision, shape.kv_heads, shape.head_dim); self.sequences];
        let past = 0..self.past;
        for cache in &mut caches {
            append_all(&cpu, &mut [cache], &old, &old, std::slice::from_ref(&past));
        }
        let parts: Vec<_> = (0..self.sequences)
            .map(|i| i * self.length..(i + 1) * self.length)
            .collect();
        let append = fastest(seconds, || {
            let start = Instant::now();
            append_all(&cpu, &mut caches.iter_mut().collect::<Vec<_>>(), &k, &v, &parts);
            let took = start.elapsed();
            for cache in &mut caches {
                cache.truncate(self.past);
            }
            took
        });
        append_all(&cpu, &mut caches.iter_mut().collect::<Vec<_>>(), &k, &v, &parts);
        let spans: Vec<_> = caches
            .iter()
            .zip(&parts)
            .map(|(kv, part)| Span {
                row: part.start,
                length: self.length,
                start: self.past,
                kv,
                after: None,
            })
            .collect();
        let mut out = vec![0.0; q.len()];
        let mut log_sum = vec![0.0; rows * shape.heads];
        let times = fastest(seconds, || {
            let start = Instant::now();
            forward(&cpu, shape, &q, &spans, &mut out, Some(&mut log_sum));
            start.elapsed()
        });
        let backward = (self.past == 0).then(|| {
            let b = Backward {
                shape,
                q: &q,
                out: &out,
                dout: &dout,
                log_sum: &log_sum,
                spans: &spans,
            };
            let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
            fastest(seconds, || {
                let start = Instant::now();
                backward(&cpu, &b, &mut dq, &mut dk, &mut dv);
                start.elapsed()
            })
        });
        AttentionTimes {
            append,
            forward: times,
            backward,
        }
    }

    /// Floating-point operations of the output; the gradients take 2.5 times as many.
    pub fn operations(&self) -> f64 {
        let (past, length) = (self.past as f64, self.length as f64);
        let keys = match self.shape.mask {
            Mask::Causal => past * length + length * (length + 1.0) / 2.0,
            Mask::Full => (past + length) * length,
        };
        4.0 * keys * (self.sequences * self.shape.heads * self.shape.head_dim) as f64
    }
}

/// Repeats `turn` for about `seconds` and gives the shortest of the times that it returns.
fn fastest(seconds: f64, mut turn: impl FnMut() -> Duration) -> f64 {
    let limit = Duration::from_secs_f64(seconds);
    let start = Instant::now();
    let mut best = turn();
    while start.elapsed() < limit {
        best = best.min(turn());
    }
    best.as_secs_f64()
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
    fn attention_is_measured_in_all_its_parts() {
        let shape = AttentionShape {
            heads: 2,
            kv_heads: 1,
            head_dim: 8,
            scale: 1.0,
            mask: Mask::Causal,
        };
        let mut call = AttentionCall {
            isa: Isa::Portable,
            precision: Precision::Bf16,
            threads: 1,
            shape,
            sequences: 2,
            past: 0,
            length: 3,
        };
        let times = call.measure(0.0);
        // Six pairs of a query and a key it sees, two products of 2 operations, two heads of 8, two sequences.
        assert_eq!(call.operations(), 6.0 * 4.0 * 16.0 * 2.0);
        let backward = times.backward.expect("no past");
        assert!(times.append > 0.0 && times.forward > 0.0 && backward > 0.0);
        let expected = 3.5 * call.operations() / (times.forward + backward);
        assert_eq!(times.operations_per_second(&call), expected);
        call.past = 5;
        assert_eq!(call.operations(), (15.0 + 6.0) * 4.0 * 16.0 * 2.0);
        let times = call.measure(0.0);
        assert_eq!(times.backward, None);
        assert_eq!(times.operations_per_second(&call), call.operations() / times.forward);
    }

    #[test]
    fn every_number_is_read_once() {
        let numbers: Vec<u64> = (0..1000).collect();
        assert_eq!(sum(&numbers), 499_500);
    }
}
