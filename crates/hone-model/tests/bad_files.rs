//! What files claim is checked before anything is made of it, and what hone does not compute is refused by name.

mod common;

use std::path::Path;

use common::{architectures, engine, random_model};
use hone_compute::{Engine, EngineOptions, Isa, Precision};
use hone_math::{Key, Stream};
use hone_model::{
    Architecture, Dtype, Error, LoraConfig, ModelConfig, NewModel, TensorFile, TensorToWrite, Transformer, load,
    load_adapter, read_config, write_tensors,
};
use serde_json::{Map, Value, json};

const MOST: u64 = (1 << 31) - 1;

fn portable() -> Engine {
    engine(Isa::Portable, Precision::F32, 1)
}

/// An engine that only counts.
fn rehearsal() -> Engine {
    let options = EngineOptions {
        isa: Some(Isa::Portable),
        precision: Precision::F32,
        threads: Some(1),
    };
    Engine::rehearsal(&options).expect("portable runs everywhere")
}

fn named(name: &str) -> Architecture {
    let mut all = architectures().into_iter();
    all.find(|(n, _)| *n == name).expect("one of the list").1
}

fn save(engine: &Engine, model: &Transformer, directory: &Path) {
    std::fs::write(directory.join("config.json"), model.config_json(&Map::new())).expect("written");
    let mut bytes = Vec::new();
    model.write_weights(engine, Dtype::F32, &mut bytes).expect("written");
    std::fs::write(directory.join("model.safetensors"), bytes).expect("written");
}

fn change(path: &Path, key: &str, value: Value) {
    let mut config: Value = serde_json::from_slice(&std::fs::read(path).expect("there")).expect("JSON");
    config[key] = value;
    std::fs::write(path, config.to_string()).expect("written");
}

#[test]
fn sizes_that_no_tensor_backs_are_refused_before_anything_is_made() {
    let engine = portable();
    let llama = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    ];
    let llama = [
        &llama[..],
        &["num_key_value_heads", "head_dim", "max_position_embeddings"],
    ]
    .concat();
    let gpt2 = vec!["vocab_size", "n_embd", "n_inner", "n_layer", "n_head", "n_positions"];
    for (name, keys) in [("llama, grouped", llama.clone()), ("qwen2", llama), ("gpt2", gpt2)] {
        let model = random_model(&engine, &named(name), 1);
        let directory = tempfile::tempdir().expect("a directory");
        for key in &keys {
            save(&engine, &model, directory.path());
            let config = directory.path().join("config.json");
            for size in [MOST, MOST - 1, 1 << 30, 4096 + 16] {
                change(&config, key, json!(size));
                let error = load(&engine, directory.path()).err();
                assert!(
                    error.is_some() || (*key == "max_position_embeddings" && size < 1 << 20),
                    "{name}: {key} {size}"
                );
                let rehearsed = load(&rehearsal(), directory.path()).err();
                let said = |error: Option<Error>| error.map(|error| error.to_string());
                assert_eq!(said(rehearsed), said(error), "{name}: {key} {size}");
            }
        }
        // Every size at once, and many layers of a file that has two
        save(&engine, &model, directory.path());
        let config = directory.path().join("config.json");
        for key in &keys {
            change(&config, key, json!(1 << 30));
        }
        assert!(load(&engine, directory.path()).is_err(), "{name}");
        save(&engine, &model, directory.path());
        change(
            &config,
            if name == "gpt2" { "n_layer" } else { "num_hidden_layers" },
            json!(4096),
        );
        assert!(
            matches!(load(&engine, directory.path()), Err(Error::MissingTensors { count, .. }) if count > 4000),
            "{name}"
        );
    }
}

#[test]
fn layers_and_contexts_have_a_limit() {
    let engine = portable();
    let directory = tempfile::tempdir().expect("a directory");
    for (name, key, size, expected) in [
        ("llama, grouped", "num_hidden_layers", 4097_u64, "at most 4096"),
        (
            "llama, grouped",
            "max_position_embeddings",
            (1 << 20) + 1,
            "at most 1048576",
        ),
        ("llama, grouped", "head_dim", (1 << 16) + 2, "at most 65536"),
        ("gpt2", "n_layer", 2_000_000_000, "at most 4096"),
        ("gpt2", "n_positions", MOST, "at most 1048576"),
    ] {
        save(&engine, &random_model(&engine, &named(name), 1), directory.path());
        change(&directory.path().join("config.json"), key, json!(size));
        let error = read_config(directory.path()).expect_err(key).to_string();
        assert!(error.contains(key) && error.contains(expected), "{error}");
    }
    let new = |layers, context, width| NewModel {
        family: "llama".into(),
        width,
        layers,
        heads: 1,
        kv_heads: None,
        head_dim: None,
        intermediate: None,
        context,
        tied: true,
        rope_theta: 1e4,
    };
    assert!(new(1, 1 << 20, 8).architecture(16).is_ok());
    for new in [
        new(4097, 8, 8),
        new(1, (1 << 20) + 1, 8),
        new(1, 8, usize::MAX),
        new(1, 8, 1 << 20),
    ] {
        assert!(matches!(new.architecture(16), Err(Error::New { .. })));
    }
}

#[test]
fn settings_that_would_be_ignored_are_refused() {
    let engine = portable();
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("config.json");
    for (name, key, value) in [
        ("llama, grouped", "rms_norm_eps", json!(-1e-6)),
        ("llama, grouped", "rms_norm_eps", json!(1e300)),
        ("gpt2", "layer_norm_epsilon", json!(-1e-5)),
        ("llama, grouped", "hone_score_offset", json!(-1e39)),
        ("llama, grouped", "rope_scaling", json!("linear")),
        (
            "llama, grouped",
            "rope_scaling",
            json!([{ "rope_type": "linear", "factor": 2.0 }]),
        ),
        ("llama, grouped", "rope_parameters", json!(2.0)),
        ("llama, grouped", "partial_rotary_factor", json!(0.5)),
    ] {
        save(&engine, &random_model(&engine, &named(name), 1), directory.path());
        if key == "rope_scaling" {
            change(&config, "rope_parameters", Value::Null);
        }
        change(&config, key, value.clone());
        let error = read_config(directory.path())
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default();
        assert!(error.contains(key), "{key} {value}: {error}");
    }
    save(&engine, &random_model(&engine, &named("qwen3"), 1), directory.path());
    let inside = json!({ "rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.25 });
    change(&config, "rope_parameters", inside);
    assert!(
        read_config(directory.path())
            .expect_err("refused")
            .to_string()
            .contains("partial_rotary_factor")
    );
    for (key, value) in [
        ("rope_parameters", Value::Null),
        ("rope_scaling", Value::Null),
        ("partial_rotary_factor", json!(1.0)),
    ] {
        change(&config, key, value);
    }
    assert!(
        read_config(directory.path()).is_ok(),
        "what changes nothing is no error"
    );
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let engine = portable();
    let directory = tempfile::tempdir().expect("a directory");
    let model = random_model(&engine, &named("llama, grouped"), 1);
    save(&engine, &model, directory.path());
    let path = |name: &str| directory.path().join(name);
    std::fs::rename(path("model.safetensors"), path("model-00001-of-00002.safetensors")).expect("renamed");
    let mut bytes = Vec::new();
    let tensor = |name: &str| TensorToWrite {
        name: name.into(),
        shape: vec![20],
        numbers: Box::new(|| vec![1.0; 20]),
    };
    let index =
        json!({ "weight_map": { "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors" } });
    std::fs::write(path("model.safetensors.index.json"), index.to_string()).expect("written");
    write_tensors(&mut bytes, Dtype::F32, vec![tensor("model.norm.weight")]).expect("written");
    std::fs::write(path("model-00002-of-00002.safetensors"), bytes).expect("written");
    let error = load(&engine, directory.path())
        .map(drop)
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("model.norm.weight") && error.contains("one shard"),
        "{error}"
    );
    let mut bytes = Vec::new();
    write_tensors(&mut bytes, Dtype::F32, vec![tensor("model.rotary_emb.inv_freq")]).expect("written");
    std::fs::write(path("model-00002-of-00002.safetensors"), bytes).expect("written");
    assert!(load(&engine, directory.path()).is_ok(), "two shards that share nothing");
}

/// A base, and the directory of an adapter on it, as hone writes it.
fn adapter(engine: &Engine) -> (Transformer, tempfile::TempDir) {
    let base = random_model(engine, &named("llama, grouped"), 3);
    let mut model = base.duplicate();
    model
        .add_adapter(engine, &LoraConfig::default(), 4)
        .expect("an adapter");
    let directory = tempfile::tempdir().expect("a directory");
    let mut bytes = Vec::new();
    model.write_adapter(engine, &mut bytes).expect("written");
    std::fs::write(directory.path().join("adapter_model.safetensors"), bytes).expect("written");
    let config = model.adapter_json("base").expect("an adapter");
    std::fs::write(directory.path().join("adapter_config.json"), config).expect("written");
    (base, directory)
}

#[test]
fn adapter_settings_that_hone_lacks_are_refused_by_name() {
    let engine = portable();
    let (base, directory) = adapter(&engine);
    let path = directory.path().join("adapter_config.json");
    let sound = std::fs::read_to_string(&path).expect("there");
    for (key, value) in [
        ("alpha_pattern", json!({ "q_proj": 32 })),
        ("rank_pattern", json!({ "q_proj": 2 })),
        ("bias", json!("all")),
        ("bias", json!("lora_only")),
        ("modules_to_save", json!(["classifier"])),
        ("modules_to_save", json!("embed_tokens")),
        ("modules_to_save", json!(["embed_tokens", 7])),
        ("layers_to_transform", json!([0])),
        ("layers_to_transform", json!(0)),
        ("target_parameters", json!(["mlp.experts"])),
        ("exclude_modules", json!("q_proj")),
        ("trainable_token_indices", json!([1, 2])),
        ("layer_replication", json!([[0, 2]])),
        ("peft_type", json!("LOHA")),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("use_dora", json!(true)),
        ("use_rslora", json!(true)),
        ("lora_bias", json!(true)),
        ("something_of_the_future", json!(0.5)),
        ("target_modules", json!("all-linear")),
        ("target_modules", json!(["q_proj", 7])),
        ("target_modules", json!([])),
        ("r", json!("8")),
        ("lora_alpha", json!(null)),
    ] {
        std::fs::write(&path, &sound).expect("written");
        change(&path, key, value.clone());
        let result = load_adapter(&engine, &mut base.duplicate(), directory.path());
        let error = result.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(&format!("`{key}`")), "{key} {value}: {error}");
    }
    // As PEFT 0.21 writes one: every setting, those that are off as null, {}, false or "none"
    std::fs::write(&path, &sound).expect("written");
    for (key, value) in [
        ("alora_invocation_tokens", json!(null)),
        ("alpha_pattern", json!({})),
        ("arrow_config", json!(null)),
        ("auto_mapping", json!(null)),
        ("corda_config", json!(null)),
        ("ensure_weight_tying", json!(false)),
        ("eva_config", json!(null)),
        ("exclude_modules", json!(null)),
        ("init_lora_weights", json!("gaussian")),
        ("layer_replication", json!(null)),
        ("layers_pattern", json!(null)),
        ("layers_to_transform", json!(null)),
        ("loftq_config", json!({})),
        ("lora_bias", json!(false)),
        ("lora_dropout", json!(0.1)),
        ("megatron_config", json!(null)),
        ("megatron_core", json!("megatron.core")),
        ("modules_to_save", json!(null)),
        ("peft_version", json!("0.21.2")),
        ("qalora_group_size", json!(16)),
        ("rank_pattern", json!({})),
        ("revision", json!(null)),
        ("target_parameters", json!(null)),
        ("trainable_token_indices", json!(null)),
        ("use_qalora", json!(false)),
    ] {
        change(&path, key, value);
    }
    load_adapter(&engine, &mut base.duplicate(), directory.path()).expect("what is off is no error");
}

#[test]
fn adapter_tensors_that_would_be_left_out_are_refused() {
    let engine = portable();
    let (base, directory) = adapter(&engine);
    change(
        &directory.path().join("adapter_config.json"),
        "target_modules",
        json!(["q_proj"]),
    );
    let error = load_adapter(&engine, &mut base.duplicate(), directory.path()).expect_err("v_proj is left");
    assert!(
        matches!(&error, Error::AdapterTensors { count: 4, example, .. } if example.contains("v_proj")),
        "{error}"
    );
    change(
        &directory.path().join("adapter_config.json"),
        "target_modules",
        json!(["q_proj", "v_proj", "k_proj"]),
    );
    let error = load_adapter(&engine, &mut base.duplicate(), directory.path()).expect_err("no k_proj");
    assert!(matches!(error, Error::MissingTensors { .. }), "{error}");
}

/// A copy of `bytes` with one to three of them changed, dropped or added.
fn damaged(r: &mut Stream, bytes: &[u8], pieces: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + r.below(3) {
        let place = r.below(bytes.len());
        match r.below(4) {
            0 => bytes[place] ^= 1 << r.below(8),
            1 => bytes[place] = pieces[r.below(pieces.len())],
            2 => drop(bytes.remove(place)),
            _ => bytes.insert(place, pieces[r.below(pieces.len())]),
        }
    }
    bytes
}

#[test]
fn files_of_tensors_damaged_at_random_are_read_or_refused() {
    let engine = portable();
    let directory = tempfile::tempdir().expect("a directory");
    save(&engine, &random_model(&engine, &named("qwen2"), 1), directory.path());
    let path = directory.path().join("model.safetensors");
    let good = std::fs::read(&path).expect("there");
    let header = 8 + u64::from_le_bytes(good[..8].try_into().expect("eight bytes")) as usize;
    let r = &mut Key::new(1, "damage", 0).stream();
    let (mut refused, mut opened) = (0, 0);
    for round in 0..1000 {
        // Mostly the header, sometimes what follows, sometimes the end is missing
        let bytes = match round % 8 {
            0 => good[..r.below(good.len())].to_vec(),
            1 => [&good[..header], &damaged(r, &good[header..], b"\xff\x7f\x80")].concat(),
            _ => [&damaged(r, &good[..header], b"0189{}[]\",:-.eF\\u"), &good[header..]].concat(),
        };
        std::fs::write(&path, bytes).expect("written");
        let Ok(mut file) = TensorFile::open(&path) else {
            refused += 1;
            continue;
        };
        opened += 1;
        for name in file.names().map(String::from).collect::<Vec<_>>() {
            let count: usize = file.shape(&name).expect("named").iter().product();
            if let Ok(numbers) = file.read(&name) {
                assert!(numbers.len() == count && numbers.iter().all(|x| x.is_finite()));
            }
        }
        // What it now says is a model or an error
        drop(load(&engine, directory.path()));
    }
    assert!(refused > 500 && opened > 50, "{refused} {opened}");
}

#[test]
fn configurations_damaged_at_random_are_read_or_refused() {
    let engine = portable();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.json");
    let r = &mut Key::new(2, "damage", 0).stream();
    let (mut refused, mut read) = (0, 0);
    for (_, architecture) in architectures() {
        let good = random_model(&engine, &architecture, 1).config_json(&Map::new());
        for _ in 0..200 {
            std::fs::write(&path, damaged(r, good.as_bytes(), b"0123456789{}[]\",:-.e")).expect("written");
            match read_config(directory.path()) {
                Err(_) => refused += 1,
                Ok(ModelConfig { architecture: a, .. }) => {
                    read += 1;
                    assert!(a.layers <= 4096 && a.context <= 1 << 20 && a.head_dim <= 1 << 16);
                    assert!(a.norm_eps >= 0.0 && a.norm_eps.is_finite() && a.heads.is_multiple_of(a.kv_heads));
                }
            }
        }
    }
    assert!(refused > 500 && read > 200, "{refused} {read}");
}
