//! Bad input to the stages: one clear message, the right exit code, nothing lost.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Ran, copy};
use crate::stages::{STAGES, Stages};

/// Runs a stage whose source is this content, in a fresh run.
fn with_data(stages: &Stages, stage: &str, content: impl AsRef<[u8]>) -> Ran {
    let _ = fs::remove_dir_all(stages.dir("x"));
    stages.fixture.file("bad", content);
    let key = if stage == "ppo" { "data.prompts" } else { "data.train" };
    stages.run(stage, "x", &["--set", &format!("{key}=[\"bad\"]")])
}

/// Runs a stage with some keys set, in a fresh run.
fn with(stages: &Stages, stage: &str, set: &[&str]) -> Ran {
    let _ = fs::remove_dir_all(stages.dir("x"));
    let arguments: Vec<&str> = set.iter().flat_map(|set| ["--set", *set]).collect();
    stages.run(stage, "x", &arguments)
}

/// A gzip file of one stored block, without the checksum at its end.
fn gzip_cut_short(text: &str) -> Vec<u8> {
    let length = text.len() as u16;
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1];
    bytes.extend(length.to_le_bytes());
    bytes.extend((!length).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

#[test]
fn stages_say_what_is_wrong_with_their_data() {
    let stages = Stages::new();
    with(&stages, "sft", &["data.train=[\"absent.jsonl\"]"]).fails(1, &["absent.jsonl: cannot be opened"]);
    with(&stages, "sft", &["data.train=[\"model\"]"]).fails(1, &["model: is a directory"]);
    with(&stages, "sft", &["data.train=[]"]).fails(2, &["data.train: is empty; expected at least one source"]);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    for stage in STAGES {
        with_data(&stages, stage, "").fails(1, &["bad: the file is empty"]);
        with_data(&stages, stage, pointer).fails(1, &["bad: is a Git LFS pointer", "git lfs pull"]);
        with_data(&stages, stage, b"PK\x03\x04 zip").fails(1, &["bad: is a zip archive"]);
        with_data(&stages, stage, gzip_cut_short("{\"text\": \"some text\"}\n")).fails(1, &["bad: ", "cut short"]);
        with_data(&stages, stage, b"{\"te\xff\xffxt\": 1}\n").fails(1, &["bad: ", "line 1: not UTF-8 at byte 4"]);
        with_data(&stages, stage, "{\"qq\": 1}\n").fails(1, &["bad: its columns fit no known format", "Found: qq"]);
    }
    with_data(&stages, "pretrain", b"some \xff text\n").fails(1, &["bad: line 1: not UTF-8", "iconv"]);
    with_data(&stages, "sft", "{\"prompt\":\"a\"}\n")
        .fails(1, &["bad: holds prompts", "conversations are wanted here"]);
}

#[test]
fn stages_say_what_is_wrong_with_rows() {
    let stages = Stages::new();
    let good = |stage: &str| match stage {
        "sft" => "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]}\n",
        _ => "{\"prompt\":\"a\",\"responses\":[\"b\",\"c\"],\"ranking\":[[0],[1]]}\n",
    };
    let cases = [
        (
            "sft",
            "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
            "a conversation without a reply",
        ),
        (
            "sft",
            "{\"messages\":[{\"role\":\"critic\",\"content\":\"a\"}]}",
            "critic",
        ),
        ("sft", "{\"messages\":", "line 2: "),
        ("sft", "[1, 2]", "expected a JSON object"),
        (
            "reward",
            "{\"prompt\":\"a\",\"responses\":[\"b\"],\"ranking\":[[0]]}",
            "a ranking of one",
        ),
        (
            "reward",
            "{\"prompt\":\"a\",\"responses\":[\"b\",\"b\"],\"ranking\":[[0],[1]]}",
            "the two sides are equal",
        ),
        (
            "reward",
            "{\"prompt\":\"a\",\"responses\":[\"b\",\"c\"],\"ranking\":[[0,1]]}",
            "tied",
        ),
    ];
    for (stage, row, reason) in cases {
        // One of two is above the share that is allowed
        let ran = with_data(&stages, stage, format!("{}{row}\n", good(stage)));
        ran.fails(
            1,
            &[
                "bad: 1 of 2 rows are bad, more than the allowed share",
                "line 2",
                reason,
            ],
        );
        // One of forty is not: it is counted and named
        let many = good(stage).repeat(200);
        let ran = with_data(&stages, stage, format!("{many}{row}\n"));
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        assert!(
            ran.stderr()
                .contains("bad: 1 of 201 rows could not be used; line 201: "),
            "{}",
            ran.stderr()
        );
    }
    let pair = "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"b\"}\n";
    with_data(&stages, "reward", pair).fails(1, &["bad: ", "line 1", "equal"]);
    // What is too long is counted and left out; what leaves nothing stops
    let long = "a b ".repeat(100);
    let row = format!("{{\"question\":\"{long}\",\"answer\":\"c\"}}\n");
    let ran = with_data(
        &stages,
        "sft",
        fs::read_to_string(stages.fixture.path("demonstrations.jsonl")).unwrap() + &row,
    );
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    assert!(
        ran.stderr().contains("1 conversations longer than 64 tokens dropped"),
        "{}",
        ran.stderr()
    );
    with_data(&stages, "sft", &row).fails(1, &["nothing is left to train on"]);
    let prompts = format!("{{\"prompt\":\"{long}\"}}\n").repeat(3);
    with_data(&stages, "ppo", prompts).fails(
        1,
        &["prompts longer than 50 tokens dropped", "nothing is left to train on"],
    );
}

#[test]
fn stages_say_what_is_wrong_with_their_configuration() {
    let stages = Stages::new();
    stages
        .run("sft", "x", &["--set", "train.learning_rat=1"])
        .fails(2, &["unknown key `train.learning_rat`", "train.learning_rate"]);
    stages
        .fixture
        .file("typo.toml", "[model]\npath = \"model\"\n[trian]\nseed = 1\n");
    stages
        .fixture
        .hone(&["sft", "typo.toml"])
        .fails(2, &["typo.toml:3: unknown key `trian`", "`train`"]);
    stages.fixture.file("text.toml", "[model\n");
    stages
        .fixture
        .hone(&["sft", "text.toml"])
        .fails(2, &["text.toml:1", "not valid TOML"]);
    stages
        .fixture
        .hone(&["sft", "absent.toml"])
        .fails(2, &["absent.toml: cannot read the configuration"]);
    let cases: &[(&str, &str, &str)] = &[
        (
            "sft",
            "train.learning_rate=-1",
            "train.learning_rate: is -1; expected a number above 0",
        ),
        ("sft", "train.learning_rate=nan", "train.learning_rate: is NaN"),
        (
            "sft",
            "train.learning_rate=\"fast\"",
            "train.learning_rate: is \"fast\"; expected a number, as in learning_rate = 0.0001",
        ),
        ("sft", "train.batch=0", "train.batch: is 0; expected at least 1"),
        ("sft", "train.shards=0", "train.shards: is 0; expected at least 1"),
        ("sft", "train.shards=6", "train.shards: is 6; expected a power of two"),
        (
            "sft",
            "train.steps=-1",
            "train.steps: is -1; expected a whole number of at least 0",
        ),
        ("sft", "train=5", "train: is 5; expected a table, as in [train]"),
        ("sft", "train.epochs=1", "train.steps: stands beside train.epochs"),
        (
            "sft",
            "train.precision=f16",
            "train.precision: is \"f16\"; expected one of \"bf16\", \"f32\"",
        ),
        (
            "sft",
            "train.final_fraction=-1",
            "train.final_fraction: is -1; expected 0 to 1",
        ),
        (
            "sft",
            "train.keep_checkpoints=1",
            "train.keep_checkpoints: is 1; expected at least 2",
        ),
        ("sft", "data.held_out=1.5", "`held_out` is 1.5, expected a share"),
        ("sft", "data.train=[{path=\"text.txt\",weight=-1.0}]", "`weight` is -1"),
        (
            "sft",
            "data.max_length=500",
            "data.max_length: is 500; the model's context is 64",
        ),
        ("sft", "lora.rank=0", "lora.rank is 0; expected 1 to 32"),
        ("sft", "lora.rank=33", "lora.rank is 33; expected 1 to 32"),
        ("sft", "lora.alpha=-1", "lora.alpha is -1; expected a number above 0"),
        (
            "sft",
            "lora.targets=[\"zz\"]",
            "lora.targets: `zz` is not a matrix of this model",
        ),
        ("sft", "model.path=absent", "absent: no config.json"),
        ("sft", "model.path=reward", "model.path: reward is a reward model"),
        (
            "pretrain",
            "model.new.heads=5",
            "model.new.width: is missing; expected a whole number",
        ),
        (
            "pretrain",
            "model.tokenizer=model",
            "model: expected either path, or [model.new] with tokenizer",
        ),
        (
            "ppo",
            "ppo.minibatch=3",
            "ppo.minibatch: is 3, which does not divide ppo.rollout_batch = 4",
        ),
        (
            "ppo",
            "ppo.samples_per_prompt=4",
            "ppo.samples_per_prompt: is 4, which does not divide ppo.minibatch = 2",
        ),
        ("ppo", "ppo.gamma=2", "ppo.gamma: is 2; expected 0 to 1"),
        (
            "ppo",
            "ppo.kl_coef=-1",
            "ppo.kl_coef: is -1; expected 0 or a number above",
        ),
        (
            "ppo",
            "ppo.kl_target=0",
            "ppo.kl_target: is 0; expected a number above 0",
        ),
        (
            "ppo",
            "ppo.kl_horizon=0",
            "ppo.kl_horizon: is 0; expected a number above a fifth",
        ),
        ("ppo", "ppo.value_learning_rate=-1", "ppo.value_learning_rate: is -1"),
        ("ppo", "ppo.missing_eos_score=nan", "ppo.missing_eos_score: is NaN"),
        (
            "ppo",
            "ppo.max_new_tokens=20",
            "makes 70 tokens; the model's context is 64",
        ),
        ("ppo", "ptx.ptx_coef=-1", "ptx.ptx_coef: is -1"),
        (
            "ppo",
            "train.epochs=2",
            "`train.epochs` is no key here: PPO passes over each rollout",
        ),
        ("ppo", "train.batch=2", "PPO's batches are ppo.rollout_batch"),
        (
            "ppo",
            "eval.max_new_tokens=2",
            "ppo.max_new_tokens holds for every answer",
        ),
        (
            "ppo",
            "ppo.kl_target= ppo.kl_horizon=30",
            "ppo.kl_horizon: is 30, and without ppo.kl_target",
        ),
        ("sft", "model.new.width=8", "this stage starts from a model that exists"),
        (
            "reward",
            "model.tokenizer=model",
            "this stage starts from a model that exists",
        ),
        ("ppo", "model.new.width=8", "this stage starts from a model that exists"),
        ("pretrain", "eval.samples=2", "pre-training answers no prompts"),
        ("pretrain", "eval.max_new_tokens=2", "pre-training answers no prompts"),
        ("pretrain", "lora.rank=2", "pre-training trains all weights"),
        ("pretrain", "keep=best", "`keep` is no key here"),
        ("reward", "eval.max_new_tokens=2", "a reward model writes no answers"),
        ("reward", "keep=best", "`keep` is no key here"),
        (
            "reward",
            "reward.centre_on=[{path=\"demonstrations.jsonl\",weight=2}]",
            "reward.centre_on: has a source of weight 2",
        ),
        (
            "preference",
            "preference.gamma=1",
            "preference.gamma: has no effect: preference.method is dpo, and the key belongs to simpo",
        ),
        (
            "preference",
            "preference.method=orpo preference.beta=0.1",
            "preference.beta: has no effect: preference.method is orpo",
        ),
        (
            "preference",
            "preference.beta=0",
            "preference.beta: is 0; expected a number above 0",
        ),
        ("preference", "preference.method=ppo", "preference.method"),
        (
            "preference",
            "preference.loss_type=ipo",
            "the method is named by preference.method",
        ),
        (
            "preference",
            "reward.ties=half",
            "preference tuning has no reward model",
        ),
        (
            "preference",
            "model.path=reward",
            "model.path: reward is a reward model",
        ),
        (
            "preference",
            "data.held_out=0",
            "keep: is \"best\", and data.held_out is 0",
        ),
        (
            "preference",
            "model.new.width=8",
            "this stage starts from a model that exists",
        ),
        ("sft", "data.held_out=0", "keep: is \"best\", and data.held_out is 0"),
        (
            "sft",
            "train.schedule=constant train.final_fraction=0.2",
            "train.final_fraction: is 0.2, and train.schedule is constant",
        ),
        ("ppo", "reward.path=model", "model: is no reward model"),
        (
            "expert-iteration",
            "expert_iteration.keep_best= expert_iteration.keep=above",
            "expert_iteration.threshold: is missing",
        ),
        (
            "expert-iteration",
            "expert_iteration.keep_best=5",
            "expert_iteration.keep_best: is 5; expected at most expert_iteration.samples_per_prompt = 4",
        ),
        (
            "expert-iteration",
            "expert_iteration.updates=3",
            "an update is a round here: see expert_iteration.rounds",
        ),
        (
            "expert-iteration",
            "train.steps=3",
            "the run's length is expert_iteration.rounds",
        ),
        (
            "online-preference",
            "preference.method=kto",
            "preference.method: is kto, which learns from single responses with labels",
        ),
        (
            "online-preference",
            "online_preference.samples_per_prompt=1",
            "online_preference.samples_per_prompt: is 1; a pair takes at least 2",
        ),
        (
            "online-preference",
            "online_preference.beta=1",
            "the method and its settings stand in [preference]",
        ),
        (
            "online-preference",
            "online_preference.minibatch=3",
            "online_preference.minibatch: is 3, which does not divide online_preference.rollout_batch = 8",
        ),
    ];
    for (stage, set, said) in cases {
        // No value of these has a blank in it
        let set: Vec<&str> = set.split(' ').collect();
        with(&stages, stage, &set).fails(2, &[said]);
    }
    let isa = stages
        .fixture
        .hone_with(&["sft", "sft.toml"], "", &[("HONE_ISA", "sse9")]);
    isa.fails(2, &["HONE_ISA is `sse9`", "portable"]);
    // What is in the file is told with its line
    stages.fixture.file(
        "line.toml",
        "[model]\npath = \"model\"\n[data]\ntrain = [\"demonstrations.jsonl\"]\n[train]\nbatch = 0\n",
    );
    stages
        .fixture
        .hone(&["sft", "line.toml", "--set", "data.max_length=64"])
        .fails(2, &["line.toml:6: train.batch: is 0; expected at least 1"]);
    // A corrected configuration starts where nothing was saved
    with(&stages, "sft", &["lora.rank=0"]).fails(2, &["lora.rank"]);
    assert_eq!(stages.run("sft", "x", &[]).code(), 0);
}

/// A copy of the fixture's model with a change in it.
fn changed(stages: &Stages, name: &str, change: impl Fn(&Path)) {
    copy(&stages.fixture.path("model"), &stages.fixture.path(name));
    change(&stages.fixture.path(name));
}

fn with_template(stages: &Stages, name: &str, template: &str) -> Ran {
    changed(stages, name, |dir| {
        let path = dir.join("tokenizer_config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        config["chat_template"] = json!(template);
        fs::write(path, config.to_string()).unwrap();
    });
    with(stages, "sft", &[&format!("model.path={name}")])
}

#[test]
fn stages_say_what_is_wrong_with_models() {
    let stages = Stages::new();
    let sft = |name: &str, change: &dyn Fn(&Path)| {
        changed(&stages, name, change);
        with(&stages, "sft", &[&format!("model.path={name}")])
    };
    let weights = fs::read(stages.fixture.path("model/model.safetensors")).unwrap();
    // The header is the length of a JSON object, and the object
    let header = |from: &str, to: &str| {
        let length = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
        let text = String::from_utf8(weights[8..8 + length].to_vec()).unwrap();
        assert!(text.contains(from) && from.len() == to.len(), "{text}");
        [
            &weights[..8],
            text.replacen(from, to, 1).as_bytes(),
            &weights[8 + length..],
        ]
        .concat()
    };
    let put = |dir: &Path, bytes: &[u8]| fs::write(dir.join("model.safetensors"), bytes).unwrap();
    sft("wrong-type", &|dir| put(dir, &header("\"F32\"", "\"I32\"")))
        .fails(1, &["is of type I32; expected F32, F16 or BF16"]);
    sft("renamed", &|dir| {
        put(dir, &header("model.norm.weight", "model.form.weight"))
    })
    .fails(1, &["missing, such as", "norm.weight"]);
    sft("cut", &|dir| put(dir, &weights[..weights.len() - 9])).fails(1, &["model.safetensors", "claims bytes"]);
    sft("pickle", &|dir| {
        fs::rename(dir.join("model.safetensors"), dir.join("pytorch_model.bin")).unwrap()
    })
    .fails(
        1,
        &[
            "pytorch_model.bin: pickled weights are never read",
            "safe_serialization=True",
        ],
    );
    let index = |part: &str| json!({ "metadata": {}, "weight_map": { "model.norm.weight": part } }).to_string();
    for (name, part) in [
        ("shard", "model-00001-of-00002.safetensors"),
        ("escape", "../model/model.safetensors"),
    ] {
        let ran = sft(name, &|dir| {
            fs::remove_file(dir.join("model.safetensors")).unwrap();
            fs::write(dir.join("model.safetensors.index.json"), index(part)).unwrap();
        });
        ran.fails(1, &["model.safetensors.index.json: ", part]);
    }
    stages.fixture.file(
        "t.txt",
        "some other words for another tokenizer, many more words than before: ".repeat(9),
    );
    assert_eq!(
        stages
            .fixture
            .hone(&["tokenizer", "train", "t.txt", "--vocab-size", "300", "--out", "other"])
            .code(),
        0
    );
    sft("mixed", &|dir| {
        fs::copy(stages.fixture.path("other/tokenizer.json"), dir.join("tokenizer.json")).unwrap();
    })
    .fails(
        1,
        &[
            "mixed: the tokenizer has 29",
            " ids, and the model's embedding 280 rows",
        ],
    );
}

#[test]
fn stages_say_what_is_wrong_with_templates() {
    let stages = Stages::new();
    with_template(&stages, "syntax", "{% for m in messages %}").fails(1, &["chat template"]);
    with_template(&stages, "fails", "{{ messages[0].content | no_such_filter }}").fails(1, &["chat template, line 1"]);
    with_template(&stages, "refuses", "{{ raise_exception('no thanks') }}").fails(1, &["no thanks"]);
    let rewrites = "{{ messages | length }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    with_template(&stages, "rewrites", rewrites).fails(
        1,
        &[
            "not prefix-preserving at message",
            "train on the last assistant turn only",
        ],
    );
    let endless = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}";
    with_template(&stages, "endless", endless).fails(1, &["chat template"]);
}

#[test]
fn runs_that_were_changed_locked_or_are_none() {
    let stages = Stages::new();
    assert_eq!(stages.run("sft", "a", &["--set", "train.steps=4"]).code(), 0);
    let before = crate::stages::promised(&stages.dir("a"));
    let changed = stages.run("sft", "a", &["--set", "train.steps=5", "--set", "train.seed=9"]);
    changed.fails(
        2,
        &["another configuration; changed: train.seed, train.steps", "--name"],
    );
    assert!(crate::stages::promised(&stages.dir("a")) == before);
    // A folder of somebody
    fs::create_dir_all(stages.dir("mine")).unwrap();
    fs::write(stages.dir("mine").join("thesis.txt"), "do not touch").unwrap();
    stages
        .run("sft", "mine", &[])
        .fails(2, &["holds `thesis.txt` but no run.toml"]);
    // A run that another process writes
    let mut child = stages.start("sft", "long", &["--set", "train.steps=4000"]);
    while !stages.dir("long").join("timings.jsonl").exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let second = stages.run("sft", "long", &["--set", "train.steps=4000"]);
    child.kill().unwrap();
    second.fails(
        1,
        &[&format!(
            "another process (pid {}) is writing into this run",
            child.id()
        )],
    );
    child.wait().unwrap();
}

#[test]
fn a_flipped_bit_in_a_checkpoint_is_named_and_the_older_one_is_used() {
    let stages = Stages::new();
    assert_eq!(stages.run("sft", "whole", &[]).code(), 0);
    assert_eq!(stages.run("sft", "x", &[]).code(), 0);
    // As if it had been killed before its end
    fs::remove_file(stages.dir("x").join("finished.json")).unwrap();
    flip(
        &stages
            .dir("x")
            .join("checkpoints/step-000013/model.moments.safetensors"),
    );
    let again = stages.run("sft", "x", &[]);
    assert_eq!(again.code(), 0, "{}", again.stderr());
    for said in [
        "model.moments.safetensors: contents differ",
        "set aside as",
        "step-000013.bad",
        "resuming after step 12",
    ] {
        assert!(again.stderr().contains(said), "{}", again.stderr());
    }
    fs::remove_dir_all(stages.dir("x").join("checkpoints/step-000013.bad")).unwrap();
    assert!(crate::stages::promised(&stages.dir("x")) == crate::stages::promised(&stages.dir("whole")));
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_bit_in_a_result_is_named_by_whoever_uses_it() {
    let stages = Stages::new();
    assert_eq!(stages.run("sft", "sft", &["--set", "train.steps=2"]).code(), 0);
    assert_eq!(stages.run("reward", "judge", &["--set", "train.steps=2"]).code(), 0);
    let chain = [
        "model.path=runs/sft/model",
        "reward.path=runs/judge/model",
        "ppo.updates=1",
    ];
    assert_eq!(with(&stages, "ppo", &chain).code(), 0);
    let said = [
        "model.safetensors: contents differ",
        "the file is damaged",
        "delete the MANIFEST.json",
    ];
    for damaged in ["judge", "sft"] {
        let path = stages.dir(damaged).join("model/model.safetensors");
        flip(&path);
        with(&stages, "ppo", &chain).fails(1, &[&format!("{damaged}/model/{}", said[0]), said[1], said[2]]);
        if damaged == "judge" {
            flip(&path);
        }
    }
    with(&stages, "reward", &["model.path=runs/sft/model"]).fails(1, &said);
    stages
        .fixture
        .hone(&["sample", "--model", "runs/sft/model", "--prompt", "a"])
        .fails(1, &said);
    // Changed on purpose
    fs::remove_file(stages.dir("sft").join("model/MANIFEST.json")).unwrap();
    assert_eq!(with(&stages, "ppo", &chain).code(), 0);
}

#[test]
#[cfg(unix)]
fn a_folder_that_cannot_be_written_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let stages = Stages::new();
    stages.fixture.file("file", "");
    stages
        .run("sft", "x", &["--runs", "file"])
        .fails(1, &["file/x", "cannot"]);
    let dir = stages.fixture.path("closed");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).unwrap();
    // The superuser may write there all the same, but not into the kernel's folder
    let place = if fs::write(dir.join("probe"), "").is_ok() {
        "/sys"
    } else {
        "closed"
    };
    stages.run("sft", "x", &["--runs", place]).fails(
        1,
        &[&format!("{place}/x: cannot create the folder"), "Choose another place"],
    );
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A command in a file system of its own of so many kilobytes at `runs/`; none where the system does not allow one.
#[cfg(target_os = "linux")]
fn on_small_disk(stages: &Stages, kilobytes: usize, script: &str) -> Option<Ran> {
    let run = |script: &str| {
        let mount = format!("mount -t tmpfs -o size={kilobytes}k none runs && {script}");
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", &mount, env!("CARGO_BIN_EXE_hone")]);
        command
            .current_dir(stages.fixture.folder.path())
            .env("HONE_THREADS", "1")
            .output()
            .ok()
    };
    fs::create_dir_all(stages.fixture.path("runs")).unwrap();
    run("true").filter(|probe| probe.status.success())?;
    run(script).map(Ran)
}

#[test]
#[cfg(target_os = "linux")]
#[expect(clippy::print_stderr, reason = "says that the system does not allow the test")]
fn a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_with_room() {
    let stages = Stages::new();
    assert_eq!(stages.run("sft", "whole", &["--runs", "elsewhere"]).code(), 0);
    let script = "\"$0\" sft sft.toml --name x; code=$?; ls runs/x/checkpoints; \
                  mount -o remount,size=100m runs && \"$0\" sft sft.toml --name x >&2 && \
                  diff -r runs/x/model elsewhere/whole/model >&2 && diff -r runs/x/checkpoints elsewhere/whole/checkpoints >&2 && \
                  cmp runs/x/metrics.jsonl elsewhere/whole/metrics.jsonl >&2 && echo same; exit $code";
    let Some(ran) = on_small_disk(&stages, 400, script) else {
        eprintln!("left out: this system gives no file system of its own");
        return;
    };
    ran.fails(
        75,
        &[
            "no space left on the disk",
            "bytes are needed there",
            "The last checkpoint is intact",
            "resuming after step",
        ],
    );
    assert!(
        ran.stdout().contains("step-0000") && !ran.stdout().contains(".tmp."),
        "{}",
        ran.stdout()
    );
    assert!(ran.stdout().ends_with("same\n"), "{} {}", ran.stdout(), ran.stderr());
}

/// A row that the model's template refuses is a bad row as others are: counted, with its line.
#[test]
fn rows_that_a_template_refuses_are_named_and_counted() {
    let stages = Stages::new();
    changed(&stages, "strict", |dir| {
        let path = dir.join("tokenizer_config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let template = config["chat_template"].as_str().map_or_else(
            || fs::read_to_string(dir.join("chat_template.jinja")).unwrap(),
            String::from,
        );
        let refuse = "{% for m in messages %}{% if 'zebra' in m['content'] %}{{ raise_exception('no zebras') }}{% endif %}\
                      {% endfor %}";
        config["chat_template"] = json!(format!("{refuse}{template}"));
        fs::write(path, config.to_string()).unwrap();
        let _ = fs::remove_file(dir.join("chat_template.jinja"));
    });
    for stage in ["sft", "reward", "ppo"] {
        let row = |i: usize, animal: &str| match stage {
            "sft" => json!({ "question": format!("who {i}?"), "answer": format!("the {animal}") }),
            "reward" => json!({
                "prompt": format!("who {i}?"), "chosen": format!("the {animal}"), "rejected": "nobody"
            }),
            _ => json!({ "messages": [{ "role": "user", "content": format!("what of the {animal} {i}?") }] }),
        };
        let key = if stage == "ppo" { "data.prompts" } else { "data.train" };
        let run = |rows: usize| {
            let text: String = (0..rows).map(|i| format!("{}\n", row(i, "dog"))).collect();
            stages.fixture.file("rows", format!("{text}{}\n", row(rows, "zebra")));
            with(&stages, stage, &[&format!("{key}=[\"rows\"]"), "model.path=strict"])
        };
        run(3).fails(
            1,
            &[
                "rows: 1 of 4 rows are bad",
                "line 4",
                "refuses this conversation",
                "no zebras",
            ],
        );
        let ran = run(120);
        assert_eq!(ran.code(), 0, "{stage}: {}", ran.stderr());
        let said = ran.stderr();
        assert!(
            said.contains("rows: 1 of 121 rows could not be used; line 121: ") && said.contains("no zebras"),
            "{stage}: {said}"
        );
    }
}
