//! How fast this machine is, for an estimate of time.

use hone_compute::bench::{MatrixProduct, read_speed};
use hone_compute::{Engine, EngineOptions, Precision, Speeds};

use crate::error::Result;
use crate::job::Job;
use crate::sections::TrainSection;

/// Seconds for each measurement of products.
const SECONDS: f64 = 0.3;
/// Bytes that are read: more than caches hold.
const BYTES: usize = 128 << 20;

/// Measures the speeds from which the time of a run is estimated: matrix products of a shape that training has, operands
/// packed each time, in the run's precision; the same in f32 for attention; and reading of memory.
///
/// # Errors
/// If the instruction set is not there.
pub fn measure_speeds(job: &Job, train: &TrainSection) -> Result<Speeds> {
    let engine = Engine::rehearsal(
        &EngineOptions {
            isa: None,
            precision: train.precision.into(),
            threads: job.threads,
        },
        None,
    )?;
    let product = |precision: Precision, packing: bool| {
        let product = MatrixProduct {
            isa: engine.isa(),
            precision,
            threads: engine.threads(),
            m: 1024,
            k: 512,
            n: 1024,
            packing,
        };
        product.measure(SECONDS) * 1e9
    };
    Ok(Speeds {
        matrix: product(engine.precision(), false),
        vector: product(Precision::F32, false),
        memory: read_speed(engine.threads(), BYTES, 3) * 1e9,
    })
}
