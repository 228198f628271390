//! One update of PPO: constants of the rollout, the check, then epochs of clipped steps.

use hone_compute::{Engine, Gradients, StepRate};
use hone_data::Window;
use hone_math::Key;
use hone_model::Transformer;
use hone_objective::cross_entropy::TokenStats;
use hone_objective::ppo::{
    ClipRange, PolicyInputs, PolicyStats, Prepared as Constants, ValueConfig, ValueInputs, ValueStats, policy_loss,
    value_loss,
};

use super::config::{PpoSection, PtxSection};
use super::microbatches::{Prepared, Work, batch, flat, microbatches, split, work};
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
    pub constants: &'a Constants,
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
}

pub(super) fn update(engine: &Engine, learners: &mut Learners, update: &Update<'_>) -> Result<Report> {
    let prepared = split(update.episodes, update.constants);
    let groups: Vec<&[Prepared<'_>]> = prepared.chunks(update.ppo.samples_per_prompt).collect();
    let mut report = Report::default();
    let mut step = 0;
    for epoch in 0..update.ppo.ppo_epochs {
        // 1. A new order every epoch, cut into minibatches; the answers to a prompt stay together
        let key = Key::new(
            update.train.seed,
            "minibatches",
            update.number * update.ppo.ppo_epochs as u64 + epoch as u64,
        );
        let order = key.permutation(groups.len());
        for (index, minibatch) in order
            .chunks(update.ppo.minibatch / update.ppo.samples_per_prompt)
            .enumerate()
        {
            let first = (epoch, index) == (0, 0);
            let chosen: Vec<&[Prepared<'_>]> = minibatch.iter().map(|&i| groups[i]).collect();
            if first {
                // 2. Before the first step: episodes of other minibatches are checked by a pass of their own
                let others = order[minibatch.len()..]
                    .iter()
                    .flat_map(|&i| groups[i])
                    .map(AsRef::as_ref);
                let asked = (update.number, update.ppo.temperature);
                check_others(engine, &learners.policy.model, asked, others)?;
            }
            // 3. Policy and value steps on the same episodes
            let stats = policy_step(engine, learners, update, (&chosen, step, first))?;
            if first {
                report.first = Some(stats.0);
            }
            report.policy.merge(&stats.0);
            report.ptx.merge(&stats.1);
            let (value_stats, value_applied) = value_step(engine, learners, update, &chosen)?;
            report.value.merge(&value_stats);
            report.target_tokens += tokens_of(&chosen);
            report.applied = Some((stats.2, value_applied));
            step += 1;
        }
    }
    Ok(report)
}

fn policy_step(
    engine: &Engine,
    learners: &mut Learners,
    update: &Update<'_>,
    (chosen, step, first): (&[&[Prepared<'_>]], usize, bool),
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
        if first {
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

fn value_step(
    engine: &Engine,
    learners: &mut Learners,
    update: &Update<'_>,
    chosen: &[&[Prepared<'_>]],
) -> Result<(ValueStats, Applied)> {
    let config = ValueConfig {
        value_clip_range: update.ppo.value_clip_range,
        value_coef: update.ppo.value_coef,
    };
    let global_tokens = tokens_of(chosen);
    let shards = microbatches(update, chosen);
    let mut stats = ValueStats::default();
    let gradients = learners.value.gradients(
        engine,
        shards,
        |model: &Transformer, episodes, gradients: &mut Gradients| {
            let batch = batch(update, &episodes);
            let numbers = batch.values(engine, model);
            let inputs = ValueInputs {
                values: &numbers.values,
                old_values: &flat(&episodes, |prepared| &prepared.episode.values),
                returns: &flat(&episodes, |prepared| prepared.returns),
                mask: &batch.mask,
            };
            let loss = value_loss(&inputs, config, global_tokens)?;
            stats.merge(&loss.stats);
            let seed = engine.tensor(loss.grad_values.len(), 1, &loss.grad_values);
            numbers.tape.backward(vec![(&numbers.output, seed)], gradients);
            Ok(())
        },
    )?;
    let applied = learners
        .value
        .apply(engine, &gradients, update.rates.1, update.number)?;
    Ok((stats, applied))
}
