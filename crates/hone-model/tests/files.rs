//! Adapters and files: what is equal to the bit after a round trip, with a fresh adapter, and after merging.

mod common;

use std::path::Path;

use common::{architectures, engine, pack, random_model, randomise, tokens};
use hone_compute::{AdamW, Engine, EngineOptions, Gradients, Isa, Optimizer, Precision, StepRate, Tape};
use hone_model::{Dtype, Family, LoraConfig, Tokens, Transformer, load, load_adapter};
use hone_testing::assert_bits;
use serde_json::{Map, json};

fn sequences() -> Vec<Vec<u32>> {
    [11, 2, 70].iter().map(|&n| tokens(n as u64, n)).collect()
}

/// Log-probabilities, and head outputs where there is a head.
fn numbers(engine: &Engine, model: &Transformer) -> Vec<f32> {
    let pack = pack(&sequences());
    let mut tape = Tape::inference(engine, model.parameters());
    let hidden = model.hidden(
        &mut tape,
        &Tokens {
            ids: &pack.ids,
            layout: &pack.layout,
        },
    );
    let chosen = tape.select_rows(&hidden, &pack.rows);
    let mut found = engine.read(model.logprobs(&mut tape, &chosen, &pack.targets, 1.0).logprob.value());
    if model.has_head() {
        let offset = model.head_offset().expect("a head");
        let heads = model.head_outputs(&mut tape, &chosen);
        found.extend(engine.read(heads.value()).into_iter().map(|x| x + offset));
    }
    assert!(found.iter().all(|x| x.is_finite()));
    found
}

/// A training step of the cross-entropy of the sequences.
fn train(engine: &Engine, model: &mut Transformer, optimizer: &mut Optimizer) {
    let pack = pack(&sequences());
    let mut gradients = Gradients::zeros(engine, model.parameters());
    let mut tape = Tape::training(engine, model.parameters());
    let hidden = model.hidden(
        &mut tape,
        &Tokens {
            ids: &pack.ids,
            layout: &pack.layout,
        },
    );
    let chosen = tape.select_rows(&hidden, &pack.rows);
    let weights = vec![1.0 / pack.rows.len() as f32; pack.rows.len()];
    tape.backward_cross_entropy(&chosen, &model.targets(&pack.targets, 1.0), &weights, &mut gradients);
    let rate = StepRate {
        learning_rate: 0.02,
        clip: None,
    };
    assert!(optimizer.step(engine, model.parameters_mut(), &gradients, rate).applied);
}

fn lora() -> LoraConfig {
    let targets = ["q", "k", "v", "o", "up", "down"].map(String::from).to_vec();
    LoraConfig {
        rank: 4,
        alpha: 8.0,
        targets,
        vocabulary: false,
    }
}

fn save(engine: &Engine, model: &Transformer, directory: &Path, dtype: Dtype) {
    let tokens: Map<_, _> = [("eos_token_id".to_string(), json!(2))].into_iter().collect();
    std::fs::write(directory.join("config.json"), model.config_json(&tokens)).expect("written");
    let mut bytes = Vec::new();
    model.write_weights(engine, dtype, &mut bytes).expect("written");
    std::fs::write(directory.join("model.safetensors"), bytes).expect("written");
}

fn engines() -> Vec<Engine> {
    vec![
        engine(Isa::detect(), Precision::Bf16, 2),
        engine(Isa::Portable, Precision::F32, 1),
    ]
}

#[test]
fn a_saved_model_loads_with_the_same_bits() {
    for engine in engines() {
        for (name, architecture) in architectures() {
            for head in [None, Some(0.1_f32)] {
                let mut model = random_model(&engine, &architecture, 1);
                if let Some(offset) = head {
                    model.add_reward_head(&engine, 2);
                    model.set_head_offset(offset);
                }
                let directory = tempfile::tempdir().expect("a directory");
                save(&engine, &model, directory.path(), Dtype::F32);
                let (loaded, config) = load(&engine, directory.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(loaded.architecture(), model.architecture(), "{name}");
                assert_eq!((config.scores, loaded.head_offset()), (head.is_some(), head), "{name}");
                assert_eq!(config.tokens.get("eos_token_id"), Some(&json!(2)));
                assert_bits(name, &numbers(&engine, &loaded), &numbers(&engine, &model));
                // The same weights give the same file.
                let again = tempfile::tempdir().expect("a directory");
                save(&engine, &loaded, again.path(), Dtype::F32);
                for file in ["config.json", "model.safetensors"] {
                    let read = |d: &tempfile::TempDir| std::fs::read(d.path().join(file)).expect("there");
                    assert!(
                        read(&directory) == read(&again),
                        "{name}: {file} differs after a round trip"
                    );
                }
            }
        }
    }
}

#[test]
fn bf16_files_hold_what_bf16_products_read() {
    // Matrices are rounded to bf16 for a product anyway; embeddings, norms and biases are not.
    let engine = engine(Isa::detect(), Precision::Bf16, 1);
    for (name, architecture) in architectures() {
        let model = random_model(&engine, &architecture, 1);
        let directory = tempfile::tempdir().expect("a directory");
        save(&engine, &model, directory.path(), Dtype::Bf16);
        let (loaded, _) = load(&engine, directory.path()).expect("loads");
        let (got, expected) = (numbers(&engine, &loaded), numbers(&engine, &model));
        let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        assert!(worst.fold(0.0, f32::max) < 0.2, "{name}");
        let again = tempfile::tempdir().expect("a directory");
        save(&engine, &loaded, again.path(), Dtype::Bf16);
        let read = |d: &tempfile::TempDir| std::fs::read(d.path().join("model.safetensors")).expect("there");
        assert!(
            read(&directory) == read(&again),
            "{name}: rounding twice is rounding once"
        );
    }
}

#[test]
fn a_fresh_adapter_changes_no_bit_and_trains_alone() {
    for engine in engines() {
        for (name, architecture) in architectures() {
            let base = random_model(&engine, &architecture, 3);
            let mut model = base.duplicate();
            model.add_adapter(&engine, &lora(), 4).expect("an adapter");
            assert_bits(name, &numbers(&engine, &model), &numbers(&engine, &base));

            let gradients = Gradients::zeros(&engine, model.parameters());
            for (id, parameter) in model.parameters().iter() {
                let adapter = parameter.name().contains(".lora_");
                assert_eq!(gradients.get(id).is_some(), adapter, "{name}: {}", parameter.name());
            }
            let (_, trained) = model.parameters().count();
            let mut optimizer = Optimizer::new(&engine, model.parameters(), AdamW::default());
            let before = numbers(&engine, &model);
            train(&engine, &mut model, &mut optimizer);
            train(&engine, &mut model, &mut optimizer);
            let after = numbers(&engine, &model);
            let mean = |x: &[f32]| x.iter().sum::<f32>() / x.len() as f32;
            assert!(
                mean(&after) > mean(&before),
                "{name}: {} does not rise, {}",
                mean(&before),
                mean(&after)
            );
            assert!(trained > 0);
            for (id, parameter) in base.parameters().iter() {
                let now = engine.read(model.parameters().get(id).value());
                assert_bits(parameter.name(), &now, &engine.read(parameter.value()));
            }
        }
    }
}

#[test]
fn a_merged_adapter_is_close() {
    for (precision, tolerance) in [(Precision::F32, 2e-5), (Precision::Bf16, 0.15)] {
        let engine = engine(Isa::detect(), precision, 2);
        for (name, architecture) in architectures() {
            let mut model = random_model(&engine, &architecture, 5);
            model.add_reward_head(&engine, 9);
            model.set_head_offset(-0.75);
            model.add_adapter(&engine, &lora(), 6).expect("an adapter");
            randomise(&engine, &mut model, 7);
            let unmerged = numbers(&engine, &model);
            let merged = model.merge_adapter(&engine);
            assert!(merged.adapter().is_none() && merged.parameters().iter().all(|(_, p)| !p.name().contains("lora")));
            let worst = numbers(&engine, &merged)
                .iter()
                .zip(&unmerged)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(
                worst < tolerance && worst > 0.0,
                "{name}: {worst:e} off in {precision:?}"
            );
        }
    }
}

#[test]
fn a_saved_adapter_loads_with_the_same_bits() {
    for engine in engines() {
        for (name, architecture) in architectures() {
            let base = random_model(&engine, &architecture, 5);
            let mut model = base.duplicate();
            model.add_adapter(&engine, &lora(), 6).expect("an adapter");
            randomise_adapter(&engine, &mut model);
            let directory = tempfile::tempdir().expect("a directory");
            let mut bytes = Vec::new();
            let written = model.write_adapter(&engine, &mut bytes);
            if architecture.family == Family::Gpt2 {
                assert!(
                    written
                        .expect_err("has no place in PEFT's layout")
                        .to_string()
                        .contains("merge")
                );
                continue;
            }
            written.expect("written");
            std::fs::write(directory.path().join("adapter_model.safetensors"), bytes).expect("written");
            let config = model.adapter_json("base").expect("an adapter");
            std::fs::write(directory.path().join("adapter_config.json"), config).expect("written");
            let mut loaded = base.duplicate();
            load_adapter(&engine, &mut loaded, directory.path()).expect("loads");
            assert_eq!(loaded.adapter().expect("one").base.as_deref(), Some("base"));
            assert_eq!(loaded.parameters().count(), model.parameters().count());
            let got = numbers(&engine, &loaded);
            assert_bits(name, &got, &numbers(&engine, &model));
            assert!(got != numbers(&engine, &base), "{name}: the adapter does something");
        }
    }
}

/// An adapter on a vocabulary that grew brings the embedding along; the base model stays as it was.
#[test]
fn an_adapter_brings_the_vocabulary_that_grew_for_it() {
    for engine in engines() {
        for (name, architecture) in architectures() {
            if architecture.family == Family::Gpt2 {
                continue;
            }
            let base = random_model(&engine, &architecture, 5);
            let mut model = base.with_vocabulary(&engine, architecture.vocab_size + 2);
            model.add_adapter(&engine, &lora(), 6).expect("an adapter");
            model.adapt_vocabulary();
            randomise_adapter(&engine, &mut model);
            let directory = tempfile::tempdir().expect("a directory");
            let path = |file: &str| directory.path().join(file);
            let mut bytes = Vec::new();
            model.write_adapter(&engine, &mut bytes).expect("written");
            std::fs::write(path("adapter_model.safetensors"), &bytes).expect("written");
            let config = model.adapter_json("base").expect("an adapter");
            std::fs::write(path("adapter_config.json"), &config).expect("written");
            let mut loaded = base.duplicate();
            load_adapter(&engine, &mut loaded, directory.path()).expect("loads");
            assert_eq!(loaded.architecture().vocab_size, architecture.vocab_size + 2);
            // What is trained is the same again
            assert_eq!(loaded.parameters().count(), model.parameters().count());
            assert_bits(name, &numbers(&engine, &loaded), &numbers(&engine, &model));
            let merged = loaded.merge_adapter(&engine);
            assert_eq!(merged.architecture().vocab_size, architecture.vocab_size + 2);
            // A rehearsal has the same shapes, and trains the same
            let rehearsal = rehearsal(&engine);
            let mut rehearsed = Transformer::random(&rehearsal, architecture.clone(), 5);
            load_adapter(&rehearsal, &mut rehearsed, directory.path()).expect("loads");
            assert_eq!(rehearsed.parameters().count(), model.parameters().count());
            let merged_too = rehearsed.merge_adapter(&rehearsal);
            assert_eq!(merged_too.parameters().count(), merged.parameters().count());
            // What hone cannot read is said
            let other = config.replace("\"lm_head\"", "\"norm\"");
            assert_ne!(other, config);
            std::fs::write(path("adapter_config.json"), other).expect("written");
            let said = load_adapter(&engine, &mut base.duplicate(), directory.path());
            assert!(said.expect_err("norm").to_string().contains("names norm"), "{name}");
        }
    }
}

/// An engine that counts what `engine` would do.
fn rehearsal(engine: &Engine) -> Engine {
    let options = EngineOptions {
        isa: Some(engine.isa()),
        precision: engine.precision(),
        threads: Some(engine.threads()),
    };
    Engine::rehearsal(&options).expect("it runs here")
}

fn randomise_adapter(engine: &Engine, model: &mut Transformer) {
    let all: Vec<_> = model
        .parameters()
        .iter()
        .map(|(id, p)| (id, engine.read(p.value()), p.trainable()))
        .collect();
    randomise(engine, model, 8);
    for (id, numbers, trained) in all {
        if !trained {
            model.parameters_mut().set(engine, id, &numbers);
        }
    }
}

#[test]
fn a_step_of_training_takes_no_new_memory() {
    let engine = engine(Isa::detect(), Precision::Bf16, 2);
    for (name, architecture) in architectures() {
        let mut model = random_model(&engine, &architecture, 5);
        model.set_recompute(true);
        let mut optimizer = Optimizer::new(&engine, model.parameters(), AdamW::default());
        let idle = |_| {
            train(&engine, &mut model, &mut optimizer);
            engine.idle_bytes()
        };
        let idle: Vec<usize> = (0..5).map(idle).collect();
        assert!(idle[1..].iter().all(|&bytes| bytes == idle[1]), "{name}: {idle:?}");
    }
}

#[test]
fn a_vocabulary_grows_by_rows_at_the_mean() {
    let engine = Engine::new(&EngineOptions::default()).unwrap();
    let new = hone_model::NewModel {
        family: "qwen2".into(),
        width: 8,
        layers: 1,
        heads: 2,
        kv_heads: None,
        head_dim: None,
        intermediate: Some(16),
        context: 16,
        tied: false,
        rope_theta: 10_000.0,
    };
    let model = Transformer::random(&engine, new.architecture(16).unwrap(), 3);
    let grown = model.with_vocabulary(&engine, 18);
    let read = |model: &Transformer, name: &str| {
        engine.read(model.parameters().get(model.parameters().find(name).unwrap()).value())
    };
    for name in ["embed_tokens.weight", "lm_head.weight"] {
        let (before, after) = (read(&model, name), read(&grown, name));
        assert_eq!(after[..128], before[..]);
        for column in 0..8 {
            let mean = (0..16).map(|row| before[row * 8 + column]).sum::<f32>() / 16.0;
            assert!((after[128 + column] - mean).abs() < 1e-7 && after[128 + column] == after[136 + column]);
        }
    }
    // 16 rows too, but no embedding
    assert_eq!(
        read(&model, "layers.0.mlp.up_proj.weight"),
        read(&grown, "layers.0.mlp.up_proj.weight")
    );
}
