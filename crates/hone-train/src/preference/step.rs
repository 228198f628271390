//! One step of preference tuning.

use hone_compute::{Engine, StepRate};
use hone_model::Transformer;

use super::batch::{Batch, Example, compared};
use super::reference::{Reference, summed};
use crate::error::Result;
use crate::language::shards_of;
use crate::learner::{Applied, Learner};
use crate::preferred::{Constants, Judged, Method, Stats};
use crate::sections::TrainSection;

/// What a step saw and did.
pub(super) struct Stepped {
    pub stats: Stats,
    pub kl: Option<f64>,
    pub tokens: u64,
    pub applied: Applied,
}

pub(super) fn step(
    engine: &Engine,
    learner: &mut Learner,
    (examples, reference, method): (Vec<&Example>, &Reference, Method),
    (train, rate, step): (&TrainSection, StepRate, u64),
) -> Result<Stepped> {
    // 1. What the whole batch is normalised by; of KTO also its divergence from the reference
    let constants = constants(engine, &learner.model, &examples, (reference, method))?;
    let tokens = examples.iter().map(|e| e.tokens() as u64).sum();
    let shards = shards_of(examples, train.shards, train.microbatch_tokens, |e| e.rows());
    let mut stats = Stats::default();
    let gradients = learner.gradients(engine, shards, |policy, microbatch, gradients| {
        // 2. Log-probabilities of the responses' tokens
        let numbers = Batch::new(&microbatch).numbers(engine, policy);
        // 3. The method's loss on their sums
        let judged = method.judge(&compared(&microbatch, reference), &numbers.logprobs, constants)?;
        let Judged { gradient, stats: own } = judged;
        stats.merge(&own);
        // 4. Back through the trunk
        let seed = engine.tensor(gradient.len(), 1, &gradient);
        numbers.tape.backward(vec![(&numbers.logprob, seed)], gradients);
        Ok(())
    })?;
    // 5. Clip and step
    let applied = learner.apply(engine, &gradients, rate, step)?;
    Ok(Stepped {
        stats,
        kl: constants.kl,
        tokens,
        applied,
    })
}

/// The constants of a batch, for which KTO reads its mismatched responses.
pub(super) fn constants(
    engine: &Engine,
    policy: &Transformer,
    examples: &[&Example],
    (reference, method): (&Reference, Method),
) -> Result<Constants> {
    let mismatched: Vec<_> = examples.iter().flat_map(|e| &e.mismatched).collect();
    if mismatched.is_empty() {
        return method.constants(&compared(examples, reference), None);
    }
    let policy = summed(engine, policy, &mismatched)?;
    let of_mismatched = examples.iter().flat_map(|e| reference.of_mismatched(e));
    let references: Vec<f64> = of_mismatched.copied().collect();
    method.constants(&compared(examples, reference), Some((&policy, &references)))
}
