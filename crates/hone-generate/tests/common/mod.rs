//! Random small models, and packs of sequences to be trained on.
#![allow(dead_code)]

use std::sync::Arc;

use hone_compute::{Engine, EngineOptions, Gradients, Isa, Layout, Precision, Tape};
use hone_math::{Key, Stream};
use hone_model::{Architecture, NewModel, Tokens, Transformer};

pub fn engine(isa: Isa, precision: Precision, threads: usize) -> Engine {
    let options = EngineOptions {
        isa: Some(isa),
        precision,
        threads: Some(threads),
    };
    Engine::new(&options).expect("an instruction set of this machine")
}

/// Leaves memory full of NaN for tensors to come, so that an operation that reads what it did not write is found out.
pub fn poison(engine: &Engine) {
    let sizes = [64, 128, 256, 320, 512, 640, 1024, 1280, 2048, 4096];
    let held: Vec<_> = sizes.iter().map(|&n| engine.tensor(1, n, &vec![f32::NAN; n])).collect();
    drop(held);
}

/// Heads and their sizes: grouped, single and full; below, at and above a vector.
pub const HEADS: [(usize, usize, usize); 6] = [(4, 2, 8), (2, 1, 80), (3, 3, 16), (4, 1, 8), (2, 2, 80), (4, 2, 16)];

pub fn architecture(family: &str, heads: (usize, usize, usize), vocabulary: usize, tied: bool) -> Architecture {
    let gpt2 = family == "gpt2";
    let model = NewModel {
        family: family.into(),
        width: if gpt2 { heads.0 * heads.2 } else { 24 },
        layers: 2,
        heads: heads.0,
        kv_heads: Some(if gpt2 { heads.0 } else { heads.1 }),
        head_dim: Some(heads.2),
        intermediate: Some(40),
        context: 600,
        tied,
        rope_theta: if gpt2 { 10_000.0 } else { 1000.0 },
    };
    model.architecture(vocabulary).expect("a sound shape")
}

pub const FAMILIES: [&str; 4] = ["llama", "qwen2", "qwen3", "gpt2"];

pub fn random_architecture(r: &mut Stream) -> Architecture {
    let family = FAMILIES[r.below(FAMILIES.len())];
    let heads = HEADS[r.below(HEADS.len())];
    // The last has more than one chunk of the vocabulary.
    let vocabulary = [31, 50, 97, 97, 130, 200, 300, 2100][r.below(8)];
    architecture(family, heads, vocabulary, r.chance(0.5))
}

/// A model whose weights are all random: biases and norms too, and large enough to matter.
pub fn random_model(engine: &Engine, architecture: &Architecture, seed: u64) -> Transformer {
    let mut model = Transformer::random(engine, architecture.clone(), seed);
    let ids: Vec<_> = model.parameters().iter().map(|(id, _)| id).collect();
    for id in ids {
        let parameter = model.parameters().get(id);
        let name = parameter.name();
        let mut numbers = engine.read(parameter.value());
        if parameter.value().rows() > 1 {
            // From a deviation of 0.02 to one of 0.2
            numbers.iter_mut().for_each(|x| *x *= 10.0);
        } else {
            let key = Key::new(seed, name, 1);
            for (i, x) in numbers.iter_mut().enumerate() {
                *x += (0.2 * key.normal(i as u64)) as f32;
            }
        }
        model.parameters_mut().set(engine, id, &numbers);
    }
    model
}

pub fn random_ids(r: &mut Stream, count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count).map(|_| r.below(vocabulary) as u32).collect()
}

/// Log-probabilities of every sequence from its second token on, as a training pass over one pack gives them, and what
/// the pass adds to `gradients`.
pub fn training_pass(
    engine: &Engine,
    model: &Transformer,
    sequences: &[&[u32]],
    temperature: f32,
    pass: Pass<'_>,
) -> Vec<Vec<f32>> {
    let layout = Layout::whole(&sequences.iter().map(|s| s.len()).collect::<Vec<_>>());
    let ids: Arc<[u32]> = sequences.concat().into();
    let rows: Arc<[u32]> = layout
        .spans()
        .iter()
        .flat_map(|s| s.row as u32..(s.row + s.length - 1) as u32)
        .collect();
    let targets: Arc<[u32]> = rows.iter().map(|&r| ids[r as usize + 1]).collect();
    let mut tape = Tape::training(engine, model.parameters());
    let hidden = model.hidden(
        &mut tape,
        &Tokens {
            ids: &ids,
            layout: &layout,
        },
    );
    let chosen = tape.select_rows(&hidden, &rows);
    let weight = |row: u32| seed_of(ids[row as usize], ids[row as usize + 1]);
    let weights: Vec<f32> = rows.iter().map(|&r| weight(r)).collect();
    let logprobs = match pass {
        Pass::Known(gradients) => {
            tape.backward_cross_entropy(&chosen, &model.targets(&targets, temperature), &weights, gradients)
                .0
        }
        Pass::Seeded(gradients) => {
            let numbers = model.logprobs(&mut tape, &chosen, &targets, temperature);
            let logprobs = engine.read(numbers.logprob.value());
            let seeds: Vec<f32> = weights.iter().map(|w| -w).collect();
            let entropy: Vec<f32> = weights.iter().map(|w| 0.1 * w).collect();
            let seeds = [(&numbers.logprob, seeds), (&numbers.entropy, entropy)]
                .map(|(v, s)| (v, engine.tensor(s.len(), 1, &s)));
            tape.backward(seeds.into(), gradients);
            logprobs
        }
    };
    let mut at = 0;
    let cut = |s: &&[u32]| {
        at += s.len() - 1;
        logprobs[at + 1 - s.len()..at].to_vec()
    };
    sequences.iter().map(cut).collect()
}

/// A weight of a token's log-probability that depends on the token alone, not on where it stands in a batch.
fn seed_of(a: u32, b: u32) -> f32 {
    Key::new(u64::from(a), "weight", u64::from(b)).normal(0) as f32
}

/// How a training pass goes back.
pub enum Pass<'g> {
    /// Loss and gradient in one pass over the vocabulary.
    Known(&'g mut Gradients),
    /// Forward, then back from seeds of log-probabilities and entropies.
    Seeded(&'g mut Gradients),
}
