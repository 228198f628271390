//! Models of every family against transformers: log-probabilities, greedy tokens, loss and gradients.
//!
//! The small models in `parity/golden/models` are always checked; those that `parity/models.py OUT` writes, with whole
//! gradients, where `HONE_PARITY_MODELS` names OUT.
#![allow(clippy::print_stderr)] // the differences themselves, with --nocapture

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_compute::{
    Engine, EngineOptions, Gradients, Isa, Layout, Precision, SamplingParameters, Tape,
};
use hone_generate::{Generator, GeneratorOptions, Request, logprobs_of};
use hone_math::Key;
use hone_model::{TensorFile, Tokens, Transformer, load};
use serde_json::Value;

fn golden_directories() -> Vec<PathBuf> {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/golden/models");
    let more = std::env::var_os("HONE_PARITY_MODELS").map(PathBuf::from);
    let mut directories = Vec::new();
    for folder in [Some(committed), more].into_iter().flatten() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            directories.push(entry.unwrap().path());
        }
    }
    directories.sort();
    assert!(
        directories.len() >= 5,
        "one model of each family and variant"
    );
    directories
}

fn engine(isa: Isa) -> Engine {
    Engine::new(&EngineOptions {
        isa: Some(isa),
        precision: Precision::F32,
        threads: Some(2),
    })
    .unwrap()
}

fn golden(directory: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(directory.join("golden.json")).unwrap()).unwrap()
}

fn numbers<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn largest(name: &str, differences: impl Iterator<Item = f64>) -> f64 {
    let mut largest = 0.0;
    for difference in differences {
        assert!(difference.is_finite(), "{name}");
        largest = f64::max(largest, difference);
    }
    largest
}

#[test]
fn parity_logprobs_and_greedy_tokens() {
    for isa in [Isa::detect(), Isa::Portable] {
        let engine = engine(isa);
        for directory in golden_directories() {
            let name = directory
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into_owned();
            let (model, _) = load(&engine, &directory).unwrap();
            let golden = golden(&directory);
            let ids: Vec<Vec<u32>> = numbers(&golden["ids"]);
            let expected: Vec<Vec<f64>> = numbers(&golden["logprobs"]);
            let slices: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
            let got = logprobs_of(&engine, &model, &slices, 1.0);
            let pairs = got
                .iter()
                .zip(&expected)
                .flat_map(|(g, e)| g.logprobs.iter().zip(e));
            let difference = largest(&name, pairs.map(|(&g, &e)| (f64::from(g) - e).abs()));
            eprintln!("{isa} {name}: largest difference of log-probabilities {difference:.2e}");
            assert!(difference < 1e-4, "{isa} {name}: {difference}");

            let prompt: Vec<u32> = numbers(&golden["greedy"]["prompt"]);
            let greedy: Vec<u32> = numbers(&golden["greedy"]["ids"]);
            let request = Request {
                prompt: prompt.into(),
                sampling: SamplingParameters {
                    temperature: 0.0,
                    ..SamplingParameters::default()
                },
                key: Key::new(1, "greedy", 0),
                max_new_tokens: greedy.len(),
                stop_tokens: Arc::new([]),
                stop_texts: None,
            };
            let completion = Generator::new(&engine, &model, GeneratorOptions::default())
                .run(&[request])
                .unwrap();
            assert_eq!(completion[0].ids, greedy, "{isa} {name}");
        }
    }
}

/// The mean cross-entropy of all next tokens, and its gradients.
fn loss_and_gradients(
    engine: &Engine,
    model: &Transformer,
    sequences: &[Vec<u32>],
) -> (f64, Gradients) {
    let count: usize = sequences.iter().map(|s| s.len() - 1).sum();
    let ids: Arc<[u32]> = sequences.iter().flatten().copied().collect();
    let layout = Layout::whole(&sequences.iter().map(Vec::len).collect::<Vec<_>>());
    let (mut targets, mut weights) = (Vec::new(), Vec::new());
    for sequence in sequences {
        targets.extend(sequence[1..].iter().copied().chain([0]));
        weights.extend(
            sequence[1..]
                .iter()
                .map(|_| 1.0 / count as f32)
                .chain([0.0]),
        );
    }
    let mut gradients = Gradients::zeros(engine, model.parameters());
    let mut tape = Tape::training(engine, model.parameters());
    let hidden = model.hidden(
        &mut tape,
        &Tokens {
            ids: &ids,
            layout: &layout,
        },
    );
    let asked = model.targets(&targets.into(), 1.0);
    let (logprobs, _) = tape.backward_cross_entropy(&hidden, &asked, &weights, &mut gradients);
    let loss = logprobs
        .iter()
        .zip(&weights)
        .map(|(&l, &w)| -f64::from(l) * f64::from(w))
        .sum();
    (loss, gradients)
}

/// Where a weight stands in transformers: its name, and whether it is turned around there.
fn place(family: &str, name: &str) -> (String, bool) {
    if family != "gpt2" {
        return (
            if name.starts_with("lm_head") {
                name.into()
            } else {
                format!("model.{name}")
            },
            false,
        );
    }
    let replaced = [
        ("layers.", "h."),
        ("input_layernorm", "ln_1"),
        ("post_attention_layernorm", "ln_2"),
        ("self_attn.q_proj", "attn.c_attn"),
        ("self_attn.k_proj", "attn.c_attn"),
        ("self_attn.v_proj", "attn.c_attn"),
        ("self_attn.o_proj", "attn.c_proj"),
        ("mlp.up_proj", "mlp.c_fc"),
        ("mlp.down_proj", "mlp.c_proj"),
        ("embed_tokens", "wte"),
        ("embed_positions", "wpe"),
    ];
    let whole = replaced
        .iter()
        .fold(name.to_string(), |name, (ours, theirs)| {
            name.replace(ours, theirs)
        });
    let whole = if let Some(kind) = whole.strip_prefix("norm.") {
        format!("ln_f.{kind}")
    } else {
        whole
    };
    let turned = name.contains("_proj") && name.ends_with(".weight");
    (format!("transformer.{whole}"), turned)
}

#[test]
fn parity_loss_and_gradients() {
    let engine = engine(Isa::detect());
    for directory in golden_directories() {
        let name = directory
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let (model, config) = load(&engine, &directory).unwrap();
        let golden = golden(&directory);
        let (loss, gradients) =
            loss_and_gradients(&engine, &model, &numbers::<Vec<Vec<u32>>>(&golden["ids"]));
        let expected = golden["loss"].as_f64().unwrap();
        assert!(
            (loss - expected).abs() < 1e-4,
            "{name}: loss {loss}, expected {expected}"
        );

        // 1. The norm of each of transformers' tensors
        let family = config.architecture.family.name();
        let norms: BTreeMap<String, f64> = numbers(&golden["gradient_norms"]);
        let scale = norms.values().map(|x| x * x).sum::<f64>().sqrt();
        let mut squares: BTreeMap<String, f64> = BTreeMap::new();
        for (id, parameter) in model.parameters().iter() {
            let gradient = engine.read(gradients.get(id).unwrap());
            let (theirs, _) = place(family, parameter.name());
            *squares.entry(theirs).or_default() +=
                gradient.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        }
        assert_eq!(
            squares.keys().collect::<Vec<_>>(),
            norms.keys().collect::<Vec<_>>(),
            "{name}"
        );
        let pairs = squares.values().zip(norms.values());
        let difference = largest(
            &name,
            pairs.map(|(&got, &expected)| (got.sqrt() - expected).abs() / scale),
        );
        eprintln!(
            "{name}: loss {:.1e}, gradient norms {difference:.1e} of the whole norm",
            (loss - expected).abs()
        );
        assert!(difference < 1e-5, "{name}: {difference}");

        // 2. Every number of them, where the file is there
        let path = directory.join("gradients.safetensors");
        if path.is_file() {
            let difference = compare_gradients(
                &engine,
                (&model, family),
                &gradients,
                &mut TensorFile::open(&path).unwrap(),
            );
            eprintln!("{name}: gradients {difference:.1e} of their largest");
            assert!(difference < 1e-4, "{name}: {difference}");
        }
    }
}

/// The largest difference of an element, relative to the largest element of its tensor.
fn compare_gradients(
    engine: &Engine,
    (model, family): (&Transformer, &str),
    gradients: &Gradients,
    file: &mut TensorFile,
) -> f64 {
    let mut worst = 0.0;
    for (id, parameter) in model.parameters().iter() {
        let tensor = gradients.get(id).unwrap();
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let got = engine.read(tensor);
        let (theirs, turned) = place(family, parameter.name());
        let whole = file.read(&theirs).unwrap();
        // GPT-2's c_attn holds queries, keys and values side by side
        let part = ["q_proj", "k_proj", "v_proj"]
            .iter()
            .position(|p| theirs.contains("c_attn") && parameter.name().contains(p));
        let (parts, part) = (if part.is_some() { 3 } else { 1 }, part.unwrap_or(0));
        let expected = |r: usize, c: usize| match (turned, parts) {
            (true, _) => whole[c * rows * parts + part * rows + r],
            (false, 3) => whole[part * cols + c],
            (false, _) => whole[r * cols + c],
        };
        let largest = whole.iter().fold(0.0, |m: f32, x| m.max(x.abs())).max(1e-6);
        for r in 0..rows {
            for c in 0..cols {
                worst = f64::max(
                    worst,
                    f64::from((got[r * cols + c] - expected(r, c)).abs() / largest),
                );
            }
        }
    }
    worst
}
