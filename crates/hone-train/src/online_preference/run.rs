//! The loop.

use hone_compute::Engine;
use hone_math::Key;
use hone_run::{Checkpoint, Inputs, Resolved, Run};
use serde_json::{Map, json};

use super::config::OnlinePreferenceConfig;
use super::pairs::Paired;
use super::plan::rehearse;
use super::step::{Report, Update, update};
use crate::artefact;
use crate::error::Result;
use crate::job::{Begun, Job, Occasion, Outcome, save};
use crate::learner::Learner;
use crate::plan::Notes;
use crate::preferred::Method;
use crate::rollout::{Course, Learned, Made, Networks, Practice, Sampled, Setup, mean, policy, practise};
use crate::schedule::{Rates, adamw};

/// Improves a policy as configured, or goes on where it was interrupted.
///
/// # Errors
/// If the configuration, the data or a model is at fault, the memory does not suffice, training diverges, or an invariant
/// breaks.
pub fn run(job: &Job, config: &Resolved<OnlinePreferenceConfig>) -> Result<Outcome> {
    train(job, config).map_err(|error| error.at(config))
}

fn train(job: &Job, config: &Resolved<OnlinePreferenceConfig>) -> Result<Outcome> {
    let c = &config.config;
    let (method, rates) = check(c)?;
    let engine = job.engine(&c.train)?;
    let inputs = inputs(job, c);
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
    let mut policy = learner(&engine, &setup, c)?;
    if let Some(checkpoint) = &started.checkpoint {
        policy.load(&engine, "policy", checkpoint, &checkpoint.state()["policy"])?;
    }
    let total = c.online_preference.updates;
    let course = Course {
        stage: "online-preference",
        settings: c.online_preference.rollout(),
        total,
        train: &c.train,
        eval: &c.eval,
    };
    let done = started.checkpoint.as_ref().map_or(0, Checkpoint::step);
    let mut stage = Stage {
        at: (&engine, job),
        setup: &setup,
        c,
        method,
        rates,
        policy,
        told_of_no_pair: false,
    };
    if let Some(stopped) = practise(job, (&mut run, done), &course, &mut stage)? {
        return Ok(stopped);
    }
    let model = artefact::publish(&engine, &run, &setup.base.companion, &stage.policy.model)?;
    let summary = json!({
        "method": c.preference.method.name(),
        "updates": total,
        "episodes": total * c.online_preference.rollout_batch as u64,
    });
    job.finish(run, (model, summary), Vec::new(), total)
}

fn inputs(job: &Job, c: &OnlinePreferenceConfig) -> Inputs {
    let rewards = c.maximised().models();
    job.inputs(std::iter::once(&c.model.path).chain(&rewards), c.data.prompts.iter())
}

pub(super) fn load(job: &Job, engine: &Engine, c: &OnlinePreferenceConfig) -> Result<Setup> {
    let made = Made {
        model: &c.model,
        maximised: c.maximised(),
        data: &c.data,
        seed: c.train.seed,
    };
    Setup::load(job, engine, &made, &c.online_preference.rollout())
}

/// Refuses what makes no sense; gives the method and the learning rates.
pub(super) fn check(c: &OnlinePreferenceConfig) -> Result<(Method, Rates)> {
    c.check()?;
    let method = Method::new(&c.preference)?;
    let rates = Rates::new(&c.train, c.train.learning_rate, c.online_preference.updates)?;
    Ok((method, rates))
}

/// The policy where a run begins.
pub(super) fn learner(engine: &Engine, setup: &Setup, c: &OnlinePreferenceConfig) -> Result<Learner> {
    let policy = policy(engine, &setup.base.model, (&c.model, &c.lora), c.train.seed)?;
    Ok(Learner::new(engine, policy, adamw(&c.train)?))
}

/// What updates are made with, and what they change.
struct Stage<'a> {
    at: (&'a Engine, &'a Job),
    setup: &'a Setup,
    c: &'a OnlinePreferenceConfig,
    method: Method,
    rates: Rates,
    policy: Learner,
    told_of_no_pair: bool,
}

impl Practice for Stage<'_> {
    fn sample(&self, update: u64) -> Result<Option<Sampled>> {
        let networks = Networks {
            policy: &self.policy.model,
            value: None,
            reference: self.c.preference.method.has_reference(),
        };
        let key = Key::new(self.c.train.seed, "rollout", update);
        let settings = self.c.online_preference.rollout();
        let rollout = self.setup.rollout(self.at, networks, &settings, (update, key))?;
        Ok(rollout.map(Sampled::of))
    }

    fn learn(&mut self, number: u64, sampled: &Sampled) -> Result<Learned> {
        let (engine, job) = self.at;
        let section = &self.c.online_preference;
        sampled.check_scores("online_preference")?;
        // 1. Pairs of each prompt's responses
        let groups = sampled.episodes.chunks(section.samples_per_prompt);
        let paired: Vec<Option<Paired<'_>>> = groups
            .map(|group| Paired::of(group, section.pairs))
            .collect::<Result<_>>()?;
        let prompts: Vec<Paired<'_>> = paired.into_iter().flatten().collect();
        if prompts.is_empty() && !std::mem::replace(&mut self.told_of_no_pair, true) {
            job.message(format!(
                "update {}: no prompt has two responses of different scores, so nothing is learned from it; the metric \
                 objective/pairs counts pairs",
                number + 1
            ));
        }
        // 2. Passes of steps on them
        let step = Update {
            number,
            prompts: &prompts,
            method: self.method,
            c: self.c,
            rate: self.rates.at(number),
        };
        let report = update(engine, &mut self.policy, &step)?;
        let groups = sampled.episodes.len() / section.samples_per_prompt;
        Ok(learned(number + 1, (sampled, &prompts, groups), &report))
    }

    fn save(&self, run: &mut Run, done: u64, occasion: Occasion) -> Result<()> {
        let (engine, policy) = (self.at.0, &self.policy);
        let mut state = Map::new();
        state.insert("policy".into(), policy.state());
        self.setup.keep(&mut state, done)?;
        save(run, (done, occasion), state.into(), |writer| {
            policy.save(engine, "policy", writer)
        })
    }
}

/// What is told of an update, after `done` of them, of whose `groups` of responses some have pairs.
fn learned(done: u64, (sampled, prompts, groups): (&Sampled, &[Paired<'_>], usize), report: &Report) -> Learned {
    let scores = sampled.mean_score();
    let pairs: u64 = prompts.iter().map(|prompt| prompt.judgement.count()).sum();
    let mut metrics = vec![
        ("objective/scores", scores),
        ("objective/pairs", pairs as f64),
        ("objective/prompts_paired", prompts.len() as f64 / groups.max(1) as f64),
    ];
    metrics.extend(sampled.completions());
    metrics.push(("episode", (done as usize * sampled.episodes.len()) as f64));
    let mut headline = vec![("score", scores)];
    if let Some(applied) = &report.applied {
        let stats = &report.stats;
        let margins = prompts.iter().flat_map(Paired::scores);
        metrics.push((
            "objective/score_margins",
            mean(margins.map(|(better, worse)| better - worse)),
        ));
        // The update stops where it is not 0.
        metrics.push(("policy/logprob_mismatch_max", 0.0));
        metrics.push(("train/loss", stats.loss));
        metrics.push(("rewards/accuracies", stats.accuracy()));
        metrics.extend(stats.metrics());
        metrics.push(("grad_norm", applied.grad_norm));
        metrics.push(("learning_rate", applied.learning_rate));
        metrics.push(("train/skipped_steps", applied.skipped as f64));
        headline.push(("accuracy", stats.accuracy()));
    }
    if let Some(kl) = sampled.kl() {
        metrics.push(("objective/kl", kl));
        headline.push(("kl", kl));
    }
    Learned { metrics, headline }
}
