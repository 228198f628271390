//! Log-probabilities and head outputs of given tokens, without sampling: `hone logprobs`, references, scores.

use std::ops::Range;
use std::slice::from_ref;
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
    let spans = to_the_end(sequences, from);
    let each: Vec<_> = spans.iter().map(from_ref).collect();
    logprobs_in(engine, model, (sequences, &each), temperature)
}

/// The same for the tokens of each sequence that lie in its spans (ascending, apart, within it), one span after another:
/// what a policy wrote in a dialogue.
///
/// # Panics
/// If a span begins at 0: nothing comes before the first token of a sequence.
pub fn logprobs_in(
    engine: &Engine,
    model: &Transformer,
    (sequences, spans): (&[&[u32]], &[&[Range<usize>]]),
    temperature: f32,
) -> Vec<TokenScores> {
    let mut scores = Vec::with_capacity(sequences.len());
    for pack in packs(sequences) {
        let pack = Pack::of(&sequences[pack.clone()], &spans[pack]);
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
    let spans = to_the_end(sequences, &from);
    let each: Vec<_> = spans.iter().map(from_ref).collect();
    let mut all = Vec::with_capacity(sequences.len());
    for range in packs(sequences) {
        let pack = Pack::of(&sequences[range.clone()], &each[range.clone()]);
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
        let outputs = model.head_outputs(&mut tape, &hidden);
        scores.extend(engine.read(outputs.value()).into_iter().map(|x| Scored(x + offset)));
    }
    scores
}

/// The head's output before every token of each sequence from `from[i]` on: the values of a response's tokens.
///
/// # Panics
/// If `from` is 0 for a sequence with tokens: nothing comes before its first.
pub fn heads_before(engine: &Engine, model: &Transformer, sequences: &[&[u32]], from: &[usize]) -> Vec<Vec<f32>> {
    let spans = to_the_end(sequences, from);
    let each: Vec<_> = spans.iter().map(from_ref).collect();
    heads_before_in(engine, model, sequences, &each)
}

/// The same for the tokens of each sequence that lie in its spans, as [`logprobs_in`] has them.
///
/// # Panics
/// If a span begins at 0: nothing comes before the first token of a sequence.
pub fn heads_before_in(
    engine: &Engine,
    model: &Transformer,
    sequences: &[&[u32]],
    spans: &[&[Range<usize>]],
) -> Vec<Vec<f32>> {
    let mut all = Vec::with_capacity(sequences.len());
    for pack in packs(sequences) {
        let pack = Pack::of(&sequences[pack.clone()], &spans[pack]);
        let mut tape = Tape::inference(engine, model.parameters());
        let chosen = pack.before(&mut tape, model);
        let outputs = engine.read(model.head_outputs(&mut tape, &chosen).value());
        all.extend(pack.split().map(|range| outputs[range].to_vec()));
    }
    all
}

/// The span from `from[i]` to the end of each sequence, which may be empty.
fn to_the_end(sequences: &[&[u32]], from: &[usize]) -> Vec<Range<usize>> {
    let both = sequences.iter().zip(from);
    both.map(|(s, &from)| from.min(s.len())..s.len()).collect()
}

/// Sequences that are computed together, of which the tokens in some spans are asked about.
struct Pack<'a> {
    sequences: &'a [&'a [u32]],
    spans: &'a [&'a [Range<usize>]],
}

impl<'a> Pack<'a> {
    fn of(sequences: &'a [&'a [u32]], spans: &'a [&'a [Range<usize>]]) -> Self {
        let holds = |spans: &&[Range<usize>]| spans.iter().all(|span| span.is_empty() || span.start > 0);
        assert!(
            spans.iter().all(holds),
            "nothing comes before the first token of a sequence"
        );
        Self { sequences, spans }
    }

    /// Tokens asked about, a number a sequence.
    fn counts(&self) -> impl Iterator<Item = usize> {
        self.spans
            .iter()
            .map(|spans| spans.iter().map(ExactSizeIterator::len).sum())
    }

    /// The tokens asked about.
    fn tokens(&self) -> Arc<[u32]> {
        let both = self.sequences.iter().zip(self.spans);
        let asked = both.flat_map(|(s, spans)| spans.iter().map(|span| &s[span.clone()]));
        asked.flatten().copied().collect()
    }

    /// Hidden states before each of them.
    fn before<'m>(&self, tape: &mut Tape<'m>, model: &'m Transformer) -> Var {
        // Of each sequence what comes before its last such token; sequences without any are left out
        let (mut sequences, mut from, mut rows, mut row) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (sequence, spans) in self.sequences.iter().zip(self.spans) {
            let asked = spans.iter().filter(|span| !span.is_empty());
            let (Some(first), Some(last)) = (asked.clone().next(), asked.clone().next_back()) else {
                continue;
            };
            let (first, last) = (first.start - 1, last.end - 1);
            let places = asked.flat_map(|span| span.start - 1..span.end - 1);
            rows.extend(places.map(|place| (row + place - first) as u32));
            row += last - first;
            sequences.push(&sequence[..last]);
            from.push(first);
        }
        let hidden = SharedPrefixes::find(&sequences, |i| from[i] + 1).hidden_from(tape, model, &from);
        if rows.len() == row {
            return hidden;
        }
        // Between the spans lies what is not asked about
        let rows: Arc<[u32]> = rows.into();
        tape.select_rows(&hidden, &rows)
    }

    /// Where each sequence's numbers lie among all.
    fn split(&self) -> impl Iterator<Item = Range<usize>> {
        self.counts().scan(0, |at, count| {
            *at += count;
            Some(*at - count..*at)
        })
    }
}
