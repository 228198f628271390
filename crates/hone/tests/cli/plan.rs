//! `hone plan` against the memory that the stages then hold, and what becomes of a run that does not fit.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hone_text::{TrainOptions, train_bpe};
use serde_json::Value;

use crate::common::Fixture;

/// A folder with data, a tokenizer, and configurations of stages whose models outweigh the program.
fn place() -> Fixture {
    let fixture = Fixture::new();
    let words = ["red", "blue", "boat", "door", "hat", "kite", "cup", "white"];
    let sentence = |i: usize| {
        let word = |k: usize| words[(i * k + i / 8) % 8];
        format!("the {} {} is beside the {} {}", word(3), word(5), word(7), word(1))
    };
    let text: String = (0..3000).map(|i| sentence(i) + ".\n").collect();
    fixture.file("text.txt", &text);
    let rows = |row: &dyn Fn(usize) -> String| (0..80).map(|i| row(i) + "\n").collect::<String>();
    fixture.file(
        "demonstrations.jsonl",
        rows(&|i| {
            let answer = vec![sentence(i); 1 + i % 5].join(", and ");
            format!(r#"{{"question":"where is {}?","answer":"{answer}"}}"#, words[i % 8])
        }),
    );
    fixture.file(
        "rankings.jsonl",
        rows(&|i| {
            let (a, b, c) = (sentence(i), sentence(i + 1), vec![sentence(i); 3].join(" "));
            format!(r#"{{"prompt":"where {i}?","responses":["{a}","{b}","{c}"],"ranking":[[0],[1,2]]}}"#)
        }),
    );
    fixture.file(
        "prompts.jsonl",
        rows(&|i| format!(r#"{{"prompt":"where is {}?"}}"#, sentence(i))),
    );
    let options = TrainOptions {
        vocab_size: 300,
        ..TrainOptions::default()
    };
    let tokenizer = train_bpe([text].into_iter(), &options).unwrap();
    tokenizer.save(fixture.path("tokenizer")).unwrap();
    let new = "[model.new]\nwidth = 448\nlayers = 4\nheads = 7\nintermediate = 1024\ncontext = 512\n";
    let train = "[train]\nsteps = 2\nmicrobatch_tokens = 512\n";
    let eval = "[eval]\nevery = 1\n";
    let shown = "[eval]\nevery = 1\nsamples = 2\n";
    let answered = "[eval]\nevery = 1\nsamples = 2\nmax_new_tokens = 8\n";
    fixture.file(
        "pretrain.toml",
        format!(
            "[model]\ntokenizer = \"tokenizer\"\n{new}[data]\ntrain = [\"text.txt\"]\nmax_length = 128\nheld_out = 0.01\n\
             {train}batch = 4\nshards = 4\n{eval}"
        ),
    );
    let base = "[model]\npath = \"runs/pretrain/model\"\n";
    fixture.file(
        "sft.toml",
        format!("keep = \"best\"\n{base}[data]\ntrain = [\"demonstrations.jsonl\"]\nmax_length = 256\n{train}batch = 8\n{answered}"),
    );
    let tuned = "[model]\npath = \"runs/sft/model\"\n";
    fixture.file(
        "sft-lora.toml",
        format!("{tuned}[data]\ntrain = [\"demonstrations.jsonl\"]\nmax_length = 256\n{train}batch = 8\n{answered}[lora]\nrank = 4\n"),
    );
    // Its vocabulary grows, so the embedding is trained, too
    fixture.file(
        "plain-lora.toml",
        format!("[model]\npath = \"plain\"\n[data]\ntrain = [\"demonstrations.jsonl\"]\nmax_length = 256\n{train}batch = 8\n{answered}[lora]\nrank = 4\n"),
    );
    fixture.file(
        "reward.toml",
        format!("{tuned}[data]\ntrain = [\"rankings.jsonl\"]\nmax_length = 256\n{train}batch = 4\n{shown}"),
    );
    fixture.file(
        "preference.toml",
        format!(
            "keep = \"best\"\n{tuned}[data]\ntrain = [\"rankings.jsonl\"]\nmax_length = 256\n[preference]\nmethod = \"kto\"\n\
             {train}batch = 4\n{answered}"
        ),
    );
    // Evaluated once, at its end: no step is taken beside the best weights
    fixture.file(
        "dpo.toml",
        format!(
            "keep = \"best\"\n{tuned}[data]\ntrain = [\"rankings.jsonl\"]\nmax_length = 256\n{train}batch = 4\n\
             [eval]\nevery = 0\nsamples = 2\nmax_new_tokens = 8\n[preference]\nmethod = \"dpo\"\n"
        ),
    );
    fixture.file(
        "ppo.toml",
        format!(
            "{tuned}[reward]\npath = \"runs/reward/model\"\n[data]\nprompts = [\"prompts.jsonl\"]\nmax_prompt_length = 128\n\
             [ppo]\nupdates = 1\nrollout_batch = 8\nminibatch = 4\nsamples_per_prompt = 2\nppo_epochs = 1\nmax_new_tokens = 16\n\
             [train]\nmicrobatch_tokens = 512\n{shown}"
        ),
    );
    // A group is longer than a micro-batch may be, and its prompt the smaller part; at this temperature few responses end
    fixture.file(
        "grpo.toml",
        format!(
            "{tuned}[reward]\npath = \"runs/reward/model\"\n[data]\nprompts = [\"prompts.jsonl\"]\nmax_prompt_length = 128\n\
             [grpo]\nupdates = 1\nrollout_batch = 16\nminibatch = 16\nsamples_per_prompt = 8\nmax_new_tokens = 96\ntemperature = 4.0\n\
             [train]\nmicrobatch_tokens = 512\n{shown}"
        ),
    );
    // Of several turns, whose actions seldom end by themselves
    fixture.file(
        "maze.toml",
        format!(
            "{tuned}[environment]\nkind = \"maze\"\nsize = 3\nmoves = 6\nmoves_per_turn = 2\nmax_turns = 3\n\
             [grpo]\nupdates = 1\nrollout_batch = 16\nminibatch = 16\nsamples_per_prompt = 8\nmax_new_tokens = 48\ntemperature = 4.0\n\
             [train]\nmicrobatch_tokens = 512\n{shown}"
        ),
    );
    let practice =
        "[reward]\npath = \"runs/reward/model\"\n[data]\nprompts = [\"prompts.jsonl\"]\nmax_prompt_length = 128\n";
    fixture.file(
        "expert-iteration.toml",
        format!(
            "{tuned}{practice}[expert_iteration]\nrounds = 1\nrollout_batch = 32\nsamples_per_prompt = 8\nkeep_best = 8\n\
             minibatch = 16\nmax_new_tokens = 96\ntemperature = 4.0\n[train]\nmicrobatch_tokens = 512\n{shown}"
        ),
    );
    fixture.file(
        "online-preference.toml",
        format!(
            "{tuned}{practice}[online_preference]\nupdates = 1\nrollout_batch = 16\nminibatch = 16\nsamples_per_prompt = 8\n\
             pairs = \"all\"\nmissing_eos = \"keep\"\nmax_new_tokens = 96\ntemperature = 4.0\n[train]\n\
             microbatch_tokens = 512\n{shown}"
        ),
    );
    fixture
}

/// A copy of a model that has neither a chat template nor its tokens.
fn without_template(model: &Path, plain: &Path) {
    fs::create_dir(plain).unwrap();
    for entry in fs::read_dir(model).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if name == "model.safetensors" {
            fs::copy(entry.path(), plain.join(&name)).unwrap();
        } else if name.ends_with(".json") && name != "MANIFEST.json" {
            let text = fs::read_to_string(entry.path()).unwrap();
            let text = text.replace("<|im_start|>", "<|one|>").replace("<|im_end|>", "<|two|>");
            let mut value: Value = serde_json::from_str(&text).unwrap();
            value.as_object_mut().unwrap().remove("chat_template");
            fs::write(plain.join(&name), value.to_string()).unwrap();
        }
    }
}

fn plan(place: &Fixture, config: &str) -> Value {
    let ran = place.hone(&["plan", config, "--quick", "--json"]);
    assert!(
        ran.0.status.success(),
        "{config}: {}",
        String::from_utf8_lossy(&ran.0.stderr)
    );
    serde_json::from_slice(&ran.0.stdout).unwrap()
}

/// Runs a stage and gives the most memory that its process held, in bytes.
fn peak_of(place: &Fixture, stage: &str, config: &str) -> u64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hone"))
        .args([stage, config])
        .current_dir(place.folder.path())
        .env("HONE_THREADS", "2")
        .env_remove("HONE_ISA")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let code = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) * 1024);
        if let Some(code) = child.try_wait().unwrap() {
            break code;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(code.success(), "{stage} {config}: {code}");
    peak
}

#[test]
#[cfg(target_os = "linux")]
fn the_peak_that_is_planned_is_the_peak_that_is_measured() {
    let place = place();
    let stages = [
        ("pretrain", "pretrain.toml"),
        ("sft", "sft.toml"),
        ("sft", "sft-lora.toml"),
        ("sft", "plain-lora.toml"),
        ("reward", "reward.toml"),
        ("preference", "preference.toml"),
        ("preference", "dpo.toml"),
        ("ppo", "ppo.toml"),
        ("grpo", "grpo.toml"),
        ("grpo", "maze.toml"),
        ("expert-iteration", "expert-iteration.toml"),
        ("online-preference", "online-preference.toml"),
    ];
    let mut wrong = Vec::new();
    for (stage, config) in stages {
        if config == "plain-lora.toml" {
            without_template(&place.path("runs/pretrain/model"), &place.path("plain"));
        }
        let plan = plan(&place, config);
        if config == "plain-lora.toml" {
            let trained = plan["models"][0]["trained"].as_u64().unwrap();
            assert!(trained > 448 * 302, "{trained} are trained");
        }
        assert_eq!(plan["stage"], stage, "{config}");
        assert_eq!(plan["assumed"].is_array(), config == "maze.toml", "{config}");
        let planned = plan["peak_bytes"].as_u64().unwrap();
        let parts = plan["memory"].as_array().unwrap().iter();
        let sum: u64 = parts.map(|part| part["bytes"].as_u64().unwrap()).sum();
        assert_eq!(sum, planned, "{config}: the parts make the whole");
        let measured = peak_of(&place, stage, config);
        let ratio = planned as f64 / measured as f64;
        if !(0.9..1.1).contains(&ratio) {
            wrong.push(format!("{config}: planned {planned}, measured {measured}: {ratio:.3}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_run_that_cannot_fit_is_refused_with_the_numbers() {
    let place = place();
    // Some 400 TB
    let huge = [
        "--set",
        "model.new.width=65536",
        "--set",
        "model.new.heads=64",
        "--set",
        "model.new.layers=500",
        "--set",
        "model.new.intermediate=262144",
    ];
    let ran = place.hone(&[&["pretrain", "pretrain.toml", "--name", "huge"][..], &huge].concat());
    assert_eq!(ran.0.status.code(), Some(2));
    let error = String::from_utf8_lossy(&ran.0.stderr);
    for words in [
        "memory: pretrain needs about ",
        " are available",
        "moments of the optimiser, f32 ",
        "train.microbatch_tokens (it is 512)",
        "train.shards (it is 4)",
        "model.recompute = true",
        "train.check_memory = false",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert!(!Path::new(&place.path("runs/huge")).exists(), "nothing is left behind");
    // The plan says the same without an error
    let ran = place.hone(&[&["plan", "pretrain.toml", "--quick"][..], &huge].concat());
    let text = String::from_utf8_lossy(&ran.0.stdout);
    assert!(ran.0.status.success() && text.contains("it does not fit"), "{text}");
}

#[test]
fn a_plan_says_what_will_be_done() {
    let place = place();
    let ran = place.hone(&["plan", "pretrain.toml"]);
    let text = String::from_utf8_lossy(&ran.0.stdout).into_owned();
    for words in [
        "pretrain, ",
        "all trained",
        "steps            2, 1,024 tokens",
        "text.txt",
        "time ",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!place.path("runs").exists(), "a plan leaves nothing behind");
    // Without a model of its own and a source it may be anything
    place.file("any.toml", "[model]\npath = \"model\"\n");
    let ran = place.hone(&["plan", "any.toml"]);
    assert_eq!(ran.0.status.code(), Some(2));
    let error = String::from_utf8_lossy(&ran.0.stderr);
    assert!(error.contains("may be the configuration of pretrain or sft"), "{error}");
    place.file("none.toml", "[nothing]\n");
    let ran = place.hone(&["plan", "none.toml"]);
    let error = String::from_utf8_lossy(&ran.0.stderr);
    assert!(error.contains("no stage takes all of its keys"), "{error}");
    assert_eq!(ran.0.status.code(), Some(2));
    let ran = place.hone(&["plan", "none.toml", "--stage", "sft"]);
    assert!(String::from_utf8_lossy(&ran.0.stderr).contains("nothing"));
}
