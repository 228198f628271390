//! What the machine has and can do, as far as the operating system says or a measurement shows.

use std::hint::black_box;
use std::time::Instant;

use hone_compute::bench::MatrixProduct;
use hone_compute::{Isa, Precision};

/// The highest amount of memory that this process held, in bytes; none where the system does not say.
pub fn peak_bytes() -> Option<u64> {
    field_kib("/proc/self/status", "VmHWM:").map(|kib| kib * 1024)
}

/// Memory of the machine and what is free of it, in bytes.
pub fn memory_bytes() -> Option<(u64, u64)> {
    let total = field_kib("/proc/meminfo", "MemTotal:")?;
    let available = field_kib("/proc/meminfo", "MemAvailable:")?;
    Some((total * 1024, available * 1024))
}

fn field_kib(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The processor's name.
pub fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// 10^9 floating-point operations a second of square matrix products, the best of about `seconds`.
pub fn matrix_speed(
    isa: Isa,
    precision: Precision,
    threads: usize,
    size: usize,
    seconds: f64,
) -> f64 {
    MatrixProduct {
        isa,
        precision,
        threads,
        m: size,
        k: size,
        n: size,
        packing: false,
    }
    .measure(seconds)
}

/// 10^9 bytes a second read from an array of `bytes`, the best of `turns`.
pub fn read_speed(threads: usize, bytes: usize, turns: usize) -> f64 {
    // Not zeros: pages of zeros could all be one.
    let numbers: Vec<u64> = (0..(bytes / 8) as u64).collect();
    let part = numbers.len().div_ceil(threads.max(1)).max(1);
    let mut best = f64::INFINITY;
    for _ in 0..turns.max(1) {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in numbers.chunks(part) {
                scope.spawn(move || black_box(sum(part)));
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
    sums.iter()
        .chain(rest)
        .fold(0, |sum, &number| sum.wrapping_add(number))
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
