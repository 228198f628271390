//! What the machine has and can do, as far as the operating system says or a measurement shows.

use hone_compute::bench::MatrixProduct;
pub use hone_compute::bench::read_speed;
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
pub fn matrix_speed(isa: Isa, precision: Precision, threads: usize, size: usize, seconds: f64) -> f64 {
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
