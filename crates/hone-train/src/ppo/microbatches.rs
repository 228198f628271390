//! The episodes of a step with their constants, cut into micro-batches.

use std::ops::Range;

use hone_data::Window;
use hone_objective::gae::Gae;

use super::step::Update;
use crate::language::shards_of;
use crate::rollout::{Episode, EpisodeBatch, beginning_of, rows_of};

/// An episode with its rewards, `[t]`: what is known before its values are.
pub(super) struct Rewarded<'a> {
    pub episode: &'a Episode,
    pub rewards: &'a [f32],
    /// Where its sampled tokens lie among those of the rollout.
    pub range: Range<usize>,
}

impl AsRef<Episode> for Rewarded<'_> {
    fn as_ref(&self) -> &Episode {
        self.episode
    }
}

/// An episode with its constants for an update, `[t]` each.
pub(super) struct Prepared<'a> {
    pub episode: &'a Episode,
    /// Values at the rollout.
    pub values: &'a [f32],
    pub advantages: &'a [f32],
    pub returns: &'a [f32],
}

impl AsRef<Episode> for Prepared<'_> {
    fn as_ref(&self) -> &Episode {
        self.episode
    }
}

/// Numbers of the tokens of some groups, one after another.
pub(super) fn flat<'a, T>(groups: &[&'a [T]], numbers: impl Fn(&'a T) -> &'a [f32]) -> Vec<f32> {
    let episodes = groups.iter().copied().flatten();
    episodes.flat_map(|item| numbers(item).iter().copied()).collect()
}

/// One micro-batch's work.
pub(super) enum Work<'a> {
    Episodes(Vec<&'a [Prepared<'a>]>),
    Pretraining(Vec<Window<'a>>),
}

/// Each episode with its slices of the values at the rollout and of the constants.
pub(super) fn prepared<'a>(rewarded: &[Rewarded<'a>], (values, constants): (&'a [f32], &'a Gae)) -> Vec<Prepared<'a>> {
    let of = |rewarded: &Rewarded<'a>| Prepared {
        episode: rewarded.episode,
        values: &values[rewarded.range.clone()],
        advantages: &constants.advantages[rewarded.range.clone()],
        returns: &constants.returns[rewarded.range.clone()],
    };
    rewarded.iter().map(of).collect()
}

/// The episodes of a step in micro-batches, in shards. What all of them begin with takes rows once a micro-batch where it is
/// shared.
pub(super) fn microbatches<'a, T: AsRef<Episode>>(update: &Update<'_>, chosen: &[&'a [T]]) -> Vec<Vec<Vec<&'a [T]>>> {
    let beginning = match update.ppo.share_beginnings {
        true => beginning_of(chosen),
        false => 0,
    };
    let tokens = update.train.microbatch_tokens.saturating_sub(beginning);
    shards_of(chosen.to_vec(), update.train.shards, tokens, |group| {
        rows_of(group) - beginning
    })
}

/// The episodes of a micro-batch side by side.
pub(super) fn batch<T: AsRef<Episode>>(update: &Update<'_>, groups: &[&[T]]) -> EpisodeBatch {
    match update.ppo.share_beginnings {
        true => EpisodeBatch::together(groups),
        false => EpisodeBatch::of(groups),
    }
}

/// The micro-batches of a policy step, in shards: episodes, then the windows of the pre-training term. Also how many
/// tokens those windows predict.
pub(super) fn work<'a>(
    update: &'a Update<'_>,
    chosen: &[&'a [Prepared<'a>]],
    step: usize,
) -> (Vec<Vec<Work<'a>>>, u64) {
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
