//! The stages at the smallest scale, for tests that stop them or feed them nonsense.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::{Fixture, Ran};

/// The stages in the order in which they hand models on.
pub const STAGES: [&str; 5] = ["pretrain", "sft", "reward", "preference", "ppo"];

/// Stages that practise beside PPO: the policy's own answers are scored, and learned from.
pub const PRACTISING: [&str; 2] = ["expert-iteration", "online-preference"];

const PEOPLE: [&str; 4] = ["fox", "dog", "cat", "bird"];

/// A folder with data and a configuration a stage. `model/` and `reward/` of the fixture are where stages start from.
pub struct Stages {
    pub fixture: Fixture,
}

impl Stages {
    pub fn new() -> Self {
        let fixture = Fixture::new();
        let rows =
            |row: &dyn Fn(usize, &str) -> String| -> String { (0..24).map(|i| row(i, PEOPLE[i % 4]) + "\n").collect() };
        fixture.file(
            "text.txt",
            rows(&|i, who| format!("the {who} sleeps {i} hours and runs.\n")),
        );
        let demonstration = |i: usize, who: &str| format!(r#"{{"question":"who {i}?","answer":"the {who}"}}"#);
        fixture.file("demonstrations.jsonl", rows(&demonstration));
        let ranking = |i: usize, who: &str| {
            format!(r#"{{"prompt":"who {i}?","responses":["the {who}","dogs","{who} {who}"],"ranking":[[0],[1,2]]}}"#)
        };
        fixture.file("rankings.jsonl", rows(&ranking));
        fixture.file("prompts.jsonl", rows(&|i, _| format!(r#"{{"prompt":"who {i}?"}}"#)));
        let train = "[train]\nprecision = \"f32\"\ncheckpoint_every = 2\nwarmup_steps = 2";
        let every = "[eval]\nevery = 3";
        let shown = "[eval]\nevery = 3\nsamples = 2";
        fixture.file(
            "pretrain.toml",
            format!(
                "[model]\npath = \"model\"\n[data]\ntrain = [{{ path = \"text.txt\", split = \"blank-lines\" }}]\nheld_out = 0.1\n\
                 max_length = 16\n{train}\nsteps = 13\nbatch = 2\n{every}\n"
            ),
        );
        fixture.file(
            "sft.toml",
            format!(
                "keep = \"best\"\n[model]\npath = \"model\"\n[data]\ntrain = [\"demonstrations.jsonl\"]\nheld_out = 0.2\n\
                 max_length = 64\n{train}\nsteps = 13\nbatch = 2\n{shown}\nmax_new_tokens = 4\n"
            ),
        );
        fixture.file(
            "reward.toml",
            format!(
                "[model]\npath = \"model\"\n[data]\ntrain = [\"rankings.jsonl\"]\nheld_out = 0.2\nmax_length = 64\n{train}\n\
                 steps = 13\nbatch = 2\n{shown}\n"
            ),
        );
        fixture.file(
            "preference.toml",
            format!(
                "keep = \"best\"\n[model]\npath = \"model\"\n[data]\ntrain = [\"rankings.jsonl\"]\nheld_out = 0.2\n\
                 max_length = 64\n[preference]\nmethod = \"dpo\"\n{train}\nsteps = 13\nbatch = 2\n{shown}\n\
                 max_new_tokens = 4\n"
            ),
        );
        fixture.file(
            "ppo.toml",
            format!(
                "[model]\npath = \"model\"\n[reward]\npath = \"reward\"\n[data]\nprompts = [\"prompts.jsonl\"]\n\
                 max_prompt_length = 50\n[ppo]\nupdates = 9\nrollout_batch = 4\nminibatch = 2\nppo_epochs = 2\n\
                 max_new_tokens = 4\nkl_target = 2.0\nema_decay = 0.9\n[ptx]\ntrain = [\"text.txt\"]\nmax_length = 16\n\
                 windows = 1\n{train}\n{shown}\n"
            ),
        );
        let practice = "[model]\npath = \"model\"\n[reward]\npath = \"reward\"\n[data]\nprompts = [\"prompts.jsonl\"]\n\
                        max_prompt_length = 50\n";
        fixture.file(
            "expert-iteration.toml",
            format!(
                "{practice}[expert_iteration]\nrounds = 9\nrollout_batch = 8\nsamples_per_prompt = 4\nkeep_best = 2\n\
                 minibatch = 3\nepochs = 2\nfrom = \"start\"\nmax_new_tokens = 4\n{train}\n{shown}\n"
            ),
        );
        fixture.file(
            "online-preference.toml",
            format!(
                "{practice}[preference]\nmethod = \"ipo\"\n[online_preference]\nupdates = 9\nrollout_batch = 8\n\
                 minibatch = 8\nsamples_per_prompt = 4\nmissing_eos = \"keep\"\nmax_new_tokens = 4\n{train}\n{shown}\n"
            ),
        );
        Self { fixture }
    }

    /// Runs a stage as it is configured, under a name, with more arguments.
    pub fn run(&self, stage: &str, name: &str, more: &[&str]) -> Ran {
        let config = format!("{stage}.toml");
        self.fixture
            .hone(&[&[stage, &config, "--name", name][..], more].concat())
    }

    /// Starts a stage and leaves it running.
    pub fn start(&self, stage: &str, name: &str, more: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_hone"))
            .args([stage, &format!("{stage}.toml"), "--name", name])
            .args(more)
            .current_dir(self.fixture.folder.path())
            .env_remove("HONE_ISA")
            .env("HONE_THREADS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        self.fixture.path("runs").join(name)
    }
}

/// Names and bytes of what equal runs must have equal: the result, checkpoints, metrics and samples.
pub fn promised(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for name in ["model", "checkpoints"] {
        walk(&dir.join(name), name, &mut found);
    }
    for name in ["metrics.jsonl", "samples.jsonl"] {
        found.push((name.into(), fs::read(dir.join(name)).unwrap()));
    }
    found.sort();
    found
}

fn walk(dir: &Path, prefix: &str, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            walk(&entry.path(), &name, found);
        } else {
            found.push((name, fs::read(entry.path()).unwrap()));
        }
    }
}

/// Names of what a kill left of a checkpoint or a result that was being written.
pub fn unfinished(dir: &Path) -> Vec<String> {
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    };
    let checkpoints = names(&dir.join("checkpoints"));
    let newest = checkpoints
        .iter()
        .filter(|name| !name.contains(".tmp."))
        .max()
        .cloned()
        .unwrap_or_default();
    let written = |name: &String| name.split_once(".tmp.").is_some_and(|(step, _)| *step > *newest);
    let results = names(dir).into_iter().filter(|name| name.starts_with("model.tmp."));
    checkpoints.into_iter().filter(written).chain(results).collect()
}
