//! `export`, adapters, `tokenizer`, `data`, `world`, `bench`, `doctor`.

use std::fs;

use serde_json::Value;

use crate::common::{Fixture, architecture, keys};

#[test]
fn cli_export_proves_itself() {
    let fixture = Fixture::new();
    let exact = &fixture
        .hone(&["export", "--model", "model", "--out", "out", "--json"])
        .json()[0];
    assert_eq!(
        keys(exact),
        [
            "out",
            "dtype",
            "merged",
            "tokens",
            "largest_difference",
            "mean_difference"
        ]
    );
    assert_eq!(exact["largest_difference"], 0.0);
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "MANIFEST.json",
    ] {
        assert!(fixture.path("out").join(file).is_file(), "{file}");
    }
    let half = &fixture
        .hone(&[
            "export", "--model", "model", "--out", "half", "--dtype", "bf16", "--json",
        ])
        .json()[0];
    let difference = half["largest_difference"].as_f64().unwrap();
    assert!(difference > 0.0 && difference < 0.1, "{difference}");
    let config: Value = serde_json::from_str(&fs::read_to_string(fixture.path("half/config.json")).unwrap()).unwrap();
    assert_eq!(config["dtype"], "bfloat16");
    let strict = fixture.hone(&[
        "export",
        "--model",
        "model",
        "--out",
        "half",
        "--dtype",
        "bf16",
        "--tolerance",
        "1e-9",
    ]);
    strict.fails(3, &["differs from the original"]);
}

#[test]
fn cli_adapters_are_found_merged_and_written_again() {
    let fixture = Fixture::new();
    let logprobs = |arguments: &[&str]| {
        let base = ["logprobs", "--input", "-", "--json", "--precision", "f32"];
        let rows = fixture
            .hone_with(
                &[&base[..], arguments].concat(),
                "{\"text\":\"hello there, fox\"}\n",
                &[],
            )
            .json();
        rows[0]["logprobs"].as_array().unwrap()[1..]
            .iter()
            .map(|x| x.as_f64().unwrap())
            .collect::<Vec<f64>>()
    };
    let base = logprobs(&["--model", "model"]);
    let adapted = logprobs(&["--model", "adapter"]);
    assert_ne!(base, adapted);
    assert_eq!(adapted, logprobs(&["--model", "model", "--adapter", "adapter"]));
    let merged = &fixture
        .hone(&["export", "--model", "adapter", "--out", "merged", "--json"])
        .json()[0];
    assert_eq!(merged["merged"], true);
    assert!(merged["largest_difference"].as_f64().unwrap() < 1e-5);
    for (a, b) in adapted.iter().zip(logprobs(&["--model", "merged"])) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    let written = &fixture
        .hone(&["export", "--model", "adapter", "--unmerged", "--out", "again", "--json"])
        .json()[0];
    assert_eq!(
        (&written["merged"], &written["largest_difference"]),
        (&false.into(), &0.0.into())
    );
    assert_eq!(adapted, logprobs(&["--model", "again"]));
    fixture
        .hone(&["export", "--model", "model", "--unmerged", "--out", "none"])
        .fails(2, &["has none"]);
}

#[test]
fn cli_output_folders_are_not_overwritten_by_mistake() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("mine")).unwrap();
    fixture.file("mine/thesis.txt", "do not touch");
    fixture
        .hone(&["export", "--model", "model", "--out", "mine"])
        .fails(2, &["not empty"]);
    fixture
        .hone(&["export", "--model", "model", "--out", "model"])
        .fails(2, &["not empty"]);
    assert_eq!(
        fs::read_to_string(fixture.path("mine/thesis.txt")).unwrap(),
        "do not touch"
    );
}

#[test]
fn cli_export_does_not_replace_what_it_reads() {
    let fixture = Fixture::new();
    let export = |arguments: &[&str]| fixture.hone(&[&["export", "--model"][..], arguments].concat());
    // Both bear hone's manifest, so that they count as written by hone
    export(&["adapter", "--unmerged", "--out", "tuned", "--json"]).json();
    export(&["model", "--out", "base", "--json"]).json();
    let before = fs::read(fixture.path("tuned/adapter_model.safetensors")).unwrap();
    for out in ["tuned", "./base/../tuned"] {
        export(&["tuned", "--out", out]).fails(2, &["the adapter itself"]);
        export(&["model", "--adapter", "tuned", "--out", out]).fails(2, &["the adapter itself"]);
    }
    export(&["base", "--adapter", "tuned", "--out", "base"]).fails(2, &["the model itself"]);
    assert_eq!(
        fs::read(fixture.path("tuned/adapter_model.safetensors")).unwrap(),
        before
    );
    // A run's result belongs to the run
    fs::create_dir(fixture.path("run")).unwrap();
    fixture.file("run/run.toml", "");
    fs::rename(fixture.path("base"), fixture.path("run/model")).unwrap();
    export(&["model", "--out", "run/model"]).fails(2, &["the result of a run"]);
}

#[test]
fn cli_tokenizers_are_trained_and_reproducible() {
    let fixture = Fixture::new();
    fixture.file("a.txt", "one two three two one ".repeat(30));
    fixture.file("b.jsonl", "{\"text\":\"four five four\"}\n");
    let train = |out: &str| {
        fixture
            .hone(&[
                "tokenizer",
                "train",
                "a.txt",
                "b.jsonl",
                "--vocab-size",
                "270",
                "--out",
                out,
                "--json",
            ])
            .json()
    };
    let (first, second) = (train("one"), train("two"));
    assert_eq!(keys(&first[0]), ["out", "vocab_size", "digest"]);
    assert_eq!(first[0]["vocab_size"], 270);
    assert_eq!(first[0]["digest"], second[0]["digest"]);
    let read = |dir: &str| fs::read(fixture.path(dir).join("tokenizer.json")).unwrap();
    assert_eq!(read("one"), read("two"));
    let encoded = &fixture
        .hone(&["tokenizer", "encode", "--model", "one", "<|im_end|>", "--json"])
        .json()[0];
    assert_eq!(encoded["ids"], serde_json::json!([2]));
    fixture
        .hone(&["tokenizer", "train", "a.txt", "absent.txt", "--out", "three"])
        .fails(1, &["absent.txt"]);
    fixture
        .hone(&["tokenizer", "train", "a.txt", "--vocab-size", "9", "--out", "three"])
        .fails(1, &["vocab_size is 9"]);
    assert!(!fixture.path("three").exists());
}

#[test]
fn cli_tokenizers_do_not_see_what_is_held_out() {
    let fixture = Fixture::new();
    fixture.file("a.txt", "ab ".repeat(190) + &"xyzzy ".repeat(5));
    let learned = |more: &[&str], out: &str| {
        let train = ["tokenizer", "train", "a.txt", "--vocab-size", "263", "--out", out];
        assert_eq!(fixture.hone(&[&train[..], more].concat()).code(), 0);
        let text = fs::read_to_string(fixture.path(out).join("tokenizer.json")).unwrap();
        text.contains("zy")
    };
    assert!(learned(&[], "all"));
    assert!(!learned(&["--held-out", "0.1"], "part"));
    let train = ["tokenizer", "train", "a.txt", "--out", "none", "--held-out"];
    fixture
        .hone(&[&train[..], &["1.5"]].concat())
        .fails(2, &["expected a number above 0 and below 1"]);
}

#[test]
fn cli_data_is_inspected_and_previewed() {
    let fixture = Fixture::new();
    let rows = concat!(
        "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"},{\"role\":\"assistant\",\"content\":\"there\"}]}\n",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"},",
        "{\"role\":\"user\",\"content\":\"c\"},{\"role\":\"assistant\",\"content\":\"d\"}]}\n",
    );
    fixture.file("chat.jsonl", rows);
    let found = &fixture.hone(&["data", "inspect", "chat.jsonl", "--json"]).json()[0];
    assert_eq!(
        (&found["format"], &found["rows"], &found["bad"]),
        (&"messages".into(), &2.into(), &0.into())
    );
    let plain = fixture.hone(&["data", "preview", "chat.jsonl"]).stdout();
    assert!(plain.contains("user: hello\nassistant: [there]\n"), "{plain}");
    let tokens = fixture
        .hone(&["data", "preview", "chat.jsonl", "--model", "model"])
        .stdout();
    assert!(tokens.contains("<|im_start|>assistant\n[there<|im_end|>]"), "{tokens}");
    assert!(
        tokens.contains("[b<|im_end|>]") && tokens.contains("[d<|im_end|>]"),
        "{tokens}"
    );
    let last = fixture
        .hone(&["data", "preview", "chat.jsonl", "--model", "model", "--turns", "last"])
        .stdout();
    assert!(
        !last.contains("[b<|im_end|>]") && last.contains("[d<|im_end|>]"),
        "{last}"
    );
    let json = fixture
        .hone(&["data", "preview", "chat.jsonl", "--limit", "1", "--json"])
        .json();
    assert_eq!(json.len(), 1);
    assert_eq!(
        json[0]["pieces"][3],
        serde_json::json!({ "text": "there", "trained": true })
    );
    fixture.file("odd.jsonl", "{\"a\":1}\n");
    fixture
        .hone(&["data", "preview", "odd.jsonl"])
        .fails(1, &["no known format"]);
}

#[test]
fn cli_a_dump_of_posts_becomes_demonstrations_and_preferences() {
    let fixture = Fixture::new();
    let sizes = [
        "--bytes",
        "0",
        "--demonstrations",
        "0",
        "--prompts",
        "0",
        "--held-out",
        "0",
    ];
    let world = ["world", "--out", "site", "--rankings", "0", "--posts", "100k"];
    fixture.hone(&[&world[..], &sizes].concat()).stdout();
    let dump = "site/Posts.xml";
    let found = &fixture.hone(&["data", "inspect", dump, "--json"]).json()[0];
    assert_eq!((&found["format"], &found["bad"]), (&"stack-exchange".into(), &0.into()));
    let write = |wanted: &str, out: &str| {
        fixture
            .hone(&["data", "convert", dump, "--as", wanted, "--out", out])
            .stdout();
        let inspected = fixture.hone(&["data", "inspect", out, "--json"]).json().remove(0);
        assert_eq!((&inspected["kind"], &inspected["bad"]), (&wanted.into(), &0.into()));
        fs::read_to_string(fixture.path(out)).unwrap()
    };
    let demonstrations = write("conversations", "demonstrations.jsonl");
    let rankings = write("preferences", "rankings.jsonl");
    let rows = |text: &str| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let (demonstrations, rankings) = (rows(&demonstrations), rows(&rankings));
    assert!(demonstrations.len() > 20 && rankings.len() > 10);
    // Where votes alone decide, what is imitated is among the best
    let mut compared = 0;
    for demonstration in demonstrations.iter().filter(|d| d["accepted"] == false) {
        let same = |r: &&Value| r["prompt"][0]["content"] == demonstration["messages"][0]["content"];
        if let Some(ranking) = rankings.iter().find(same) {
            let best = ranking["ranking"][0].as_array().unwrap();
            let response = |i: &Value| &ranking["responses"][i.as_u64().unwrap() as usize];
            assert!(
                best.iter()
                    .any(|i| response(i) == &demonstration["messages"][1]["content"])
            );
            compared += 1;
        }
    }
    assert!(compared > 3, "{compared}");
    // Without --as: what the format is for; without --out: to standard output
    let plain = fixture.hone(&["data", "convert", dump, "--rows", "5"]).stdout();
    assert_eq!(rows(&plain), demonstrations[..5]);
    fixture
        .hone(&["data", "convert", dump, "--as", "text"])
        .fails(1, &["stack-exchange", "text documents"]);
    fixture
        .hone(&["data", "convert", dump, "--out", "nowhere/rows.jsonl"])
        .fails(1, &["nowhere/rows.jsonl"]);
}

#[test]
fn cli_world_is_a_function_of_its_seed() {
    let fixture = Fixture::new();
    let write = |out: &str, seed: &str| {
        let sizes = [
            "--bytes",
            "20k",
            "--demonstrations",
            "12",
            "--prompts",
            "9",
            "--held-out",
            "7",
            "--rankings",
            "5",
        ];
        let arguments = [&["world", "--out", out, "--seed", seed, "--json"][..], &sizes].concat();
        fixture.hone(&arguments).json().remove(0)
    };
    let report = write("one", "3");
    assert_eq!(report["files"].as_array().unwrap().len(), 9);
    write("two", "3");
    write("three", "4");
    let read = |path: &str| fs::read_to_string(fixture.path(path)).unwrap();
    for (file, rows) in [
        ("demonstrations.jsonl", 12),
        ("prompts.jsonl", 9),
        ("prompts-held-out.jsonl", 7),
        ("rankings.jsonl", 5),
    ] {
        let one = read(&format!("one/{file}"));
        assert_eq!(one.lines().count(), rows, "{file}");
        assert_eq!(one, read(&format!("two/{file}")));
        assert_ne!(one, read(&format!("three/{file}")));
    }
    assert_eq!(read("one/corpus/facts.jsonl"), read("two/corpus/facts.jsonl"));
    let found = &fixture
        .hone(&["data", "inspect", "one/rankings.jsonl", "--json"])
        .json()[0];
    assert_eq!((&found["kind"], &found["bad"]), (&"preferences".into(), &0.into()));
}

#[test]
fn cli_bench_and_doctor_report_figures() {
    let fixture = Fixture::new();
    let shape = [
        "work",
        "tokens_per_second",
        "runs",
        "unit",
        "warm_up",
        "peak_bytes",
        "fraction_of_limit",
    ];
    let ragged = [
        "bench",
        "train",
        "--model",
        "model",
        "--batch",
        "5",
        "--length",
        "32",
        "--steps",
        "3",
        "--ragged",
        "--microbatch-tokens",
        "40",
        "--json",
    ];
    let ragged = &fixture.hone(&ragged).json()[0];
    assert_eq!(ragged["tokens"], 160);
    assert!(ragged["work"].as_str().unwrap().contains("160 tokens in "));
    let operations = |batch: &str, kind: &[&str]| {
        let sizes = [
            "--batch",
            batch,
            "--length",
            "16",
            "--microbatch-tokens",
            "16",
            "--steps",
            "3",
            "--json",
        ];
        let train = ["bench", "train", "--model", "model"];
        let report = &fixture.hone(&[&train[..], &sizes, kind].concat()).json()[0];
        report["operations"].as_f64().unwrap()
    };
    // A weight is multiplied three times a token, on the way forward and for both gradients
    let sizes = architecture().architecture(280).unwrap();
    let weights = (sizes.layers * sizes.block_weights()) as f64;
    let two = operations("2", &[]);
    assert!(two > 6.0 * weights * 32.0);
    assert_eq!(operations("4", &[]), 2.0 * two);
    // An adapter spares the gradients of the weights beside it
    assert!(operations("2", &["--lora", "1"]) < two);
    let works: [&[&str]; 4] = [
        &[
            "train", "--model", "model", "--batch", "2", "--length", "16", "--steps", "4",
        ],
        &[
            "generate", "--model", "model", "--batch", "2", "--length", "8", "--new", "4", "--steps", "2",
        ],
        &["prefill", "--model", "model", "--length", "20", "--steps", "2"],
        &[
            "rl",
            "--model",
            "model",
            "--batch",
            "2",
            "--minibatch",
            "1",
            "--length",
            "12",
            "--new",
            "4",
            "--steps",
            "3",
        ],
    ];
    // What a run of the work holds besides
    let both: &[&str] = &["tokens", "operations"];
    let counted = [both, both, both, &[]];
    for (work, counted) in works.into_iter().zip(counted) {
        let report = &fixture.hone(&[&["bench"], work, &["--json"]].concat()).json()[0];
        assert_eq!(keys(report), [&shape[..], counted].concat());
        assert_eq!(report["runs"].as_array().unwrap().len(), 2);
        assert!(report["tokens_per_second"].as_f64().unwrap() > 0.0);
        assert!(report["fraction_of_limit"].as_f64().unwrap() > 0.0);
    }
    let long = ["bench", "train", "--model", "model", "--length", "65"];
    fixture
        .hone(&long)
        .fails(2, &["65 tokens a sequence; the model's context is 64"]);
    fixture
        .hone(&["bench", "rl", "--model", "adapter"])
        .fails(2, &["an adapter; expected a whole model", "hone export"]);
    let long = ["bench", "rl", "--model", "model", "--length", "60", "--new", "20"];
    fixture
        .hone(&long)
        .fails(2, &["tokens a sequence; the model's context is 64"]);
    let gemm = &fixture
        .hone(&["bench", "gemm", "--size", "64", "--steps", "1", "--json"])
        .json()[0];
    assert_eq!((keys(gemm), &gemm["unit"]), (shape.to_vec(), &"GFLOP/s".into()));
    let memory = &fixture
        .hone(&["bench", "memory", "--bytes", "1M", "--steps", "1", "--json"])
        .json()[0];
    assert!(memory["runs"][0].as_f64().unwrap() > 0.0);
    let isa = [("HONE_ISA", "portable")];
    let doctor = &fixture.hone_with(&["doctor", "--quick", "--json"], "", &isa).json()[0];
    assert_eq!((&doctor["chosen"], &doctor["threads"]), (&"portable".into(), &2.into()));
    assert_eq!(doctor["instruction_sets"].as_array().unwrap().len(), 5);
}
