//! The loop.

use hone_compute::Engine;
use hone_math::Key;
use hone_model::Transformer;
use hone_run::{Checkpoint, CheckpointWriter};
use serde_json::{Map, Value};

use super::config::OnlinePreferenceConfig;
use super::pairs::Paired;
use super::plan::rehearse;
use super::step::{Report, Update, update};
use crate::error::Result;
use crate::job::Job;
use crate::learner::Learner;
use crate::plan::{Notes, Plan};
use crate::preferred::Method;
use crate::rollout::{Course, Learned, Networks, Practice, Practised, Sampled, Setup, mean, policy};
use crate::schedule::{Rates, adamw};

impl Practised for OnlinePreferenceConfig {
    type Besides = ();
    type Stage<'a> = Stage<'a>;

    fn course(&self) -> Course<'_> {
        Course {
            stage: "online-preference",
            model: &self.model,
            lora: self.lora.as_ref(),
            maximised: &self.maximised,
            data: &self.data,
            settings: self.online_preference.rollout(),
            total: self.online_preference.updates,
            train: &self.train,
            eval: &self.eval,
            judge: self.judge.as_ref(),
            still: 0,
        }
    }

    fn check(&self) -> Result<()> {
        self.refuse()?;
        Method::new(&self.preference)?;
        rates(self)?;
        Ok(())
    }

    fn rehearse(&self, notes: Notes<'_>, (setup, ()): (&Setup, &())) -> Result<Plan> {
        rehearse(notes, setup, self)
    }

    fn stage<'a>(&'a self, at: (&'a Engine, &'a Job), (setup, ()): (&'a Setup, &'a ())) -> Result<Stage<'a>> {
        Ok(Stage {
            at,
            setup,
            c: self,
            method: Method::new(&self.preference)?,
            rates: rates(self)?,
            policy: learner(at.0, setup, self)?,
            told_of_no_pair: false,
        })
    }
}

pub(super) fn rates(c: &OnlinePreferenceConfig) -> Result<Rates> {
    Rates::new(&c.train, c.train.learning_rate, c.online_preference.updates)
}

/// The policy where a run begins.
pub(super) fn learner(engine: &Engine, setup: &Setup, c: &OnlinePreferenceConfig) -> Result<Learner> {
    let policy = policy(engine, &setup.base.model, (&c.model, &c.lora), c.train.seed)?;
    Ok(Learner::new(engine, policy, adamw(&c.train)?))
}

/// What updates are made with, and what they change.
pub(crate) struct Stage<'a> {
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
        let prompts: Vec<Option<Paired<'_>>> = groups
            .map(|group| Paired::of(group, section.pairs))
            .collect::<Result<_>>()?;
        if prompts.iter().all(Option::is_none) && !std::mem::replace(&mut self.told_of_no_pair, true) {
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
        Ok(learned(number + 1, (sampled, &prompts), &report))
    }

    fn state(&self, done: u64) -> Result<Map<String, Value>> {
        let mut state = Map::new();
        state.insert("policy".into(), self.policy.state());
        self.setup.keep(&mut state, done)?;
        Ok(state)
    }

    fn write(&self, writer: &mut CheckpointWriter) -> Result<(), hone_run::Error> {
        self.policy.save(self.at.0, "policy", writer)
    }

    fn load(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let saved = &checkpoint.state()["policy"];
        self.policy.load(self.at.0, "policy", checkpoint, saved)
    }

    fn result(&self) -> &Transformer {
        &self.policy.model
    }

    fn summary(&self, done: u64) -> Map<String, Value> {
        let batch = self.c.online_preference.rollout_batch as u64;
        Map::from_iter([
            ("method".into(), self.c.preference.method.name().into()),
            ("updates".into(), done.into()),
            ("episodes".into(), (done * batch).into()),
        ])
    }
}

/// What is told of an update, after `done` of them, of whose prompts some have pairs.
fn learned(done: u64, (sampled, prompts): (&Sampled, &[Option<Paired<'_>>]), report: &Report) -> Learned {
    let scores = sampled.mean_score();
    let paired: Vec<&Paired<'_>> = prompts.iter().flatten().collect();
    let pairs: u64 = paired.iter().map(|prompt| prompt.judgement.count()).sum();
    let mut metrics = vec![
        ("objective/scores", scores),
        ("objective/pairs", pairs as f64),
        (
            "objective/prompts_paired",
            paired.len() as f64 / prompts.len().max(1) as f64,
        ),
    ];
    metrics.extend(sampled.completions());
    metrics.push(("episode", (done as usize * sampled.episodes.len()) as f64));
    let mut headline = vec![("score", scores)];
    if let Some(applied) = &report.applied {
        let stats = &report.stats;
        let margins = paired.iter().flat_map(|prompt| prompt.scores());
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
    Learned {
        metrics,
        headline,
        target_tokens: report.target_tokens,
        seconds: Vec::new(),
    }
}
