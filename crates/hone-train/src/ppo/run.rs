//! The loop of PPO.

use std::time::Instant;

use hone_compute::Engine;
use hone_data::{MixtureOrder, Window};
use hone_math::Key;
use hone_model::{LoraConfig, Transformer};
use hone_objective::gae::GaeConfig;
use hone_objective::kl::{AdaptiveKl, Estimator, KlController};
use hone_objective::ppo::{PrepareConfig, Prepared, Rollout, prepare};
use hone_run::{Checkpoint, Event, Inputs, Resolved, Run};
use serde_json::{Map, Value, json};

use super::config::{PpoConfig, PpoSection, PtxSection, ValueStart};
use super::plan::rehearse;
use super::step::{Learners, Report, Update, update};
use crate::artefact::{self, Artefact};
use crate::corpus::{Corpus, CorpusOptions};
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
pub fn run(job: &Job, config: &Resolved<PpoConfig>) -> Result<Outcome> {
    train(job, config).map_err(|error| error.at(config))
}

fn train(job: &Job, config: &Resolved<PpoConfig>) -> Result<Outcome> {
    let c = &config.config;
    check(c)?;
    let engine = job.engine(&c.train)?;
    let inputs = inputs(job, c);
    let rates = rates(c)?;
    let begun = job.begin(&engine, (config, &c.train, inputs), || {
        let rehearsal = job.rehearsal(&c.train)?;
        let stage = Stage::load(job, &rehearsal, c)?;
        rehearse(Notes::new(&rehearsal), &stage, c)?.check(job, &c.train)?;
        Ok(stage)
    })?;
    let (started, mut stage) = match begun {
        Begun::Before(outcome) => return Ok(outcome),
        Begun::Go(begun) => *begun,
    };
    let mut run = started.run;
    stage.setup.load_weights(job, &engine, started.checkpoint.as_ref())?;
    let mut state = State::new(&engine, &stage, c)?;
    if let Some(checkpoint) = &started.checkpoint {
        state.load(&engine, checkpoint)?;
    }
    let total = c.ppo.updates;
    let cadence = Cadence {
        total,
        checkpoint_every: c.train.checkpoint_every,
        eval_every: c.eval.every,
    };
    job.observer.event(&Event::Started {
        stage: "ppo".into(),
        step: state.done,
        total,
    });
    let mut told_of_unscorable = false;
    while state.done < total {
        let started = Instant::now();
        // 1. The policy answers prompts
        let rollout = match job.shutdown.requested() {
            true => None,
            false => stage.rollout(&engine, job, &state, c)?,
        };
        let Some(Collected {
            episodes,
            first_refusal,
            figures,
            mut seconds,
        }) = rollout
        else {
            state.save((&engine, &stage.setup), &mut run, Occasion::Interruption)?;
            job.observer.event(&Event::Finished {
                step: state.done,
                stopped: true,
            });
            return Ok(Outcome::Stopped { step: state.done });
        };
        if let Some(reason) = first_refusal.filter(|_| !told_of_unscorable) {
            told_of_unscorable = true;
            tell_unscorable(job, "ppo", &reason, c.ppo.missing_eos_score);
        }
        // 2. Rewards, advantages and returns of the whole rollout
        let constants = constants(&episodes, state.kl.kl_coef(), &c.ppo)?;
        // 3. Epochs of clipped steps
        let step = Update {
            number: state.done,
            episodes: &episodes,
            constants: &constants,
            ppo: &c.ppo,
            train: &c.train,
            rates: (
                rates.0.at(state.done.saturating_sub(c.ppo.value_warmup_updates)),
                rates.1.at(state.done),
            ),
            ptx: stage.ptx_windows(state.done, c)?,
        };
        let optimisation = Instant::now();
        let report = update(&engine, &mut state.learners, &step)?;
        seconds.push(("time/optimisation", optimisation.elapsed().as_secs_f64()));
        // 4. The penalty follows the KL that was reached, once the policy moves
        let kl_coef = state.kl.kl_coef();
        if !c.ppo.warms_up_value(state.done) {
            state
                .kl
                .update(mean(episodes.iter().map(Episode::kl)), episodes.len() as u64)?;
        }
        state.done += 1;
        record(
            job,
            &mut run,
            (state.done, total, kl_coef),
            (&episodes, &figures, &constants, &report),
            (started, seconds),
        )?;
        if cadence.evaluates(state.done) {
            record_samples(&mut run, state.done, &episodes, c.eval.samples)?;
        }
        if cadence.saves(state.done) {
            state.save((&engine, &stage.setup), &mut run, Occasion::Due)?;
        }
    }
    let result = state
        .learners
        .ema
        .as_ref()
        .map_or(&state.learners.policy.model, |ema| &ema.model);
    let model = artefact::publish(&engine, &run, &stage.setup.base.companion, result)?;
    let summary = json!({ "updates": total, "episodes": total * c.ppo.rollout_batch as u64, "value_start": stage.value_start.words() });
    job.finish(run, (model, summary), Vec::new(), total)
}

/// What the stage is made from.
fn inputs(job: &Job, c: &PpoConfig) -> Inputs {
    let ptx = c.ptx.iter().flat_map(|ptx| &ptx.train);
    let rewards = c.maximised().models();
    let models = std::iter::once(&c.model.path).chain(&rewards);
    job.inputs(models, c.data.prompts.iter().chain(ptx))
}

pub(super) fn check(c: &PpoConfig) -> Result<()> {
    let p = &c.ppo;
    let positive = [
        ("ppo.updates", p.updates as usize),
        ("ppo.rollout_batch", p.rollout_batch),
        ("ppo.samples_per_prompt", p.samples_per_prompt),
        ("ppo.minibatch", p.minibatch),
        ("ppo.ppo_epochs", p.ppo_epochs),
        ("ppo.max_new_tokens", p.max_new_tokens),
    ];
    for (key, value) in positive {
        if value == 0 {
            return Err(TrainError::setting(key, "is 0; expected at least 1"));
        }
    }
    if !p.rollout_batch.is_multiple_of(p.minibatch) {
        let reason = format!(
            "is {}, which does not divide ppo.rollout_batch = {}",
            p.minibatch, p.rollout_batch
        );
        return Err(TrainError::setting("ppo.minibatch", reason));
    }
    if !p.minibatch.is_multiple_of(p.samples_per_prompt) {
        let reason = format!(
            "is {}, which does not divide ppo.minibatch = {}: the responses to a prompt are trained on together",
            p.samples_per_prompt, p.minibatch
        );
        return Err(TrainError::setting("ppo.samples_per_prompt", reason));
    }
    // What is absent passes
    let (kl_target, value_rate) = (p.kl_target.unwrap_or(1.0), p.value_learning_rate.unwrap_or(1.0));
    let ptx_coef = c.ptx.as_ref().map_or(1.0, |ptx| ptx.ptx_coef);
    let numbers = [
        (
            "ppo.temperature",
            p.temperature,
            p.temperature > 0.0,
            "a number above 0",
        ),
        ("ppo.kl_coef", p.kl_coef, p.kl_coef >= 0.0, "0 or a number above"),
        ("ppo.clip_range", p.clip_range, p.clip_range > 0.0, "a number above 0"),
        (
            "ppo.value_clip_range",
            p.value_clip_range,
            p.value_clip_range > 0.0,
            "a number above 0",
        ),
        ("ppo.value_coef", p.value_coef, p.value_coef > 0.0, "a number above 0"),
        ("ppo.gamma", p.gamma, (0.0..=1.0).contains(&p.gamma), "0 to 1"),
        (
            "ppo.gae_lambda",
            p.gae_lambda,
            (0.0..=1.0).contains(&p.gae_lambda),
            "0 to 1",
        ),
        ("ppo.missing_eos_score", p.missing_eos_score, true, "a number"),
        ("ppo.kl_target", kl_target, kl_target > 0.0, "a number above 0"),
        (
            "ppo.value_learning_rate",
            value_rate,
            value_rate > 0.0,
            "a number above 0",
        ),
        ("ptx.ptx_coef", ptx_coef, ptx_coef >= 0.0, "0 or a number above"),
    ];
    for (key, value, holds, expected) in numbers {
        if !holds || !value.is_finite() {
            return Err(TrainError::setting(key, format!("is {value}; expected {expected}")));
        }
    }
    // The controller moves by at most a fifth an episode of a horizon: a shorter one would turn the penalty negative
    if p.kl_target.is_some() && !(p.kl_horizon > 0.2 * p.rollout_batch as f64 && p.kl_horizon.is_finite()) {
        let expected = format!("a number above a fifth of ppo.rollout_batch = {}", p.rollout_batch);
        return Err(TrainError::setting(
            "ppo.kl_horizon",
            format!("is {}; expected {expected}", p.kl_horizon),
        ));
    }
    if let Some(decay) = p.ema_decay
        && !(0.0..1.0).contains(&decay)
    {
        return Err(TrainError::setting(
            "ppo.ema_decay",
            format!("is {decay}; expected at least 0 and below 1"),
        ));
    }
    let usual = PpoSection::default();
    if p.kl_target.is_none() && p.kl_horizon != usual.kl_horizon {
        let reason = format!(
            "is {}, and without ppo.kl_target the coefficient does not move; give kl_target, or leave it out",
            p.kl_horizon
        );
        return Err(TrainError::setting("ppo.kl_horizon", reason));
    }
    Ok(())
}

/// Rates of the policy, counted from the update in which it begins to learn, and of the value network.
pub(super) fn rates(c: &PpoConfig) -> Result<(Rates, Rates)> {
    let rate = c.train.learning_rate;
    Ok((
        Rates::new(&c.train, rate, c.ppo.updates.saturating_sub(c.ppo.value_warmup_updates))?,
        Rates::new(&c.train, c.ppo.value_learning_rate.unwrap_or(rate), c.ppo.updates)?,
    ))
}

/// The pre-training windows of an update, one list an optimiser step, and the section that asks for them.
type PtxWindows<'a> = (&'a PtxSection, Vec<Vec<Window<'a>>>);

/// What does not change during a run.
pub(super) struct Stage {
    pub setup: Setup,
    /// Where the value network starts.
    value_start: ValueOrigin,
    ptx: Option<(Corpus, MixtureOrder)>,
}

/// Where the value network starts, of what is possible.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ValueOrigin {
    RewardModel,
    /// The policy's start, with a head of zeros.
    Policy,
}

impl ValueOrigin {
    fn words(self) -> &'static str {
        match self {
            Self::RewardModel => "reward model",
            Self::Policy => "policy, head of zeros",
        }
    }
}

impl Stage {
    pub fn load(job: &Job, engine: &Engine, c: &PpoConfig) -> Result<Self> {
        let made = Made {
            model: &c.model,
            maximised: c.maximised(),
            data: &c.data,
            seed: c.train.seed,
        };
        let setup = Setup::load(job, engine, &made, &c.ppo.rollout())?;
        let readable = setup.judge.start_of_values(setup.longest).is_some();
        let value_start = match c.ppo.value_start {
            ValueStart::RewardModel if readable => ValueOrigin::RewardModel,
            _ => ValueOrigin::Policy,
        };
        job.message(format!("the value network starts from the {}", value_start.words()));
        let ptx = match &c.ptx {
            Some(ptx) => Some(load_ptx(job, ptx, &setup.base, c.train.seed)?),
            None => None,
        };
        Ok(Self {
            setup,
            value_start,
            ptx,
        })
    }

    fn rollout(&self, engine: &Engine, job: &Job, state: &State, c: &PpoConfig) -> Result<Option<Collected>> {
        let networks = Networks {
            policy: &state.learners.policy.model,
            value: Some(&state.learners.value.model),
            reference: true,
        };
        let key = Key::new(c.train.seed, "rollout", state.done);
        let settings = c.ppo.rollout();
        self.setup
            .rollout((engine, job), networks, &settings, (state.done, key))
    }

    /// The pre-training windows of an update, one list an optimiser step.
    pub fn ptx_windows<'a>(&'a self, update: u64, c: &'a PpoConfig) -> Result<Option<PtxWindows<'a>>> {
        let (Some(section), Some((corpus, order))) = (&c.ptx, &self.ptx) else {
            return Ok(None);
        };
        let steps = (c.ppo.ppo_epochs * (c.ppo.rollout_batch / c.ppo.minibatch)) as u64;
        let lists: Result<Vec<_>> = (update * steps..(update + 1) * steps)
            .map(|step| corpus.batch(order, step, section.windows))
            .collect();
        Ok(Some((section, lists?)))
    }
}

pub(super) fn load_ptx(job: &Job, ptx: &PtxSection, base: &Artefact, seed: u64) -> Result<(Corpus, MixtureOrder)> {
    if ptx.windows == 0 {
        return Err(TrainError::setting("ptx.windows", "is 0; expected at least 1"));
    }
    let context = base.model.architecture().context;
    if ptx.max_length > context {
        return Err(TrainError::setting(
            "ptx.max_length",
            format!("is {}; the model's context is {context}", ptx.max_length),
        ));
    }
    let options = CorpusOptions {
        key: "ptx.train",
        train: &ptx.train,
        held_out: ptx.held_out,
        max_length: ptx.max_length,
        cross_document: false,
        token_cap: hone_data::DEFAULT_TOKEN_CAP,
    };
    let corpus = Corpus::load(job, &options, &base.companion.tokenizer)?;
    let order = corpus.order(seed)?;
    Ok((corpus, order))
}

/// What an update changes.
pub(super) struct State {
    done: u64,
    pub learners: Learners,
    kl: KlController,
}

impl State {
    pub fn new(engine: &Engine, stage: &Stage, c: &PpoConfig) -> Result<Self> {
        let mut policy = stage.setup.base.model.duplicate();
        if let Some(lora) = &c.lora {
            policy.add_adapter(engine, lora, c.train.seed)?;
        }
        policy.set_recompute(c.model.recompute);
        let ema = c.ppo.ema_decay.map(|decay| Ema::new(engine, &policy, decay));
        let lora = policy.adapter().map(|adapter| &adapter.config);
        let mut value = value_network(engine, stage, (lora, c.train.seed))?;
        value.set_recompute(c.model.recompute);
        let constants = adamw(&c.train)?;
        let kl = match c.ppo.kl_target {
            None => KlController::Fixed { kl_coef: c.ppo.kl_coef },
            Some(target) => KlController::Adaptive(AdaptiveKl {
                kl_coef: c.ppo.kl_coef,
                target,
                horizon: c.ppo.kl_horizon,
            }),
        };
        let learners = Learners {
            policy: Learner::new(engine, policy, constants),
            value: Learner::new(engine, value, constants),
            ema,
        };
        Ok(Self { done: 0, learners, kl })
    }

    fn save(&self, (engine, setup): (&Engine, &Setup), run: &mut Run, occasion: Occasion) -> Result<()> {
        let learners = &self.learners;
        let mut state = Map::new();
        state.insert("policy".into(), learners.policy.state());
        state.insert("value".into(), learners.value.state());
        state.insert("kl_coef_bits".into(), self.kl.kl_coef().to_bits().into());
        setup.keep(&mut state, self.done)?;
        save(run, (self.done, occasion), state.into(), |writer| {
            learners.policy.save(engine, "policy", writer)?;
            learners.value.save(engine, "value", writer)?;
            learners
                .ema
                .as_ref()
                .map_or(Ok(()), |ema| ema.save(engine, "ema", writer))
        })
    }

    fn load(&mut self, engine: &Engine, checkpoint: &Checkpoint) -> Result<()> {
        let state: &Value = checkpoint.state();
        self.done = checkpoint.step();
        self.learners
            .policy
            .load(engine, "policy", checkpoint, &state["policy"])?;
        self.learners.value.load(engine, "value", checkpoint, &state["value"])?;
        if let Some(ema) = &mut self.learners.ema {
            ema.load(engine, "ema", checkpoint)?;
        }
        if let (KlController::Adaptive(adaptive), Some(bits)) = (&mut self.kl, state["kl_coef_bits"].as_u64()) {
            adaptive.kl_coef = f64::from_bits(bits);
        }
        Ok(())
    }
}

/// The value network: with an adapter of the policy's shape, where the policy has one, and a head that learns in any case.
fn value_network(engine: &Engine, stage: &Stage, (lora, seed): (Option<&LoraConfig>, u64)) -> Result<Transformer> {
    let value = match stage.value_start {
        ValueOrigin::RewardModel => stage.setup.judge.start_of_values(stage.setup.longest),
        ValueOrigin::Policy => None,
    };
    let mut value = value.unwrap_or(&stage.setup.base.model).duplicate();
    if let Some(lora) = lora.filter(|_| value.adapter().is_none()) {
        // Its tokens are those that it was trained with, and it may be narrower than the policy
        let lora = LoraConfig {
            rank: lora.rank.min(value.architecture().width),
            vocabulary: false,
            ..lora.clone()
        };
        value
            .add_adapter(engine, &lora, seed.wrapping_add(1))
            .map_err(|error| {
                let reason = format!(
                    "does not fit the value network, which starts from the reward model: {error}; \
                 ppo.value_start = \"policy\" starts it from the policy"
                );
                TrainError::setting("lora", reason)
            })?;
    }
    if value.has_head() {
        value.train_head();
    } else {
        value.add_value_head(engine);
    }
    Ok(value)
}

pub(super) fn constants(episodes: &[Episode], kl_coef: f64, ppo: &PpoSection) -> Result<Prepared> {
    let flat =
        |of: fn(&Episode) -> &[f32]| -> Vec<f32> { episodes.iter().flat_map(|e| of(e).iter().copied()).collect() };
    let lengths: Vec<usize> = episodes.iter().map(Episode::length).collect();
    let scores: Vec<f32> = episodes.iter().map(|e| e.score).collect();
    let mask = vec![true; lengths.iter().sum()];
    let (logprobs, ref_logprobs, values) = (flat(|e| &e.logprobs), flat(|e| &e.ref_logprobs), flat(|e| &e.values));
    let rollout = Rollout {
        logprobs: &logprobs,
        ref_logprobs: &ref_logprobs,
        values: &values,
        mask: &mask,
        lengths: &lengths,
        scores: &scores,
    };
    let config = PrepareConfig {
        kl_coef,
        gae: GaeConfig {
            gamma: ppo.gamma,
            gae_lambda: ppo.gae_lambda,
        },
        whiten_advantages: ppo.whiten_advantages,
        whiten_rewards: ppo.whiten_rewards,
    };
    Ok(prepare(&rollout, &config)?)
}

fn record(
    job: &Job,
    run: &mut Run,
    (done, total, kl_coef): (u64, u64, f64),
    (episodes, figures, constants, report): (&[Episode], &Figures, &Prepared, &Report),
    (started, mut parts): (Instant, Vec<(&'static str, f64)>),
) -> Result<()> {
    let count = episodes.len();
    let scores = mean(episodes.iter().map(|e| f64::from(e.score)));
    let kl = mean(episodes.iter().map(Episode::kl));
    let tokens: u64 = episodes.iter().map(|e| e.length() as u64).sum();
    let mut metrics = vec![
        ("objective/scores", scores),
        ("objective/kl", kl),
        ("objective/entropy", constants.stats.entropy.mean()),
        ("objective/non_score_reward", constants.stats.non_score_reward.mean()),
        ("objective/rlhf_reward", constants.stats.total.mean()),
        ("objective/kl_coef", kl_coef),
        ("policy/approxkl_avg", report.policy.approxkl(Estimator::K2)),
        ("policy/clipfrac_avg", report.policy.clipfrac()),
        ("policy/entropy_avg", report.policy.entropy.mean()),
        ("loss/policy_avg", report.policy.mean_loss()),
        ("loss/value_avg", report.value.mean_loss()),
        ("val/clipfrac_avg", report.value.clipfrac()),
        ("val/ratio", report.policy.ratio.mean()),
        ("val/ratio_var", report.policy.ratio.variance()),
        ("val/explained_variance", report.value.explained_variance()),
        // The update stops where it is not 0.
        ("policy/logprob_mismatch_max", 0.0),
        ("completions/mean_length", tokens as f64 / count as f64),
        (
            "completions/ended",
            mean(episodes.iter().map(|e| f64::from(u8::from(e.ended)))),
        ),
        (
            "completions/unscorable",
            episodes.iter().filter(|e| e.unscorable).count() as f64,
        ),
        ("episode", (done as usize * count) as f64),
    ];
    if let Some(first) = &report.first {
        metrics.push(("policy/first_ratio", first.ratio.mean()));
        metrics.push(("policy/first_ratio_var", first.ratio.variance()));
        metrics.push(("policy/first_clipfrac", first.clipfrac()));
    }
    if report.ptx.tokens > 0 {
        metrics.push(("loss/ptx", report.ptx.mean_nll()));
    }
    if let Some((policy, value)) = &report.applied {
        metrics.push(("grad_norm", policy.grad_norm));
        metrics.push(("learning_rate", policy.learning_rate));
        metrics.push(("value/grad_norm", value.grad_norm));
        metrics.push(("train/skipped_steps", (policy.skipped + value.skipped) as f64));
    }
    let figures = figures.metrics();
    metrics.extend(figures.iter().map(|(name, value)| (name.as_str(), *value)));
    run.record(done, &metrics)?;
    let seconds = started.elapsed().as_secs_f64();
    parts.push(("seconds", seconds));
    parts.push(("tokens_per_second", tokens as f64 / seconds));
    run.record_timings(done, &parts)?;
    let headline = vec![("score".to_string(), scores), ("kl".to_string(), kl)];
    job.observer.event(&Event::Step {
        step: done,
        total,
        tokens,
        headline,
    });
    Ok(())
}
