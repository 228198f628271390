//! The loop of supervised tuning.

use std::path::PathBuf;

use hone_compute::{AdamW, Engine};
use hone_data::TokenExample;
use hone_model::Transformer;
use hone_objective::cross_entropy::TokenStats;
use hone_run::{Checkpoint, Resolved, Run, Sample};
use hone_text::Chat;
use serde_json::{Value, json};

use super::batch::Examples;
use super::config::SftConfig;
use super::plan::rehearse;
use super::step::{Stepped, step};
use crate::answers::{Asked, mean_figures};
use crate::artefact::{self, Artefact, Companion};
use crate::best::Progress;
use crate::checked::best_is_seen;
use crate::course::{Told, Work, follow};
use crate::error::{Result, TrainError};
use crate::job::{Begun, Cadence, Job, Occasion, Outcome};
use crate::language::{LanguageBatch, evaluate, shards_of};
use crate::learner::Learner;
use crate::plan::Notes;
use crate::schedule::{Rates, adamw, total_steps};
use crate::sections::Keep;

/// What a run is made of besides its weights.
pub(super) struct Prepared {
    /// Where the model lies that it starts from.
    path: PathBuf,
    companion: Companion,
    pub chat: Chat,
    pub examples: Examples,
    pub batch: usize,
    pub total: u64,
    rates: Rates,
    constants: AdamW,
}

/// Reads the data. Gives the model too, on an engine that rehearses, without an adapter of its own.
pub(super) fn prepare(job: &Job, rehearsal: &Engine, c: &SftConfig) -> Result<(Transformer, Prepared)> {
    let path = c.starts_from()?;
    let path = job.model("model.path", path)?;
    let Artefact { model, mut companion } = artefact::load_language_model(rehearsal, &path)?;
    job.check_stop()?;
    best_is_seen(c.keep, c.data.held_out)?;
    add_chat_tokens(job, &mut companion)?;
    if lacks_rows(&model, &companion) && model.adapter().is_some() {
        let reason = "is an adapter without a chat template, and its embedding is too small for ChatML's tokens; merge \
                      it with hone export first";
        return Err(TrainError::setting("model.path", reason));
    }
    let context = model.architecture().context;
    if c.data.max_length > context {
        let reason = format!("is {}; the model's context is {context}", c.data.max_length);
        return Err(TrainError::setting("data.max_length", reason));
    }
    let chat = Chat::new(&companion.tokenizer)?;
    let examples = Examples::load(job, c, &chat)?;
    let batch = c.train.batch.min(examples.train.count());
    if batch == 0 {
        return Err(TrainError::setting("train.batch", "is 0; expected at least 1"));
    }
    let total = total_steps(&c.train, (examples.train.count() as f64, batch as f64))?;
    let prepared = Prepared {
        path,
        companion,
        chat,
        examples,
        batch,
        total,
        rates: Rates::new(&c.train, c.train.learning_rate, total)?,
        constants: adamw(&c.train)?,
    };
    Ok((model, prepared))
}

/// Tunes as configured, or goes on where it was interrupted.
///
/// # Errors
/// If the configuration, the data or the model is at fault, the memory does not suffice, or training diverges.
pub fn run(job: &Job, config: &Resolved<SftConfig>) -> Result<Outcome> {
    train(job, config).map_err(|error| error.at(config))
}

fn train(job: &Job, config: &Resolved<SftConfig>) -> Result<Outcome> {
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
    let (model, grown) = with_tokens(&engine, model, &prepared);
    let model = with_adapter(&engine, (model, grown), c)?;
    if artefact::merges(&model) {
        job.message("PEFT has no place for adapters of gpt2: this one is merged into the model that is written");
    } else if grown && model.adapter().is_some() {
        job.message("the embedding has new rows: it is trained, and kept with the adapter");
    }
    let learner = Learner::new(&engine, model, prepared.constants);
    let mut tuning = Tuning {
        engine: &engine,
        c,
        prepared: &prepared,
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
    if let Some(stopped) = follow(job, (&mut run, done), ("sft", &cadence), &mut tuning)? {
        return Ok(stopped);
    }
    let Tuning { learner, progress, .. } = &tuning;
    let result = match (&progress.best_weights, c.keep) {
        (Some(best), Keep::Best) => &best.model,
        _ => &learner.model,
    };
    let summary = summary(&prepared.examples, (total, prepared.batch), progress);
    let model = artefact::publish(&engine, &run, &prepared.companion, result)?;
    job.finish(run, (model, summary), Vec::new(), total)
}

/// What steps are made with, and what they change.
struct Tuning<'a> {
    engine: &'a Engine,
    c: &'a SftConfig,
    prepared: &'a Prepared,
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
        let Prepared {
            examples, batch, rates, ..
        } = self.prepared;
        let chosen = examples.train.batch(done, *batch);
        let at = (&*self.c.train, rates.at(done), done);
        let stepped = step(self.engine, &mut self.learner, chosen, at)?;
        self.progress.done = done + 1;
        Ok(Some(told(&stepped)))
    }

    fn look(&mut self, run: &mut Run, _: u64) -> Result<()> {
        let Prepared { examples, chat, .. } = self.prepared;
        evaluate_all(
            self.engine,
            run,
            (&mut self.learner, &mut self.progress),
            (examples, chat),
            self.c,
        )
    }

    fn save(&self, run: &mut Run, _: u64, occasion: Occasion) -> Result<()> {
        self.progress.save(self.engine, run, (&self.learner, occasion))
    }
}

/// A base model's tokenizer without a chat template gets ChatML's tokens.
fn add_chat_tokens(job: &Job, companion: &mut Companion) -> Result<()> {
    if companion.tokenizer.chat_template().is_some() {
        return Ok(());
    }
    companion.tokenizer.add_chat_tokens()?;
    companion.tokens = artefact::token_fields(&companion.tokenizer);
    let tokens = companion.tokenizer.vocab_size();
    job.message(format!(
        "the model has no chat template: ChatML is added, {tokens} tokens in all"
    ));
    Ok(())
}

/// Whether the tokenizer got more tokens than the embedding has rows.
fn lacks_rows(model: &Transformer, companion: &Companion) -> bool {
    companion.tokenizer.vocab_size() > model.architecture().vocab_size
}

/// The model with a row for every token, new rows at the mean of the others. Says whether it has new rows.
pub(super) fn with_tokens(engine: &Engine, model: Transformer, prepared: &Prepared) -> (Transformer, bool) {
    if lacks_rows(&model, &prepared.companion) {
        let tokens = prepared.companion.tokenizer.vocab_size();
        (model.with_vocabulary(engine, tokens), true)
    } else {
        (model, false)
    }
}

/// The model with the adapter that is asked for; that of an embedding that has new rows brings it along.
pub(super) fn with_adapter(
    engine: &Engine,
    (mut model, grown): (Transformer, bool),
    c: &SftConfig,
) -> Result<Transformer> {
    if let Some(lora) = &c.lora {
        model.add_adapter(engine, lora, c.train.seed)?;
    }
    if grown {
        model.adapt_vocabulary();
    }
    model.set_recompute(c.model.recompute);
    Ok(model)
}

fn told(stepped: &Stepped) -> Told {
    let (stats, applied) = (&stepped.stats, &stepped.applied);
    Told {
        named: Vec::new(),
        metrics: vec![
            ("train/loss", stats.mean_nll()),
            ("grad_norm", applied.grad_norm),
            ("learning_rate", applied.learning_rate),
            ("train/tokens", stepped.tokens as f64),
            ("train/target_tokens", stats.tokens as f64),
            ("train/skipped_steps", applied.skipped as f64),
        ],
        headline: vec![("loss", stats.mean_nll())],
        tokens: stepped.tokens,
        seconds: Vec::new(),
    }
}

/// Held-out loss, samples of held-out prompts, and whether these are the best weights so far.
fn evaluate_all(
    engine: &Engine,
    run: &mut Run,
    (learner, progress): (&mut Learner, &mut Progress),
    (examples, chat): (&Examples, &Chat),
    c: &SftConfig,
) -> Result<()> {
    let step = progress.done;
    let mut metrics = Vec::new();
    if !examples.held_out.is_empty() {
        let stats = held_out_loss(engine, &learner.model, &examples.held_out, c.train.microbatch_tokens)?;
        let loss = stats.mean_nll();
        metrics.push(("eval/loss", loss));
        if c.keep == Keep::Best {
            progress.offer(engine, &learner.model, loss);
        }
    }
    let samples = answers(engine, &mut learner.model, (examples, chat), c, step)?;
    if !samples.is_empty() {
        metrics.extend(mean_figures(&samples));
        run.record_samples(&samples)?;
    }
    run.record(step, &metrics)?;
    Ok(())
}

pub(super) fn held_out_loss(
    engine: &Engine,
    model: &Transformer,
    examples: &[TokenExample],
    tokens: usize,
) -> Result<TokenStats> {
    let mut stats = TokenStats::of(&[], &[])?;
    for microbatch in shards_of(examples.iter().collect(), 1, tokens, |e: &&TokenExample| e.ids.len())
        .into_iter()
        .flatten()
    {
        stats.merge(&evaluate(engine, model, &LanguageBatch::of_examples(microbatch))?);
    }
    Ok(stats)
}

/// The model's own answers to the first held-out prompts.
pub(super) fn answers(
    engine: &Engine,
    model: &mut Transformer,
    (examples, chat): (&Examples, &Chat),
    c: &SftConfig,
    step: u64,
) -> Result<Vec<Sample>> {
    let rows = examples.held_out_demonstrations.iter().take(c.eval.samples);
    let prompts: Vec<Vec<_>> = rows
        .map(|row| {
            row.messages
                .iter()
                .take_while(|m| m.role != "assistant")
                .cloned()
                .collect()
        })
        .collect();
    let asked = Asked {
        prompts: &prompts,
        seed: c.train.seed,
        max_new_tokens: c.eval.max_new_tokens,
    };
    asked.answers(engine, (model, chat), step)
}

fn summary(examples: &Examples, (steps, batch): (u64, usize), progress: &Progress) -> Value {
    json!({
        "steps": steps,
        "batch": batch,
        "sources": examples.train.described("examples"),
        "held_out_examples": examples.held_out.len(),
        "best": progress.best.map(|(loss, step)| json!({ "eval/loss": loss, "step": step })),
    })
}
