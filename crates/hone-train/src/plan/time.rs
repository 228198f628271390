//! How fast this machine is, for an estimate of time.

use std::time::Instant;

use hone_compute::bench::{AttentionCall, MatrixProduct, read_speed};
use hone_compute::{AdamW, AttentionShape, Engine, Mask, Speeds, StepRate};
use hone_data::TokenExample;
use hone_model::{NewModel, Transformer};

use crate::error::Result;
use crate::job::Job;
use crate::language::{LanguageBatch, cross_entropy_step};
use crate::learner::Learner;
use crate::sections::TrainSection;

/// Seconds for each measurement of products.
const SECONDS: f64 = 0.2;
/// Bytes that are read: more than caches hold.
const BYTES: usize = 128 << 20;
/// Steps of the small model; the fastest counts.
const STEPS: usize = 3;
/// Tokens of such a step, and of its vocabulary.
const TOKENS: usize = 512;
const VOCABULARY: usize = 2048;

/// Measures the speeds from which the time of a run is estimated: matrix products and attention in the run's precision, and
/// reading of memory. Then steps of a small model are rehearsed with these speeds and done for real,
/// and all three are scaled so that both agree.
///
/// # Errors
/// If the configuration asks for an engine that cannot be had.
pub(crate) fn measure_speeds(job: &Job, train: &TrainSection) -> Result<Speeds> {
    let engine = job.engine(train)?;
    let product = MatrixProduct {
        isa: engine.isa(),
        precision: engine.precision(),
        threads: engine.threads(),
        m: 512,
        k: 512,
        n: 1024,
        packing: false,
    };
    let attention = AttentionCall {
        isa: engine.isa(),
        precision: engine.precision(),
        threads: engine.threads(),
        shape: AttentionShape {
            heads: 8,
            kv_heads: 4,
            head_dim: 64,
            scale: 0.125,
            mask: Mask::Causal,
        },
        sequences: 2,
        past: 0,
        length: TOKENS / 2,
    };
    let raw = Speeds {
        matrix: product.measure(SECONDS) * 1e9,
        attention: attention.measure(SECONDS / 3.0).operations_per_second(&attention),
        memory: read_speed(engine.threads(), BYTES, 3) * 1e9,
    };
    let rehearsal = job.rehearsal(train)?;
    rehearsal.count_time(raw);
    let counted = |engine: &Engine| engine.account().map_or(0.0, |account| account.seconds);
    let expected = fastest_step(&rehearsal, || counted(&rehearsal))?;
    let start = Instant::now();
    let took = fastest_step(&engine, || start.elapsed().as_secs_f64())?;
    let factor = expected / took;
    Ok(Speeds {
        matrix: raw.matrix * factor,
        attention: raw.attention * factor,
        memory: raw.memory * factor,
    })
}

/// The fastest of some optimiser steps of a small model, by a clock.
fn fastest_step(engine: &Engine, clock: impl Fn() -> f64) -> Result<f64> {
    let new = NewModel {
        family: "llama".into(),
        width: 512,
        layers: 2,
        heads: 8,
        kv_heads: Some(4),
        head_dim: None,
        intermediate: Some(1376),
        context: TOKENS,
        tied: true,
        rope_theta: 10_000.0,
    };
    let model = Transformer::random(engine, new.architecture(VOCABULARY)?, 1);
    let mut learner = Learner::new(engine, model, AdamW::default());
    let example = TokenExample {
        ids: (0..TOKENS / 2).map(|i| (i * 7 % VOCABULARY) as u32).collect(),
        trained: vec![true; TOKENS / 2],
    };
    let batch = || LanguageBatch::of_examples([&example, &example]);
    let rate = StepRate {
        learning_rate: 1e-4,
        clip: Some(1.0),
    };
    let mut fastest = f64::INFINITY;
    for step in 0..STEPS as u64 {
        let start = clock();
        let gradients = learner.gradients(engine, vec![vec![batch()]], |model, batch, gradients| {
            cross_entropy_step(engine, model, &batch, (batch.targets() as u64, 1.0), gradients)?;
            Ok(())
        })?;
        learner.apply(engine, &gradients, rate, step)?;
        fastest = fastest.min(clock() - start);
    }
    Ok(fastest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::PrecisionSetting;
    use hone_run::{Shutdown, Silent};

    #[test]
    fn a_small_model_takes_the_time_that_is_rehearsed() {
        let job = Job {
            dir: std::path::PathBuf::new(),
            base: std::path::PathBuf::new(),
            observer: std::sync::Arc::new(Silent),
            shutdown: Shutdown::default(),
            allow_isa_change: false,
            threads: Some(1),
        };
        let train = TrainSection {
            precision: PrecisionSetting::F32,
            ..TrainSection::default()
        };
        let speeds = measure_speeds(&job, &train).unwrap();
        assert!(
            [speeds.matrix, speeds.attention, speeds.memory]
                .iter()
                .all(|&s| s > 1e6 && s.is_finite())
        );
        let rehearsal = job.rehearsal(&train).unwrap();
        rehearsal.count_time(speeds);
        let clock = || rehearsal.account().unwrap().seconds;
        let planned = fastest_step(&rehearsal, clock).unwrap();
        // 6 operations a weight and token, and those of attention, at 1 to 1000 GFLOP/s
        assert!((0.005..20.0).contains(&planned), "{planned}");
        let (engine, start) = (job.engine(&train).unwrap(), Instant::now());
        let took = fastest_step(&engine, || start.elapsed().as_secs_f64()).unwrap();
        // Other work on the machine comes and goes between the two
        assert!(
            (0.1..10.0).contains(&(planned / took)),
            "planned {planned}, took {took}"
        );
    }
}
