//! One step of pre-training.

use hone_compute::{Engine, StepRate};
use hone_data::Window;
use hone_objective::cross_entropy::TokenStats;

use crate::error::Result;
use crate::language::{LanguageBatch, cross_entropy_step, shards_of};
use crate::learner::{Applied, Learner};
use crate::sections::TrainSection;

/// What a step saw and did.
pub(super) struct Stepped {
    pub stats: TokenStats,
    pub applied: Applied,
}

pub(super) fn step(
    engine: &Engine,
    learner: &mut Learner,
    windows: Vec<Window<'_>>,
    (train, rate, step): (&TrainSection, StepRate, u64),
) -> Result<Stepped> {
    // 1. Every position of every window predicts the next token
    let global_tokens: u64 = windows.iter().map(|w| w.targets.len() as u64).sum();
    let shards = shards_of(windows, train.shards, train.microbatch_tokens, |w| w.inputs.len());
    // 2. Gradients of the mean cross-entropy over the global batch
    let mut stats = TokenStats::of(&[], &[])?;
    let gradients = learner.gradients(engine, shards, |model, microbatch, gradients| {
        let batch = LanguageBatch::of_windows(microbatch);
        stats.merge(&cross_entropy_step(
            engine,
            model,
            &batch,
            (global_tokens, 1.0),
            gradients,
        )?);
        Ok(())
    })?;
    // 3. Clip and step
    let applied = learner.apply(engine, &gradients, rate, step)?;
    Ok(Stepped { stats, applied })
}
