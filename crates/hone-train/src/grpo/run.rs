//! The loop.

use hone_compute::Engine;
use hone_math::Key;
use hone_model::Transformer;
use hone_objective::group::{Advantages, informative};
use hone_objective::kl::Estimator;
use hone_run::{Checkpoint, CheckpointWriter};
use serde_json::{Map, Value};

use super::config::GrpoConfig;
use super::plan::rehearse;
use super::step::{Learners, Report, Update, prepare, update};
use crate::error::Result;
use crate::job::Job;
use crate::learner::{Ema, Learner};
use crate::plan::{Notes, Plan};
use crate::rollout::{Course, Learned, Networks, Practice, Practised, Sampled, Setup, policy};
use crate::schedule::{Rates, adamw};

impl Practised for GrpoConfig {
    type Besides = ();
    type Stage<'a> = Stage<'a>;

    fn course(&self) -> Course<'_> {
        Course {
            stage: "grpo",
            model: &self.model,
            lora: self.lora.as_ref(),
            maximised: &self.maximised,
            data: &self.data,
            settings: self.grpo.rollout(),
            total: self.grpo.updates,
            train: &self.train,
            eval: &self.eval,
            judge: self.judge.as_ref(),
            still: 0,
        }
    }

    fn check(&self) -> Result<()> {
        self.refuse()?;
        rates(self)?;
        Ok(())
    }

    fn rehearse(&self, notes: Notes<'_>, (setup, ()): (&Setup, &())) -> Result<Plan> {
        rehearse(notes, setup, self)
    }

    fn stage<'a>(
        &'a self,
        (engine, job): (&'a Engine, &'a Job),
        (setup, ()): (&'a Setup, &'a ()),
    ) -> Result<Stage<'a>> {
        Ok(Stage {
            at: (engine, job),
            setup,
            c: self,
            rates: rates(self)?,
            state: State::new(engine, setup, self)?,
        })
    }
}

pub(super) fn rates(c: &GrpoConfig) -> Result<Rates> {
    Rates::new(&c.train, c.train.learning_rate, c.grpo.updates)
}

/// What updates are made with, and what they change.
pub(crate) struct Stage<'a> {
    at: (&'a Engine, &'a Job),
    setup: &'a Setup,
    c: &'a GrpoConfig,
    rates: Rates,
    state: State,
}

impl Practice for Stage<'_> {
    fn sample(&self, update: u64) -> Result<Option<Sampled>> {
        let (c, at) = (self.c, self.at);
        let settings = c.grpo.rollout();
        let networks = Networks {
            policy: &self.state.learners.policy.model,
            reference: c.grpo.reads_reference(),
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
        let report = update(self.at.0, &mut self.state.learners, &step)?;
        self.state.episodes += sampled.episodes.len() as u64;
        Ok(learned(self.state.episodes, (sampled, &constants, &report)))
    }

    fn state(&self, done: u64) -> Result<Map<String, Value>> {
        let mut state = self.state.counters();
        self.setup.keep(&mut state, done * rollouts_an_update(self.c))?;
        Ok(state)
    }

    fn write(&self, writer: &mut CheckpointWriter) -> Result<(), hone_run::Error> {
        self.state.write(self.at.0, writer)
    }

    fn load(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.state.load(self.at.0, checkpoint)
    }

    fn result(&self) -> &Transformer {
        let learners = &self.state.learners;
        learners.ema.as_ref().map_or(&learners.policy.model, |ema| &ema.model)
    }

    fn summary(&self, done: u64) -> Map<String, Value> {
        Map::from_iter([
            ("updates".into(), done.into()),
            ("episodes".into(), self.state.episodes.into()),
        ])
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

    fn counters(&self) -> Map<String, Value> {
        let mut state = Map::new();
        state.insert("policy".into(), self.learners.policy.state());
        state.insert("episodes".into(), self.episodes.into());
        state
    }

    fn write(&self, engine: &Engine, writer: &mut CheckpointWriter) -> Result<(), hone_run::Error> {
        self.learners.policy.save(engine, "policy", writer)?;
        let ema = self.learners.ema.as_ref();
        ema.map_or(Ok(()), |ema| ema.save(engine, "ema", writer))
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
        ("frac_reward_zero_std", constants.stats.equal_share()),
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
    Learned {
        metrics,
        headline,
        target_tokens: report.target_tokens,
        seconds: Vec::new(),
    }
}
