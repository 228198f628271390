//! Log-probabilities and head outputs of given tokens, without sampling: `hone logprobs`, references, scores.

use std::sync::Arc;

use hone_compute::{Engine, Layout, Span, Tape};
use hone_model::{Tokens, Transformer};

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
fn packs(sequences: &[&[u32]]) -> Vec<std::ops::Range<usize>> {
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
    let mut scores = Vec::with_capacity(sequences.len());
    for pack in packs(sequences) {
        let sequences = &sequences[pack];
        let ids: Arc<[u32]> = sequences.iter().flat_map(|s| s.iter().copied()).collect();
        let layout = Layout::whole(&sequences.iter().map(|s| s.len()).collect::<Vec<_>>());
        // Rows whose next token is in the same sequence, and that token
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for span in layout.spans() {
            let end = span.row + span.length;
            rows.extend((span.row..end).skip(1).map(|row| row as u32 - 1));
            targets.extend((span.row..end).skip(1).map(|row| ids[row]));
        }
        let mut tape = Tape::inference(engine, model.parameters());
        let hidden = model.hidden(
            &mut tape,
            &Tokens {
                ids: &ids,
                layout: &layout,
            },
        );
        let chosen = tape.select_rows(&hidden, &rows.into());
        let numbers = model.logprobs(&mut tape, &chosen, &targets.into(), temperature);
        let (logprobs, entropies) = (
            engine.read(numbers.logprob.value()),
            engine.read(numbers.entropy.value()),
        );
        let mut at = 0;
        for sequence in sequences {
            let end = at + sequence.len().saturating_sub(1);
            scores.push(TokenScores {
                logprobs: logprobs[at..end].to_vec(),
                entropies: entropies[at..end].to_vec(),
            });
            at = end;
        }
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
        let (outputs, layout) = head_pack(engine, model, &sequences[pack], |layout| {
            let last = |s: &Span| s.row + s.length.checked_sub(1).expect("a sequence to be scored has a token");
            layout.spans().iter().map(|s| last(s) as u32).collect()
        });
        debug_assert_eq!(outputs.len(), layout.spans().len());
        scores.extend(outputs.into_iter().map(|x| Scored(x + offset)));
    }
    scores
}

/// The head's output at every token of each sequence: values.
pub fn heads_of(engine: &Engine, model: &Transformer, sequences: &[&[u32]]) -> Vec<Vec<f32>> {
    let mut all = Vec::with_capacity(sequences.len());
    for pack in packs(sequences) {
        let (outputs, layout) = head_pack(engine, model, &sequences[pack], |layout| {
            (0..layout.rows() as u32).collect()
        });
        all.extend(layout.spans().iter().map(|s| outputs[s.row..s.row + s.length].to_vec()));
    }
    all
}

fn head_pack(
    engine: &Engine,
    model: &Transformer,
    sequences: &[&[u32]],
    rows: impl Fn(&Layout) -> Arc<[u32]>,
) -> (Vec<f32>, Layout) {
    let ids: Arc<[u32]> = sequences.iter().flat_map(|s| s.iter().copied()).collect();
    let layout = Layout::whole(&sequences.iter().map(|s| s.len()).collect::<Vec<_>>());
    let mut tape = Tape::inference(engine, model.parameters());
    let hidden = model.hidden(
        &mut tape,
        &Tokens {
            ids: &ids,
            layout: &layout,
        },
    );
    let outputs = model.head_outputs(&mut tape, &hidden, &rows(&layout));
    (engine.read(outputs.value()), layout)
}
