//! What a run will need. Responses are taken to be as long as they may be, and as many to be kept as may be.

use super::config::ExpertIterationConfig;
use super::run::State;
use super::step::{Round, tune};
use crate::error::Result;
use crate::language::shards_of;
use crate::plan::{Notes, Plan, Planned, telling_updates};
use crate::rollout::{
    Episode, Networks, Setup, best_weights, extents, passes, rehearse_looks, rehearse_rollout, tell_apart,
};

/// Rounds that are rehearsed for their sizes.
const MOST: usize = 3;

/// Goes through rounds on an engine that only counts.
pub(super) fn rehearse(mut notes: Notes<'_>, setup: &Setup, c: &ExpertIterationConfig) -> Result<Plan> {
    let (train, section, settings) = (&c.train, &c.expert_iteration, c.expert_iteration.rollout());
    let engine = notes.engine();
    notes.tensors(setup.frozen());
    // 1. What stays
    let mut state = State::new(engine, setup, c)?;
    let policy = &state.policy.model;
    notes.model("policy", policy);
    setup.note(&mut notes, &settings);
    let trained = policy.parameters().count().1;
    notes.tensors_with(
        "weights of the policy, f32",
        (2 * 4 * trained, "moments of the optimiser, f32"),
    );
    let best = best_weights(&mut notes, setup, &state.policy);
    notes.gradients(&mut state.policy, train.shards, "")?;
    // 2. Rounds
    let mut predictions = 0;
    let (timed, telling) = telling_updates((section.rounds, MOST), |number| {
        let sizes = microbatches(setup, c, number);
        predictions = predictions.max(sizes.iter().map(|size| size.1).max().unwrap_or(0));
        Ok(sizes)
    })?;
    // Rounds differ in their prompts alone
    let timed: Vec<u64> = timed.into_iter().take(1).collect();
    let count = timed.len().max(1) as f64;
    let vocabulary = setup.base.model.architecture().vocab_size;
    let mut one = |number: u64| -> Result<()> {
        let networks = Networks {
            policy: &state.policy.model,
            reference: section.measure_kl,
        };
        let mut episodes = rehearse_rollout(engine, setup, networks, (&settings, number))?;
        tell_apart(&mut episodes, vocabulary.min(section.samples_per_prompt));
        let groups = episodes.chunks(section.samples_per_prompt);
        let kept: Vec<&Episode> = groups.flat_map(|group| &group[..section.most()]).collect();
        let round = Round {
            number,
            kept: &kept,
            section,
            train,
        };
        tune(engine, &mut state.policy, state.start.as_ref(), &round)?;
        Ok(())
    };
    let ((seconds, operations), ()) = notes.timed(|| timed.into_iter().try_for_each(&mut one))?;
    telling.into_iter().try_for_each(&mut one)?;
    notes.logits(predictions, &state.policy.model);
    rehearse_looks(&mut notes, setup, &state.policy, section.rounds)?;
    drop(best);
    let planned = Planned {
        stage: "expert-iteration",
        steps: section.rounds,
        tokens: section.rounds * setup.most_tokens(&settings),
        sources: setup.sources(section.rounds, &settings),
        step: (seconds / count, operations / count),
    };
    Ok(notes.finish(planned, (c.model.recompute, train)))
}

/// Rows and response tokens of the micro-batches of a round in which as much is kept as may be.
fn microbatches(setup: &Setup, c: &ExpertIterationConfig, number: u64) -> Vec<(usize, usize)> {
    let (train, section, settings) = (&c.train, &c.expert_iteration, c.expert_iteration.rollout());
    let groups = extents(setup, &settings, number);
    let most = section.most();
    let mut sizes = Vec::new();
    let kept = groups.len() * most;
    for places in passes((kept, section.minibatch), (number, section.epochs), train.seed) {
        let chosen = places.chunk_by(|a, b| a / most == b / most);
        let chosen: Vec<(usize, usize)> = chosen
            .map(|places| {
                let extent = groups[places[0] / most];
                (
                    extent.prompt + places.len() * extent.behind,
                    places.len() * extent.sampled,
                )
            })
            .collect();
        let cut = shards_of(chosen, train.shards, train.microbatch_tokens, |group| group.0);
        let sum = |groups: &Vec<(usize, usize)>| {
            groups
                .iter()
                .fold((0, 0), |sum, group| (sum.0 + group.0, sum.1 + group.1))
        };
        sizes.extend(cut.iter().flatten().map(sum));
    }
    sizes
}
