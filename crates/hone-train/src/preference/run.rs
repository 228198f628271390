//! The loop of preference tuning.

use std::path::PathBuf;

use hone_compute::{AdamW, Engine};
use hone_data::Message;
use hone_model::Transformer;
use hone_run::{Checkpoint, Resolved, Run, Sample};
use hone_text::Chat;
use serde_json::json;

use super::batch::Preferences;
use super::config::PreferenceConfig;
use super::evaluation::Evaluation;
use super::plan::rehearse;
use super::reference::Reference;
use super::step::{Stepped, step};
use crate::answers::{Asked, mean_figures};
use crate::artefact::{self, Artefact, Companion};
use crate::best::Progress;
use crate::checked::best_is_seen;
use crate::course::{Told, Work, follow};
use crate::error::{Result, TrainError};
use crate::job::{Begun, Cadence, Job, Occasion, Outcome};
use crate::learner::Learner;
use crate::plan::Notes;
use crate::preferred::Method;
use crate::schedule::{Rates, adamw, total_steps};
use crate::sections::Keep;

/// What a run is made of besides its weights.
pub(super) struct Prepared {
    /// Where the model lies that it starts from.
    path: PathBuf,
    companion: Companion,
    pub chat: Chat,
    pub preferences: Preferences,
    pub method: Method,
    /// KTO's weights of desirable and undesirable responses, where they follow from the data.
    weights: Option<(f64, f64)>,
    pub batch: usize,
    pub total: u64,
    rates: Rates,
    constants: AdamW,
}

/// Reads the data. Gives the model too, on an engine that rehearses.
pub(super) fn prepare(job: &Job, rehearsal: &Engine, c: &PreferenceConfig) -> Result<(Transformer, Prepared)> {
    let path = c.starts_from()?;
    let method = Method::new(&c.preference)?;
    best_is_seen(c.keep, c.data.held_out)?;
    let path = job.model("model.path", path)?;
    let Artefact { model, companion } = artefact::load_language_model(rehearsal, &path)?;
    job.check_stop()?;
    let context = model.architecture().context;
    if c.data.max_length > context {
        let reason = format!("is {}; the model's context is {context}", c.data.max_length);
        return Err(TrainError::setting("data.max_length", reason));
    }
    let chat = Chat::new(&companion.tokenizer)?;
    let preferences = Preferences::load(job, c, &chat)?;
    let (method, weights) = match c.preference.balance {
        Some(true) => preferences.balanced(job, method),
        _ => (method, None),
    };
    let batch = c.train.batch.min(preferences.train.count());
    if batch == 0 {
        return Err(TrainError::setting("train.batch", "is 0; expected at least 1"));
    }
    let total = total_steps(&c.train, (preferences.train.count() as f64, batch as f64))?;
    let prepared = Prepared {
        rates: Rates::new(&c.train, c.train.learning_rate, total)?,
        constants: adamw(&c.train)?,
        path,
        companion,
        chat,
        preferences,
        method,
        weights,
        batch,
        total,
    };
    Ok((model, prepared))
}

/// Tunes as configured, or goes on where it was interrupted.
///
/// # Errors
/// If the configuration, the data or the model is at fault, the memory does not suffice, or training diverges.
pub fn run(job: &Job, config: &Resolved<PreferenceConfig>) -> Result<Outcome> {
    train(job, config).map_err(|error| error.at(config))
}

fn train(job: &Job, config: &Resolved<PreferenceConfig>) -> Result<Outcome> {
    let c = &config.config;
    let engine = job.engine(&c.train)?;
    let inputs = job.inputs([&c.model.path], &c.data.train);
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
    let model = artefact::load_language_model(&engine, &prepared.path)?.model;
    let model = with_adapter(&engine, model, c)?;
    if artefact::merges(&model) {
        job.message("PEFT has no place for adapters of gpt2: this one is merged into the model that is written");
    }
    let learner = Learner::new(&engine, model, prepared.constants);
    // The model that the run starts from is the reference, also of one that goes on: its checkpoint is loaded after
    let reference = if c.preference.method.has_reference() {
        Reference::computed(job, &engine, &learner, &prepared.preferences.all())?
    } else {
        Reference::default()
    };
    let mut tuning = Tuning {
        engine: &engine,
        c,
        prepared: &prepared,
        reference,
        learner,
        progress: Progress::default(),
    };
    if let Some(checkpoint) = &started.checkpoint {
        tuning.load(checkpoint)?;
    }
    let total = prepared.total;
    let cadence = Cadence {
        total,
        checkpoint_every: c.train.checkpoint_every,
        eval_every: c.eval.every,
    };
    let done = tuning.progress.done;
    if let Some(stopped) = follow(job, (&mut run, done), ("preference", &cadence), &mut tuning)? {
        return Ok(stopped);
    }
    let Tuning {
        reference,
        learner,
        progress,
        ..
    } = &tuning;
    let result = match (&progress.best_weights, c.keep) {
        (Some(best), Keep::Best) => &best.model,
        _ => &learner.model,
    };
    let evaluation = Evaluation::of(
        &engine,
        result,
        &prepared.preferences.held_out,
        (reference, prepared.method, c.train.seed),
    )?;
    let summary = json!({
        "method": c.preference.method.name(),
        "steps": total,
        "batch": prepared.batch,
        "sources": prepared.preferences.train.described("prompts"),
        "weights": prepared.weights.map(|(desirable, undesirable)| {
            json!({ "desirable": desirable, "undesirable": undesirable })
        }),
        "best": progress.best.map(|(loss, step)| json!({ "eval/loss": loss, "step": step })),
        "held_out": evaluation.as_ref().map(Evaluation::summary),
    });
    let model = artefact::publish(&engine, &run, &prepared.companion, result)?;
    let sections = evaluation.map(|e| e.sections()).unwrap_or_default();
    job.finish(run, (model, summary), sections, total)
}

/// What steps are made with, and what they change.
struct Tuning<'a> {
    engine: &'a Engine,
    c: &'a PreferenceConfig,
    prepared: &'a Prepared,
    reference: Reference,
    learner: Learner,
    progress: Progress,
}

impl Tuning<'_> {
    fn load(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.progress.done = checkpoint.step();
        self.learner
            .load(self.engine, "model", checkpoint, &checkpoint.state()["learner"])?;
        self.progress.load(self.engine, &self.learner, checkpoint)
    }
}

impl Work for Tuning<'_> {
    fn step(&mut self, done: u64) -> Result<Option<Told>> {
        let prepared = self.prepared;
        let chosen = prepared.preferences.train.batch(done, prepared.batch);
        let judged = (chosen, &self.reference, prepared.method);
        let at = (&*self.c.train, prepared.rates.at(done), done);
        let stepped = step(self.engine, &mut self.learner, judged, at)?;
        self.progress.done = done + 1;
        Ok(Some(told(&stepped)))
    }

    fn look(&mut self, run: &mut Run, _: u64) -> Result<()> {
        evaluate(
            self.engine,
            run,
            (&mut self.learner, &mut self.progress),
            (self.prepared, &self.reference),
            self.c,
        )
    }

    fn save(&self, run: &mut Run, _: u64, occasion: Occasion) -> Result<()> {
        self.progress.save(self.engine, run, (&self.learner, occasion))
    }
}

/// The model with the adapter that is asked for, ready to train.
pub(super) fn with_adapter(engine: &Engine, mut model: Transformer, c: &PreferenceConfig) -> Result<Transformer> {
    if let Some(lora) = &c.lora {
        model.add_adapter(engine, lora, c.train.seed)?;
    }
    model.set_recompute(c.model.recompute);
    Ok(model)
}

fn told(stepped: &Stepped) -> Told {
    let (stats, applied) = (&stepped.stats, &stepped.applied);
    let mut metrics = vec![
        ("train/loss", stats.loss),
        ("rewards/accuracies", stats.accuracy()),
        ("grad_norm", applied.grad_norm),
        ("learning_rate", applied.learning_rate),
        ("train/tokens", stepped.tokens as f64),
        ("train/judgements", stats.count as f64),
        ("train/skipped_steps", applied.skipped as f64),
    ];
    metrics.extend(stats.metrics());
    metrics.extend(stepped.kl.map(|kl| ("kl", kl)));
    Told {
        named: Vec::new(),
        metrics,
        headline: vec![("loss", stats.loss), ("accuracy", stats.accuracy())],
        tokens: stepped.tokens,
        seconds: Vec::new(),
    }
}

/// Held-out figures, the model's own answers to held-out prompts, and whether these are the best weights so far.
fn evaluate(
    engine: &Engine,
    run: &mut Run,
    (learner, progress): (&mut Learner, &mut Progress),
    (prepared, reference): (&Prepared, &Reference),
    c: &PreferenceConfig,
) -> Result<()> {
    let step = progress.done;
    let held_out = &prepared.preferences.held_out;
    let judge = (reference, prepared.method, c.train.seed);
    let Some(evaluation) = Evaluation::of(engine, &learner.model, held_out, judge)? else {
        return Ok(());
    };
    let mut metrics = evaluation.metrics();
    if c.keep == Keep::Best {
        progress.offer(engine, &learner.model, evaluation.stats.loss);
    }
    let samples = answers(engine, &mut learner.model, prepared, (c, step))?;
    if !samples.is_empty() {
        metrics.extend(mean_figures(&samples));
        run.record_samples(&samples)?;
    }
    run.record(step, &metrics)?;
    Ok(())
}

/// The model's own answers to the first held-out prompts.
pub(super) fn answers(
    engine: &Engine,
    model: &mut Transformer,
    prepared: &Prepared,
    (c, step): (&PreferenceConfig, u64),
) -> Result<Vec<Sample>> {
    let held_out = prepared.preferences.held_out.iter().take(c.eval.samples);
    let prompts: Vec<Vec<Message>> = held_out.map(|h| h.prompt.clone()).collect();
    let asked = Asked {
        prompts: &prompts,
        seed: c.train.seed,
        max_new_tokens: c.eval.max_new_tokens,
    };
    asked.answers(engine, (model, &prepared.chat), step)
}
