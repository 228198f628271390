//! Episodes side by side, and the numbers a model gives for their responses.

use std::sync::Arc;

use hone_compute::{Engine, Tape, Var};
use hone_model::{SharedPrefixes, Transformer};

use super::rollout::Episode;

/// Episodes of a micro-batch with their tokens and constants. All slices are flat over the responses' tokens, `[t]`.
pub(super) struct EpisodeBatch {
    sequences: SharedPrefixes,
    /// The row before each response token.
    rows: Arc<[u32]>,
    /// Each response token.
    targets: Arc<[u32]>,
    pub old_logprobs: Vec<f32>,
    pub old_values: Vec<f32>,
    pub advantages: Vec<f32>,
    pub returns: Vec<f32>,
    pub mask: Vec<bool>,
}

/// An episode's constants for an update.
pub(super) struct Prepared<'a> {
    /// Which episode of its rollout.
    pub index: usize,
    pub episode: &'a Episode,
    pub advantages: &'a [f32],
    pub returns: &'a [f32],
}

impl EpisodeBatch {
    /// Episodes in groups of the answers to one prompt. What those begin with is there once for all of a group.
    pub fn of(groups: &[&[Prepared<'_>]]) -> Self {
        let episodes = || groups.iter().copied().flatten();
        // Nothing is asked of the last token's own row.
        let sequences: Vec<&[u32]> = episodes().map(|p| &p.episode.ids[..p.episode.ids.len() - 1]).collect();
        let mut rest = &*sequences;
        let shared = SharedPrefixes::of_groups(groups.iter().map(|group| {
            let (members, after) = rest.split_at(group.len());
            rest = after;
            members
        }));
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        let (mut old_logprobs, mut old_values, mut advantages, mut returns) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (i, prepared) in episodes().enumerate() {
            let episode = prepared.episode;
            let positions = episode.prompt_length - 1..episode.ids.len() - 1;
            rows.extend(positions.map(|position| shared.row(i, position)));
            targets.extend_from_slice(episode.response());
            old_logprobs.extend_from_slice(&episode.logprobs);
            old_values.extend_from_slice(&episode.values);
            advantages.extend_from_slice(prepared.advantages);
            returns.extend_from_slice(prepared.returns);
        }
        let mask = vec![true; targets.len()];
        Self {
            sequences: shared,
            rows: rows.into(),
            targets: targets.into(),
            old_logprobs,
            old_values,
            advantages,
            returns,
            mask,
        }
    }

    /// Log-probabilities and entropies of the responses' tokens, with a tape to go back on.
    pub fn policy_numbers<'p>(
        &self,
        engine: &'p Engine,
        policy: &'p Transformer,
        temperature: f32,
    ) -> PolicyNumbers<'p> {
        let mut tape = Tape::training(engine, policy.parameters());
        let hidden = policy.hidden(&mut tape, &self.sequences.tokens()); // [n, d]
        let chosen = tape.select_rows(&hidden, &self.rows); // [t, d]
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

    /// Values at the position before each of the responses' tokens, with a tape to go back on.
    pub fn values<'p>(&self, engine: &'p Engine, value: &'p Transformer) -> ValueNumbers<'p> {
        let mut tape = Tape::training(engine, value.parameters());
        let hidden = value.hidden(&mut tape, &self.sequences.tokens());
        let output = value.head_outputs(&mut tape, &hidden, &self.rows); // [t, 1]
        let offset = value.head_offset().unwrap_or(0.0);
        let values = engine.read(output.value()).into_iter().map(|v| v + offset).collect();
        ValueNumbers { tape, output, values }
    }
}

pub(super) struct PolicyNumbers<'p> {
    pub tape: Tape<'p>,
    pub logprob: Var,
    pub logprobs: Vec<f32>,
    pub entropies: Vec<f32>,
}

pub(super) struct ValueNumbers<'p> {
    pub tape: Tape<'p>,
    pub output: Var,
    pub values: Vec<f32>,
}
