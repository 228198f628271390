//! A small place to train in: texts, tokenizer, tiny models, and ways to run a stage.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hone_compute::{Engine, EngineOptions, Precision};
use hone_run::{Configuration, Event, Observer, Resolved, Shutdown, config};
use hone_text::{TrainOptions, train_bpe};
use hone_train::preference::{self, PreferenceConfig};
use hone_train::pretrain::{self, PretrainConfig};
use hone_train::reward::{self, RewardConfig};
use hone_train::sft::{self, SftConfig};
use hone_train::{Job, Outcome, TrainError};
use serde_json::{Value, json};

pub const COLOURS: [&str; 6] = ["red", "blue", "green", "black", "white", "brown"];
pub const THINGS: [&str; 5] = ["door", "boat", "hat", "cup", "kite"];

/// A folder with texts, demonstrations, rankings and a tokenizer.
pub struct Place {
    pub dir: tempfile::TempDir,
}

/// A sentence about a thing, of a few that differ.
pub fn sentence(i: usize) -> String {
    format!("The {} is {}.", THINGS[i % 5], COLOURS[(i * 7 + i / 5) % 6])
}

fn question(i: usize) -> String {
    format!("What is the {} {}?", COLOURS[i % 6], THINGS[(i / 6) % 5])
}

impl Place {
    /// With everything but models.
    pub fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let text: String = (0..400).map(|i| sentence(i) + "\n").collect();
        place.write("text.txt", &text);
        let demonstrations = (0..60).map(|i| {
            let turns = [
                json!({"role": "user", "content": question(i)}),
                json!({"role": "assistant", "content": sentence(i)}),
            ];
            json!({ "messages": turns })
        });
        place.write_rows("demonstrations.jsonl", demonstrations);
        place.write_rows("rankings.jsonl", (0..120).map(ranking));
        let words = "gladly please system user assistant";
        let texts = text
            .lines()
            .map(String::from)
            .chain((0..60).map(question))
            .chain((0..4).map(|_| words.into()));
        let options = TrainOptions {
            vocab_size: 360,
            threads: 1,
            ..TrainOptions::default()
        };
        train_bpe(texts, &options)
            .unwrap()
            .save(place.path("tokenizer"))
            .unwrap();
        place
    }

    /// With a pre-trained model `base` too.
    pub fn with_base() -> Self {
        let place = Self::new();
        let outcome = place.pretrain("base", &pretrain_toml(6));
        assert!(
            matches!(outcome, Ok(Outcome::Done { before: false, .. })),
            "{outcome:?}"
        );
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn write_rows(&self, name: &str, rows: impl Iterator<Item = Value>) {
        self.write(name, &rows.map(|row| row.to_string() + "\n").collect::<String>());
    }

    /// A job in folder `run` on one thread.
    pub fn job(&self, run: &str) -> Job {
        Job {
            dir: self.path(run),
            base: self.dir.path().into(),
            observer: Arc::new(hone_run::Silent),
            shutdown: Shutdown::default(),
            allow_isa_change: false,
            threads: Some(1),
        }
    }

    pub fn pretrain(&self, run: &str, toml: &str) -> Result<Outcome, TrainError> {
        Stage::Pretrain.start(&self.job(run), toml)
    }

    pub fn sft(&self, run: &str, toml: &str) -> Result<Outcome, TrainError> {
        Stage::Sft.start(&self.job(run), toml)
    }

    pub fn reward(&self, run: &str, toml: &str) -> Result<Outcome, TrainError> {
        Stage::Reward.start(&self.job(run), toml)
    }

    pub fn preference(&self, run: &str, toml: &str) -> Result<Outcome, TrainError> {
        Stage::Preference.start(&self.job(run), toml)
    }

    /// Metrics of a run: each name with its (step, value) pairs.
    pub fn metrics(&self, run: &str) -> BTreeMap<String, Vec<(u64, f64)>> {
        let mut metrics: BTreeMap<String, Vec<(u64, f64)>> = BTreeMap::new();
        for line in fs::read_to_string(self.path(run).join("metrics.jsonl"))
            .unwrap()
            .lines()
        {
            let Value::Object(fields) = serde_json::from_str(line).unwrap() else {
                panic!("{line}")
            };
            let step = fields["step"].as_u64().unwrap();
            for (name, value) in fields.iter().filter(|(name, _)| *name != "step") {
                metrics
                    .entry(name.clone())
                    .or_default()
                    .push((step, value.as_f64().unwrap()));
            }
        }
        metrics
    }
}

/// Three responses, of which the one with the word is preferred, whatever else it says.
fn ranking(i: usize) -> Value {
    let mut responses: Vec<String> = (0..3).map(|k| sentence(i + 11 * k)).collect();
    let good = i % 3;
    responses[good] = format!("gladly {}", responses[good]);
    let others: Vec<usize> = (0..3).filter(|&k| k != good).collect();
    json!({ "prompt": format!("{} {i}", question(i)), "responses": responses, "ranking": [[good], others] })
}

/// Pre-training from scratch for so many steps.
pub fn pretrain_toml(steps: u64) -> String {
    format!(
        r#"
        [model]
        tokenizer = "tokenizer"
        [model.new]
        width = 32
        layers = 2
        heads = 2
        context = 96
        [data]
        train = ["text.txt"]
        max_length = 32
        [train]
        steps = {steps}
        batch = 8
        microbatch_tokens = 128
        learning_rate = 3e-3
        checkpoint_every = 4
        warmup_steps = 2
        [eval]
        every = 5
        "#
    )
}

pub const SFT: &str = r#"
    [model]
    path = "base/model"
    [data]
    train = ["demonstrations.jsonl"]
    held_out = 0.1
    max_length = 96
    [train]
    steps = 10
    batch = 8
    microbatch_tokens = 128
    learning_rate = 3e-3
    checkpoint_every = 4
    warmup_steps = 2
    [eval]
    every = 5
    samples = 2
    max_new_tokens = 4
    "#;

pub const REWARD: &str = r#"
    [model]
    path = "base/model"
    [data]
    train = ["rankings.jsonl"]
    held_out = 0.25
    max_length = 96
    [train]
    steps = 10
    batch = 8
    microbatch_tokens = 256
    learning_rate = 1e-3
    checkpoint_every = 4
    warmup_steps = 2
    [eval]
    every = 5
    samples = 2
    "#;

pub const PREFERENCE: &str = r#"
    [model]
    path = "base/model"
    [data]
    train = ["rankings.jsonl"]
    held_out = 0.25
    max_length = 96
    [preference]
    method = "dpo"
    [train]
    steps = 10
    batch = 8
    microbatch_tokens = 256
    learning_rate = 1e-3
    checkpoint_every = 4
    warmup_steps = 2
    [eval]
    every = 5
    samples = 2
    max_new_tokens = 4
    "#;

/// A stage, for what is the same in all of them.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    Pretrain,
    Sft,
    Reward,
    Preference,
}

impl Stage {
    pub const ALL: [Self; 4] = [Self::Pretrain, Self::Sft, Self::Reward, Self::Preference];

    /// A configuration of ten steps with a checkpoint after every fourth.
    pub fn toml(self) -> String {
        match self {
            Self::Pretrain => pretrain_toml(10),
            Self::Sft => SFT.into(),
            Self::Reward => REWARD.into(),
            Self::Preference => PREFERENCE.into(),
        }
    }

    pub fn start(self, job: &Job, toml: &str) -> Result<Outcome, TrainError> {
        match self {
            Self::Pretrain => pretrain::run(job, &parsed::<PretrainConfig>(toml)),
            Self::Sft => sft::run(job, &parsed::<SftConfig>(toml)),
            Self::Reward => reward::run(job, &parsed::<RewardConfig>(toml)),
            Self::Preference => preference::run(job, &parsed::<PreferenceConfig>(toml)),
        }
    }
}

pub fn parsed<T: Configuration>(toml: &str) -> Resolved<T> {
    config::parse("test.toml", toml, &[]).unwrap()
}

/// The configuration with one setting of `[train]` more.
pub fn with_train(toml: &str, setting: &str) -> String {
    toml.replacen("[train]", &format!("[train]\n{setting}"), 1)
}

/// The configuration with another value of a key that it has.
pub fn with(toml: &str, key: &str, value: &str) -> String {
    let found = toml.lines().any(|line| line.trim().starts_with(&format!("{key} =")));
    assert!(found, "{key} is not there");
    let is = |line: &str| line.trim().starts_with(&format!("{key} ="));
    toml.lines()
        .map(|line| {
            if is(line) {
                format!("{key} = {value}\n")
            } else {
                format!("{line}\n")
            }
        })
        .collect()
}

/// The configuration without the line that sets `key`.
pub fn without(toml: &str, key: &str) -> String {
    toml.lines()
        .filter(|line| !line.trim().starts_with(&format!("{key} =")))
        .map(|line| format!("{line}\n"))
        .collect()
}

pub fn engine() -> Engine {
    Engine::new(&EngineOptions {
        isa: None,
        precision: Precision::F32,
        threads: Some(1),
    })
    .unwrap()
}

/// What must not depend on how a run came to its end: file by file.
pub fn results(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![run.join("model"), run.join("checkpoints")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(run).unwrap().display().to_string();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    for name in ["metrics.jsonl", "samples.jsonl", "finished.json"] {
        files.insert(name.into(), fs::read(run.join(name)).unwrap());
    }
    files
}

/// Compares results file by file, so that a failure names the file and not its bytes.
pub fn assert_same_results(left: &Path, right: &Path) {
    let (left, right) = (results(left), results(right));
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
    let differing: Vec<_> = left
        .iter()
        .filter(|(name, bytes)| right[*name] != **bytes)
        .map(|(name, _)| name)
        .collect();
    assert!(differing.is_empty(), "these files differ: {differing:?}");
}

pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Asks for a stop after a step.
pub struct StopAfter {
    pub step: u64,
    pub shutdown: Shutdown,
}

impl Observer for StopAfter {
    fn event(&self, event: &Event) {
        if matches!(event, Event::Step { step, .. } if *step == self.step) {
            self.shutdown.request();
        }
    }
}

/// Copies the run's folder as it stands after a step: what a process that dies there leaves behind.
pub struct CopyAfter {
    pub step: u64,
    pub run: PathBuf,
    pub copy: PathBuf,
}

impl Observer for CopyAfter {
    fn event(&self, event: &Event) {
        if matches!(event, Event::Step { step, .. } if *step == self.step) {
            copy_dir(&self.run, &self.copy);
        }
    }
}

/// Keeps what a run says.
#[derive(Default)]
pub struct Listening(pub Mutex<Vec<String>>);

impl Observer for Listening {
    fn event(&self, event: &Event) {
        if let Event::Message(text) = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}
