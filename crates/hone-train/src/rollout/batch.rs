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
        let episodes = || groups.iter().copied().flatten().map(AsRef::as_ref);
        // Nothing is asked of the last token's own row.
        let sequences: Vec<&[u32]> = episodes().map(|e: &Episode| &e.ids[..e.ids.len() - 1]).collect();
        let mut rest = &*sequences;
        let shared = SharedPrefixes::of_groups(groups.iter().map(|group| {
            let (members, after) = rest.split_at(group.len());
            rest = after;
            members
        }));
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

    /// Values at the position before each sampled token, with a tape to go back on.
    pub fn values<'p>(&self, engine: &'p Engine, value: &'p Transformer) -> ValueNumbers<'p> {
        let mut tape = Tape::training(engine, value.parameters());
        let hidden = value.hidden(&mut tape, &self.sequences.tokens());
        let output = value.head_outputs(&mut tape, &hidden, &self.rows); // [t, 1]
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
