//! One update: advantages of the rollout's groups, the check, then passes of clipped steps.

use hone_compute::{Engine, StepRate};
use hone_math::Key;
use hone_model::Transformer;
use hone_objective::group::{
    Advantages, GroupCounts, GroupInputs, GroupLossStats, KlTerm, OverlongShaping, advantages, group_loss,
    scores_less_kl,
};

use super::config::{GrpoSection, KlPlace};
use crate::error::Result;
use crate::language::shards_of;
use crate::learner::{Applied, Ema, Learner};
use crate::rollout::{Episode, EpisodeBatch, ScoredTokens, check, check_others, rows_of, tokens_of};
use crate::sections::TrainSection;

/// What learns.
pub(super) struct Learners {
    pub policy: Learner,
    pub ema: Option<Ema>,
}

/// What an update is given.
pub(super) struct Update<'a> {
    pub number: u64,
    /// In groups of `samples_per_prompt`.
    pub episodes: &'a [Episode],
    /// One an episode.
    pub advantages: &'a [f32],
    pub grpo: &'a GrpoSection,
    pub train: &'a TrainSection,
    pub rate: StepRate,
}

/// What an update saw and did.
#[derive(Default)]
pub(super) struct Report {
    /// Of the first minibatch of the first pass, before any step.
    pub first: Option<GroupLossStats>,
    /// Sums over the steps of all passes.
    pub stats: GroupLossStats,
    pub steps: u64,
    /// Tokens of all steps.
    pub target_tokens: u64,
    pub applied: Option<Applied>,
}

/// An episode with its advantage.
struct Prepared<'a> {
    episode: &'a Episode,
    advantage: f32,
}

impl AsRef<Episode> for Prepared<'_> {
    fn as_ref(&self) -> &Episode {
        self.episode
    }
}

/// Scores as the method takes them, and the advantages that follow.
///
/// # Errors
/// If a score is no number.
pub(super) fn prepare(episodes: &[Episode], grpo: &GrpoSection) -> Result<Advantages> {
    let mut scores: Vec<f32> = episodes.iter().map(|episode| episode.score).collect();
    if let Some(cache) = grpo.overlong_cache {
        let shaping = OverlongShaping::new(grpo.max_new_tokens, cache)?;
        for (score, episode) in scores.iter_mut().zip(episodes) {
            *score += shaping.penalty(episode.length()) as f32;
        }
    }
    if grpo.method.kl_place() == KlPlace::Score && grpo.kl_coef() > 0.0 {
        scores = scores_less_kl(&ScoredTokens::new(episodes, &scores).inputs(), grpo.kl_coef())?;
    }
    let groups = vec![grpo.samples_per_prompt; episodes.len() / grpo.samples_per_prompt];
    Ok(advantages(&scores, &groups, grpo.method.estimator())?)
}

pub(super) fn update(engine: &Engine, learners: &mut Learners, update: &Update<'_>) -> Result<Report> {
    let both = update.episodes.iter().zip(update.advantages);
    let prepared: Vec<Prepared<'_>> = both
        .map(|(episode, &advantage)| Prepared { episode, advantage })
        .collect();
    let groups: Vec<&[Prepared<'_>]> = prepared.chunks(update.grpo.samples_per_prompt).collect();
    let mut report = Report::default();
    for epoch in 0..update.grpo.epochs {
        // 1. A new order every pass, cut into minibatches; the answers to a prompt stay together
        let number = update.number * update.grpo.epochs as u64 + epoch as u64;
        let order = Key::new(update.train.seed, "minibatches", number).permutation(groups.len());
        let size = update.grpo.minibatch / update.grpo.samples_per_prompt;
        for (index, minibatch) in order.chunks(size).enumerate() {
            let first = (epoch, index) == (0, 0);
            let chosen: Vec<&[Prepared<'_>]> = minibatch.iter().map(|&i| groups[i]).collect();
            if first {
                // 2. Before the first step: episodes of other minibatches are checked by a pass of their own
                let others = order[minibatch.len()..]
                    .iter()
                    .flat_map(|&i| groups[i])
                    .map(AsRef::as_ref);
                let asked = (update.number, update.grpo.temperature);
                check_others(engine, &learners.policy.model, asked, others)?;
            }
            // 3. A clipped step
            let (stats, applied) = step(engine, learners, update, (&chosen, first))?;
            if first {
                report.first = Some(stats);
            }
            report.stats.merge(&stats);
            report.steps += 1;
            report.target_tokens += tokens_of(&chosen);
            report.applied = Some(applied);
        }
    }
    Ok(report)
}

fn step(
    engine: &Engine,
    learners: &mut Learners,
    update: &Update<'_>,
    (chosen, first): (&[&[Prepared<'_>]], bool),
) -> Result<(GroupLossStats, Applied)> {
    let grpo = update.grpo;
    let counts = GroupCounts {
        responses: chosen.iter().map(|group| group.len() as u64).sum(),
        tokens: tokens_of(chosen),
    };
    let (shards, tokens) = (update.train.shards, update.train.microbatch_tokens);
    let shards = shards_of(chosen.to_vec(), shards, tokens, |group| rows_of(group));
    let mut stats = GroupLossStats::default();
    let gradients = learners.policy.gradients(
        engine,
        shards,
        |policy: &Transformer, groups: Vec<&[Prepared<'_>]>, gradients| {
            let batch = EpisodeBatch::of(&groups);
            let numbers = batch.policy_numbers(engine, policy, grpo.temperature as f32);
            if first {
                check(update.number, &groups, &numbers.logprobs)?;
            }
            let episodes = || groups.iter().copied().flatten();
            let lengths: Vec<usize> = episodes().map(|prepared| prepared.episode.length()).collect();
            let advantages: Vec<f32> = episodes().map(|prepared| prepared.advantage).collect();
            let references = episodes().flat_map(|prepared| &prepared.episode.ref_logprobs);
            let ref_logprobs: Vec<f32> = references.copied().collect();
            let kl = match grpo.method.kl_place() {
                KlPlace::Loss(estimator) if grpo.kl_coef() > 0.0 => Some(KlTerm {
                    ref_logprobs: &ref_logprobs,
                    kl_coef: grpo.kl_coef(),
                    estimator,
                }),
                _ => None,
            };
            let inputs = GroupInputs {
                logprobs: &numbers.logprobs,
                old_logprobs: &batch.old_logprobs,
                mask: &batch.mask,
                lengths: &lengths,
                advantages: &advantages,
                kl,
                entropies: Some(&numbers.entropies),
            };
            let loss = group_loss(&inputs, grpo.loss(), counts)?;
            stats.merge(&loss.stats);
            let seed = engine.tensor(loss.grad_logprobs.len(), 1, &loss.grad_logprobs);
            numbers.tape.backward(vec![(&numbers.logprob, seed)], gradients);
            Ok(())
        },
    )?;
    let applied = learners.policy.apply(engine, &gradients, update.rate, update.number)?;
    if let Some(ema) = &mut learners.ema {
        ema.update(engine, &learners.policy.model);
    }
    Ok((stats, applied))
}
