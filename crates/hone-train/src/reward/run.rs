//! The loop of reward modelling.

use std::path::PathBuf;

use hone_compute::{AdamW, Engine};
use hone_generate::scores_of;
use hone_model::Transformer;
use hone_run::{Event, Resolved, Run, Shutdown};
use hone_text::Chat;
use serde_json::json;

use super::batch::{Rankings, centre};
use super::config::RewardConfig;
use super::evaluation::Evaluation;
use super::plan::rehearse;
use super::step::{Stepped, step};
use crate::artefact::{self, Artefact, Companion};
use crate::course::{Told, Work, follow};
use crate::error::{Result, TrainError};
use crate::job::{Begun, Cadence, Job, Occasion, Outcome, save};
use crate::learner::Learner;
use crate::plan::Notes;
use crate::schedule::{Rates, adamw, total_steps};

/// What a run is made of besides its weights.
pub(super) struct Prepared {
    /// Where the model lies that it starts from.
    path: PathBuf,
    companion: Companion,
    pub rankings: Rankings,
    /// The conversations whose mean score becomes 0.
    pub centre: Vec<Vec<u32>>,
    pub batch: usize,
    pub total: u64,
    rates: Rates,
    constants: AdamW,
}

/// Reads the data. Gives the model too, on an engine that rehearses.
pub(super) fn prepare(job: &Job, rehearsal: &Engine, c: &RewardConfig) -> Result<(Transformer, Prepared)> {
    let path = c.starts_from()?;
    let path = job.model("model.path", path)?;
    let Artefact { model, companion } = artefact::load(rehearsal, &path)?;
    job.check_stop()?;
    let context = model.architecture().context;
    if c.data.max_length > context {
        let reason = format!("is {}; the model's context is {context}", c.data.max_length);
        return Err(TrainError::setting("data.max_length", reason));
    }
    let chat = Chat::new(&companion.tokenizer)?;
    let rankings = Rankings::load(job, c, &chat)?;
    let batch = c.train.batch.min(rankings.train.count());
    if batch == 0 {
        return Err(TrainError::setting("train.batch", "is 0; expected at least 1"));
    }
    let total = total_steps(&c.train, (rankings.train.count() as f64, batch as f64))?;
    let prepared = Prepared {
        rates: Rates::new(&c.train, c.train.learning_rate, total)?,
        centre: centre(job, c, &rankings, &chat)?,
        path,
        companion,
        rankings,
        batch,
        total,
        constants: adamw(&c.train)?,
    };
    Ok((model, prepared))
}

/// Trains a reward model as configured, or goes on where it was interrupted.
///
/// # Errors
/// If the configuration, the data or the model is at fault, the memory does not suffice, or training diverges.
pub fn run(job: &Job, config: &Resolved<RewardConfig>) -> Result<Outcome> {
    train(job, config).map_err(|error| error.at(config))
}

fn train(job: &Job, config: &Resolved<RewardConfig>) -> Result<Outcome> {
    let c = &config.config;
    let engine = job.engine(&c.train)?;
    let inputs = job.inputs(
        [&c.model.path],
        c.data.train.iter().chain(c.reward.centre_on.iter().flatten()),
    );
    let begun = job.begin(&engine, (config, &c.train, inputs), || {
        let rehearsal = job.rehearsal(&c.train)?;
        let (model, prepared) = prepare(job, &rehearsal, c)?;
        rehearse(Notes::new(&rehearsal), model, &prepared, c)?.check(job, &c.train)?;
        Ok(prepared)
    })?;
    let (started, prepared) = match begun {
        Begun::Before(outcome) => return Ok(outcome),
        Begun::Go(begun) => *begun,
    };
    let mut run = started.run;
    if let Some(name) = &c.model.path {
        job.keep_commit(name, &prepared.path)?;
    }
    let model = with_head(&engine, artefact::load(&engine, &prepared.path)?.model, c)?;
    let mut learner = Learner::new(&engine, model, prepared.constants);
    let mut done = 0;
    if let Some(checkpoint) = &started.checkpoint {
        done = checkpoint.step();
        learner.load(&engine, "model", checkpoint, checkpoint.state())?;
    }
    let mut training = Training {
        engine: &engine,
        c,
        prepared: &prepared,
        learner,
    };
    let total = prepared.total;
    let cadence = Cadence {
        total,
        checkpoint_every: c.train.checkpoint_every,
        eval_every: c.eval.every,
    };
    if let Some(stopped) = follow(job, (&mut run, done), ("reward", &cadence), &mut training)? {
        return Ok(stopped);
    }

    // What is evaluated last is what is handed on: adapter merged, scores centred
    let mut result = merged(&engine, &training.learner.model);
    let Some(offset) = offset_of(&engine, &job.shutdown, &result, &prepared.centre) else {
        // The last step's checkpoint is there: the same command centres again
        job.observer.event(&Event::Finished {
            step: total,
            stopped: true,
        });
        return Ok(Outcome::Stopped { step: total });
    };
    result.set_head_offset(offset);
    let evaluation = evaluate(&engine, &mut run, (&result, &prepared.rankings), (c, total))?;
    let model = artefact::publish(&engine, &run, &prepared.companion, &result)?;
    let summary = json!({
        "steps": total,
        "batch": prepared.batch,
        "sources": prepared.rankings.train.described("rankings"),
        "score_offset": offset,
        "held_out": evaluation.as_ref().map(Evaluation::summary),
    });
    job.finish(
        run,
        (model, summary),
        evaluation.map(|e| e.sections()).unwrap_or_default(),
        total,
    )
}

/// What steps are made with, and what they change.
struct Training<'a> {
    engine: &'a Engine,
    c: &'a RewardConfig,
    prepared: &'a Prepared,
    learner: Learner,
}

impl Work for Training<'_> {
    fn step(&mut self, done: u64) -> Result<Option<Told>> {
        let prepared = self.prepared;
        let chosen = prepared.rankings.train.batch(done, prepared.batch);
        let judged = (chosen, self.c.reward.ties.into());
        let at = (&*self.c.train, prepared.rates.at(done), done);
        let stepped = step(self.engine, &mut self.learner, judged, at)?;
        Ok(Some(told(&stepped)))
    }

    /// The last evaluation is that of the result.
    fn look(&mut self, run: &mut Run, done: u64) -> Result<()> {
        if done < self.prepared.total {
            let judged = (&self.learner.model, &self.prepared.rankings);
            evaluate(self.engine, run, judged, (self.c, done))?;
        }
        Ok(())
    }

    fn save(&self, run: &mut Run, done: u64, occasion: Occasion) -> Result<()> {
        save(run, (done, occasion), self.learner.state(), |writer| {
            self.learner.save(self.engine, "model", writer)
        })
    }
}

/// The trunk with a head, ready to train. An adapter of the supervised model is merged: it is not the reward model's.
pub(super) fn with_head(engine: &Engine, model: Transformer, c: &RewardConfig) -> Result<Transformer> {
    let mut model = if model.adapter().is_some() {
        model.merge_adapter(engine)
    } else {
        model
    };
    if let Some(lora) = &c.lora {
        model.add_adapter(engine, lora, c.train.seed)?;
    }
    // After the adapter, which freezes what is there: the head always learns
    if model.has_head() {
        model.train_head();
    } else {
        model.add_reward_head(engine, c.train.seed);
    }
    model.set_head_offset(0.0);
    model.set_recompute(c.model.recompute);
    Ok(model)
}

/// The model without its adapter.
pub(super) fn merged(engine: &Engine, trained: &Transformer) -> Transformer {
    let copy = trained.duplicate();
    if copy.adapter().is_some() {
        copy.merge_adapter(engine)
    } else {
        copy
    }
}

/// The offset with which `centre` scores 0 on average, of a model that has none yet; none if the run is asked to stop on
/// the way.
pub(super) fn offset_of(engine: &Engine, shutdown: &Shutdown, model: &Transformer, centre: &[Vec<u32>]) -> Option<f32> {
    /// Sequences between two looks at whether to stop; scores do not depend on it.
    const BLOCK: usize = 64;
    let mut sum = -0.0;
    for block in centre.chunks(BLOCK) {
        if shutdown.requested() {
            return None;
        }
        let sequences: Vec<&[u32]> = block.iter().map(Vec::as_slice).collect();
        for score in scores_of(engine, model, &sequences) {
            sum += f64::from(score.0);
        }
    }
    Some(-(sum / centre.len().max(1) as f64) as f32)
}

fn told(stepped: &Stepped) -> Told {
    let (stats, applied) = (&stepped.stats, &stepped.applied);
    Told {
        named: Vec::new(),
        metrics: vec![
            ("train/loss", stats.mean_loss()),
            ("rewards/accuracies", stats.accuracy()),
            ("rewards/margins", stats.margin()),
            ("grad_norm", applied.grad_norm),
            ("learning_rate", applied.learning_rate),
            ("train/tokens", stepped.tokens as f64),
            ("train/pairs", stats.pairs as f64),
            ("train/skipped_steps", applied.skipped as f64),
        ],
        headline: vec![("loss", stats.mean_loss()), ("accuracy", stats.accuracy())],
        tokens: stepped.tokens,
        seconds: Vec::new(),
    }
}

/// Records how the held-out rankings are scored, with samples.
fn evaluate(
    engine: &Engine,
    run: &mut Run,
    (model, rankings): (&Transformer, &Rankings),
    (c, step): (&RewardConfig, u64),
) -> Result<Option<Evaluation>> {
    let held_out = &rankings.held_out;
    let Some(evaluation) = Evaluation::of(engine, model, held_out, (c.reward.ties.into(), c.train.seed))? else {
        return Ok(None);
    };
    run.record(step, &evaluation.metrics())?;
    run.record_samples(&evaluation.samples(held_out, c.eval.samples, step))?;
    Ok(Some(evaluation))
}
