//! One step of supervised tuning.

use hone_compute::{Engine, StepRate};
use hone_data::TokenExample;
use hone_objective::cross_entropy::TokenStats;

use crate::error::Result;
use crate::language::{LanguageBatch, cross_entropy_step, shards_of};
use crate::learner::{Applied, Learner};
use crate::sections::TrainSection;

/// What a step saw and did.
pub(super) struct Stepped {
    pub stats: TokenStats,
    pub tokens: u64,
    pub applied: Applied,
}

pub(super) fn step(
    engine: &Engine,
    learner: &mut Learner,
    examples: Vec<&TokenExample>,
    (train, rate, step): (&TrainSection, StepRate, u64),
) -> Result<Stepped> {
    // 1. Targets are the reply's tokens; the loss is their mean over the global batch
    let global_tokens: u64 = examples.iter().map(|e| e.targets() as u64).sum();
    let tokens = examples.iter().map(|e| e.ids.len() as u64).sum();
    let shards = shards_of(examples, train.shards, train.microbatch_tokens, |e| e.ids.len());
    // 2. Its gradients
    let mut stats = TokenStats::of(&[], &[])?;
    let gradients = learner.gradients(engine, shards, |model, microbatch, gradients| {
        let batch = LanguageBatch::of_examples(microbatch);
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
    Ok(Stepped { stats, tokens, applied })
}
