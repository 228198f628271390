//! What a run will need. Responses are taken to be as long as they may be.

use super::config::GrpoConfig;
use super::run::{State, rates, rollouts_an_update};
use super::step::{Update, update};
use crate::error::Result;
use crate::plan::{Notes, Plan, Planned, telling_updates};
use crate::rollout::{Networks, Setup, best_weights, microbatches, rehearse_looks, rehearse_rollout};

/// Updates that are rehearsed for their sizes.
const MOST: usize = 6;

/// Goes through updates on an engine that only counts.
pub(super) fn rehearse(mut notes: Notes<'_>, setup: &Setup, c: &GrpoConfig) -> Result<Plan> {
    let (train, grpo, settings) = (&c.train, &c.grpo, c.grpo.rollout());
    let engine = notes.engine();
    notes.tensors(setup.frozen());
    // 1. What stays
    let mut state = State::new(engine, setup, c)?;
    let policy = &state.learners.policy.model;
    notes.model("policy", policy);
    setup.note(&mut notes, &settings);
    let average = if grpo.ema_decay.is_some() {
        " and its moving average"
    } else {
        ""
    };
    let trained = policy.parameters().count().1;
    notes.tensors_with(
        format!("weights of the policy{average}, f32"),
        (2 * 4 * trained, "moments of the optimiser, f32"),
    );
    let best = best_weights(&mut notes, setup, &state.learners.policy);
    notes.gradients(&mut state.learners.policy, train.shards, "")?;
    // 2. Updates
    let mut predictions = 0;
    let attempts = rollouts_an_update(c);
    if attempts > 1 {
        notes.assume(format!(
            "one rollout an update, of the {attempts} that dynamic sampling may take"
        ));
    }
    let (timed, telling) = telling_updates((grpo.updates, MOST), |number| {
        let sizes = microbatches(setup, &settings, (grpo.minibatch, train), number * attempts);
        predictions = predictions.max(sizes.iter().map(|size| size.1).max().unwrap_or(0));
        Ok(sizes)
    })?;
    // Updates differ in their prompts alone
    let timed: Vec<u64> = timed.into_iter().take(2).collect();
    let count = timed.len().max(1) as f64;
    let rates = rates(c)?;
    let mut one = |number: u64| -> Result<()> {
        let networks = Networks {
            policy: &state.learners.policy.model,
            reference: grpo.reads_reference(),
        };
        let episodes = rehearse_rollout(engine, setup, networks, (&settings, number * attempts))?;
        let step = Update {
            number,
            advantages: &vec![0.0; episodes.len()],
            episodes: &episodes,
            grpo,
            train,
            rate: rates.at(number),
        };
        update(engine, &mut state.learners, &step)?;
        Ok(())
    };
    let ((seconds, operations), ()) = notes.timed(|| timed.into_iter().try_for_each(&mut one))?;
    telling.into_iter().try_for_each(&mut one)?;
    notes.logits(predictions, &state.learners.policy.model);
    rehearse_looks(&mut notes, setup, &state.learners.policy, grpo.updates)?;
    drop(best);
    let planned = Planned {
        stage: "grpo",
        steps: grpo.updates,
        tokens: grpo.updates * setup.most_tokens(&settings),
        sources: setup.sources(grpo.updates, &settings),
        step: (seconds / count, operations / count),
    };
    Ok(notes.finish(planned, (c.model.recompute, train)))
}
