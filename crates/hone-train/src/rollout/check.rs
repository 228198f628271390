//! What was sampled against what the training pass computes, bit by bit.

use std::ops::Range;

use hone_compute::Engine;
use hone_generate::logprobs_in;
use hone_model::{SharedPrefixes, Transformer};

use super::collect::Episode;
use crate::error::{Result, TrainError};

/// Sampled tokens of some groups.
pub(crate) fn tokens_of<T: AsRef<Episode>>(groups: &[&[T]]) -> u64 {
    let episodes = groups.iter().copied().flatten();
    episodes.map(|item| item.as_ref().length() as u64).sum()
}

/// Rows that a group takes.
pub(crate) fn rows_of<T: AsRef<Episode>>(group: &[T]) -> usize {
    let members: Vec<&[u32]> = group.iter().map(|item| &*item.as_ref().ids).collect();
    SharedPrefixes::rows_of(&members)
}

/// Compares sampled with recomputed log-probabilities of some groups.
///
/// # Errors
/// If one bit differs.
pub(crate) fn check<T: AsRef<Episode>>(update: u64, groups: &[&[T]], recomputed: &[f32]) -> Result<()> {
    let mut at = 0;
    for item in groups.iter().copied().flatten() {
        let trained = &recomputed[at..at + item.as_ref().length()];
        at += trained.len();
        equal(update, item.as_ref(), trained)?;
    }
    Ok(())
}

/// The same of episodes that the first step does not train on, by a pass of their own.
///
/// # Errors
/// If one bit differs.
pub(crate) fn check_others<'a>(
    engine: &Engine,
    policy: &Transformer,
    (update, temperature): (u64, f64),
    others: impl Iterator<Item = &'a Episode>,
) -> Result<()> {
    let others: Vec<&Episode> = others.collect();
    let sequences: Vec<&[u32]> = others.iter().map(|episode| &*episode.ids).collect();
    let spans: Vec<&[Range<usize>]> = others.iter().map(|episode| &*episode.spans).collect();
    let recomputed = logprobs_in(engine, policy, (&sequences, &spans), temperature as f32);
    for (episode, scores) in others.into_iter().zip(recomputed) {
        equal(update, episode, &scores.logprobs)?;
    }
    Ok(())
}

fn equal(update: u64, episode: &Episode, trained: &[f32]) -> Result<()> {
    let sampled = &episode.logprobs;
    let differ = |(a, b): &(&f32, &f32)| a.to_bits() != b.to_bits();
    let count = sampled.iter().zip(trained).filter(differ).count();
    match sampled.iter().zip(trained).position(|pair| differ(&pair)) {
        None => Ok(()),
        Some(token) => Err(TrainError::Mismatch {
            update: update + 1,
            episode: episode.index,
            token,
            sampled: sampled[token],
            trained: trained[token],
            count,
        }),
    }
}
