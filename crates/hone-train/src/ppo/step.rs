//! One update of PPO: the check, values and constants of the rollout, then epochs of clipped steps.

use hone_compute::{Engine, StepRate};
use hone_data::Window;
use hone_math::Key;
use hone_objective::cross_entropy::TokenStats;
use hone_objective::ppo::{ClipRange, PolicyInputs, PolicyStats, ValueStats, policy_loss};

use super::config::{PpoSection, PtxSection};
use super::microbatches::{Prepared, Rewarded, Work, batch, flat, prepared, work};
use super::rewards::RolloutRewards;
use super::values::{open, value_step};
use crate::error::Result;
use crate::language::{LanguageBatch, cross_entropy_step};
use crate::learner::{Applied, Ema, Learner};
use crate::rollout::{Episode, check, check_others, tokens_of};
use crate::sections::TrainSection;

/// What learns.
pub(super) struct Learners {
    pub policy: Learner,
    pub value: Learner,
    pub ema: Option<Ema>,
}

/// What an update is given.
pub(super) struct Update<'a> {
    pub number: u64,
    pub episodes: &'a [Episode],
    pub rewards: &'a RolloutRewards,
    pub ppo: &'a PpoSection,
    pub train: &'a TrainSection,
    pub rates: (StepRate, StepRate),
    /// The pre-training term: its windows for each optimiser step, one list a step.
    pub ptx: Option<(&'a PtxSection, Vec<Vec<Window<'a>>>)>,
}

/// What an update saw and did.
#[derive(Default)]
pub(super) struct Report {
    /// Of the first minibatch of the first epoch, before any step.
    pub first: Option<PolicyStats>,
    pub policy: PolicyStats,
    pub value: ValueStats,
    pub ptx: TokenStats,
    /// Sampled tokens of all steps.
    pub target_tokens: u64,
    pub applied: Option<(Applied, Applied)>,
    /// Seconds of the value network's pass that only reads.
    pub reading: f64,
}

pub(super) fn update(engine: &Engine, learners: &mut Learners, update: &Update<'_>) -> Result<Report> {
    let (samples, size) = (
        update.ppo.samples_per_prompt,
        update.ppo.minibatch / update.ppo.samples_per_prompt,
    );
    let rewarded = update.rewards.split(update.episodes);
    // 1. Before any step: episodes of other minibatches than the first are checked by a pass of their own
    let groups: Vec<&[Rewarded<'_>]> = rewarded.chunks(samples).collect();
    let pass: Vec<&[Rewarded<'_>]> = order(update, 0, groups.len()).into_iter().map(|i| groups[i]).collect();
    let (first, other) = pass.split_at(size.min(pass.len()));
    let others = other.iter().copied().flatten().map(AsRef::as_ref);
    let asked = (update.number, update.ppo.temperature);
    check_others(engine, &learners.policy.model, asked, others)?;
    // 2. Values, some of which the training pass of the value network's first step gives; then advantages and returns of the
    //    whole rollout
    let opening = open(engine, &mut learners.value, update, (first, other))?;
    let constants = update.rewards.advantages(update.episodes, &opening.values)?;
    let prepared = prepared(&rewarded, (&opening.values, &constants));
    let groups: Vec<&[Prepared<'_>]> = prepared.chunks(samples).collect();
    let mut report = Report {
        reading: opening.seconds,
        ..Report::default()
    };
    let (mut opened, mut step) = (Some(opening.first), 0);
    for epoch in 0..update.ppo.ppo_epochs {
        for minibatch in order(update, epoch, groups.len()).chunks(size) {
            let chosen: Vec<&[Prepared<'_>]> = minibatch.iter().map(|&i| groups[i]).collect();
            // 3. Policy and value steps on the same episodes
            let stats = policy_step(engine, learners, update, (&chosen, step))?;
            report.policy.merge(&stats.0);
            report.ptx.merge(&stats.1);
            let value = match opened.take() {
                Some((value_stats, gradients)) => {
                    report.first = Some(stats.0);
                    let rate = update.rates.1;
                    let applied = learners.value.apply(engine, &gradients, rate, update.number)?;
                    (value_stats, applied)
                }
                None => value_step(engine, &mut learners.value, update, &chosen)?,
            };
            report.value.merge(&value.0);
            report.target_tokens += tokens_of(&chosen);
            report.applied = Some((stats.2, value.1));
            step += 1;
        }
    }
    Ok(report)
}

/// The groups of a pass, in a new order every epoch, of which so many after another are a minibatch; the answers to a prompt
/// stay together.
fn order(update: &Update<'_>, epoch: usize, groups: usize) -> Vec<usize> {
    let pass = update.number * update.ppo.ppo_epochs as u64 + epoch as u64;
    Key::new(update.train.seed, "minibatches", pass).permutation(groups)
}

fn policy_step(
    engine: &Engine,
    learners: &mut Learners,
    update: &Update<'_>,
    (chosen, step): (&[&[Prepared<'_>]], usize),
) -> Result<(PolicyStats, TokenStats, Applied)> {
    let clip_range = ClipRange::symmetric(update.ppo.clip_range);
    let temperature = update.ppo.temperature as f32;
    let global_tokens = tokens_of(chosen);
    let (mut stats, mut ptx_stats) = (PolicyStats::default(), TokenStats::default());
    let (shards, ptx_tokens) = work(update, chosen, step);
    let gradients = learners.policy.gradients(engine, shards, |policy, work, gradients| {
        let episodes = match work {
            Work::Episodes(episodes) => episodes,
            Work::Pretraining(windows) => {
                let scale = update.ptx.as_ref().map_or(0.0, |(ptx, _)| ptx.ptx_coef);
                let batch = LanguageBatch::of_windows(windows);
                ptx_stats.merge(&cross_entropy_step(
                    engine,
                    policy,
                    &batch,
                    (ptx_tokens, scale),
                    gradients,
                )?);
                return Ok(());
            }
        };
        let batch = batch(update, &episodes);
        let numbers = batch.policy_numbers(engine, policy, temperature);
        if step == 0 {
            check(update.number, &episodes, &numbers.logprobs)?;
        }
        let inputs = PolicyInputs {
            logprobs: &numbers.logprobs,
            old_logprobs: &batch.old_logprobs,
            advantages: &flat(&episodes, |prepared| prepared.advantages),
            mask: &batch.mask,
            entropies: Some(&numbers.entropies),
        };
        let loss = policy_loss(&inputs, clip_range, global_tokens)?;
        stats.merge(&loss.stats);
        let seed = engine.tensor(loss.grad_logprobs.len(), 1, &loss.grad_logprobs);
        numbers.tape.backward(vec![(&numbers.logprob, seed)], gradients);
        Ok(())
    })?;
    let applied = if update.ppo.warms_up_value(update.number) {
        Applied {
            grad_norm: gradients.norm(engine),
            learning_rate: 0.0,
            skipped: learners.policy.skipped(),
        }
    } else {
        learners
            .policy
            .apply(engine, &gradients, update.rates.0, update.number)?
    };
    if let Some(ema) = &mut learners.ema {
        ema.update(engine, &learners.policy.model);
    }
    Ok((stats, ptx_stats, applied))
}
