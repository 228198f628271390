//! The loop.

use hone_compute::Engine;
use hone_math::Key;
use hone_objective::group::{Advantages, informative};
use hone_objective::kl::Estimator;
use hone_run::{Checkpoint, Inputs, Resolved, Run};
use serde_json::{Map, json};

use super::config::{GroupMethod, GrpoConfig, GrpoSection, KlPlace};
use super::plan::rehearse;
use super::step::{Learners, Report, Update, prepare, update};
use crate::artefact;
use crate::error::{Result, TrainError};
use crate::job::{Begun, Job, Occasion, Outcome, save};
use crate::learner::{Ema, Learner};
use crate::plan::Notes;
use crate::rollout::{Course, Learned, Made, Networks, Practice, Sampled, Setup, policy, practise};
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
    let course = Course {
        stage: "grpo",
        settings: c.grpo.rollout(),
        total,
        train: &c.train,
        eval: &c.eval,
    };
    let done = started.checkpoint.as_ref().map_or(0, Checkpoint::step);
    let mut stage = Stage {
        engine: &engine,
        job,
        setup: &setup,
        c,
        rates,
        state,
    };
    if let Some(stopped) = practise(job, (&mut run, done), &course, &mut stage)? {
        return Ok(stopped);
    }
    let learners = &stage.state.learners;
    let result = learners.ema.as_ref().map_or(&learners.policy.model, |ema| &ema.model);
    let model = artefact::publish(&engine, &run, &setup.base.companion, result)?;
    let summary = json!({ "updates": total, "episodes": stage.state.episodes });
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
    if g.samples_dynamically() {
        let taught = match g.method.kl_place() {
            _ if g.method == GroupMethod::ReinforcePlusPlus => Some("scores are whitened over the rollout"),
            KlPlace::Score if g.kl_coef() > 0.0 => Some("the divergence is taken off the score"),
            _ => None,
        };
        if let Some(why) = taught {
            let reason =
                format!("is true, and {why}, so that groups whose scores are all equal teach, too; leave it out");
            return Err(TrainError::setting("grpo.dynamic_sampling", reason));
        }
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

/// What updates are made with, and what they change.
struct Stage<'a> {
    engine: &'a Engine,
    job: &'a Job,
    setup: &'a Setup,
    c: &'a GrpoConfig,
    rates: Rates,
    state: State,
}

impl Practice for Stage<'_> {
    fn sample(&self, update: u64) -> Result<Option<Sampled>> {
        let (c, at) = (self.c, (self.engine, self.job));
        let settings = c.grpo.rollout();
        let networks = Networks {
            policy: &self.state.learners.policy.model,
            value: None,
            reference: c.grpo.kl_coef() > 0.0,
        };
        let key = Key::new(c.train.seed, "rollout", update);
        if !c.grpo.samples_dynamically() {
            let rollout = self.setup.rollout(at, networks, &settings, (update, key))?;
            return Ok(rollout.map(Sampled::of));
        }
        // Groups that teach nothing are replaced by those of further prompts
        let attempts = rollouts_an_update(c);
        let mut sampled: Option<Sampled> = None;
        for attempt in 0..attempts {
            let place = update * attempts + attempt;
            let drawn = self
                .setup
                .rollout(at, networks, &settings, (place, key.child(attempt)))?;
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

    fn learn(&mut self, number: u64, sampled: &Sampled) -> Result<Learned> {
        // 1. Advantages within each group
        let constants = prepare(&sampled.episodes, &self.c.grpo)?;
        // 2. Passes of clipped steps
        let step = Update {
            number,
            episodes: &sampled.episodes,
            advantages: &constants.advantages,
            grpo: &self.c.grpo,
            train: &self.c.train,
            rate: self.rates.at(number),
        };
        let report = update(self.engine, &mut self.state.learners, &step)?;
        self.state.episodes += sampled.episodes.len() as u64;
        Ok(learned(self.state.episodes, (sampled, &constants, &report)))
    }

    fn save(&self, run: &mut Run, done: u64, occasion: Occasion) -> Result<()> {
        self.state
            .save((self.engine, self.setup, self.c), (run, done), occasion)
    }
}

/// Numbers of rollouts that are there for one update.
pub(super) fn rollouts_an_update(c: &GrpoConfig) -> u64 {
    match c.grpo.samples_dynamically() {
        true => c.grpo.sampling_attempts as u64,
        false => 1,
    }
}

/// Dynamic sampling.
impl Sampled {
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
    pub learners: Learners,
    /// Episodes of all updates so far.
    episodes: u64,
}

impl State {
    pub fn new(engine: &Engine, setup: &Setup, c: &GrpoConfig) -> Result<Self> {
        let policy = policy(engine, &setup.base.model, (&c.model, &c.lora), c.train.seed)?;
        let ema = c.grpo.ema_decay.map(|decay| Ema::new(engine, &policy, decay));
        let policy = Learner::new(engine, policy, adamw(&c.train)?);
        Ok(Self {
            learners: Learners { policy, ema },
            episodes: 0,
        })
    }

    fn save(
        &self,
        (engine, setup, c): (&Engine, &Setup, &GrpoConfig),
        (run, done): (&mut Run, u64),
        occasion: Occasion,
    ) -> Result<()> {
        let learners = &self.learners;
        let mut state = Map::new();
        state.insert("policy".into(), learners.policy.state());
        state.insert("episodes".into(), self.episodes.into());
        setup.keep(&mut state, done * rollouts_an_update(c))?;
        save(run, (done, occasion), state.into(), |writer| {
            learners.policy.save(engine, "policy", writer)?;
            learners
                .ema
                .as_ref()
                .map_or(Ok(()), |ema| ema.save(engine, "ema", writer))
        })
    }

    fn load(&mut self, engine: &Engine, checkpoint: &Checkpoint) -> Result<()> {
        let state = checkpoint.state();
        self.episodes = state["episodes"].as_u64().unwrap_or(0);
        self.learners
            .policy
            .load(engine, "policy", checkpoint, &state["policy"])?;
        if let Some(ema) = &mut self.learners.ema {
            ema.load(engine, "ema", checkpoint)?;
        }
        Ok(())
    }
}

/// What is told of an update, after so many episodes.
fn learned(episodes: u64, (sampled, constants, report): (&Sampled, &Advantages, &Report)) -> Learned {
    let count = sampled.episodes.len();
    let scores = sampled.mean_score();
    let (stats, policy) = (&report.stats, &report.stats.policy);
    // Each step's loss is a mean already
    let steps = report.steps.max(1) as f64;
    let mut metrics = vec![
        ("objective/scores", scores),
        ("objective/score_std", constants.stats.score.sample_variance().sqrt()),
        ("objective/equal_groups", constants.stats.equal_share()),
        ("objective/left_out", (sampled.scores.len() - count) as f64),
        ("policy/approxkl_avg", policy.approxkl(Estimator::K2)),
        ("policy/clipfrac_avg", policy.clipfrac()),
        (
            "clip_ratio/low_mean",
            stats.clipped_low as f64 / policy.ratio.count() as f64,
        ),
        (
            "clip_ratio/high_mean",
            stats.clipped_high as f64 / policy.ratio.count() as f64,
        ),
        ("policy/entropy_avg", policy.entropy.mean()),
        ("loss/policy_avg", stats.policy_loss / steps),
        ("val/ratio", policy.ratio.mean()),
        ("val/ratio_var", policy.ratio.variance()),
        // The update stops where it is not 0.
        ("policy/logprob_mismatch_max", 0.0),
    ];
    metrics.extend(sampled.completions());
    metrics.push(("episode", episodes as f64));
    let mut headline = vec![("score", scores)];
    if let Some(kl) = sampled.kl() {
        metrics.push(("objective/kl", kl));
        metrics.push(("loss/kl_avg", stats.kl_loss / steps));
        headline.push(("kl", kl));
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
    Learned { metrics, headline }
}
