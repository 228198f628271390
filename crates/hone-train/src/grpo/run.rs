//! The loop.

use std::time::Instant;

use hone_compute::Engine;
use hone_math::Key;
use hone_objective::group::{Advantages, informative};
use hone_objective::kl::Estimator;
use hone_run::{Checkpoint, Event, Inputs, Resolved, Run};
use serde_json::{Map, json};

use super::config::{GrpoConfig, GrpoSection};
use super::plan::rehearse;
use super::step::{Learners, Report, Update, prepare, update};
use crate::artefact;
use crate::error::{Result, TrainError};
use crate::job::{Begun, Cadence, Job, Occasion, Outcome, save};
use crate::learner::{Ema, Learner};
use crate::plan::Notes;
use crate::rollout::{Collected, Episode, Figures, Made, Networks, Setup, mean, record_samples, tell_unscorable};
use crate::schedule::{Rates, adamw};

/// Improves a policy as configured, or goes on where it was interrupted.
///
/// # Errors
/// If the configuration, the data or a model is at fault, the memory does not suffice, training diverges, or an invariant
/// breaks.
pub fn run(job: &Job, config: &Resolved<GrpoConfig>) -> Result<Outcome> {
    train(job, config).map_err(|error| error.at(config))
}

fn train(job: &Job, config: &Resolved<GrpoConfig>) -> Result<Outcome> {
    let c = &config.config;
    check(c)?;
    let engine = job.engine(&c.train)?;
    let inputs = inputs(job, c);
    let rates = rates(c)?;
    let begun = job.begin(&engine, (config, &c.train, inputs), || {
        let rehearsal = job.rehearsal(&c.train)?;
        let setup = load(job, &rehearsal, c)?;
        rehearse(Notes::new(&rehearsal), &setup, c)?.check(job, &c.train)?;
        Ok(setup)
    })?;
    let (started, mut setup) = match begun {
        Begun::Before(outcome) => return Ok(outcome),
        Begun::Go(begun) => *begun,
    };
    let mut run = started.run;
    setup.load_weights(job, &engine, started.checkpoint.as_ref())?;
    let mut state = State::new(&engine, &setup, c)?;
    if let Some(checkpoint) = &started.checkpoint {
        state.load(&engine, checkpoint)?;
    }
    let total = c.grpo.updates;
    let cadence = Cadence {
        total,
        checkpoint_every: c.train.checkpoint_every,
        eval_every: c.eval.every,
    };
    job.observer.event(&Event::Started {
        stage: "grpo".into(),
        step: state.done,
        total,
    });
    let mut told_of_unscorable = false;
    while state.done < total {
        let started = Instant::now();
        // 1. The policy answers prompts
        let sampled = match job.shutdown.requested() {
            true => None,
            false => sample((&engine, job), &setup, &state, c)?,
        };
        let Some(mut sampled) = sampled else {
            state.save((&engine, &setup, c), &mut run, Occasion::Interruption)?;
            job.observer.event(&Event::Finished {
                step: state.done,
                stopped: true,
            });
            return Ok(Outcome::Stopped { step: state.done });
        };
        if let Some(reason) = sampled.first_refusal.take().filter(|_| !told_of_unscorable) {
            told_of_unscorable = true;
            tell_unscorable(job, "grpo", &reason, c.grpo.missing_eos_score);
        }
        // 2. Advantages within each group
        let constants = prepare(&sampled.episodes, &c.grpo)?;
        // 3. Passes of clipped steps
        let step = Update {
            number: state.done,
            episodes: &sampled.episodes,
            advantages: &constants.advantages,
            grpo: &c.grpo,
            train: &c.train,
            rate: rates.at(state.done),
        };
        let optimisation = Instant::now();
        let report = update(&engine, &mut state.learners, &step)?;
        sampled
            .seconds
            .push(("time/optimisation", optimisation.elapsed().as_secs_f64()));
        state.done += 1;
        record(
            job,
            &mut run,
            (state.done, total),
            (&sampled, &constants, &report),
            started,
        )?;
        if cadence.evaluates(state.done) {
            record_samples(&mut run, state.done, &sampled.episodes, c.eval.samples)?;
        }
        if cadence.saves(state.done) {
            state.save((&engine, &setup, c), &mut run, Occasion::Due)?;
        }
    }
    let learners = &state.learners;
    let result = learners.ema.as_ref().map_or(&learners.policy.model, |ema| &ema.model);
    let model = artefact::publish(&engine, &run, &setup.base.companion, result)?;
    let summary = json!({ "updates": total, "episodes": total * c.grpo.rollout_batch as u64 });
    job.finish(run, (model, summary), Vec::new(), total)
}

fn inputs(job: &Job, c: &GrpoConfig) -> Inputs {
    let rewards = c.maximised().models();
    job.inputs(std::iter::once(&c.model.path).chain(&rewards), c.data.prompts.iter())
}

pub(super) fn load(job: &Job, engine: &Engine, c: &GrpoConfig) -> Result<Setup> {
    let made = Made {
        model: &c.model,
        maximised: c.maximised(),
        data: &c.data,
        seed: c.train.seed,
    };
    Setup::load(job, engine, &made, &c.grpo.rollout())
}

pub(super) fn rates(c: &GrpoConfig) -> Result<Rates> {
    Rates::new(&c.train, c.train.learning_rate, c.grpo.updates)
}

pub(super) fn check(c: &GrpoConfig) -> Result<()> {
    let g = &c.grpo;
    let positive = [
        ("grpo.updates", g.updates as usize),
        ("grpo.rollout_batch", g.rollout_batch),
        ("grpo.samples_per_prompt", g.samples_per_prompt),
        ("grpo.minibatch", g.minibatch),
        ("grpo.epochs", g.epochs),
        ("grpo.max_new_tokens", g.max_new_tokens),
        ("grpo.sampling_attempts", g.sampling_attempts),
    ];
    for (key, value) in positive {
        if value == 0 {
            return Err(TrainError::setting(key, "is 0; expected at least 1"));
        }
    }
    let least = g.method.estimator().smallest_group();
    if g.samples_per_prompt < least {
        let reason = format!(
            "is {}; this method compares a prompt's responses with one another and needs at least {least}",
            g.samples_per_prompt
        );
        return Err(TrainError::setting("grpo.samples_per_prompt", reason));
    }
    let divides = [
        ("grpo.minibatch", g.minibatch, "grpo.rollout_batch", g.rollout_batch),
        (
            "grpo.samples_per_prompt",
            g.samples_per_prompt,
            "grpo.minibatch",
            g.minibatch,
        ),
    ];
    for (key, value, whole, of) in divides {
        if !of.is_multiple_of(value) {
            return Err(TrainError::setting(
                key,
                format!("is {value}, which does not divide {whole} = {of}"),
            ));
        }
    }
    let clip = g.loss().clip_range;
    let numbers = [
        (
            "grpo.temperature",
            g.temperature,
            g.temperature > 0.0,
            "a number above 0",
        ),
        ("grpo.kl_coef", g.kl_coef(), g.kl_coef() >= 0.0, "0 or a number above"),
        ("grpo.clip_range", clip.low, clip.low > 0.0, "a number above 0"),
        ("grpo.clip_range_high", clip.high, clip.high > 0.0, "a number above 0"),
        ("grpo.missing_eos_score", g.missing_eos_score, true, "a number"),
    ];
    for (key, value, holds, expected) in numbers {
        if !holds || !value.is_finite() {
            return Err(TrainError::setting(key, format!("is {value}; expected {expected}")));
        }
    }
    if let Some(cache) = g.overlong_cache.filter(|_| c.environment.is_some()) {
        let reason = format!("is {cache}, and an environment's episodes have no limit of length; leave it out");
        return Err(TrainError::setting("grpo.overlong_cache", reason));
    }
    if let Some(cache) = g.overlong_cache.filter(|&cache| cache > g.max_new_tokens) {
        let reason = format!(
            "is {cache}; expected at most grpo.max_new_tokens = {}",
            g.max_new_tokens
        );
        return Err(TrainError::setting("grpo.overlong_cache", reason));
    }
    if let Some(decay) = g.ema_decay
        && !(0.0..1.0).contains(&decay)
    {
        return Err(TrainError::setting(
            "grpo.ema_decay",
            format!("is {decay}; expected at least 0 and below 1"),
        ));
    }
    if !g.samples_dynamically() && g.sampling_attempts != GrpoSection::default().sampling_attempts {
        let reason = format!(
            "is {}, and without grpo.dynamic_sampling one rollout is sampled for an update; leave it out",
            g.sampling_attempts
        );
        return Err(TrainError::setting("grpo.sampling_attempts", reason));
    }
    Ok(())
}

/// The episodes of an update; none if the run is asked to stop on the way.
fn sample((engine, job): (&Engine, &Job), setup: &Setup, state: &State, c: &GrpoConfig) -> Result<Option<Sampled>> {
    let settings = c.grpo.rollout();
    let networks = Networks {
        policy: &state.learners.policy.model,
        value: None,
        reference: c.grpo.kl_coef() > 0.0,
    };
    let key = Key::new(c.train.seed, "rollout", state.done);
    if !c.grpo.samples_dynamically() {
        let rollout = setup.rollout((engine, job), networks, &settings, (state.done, key))?;
        return Ok(rollout.map(Sampled::of));
    }
    // Groups that teach nothing are replaced by those of further prompts
    let attempts = rollouts_an_update(c);
    let mut sampled: Option<Sampled> = None;
    for attempt in 0..attempts {
        let place = state.done * attempts + attempt;
        let drawn = setup.rollout((engine, job), networks, &settings, (place, key.child(attempt)))?;
        let Some(drawn) = drawn else { return Ok(None) };
        let nothing_yet = sampled.as_ref().is_none_or(|sampled| sampled.episodes.is_empty());
        let mut all = Sampled::of(drawn);
        // Where no group teaches anything, the last ones stand for all
        let last = attempt + 1 == attempts && nothing_yet;
        all.leave_out_equal_groups(c.grpo.samples_per_prompt, last)?;
        if let Some(before) = sampled.take() {
            all = before.and(all);
        }
        let enough = all.episodes.len() >= c.grpo.rollout_batch;
        sampled = Some(all);
        if enough {
            break;
        }
    }
    Ok(sampled.map(|mut sampled| {
        sampled.cut(c.grpo.rollout_batch);
        sampled
    }))
}

/// Numbers of rollouts that are there for one update.
fn rollouts_an_update(c: &GrpoConfig) -> u64 {
    match c.grpo.samples_dynamically() {
        true => c.grpo.sampling_attempts as u64,
        false => 1,
    }
}

/// The episodes of an update, and how they came about.
struct Sampled {
    episodes: Vec<Episode>,
    /// Scores of all responses that were sampled for it.
    scores: Vec<f32>,
    first_refusal: Option<String>,
    figures: Figures,
    seconds: Vec<(&'static str, f64)>,
}

impl Sampled {
    fn of(collected: Collected) -> Self {
        Self {
            scores: collected.episodes.iter().map(|episode| episode.score).collect(),
            episodes: collected.episodes,
            first_refusal: collected.first_refusal,
            figures: collected.figures,
            seconds: collected.seconds,
        }
    }

    /// Leaves out the groups whose scores are all equal; if that is all of them, they stay where `else_all` is true.
    fn leave_out_equal_groups(&mut self, samples_per_prompt: usize, else_all: bool) -> Result<()> {
        let groups = vec![samples_per_prompt; self.scores.len() / samples_per_prompt];
        let kept = informative(&self.scores, &groups)?;
        if else_all && !kept.contains(&true) {
            return Ok(());
        }
        let mut place = 0..;
        self.episodes
            .retain(|_| place.next().is_some_and(|i: usize| kept[i / samples_per_prompt]));
        Ok(())
    }

    fn and(mut self, further: Self) -> Self {
        self.episodes.extend(further.episodes);
        self.scores.extend(further.scores);
        self.first_refusal = self.first_refusal.or(further.first_refusal);
        self.figures = self.figures.and(&further.figures);
        for (all, (_, seconds)) in self.seconds.iter_mut().zip(further.seconds) {
            all.1 += seconds;
        }
        self
    }

    /// Keeps so many, and counts them through.
    fn cut(&mut self, most: usize) {
        self.episodes.truncate(most);
        for (index, episode) in self.episodes.iter_mut().enumerate() {
            episode.index = index;
        }
    }
}

/// What an update changes.
pub(super) struct State {
    done: u64,
    pub learners: Learners,
}

impl State {
    pub fn new(engine: &Engine, setup: &Setup, c: &GrpoConfig) -> Result<Self> {
        let mut policy = setup.base.model.duplicate();
        if let Some(lora) = &c.lora {
            policy.add_adapter(engine, lora, c.train.seed)?;
        }
        policy.set_recompute(c.model.recompute);
        let ema = c.grpo.ema_decay.map(|decay| Ema::new(engine, &policy, decay));
        let policy = Learner::new(engine, policy, adamw(&c.train)?);
        Ok(Self {
            done: 0,
            learners: Learners { policy, ema },
        })
    }

    fn save(
        &self,
        (engine, setup, c): (&Engine, &Setup, &GrpoConfig),
        run: &mut Run,
        occasion: Occasion,
    ) -> Result<()> {
        let learners = &self.learners;
        let mut state = Map::new();
        state.insert("policy".into(), learners.policy.state());
        setup.keep(&mut state, self.done * rollouts_an_update(c))?;
        save(run, (self.done, occasion), state.into(), |writer| {
            learners.policy.save(engine, "policy", writer)?;
            learners
                .ema
                .as_ref()
                .map_or(Ok(()), |ema| ema.save(engine, "ema", writer))
        })
    }

    fn load(&mut self, engine: &Engine, checkpoint: &Checkpoint) -> Result<()> {
        self.done = checkpoint.step();
        let state = &checkpoint.state()["policy"];
        self.learners.policy.load(engine, "policy", checkpoint, state)?;
        if let Some(ema) = &mut self.learners.ema {
            ema.load(engine, "ema", checkpoint)?;
        }
        Ok(())
    }
}

fn record(
    job: &Job,
    run: &mut Run,
    (done, total): (u64, u64),
    (sampled, constants, report): (&Sampled, &Advantages, &Report),
    started: Instant,
) -> Result<()> {
    let episodes = &sampled.episodes;
    let count = episodes.len();
    let scores = mean(sampled.scores.iter().map(|&score| f64::from(score)));
    let tokens: u64 = episodes.iter().map(|e| e.length() as u64).sum();
    let (stats, policy) = (&report.stats, &report.stats.policy);
    let responses = |of: fn(&Episode) -> bool| mean(episodes.iter().map(|e| f64::from(u8::from(of(e)))));
    let mut metrics = vec![
        ("objective/scores", scores),
        ("objective/score_std", constants.stats.score.sample_variance().sqrt()),
        ("objective/equal_groups", constants.stats.equal_share()),
        ("objective/left_out", (sampled.scores.len() - count) as f64),
        ("policy/approxkl_avg", policy.approxkl(Estimator::K2)),
        ("policy/clipfrac_avg", policy.clipfrac()),
        ("policy/entropy_avg", policy.entropy.mean()),
        ("loss/policy_avg", stats.policy_loss),
        ("val/ratio", policy.ratio.mean()),
        ("val/ratio_var", policy.ratio.variance()),
        // The update stops where it is not 0.
        ("policy/logprob_mismatch_max", 0.0),
        ("completions/mean_length", tokens as f64 / count.max(1) as f64),
        ("completions/ended", responses(|e| e.ended)),
        (
            "completions/unscorable",
            episodes.iter().filter(|e| e.unscorable).count() as f64,
        ),
        ("episode", (done as usize * count) as f64),
    ];
    let mut headline = vec![("score".to_string(), scores)];
    if episodes.iter().any(|e| !e.ref_logprobs.is_empty()) {
        let kl = mean(episodes.iter().map(Episode::kl));
        metrics.push(("objective/kl", kl));
        metrics.push(("loss/kl_avg", stats.kl_loss));
        headline.push(("kl".to_string(), kl));
    }
    if let Some(first) = &report.first {
        metrics.push(("policy/first_ratio", first.policy.ratio.mean()));
        metrics.push(("policy/first_ratio_var", first.policy.ratio.variance()));
        metrics.push(("policy/first_clipfrac", first.policy.clipfrac()));
    }
    if let Some(policy) = &report.applied {
        metrics.push(("grad_norm", policy.grad_norm));
        metrics.push(("learning_rate", policy.learning_rate));
        metrics.push(("train/skipped_steps", policy.skipped as f64));
    }
    let figures = sampled.figures.metrics();
    metrics.extend(figures.iter().map(|(name, value)| (name.as_str(), *value)));
    run.record(done, &metrics)?;
    let seconds = started.elapsed().as_secs_f64();
    let mut parts = sampled.seconds.clone();
    parts.push(("seconds", seconds));
    parts.push(("tokens_per_second", tokens as f64 / seconds));
    run.record_timings(done, &parts)?;
    job.observer.event(&Event::Step {
        step: done,
        total,
        tokens,
        headline,
    });
    Ok(())
}
