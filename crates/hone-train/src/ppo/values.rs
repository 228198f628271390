//! The value network in an update: its values at the rollout, and its steps.

use std::ops::Range;
use std::time::Instant;

use hone_compute::{Engine, Gradients};
use hone_generate::heads_before_in;
use hone_model::Transformer;
use hone_objective::ppo::{ValueConfig, ValueInputs, ValueStats, value_loss};

use super::microbatches::{Prepared, Rewarded, batch, flat, microbatches};
use super::step::Update;
use crate::error::Result;
use crate::learner::{Applied, Learner};
use crate::rollout::{Episode, tokens_of};

/// Values at the rollout, and the first step, whose training pass gave some of them.
pub(super) struct Opening {
    /// Values at the position before each sampled token of the rollout, `[t]`.
    pub values: Vec<f32>,
    /// The loss and the gradients of the first minibatch. The step is taken once the policy's numbers have been checked.
    pub first: (ValueStats, Gradients),
    /// Seconds of the pass over the other episodes.
    pub seconds: f64,
}

/// What the loss compares a micro-batch's values with, `[t]` each.
struct Targets {
    old_values: Vec<f32>,
    returns: Vec<f32>,
}

/// Values of the whole rollout, and the gradients of the first minibatch. In it old values and values are the same numbers, so
/// the training pass gives them, and returns follow from them episode by episode; the other episodes are read by a pass of
/// their own.
///
/// # Errors
/// If the loss is not defined.
pub(super) fn open(
    engine: &Engine,
    learner: &mut Learner,
    update: &Update<'_>,
    (first, others): (&[&[Rewarded<'_>]], &[&[Rewarded<'_>]]),
) -> Result<Opening> {
    let tokens = update.episodes.iter().map(Episode::length).sum();
    let mut values = vec![0.0; tokens];
    // 1. The other minibatches
    let reading = Instant::now();
    let others: Vec<&Rewarded<'_>> = others.iter().copied().flatten().collect();
    let episodes: Vec<&Episode> = others.iter().map(|rewarded| rewarded.episode).collect();
    for (rewarded, read) in others.iter().zip(read(engine, &learner.model, &episodes)) {
        values[rewarded.range.clone()].copy_from_slice(&read);
    }
    let seconds = reading.elapsed().as_secs_f64();
    // 2. The first minibatch
    let first = gradients((engine, learner), update, first, |groups, now| {
        let mut rest = now;
        for rewarded in groups.iter().copied().flatten() {
            let (own, after) = rest.split_at(rewarded.range.len());
            values[rewarded.range.clone()].copy_from_slice(own);
            rest = after;
        }
        Ok(Targets {
            old_values: now.to_vec(),
            returns: update.rewards.returns(groups, now)?,
        })
    })?;
    Ok(Opening { values, first, seconds })
}

/// A later step, on a minibatch whose values at the rollout are known.
///
/// # Errors
/// If the loss is not defined, or training diverges.
pub(super) fn value_step(
    engine: &Engine,
    learner: &mut Learner,
    update: &Update<'_>,
    chosen: &[&[Prepared<'_>]],
) -> Result<(ValueStats, Applied)> {
    let (stats, gradients) = gradients((engine, learner), update, chosen, |groups, _| {
        Ok(Targets {
            old_values: flat(groups, |prepared| prepared.values),
            returns: flat(groups, |prepared| prepared.returns),
        })
    })?;
    Ok((stats, learner.apply(engine, &gradients, update.rates.1, update.number)?))
}

/// Values at the position before each sampled token of some episodes, by a pass that only reads, `[t]` each.
fn read(engine: &Engine, value: &Transformer, episodes: &[&Episode]) -> Vec<Vec<f32>> {
    let sequences: Vec<&[u32]> = episodes.iter().map(|episode| &*episode.ids).collect();
    let spans: Vec<&[Range<usize>]> = episodes.iter().map(|episode| &*episode.spans).collect();
    let mut values = heads_before_in(engine, value, &sequences, &spans);
    let offset = value.head_offset().unwrap_or(0.0);
    values.iter_mut().flatten().for_each(|v| *v += offset);
    values
}

/// The loss of a minibatch and its gradients; `targets` says what the values of a micro-batch, which it is given, are compared
/// with.
fn gradients<'a, T: AsRef<Episode>>(
    (engine, learner): (&Engine, &mut Learner),
    update: &Update<'_>,
    chosen: &[&'a [T]],
    mut targets: impl FnMut(&[&'a [T]], &[f32]) -> Result<Targets>,
) -> Result<(ValueStats, Gradients)> {
    let config = ValueConfig {
        value_clip_range: update.ppo.value_clip_range,
        value_coef: update.ppo.value_coef,
    };
    let global_tokens = tokens_of(chosen);
    let shards = microbatches(update, chosen);
    let mut stats = ValueStats::default();
    let gradients = learner.gradients(engine, shards, |model, groups, gradients| {
        let batch = batch(update, &groups);
        let numbers = batch.values(engine, model);
        let targets = targets(&groups, &numbers.values)?;
        let inputs = ValueInputs {
            values: &numbers.values,
            old_values: &targets.old_values,
            returns: &targets.returns,
            mask: &batch.mask,
        };
        let loss = value_loss(&inputs, config, global_tokens)?;
        stats.merge(&loss.stats);
        let seed = engine.tensor(loss.grad_values.len(), 1, &loss.grad_values);
        numbers.tape.backward(vec![(&numbers.output, seed)], gradients);
        Ok(())
    })?;
    Ok((stats, gradients))
}
