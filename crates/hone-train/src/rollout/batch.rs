//! Episodes side by side, and the numbers a model gives for the tokens that were sampled in them.

use std::sync::Arc;

use hone_compute::{Engine, Tape, Var};
use hone_model::{SharedPrefixes, Transformer};

use super::collect::Episode;

/// Episodes of a micro-batch. All slices are flat over the sampled tokens, `[t]`; what an environment said is read and never
/// predicted.
pub(crate) struct EpisodeBatch {
    sequences: SharedPrefixes,
    /// The row before each sampled token.
    rows: Arc<[u32]>,
    /// Each sampled token.
    targets: Arc<[u32]>,
    /// Their log-probabilities when they were sampled.
    pub old_logprobs: Vec<f32>,
    /// Every token counts.
    pub mask: Vec<bool>,
}

impl EpisodeBatch {
    /// Episodes in groups of the answers to one prompt. What those begin with is there once for all of a group.
    pub fn of<'a, T: AsRef<Episode> + 'a>(groups: &[&'a [T]]) -> Self {
        Self::with(groups, |sequences| {
            let mut rest = sequences;
            SharedPrefixes::of_groups(groups.iter().map(|group| {
                let (members, after) = rest.split_at(group.len());
                rest = after;
                members
            }))
        })
    }

    /// The same, and what all of them begin with, whatever their prompts, is there once for all.
    pub fn together<'a, T: AsRef<Episode> + 'a>(groups: &[&'a [T]]) -> Self {
        Self::with(groups, |sequences| SharedPrefixes::of_groups([sequences]))
    }

    fn with<'a, T: AsRef<Episode> + 'a>(groups: &[&'a [T]], share: impl FnOnce(&[&[u32]]) -> SharedPrefixes) -> Self {
        let episodes = || groups.iter().copied().flatten().map(AsRef::as_ref);
        // Nothing is asked of the last token's own row.
        let sequences: Vec<&[u32]> = episodes().map(|e: &Episode| &e.ids[..e.ids.len() - 1]).collect();
        let shared = share(&sequences);
        let (mut rows, mut targets, mut old_logprobs) = (Vec::new(), Vec::new(), Vec::new());
        for (i, episode) in episodes().enumerate() {
            for span in &episode.spans {
                let positions = span.start - 1..span.end - 1;
                rows.extend(positions.map(|position| shared.row(i, position)));
            }
            targets.extend(episode.sampled());
            old_logprobs.extend_from_slice(&episode.logprobs);
        }
        let mask = vec![true; targets.len()];
        Self {
            sequences: shared,
            rows: rows.into(),
            targets: targets.into(),
            old_logprobs,
            mask,
        }
    }

    /// Log-probabilities and entropies of the sampled tokens, with a tape to go back on.
    pub fn policy_numbers<'p>(
        &self,
        engine: &'p Engine,
        policy: &'p Transformer,
        temperature: f32,
    ) -> PolicyNumbers<'p> {
        let mut tape = Tape::training(engine, policy.parameters());
        let chosen = policy.hidden_of(&mut tape, &self.sequences.tokens(), &self.rows); // [t, d]
        let numbers = policy.logprobs(&mut tape, &chosen, &self.targets, temperature);
        let (logprobs, entropies) = (
            engine.read(numbers.logprob.value()),
            engine.read(numbers.entropy.value()),
        );
        PolicyNumbers {
            tape,
            logprob: numbers.logprob,
            logprobs,
            entropies,
        }
    }

    /// Values at the position before each sampled token, with a tape to go back on.
    pub fn values<'p>(&self, engine: &'p Engine, value: &'p Transformer) -> ValueNumbers<'p> {
        let mut tape = Tape::training(engine, value.parameters());
        let chosen = value.hidden_of(&mut tape, &self.sequences.tokens(), &self.rows);
        let output = value.head_outputs(&mut tape, &chosen); // [t, 1]
        let offset = value.head_offset().unwrap_or(0.0);
        let values = engine.read(output.value()).into_iter().map(|v| v + offset).collect();
        ValueNumbers { tape, output, values }
    }
}

pub(crate) struct PolicyNumbers<'p> {
    pub tape: Tape<'p>,
    pub logprob: Var,
    pub logprobs: Vec<f32>,
    pub entropies: Vec<f32>,
}

pub(crate) struct ValueNumbers<'p> {
    pub tape: Tape<'p>,
    pub output: Var,
    pub values: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::made;

    #[test]
    fn what_different_prompts_begin_with_is_there_once() {
        let rules: Vec<u32> = (10..40).collect();
        let of = |i: u32| {
            let prompt: Vec<u32> = rules.iter().copied().chain([100 + i, 3]).collect();
            made(i as usize, (&prompt, &[5 + i, 2]), (-1.0, -1.0), 0.0)
        };
        let episodes: Vec<Episode> = (0..4).map(of).collect();
        let groups: Vec<&[Episode]> = episodes.chunks(1).collect();
        let (apart, together) = (EpisodeBatch::of(&groups), EpisodeBatch::together(&groups));
        let rows = |batch: &EpisodeBatch| batch.sequences.tokens().ids.len();
        // Of each the prompt's own two tokens and the response's first
        assert_eq!((rows(&apart), rows(&together)), (4 * 33, 30 + 4 * 3));
        for batch in [&apart, &together] {
            let ids = batch.sequences.tokens().ids;
            let before: Vec<u32> = batch.rows.iter().map(|&row| ids[row as usize]).collect();
            assert_eq!(before, [3, 5, 3, 6, 3, 7, 3, 8]);
            assert_eq!(&*batch.targets, [5, 2, 6, 2, 7, 2, 8, 2]);
        }
    }
}
