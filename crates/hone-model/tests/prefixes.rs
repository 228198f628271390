//! The gradient of sequences that share the rows of their beginning is that of the same sequences apart.

mod common;

use std::sync::Arc;

use common::{architectures, engine, random_model, tokens};
use hone_compute::{Engine, Gradients, Isa, Precision, Tape};
use hone_model::{SharedPrefixes, Transformer};

/// Log-probabilities of the tokens from `from` on of each sequence, and the gradient of a weighted sum of them.
fn step(engine: &Engine, model: &Transformer, groups: &[(usize, &[&[u32]])], from: usize) -> (Vec<f32>, Gradients) {
    let sequences: Vec<&[u32]> = groups.iter().flat_map(|(_, members)| members.iter().copied()).collect();
    let inputs: Vec<Vec<&[u32]>> = groups
        .iter()
        .map(|(_, members)| members.iter().map(|s| &s[..s.len() - 1]).collect())
        .collect();
    let together = SharedPrefixes::new(
        groups
            .iter()
            .zip(&inputs)
            .map(|((shared, _), members)| (*shared, &**members)),
    );
    let mut tape = Tape::training(engine, model.parameters());
    let hidden = model.hidden(&mut tape, &together.tokens());
    let asked = || {
        sequences
            .iter()
            .enumerate()
            .flat_map(|(i, s)| (from - 1..s.len() - 1).map(move |at| (i, at)))
    };
    let rows: Arc<[u32]> = asked().map(|(i, at)| together.row(i, at)).collect();
    let targets: Arc<[u32]> = asked().map(|(i, at)| sequences[i][at + 1]).collect();
    let chosen = tape.select_rows(&hidden, &rows);
    let numbers = model.logprobs(&mut tape, &chosen, &targets, 0.9);
    let logprobs = engine.read(numbers.logprob.value());
    let weights: Vec<f32> = (0..logprobs.len()).map(|i| (i as f32 * 0.7).sin()).collect();
    let seed = engine.tensor(weights.len(), 1, &weights);
    let mut gradients = Gradients::zeros(engine, model.parameters());
    tape.backward(vec![(&numbers.logprob, seed)], &mut gradients);
    (logprobs, gradients)
}

/// The norm of the difference over the norm.
fn distance(engine: &Engine, model: &Transformer, a: &Gradients, b: &Gradients) -> f64 {
    let (mut difference, mut size) = (0.0, 0.0);
    for (id, _) in model.parameters().iter() {
        let [a, b] = [a, b].map(|g| engine.read(g.get(id).expect("all are trained")));
        for (a, b) in a.into_iter().zip(b) {
            difference += f64::from(a - b).powi(2);
            size += f64::from(b).powi(2);
        }
    }
    (difference / size).sqrt()
}

#[test]
fn gradients_are_those_of_the_sequences_apart() {
    let prompt = tokens(1, 70);
    let members: Vec<Vec<u32>> = [3, 1, 70, 12]
        .iter()
        .enumerate()
        .map(|(i, &own)| [&prompt[..], &tokens(2 + i as u64, own)].concat())
        .collect();
    let other = tokens(9, 20);
    let answers: Vec<&[u32]> = members.iter().map(Vec::as_slice).collect();
    let alone: Vec<[&[u32]; 1]> = answers.iter().map(|s| [*s]).collect();
    let from = 10;
    for (what, architecture) in architectures() {
        for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 1e-2)] {
            let engine = engine(Isa::detect(), precision, 2);
            let mut model = random_model(&engine, &architecture, 3);
            let last: [&[u32]; 1] = [&other];
            let mut apart: Vec<(usize, &[&[u32]])> = alone.iter().map(|s| (s[0].len() - 1, &s[..])).collect();
            apart.push((other.len() - 1, &last));
            let (expected, gradients) = step(&engine, &model, &apart, from);
            for recompute in [false, true] {
                model.set_recompute(recompute);
                for shared in [prompt.len(), 33] {
                    let groups = [(shared, &answers[..]), (other.len() - 1, &last)];
                    let (logprobs, together) = step(&engine, &model, &groups, from);
                    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&logprobs), bits(&expected), "{what} in {precision:?}");
                    let distance = distance(&engine, &model, &together, &gradients);
                    assert!(distance < tolerance, "{what} in {precision:?}: {distance:e}");
                    // Rounding differs: what is equal to the bit was not shared
                    assert!(distance > 0.0, "{what} in {precision:?}: nothing was shared");
                }
            }
        }
    }
}
