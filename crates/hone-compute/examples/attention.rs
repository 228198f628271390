//! Prints how long attention takes, by instruction set and precision: training, reading a prompt, decoding.
//!
//! `cargo run --release -p hone-compute --example attention -- [threads] [instruction set] [part of a line]`
#![allow(clippy::print_stdout)]

use hone_compute::bench::AttentionCall;
use hone_compute::{AttentionShape, Isa, Mask, Precision};

/// What it is like, query heads, key and value heads, sequences, past, length.
const CALLS: [(&str, [usize; 5]); 7] = [
    ("training 8 x 256, 8/4 heads", [8, 4, 8, 0, 256]),
    ("training 1 x 2048, 8/8 heads", [8, 8, 1, 0, 2048]),
    ("prefill 400, 8/4 heads", [8, 4, 1, 0, 400]),
    ("decode 64 x 100, 8/4 heads", [8, 4, 64, 100, 1]),
    // More than caches hold, as the layers of a model do together.
    ("decode 512 x 100, 8/4 heads", [8, 4, 512, 100, 1]),
    ("decode 64 x 100, 8/8 heads", [8, 8, 64, 100, 1]),
    ("decode 8 x 1000, 14/2 heads", [14, 2, 8, 1000, 1]),
];
const HEAD_DIM: usize = 64;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().and_then(|t| t.parse().ok()).unwrap_or(1);
    let only = arguments.next().and_then(|name| Isa::from_name(&name));
    let wanted = arguments.next().unwrap_or_default();
    println!(
        "{:44} {:>10} {:>10} {:>8} {:>10} {:>8}",
        format!("microseconds, {threads} threads, head size {HEAD_DIM}"),
        "append",
        "forward",
        "GFLOP/s",
        "backward",
        "GFLOP/s"
    );
    for precision in [Precision::Bf16, Precision::F32] {
        for isa in Isa::all_here() {
            if only.is_some_and(|only| only != isa) {
                continue;
            }
            for (name, [heads, kv_heads, sequences, past, length]) in CALLS {
                let name = format!("{isa} {precision:?}, {name}");
                if !name.contains(&wanted) {
                    continue;
                }
                let call = AttentionCall {
                    isa,
                    precision,
                    threads,
                    shape: AttentionShape {
                        heads,
                        kv_heads,
                        head_dim: HEAD_DIM,
                        scale: 0.125,
                        mask: Mask::Causal,
                    },
                    sequences,
                    past,
                    length,
                };
                let times = call.measure(0.3);
                print!(
                    "{:44} {:10.1} {:10.1} {:8.1}",
                    name,
                    times.append * 1e6,
                    times.forward * 1e6,
                    call.operations() / times.forward / 1e9
                );
                if let Some(backward) = times.backward {
                    print!(
                        " {:10.1} {:8.1}",
                        backward * 1e6,
                        2.5 * call.operations() / backward / 1e9
                    );
                }
                println!();
            }
        }
    }
}
