//! Bad input: one clear message, the right exit code, nothing written.

use std::fs;

use serde_json::{Value, json};

use crate::common::{Fixture, copy};

fn sample<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["sample", "--model", model, "--max-new-tokens", "2"][..], more].concat()
}

#[test]
fn cli_wrong_arguments_end_with_2() {
    let fixture = Fixture::new();
    fixture
        .hone(&["sample", "--model", "model", "--prompt", "a", "--temprature", "1"])
        .fails(2, &["--temprature", "--temperature"]);
    fixture.hone(&["sampel"]).fails(2, &["sampel", "sample"]);
    fixture
        .hone(&sample("model", &["--prompt", "a", "--temperature", "-1"]))
        .fails(2, &["at least 0"]);
    fixture
        .hone(&sample("model", &["--prompt", "a", "--top-p", "0"]))
        .fails(2, &["above 0 and at most 1"]);
    fixture.hone(&sample("model", &[])).fails(2, &["--prompt"]);
    fixture
        .hone(&sample("model", &["--input", "absent.jsonl"]))
        .fails(2, &["absent.jsonl"]);
    let isa = fixture.hone_with(&sample("model", &["--prompt", "a"]), "", &[("HONE_ISA", "sse9")]);
    isa.fails(2, &["HONE_ISA is `sse9`", "portable"]);
    assert_eq!(fixture.hone(&["--version"]).code(), 0);
}

#[test]
fn cli_models_that_are_none() {
    let fixture = Fixture::new();
    let prompt = ["--prompt", "a"];
    fixture
        .hone(&sample("./absent", &prompt))
        .fails(2, &["./absent: no such directory"]);
    fs::create_dir(fixture.path("empty")).unwrap();
    fixture.hone(&sample("empty", &prompt)).fails(2, &["no config.json"]);
    fixture
        .hone(&sample("model/config.json", &prompt))
        .fails(2, &["a file; expected a model directory"]);
    fixture
        .hone(&sample("org/name", &prompt))
        .fails(1, &["org/name@main", "HF_HUB_OFFLINE"]);
    let broken = |name: &str, change: &dyn Fn(&std::path::Path)| {
        copy(&fixture.path("model"), &fixture.path(name));
        change(&fixture.path(name));
        fixture.hone(&sample(name, &prompt))
    };
    let config = |dir: &std::path::Path, change: &dyn Fn(&mut Value)| {
        let path = dir.join("config.json");
        let mut value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
    };
    broken("unknown", &|dir| config(dir, &|c| c["model_type"] = json!("mamba")))
        .fails(1, &["`mamba`", "llama, qwen2, qwen3, gpt2"]);
    broken("shape", &|dir| config(dir, &|c| c["intermediate_size"] = json!(50))).fails(1, &["has shape", "[50, 32]"]);
    broken("layers", &|dir| config(dir, &|c| c["num_hidden_layers"] = json!(3))).fails(1, &["missing", "layers.2"]);
    broken("rows", &|dir| config(dir, &|c| c["num_hidden_layers"] = json!(1))).fails(1, &["does not have", "layers.1"]);
    broken("text", &|dir| fs::write(dir.join("config.json"), "{").unwrap()).fails(1, &["config.json", "not JSON"]);
    broken("pickle", &|dir| {
        fs::rename(dir.join("model.safetensors"), dir.join("pytorch_model.bin")).unwrap()
    })
    .fails(1, &["pytorch_model.bin", "never read", "save_pretrained"]);
    broken("none", &|dir| fs::remove_file(dir.join("model.safetensors")).unwrap()).fails(1, &["no model.safetensors"]);
    broken("tokenizer", &|dir| fs::remove_file(dir.join("tokenizer.json")).unwrap()).fails(1, &["tokenizer"]);
}

#[test]
fn cli_weights_that_lie() {
    let fixture = Fixture::new();
    let weights = fs::read(fixture.path("model/model.safetensors")).unwrap();
    let with = |name: &str, bytes: &[u8]| {
        copy(&fixture.path("model"), &fixture.path(name));
        fs::write(fixture.path(name).join("model.safetensors"), bytes).unwrap();
        fixture.hone(&sample(name, &["--prompt", "a"]))
    };
    with(
        "pointer",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    )
    .fails(1, &["git lfs pull"]);
    with("cut", &weights[..weights.len() - 100]).fails(1, &["model.safetensors", "claims bytes"]);
    with("long", &[&weights[..], &[0; 8]].concat()).fails(1, &["end at byte"]);
    let mut header = weights.clone();
    header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    with("header", &header).fails(1, &["the header claims"]);
    let mut infinite = weights.clone();
    let end = infinite.len();
    infinite[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    with("infinite", &infinite).fails(1, &["not finite"]);
}

#[test]
fn cli_tokenizers_beyond_the_embedding_are_refused() {
    let fixture = Fixture::new();
    fixture.file(
        "t.txt",
        "some other words for another tokenizer, many more words than before: ".repeat(9),
    );
    assert_eq!(
        fixture
            .hone(&["tokenizer", "train", "t.txt", "--vocab-size", "300", "--out", "other"])
            .code(),
        0
    );
    copy(&fixture.path("model"), &fixture.path("mixed"));
    fs::copy(
        fixture.path("other/tokenizer.json"),
        fixture.path("mixed/tokenizer.json"),
    )
    .unwrap();
    fixture
        .hone(&sample("mixed", &["--prompt", "a"]))
        .fails(1, &[" ids", "280 rows"]);
}

#[test]
fn cli_rows_are_named_by_file_and_line() {
    let fixture = Fixture::new();
    let good = "{\"prompt\":\"a\"}\n";
    let case = |content: &str, said: &[&str]| {
        fixture.file("in.jsonl", content);
        fixture
            .hone(&sample("model", &["--input", "in.jsonl", "--json"]))
            .fails(1, said);
    };
    case(
        &format!("{good}\n{{\"prompt\":\n"),
        &["in.jsonl:3: EOF", "expected {\"prompt\"} or {\"messages\"}"],
    );
    case(
        &format!("{good}{{\"question\":\"a\"}}\n"),
        &["in.jsonl:2: neither `prompt` nor `messages`"],
    );
    case(&format!("{good}{{\"prompt\":7}}\n"), &["in.jsonl:2:"]);
    case(
        &format!("{good}{{\"prompt\":\"{}\"}}\n", "a b ".repeat(100)),
        &["in.jsonl:2: the prompt has", "context is 64"],
    );
    case("", &["in.jsonl: no row"]);
    case(
        "version https://git-lfs.github.com/spec/v1\n",
        &["Git LFS pointer", "git lfs pull"],
    );
    fixture.file("in.jsonl", b"{\"prompt\":\"\xff\"}\n");
    fixture
        .hone(&sample("model", &["--input", "in.jsonl"]))
        .fails(1, &["in.jsonl:1:"]);
    fixture.file("in.jsonl", format!("{{\"text\":\"{}\"}}\n", "a b ".repeat(100)));
    fixture
        .hone(&["logprobs", "--model", "model", "--input", "in.jsonl", "--json"])
        .fails(1, &["in.jsonl:1:", "context is 64"]);
    fixture.file("in.jsonl", "{\"prompt\":\"a\"}\n");
    fixture
        .hone(&["logprobs", "--model", "model", "--input", "in.jsonl"])
        .fails(1, &["in.jsonl:1: other columns"]);
}

#[test]
fn cli_a_base_model_has_no_conversations() {
    let fixture = Fixture::new();
    copy(&fixture.path("model"), &fixture.path("base"));
    let path = fixture.path("base/tokenizer_config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("chat_template");
    fs::write(&path, config.to_string()).unwrap();
    fixture
        .hone(&["chat", "--model", "base"])
        .fails(1, &["chat template", "hint: a base model takes raw text"]);
    fixture
        .hone(&["eval", "bits-per-byte", "--model", "base", "--data", "absent.txt"])
        .fails(1, &["absent.txt"]);
}
