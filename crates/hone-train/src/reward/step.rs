//! One step of reward modelling.

use hone_compute::{Engine, StepRate, Tape};
use hone_objective::bradley_terry::{PreferenceStats, Ties, bradley_terry, prepare};

use super::batch::{RankedExample, RankingBatch};
use crate::error::Result;
use crate::language::shards_of;
use crate::learner::{Applied, Learner};
use crate::sections::TrainSection;

/// What a step saw and did.
pub(super) struct Stepped {
    pub stats: PreferenceStats,
    pub tokens: u64,
    pub applied: Applied,
}

pub(super) fn step(
    engine: &Engine,
    learner: &mut Learner,
    (examples, ties): (Vec<&RankedExample>, Ties),
    (train, rate, step): (&TrainSection, StepRate, u64),
) -> Result<Stepped> {
    // 1. The loss is the mean over the prompts of the whole batch; a prompt's responses stay together
    let global_prompts = examples
        .iter()
        .map(|e| prepare(std::slice::from_ref(&e.comparison), ties))
        .sum();
    let tokens = examples.iter().map(|e| e.tokens() as u64).sum();
    let shards = shards_of(examples, train.shards, train.microbatch_tokens, |e| e.rows());
    let mut stats = PreferenceStats::default();
    let gradients = learner.gradients(engine, shards, |model, microbatch, gradients| {
        let batch = RankingBatch::new(&microbatch);
        // 2. Scores at the last token of each response
        let mut tape = Tape::training(engine, model.parameters());
        let ends = model.hidden_of(&mut tape, &batch.sequences.tokens(), &batch.ends); // [k, d]
        let scores = model.head_outputs(&mut tape, &ends); // [k, 1]
        // 3. -ln sigmoid(s_i - s_j - margin_ij), the mean over a prompt's pairs
        let numbers = engine.read(scores.value());
        let loss = bradley_terry(&numbers, &batch.comparisons, ties, global_prompts)?;
        stats.merge(&loss.stats);
        // 4. Back through head and trunk
        let seed = engine.tensor(numbers.len(), 1, &loss.grad_scores);
        tape.backward(vec![(&scores, seed)], gradients);
        Ok(())
    })?;
    // 5. Clip and step
    let applied = learner.apply(engine, &gradients, rate, step)?;
    Ok(Stepped { stats, tokens, applied })
}
