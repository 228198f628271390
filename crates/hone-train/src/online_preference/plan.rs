//! What a run will need. Responses are taken to be as long as they may be, and of each prompt two to differ in score.

use super::config::{OnlinePreferenceConfig, PairRule};
use super::pairs::Paired;
use super::run::{learner, rates};
use super::step::{Update, update};
use crate::error::Result;
use crate::language::shards_of;
use crate::plan::{Notes, Plan, Planned, telling_updates};
use crate::preferred::Method;
use crate::rollout::{Networks, Setup, best_weights, extents, passes, rehearse_looks, rehearse_rollout, tell_apart};

/// Updates that are rehearsed for their sizes.
const MOST: usize = 6;

/// Goes through updates on an engine that only counts.
pub(super) fn rehearse(mut notes: Notes<'_>, setup: &Setup, c: &OnlinePreferenceConfig) -> Result<Plan> {
    let (train, section, settings) = (&c.train, &c.online_preference, c.online_preference.rollout());
    let (method, rates) = (Method::new(&c.preference)?, rates(c)?);
    let (engine, samples) = (notes.engine(), section.samples_per_prompt);
    notes.tensors(setup.frozen());
    // 1. What stays
    let mut policy = learner(engine, setup, c)?;
    notes.model("policy", &policy.model);
    setup.note(&mut notes, &settings);
    let trained = policy.model.parameters().count().1;
    notes.tensors_with(
        "weights of the policy, f32",
        (2 * 4 * trained, "moments of the optimiser, f32"),
    );
    let best = best_weights(&mut notes, setup, &policy);
    notes.gradients(&mut policy, train.shards, "")?;
    // 2. Updates
    let mut predictions = 0;
    let (timed, telling) = telling_updates((section.updates, MOST), |number| {
        let sizes = microbatches(setup, c, number);
        predictions = predictions.max(sizes.iter().map(|size| size.1).max().unwrap_or(0));
        Ok(sizes)
    })?;
    // Updates differ in their prompts alone
    let timed: Vec<u64> = timed.into_iter().take(2).collect();
    let count = timed.len().max(1) as f64;
    let vocabulary = setup.base.model.architecture().vocab_size;
    let mut one = |number: u64| -> Result<()> {
        let networks = Networks {
            policy: &policy.model,
            reference: c.preference.method.has_reference(),
        };
        let mut episodes = rehearse_rollout(engine, setup, networks, (&settings, number))?;
        tell_apart(&mut episodes, vocabulary.min(samples));
        for (i, episode) in episodes.iter_mut().enumerate() {
            episode.score = (i % samples) as f32;
        }
        let prompts: Vec<Option<Paired<'_>>> = episodes
            .chunks(samples)
            .map(|group| Paired::of(group, section.pairs))
            .collect::<Result<_>>()?;
        let step = Update {
            number,
            prompts: &prompts,
            method,
            c,
            rate: rates.at(number),
        };
        update(engine, &mut policy, &step)?;
        Ok(())
    };
    let ((seconds, operations), ()) = notes.timed(|| timed.into_iter().try_for_each(&mut one))?;
    telling.into_iter().try_for_each(&mut one)?;
    notes.logits(predictions, &policy.model);
    rehearse_looks(&mut notes, setup, &policy, section.updates)?;
    drop(best);
    let planned = Planned {
        stage: "online-preference",
        steps: section.updates,
        tokens: section.updates * setup.most_tokens(&settings),
        sources: setup.sources(section.updates, &settings),
        step: (seconds / count, operations / count),
    };
    Ok(notes.finish(planned, (c.model.recompute, train)))
}

/// Rows and response tokens of the micro-batches of an update in which every prompt has its pairs.
fn microbatches(setup: &Setup, c: &OnlinePreferenceConfig, number: u64) -> Vec<(usize, usize)> {
    let (train, section, settings) = (&c.train, &c.online_preference, c.online_preference.rollout());
    let members = match section.pairs {
        PairRule::Extremes => 2,
        PairRule::All => section.samples_per_prompt,
    };
    let rows: Vec<(usize, usize)> = extents(setup, &settings, number)
        .into_iter()
        .map(|e| (e.prompt + members * e.behind, members * e.sampled))
        .collect();
    let cut = (rows.len(), section.prompts_a_step());
    let mut sizes = Vec::new();
    for places in passes(cut, (number, section.epochs), train.seed) {
        let chosen: Vec<(usize, usize)> = places.into_iter().map(|i| rows[i]).collect();
        let shards = shards_of(chosen, train.shards, train.microbatch_tokens, |group| group.0);
        let sum = |groups: &Vec<(usize, usize)>| {
            groups
                .iter()
                .fold((0, 0), |sum, group| (sum.0 + group.0, sum.1 + group.1))
        };
        sizes.extend(shards.iter().flatten().map(sum));
    }
    sizes
}
