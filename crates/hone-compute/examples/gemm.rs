//! Prints how fast matrix products are, by instruction set, precision and shape.
//!
//! `cargo run --release -p hone-compute --example gemm -- [threads] [instruction set]`
#![allow(clippy::print_stdout)]

use hone_compute::bench::MatrixProduct;
use hone_compute::{Isa, Precision};

const SHAPES: [(usize, usize, usize, bool); 14] = [
    (2048, 2048, 2048, false),
    (2048, 512, 512, false),
    (2048, 512, 2048, false),
    (2048, 2048, 512, false),
    (2048, 512, 16384, false),
    (1376, 2048, 512, true),
    (512, 2048, 2048, true),
    (4096, 160, 160, false),
    (4096, 256, 700, false),
    (4096, 256, 1024, false),
    (1, 2048, 2048, false),
    (1, 2048, 50304, false),
    (4, 2048, 50304, false),
    (16, 2048, 50304, false),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().and_then(|t| t.parse().ok()).unwrap_or(1);
    let only = arguments.next().and_then(|name| Isa::from_name(&name));
    let mut columns = Vec::new();
    for precision in [Precision::Bf16, Precision::F32] {
        for isa in Isa::all_here() {
            let repeated = precision == Precision::F32 && matches!(isa, Isa::Amx | Isa::Avx512Bf16);
            if !repeated && only.is_none_or(|only| only == isa) {
                columns.push((isa, precision));
            }
        }
    }
    print!("{:24}", format!("GFLOP/s, {threads} threads"));
    for (isa, precision) in &columns {
        print!("{:>17}", format!("{isa} {precision:?}"));
    }
    println!();
    for (m, k, n, packing) in SHAPES {
        print!(
            "{:24}",
            format!("{m} x {k} x {n}{}", if packing { " packed" } else { "" })
        );
        for &(isa, precision) in &columns {
            let product = MatrixProduct {
                isa,
                precision,
                threads,
                m,
                k,
                n,
                packing,
            };
            print!("{:17.1}", product.measure(0.15));
        }
        println!();
    }
}
