//! What reward modelling will need.

use hone_compute::{AdamW, StepRate};
use hone_generate::scores_of;
use hone_model::Transformer;
use hone_run::{Resolved, Shutdown};

use super::config::RewardConfig;
use super::run::{Prepared, merged, offset_of, prepare, with_head};
use super::step::step;
use crate::error::Result;
use crate::job::Job;
use crate::language::shards_of;
use crate::learner::Learner;
use crate::plan::{Notes, Plan, Planned, evaluations, telling_steps};
use crate::sections::TrainSection;

/// Plans a run without starting it. If it is to be `timed`, the machine's speed is measured.
///
/// # Errors
/// If the configuration, the data or the model is at fault.
pub fn plan(job: &Job, config: &Resolved<RewardConfig>, timed: bool) -> Result<Plan> {
    rehearsed(job, &config.config, timed).map_err(|error| error.at(config))
}

fn rehearsed(job: &Job, c: &RewardConfig, timed: bool) -> Result<Plan> {
    let rehearsal = job.rehearsal(&c.train)?;
    let (model, prepared) = prepare(job, &rehearsal, c)?;
    let notes = Notes::timed_if(timed, &rehearsal, (job, &c.train))?;
    rehearse(notes, model, &prepared, c)
}

/// Goes through the steps of a run on an engine that only counts.
pub(super) fn rehearse(
    mut notes: Notes<'_>,
    model: Transformer,
    prepared: &Prepared,
    c: &RewardConfig,
) -> Result<Plan> {
    let (rankings, batch) = (&prepared.rankings, prepared.batch);
    let train: &TrainSection = &c.train;
    let engine = notes.engine();
    // 1. What stays
    let model = with_head(engine, model, c)?;
    notes.tensors("weights, f32");
    notes.model("model", &model);
    let mut learner = Learner::new(engine, model, AdamW::default());
    notes.tensors("moments of the optimiser, f32");
    notes.gradients(&mut learner, train.shards, "")?;
    // 2. Steps
    let rate = StepRate {
        learning_rate: 0.0,
        clip: Some(1.0),
    };
    let (mut tokens, mut looked_at) = (0, 0);
    let (timed, telling) = telling_steps(prepared.total, |number| {
        let chosen = rankings.train.batch(number, batch);
        tokens += chosen.iter().map(|e| e.tokens() as u64).sum::<u64>();
        let shards = shards_of(chosen, train.shards, train.microbatch_tokens, |e| e.rows());
        let sizes: Vec<(usize, usize)> = shards
            .iter()
            .flatten()
            .map(|m| {
                let rows = m.iter().map(|e| e.rows()).sum();
                (rows, m.iter().map(|e| e.responses.len()).sum())
            })
            .collect();
        looked_at += 1;
        Ok(sizes)
    })?;
    let count = timed.len().max(1) as f64;
    let mut one = |number: u64| -> Result<()> {
        let chosen = rankings.train.batch(number, batch);
        step(
            engine,
            &mut learner,
            (chosen, c.reward.ties.into()),
            (train, rate, number),
        )?;
        Ok(())
    };
    let ((seconds, operations), ()) = notes.timed(|| timed.into_iter().try_for_each(&mut one))?;
    telling.into_iter().try_for_each(&mut one)?;
    // 3. Evaluations, and the finished model beside the trained one
    let examples = rankings.held_out.iter().map(|h| &h.example);
    let held_out: Vec<&[u32]> = examples.flat_map(|e| &e.responses).map(|r| r.ids.as_slice()).collect();
    notes.besides(evaluations(c.eval.every, prepared.total), || {
        scores_of(engine, &learner.model, &held_out);
        Ok(())
    })?;
    let result = notes.besides(1, || {
        let result = merged(engine, &learner.model);
        offset_of(engine, &Shutdown::default(), &result, &prepared.centre);
        scores_of(engine, &result, &held_out);
        Ok(result)
    })?;
    notes.written(&result);
    let planned = Planned {
        stage: "reward",
        steps: prepared.total,
        tokens: tokens * prepared.total / looked_at.max(1),
        sources: rankings.train.planned("rankings", prepared.total * batch as u64),
        step: (seconds / count, operations / count),
    };
    let plan = notes.finish(planned, (c.model.recompute, train));
    drop(result);
    Ok(plan)
}
