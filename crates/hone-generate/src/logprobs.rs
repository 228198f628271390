//! Log-probabilities and head outputs of given tokens, without sampling: `hone logprobs`, references, scores.

use std::ops::Range;
use std::sync::Arc;

use hone_compute::{BestRow, Choice, Engine, Layout, Tape, Var};
use hone_model::{SharedPrefixes, Tokens, Transformer};

use crate::request::GenerateError;

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

/// The numbers of the tokens of one sequence from its second on, with the most probable tokens in their places.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// ln p, `[t - 1]`.
    pub logprobs: Vec<f32>,
    /// The most probable tokens, the first first, `[t - 1, asked]`; empty where none were asked for.
    pub best: Vec<Vec<Choice>>,
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

/// Log-probabilities of the tokens of each sequence (each within the model's context and vocabulary) at temperature 1, and
/// the `counts[i]` most probable tokens in the place of each. The numbers are those of [`logprobs_of`], to the bit.
///
/// # Errors
/// [`GenerateError::Sampling`] with the place of a sequence for which the model gives no finite logit, where the most
/// probable tokens are asked for.
pub fn ranked_of(
    engine: &Engine,
    model: &Transformer,
    (sequences, counts): (&[&[u32]], &[usize]),
) -> Result<Vec<Ranked>, GenerateError> {
    let from: Vec<_> = sequences.iter().map(|s| s.len().min(1)).collect();
    let mut all = Vec::with_capacity(sequences.len());
    for range in packs(sequences) {
        let pack = Pack::of(&sequences[range.clone()], &from[range.clone()]);
        let mut tape = Tape::inference(engine, model.parameters());
        let chosen = pack.before(&mut tape, model);
        let numbers = model.logprobs(&mut tape, &chosen, &pack.tokens(), 1.0);
        let logprobs = engine.read(numbers.logprob.value());
        let rows: Vec<(Range<usize>, usize)> = pack.split().zip(counts[range.clone()].iter().copied()).collect();
        // The rows of those that ask for more than the token's own number
        let asking = rows.iter().enumerate().filter(|(_, (_, count))| *count > 0);
        let asking: Vec<(u32, usize, usize)> = asking
            .flat_map(|(i, (rows, count))| rows.clone().map(move |row| (row as u32, *count, i)))
            .collect();
        let found = if asking.is_empty() {
            Vec::new()
        } else {
            let chosen = tape.select_rows(&chosen, &asking.iter().map(|(row, ..)| *row).collect());
            let wanted: Vec<BestRow> = asking
                .iter()
                .map(|&(_, count, _)| BestRow {
                    count,
                    temperature: 1.0,
                })
                .collect();
            tape.best(&chosen, model.output(), &wanted)
                .map_err(|(row, source)| GenerateError::Sampling {
                    request: range.start + asking[row].2,
                    source,
                })?
        };
        let mut best = found.into_iter();
        all.extend(rows.into_iter().map(|(rows, count)| Ranked {
            best: if count > 0 {
                best.by_ref().take(rows.len()).collect()
            } else {
                Vec::new()
            },
            logprobs: logprobs[rows].to_vec(),
        }));
    }
    Ok(all)
}

/// The mean of the last hidden states of each sequence, divided by its length as a vector: `[width]` each. One that is all
/// zeros stays so.
///
/// # Panics
/// If a sequence has no token.
pub fn embeddings_of(engine: &Engine, model: &Transformer, sequences: &[&[u32]]) -> Vec<Vec<f32>> {
    let width = model.architecture().width;
    let mut all = Vec::with_capacity(sequences.len());
    for pack in packs(sequences) {
        let sequences = &sequences[pack];
        assert!(
            sequences.iter().all(|s| !s.is_empty()),
            "a sequence to be embedded has a token"
        );
        let ids: Arc<[u32]> = sequences.concat().into();
        let layout = Layout::whole(&sequences.iter().map(|s| s.len()).collect::<Vec<_>>());
        let tokens = Tokens {
            ids: &ids,
            layout: &layout,
        };
        let mut tape = Tape::inference(engine, model.parameters());
        let states = engine.read(model.hidden(&mut tape, &tokens).value());
        all.extend(layout.spans().iter().map(|span| {
            let rows = &states[span.row * width..(span.row + span.length) * width];
            unit_mean(rows, width)
        }));
    }
    all
}

/// The mean of the rows, of length 1. Sums are in f64, from the first row to the last.
fn unit_mean(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; width];
    for row in rows.chunks(width) {
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum += f64::from(x);
        }
    }
    // The count divides every sum alike, so it leaves the direction as it is
    let length = sums.iter().map(|x| x * x).sum::<f64>().sqrt();
    let inverse = if length > 0.0 { 1.0 / length } else { 0.0 };
    sums.iter().map(|x| (x * inverse) as f32).collect()
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
