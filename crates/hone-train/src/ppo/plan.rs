//! What PPO will need. Responses are taken to be as long as they may be.

use hone_run::Resolved;

use super::config::PpoConfig;
use super::run::{Stage, State, check, constants, rates};
use super::step::{Update, update};
use crate::error::Result;
use crate::job::Job;
use crate::plan::{Notes, Plan, Planned, telling_steps};
use crate::rollout::{Networks, microbatches, rehearse_rollout};

/// Plans a run without starting it. If it is to be `timed`, the machine's speed is measured.
///
/// # Errors
/// If the configuration, the data or a model is at fault.
pub fn plan(job: &Job, config: &Resolved<PpoConfig>, timed: bool) -> Result<Plan> {
    rehearsed(job, &config.config, timed).map_err(|error| error.at(config))
}

fn rehearsed(job: &Job, c: &PpoConfig, timed: bool) -> Result<Plan> {
    check(c)?;
    rates(c)?;
    let rehearsal = job.rehearsal(&c.train)?;
    let stage = Stage::load(job, &rehearsal, c)?;
    let notes = Notes::timed_if(timed, &rehearsal, (job, &c.train))?;
    rehearse(notes, &stage, c)
}

/// Goes through updates on an engine that only counts.
pub(super) fn rehearse(mut notes: Notes<'_>, stage: &Stage, c: &PpoConfig) -> Result<Plan> {
    let (train, ppo) = (&c.train, &c.ppo);
    let engine = notes.engine();
    notes.tensors(stage.setup.frozen());
    // 1. What stays
    let mut state = State::new(engine, stage, c)?;
    let (policy, value) = (&state.learners.policy.model, &state.learners.value.model);
    notes.model("policy", policy);
    notes.model("value network", value);
    notes.read_model("reference", &stage.setup.base.model);
    for reader in stage.setup.judge.readers() {
        notes.read_model("reward model", reader.scorer.model());
    }
    let assumed = stage.setup.assumed(&ppo.rollout());
    assumed.into_iter().for_each(|what| notes.assume(what));
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
    notes.gradients(&state.learners.policy, train.shards, "")?;
    notes.gradients(&state.learners.value, train.shards, "the value network's ")?;
    // 2. Updates
    let mut predictions = 0;
    let (timed, telling) = telling_steps(ppo.updates, |number| {
        let sizes = microbatches(&stage.setup, &ppo.rollout(), (ppo.minibatch, train), number);
        predictions = predictions.max(sizes.iter().map(|size| size.1).max().unwrap_or(0));
        Ok(sizes)
    })?;
    // Updates differ in their prompts alone
    let timed: Vec<u64> = timed.into_iter().take(2).collect();
    let count = timed.len().max(1) as f64;
    let mut one = |number: u64| -> Result<()> {
        let networks = Networks {
            policy: &state.learners.policy.model,
            value: Some(&state.learners.value.model),
            reference: true,
        };
        let episodes = rehearse_rollout(engine, &stage.setup, networks, (&ppo.rollout(), number))?;
        let constants = constants(&episodes, ppo.kl_coef, ppo)?;
        let rates = rates(c)?;
        let step = Update {
            number,
            episodes: &episodes,
            constants: &constants,
            ppo,
            train,
            rates: (rates.0.at(number), rates.1.at(number)),
            ptx: stage.ptx_windows(number, c)?,
        };
        update(engine, &mut state.learners, &step)?;
        Ok(())
    };
    let ((seconds, operations), ()) = notes.timed(|| timed.into_iter().try_for_each(&mut one))?;
    // Of a run that warms up its value network, one in which the policy learns, too
    let learns = Some(ppo.value_warmup_updates).filter(|&number| (1..ppo.updates).contains(&number));
    telling.into_iter().take(MOST).chain(learns).try_for_each(&mut one)?;
    notes.logits(predictions, &state.learners.policy.model);
    let planned = Planned {
        stage: "ppo",
        steps: ppo.updates,
        tokens: ppo.updates * stage.setup.most_tokens(&ppo.rollout()),
        sources: stage.setup.sources(ppo.updates, &ppo.rollout()),
        step: (seconds / count, operations / count),
    };
    Ok(notes.finish(planned, (c.model.recompute, train)))
}

/// Updates that are rehearsed for their sizes.
const MOST: usize = 6;
