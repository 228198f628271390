//! What pre-training will need.

use hone_compute::{AdamW, StepRate};
use hone_model::Transformer;
use hone_run::Resolved;

use super::config::PretrainConfig;
use super::run::{Prepared, held_out_loss, prepare};
use super::step::step;
use crate::error::Result;
use crate::job::Job;
use crate::language::shards_of;
use crate::learner::Learner;
use crate::plan::{Notes, Plan, Planned, SourcePlan, evaluations, telling_steps};
use crate::sections::TrainSection;

/// Plans a run without starting it. If it is to be `timed`, the machine's speed is measured.
///
/// # Errors
/// If the configuration, the data or the model is at fault.
pub fn plan(job: &Job, config: &Resolved<PretrainConfig>, timed: bool) -> Result<Plan> {
    rehearsed(job, &config.config, timed).map_err(|error| error.at(config))
}

fn rehearsed(job: &Job, c: &PretrainConfig, timed: bool) -> Result<Plan> {
    let rehearsal = job.rehearsal(&c.train)?;
    let (model, prepared) = prepare(job, &rehearsal, c)?;
    let notes = Notes::timed_if(timed, &rehearsal, (job, &c.train))?;
    rehearse(notes, model, &prepared, c)
}

impl Prepared {
    /// Tokens of all steps, windows taken as full.
    pub(super) fn tokens(&self) -> u64 {
        self.total * (self.batch * self.corpus.length()) as u64
    }

    fn sources(&self) -> Result<Vec<SourcePlan>> {
        let plan = self.corpus.plan(self.tokens())?;
        let sources = self.corpus.sources.iter().zip(&plan.sources);
        Ok(sources
            .map(|(source, plan)| SourcePlan {
                name: source.name.clone(),
                items: source.train.ids().len() as u64,
                unit: "tokens",
                epochs: plan.epochs,
            })
            .collect())
    }
}

/// Goes through the steps of a run on an engine that only counts.
pub(super) fn rehearse(
    mut notes: Notes<'_>,
    mut model: Transformer,
    prepared: &Prepared,
    c: &PretrainConfig,
) -> Result<Plan> {
    let (corpus, order, batch) = (&prepared.corpus, &prepared.order, prepared.batch);
    let train: &TrainSection = &c.train;
    let engine = notes.engine();
    model.set_recompute(c.model.recompute);
    notes.model("model", &model);
    notes.tensors("weights, f32");
    // 1. What stays
    let mut learner = Learner::new(engine, model, AdamW::default());
    notes.tensors("moments of the optimiser, f32");
    notes.gradients(&mut learner, train.shards, "")?;
    // 2. Steps
    let rate = StepRate {
        learning_rate: 0.0,
        clip: Some(1.0),
    };
    let (timed, telling) = telling_steps(prepared.total, |number| {
        let windows = corpus.batch(order, number, batch)?;
        let shards = shards_of(windows, train.shards, train.microbatch_tokens, |w| w.inputs.len());
        Ok(shards
            .iter()
            .flatten()
            .map(|m| m.iter().map(|w| w.inputs.len()).sum())
            .map(|tokens| (tokens, tokens))
            .collect())
    })?;
    let count = timed.len().max(1) as f64;
    let mut one = |number: u64| -> Result<()> {
        let windows = corpus.batch(order, number, batch)?;
        step(engine, &mut learner, windows, (train, rate, number))?;
        Ok(())
    };
    let ((seconds, operations), ()) = notes.timed(|| timed.into_iter().try_for_each(&mut one))?;
    telling.into_iter().try_for_each(&mut one)?;
    notes.logits(
        train
            .microbatch_tokens
            .max(corpus.length())
            .min(batch * corpus.length()),
        &learner.model,
    );
    // 3. Evaluations
    notes.besides(evaluations(c.eval.every, prepared.total), || {
        held_out_loss(engine, &learner.model, corpus, c)
    })?;
    let planned = Planned {
        stage: "pretrain",
        steps: prepared.total,
        tokens: prepared.tokens(),
        sources: prepared.sources()?,
        step: (seconds / count, operations / count),
    };
    Ok(notes.finish(planned, (c.model.recompute, train)))
}
