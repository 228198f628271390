//! The episodes of a step with their constants, cut into micro-batches.

use hone_data::Window;
use hone_objective::ppo::Prepared as Constants;

use super::step::Update;
use crate::language::shards_of;
use crate::rollout::{Episode, EpisodeBatch, beginning_of, rows_of};

/// An episode with its constants for an update, `[t]`.
pub(super) struct Prepared<'a> {
    pub episode: &'a Episode,
    pub advantages: &'a [f32],
    pub returns: &'a [f32],
}

impl AsRef<Episode> for Prepared<'_> {
    fn as_ref(&self) -> &Episode {
        self.episode
    }
}

/// Numbers of the tokens of some groups, one after another.
pub(super) fn flat<'a>(groups: &[&'a [Prepared<'a>]], numbers: impl Fn(&'a Prepared<'a>) -> &'a [f32]) -> Vec<f32> {
    let episodes = groups.iter().copied().flatten();
    episodes
        .flat_map(|prepared| numbers(prepared).iter().copied())
        .collect()
}

/// One micro-batch's work.
pub(super) enum Work<'a> {
    Episodes(Vec<&'a [Prepared<'a>]>),
    Pretraining(Vec<Window<'a>>),
}

/// Each episode with its slices of the constants.
pub(super) fn split<'a>(episodes: &'a [Episode], constants: &'a Constants) -> Vec<Prepared<'a>> {
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

/// The episodes of a step in micro-batches, in shards. What all of them begin with takes rows once a micro-batch where it is
/// shared.
pub(super) fn microbatches<'a>(
    update: &Update<'_>,
    chosen: &[&'a [Prepared<'a>]],
) -> Vec<Vec<Vec<&'a [Prepared<'a>]>>> {
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
pub(super) fn batch(update: &Update<'_>, groups: &[&[Prepared<'_>]]) -> EpisodeBatch {
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
