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
use crate::error::Result;
use crate::language::{LanguageBatch, cross_entropy_step, shards_of};
use crate::learner::{Applied, Ema, Learner};
use crate::rollout::{Episode, EpisodeBatch, beginning_of, check, check_others, rows_of, tokens_of};
use crate::sections::TrainSection;

/// What learns.
pub(super) struct Learners {
    pub policy: Learner,
    pub value: Learner,
    pub ema: Option<Ema>,
}

/// An episode with its constants for an update, `[t]`.
struct Prepared<'a> {
    episode: &'a Episode,
    advantages: &'a [f32],
    returns: &'a [f32],
}

impl AsRef<Episode> for Prepared<'_> {
    fn as_ref(&self) -> &Episode {
        self.episode
    }
}

/// Numbers of the tokens of some groups, one after another.
fn flat<'a>(groups: &[&'a [Prepared<'a>]], numbers: impl Fn(&'a Prepared<'a>) -> &'a [f32]) -> Vec<f32> {
    let episodes = groups.iter().copied().flatten();
    episodes
        .flat_map(|prepared| numbers(prepared).iter().copied())
        .collect()
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

/// One micro-batch's work.
enum Work<'a> {
    Episodes(Vec<&'a [Prepared<'a>]>),
    Pretraining(Vec<Window<'a>>),
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

/// Each episode with its slices of the constants.
fn split<'a>(episodes: &'a [Episode], constants: &'a Constants) -> Vec<Prepared<'a>> {
    let mut start = 0;
    let mut prepared = Vec::with_capacity(episodes.len());
    for episode in episodes {
        let range = start..start + episode.length();
        start = range.end;
        prepared.push(Prepared {
            episode,
            advantages: &constants.advantages[range.clone()],
            returns: &constants.returns[range],
        });
    }
    prepared
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

/// The episodes of a step in micro-batches, in shards. What all of them begin with takes rows once a micro-batch where it is
/// shared.
fn microbatches<'a>(update: &Update<'_>, chosen: &[&'a [Prepared<'a>]]) -> Vec<Vec<Vec<&'a [Prepared<'a>]>>> {
    let beginning = match update.ppo.share_beginnings {
        true => beginning_of(chosen),
        false => 0,
    };
    let tokens = update.train.microbatch_tokens.saturating_sub(beginning);
    shards_of(chosen.to_vec(), update.train.shards, tokens, |group| {
        rows_of(group) - beginning
    })
}

fn batch(update: &Update<'_>, groups: &[&[Prepared<'_>]]) -> EpisodeBatch {
    match update.ppo.share_beginnings {
        true => EpisodeBatch::together(groups),
        false => EpisodeBatch::of(groups),
    }
}

/// The micro-batches of a policy step, in shards: episodes, then the windows of the pre-training term. Also how many
/// tokens those windows predict.
fn work<'a>(update: &'a Update<'_>, chosen: &[&'a [Prepared<'a>]], step: usize) -> (Vec<Vec<Work<'a>>>, u64) {
    let (shards, tokens) = (update.train.shards, update.train.microbatch_tokens);
    let episodes = microbatches(update, chosen);
    let mut work: Vec<Vec<Work<'a>>> = episodes
        .into_iter()
        .map(|s| s.into_iter().map(Work::Episodes).collect())
        .collect();
    let Some((_, windows)) = &update.ptx else {
        return (work, 0);
    };
    let windows = windows[step].clone();
    let global = windows.iter().map(|w| w.targets.len() as u64).sum();
    for (shard, windows) in work
        .iter_mut()
        .zip(shards_of(windows, shards, tokens, |w| w.inputs.len()))
    {
        shard.extend(windows.into_iter().map(Work::Pretraining));
    }
    (work, global)
}
