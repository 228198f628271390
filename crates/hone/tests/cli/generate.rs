//! `sample`, `logprobs`, `score`, `chat`, `eval`.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Fixture, keys};
use crate::stages::Stages;

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().filter_map(Value::as_f64).collect()
}

#[test]
fn cli_sample_has_its_shape_and_logprobs_agree_to_the_bit() {
    let fixture = Fixture::new();
    for precision in ["f32", "bf16"] {
        let arguments = ["--model", "model", "--precision", precision, "--json"];
        let sample = [
            "sample",
            "--prompt",
            "the quick ",
            "--n",
            "3",
            "--max-new-tokens",
            "9",
            "--seed",
            "4",
        ];
        let rows = fixture.hone(&[&sample[..], &arguments].concat()).json();
        assert_eq!(rows.len(), 3);
        let mut input = String::new();
        for row in &rows {
            assert_eq!(
                keys(row),
                [
                    "prompt",
                    "completion",
                    "prompt_ids",
                    "completion_ids",
                    "logprobs",
                    "finish_reason",
                    "model",
                    "sampling",
                    "weights"
                ]
            );
            assert_eq!(row["model"], "model");
            assert_eq!(row["sampling"]["seed"], 4);
            assert_eq!(row["weights"].as_str().unwrap().len(), 64);
            assert_eq!(row["prompt"], "the quick ");
            assert!(["length", "stop"].contains(&row["finish_reason"].as_str().unwrap()));
            assert_eq!(
                row["completion_ids"].as_array().unwrap().len(),
                row["logprobs"].as_array().unwrap().len()
            );
            input += &format!(
                "{}\n",
                serde_json::json!({ "prompt": row["prompt"], "completion": row["completion"] })
            );
        }
        assert_ne!(rows[0]["completion_ids"], rows[1]["completion_ids"]);
        // The same tokens scored: random bytes may tokenize otherwise, so only those that come out equal are compared
        let scored = fixture
            .hone_with(&[&["logprobs", "--input", "-"][..], &arguments].concat(), &input, &[])
            .json();
        for (sampled, scored) in rows.iter().zip(&scored) {
            assert_eq!(keys(scored), ["ids", "logprobs"]);
            assert_eq!(scored["logprobs"][0], Value::Null);
            let prompt = sampled["prompt_ids"].as_array().unwrap().len();
            let ids = &scored["ids"].as_array().unwrap()[prompt..];
            if ids == sampled["completion_ids"].as_array().unwrap() {
                let logprobs = &scored["logprobs"].as_array().unwrap()[prompt..];
                assert_eq!(logprobs, sampled["logprobs"].as_array().unwrap());
            }
        }
    }
}

#[test]
fn cli_sample_does_not_depend_on_batch_threads_or_company() {
    let fixture = Fixture::new();
    let input = fixture.file(
        "in.jsonl",
        "{\"prompt\":\"hello\"}\n\n{\"messages\":[{\"role\":\"user\",\"content\":\"how are you?\"}]}\n{\"prompt\":\"the dog\",\"answer\":1}\n",
    );
    let run = |more: &[&str]| {
        let base = [
            "sample",
            "--model",
            "model",
            "--input",
            input.to_str().unwrap(),
            "--max-new-tokens",
            "8",
            "--json",
            "--n",
            "2",
        ];
        fixture.hone(&[&base[..], more].concat()).stdout()
    };
    let first = run(&[]);
    assert_eq!(first.lines().count(), 6);
    assert_eq!(first, run(&["--batch", "1", "--threads", "1"]));
    assert_ne!(first, run(&["--seed", "2"]));
    let chat: Value = serde_json::from_str(first.lines().nth(2).unwrap()).unwrap();
    assert_eq!(chat["prompt"][0]["content"], "how are you?");
    assert_eq!(chat["prompt_ids"][0], 1, "the template opens with <|im_start|>");
}

#[test]
fn cli_sample_streams_what_json_says() {
    let fixture = Fixture::new();
    let base = [
        "sample",
        "--model",
        "model",
        "--prompt",
        "the fox",
        "--max-new-tokens",
        "12",
        "--temperature",
        "0",
    ];
    let json = fixture.hone(&[&base[..], &["--json"]].concat()).json();
    assert_eq!(
        fixture.hone(&base).stdout(),
        format!("{}\n", json[0]["completion"].as_str().unwrap())
    );
    // A stop text ends it, and is not part of the text
    let text = json[0]["completion"].as_str().unwrap();
    let stop: String = text.chars().skip(2).take(2).collect();
    let stopped = fixture.hone(&[&base[..], &["--json", "--stop", &stop]].concat()).json();
    assert_eq!(stopped[0]["finish_reason"], "stop");
    assert_eq!(
        stopped[0]["completion"].as_str().unwrap(),
        &text[..text.find(&stop).unwrap()]
    );
}

#[test]
fn cli_logprobs_reads_texts_and_pairs() {
    let fixture = Fixture::new();
    let input = "{\"text\":\"hello there\"}\n{\"prompt\":\"hello \",\"completion\":\"there\"}\n{\"text\":\"\"}\n";
    let rows = fixture
        .hone_with(&["logprobs", "--model", "model", "--input", "-", "--json"], input, &[])
        .json();
    assert_eq!(rows.len(), 3);
    for row in &rows[..2] {
        assert_eq!(
            row["ids"].as_array().unwrap().len(),
            row["logprobs"].as_array().unwrap().len()
        );
        assert!(floats(&row["logprobs"]).iter().all(|&x| x < 0.0));
    }
    assert_eq!(rows[2]["ids"].as_array().unwrap().len(), 0);
    assert_eq!(rows[2]["logprobs"].as_array().unwrap().len(), 0);
    // Nothing to predict anywhere
    let short = fixture.hone_with(
        &["logprobs", "--model", "model", "--input", "-", "--json"],
        "{\"text\":\"h\"}\n{\"text\":\"\"}\n",
        &[],
    );
    assert_eq!(short.json()[0]["logprobs"], serde_json::json!([null]));
}

#[test]
fn cli_score_takes_conversations_and_pairs() {
    let fixture = Fixture::new();
    let input = concat!(
        "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"},{\"role\":\"assistant\",\"content\":\"there\"}]}\n",
        "{\"prompt\":[{\"role\":\"user\",\"content\":\"hello\"}],\"completion\":\"there\"}\n",
        "{\"prompt\":\"hello\",\"completion\":\"there\"}\n",
        "{\"prompt\":\"hello\",\"completion\":\" you\"}\n",
    );
    let rows = fixture
        .hone_with(&["score", "--model", "reward", "--input", "-", "--json"], input, &[])
        .json();
    assert!(rows.iter().all(|row| keys(row) == ["score"] && row["score"].is_f64()));
    // One conversation, written three ways: a string is the user's turn
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0], rows[2]);
    assert_ne!(rows[0], rows[3]);
    fixture
        .hone_with(&["score", "--model", "model", "--input", "-"], input, &[])
        .fails(2, &["not a reward model", "hone reward"]);
}

#[test]
fn cli_chat_answers_each_line() {
    let fixture = Fixture::new();
    let arguments = [
        "chat",
        "--model",
        "model",
        "--max-new-tokens",
        "4",
        "--temperature",
        "0",
    ];
    let ran = fixture.hone_with(&arguments, "hello\n/reset\nhello\n/nonsense\n/exit\nnever\n", &[]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    // Greedy, and forgotten in between: the same answer twice
    let stdout = ran.stdout();
    let half = stdout.len() / 2;
    assert!(
        stdout.is_char_boundary(half) && stdout[..half] == stdout[half..],
        "{stdout:?}"
    );
    assert!(ran.stderr().contains("no such command"));
}

#[test]
fn cli_bits_per_byte_of_files() {
    let fixture = Fixture::new();
    let text = fixture.file("a.txt", "the quick brown fox jumps over the lazy dog. ".repeat(20));
    let rows = fixture.file("b.jsonl", "{\"text\":\"hello there\"}\n{\"text\":\"how are you\"}\n");
    let files = [text.to_str().unwrap(), rows.to_str().unwrap()];
    let base = ["eval", "bits-per-byte", "--model", "model", "--json", "--data"];
    let report = &fixture.hone(&[&base[..], &files].concat()).json()[0];
    assert_eq!(
        keys(report),
        ["bits_per_byte", "nats", "tokens", "bytes", "documents", "files"]
    );
    assert_eq!(
        (report["bytes"].as_u64(), report["documents"].as_u64()),
        (Some(900 + 22), Some(3))
    );
    // A random model is near to uniform: log2 of the vocabulary a token
    let bits = report["nats"].as_f64().unwrap() / 2f64.ln() / report["tokens"].as_f64().unwrap();
    assert!((bits - 280f64.log2()).abs() < 0.5, "{bits}");
    let tail = &fixture
        .hone(&[&base[..], &files[..1], &["--held-out", "0.1"]].concat())
        .json()[0];
    let bytes = tail["bytes"].as_u64().unwrap();
    assert!((50..=90).contains(&bytes), "{bytes}");
}

#[test]
fn cli_bits_per_byte_are_those_of_the_run_that_made_the_model() {
    let stages = Stages::new();
    let rows: String = (0..24)
        .map(|i| format!("{{\"text\":\"the fox runs {i} hours and sleeps {i} hours and then runs\"}}\n"))
        .collect();
    stages.fixture.file("rows.jsonl", rows);
    let set = ["--set", "data.train=[\"rows.jsonl\"]", "--set", "data.held_out=0.2"];
    assert_eq!(stages.run("pretrain", "x", &set).code(), 0);
    let metrics = fs::read_to_string(stages.dir("x").join("metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    let measured = |length: &str| {
        let model = [
            "eval",
            "bits-per-byte",
            "--model",
            "runs/x/model",
            "--precision",
            "f32",
            "--json",
        ];
        let data = ["--data", "rows.jsonl", "--held-out", "0.2", "--length", length];
        stages.fixture.hone(&[&model[..], &data].concat()).json()[0].clone()
    };
    let report = measured("16");
    let number = |value: &Value| value.as_f64().unwrap();
    let (of_run, of_command) = (number(&last["eval/bits_per_byte"]), number(&report["bits_per_byte"]));
    assert!((of_run / of_command - 1.0).abs() < 1e-12, "{of_run} {of_command}");
    let mean = number(&report["nats"]) / number(&report["tokens"]);
    assert!((number(&last["eval/loss"]) / mean - 1.0).abs() < 1e-12);
    // Every document is longer than a window, so longer windows have more context
    assert_ne!(number(&measured("17")["bits_per_byte"]), of_command);
}

#[test]
fn cli_a_closed_pipe_is_no_crash() {
    let fixture = Fixture::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_hone"))
        .args([
            "sample",
            "--model",
            "model",
            "--prompt",
            "the",
            "--n",
            "3000",
            "--max-new-tokens",
            "2",
            "--json",
        ])
        .current_dir(fixture.folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut byte).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}
