//! `hone serve --jobs`: real stages, from an upload to a model that answers, also where the server is killed in between.
#![cfg(unix)]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::Fixture;
use crate::serve::Serving;

const PATIENCE: Duration = Duration::from_secs(120);
const PEOPLE: [&str; 4] = ["fox", "dog", "cat", "bird"];

/// A server with jobs, and its folder.
struct Tuning {
    fixture: Fixture,
}

impl Tuning {
    fn new() -> Self {
        Self {
            fixture: Fixture::new(),
        }
    }

    fn serve(&self) -> Serving {
        let models = ["--model", "chat=model", "--model", "judge=reward"];
        Serving::new(
            &self.fixture,
            &[&models[..], &["--jobs", "store", "--job-threads", "1"]].concat(),
        )
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.fixture.path("store/jobs").join(id)
    }

    /// The adapter's bytes.
    fn result(&self, id: &str) -> Vec<u8> {
        fs::read(self.folder(id).join("run/model/adapter_model.safetensors")).unwrap()
    }

    /// What the stage leaves when it is called by hand with the job's configuration.
    fn by_hand(&self, stage: &str, id: &str) -> Vec<u8> {
        let config = self.folder(id).join("config.toml");
        let ran = self.fixture.hone(&[stage, config.to_str().unwrap(), "--name", id]);
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        fs::read(
            self.fixture
                .path("runs")
                .join(id)
                .join("model/adapter_model.safetensors"),
        )
        .unwrap()
    }
}

fn value((status, text): (u16, String)) -> Value {
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Uploads rows; gives the file's id.
fn upload(server: &Serving, rows: &dyn Fn(usize, &str) -> Value) -> Value {
    let lines: String = (0..24).map(|i| rows(i, PEOPLE[i % 4]).to_string() + "\n").collect();
    let part =
        |head: &str, content: &str| format!("--x\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n");
    let body =
        part("name=\"purpose\"", "fine-tune") + &part("name=\"file\"; filename=\"rows.jsonl\"", &lines) + "--x--\r\n";
    let file = value(server.send(("POST", "/v1/files"), "multipart/form-data; boundary=x", &body));
    assert_eq!(file["rows"], 24);
    file["id"].clone()
}

fn question(i: usize) -> Value {
    json!({"role": "user", "content": format!("who {i}?")})
}

fn reply(who: &str) -> Value {
    json!({"role": "assistant", "content": format!("the {who}")})
}

fn conversation(i: usize, who: &str) -> Value {
    json!({"messages": [question(i), reply(who)]})
}

fn create(server: &Serving, body: &Value) -> String {
    value(server.ask("POST", "/v1/fine_tuning/jobs", Some(body)))["id"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn job(server: &Serving, id: &str) -> Value {
    value(server.ask("GET", &format!("/v1/fine_tuning/jobs/{id}"), None))
}

fn events(server: &Serving, id: &str) -> Vec<Value> {
    let path = format!("/v1/fine_tuning/jobs/{id}/events?limit=10000&order=asc");
    value(server.ask("GET", &path, None))["data"]
        .as_array()
        .unwrap()
        .clone()
}

fn steps(server: &Serving, id: &str) -> Vec<u64> {
    let metrics = events(server, id)
        .into_iter()
        .filter(|event| event["data"]["train_loss"].is_number());
    metrics.map(|event| event["data"]["step"].as_u64().unwrap()).collect()
}

fn succeeded(server: &Serving, id: &str) -> Value {
    let begun = Instant::now();
    loop {
        let job = job(server, id);
        match job["status"].as_str().unwrap() {
            "succeeded" => return job,
            "failed" | "cancelled" => panic!("{job}\n{:?}", events(server, id)),
            _ => assert!(begun.elapsed() < PATIENCE, "{job}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn answers(server: &Serving, job: &Value) {
    let ask = json!({"model": job["fine_tuned_model"], "messages": [question(1)], "max_tokens": 4, "temperature": 0});
    let answer = value(server.ask("POST", "/v1/chat/completions", Some(&ask)));
    assert_eq!(answer["model"], job["fine_tuned_model"]);
    assert!(answer["choices"][0]["message"]["content"].is_string());
}

fn long(file: &Value, seed: u64) -> Value {
    json!({"model": "chat", "training_file": file, "suffix": "long", "seed": seed,
        "hyperparameters": {"n_epochs": 60, "batch_size": 4}})
}

#[test]
fn cli_serve_tunes_by_every_method() {
    let tuning = Tuning::new();
    let server = tuning.serve();
    let rows = upload(&server, &conversation);
    let held = upload(&server, &|i, who| conversation(100 + i, who));
    let body = json!({"model": "chat", "training_file": rows, "validation_file": held, "suffix": "people", "seed": 7,
        "hyperparameters": {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 10}});
    let supervised = create(&server, &body);
    let pairs = upload(
        &server,
        &|i, who| json!({"input": {"messages": [question(i)]}, "preferred_output": [reply(who)], "non_preferred_output": [reply("crow")]}),
    );
    let body = json!({"model": "chat", "training_file": pairs,
        "method": {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "batch_size": 8, "beta": 0.2}}}});
    let dpo = create(&server, &body);
    let prompts = upload(
        &server,
        &|i, who| json!({"messages": [question(i)], "gold": {"name": who}}),
    );
    let text = |kind: &str, more: Value| {
        let mut grader = json!({"type": kind, "name": kind, "input": "{{sample.output_text}}", "reference": "the {{item.gold.name}}"});
        grader
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        grader
    };
    let grader = json!({"type": "multi", "calculate_output": "a + b + 0.5 * c - 0.1 * d", "graders": {
        "a": text("string_check", json!({"operation": "ilike"})),
        "b": text("text_similarity", json!({"evaluation_metric": "fuzzy_match"})),
        "c": {"type": "score_model", "name": "c", "model": "judge"},
        "d": {"type": "verifier", "name": "d", "kind": "length", "max": 3, "slope": 20},
    }});
    let body = json!({"model": "chat", "training_file": prompts, "method": {"type": "reinforcement", "reinforcement":
        {"grader": grader, "hyperparameters": {"n_epochs": 1, "batch_size": 8, "max_tokens": 4}}}});
    let practised = create(&server, &body);
    let done = succeeded(&server, &supervised);
    answers(&server, &done);
    assert!(
        done["fine_tuned_model"]
            .as_str()
            .unwrap()
            .starts_with("ft:chat:people:")
    );
    assert!(done["trained_tokens"].as_u64().unwrap() > 100, "{done}");
    assert_eq!(steps(&server, &supervised), [1, 2, 3, 4, 5, 6]);
    let all = events(&server, &supervised);
    let says = |part: &str| {
        all.iter()
            .any(|event| event["message"].as_str().unwrap().contains(part))
    };
    assert!(
        says("24 conversations to train on, 24 held out") && says("is answered with"),
        "{all:?}"
    );
    assert!(all.iter().any(|event| event["data"]["valid_loss"].is_number()));
    // Byte for byte what the command makes of the same configuration
    assert!(tuning.result(&supervised) == tuning.by_hand("sft", &supervised));
    answers(&server, &succeeded(&server, &dpo));
    assert!(tuning.result(&dpo) == tuning.by_hand("preference", &dpo));
    answers(&server, &succeeded(&server, &practised));
    let scored = events(&server, &practised)
        .iter()
        .filter(|event| event["data"]["train_mean_reward"].is_number())
        .count();
    assert_eq!(scored, 3);
    assert!(tuning.result(&practised) == tuning.by_hand("grpo", &practised));
    // A result is tuned further: its adapter grows on
    let body = json!({"model": done["fine_tuned_model"], "training_file": rows, "hyperparameters": {"n_epochs": 1}});
    let further = create(&server, &body);
    answers(&server, &succeeded(&server, &further));
    assert!(tuning.result(&further) != tuning.result(&supervised));
    assert_eq!(server.end("-TERM").0, Some(0));
}

#[test]
fn cli_serve_goes_on_with_a_job_after_the_server_has_ended() {
    let tuning = Tuning::new();
    let begun = |server: &Serving, id: &str| {
        let since = Instant::now();
        while steps(server, id).len() < 3 {
            assert!(since.elapsed() < PATIENCE, "{:?}", events(server, id));
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let server = tuning.serve();
    let rows = upload(&server, &conversation);
    // Asked to end, it has the stage save, and waits for it
    let stopped = create(&server, &long(&rows, 1));
    begun(&server, &stopped);
    assert_eq!(server.end("-TERM").0, Some(0));
    let log = fs::read_to_string(tuning.folder(&stopped).join("log.txt")).unwrap();
    assert!(log.contains("the same command goes on"), "{log}");
    let server = tuning.serve();
    let done = succeeded(&server, &stopped);
    answers(&server, &done);
    // Killed, it leaves the stage behind, which the next server waits for
    let killed = create(&server, &long(&rows, 2));
    begun(&server, &killed);
    assert_eq!(server.end("-KILL").0, None);
    let server = tuning.serve();
    answers(&server, &succeeded(&server, &killed));
    for id in [&stopped, &killed] {
        assert!(tuning.result(id) == tuning.by_hand("sft", id), "{id}");
        let all: Vec<u64> = (1..=360).collect();
        assert_eq!(steps(&server, id), all);
    }
    // Results of servers before are served
    answers(&server, &done);
    // What is cancelled ends, and nothing is left of it
    let cancelled = create(&server, &long(&rows, 3));
    begun(&server, &cancelled);
    let answer = value(server.ask("POST", &format!("/v1/fine_tuning/jobs/{cancelled}/cancel"), None));
    assert_eq!(answer["status"], "cancelled");
    assert_eq!(server.end("-TERM").0, Some(0));
    assert!(!tuning.folder(&cancelled).join("run/model").exists());
    let log = fs::read_to_string(tuning.folder(&cancelled).join("log.txt")).unwrap();
    assert!(log.contains("stopped after step"), "{log}");
}

#[test]
fn cli_serve_names_a_folder_of_jobs_that_cannot_be_used() {
    let fixture = Fixture::new();
    fixture.file("taken", "");
    let serve = |more: &[&str]| fixture.hone(&[&["serve", "--port", "0", "--model", "model"], more].concat());
    serve(&["--jobs", "taken"]).fails(2, &["--jobs: taken"]);
    serve(&["--job-threads", "2"]).fails(2, &["--jobs"]);
    let file = fixture.path("store/jobs/ftjob-1");
    fs::create_dir_all(&file).unwrap();
    fs::write(file.join("job.json"), "{").unwrap();
    serve(&["--jobs", "store"]).fails(2, &["job.json"]);
}
