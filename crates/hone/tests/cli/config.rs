//! Configurations that hone writes: `hone config`, and the `run.toml` of a run.

use std::fs;

use serde_json::Value;

use crate::stages::{PRACTISING, STAGES, Stages, promised};

/// All stages, those that hand models on first.
fn all() -> impl Iterator<Item = &'static str> {
    STAGES.into_iter().chain(PRACTISING)
}

/// Whether a stage answers prompts and learns from its answers.
fn practises(stage: &str) -> bool {
    stage == "ppo" || PRACTISING.contains(&stage)
}

/// What a run records is every value it used, and is a configuration that gives the same run.
#[test]
fn a_run_records_every_value_and_its_record_gives_the_same_run() {
    let stages = Stages::new();
    for stage in all() {
        let ran = stages.run(stage, "first", &[]);
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        let record = fs::read_to_string(stages.dir("first/run.toml")).unwrap();
        for key in [
            "batch",
            "beta1",
            "beta2",
            "check_memory",
            "checkpoint_every",
            "clip_norm",
            "eps",
            "final_fraction",
            "held_out",
            "keep_checkpoints",
            "learning_rate",
            "microbatch_tokens",
            "precision",
            "recompute",
            "schedule",
            "seed",
            "shards",
            "value_learning_rate",
            "warmup_steps",
            "weight_decay",
        ] {
            let expected = match key {
                "batch" => !practises(stage),
                "value_learning_rate" => stage == "ppo",
                _ => true,
            };
            let found = record.lines().any(|line| line.starts_with(&format!("{key} = ")));
            assert_eq!(found, expected, "{stage}: {key} in\n{record}");
        }
        let ran = stages.fixture.hone(&[stage, "runs/first/run.toml", "--name", "second"]);
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        assert_eq!(
            fs::read_to_string(stages.dir("second/run.toml")).unwrap(),
            record,
            "{stage}"
        );
        assert!(
            promised(&stages.dir("first")) == promised(&stages.dir("second")),
            "{stage}: bytes differ"
        );
        // The record is the same configuration to the run itself
        let ran = stages.fixture.hone(&[stage, "runs/first/run.toml", "--name", "first"]);
        assert!(ran.stdout().contains("was finished before"), "{}", ran.stderr());
        fs::remove_dir_all(stages.dir("first")).unwrap();
        fs::remove_dir_all(stages.dir("second")).unwrap();
    }
}

/// Every stage runs from the file that `hone config init` writes, on files of the names that stand in it.
#[test]
fn what_init_writes_runs_as_it_is() {
    let stages = Stages::new();
    let fixture = &stages.fixture;
    fs::rename(fixture.path("model"), fixture.path("tokenizer")).unwrap();
    let text: String = (0..300)
        .map(|i| format!("the dog sleeps {i} hours and runs.\n\n"))
        .collect();
    fixture.file("text.txt", text);
    // Practice takes long, so there is less of it; everything else is as it was written
    let less = |stage: &str| -> Vec<&str> {
        match stage {
            "ppo" => vec!["ppo.updates=1", "ppo.rollout_batch=4", "ppo.minibatch=4"],
            "expert-iteration" => vec!["expert_iteration.rounds=1", "expert_iteration.rollout_batch=8"],
            "online-preference" => vec![
                "online_preference.updates=1",
                "online_preference.rollout_batch=4",
                "online_preference.minibatch=4",
            ],
            _ => Vec::new(),
        }
    };
    for stage in all() {
        let init = fixture.hone(&["config", "init", stage]);
        assert_eq!(init.code(), 0, "{}", init.stderr());
        fixture.file(&format!("{stage}.toml"), init.stdout());
        let file = format!("{stage}.toml");
        let more: Vec<&str> = less(stage).into_iter().flat_map(|set| ["--set", set]).collect();
        let ran = fixture.hone(&[&[stage, file.as_str()], &more[..]].concat());
        assert_eq!(ran.code(), 0, "{stage}: {}\n{}", ran.stderr(), init.stdout());
        assert!(stages.dir(stage).join("model/model.safetensors").is_file());
    }
}

/// What is commented out is right too: a section or key that is taken in is understood.
#[test]
fn what_init_comments_out_is_understood() {
    let stages = Stages::new();
    for stage in all() {
        let init = stages.fixture.hone(&["config", "init", stage]).stdout();
        let is_setting = |line: &str| {
            let name = line.split(" = ").next().unwrap_or_default();
            let plain = !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || "_0123456789".contains(c));
            line.contains(" = ") && plain || line.starts_with('[') && line.ends_with(']')
        };
        let all: String = init
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if is_setting(rest) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        assert_ne!(all, init, "{stage} has something to take in");
        stages.fixture.file("all.toml", &all);
        // The only fault left is that two keys exclude each other, or that the names are of nothing
        let ran = stages.fixture.hone(&[stage, "all.toml"]);
        let said = ran.stderr();
        let expected = match stage {
            "pretrain" => "model: expected either path, or [model.new] with tokenizer",
            "ppo" | "grpo" | "expert-iteration" => {
                "expected exactly one of judge.reward, [[judge.rewards]] and judge.environment"
            }
            "preference" | "online-preference" => "has no effect: preference.method is dpo",
            _ => "runs/",
        };
        assert!(said.contains(expected), "{stage}: {said}\n{all}");
        assert!(
            !said.contains("unknown key") && !said.contains("is missing; expected"),
            "{said}"
        );
    }
}

/// The schema has the keys that the stage takes, with the stage's own defaults.
#[test]
fn the_schema_agrees_with_the_stage() {
    let stages = Stages::new();
    for (stage, rate, has_batch) in [
        ("pretrain", 1e-3, true),
        ("sft", 1e-4, true),
        ("reward", 5e-5, true),
        ("preference", 1e-5, true),
        ("ppo", 1e-5, false),
        ("expert-iteration", 1e-5, false),
        ("online-preference", 1e-5, false),
    ] {
        let schema: Value = serde_json::from_str(&stages.fixture.hone(&["config", "schema", stage]).stdout()).unwrap();
        let section = |name: &str| {
            let reference = schema["properties"][name]["$ref"].as_str().unwrap();
            schema.pointer(&format!("{}/properties", &reference[1..])).unwrap()
        };
        let train = section("train");
        let answers = ["sft", "preference"].contains(&stage);
        assert_eq!(train["learning_rate"]["default"], rate, "{stage}");
        assert_eq!(train.get("batch").is_some(), has_batch, "{stage}");
        assert_eq!(section("eval").get("max_new_tokens").is_some(), answers);
        assert_eq!(section("eval").get("samples").is_some(), stage != "pretrain");
        assert_eq!(section("model").get("new").is_some(), stage == "pretrain");
        if has_batch {
            let epochs = if stage == "sft" { 3.0 } else { 1.0 };
            assert_eq!(train["epochs"]["default"], epochs, "{stage}");
        }
    }
}

/// Paths of settings are taken from the folder in which the command is run, wherever the file with the settings lies, and
/// in a recipe as in a stage's own file.
#[test]
fn relative_paths_are_taken_from_the_working_directory() {
    let stages = Stages::new();
    let fixture = &stages.fixture;
    let ran = stages.run("pretrain", "pretrain", &["--set", "train.steps=1"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    let sft = "[model]\npath = \"runs/pretrain/model\"\n[data]\ntrain = [\"demonstrations.jsonl\"]\nmax_length = 64\n\
               [train]\nsteps = 1\n";
    fixture.file("short.toml", sft);
    fs::create_dir(fixture.path("settings")).unwrap();
    fixture.file("settings/short.toml", sft);
    for (file, name) in [("short.toml", "beside"), ("settings/short.toml", "below")] {
        let ran = fixture.hone(&["sft", file, "--name", name]);
        assert_eq!(ran.code(), 0, "{file}: {}", ran.stderr());
    }
    // `config` names a file beside the recipe, `{recipe}` the recipe's folder, `{runs}` that of the runs
    fs::copy(fixture.path("demonstrations.jsonl"), fixture.path("settings/own.jsonl")).unwrap();
    fixture.file(
        "settings/recipe.toml",
        "[[stage]]\nname = \"file\"\nkind = \"sft\"\nconfig = \"short.toml\"\n\
         [[stage]]\nname = \"inline\"\nkind = \"sft\"\n[stage.config]\nmodel = { path = \"{runs}/file/model\" }\n\
         data = { train = [\"demonstrations.jsonl\", \"{recipe}/own.jsonl\"], max_length = 64 }\ntrain = { steps = 1 }\n\
         [[stage]]\nname = \"preferred\"\nkind = \"preference\"\n[stage.config]\nmodel = { path = \"{runs}/inline/model\" }\n\
         data = { train = [\"rankings.jsonl\"], max_length = 64 }\npreference = { method = \"simpo\" }\ntrain = { steps = 1 }\n\
         [[stage]]\nname = \"iterated\"\nkind = \"expert-iteration\"\n[stage.config]\nmodel = { path = \"{runs}/inline/model\" }\n\
         reward = { path = \"reward\" }\ndata = { prompts = [\"prompts.jsonl\"], max_prompt_length = 50 }\n\
         expert_iteration = { rounds = 1, rollout_batch = 8, max_new_tokens = 4 }\n\
         [[stage]]\nname = \"paired\"\nkind = \"online-preference\"\n[stage.config]\nmodel = { path = \"{runs}/iterated/model\" }\n\
         reward = { path = \"reward\" }\ndata = { prompts = [\"prompts.jsonl\"], max_prompt_length = 50 }\n\
         online_preference = { updates = 1, rollout_batch = 8, minibatch = 8, max_new_tokens = 4 }\n",
    );
    let ran = fixture.hone(&["run", "settings/recipe.toml"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    assert!(
        promised(&stages.dir("file")) == promised(&stages.dir("beside"))
            && promised(&stages.dir("beside")) == promised(&stages.dir("below")),
        "one configuration, one result"
    );
    assert!(stages.dir("inline/model/model.safetensors").is_file());
    for name in ["preferred", "iterated", "paired"] {
        assert!(stages.dir(name).join("model/model.safetensors").is_file(), "{name}");
    }
}
