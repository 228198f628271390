//! The rounds.

use hone_compute::Engine;
use hone_math::Key;
use hone_model::Transformer;
use hone_run::{Checkpoint, CheckpointWriter};
use serde_json::{Map, Value};

use super::config::{ExpertIterationConfig, ExpertIterationSection, TuneFrom};
use super::keep::{Candidate, distinct, kept};
use super::plan::rehearse;
use super::step::{Report, Round, tune};
use crate::error::Result;
use crate::job::Job;
use crate::learner::Learner;
use crate::plan::{Notes, Plan};
use crate::rollout::{Course, Episode, Learned, Networks, Practice, Practised, Sampled, Setup, mean, policy};
use crate::schedule::{Rates, adamw};

impl Practised for ExpertIterationConfig {
    type Besides = ();
    type Stage<'a> = Stage<'a>;

    fn course(&self) -> Course<'_> {
        Course {
            stage: "expert-iteration",
            model: &self.model,
            lora: self.lora.as_ref(),
            maximised: &self.maximised,
            data: &self.data,
            settings: self.expert_iteration.rollout(),
            total: self.expert_iteration.rounds,
            train: &self.train,
            eval: &self.eval,
            judge: self.judge.as_ref(),
            still: 0,
        }
    }

    fn check(&self) -> Result<()> {
        self.expert_iteration.check()?;
        // The schedule is a round's; what it refuses does not depend on how many steps that has
        Rates::new(&self.train, self.train.learning_rate, 1)?;
        adamw(&self.train)?;
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
            state: State::new(at.0, setup, self)?,
        })
    }
}

/// What rounds are made with, and what they change.
pub(crate) struct Stage<'a> {
    at: (&'a Engine, &'a Job),
    setup: &'a Setup,
    c: &'a ExpertIterationConfig,
    state: State,
}

impl Practice for Stage<'_> {
    fn sample(&self, round: u64) -> Result<Option<Sampled>> {
        let section = &self.c.expert_iteration;
        let networks = Networks {
            policy: &self.state.policy.model,
            reference: section.measure_kl,
        };
        let key = Key::new(self.c.train.seed, "rollout", round);
        let rollout = self
            .setup
            .rollout(self.at, networks, &section.rollout(), (round, key))?;
        Ok(rollout.map(Sampled::of))
    }

    fn learn(&mut self, number: u64, sampled: &Sampled) -> Result<Learned> {
        let (engine, job) = self.at;
        let section = &self.c.expert_iteration;
        sampled.check_scores("expert_iteration")?;
        // 1. The best responses
        let picked = Picked::of(&sampled.episodes, section);
        if picked.kept.is_empty() {
            job.message(nothing_kept(number, sampled, section));
            return Ok(learned(number + 1, (sampled, &picked), &Report::default()));
        }
        // 2. Tuning on them
        let round = Round {
            number,
            kept: &picked.kept,
            section,
            train: &self.c.train,
        };
        let State { policy, start } = &mut self.state;
        let report = tune(engine, policy, start.as_ref(), &round)?;
        Ok(learned(number + 1, (sampled, &picked), &report))
    }

    fn shown<'s>(&self, sampled: &'s Sampled) -> Vec<&'s Episode> {
        Picked::of(&sampled.episodes, &self.c.expert_iteration).kept
    }

    fn state(&self, done: u64) -> Result<Map<String, Value>> {
        let mut state = Map::new();
        state.insert("policy".into(), self.state.policy.state());
        self.setup.keep(&mut state, done)?;
        Ok(state)
    }

    fn write(&self, writer: &mut CheckpointWriter) -> Result<(), hone_run::Error> {
        self.state.policy.save(self.at.0, "policy", writer)
    }

    fn load(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let saved = &checkpoint.state()["policy"];
        self.state.policy.load(self.at.0, "policy", checkpoint, saved)
    }

    fn result(&self) -> &Transformer {
        &self.state.policy.model
    }

    fn summary(&self, done: u64) -> Map<String, Value> {
        let batch = self.c.expert_iteration.rollout_batch as u64;
        Map::from_iter([
            ("rounds".into(), done.into()),
            ("episodes".into(), (done * batch).into()),
        ])
    }
}

/// What a round keeps of its responses.
struct Picked<'a> {
    /// In the order of the rollout.
    kept: Vec<&'a Episode>,
    /// Responses that differ from all others to their prompt.
    distinct: usize,
    /// Prompts, and those of which something is kept.
    prompts: (usize, usize),
}

impl<'a> Picked<'a> {
    fn of(episodes: &'a [Episode], section: &ExpertIterationSection) -> Self {
        let mut picked = Self {
            kept: Vec::new(),
            distinct: 0,
            prompts: (0, 0),
        };
        for group in episodes.chunks(section.samples_per_prompt) {
            let candidates: Vec<Candidate<'_>> = group.iter().map(Candidate::from).collect();
            let places = kept(&candidates, section);
            picked.distinct += distinct(&candidates).len();
            picked.prompts.0 += 1;
            picked.prompts.1 += usize::from(!places.is_empty());
            picked.kept.extend(places.into_iter().map(|i| &group[i]));
        }
        picked
    }
}

/// Why a round has no step, in words.
fn nothing_kept(round: u64, sampled: &Sampled, section: &ExpertIterationSection) -> String {
    let scored = sampled.episodes.iter().filter(|episode| !episode.unscorable);
    let best = scored.map(|episode| episode.score).reduce(f32::max);
    let reason = match (best, section.threshold) {
        (Some(best), Some(threshold)) => {
            format!("the best score is {best}, and expert_iteration.threshold is {threshold}")
        }
        _ => "no response could be scored".into(),
    };
    format!(
        "round {}: nothing is kept, and the model stays as it is: {reason}",
        round + 1
    )
}

/// What rounds change, and what they begin again from.
pub(super) struct State {
    pub policy: Learner,
    /// The first model, where each round tunes that.
    pub start: Option<Transformer>,
}

impl State {
    pub fn new(engine: &Engine, setup: &Setup, c: &ExpertIterationConfig) -> Result<Self> {
        let policy = policy(engine, &setup.base.model, (&c.model, &c.lora), c.train.seed)?;
        let start = (c.expert_iteration.from == TuneFrom::Start).then(|| policy.duplicate());
        Ok(Self {
            policy: Learner::new(engine, policy, adamw(&c.train)?),
            start,
        })
    }
}

/// What is told of a round, after `done` of them.
fn learned(done: u64, (sampled, picked): (&Sampled, &Picked<'_>), report: &Report) -> Learned {
    let count = sampled.episodes.len();
    let (kept, scores) = (picked.kept.len(), sampled.mean_score());
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    let mut metrics = vec![
        ("objective/scores", scores),
        ("objective/kept", share(kept, count)),
        ("objective/prompts_kept", share(picked.prompts.1, picked.prompts.0)),
        ("completions/distinct", share(picked.distinct, count)),
    ];
    metrics.extend(sampled.completions());
    metrics.push(("episode", (done as usize * count) as f64));
    let mut headline = vec![("score", scores)];
    if kept > 0 {
        let of_kept = |number: fn(&Episode) -> f64| mean(picked.kept.iter().map(|episode| number(episode)));
        let kept_scores = of_kept(|episode| f64::from(episode.score));
        metrics.push(("objective/kept_scores", kept_scores));
        metrics.push(("completions/kept_length", of_kept(|episode| episode.length() as f64)));
        // The round stops where it is not 0.
        metrics.push(("policy/logprob_mismatch_max", 0.0));
        metrics.push(("train/loss", report.stats.mean_nll()));
        metrics.push(("train/steps", report.steps as f64));
        headline.push(("kept", kept_scores));
    }
    if let Some(applied) = &report.applied {
        metrics.push(("grad_norm", applied.grad_norm));
        metrics.push(("learning_rate", applied.learning_rate));
        metrics.push(("train/skipped_steps", applied.skipped as f64));
    }
    if let Some(kl) = sampled.kl() {
        metrics.push(("objective/kl", kl));
        headline.push(("kl", kl));
    }
    Learned {
        metrics,
        headline,
        target_tokens: report.stats.tokens,
        seconds: Vec::new(),
    }
}
