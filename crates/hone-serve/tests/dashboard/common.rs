//! A folder of runs, and a dashboard of it in a thread.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hone_run::{OpenOptions, Opened, Run, Sample, config};
use hone_serve::{Dashboard, DashboardOptions, ServeError};
use hone_train::ppo::PpoConfig;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::client::Client;

/// A dashboard of a folder of its own; it ends with this value.
pub struct Board {
    pub folder: TempDir,
    pub client: Client,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

/// On a free port, and reading files whenever it is asked.
pub fn options() -> DashboardOptions {
    DashboardOptions {
        port: 0,
        every: Duration::ZERO,
        ..DashboardOptions::default()
    }
}

impl Board {
    pub fn new() -> Self {
        Self::with(options())
    }

    pub fn with(options: DashboardOptions) -> Self {
        Self::inside("", options)
    }

    /// Of a folder in the folder.
    pub fn inside(name: &str, options: DashboardOptions) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join(name)).expect("a folder");
        let dashboard = Dashboard::bind(&folder.path().join(name), &options).expect("a dashboard");
        let client = Client {
            address: dashboard.address(),
            token: options.tokens.first().cloned(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || dashboard.run(&|| asked.load(Ordering::Relaxed)));
        Self {
            folder,
            client,
            stop,
            thread: Some(thread),
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A page's JSON.
    #[track_caller]
    pub fn json(&self, path: &str) -> Value {
        let mark = if path.contains('?') { '&' } else { '?' };
        self.client.get(&format!("{path}{mark}format=json")).json()
    }

    /// A page.
    #[track_caller]
    pub fn html(&self, path: &str) -> String {
        let answer = self.client.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        answer.text().to_owned()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("no panic").expect("a good end");
            }
        }
    }
}

/// The configuration of a PPO run.
pub fn settings(kl_coef: f64, updates: u64) -> String {
    format!(
        "[model]\npath = \"runs/sft/model\"\n[reward]\npath = \"runs/reward/model\"\n[[data.prompts]]\npath = \"prompts.jsonl\"\n\
         [ppo]\nupdates = {updates}\nkl_coef = {kl_coef}\n"
    )
}

/// Opens a run as a stage does.
pub fn open(dir: &Path, text: &str) -> Run {
    let resolved = config::parse::<PpoConfig>("ppo.toml", text, &[]).expect("a configuration");
    match Run::open(dir, &resolved, OpenOptions::default()).expect("a run") {
        Opened::Fresh(run) | Opened::Resumed { run, .. } => run,
        Opened::Finished { .. } => panic!("finished before"),
    }
}

/// A step of a run in good health.
pub fn step(run: &mut Run, step: u64, total: u64) {
    let x = step as f64;
    let metrics = [
        ("objective/scores", 0.1 * x),
        ("objective/kl", 0.05 * x),
        ("policy/entropy_avg", 1.0 - 0.005 * x),
        ("completions/mean_length", 20.0),
        ("policy/logprob_mismatch_max", 0.0),
        ("rollout/tokens", 100.0),
    ];
    run.record(step, &metrics).expect("recorded");
    let timings = [
        ("seconds", 2.0),
        ("tokens_per_second", 50.0),
        ("steps_in_all", total as f64),
    ];
    run.record_timings(step, &timings).expect("recorded");
}

/// A sample.
pub fn sample(step: u64, prompt: &str, response: &str) -> Sample {
    let mut extra = Map::new();
    extra.insert("tokens".into(), json!(7));
    Sample {
        step,
        prompt: prompt.into(),
        response: response.into(),
        score: Some(0.5 * step as f64),
        kl: Some(0.25),
        extra,
    }
}

/// A run of 40 steps that is finished, with two evaluations.
pub fn finished(dir: &Path, kl_coef: f64) {
    let mut run = open(dir, &settings(kl_coef, 40));
    for i in 1..=40 {
        step(&mut run, i, 40);
        if i % 20 == 0 {
            let answers = [
                sample(
                    i,
                    "How much is five plus six?",
                    &format!("Answer: {}.", if i == 20 { "nine" } else { "eleven" }),
                ),
                sample(i, "Name a colour", "Green."),
                sample(i, &format!("Only at step {i}"), "Yes."),
            ];
            run.record_samples(&answers).expect("recorded");
        }
    }
    run.finish(json!({"updates": 40, "episodes": 2560})).expect("finished");
}

/// Appends to a file of a run.
pub fn append(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .expect("a file");
    file.write_all(text.as_bytes()).expect("written");
}
