//! A server with jobs, whose processes are a shell script that does what a stage does, as slowly as a test wants.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hone_compute::Engine;
use hone_model::LoraConfig;
use hone_serve::{JobOptions, Options, ServedModel};
use serde_json::{Value, json};

use crate::common::{CONTEXT, Running, engine, model, models, tokenizer};

/// The longest that a job may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does what `hone plan` and the stages do: a line of metrics a step, five of them; it waits while `hold` is there (`hone plan` while
/// `ponder` is), ends with an error where `fail` is, and on a signal with 75, to go on later, once `linger` is gone.
const SCRIPT: &str = r#"#!/bin/sh
here=HERE
if [ "$1" = plan ]; then
  echo $$ >> $here/planned
  while [ -e $here/ponder ]; do sleep 0.02; done
  [ -e $here/unusable ] && printf 'error: rows are too long\n  hint: shorten them\n' >&2 && exit 2
  [ -e $here/unfit ] && echo '{"steps":5,"peak_bytes":2000000000000,"fits":false,"machine":{"available":1000000}}' && exit 0
  echo '{"steps":5,"peak_bytes":2000000,"fits":true,"machine":{"available":9000000},"time":{"seconds":3.0}}'
  exit 0
fi
echo "$1 $PWD" >> $here/begun
stop=no
trap 'stop=yes' TERM
mkdir -p run
touch run/metrics.jsonl
echo "rows: 2 conversations to train on, 0 held out" >&2
step=$(wc -l < run/metrics.jsonl)
while [ $step -lt 5 ]; do
  if [ $stop = yes ]; then
    echo "$1 $PWD" >> $here/stopped
    while [ -e $here/linger ]; do sleep 0.02; done
    exit 75
  fi
  if [ -e $here/fail ]; then printf 'error: training went wrong\n  hint: do not\n' >&2; exit 1; fi
  if [ -e $here/hold ] && [ $step -ge 2 ]; then sleep 0.02; continue; fi
  step=$((step + 1))
  echo "{\"step\":$step,\"train/loss\":$step.5,\"train/tokens\":10.0}" >> run/metrics.jsonl
done
echo "{\"step\":5,\"prompt\":\"hello\",\"response\":\"there\"}" > run/samples.jsonl
rm -rf run/model
cp -r $here/adapter run/model
echo "$1 $PWD" >> $here/ended
"#;

/// A folder with the script, an adapter that it leaves, and a store.
pub struct Tuner {
    folder: tempfile::TempDir,
}

impl Tuner {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let here = folder.path().display().to_string();
        let program = folder.path().join("tune.sh");
        fs::write(&program, SCRIPT.replace("HERE", &here)).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
        write_adapter(&folder.path().join("adapter"));
        fs::create_dir(folder.path().join("base")).expect("a folder");
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Has running jobs wait after their second step.
    pub fn hold(&self) {
        self.put("hold");
    }

    pub fn let_go(&self) {
        self.take_away("hold");
    }

    /// A file that the script looks for.
    pub fn put(&self, name: &str) {
        fs::write(self.path(name), "").expect("written");
    }

    pub fn take_away(&self, name: &str) {
        let _ = fs::remove_file(self.path(name));
    }

    pub fn options(&self) -> Options {
        let at = |name: &str| (name.to_owned(), self.path("base"));
        Options {
            jobs: Some(JobOptions {
                directory: self.path("store"),
                program: self.path("tune.sh"),
                sources: [at("chat"), at("reward"), at("base")].into(),
                threads: None,
                file_bytes: 100_000,
            }),
            ..Options::default()
        }
    }

    /// A server that goes on with what the one before left.
    pub fn serve(&self) -> Running {
        Running::with(models, self.options())
    }

    /// Lines of a file of the script's: who was begun, stopped or ended.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// An adapter on the model `chat` whose answers are its own.
fn write_adapter(folder: &Path) {
    let engine: Engine = engine();
    let mut tuned = model(&engine, CONTEXT, 5);
    let lora = LoraConfig {
        rank: 2,
        alpha: 8.0,
        targets: vec!["q".into(), "v".into()],
        vocabulary: false,
    };
    tuned.add_adapter(&engine, &lora, 3).expect("an adapter");
    let upper: Vec<_> = tuned
        .parameters()
        .iter()
        .filter(|(_, p)| p.name().contains("lora_B"))
        .map(|(id, _)| id)
        .collect();
    for id in upper {
        let count = tuned.parameters().get(id).value().len();
        let numbers: Vec<f32> = (0..count).map(|i| (i % 5) as f32 * 0.2 - 0.4).collect();
        tuned.parameters_mut().set(&engine, id, &numbers);
    }
    fs::create_dir(folder).expect("a folder");
    let config = tuned.adapter_json("../../base").expect("an adapter");
    fs::write(folder.join("adapter_config.json"), config).expect("written");
    let mut file = fs::File::create(folder.join("adapter_model.safetensors")).expect("a file");
    tuned.write_adapter(&engine, &mut file).expect("written");
}

/// A reward model and `chat` alone, and what they are called.
pub fn only_chat(engine: &Engine) -> Vec<ServedModel> {
    vec![ServedModel {
        name: "chat".into(),
        parent: None,
        model: model(engine, CONTEXT, 5),
        tokenizer: tokenizer(),
    }]
}

/// Two conversations.
pub fn conversations() -> String {
    let row = |question: &str| {
        json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "fox"}]})
            .to_string()
    };
    format!("{}\n{}\n", row("who runs?"), row("who jumps?"))
}

/// Uploads them and starts a job; gives its id.
#[track_caller]
pub fn begin(server: &Running, suffix: &str) -> String {
    let file = server.client.upload("rows.jsonl", conversations().as_bytes()).json();
    let body = json!({"model": "chat", "training_file": file["id"], "suffix": suffix});
    let job = server.client.post("/v1/fine_tuning/jobs", &body).json();
    assert_eq!(job["status"], "validating_files");
    job["id"].as_str().expect("an id").to_owned()
}

/// A job as it is now.
#[track_caller]
pub fn job(server: &Running, id: &str) -> Value {
    server.client.get(&format!("/v1/fine_tuning/jobs/{id}")).json()
}

/// Waits until a job has this status.
#[track_caller]
pub fn wait_for(server: &Running, id: &str, status: &str) -> Value {
    wait_until(server, id, &|job| job["status"] == status)
}

/// Waits until this is so of a job.
#[track_caller]
pub fn wait_until(server: &Running, id: &str, holds: &dyn Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let job = job(server, id);
        if holds(&job) {
            return job;
        }
        assert!(begun.elapsed() < PATIENCE, "{job}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What happened to a job, the oldest first.
#[track_caller]
pub fn events(server: &Running, id: &str) -> Vec<Value> {
    let path = format!("/v1/fine_tuning/jobs/{id}/events?limit=1000&order=asc");
    server.client.get(&path).json()["data"]
        .as_array()
        .expect("a list")
        .clone()
}

/// The steps of a job's metrics, as they were told.
#[track_caller]
pub fn steps(server: &Running, id: &str) -> Vec<u64> {
    let metrics = events(server, id)
        .into_iter()
        .filter(|event| event["type"] == "metrics");
    metrics
        .map(|event| event["data"]["step"].as_u64().expect("a step"))
        .collect()
}

/// Waits until so many steps of a job were told.
#[track_caller]
pub fn wait_for_steps(server: &Running, id: &str, count: usize) {
    let begun = Instant::now();
    while steps(server, id).len() < count {
        assert!(begun.elapsed() < PATIENCE, "{:?}", events(server, id));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for something that comes soon.
#[track_caller]
pub fn soon(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
