//! Small models of every family, and the same in f64.
#![allow(dead_code)]

use std::sync::Arc;

use hone_compute::{Activation, Engine, EngineOptions, Isa, Layout, Precision};
use hone_math::Key;
use hone_model::{Architecture, Biases, Family, MlpKind, NewModel, Positions, Transformer};
use hone_testing::{Feed, Matrix, NaiveModel, NaiveShape, Place, Rounding, gelu_erf, gelu_tanh, relu};

pub fn engine(isa: Isa, precision: Precision, threads: usize) -> Engine {
    let options = EngineOptions {
        isa: Some(isa),
        precision,
        threads: Some(threads),
    };
    Engine::new(&options).expect("an instruction set of this machine")
}

pub const VOCABULARY: usize = 61;

/// Base of the rotary angles of the models.
const THETA: f64 = 50.0;

fn new(family: &str, heads: (usize, usize, usize), tied: bool) -> Architecture {
    let gpt2 = family == "gpt2";
    let model = NewModel {
        family: family.into(),
        width: if gpt2 { heads.0 * heads.2 } else { 20 },
        layers: 2,
        heads: heads.0,
        kv_heads: Some(heads.1),
        head_dim: Some(heads.2),
        intermediate: Some(36),
        context: 160,
        tied,
        rope_theta: if gpt2 { 10_000.0 } else { THETA },
    };
    model.architecture(VOCABULARY).expect("a sound shape")
}

/// Every family, with grouped and full heads, head sizes 8, 12, 16 and 80, tied and not, with biases where they may be.
pub fn architectures() -> Vec<(&'static str, Architecture)> {
    let mut biased = new("llama", (4, 2, 8), false);
    biased.biases = Biases {
        qkv: true,
        output: true,
        mlp: true,
    };
    let mut erf = new("gpt2", (2, 2, 8), false);
    erf.mlp = MlpKind::Plain(Activation::GeluErf);
    let mut relu = new("gpt2", (1, 1, 16), true);
    relu.mlp = MlpKind::Plain(Activation::Relu);
    vec![
        ("llama, grouped", new("llama", (4, 2, 8), true)),
        ("llama, biases", biased),
        ("llama, head size 80", new("llama", (2, 1, 80), true)),
        ("qwen2", new("qwen2", (3, 3, 12), false)),
        ("qwen3", new("qwen3", (4, 1, 16), true)),
        ("gpt2", new("gpt2", (3, 3, 8), true)),
        ("gpt2, erf", erf),
        ("gpt2, relu", relu),
    ]
}

/// A model whose weights are all random: biases and norms too, and large enough to matter.
pub fn random_model(engine: &Engine, architecture: &Architecture, seed: u64) -> Transformer {
    let mut model = Transformer::random(engine, architecture.clone(), seed);
    randomise(engine, &mut model, seed);
    model
}

/// Replaces every weight, the head's and the adapter's too.
pub fn randomise(engine: &Engine, model: &mut Transformer, seed: u64) {
    let ids: Vec<_> = model.parameters().iter().map(|(id, _)| id).collect();
    for id in ids {
        let parameter = model.parameters().get(id);
        let name = parameter.name();
        let (mean, deviation) = match parameter.value().rows() {
            1 if name.ends_with("norm.weight") => (1.0, 0.2),
            1 => (0.0, 0.2),
            _ if name.starts_with("embed") => (0.0, 0.5),
            _ => (0.0, 0.2),
        };
        let key = Key::new(seed, name, 1);
        let numbers: Vec<f32> = (0..parameter.value().len())
            .map(|i| (mean + deviation * key.normal(i as u64)) as f32)
            .collect();
        model.parameters_mut().set(engine, id, &numbers);
    }
}

/// The same model in f64.
pub fn naive(engine: &Engine, model: &Transformer, rounding: Rounding) -> NaiveModel {
    let a = model.architecture();
    let place = match a.positions {
        Positions::Learned => Place::Learned,
        Positions::Rotary { .. } => {
            let angle = |i| THETA.powf(-2.0 * f64::from(i) / a.head_dim as f64);
            Place::Rotary((0..a.head_dim as u32 / 2).map(angle).collect())
        }
    };
    let feed = match a.mlp {
        MlpKind::SwiGlu => Feed::Gated,
        MlpKind::Plain(Activation::GeluErf) => Feed::Plain(gelu_erf),
        MlpKind::Plain(Activation::Relu) => Feed::Plain(relu),
        MlpKind::Plain(_) => Feed::Plain(gelu_tanh),
    };
    let eps = match a.family {
        Family::Llama | Family::Gpt2 => 1e-5_f32,
        Family::Qwen2 | Family::Qwen3 => 1e-6,
    };
    let shape = NaiveShape {
        layers: a.layers,
        heads: a.heads,
        kv_heads: a.kv_heads,
        head_dim: a.head_dim,
        eps: f64::from(eps),
        place,
        feed,
        lora_scale: model
            .adapter()
            .map_or(0.0, |adapter| adapter.config.alpha / adapter.config.rank as f64),
    };
    let weight = |p: &hone_compute::Parameter| {
        let (rows, cols) = (p.value().rows(), p.value().cols());
        (
            p.name().to_string(),
            Matrix::from_f32(rows, cols, &engine.read(p.value())),
        )
    };
    NaiveModel {
        shape,
        weights: model.parameters().iter().map(|(_, p)| weight(p)).collect(),
        rounding,
    }
}

/// Random ids of the models' vocabulary.
pub fn tokens(seed: u64, count: usize) -> Vec<u32> {
    let key = Key::new(seed, "tokens", 0);
    (0..count)
        .map(|i| key.below(i as u64, VOCABULARY as u64) as u32)
        .collect()
}

/// Sequences one after another, with the rows whose next token counts.
pub struct Pack {
    pub ids: Arc<[u32]>,
    pub layout: Layout,
    pub rows: Arc<[u32]>,
    pub targets: Arc<[u32]>,
}

pub fn pack(sequences: &[Vec<u32>]) -> Pack {
    let layout = Layout::whole(&sequences.iter().map(Vec::len).collect::<Vec<_>>());
    let ids: Arc<[u32]> = sequences.concat().into();
    let next = |s: &hone_compute::Span| s.row as u32..(s.row + s.length - 1) as u32;
    let rows: Arc<[u32]> = layout.spans().iter().flat_map(next).collect();
    let targets = rows.iter().map(|&r| ids[r as usize + 1]).collect();
    Pack {
        ids,
        layout,
        rows,
        targets,
    }
}
