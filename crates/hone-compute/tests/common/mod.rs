//! What the tests of the tape share.
#![allow(dead_code)]

use hone_compute::{Engine, EngineOptions, Isa, Optimizer, Parameters, Precision};
use hone_math::Key;
use hone_testing::Matrix;

/// An engine; results must not depend on `threads`.
pub fn engine(isa: Isa, precision: Precision, threads: usize) -> Engine {
    let options = EngineOptions {
        isa: Some(isa),
        precision,
        threads: Some(threads),
    };
    let engine = Engine::new(&options).expect("an instruction set of this machine");
    poison(&engine);
    engine
}

/// Leaves memory full of NaN for tensors to come, so that an operation that reads what it did not write is found out.
pub fn poison(engine: &Engine) {
    let sizes = [
        64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 768, 1024, 1536, 2048, 4096, 8192, 16384,
    ];
    let held: Vec<_> = sizes.iter().flat_map(|&n| (0..4).map(move |_| n)).collect();
    let held: Vec<_> = held
        .into_iter()
        .map(|n| engine.tensor(1, n, &vec![f32::NAN; n]))
        .collect();
    drop(held);
}

/// Every instruction set of this machine in both precisions, with one, two or three threads.
pub fn engines() -> Vec<Engine> {
    let isas = Isa::all_here().into_iter().enumerate();
    isas.flat_map(|(i, isa)| {
        [
            engine(isa, Precision::F32, 1 + i % 3),
            engine(isa, Precision::Bf16, 1 + (i + 1) % 3),
        ]
    })
    .collect()
}

/// Normal numbers that f32 holds exactly.
pub fn normal(seed: u64, rows: usize, cols: usize, deviation: f64) -> Matrix {
    let key = Key::new(seed, "numbers", 0);
    Matrix::from_fn(rows, cols, |r, c| {
        f64::from((key.normal((r * cols + c) as u64) * deviation) as f32)
    })
}

/// Random ids below `bound`.
pub fn ids(seed: u64, count: usize, bound: usize) -> Vec<u32> {
    let key = Key::new(seed, "ids", 0);
    (0..count).map(|i| key.below(i as u64, bound as u64) as u32).collect()
}

/// All parameters and moments.
pub fn read_all(engine: &Engine, parameters: &Parameters, optimizer: &Optimizer) -> Vec<f32> {
    let mut all = Vec::new();
    for (id, parameter) in parameters.iter() {
        all.extend(engine.read(parameter.value()));
        if let Some((m, v)) = optimizer.moments(id) {
            all.extend(engine.read(m));
            all.extend(engine.read(v));
        }
    }
    all
}
