//! The loop of PPO.

use hone_compute::Engine;
use hone_data::{MixtureOrder, Source, Window};
use hone_math::Key;
use hone_model::{LoraConfig, Transformer};
use hone_objective::kl::{AdaptiveKl, Estimator, KlController};
use hone_objective::rewards::RewardStats;
use hone_run::{Checkpoint, CheckpointWriter};
use serde_json::{Map, Value};

use super::config::{PpoConfig, PtxSection, ValueStart};
use super::plan::rehearse;
use super::rewards::RolloutRewards;
use super::step::{Learners, Report, Update, update};
use crate::artefact::Artefact;
use crate::corpus::{Corpus, CorpusOptions};
use crate::error::{Result, TrainError};
use crate::job::Job;
use crate::learner::{Ema, Learner};
use crate::plan::{Notes, Plan};
use crate::rollout::{self, Course, Episode, Learned, Networks, Practice, Practised, Sampled, Setup, mean, policy};
use crate::schedule::{Rates, adamw};

impl Practised for PpoConfig {
    type Besides = Besides;
    type Stage<'a> = Stage<'a>;

    fn course(&self) -> Course<'_> {
        Course {
            stage: "ppo",
            model: &self.model,
            lora: self.lora.as_ref(),
            maximised: &self.maximised,
            data: &self.data,
            settings: self.ppo.rollout(),
            total: self.ppo.updates,
            train: &self.train,
            eval: &self.eval,
            judge: self.judge.as_ref(),
            still: self.ppo.value_warmup_updates,
        }
    }

    fn check(&self) -> Result<()> {
        self.refuse()?;
        rates(self)?;
        Ok(())
    }

    fn further_data(&self) -> &[Source] {
        self.ptx.as_ref().map_or(&[], |ptx| &ptx.train)
    }

    fn rehearse(&self, notes: Notes<'_>, of: (&Setup, &Besides)) -> Result<Plan> {
        rehearse(notes, of, self)
    }

    fn stage<'a>(&'a self, at: (&'a Engine, &'a Job), of: (&'a Setup, &'a Besides)) -> Result<Stage<'a>> {
        Ok(Stage {
            at,
            of,
            c: self,
            rates: rates(self)?,
            state: State::new(at.0, of, self)?,
        })
    }
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

/// What PPO has besides what all stages with rollouts have.
pub(crate) struct Besides {
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

impl rollout::Besides<PpoConfig> for Besides {
    fn load(job: &Job, setup: &Setup, c: &PpoConfig) -> Result<Self> {
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
        Ok(Self { value_start, ptx })
    }
}

impl Besides {
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

/// What updates are made with, and what they change.
pub(crate) struct Stage<'a> {
    at: (&'a Engine, &'a Job),
    of: (&'a Setup, &'a Besides),
    c: &'a PpoConfig,
    /// Of the policy and of the value network.
    rates: (Rates, Rates),
    state: State,
}

impl Practice for Stage<'_> {
    fn sample(&self, update: u64) -> Result<Option<Sampled>> {
        let networks = Networks {
            policy: &self.state.learners.policy.model,
            reference: true,
        };
        let key = Key::new(self.c.train.seed, "rollout", update);
        let settings = self.c.ppo.rollout();
        let rollout = self.of.0.rollout(self.at, networks, &settings, (update, key))?;
        Ok(rollout.map(Sampled::of))
    }

    fn learn(&mut self, number: u64, sampled: &Sampled) -> Result<Learned> {
        let (c, episodes, state) = (self.c, &sampled.episodes, &mut self.state);
        // 1. Rewards of the whole rollout
        let kl_coef = state.kl.kl_coef();
        let rewards = RolloutRewards::of(episodes, kl_coef, &c.ppo)?;
        // 2. Values, advantages and returns, and epochs of clipped steps
        let step = Update {
            number,
            episodes,
            rewards: &rewards,
            ppo: &c.ppo,
            train: &c.train,
            rates: (
                self.rates.0.at(number.saturating_sub(c.ppo.value_warmup_updates)),
                self.rates.1.at(number),
            ),
            ptx: self.of.1.ptx_windows(number, c)?,
        };
        let report = update(self.at.0, &mut state.learners, &step)?;
        // 3. The penalty follows the KL that was reached, once the policy moves
        if !c.ppo.warms_up_value(number) {
            let kl = mean(episodes.iter().map(Episode::kl));
            state.kl.update(kl, episodes.len() as u64)?;
        }
        Ok(learned((number + 1, kl_coef), (sampled, rewards.stats(), &report)))
    }

    fn state(&self, done: u64) -> Result<Map<String, Value>> {
        let mut state = self.state.counters();
        self.of.0.keep(&mut state, done)?;
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
            ("episodes".into(), (done * self.c.ppo.rollout_batch as u64).into()),
            ("value_start".into(), self.of.1.value_start.words().into()),
        ])
    }
}

/// What an update changes.
pub(super) struct State {
    pub learners: Learners,
    kl: KlController,
}

impl State {
    pub fn new(engine: &Engine, (setup, besides): (&Setup, &Besides), c: &PpoConfig) -> Result<Self> {
        let policy = policy(engine, &setup.base.model, (&c.model, &c.lora), c.train.seed)?;
        let ema = c.ppo.ema_decay.map(|decay| Ema::new(engine, &policy, decay));
        let lora = policy.adapter().map(|adapter| &adapter.config);
        let mut value = value_network(engine, (setup, besides.value_start), (lora, c.train.seed))?;
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
        Ok(Self { learners, kl })
    }

    fn counters(&self) -> Map<String, Value> {
        let learners = &self.learners;
        let mut state = Map::new();
        state.insert("policy".into(), learners.policy.state());
        state.insert("value".into(), learners.value.state());
        state.insert("kl_coef_bits".into(), self.kl.kl_coef().to_bits().into());
        state
    }

    fn write(&self, engine: &Engine, writer: &mut CheckpointWriter) -> Result<(), hone_run::Error> {
        let learners = &self.learners;
        learners.policy.save(engine, "policy", writer)?;
        learners.value.save(engine, "value", writer)?;
        let ema = learners.ema.as_ref();
        ema.map_or(Ok(()), |ema| ema.save(engine, "ema", writer))
    }

    fn load(&mut self, engine: &Engine, checkpoint: &Checkpoint) -> Result<()> {
        let state: &Value = checkpoint.state();
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
fn value_network(
    engine: &Engine,
    (setup, origin): (&Setup, ValueOrigin),
    (lora, seed): (Option<&LoraConfig>, u64),
) -> Result<Transformer> {
    let value = match origin {
        ValueOrigin::RewardModel => setup.judge.start_of_values(setup.longest),
        ValueOrigin::Policy => None,
    };
    let mut value = value.unwrap_or(&setup.base.model).duplicate();
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

/// What is told of an update, after `done` of them, whose penalty had this weight.
fn learned((done, kl_coef): (u64, f64), (sampled, rewards, report): (&Sampled, &RewardStats, &Report)) -> Learned {
    let episodes = &sampled.episodes;
    let (scores, kl) = (sampled.mean_score(), mean(episodes.iter().map(Episode::kl)));
    let mut metrics = vec![
        ("objective/scores", scores),
        ("objective/kl", kl),
        ("objective/entropy", rewards.entropy.mean()),
        ("objective/non_score_reward", rewards.non_score_reward.mean()),
        ("objective/rlhf_reward", rewards.total.mean()),
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
    ];
    metrics.extend(sampled.completions());
    metrics.push(("episode", (done as usize * episodes.len()) as f64));
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
    Learned {
        metrics,
        headline: vec![("score", scores), ("kl", kl)],
        target_tokens: report.target_tokens,
        seconds: vec![("time/values", report.reading)],
    }
}
