//! What PPO will need. Responses are taken to be as long as they may be.

use super::config::PpoConfig;
use super::rewards::RolloutRewards;
use super::run::{Besides, State, rates};
use super::step::{Update, update};
use crate::error::Result;
use crate::plan::{Notes, Plan, Planned, telling_updates};
use crate::rollout::{Networks, Setup, best_weights, microbatches, rehearse_looks, rehearse_rollout};

/// Goes through updates on an engine that only counts.
pub(super) fn rehearse(mut notes: Notes<'_>, (setup, besides): (&Setup, &Besides), c: &PpoConfig) -> Result<Plan> {
    let (train, ppo) = (&c.train, &c.ppo);
    let engine = notes.engine();
    notes.tensors(setup.frozen());
    // 1. What stays
    let mut state = State::new(engine, (setup, besides), c)?;
    let (policy, value) = (&state.learners.policy.model, &state.learners.value.model);
    notes.model("policy", policy);
    notes.model("value network", value);
    setup.note(&mut notes, &ppo.rollout());
    let trained = policy.parameters().count().1 + value.parameters().count().1;
    let average = if ppo.ema_decay.is_some() {
        " and the moving average"
    } else {
        ""
    };
    notes.tensors_with(
        format!("weights of the policy, the value network{average}, f32"),
        (2 * 4 * trained, "moments of both optimisers, f32"),
    );
    let best = best_weights(&mut notes, setup, &state.learners.policy);
    notes.gradients(&mut state.learners.policy, train.shards, "")?;
    notes.gradients(&mut state.learners.value, train.shards, "the value network's ")?;
    // 2. Updates
    let mut predictions = 0;
    let (timed, telling) = telling_updates((ppo.updates, MOST), |number| {
        let sizes = microbatches(setup, &ppo.rollout(), (ppo.minibatch, train), number);
        predictions = predictions.max(sizes.iter().map(|size| size.1).max().unwrap_or(0));
        if ppo.share_beginnings {
            // More episodes go into a micro-batch, and no more tokens
            predictions = predictions.max(train.microbatch_tokens.min(ppo.minibatch * setup.longest));
        }
        Ok(sizes)
    })?;
    // Updates differ in their prompts alone
    let timed: Vec<u64> = timed.into_iter().take(2).collect();
    let count = timed.len().max(1) as f64;
    let mut one = |number: u64| -> Result<()> {
        let networks = Networks {
            policy: &state.learners.policy.model,
            reference: true,
        };
        let episodes = rehearse_rollout(engine, setup, networks, (&ppo.rollout(), number))?;
        let rewards = RolloutRewards::of(&episodes, ppo.kl_coef, ppo)?;
        let rates = rates(c)?;
        let step = Update {
            number,
            episodes: &episodes,
            rewards: &rewards,
            ppo,
            train,
            rates: (rates.0.at(number), rates.1.at(number)),
            ptx: besides.ptx_windows(number, c)?,
        };
        update(engine, &mut state.learners, &step)?;
        Ok(())
    };
    let ((seconds, operations), ()) = notes.timed(|| timed.into_iter().try_for_each(&mut one))?;
    // Of a run that warms up its value network, one in which the policy learns, too
    let learns = Some(ppo.value_warmup_updates).filter(|&number| (1..ppo.updates).contains(&number));
    telling.into_iter().chain(learns).try_for_each(&mut one)?;
    notes.logits(predictions, &state.learners.policy.model);
    rehearse_looks(&mut notes, setup, &state.learners.policy, ppo.updates)?;
    drop(best);
    let planned = Planned {
        stage: "ppo",
        steps: ppo.updates,
        tokens: ppo.updates * setup.most_tokens(&ppo.rollout()),
        sources: setup.sources(ppo.updates, &ppo.rollout()),
        step: (seconds / count, operations / count),
    };
    Ok(notes.finish(planned, (c.model.recompute, train)))
}

/// Updates that are rehearsed for their sizes.
const MOST: usize = 6;
