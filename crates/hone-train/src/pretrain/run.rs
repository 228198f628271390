//! The loop of pre-training.

use std::path::{Path, PathBuf};

use hone_compute::{AdamW, Engine};
use hone_data::MixtureOrder;
use hone_model::Transformer;
use hone_objective::cross_entropy::TokenStats;
use hone_run::{Resolved, Run, verify_dir};
use hone_text::Tokenizer;
use serde_json::{Value, json};

use super::config::PretrainConfig;
use super::plan::rehearse;
use super::step::{Stepped, step};
use crate::artefact::{self, Artefact, Companion};
use crate::corpus::{Corpus, CorpusOptions};
use crate::course::{Told, Work, follow};
use crate::error::{Result, TrainError};
use crate::job::{Begun, Cadence, Job, Occasion, Outcome, save};
use crate::language::{LanguageBatch, evaluate, shards_of};
use crate::learner::Learner;
use crate::plan::Notes;
use crate::schedule::{Rates, adamw, total_steps};

/// What a run is made of besides its weights.
pub(super) struct Prepared {
    /// Where the model lies that it starts from.
    path: Option<PathBuf>,
    companion: Companion,
    pub corpus: Corpus,
    pub order: MixtureOrder,
    pub batch: usize,
    pub total: u64,
    rates: Rates,
    constants: AdamW,
}

/// Reads the data. Gives the model too, on an engine that rehearses.
pub(super) fn prepare(job: &Job, rehearsal: &Engine, c: &PretrainConfig) -> Result<(Transformer, Prepared)> {
    c.model.scratch()?;
    let path = match &c.model.path {
        Some(path) => Some(job.model("model.path", path)?),
        None => None,
    };
    let Artefact { model, companion } = load_or_new(job, rehearsal, (c, path.as_deref()))?;
    job.check_stop()?;
    let (context, length) = (model.architecture().context, c.data.max_length);
    if length > context {
        return Err(TrainError::setting(
            "data.max_length",
            format!("is {length}; the model's context is {context}"),
        ));
    }
    let options = CorpusOptions {
        key: "data.train",
        train: &c.data.train,
        held_out: c.data.held_out,
        max_length: length,
        cross_document: c.data.cross_document,
        token_cap: c.data.token_cap,
    };
    let corpus = Corpus::load(job, &options, &companion.tokenizer)?;
    let order = corpus.order(c.train.seed)?;
    let batch = c.train.batch;
    if batch == 0 {
        return Err(TrainError::setting("train.batch", "is 0; expected at least 1"));
    }
    let total = total_steps(&c.train, (corpus.train_tokens() as f64, (batch * length) as f64))?;
    let prepared = Prepared {
        path,
        companion,
        corpus,
        order,
        batch,
        total,
        rates: Rates::new(&c.train, c.train.learning_rate, total)?,
        constants: adamw(&c.train)?,
    };
    Ok((model, prepared))
}

/// Pre-trains as configured, or goes on where it was interrupted.
///
/// # Errors
/// If the configuration, the data or the model is at fault, the memory does not suffice, or training diverges.
pub fn run(job: &Job, config: &Resolved<PretrainConfig>) -> Result<Outcome> {
    train(job, config).map_err(|error| error.at(config))
}

fn train(job: &Job, config: &Resolved<PretrainConfig>) -> Result<Outcome> {
    let c = &config.config;
    let engine = job.engine(&c.train)?;
    let inputs = job.inputs([&c.model.path, &c.model.tokenizer], &c.data.train);
    let begun = job.begin(&engine, (config, &c.train, inputs), || {
        let rehearsal = job.rehearsal(&c.train)?;
        let (model, prepared) = prepare(job, &rehearsal, c)?;
        tell_plan(job, &prepared)?;
        rehearse(Notes::new(&rehearsal), model, &prepared, c)?.check(job, &c.train)?;
        Ok(prepared)
    })?;
    let (started, prepared) = match begun {
        Begun::Before(outcome) => return Ok(outcome),
        Begun::Go(begun) => *begun,
    };
    let mut run = started.run;
    if let (Some(name), Some(path)) = (&c.model.path, &prepared.path) {
        job.keep_commit(name, path)?;
    }
    let model = load_or_new(job, &engine, (c, prepared.path.as_deref()))?.model;
    let mut learner = Learner::new(&engine, model, prepared.constants);
    learner.model.set_recompute(c.model.recompute);
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
    if let Some(stopped) = follow(job, (&mut run, done), ("pretrain", &cadence), &mut training)? {
        return Ok(stopped);
    }
    let model = artefact::publish(&engine, &run, &prepared.companion, &training.learner.model)?;
    let summary = summary(&prepared.corpus, &prepared.order, (total, prepared.batch));
    job.finish(run, (model, summary), Vec::new(), total)
}

/// What steps are made with, and what they change.
struct Training<'a> {
    engine: &'a Engine,
    c: &'a PretrainConfig,
    prepared: &'a Prepared,
    learner: Learner,
}

impl Work for Training<'_> {
    fn step(&mut self, done: u64) -> Result<Option<Told>> {
        let prepared = self.prepared;
        let windows = prepared.corpus.batch(&prepared.order, done, prepared.batch)?;
        let at = (&*self.c.train, prepared.rates.at(done), done);
        let stepped = step(self.engine, &mut self.learner, windows, at)?;
        Ok(Some(told(&stepped)))
    }

    fn look(&mut self, run: &mut Run, done: u64) -> Result<()> {
        let held_out = held_out_loss(self.engine, &self.learner.model, &self.prepared.corpus, self.c)?;
        let metrics: Vec<(&str, f64)> = held_out.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        Ok(run.record(done, &metrics)?)
    }

    fn save(&self, run: &mut Run, done: u64, occasion: Occasion) -> Result<()> {
        save(run, (done, occasion), self.learner.state(), |writer| {
            self.learner.save(self.engine, "model", writer)
        })
    }
}

/// The model to start from: new, or the one at `path`.
fn load_or_new(job: &Job, engine: &Engine, (c, path): (&PretrainConfig, Option<&Path>)) -> Result<Artefact> {
    match (c.model.scratch()?, path) {
        (Some((new, tokenizer)), _) => {
            let directory = job.path(tokenizer);
            verify_dir(&directory)?;
            let tokenizer = Tokenizer::from_dir(directory)?;
            let architecture = new.architecture(tokenizer.vocab_size())?;
            let model = Transformer::random(engine, architecture, c.train.seed);
            let companion = Companion {
                tokens: artefact::token_fields(&tokenizer),
                tokenizer,
                base: None,
            };
            Ok(Artefact { model, companion })
        }
        (None, Some(path)) => artefact::load_language_model(engine, path),
        (None, None) => Err(TrainError::setting("model.path", "is missing")),
    }
}

fn tell_plan(job: &Job, prepared: &Prepared) -> Result<()> {
    let corpus = &prepared.corpus;
    for (source, plan) in corpus.sources.iter().zip(&corpus.plan(prepared.tokens())?.sources) {
        let have = source.train.ids().len();
        job.message(format!(
            "{}: {have} tokens, {:.1}% of the mixture, {:.2} epochs planned",
            source.name,
            100.0 * plan.share,
            plan.epochs
        ));
    }
    Ok(())
}

fn told(stepped: &Stepped) -> Told {
    let (stats, applied) = (&stepped.stats, &stepped.applied);
    Told {
        named: Vec::new(),
        metrics: vec![
            ("train/loss", stats.mean_nll()),
            ("grad_norm", applied.grad_norm),
            ("learning_rate", applied.learning_rate),
            ("train/tokens", stats.tokens as f64),
            ("train/skipped_steps", applied.skipped as f64),
        ],
        headline: vec![("loss", stats.mean_nll())],
        tokens: stats.tokens,
        seconds: Vec::new(),
    }
}

/// Held-out loss and bits per byte of each source, and of all. Both are over the same tokens: those of the documents,
/// without their ends.
pub(super) fn held_out_loss(
    engine: &Engine,
    model: &Transformer,
    corpus: &Corpus,
    c: &PretrainConfig,
) -> Result<Vec<(String, f64)>> {
    let mut metrics = Vec::new();
    let (mut all, mut bytes) = (TokenStats::of(&[], &[])?, 0);
    for source in &corpus.sources {
        let mut stats = TokenStats::of(&[], &[])?;
        let windows = source.held_out.document_windows(c.data.max_length);
        for microbatch in shards_of(windows, 1, c.train.microbatch_tokens, |w| w.inputs.len())
            .into_iter()
            .flatten()
        {
            stats.merge(&evaluate(engine, model, &LanguageBatch::of_windows(microbatch))?);
        }
        if stats.tokens > 0 {
            let source_bytes = source.held_out.text_bytes();
            metrics.push((format!("eval/loss/{}", source.name), stats.mean_nll()));
            if source_bytes > 0 {
                metrics.push((
                    format!("eval/bits_per_byte/{}", source.name),
                    stats.bits_per_byte(source_bytes),
                ));
            }
            all.merge(&stats);
            bytes += source_bytes;
        }
    }
    if all.tokens > 0 {
        metrics.push(("eval/loss".into(), all.mean_nll()));
        if bytes > 0 {
            metrics.push(("eval/bits_per_byte".into(), all.bits_per_byte(bytes)));
        }
    }
    Ok(metrics)
}

fn summary(corpus: &Corpus, order: &MixtureOrder, (steps, batch): (u64, usize)) -> Value {
    let progress = order.progress(steps * batch as u64);
    let sources = corpus.sources.iter().zip(progress);
    let sources: Vec<Value> = sources
        .map(|(s, p)| json!({ "source": s.name, "tokens": s.train.ids().len(), "windows_drawn": p.draws, "epochs": p.epochs }))
        .collect();
    json!({ "steps": steps, "sources": sources })
}
