//! What preference tuning will need.

use hone_compute::{AdamW, StepRate};
use hone_model::Transformer;
use hone_run::Resolved;

use super::config::PreferenceConfig;
use super::evaluation::Evaluation;
use super::reference::Reference;
use super::run::{Prepared, answers, prepare, with_adapter};
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
pub fn plan(job: &Job, config: &Resolved<PreferenceConfig>, timed: bool) -> Result<Plan> {
    rehearsed(job, &config.config, timed).map_err(|error| error.at(config))
}

fn rehearsed(job: &Job, c: &PreferenceConfig, timed: bool) -> Result<Plan> {
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
    c: &PreferenceConfig,
) -> Result<Plan> {
    let (preferences, batch, method) = (&prepared.preferences, prepared.batch, prepared.method);
    let train: &TrainSection = &c.train;
    let engine = notes.engine();
    // 1. What stays
    notes.tensors("weights, f32");
    let model = with_adapter(engine, model, c)?;
    notes.tensors("the adapter, f32");
    notes.model("policy", &model);
    let mut learner = Learner::new(engine, model, AdamW::default());
    notes.tensors("moments of the optimiser, f32");
    notes.gradients(&mut learner, train.shards, "")?;
    // 2. The reference, whose buffers serve the steps too, and the steps
    let reference = if c.preference.method.has_reference() {
        notes.besides(1, || Reference::new(engine, &learner, &preferences.all(), |_| Ok(())))?
    } else {
        Reference::default()
    };
    let rate = StepRate {
        learning_rate: 0.0,
        clip: Some(1.0),
    };
    let (mut tokens, mut looked_at, mut predictions) = (0, 0, 0);
    let (timed, telling) = telling_steps(prepared.total, |number| {
        let chosen = preferences.train.batch(number, batch);
        tokens += chosen.iter().map(|e| e.tokens() as u64).sum::<u64>();
        let shards = shards_of(chosen, train.shards, train.microbatch_tokens, |e| e.rows());
        let sizes: Vec<(usize, usize)> = shards
            .iter()
            .flatten()
            .map(|m| {
                let rows = m.iter().map(|e| e.rows()).sum();
                (rows, m.iter().map(|e| e.response_tokens()).sum())
            })
            .collect();
        looked_at += 1;
        predictions = sizes.iter().map(|s| s.1).fold(predictions, usize::max);
        Ok(sizes)
    })?;
    let count = timed.len().max(1) as f64;
    let one = |learner: &mut Learner, number: u64| -> Result<()> {
        let chosen = preferences.train.batch(number, batch);
        step(engine, learner, (chosen, &reference, method), (train, rate, number))?;
        Ok(())
    };
    let mut steps = |numbers: &[u64]| numbers.iter().try_for_each(|&number| one(&mut learner, number));
    let ((seconds, operations), ()) = notes.timed(|| steps(&timed))?;
    steps(&telling)?;
    notes.logits(predictions, &learner.model);
    // 3. Evaluations, and the one of the result
    let looks = evaluations(c.eval.every, prepared.total);
    let judged = |model: &Transformer| -> Result<()> {
        let judge = (&reference, method, c.train.seed);
        Evaluation::of(engine, model, &preferences.held_out, judge)?;
        Ok(())
    };
    notes.besides(looks + 1, || judged(&learner.model))?;
    notes.besides(looks, || answers(engine, &mut learner.model, prepared, (c, 0)))?;
    notes.with_best_weights((c.keep, &mut learner), |learner| {
        if looks > 1 {
            let mut steps = timed.iter().chain(&telling);
            steps.try_for_each(|&number| one(learner, number))?;
        }
        judged(&learner.model)?;
        answers(engine, &mut learner.model, prepared, (c, 0))?;
        Ok(())
    })?;
    let planned = Planned {
        stage: "preference",
        steps: prepared.total,
        tokens: tokens * prepared.total / looked_at.max(1),
        sources: preferences.train.planned("prompts", prepared.total * batch as u64),
        step: (seconds / count, operations / count),
    };
    Ok(notes.finish(planned, (c.model.recompute, train)))
}
