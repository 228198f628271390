//! Whole transformers of every family against naive f64: log-probabilities, entropies, head outputs, and the gradients of
//! every weight by central differences.

mod common;

use common::{architectures, engine, naive, pack, random_model, randomise, tokens};
use hone_compute::{Engine, Gradients, Isa, Precision, Tape};
use hone_model::{Family, LoraConfig, Tokens, Transformer};
use hone_testing::{Differences, NaiveModel, Rounding, assert_bits, assert_near, differences};

const LENGTHS: [usize; 3] = [7, 1, 10];
const TEMPERATURE: f32 = 0.8;

fn sequences() -> Vec<Vec<u32>> {
    LENGTHS.iter().enumerate().map(|(i, &n)| tokens(i as u64, n)).collect()
}

/// Coefficients of the loss: of every log-probability, entropy and head output.
fn coefficients(n: usize, which: u64) -> Vec<f32> {
    let key = hone_math::Key::new(which, "coefficients", 0);
    (0..n).map(|i| key.normal(i as u64) as f32).collect()
}

/// Log-probabilities, entropies, head outputs of the sequences, each in one list.
fn oracle(model: &NaiveModel, sequences: &[Vec<u32>]) -> [Vec<f64>; 3] {
    let mut lists = [Vec::new(), Vec::new(), Vec::new()];
    for ids in sequences {
        if ids.len() > 1 {
            let numbers = model.token_numbers(ids, f64::from(TEMPERATURE));
            lists[0].extend(numbers.logprobs);
            lists[1].extend(numbers.entropies);
        }
        lists[2].extend(model.head_outputs(ids));
    }
    lists
}

fn oracle_loss(model: &NaiveModel, sequences: &[Vec<u32>]) -> f64 {
    let lists = oracle(model, sequences);
    let weigh = |(which, list): (usize, &Vec<f64>)| {
        list.iter()
            .zip(coefficients(list.len(), which as u64))
            .map(|(x, c)| x * f64::from(c))
            .sum::<f64>()
    };
    lists.iter().enumerate().map(weigh).sum()
}

/// The same from the engine, and the gradients.
fn engine_step(engine: &Engine, model: &Transformer, sequences: &[Vec<u32>]) -> ([Vec<f32>; 3], Gradients) {
    let pack = pack(sequences);
    let mut tape = Tape::training(engine, model.parameters());
    let hidden = model.hidden(
        &mut tape,
        &Tokens {
            ids: &pack.ids,
            layout: &pack.layout,
        },
    );
    let chosen = tape.select_rows(&hidden, &pack.rows);
    let numbers = model.logprobs(&mut tape, &chosen, &pack.targets, TEMPERATURE);
    let heads = model.head_outputs(&mut tape, &hidden);
    let results = [&numbers.logprob, &numbers.entropy, &heads];
    let seeds = results.iter().enumerate().map(|(which, &var)| {
        let n = var.shape().0;
        (var, engine.tensor(n, 1, &coefficients(n, which as u64)))
    });
    let lists = results.map(|var| engine.read(var.value()));
    let mut gradients = Gradients::zeros(engine, model.parameters());
    tape.backward(seeds.collect(), &mut gradients);
    (lists, gradients)
}

/// Derivatives of some elements of every weight whose name `wanted` takes.
fn derivatives(
    model: &NaiveModel,
    sequences: &[Vec<u32>],
    wanted: impl Fn(&str) -> bool,
) -> Vec<(String, Differences)> {
    let mut model = model.clone();
    let names: Vec<String> = model.weights.keys().filter(|name| wanted(name)).cloned().collect();
    let mut found = Vec::new();
    for name in names {
        let mut numbers = model.weights[&name].data.clone();
        let taken = differences(&mut numbers, 5, |numbers| {
            model
                .weights
                .get_mut(&name)
                .expect("there")
                .data
                .copy_from_slice(numbers);
            oracle_loss(&model, sequences)
        });
        model
            .weights
            .get_mut(&name)
            .expect("there")
            .data
            .copy_from_slice(&numbers);
        found.push((name, taken));
    }
    found
}

/// Largest absolute distance.
fn distance(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    got.iter()
        .zip(expected)
        .map(|(&g, e)| (f64::from(g) - e).abs())
        .fold(0.0, f64::max)
}

fn mean_distance(got: &[f32], expected: &[f64]) -> f64 {
    got.iter()
        .zip(expected)
        .map(|(&g, e)| (f64::from(g) - e).abs())
        .sum::<f64>()
        / got.len() as f64
}

fn check(what: &str, engine: &Engine, model: &Transformer, expected: &Expected) {
    let (lists, gradients) = engine_step(engine, model, &sequences());
    let f32_mode = engine.precision() == Precision::F32;
    let what = format!("{what} on {} in {:?}", engine.isa(), engine.precision());
    for (i, (got, list)) in lists.iter().zip(&expected.lists[usize::from(!f32_mode)]).enumerate() {
        if f32_mode {
            let error = distance(got, list);
            assert!(error < 1e-5, "{what}: list {i} is {error:e} off");
        } else {
            // A result of f32 that lies between two numbers of bf16 may be rounded the other way.
            let error = mean_distance(got, list);
            assert!(error < 5e-3, "{what}: list {i} is {error:e} off on average");
        }
    }
    // Rounding to bf16 may change a small gradient by a good part, but not all of them together.
    let (tolerance, whole) = if f32_mode { (1e-4, 1e-5) } else { (0.5, 0.04) };
    let (mut error, mut size) = (0.0, 0.0);
    for (name, taken) in &expected.derivatives {
        let id = model.parameters().find(name).expect("there");
        let got = engine.read(gradients.get(id).unwrap_or_else(|| panic!("{what}: {name} is frozen")));
        let got = taken.of(&got);
        if taken.values.iter().all(|e| e.abs() < 1e-7) {
            // A bias that all keys share moves no softmax where nothing turns by position.
            assert!(
                name.ends_with("k_proj.bias") && model.architecture().family == Family::Gpt2,
                "{name}"
            );
            assert!(
                got.iter().all(|g| g.abs() < if f32_mode { 1e-5 } else { 0.1 }),
                "{what}: {name} {got:?}"
            );
            continue;
        }
        assert_near(&format!("{what}: gradient of {name}"), &got, &taken.values, tolerance);
        error += got
            .iter()
            .zip(&taken.values)
            .map(|(&g, e)| (f64::from(g) - e).powi(2))
            .sum::<f64>();
        size += taken.values.iter().map(|e| e.powi(2)).sum::<f64>();
    }
    assert!(
        (error / size).sqrt() < whole,
        "{what}: gradients are {:e} off",
        (error / size).sqrt()
    );
    let trained = model.parameters().iter().filter(|(_, p)| p.trainable()).count();
    assert_eq!(
        trained,
        expected.derivatives.len(),
        "{what}: every trained weight is checked"
    );
}

struct Expected {
    /// Without rounding, with rounded operands.
    lists: [[Vec<f64>; 3]; 2],
    derivatives: Vec<(String, Differences)>,
}

fn expect(engine: &Engine, model: &Transformer, wanted: impl Fn(&str) -> bool) -> Expected {
    let plain = naive(engine, model, Rounding::None);
    let rounded = naive(engine, model, Rounding::Bf16);
    let lists = [&plain, &rounded].map(|naive| oracle(naive, &sequences()));
    Expected {
        lists,
        derivatives: derivatives(&plain, &sequences(), wanted),
    }
}

#[test]
fn every_family() {
    for (name, architecture) in architectures() {
        let mut expected = None;
        for (i, isa) in Isa::all_here().into_iter().enumerate() {
            for precision in [Precision::F32, Precision::Bf16] {
                let engine = engine(isa, precision, 1 + i % 2);
                let mut model = random_model(&engine, &architecture, 5);
                model.add_reward_head(&engine, 6);
                let expected = expected.get_or_insert_with(|| expect(&engine, &model, |_| true));
                check(name, &engine, &model, expected);
            }
        }
    }
}

#[test]
fn adapters() {
    let lora = LoraConfig {
        rank: 3,
        alpha: 6.0,
        targets: ["q", "k", "v", "o", "up", "down"].map(String::from).to_vec(),
        vocabulary: false,
    };
    for (name, architecture) in architectures() {
        let isas = [Isa::detect(), Isa::Portable];
        let mut expected = None;
        for (isa, precision) in isas
            .into_iter()
            .flat_map(|isa| [(isa, Precision::F32), (isa, Precision::Bf16)])
        {
            let engine = engine(isa, precision, 2);
            let mut model = random_model(&engine, &architecture, 7);
            model.add_reward_head(&engine, 6);
            model.add_adapter(&engine, &lora, 8).expect("an adapter");
            randomise(&engine, &mut model, 9);
            let expected = expected.get_or_insert_with(|| expect(&engine, &model, |name| name.contains("lora")));
            check(&format!("{name} with an adapter"), &engine, &model, expected);
        }
    }
}

#[test]
fn recomputing_blocks_changes_no_bit() {
    for (isa, precision) in [(Isa::detect(), Precision::Bf16), (Isa::Portable, Precision::F32)] {
        let engine = engine(isa, precision, 2);
        for (name, architecture) in architectures() {
            for adapter in [false, true] {
                let mut model = random_model(&engine, &architecture, 7);
                model.add_reward_head(&engine, 6);
                if adapter {
                    model
                        .add_adapter(&engine, &LoraConfig::default(), 8)
                        .expect("an adapter");
                    randomise(&engine, &mut model, 9);
                }
                let (expected, kept) = engine_step(&engine, &model, &sequences());
                model.set_recompute(true);
                let (got, again) = engine_step(&engine, &model, &sequences());
                assert_bits(name, &got.concat(), &expected.concat());
                for (id, parameter) in model.parameters().iter().filter(|(_, p)| p.trainable()) {
                    let [got, expected] = [&again, &kept].map(|g| engine.read(g.get(id).expect("trained")));
                    assert!(
                        expected.iter().any(|x| *x != 0.0),
                        "{name}: {} has a gradient",
                        parameter.name()
                    );
                    assert_bits(&format!("{name}: {}", parameter.name()), &got, &expected);
                }
            }
        }
    }
}
