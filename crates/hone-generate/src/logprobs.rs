//! Log-probabilities and head outputs of given tokens, without sampling: `hone logprobs`, references, scores.

use std::ops::Range;
use std::sync::Arc;

use hone_compute::{Engine, Tape, Var};
use hone_model::{SharedPrefixes, Transformer};

/// Tokens computed together.
const PACK: usize = 4096;

/// Numbers of the tokens of one sequence from its second on: token i + 1 given the tokens up to i.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScores {
    /// ln p, `[t - 1]`.
    pub logprobs: Vec<f32>,
    /// Entropy of the distribution that the token was drawn from, in nats, `[t - 1]`.
    pub entropies: Vec<f32>,
}

/// One number a sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored(pub f32);

/// Packs of sequences of about [`PACK`] tokens, in order.
fn packs(sequences: &[&[u32]]) -> Vec<Range<usize>> {
    let mut packs = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (i, sequence) in sequences.iter().enumerate() {
        if i > start && tokens + sequence.len() > PACK {
            packs.push(start..i);
            (start, tokens) = (i, 0);
        }
        tokens += sequence.len();
    }
    if start < sequences.len() {
        packs.push(start..sequences.len());
    }
    packs
}

/// Log-probabilities of the tokens of each sequence (each within the model's context and vocabulary).
pub fn logprobs_of(engine: &Engine, model: &Transformer, sequences: &[&[u32]], temperature: f32) -> Vec<TokenScores> {
    let from: Vec<_> = sequences.iter().map(|s| s.len().min(1)).collect();
    logprobs_from(engine, model, (sequences, &from), temperature)
}

/// The same for the tokens of each sequence from `from[i]` on alone, of which there may be none: a response's, without
/// the work of its prompt's.
///
/// # Panics
/// If `from` is 0 for a sequence with tokens: nothing comes before its first.
pub fn logprobs_from(
    engine: &Engine,
    model: &Transformer,
    (sequences, from): (&[&[u32]], &[usize]),
    temperature: f32,
) -> Vec<TokenScores> {
    let mut scores = Vec::with_capacity(sequences.len());
    for pack in packs(sequences) {
        let pack = Pack::of(&sequences[pack.clone()], &from[pack]);
        let mut tape = Tape::inference(engine, model.parameters());
        let chosen = pack.before(&mut tape, model);
        let numbers = model.logprobs(&mut tape, &chosen, &pack.tokens(), temperature);
        let (logprobs, entropies) = (
            engine.read(numbers.logprob.value()),
            engine.read(numbers.entropy.value()),
        );
        scores.extend(pack.split().map(|range| TokenScores {
            logprobs: logprobs[range.clone()].to_vec(),
            entropies: entropies[range].to_vec(),
        }));
    }
    scores
}

/// The head's output at the last token of each sequence, its offset added: scores of a reward model.
///
/// # Panics
/// If a sequence has no token.
pub fn scores_of(engine: &Engine, model: &Transformer, sequences: &[&[u32]]) -> Vec<Scored> {
    let offset = model.head_offset().unwrap_or(0.0);
    let mut scores = Vec::with_capacity(sequences.len());
    for pack in packs(sequences) {
        let sequences = &sequences[pack];
        assert!(
            sequences.iter().all(|s| !s.is_empty()),
            "a sequence to be scored has a token"
        );
        let last: Vec<usize> = sequences.iter().map(|s| s.len() - 1).collect();
        let mut tape = Tape::inference(engine, model.parameters());
        let hidden = SharedPrefixes::find(sequences, |i| last[i]).hidden_from(&mut tape, model, &last);
        let rows: Arc<[u32]> = (0..sequences.len() as u32).collect();
        let outputs = model.head_outputs(&mut tape, &hidden, &rows);
        scores.extend(engine.read(outputs.value()).into_iter().map(|x| Scored(x + offset)));
    }
    scores
}

/// The head's output before every token of each sequence from `from[i]` on: the values of a response's tokens.
///
/// # Panics
/// If `from` is 0 for a sequence with tokens: nothing comes before its first.
pub fn heads_before(engine: &Engine, model: &Transformer, sequences: &[&[u32]], from: &[usize]) -> Vec<Vec<f32>> {
    let mut all = Vec::with_capacity(sequences.len());
    for pack in packs(sequences) {
        let pack = Pack::of(&sequences[pack.clone()], &from[pack]);
        let mut tape = Tape::inference(engine, model.parameters());
        let chosen = pack.before(&mut tape, model);
        let rows: Arc<[u32]> = (0..chosen.shape().0 as u32).collect();
        let outputs = engine.read(model.head_outputs(&mut tape, &chosen, &rows).value());
        all.extend(pack.split().map(|range| outputs[range].to_vec()));
    }
    all
}

/// Sequences that are computed together, of which the tokens from some place on are asked about.
struct Pack<'a> {
    sequences: &'a [&'a [u32]],
    from: &'a [usize],
}

impl<'a> Pack<'a> {
    fn of(sequences: &'a [&'a [u32]], from: &'a [usize]) -> Self {
        let holds = |(s, &from): (&&[u32], &usize)| s.is_empty() || from > 0;
        assert!(
            sequences.iter().zip(from).all(holds),
            "nothing comes before the first token of a sequence"
        );
        Self { sequences, from }
    }

    /// Tokens asked about, a number a sequence.
    fn counts(&self) -> impl Iterator<Item = usize> {
        self.sequences
            .iter()
            .zip(self.from)
            .map(|(s, &from)| s.len().saturating_sub(from))
    }

    /// The tokens asked about.
    fn tokens(&self) -> Arc<[u32]> {
        let asked = self
            .sequences
            .iter()
            .zip(self.from)
            .map(|(s, &from)| &s[from.min(s.len())..]);
        asked.flatten().copied().collect()
    }

    /// Hidden states before each of them.
    fn before<'m>(&self, tape: &mut Tape<'m>, model: &'m Transformer) -> Var {
        // Sequences without such tokens are left out
        let kept = self
            .sequences
            .iter()
            .zip(self.from)
            .filter(|(s, from)| s.len() > **from);
        let (sequences, from): (Vec<&[u32]>, Vec<usize>) = kept.map(|(s, from)| (&s[..s.len() - 1], from - 1)).unzip();
        SharedPrefixes::find(&sequences, |i| from[i] + 1).hidden_from(tape, model, &from)
    }

    /// Where each sequence's numbers lie among all.
    fn split(&self) -> impl Iterator<Item = Range<usize>> {
        self.counts().scan(0, |at, count| {
            *at += count;
            Some(*at - count..*at)
        })
    }
}
