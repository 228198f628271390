//! `/v1/fine_tuning/jobs`: jobs from their file to a model that answers, cancelled, failed, stopped and gone on with.

use std::fs;

use serde_json::{Value, json};

use crate::common::{Running, asked, with};
use crate::tuner::{
    Tuner, begin, conversations, events, job, only_chat, soon, steps, wait_for, wait_for_steps, wait_until,
};

fn said(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .filter(|event| event["type"] == "message")
        .map(|event| event["message"].as_str().unwrap())
        .collect()
}

#[test]
fn http_jobs_end_in_a_model_that_answers() {
    let tuner = Tuner::new();
    let server = tuner.serve();
    let id = begin(&server, "polite");
    let done = wait_for(&server, &id, "succeeded");
    let short = id.trim_start_matches("ftjob-");
    let name = format!("ft:chat:polite:{short}");
    assert_eq!(done["fine_tuned_model"], name);
    assert_eq!(
        (&done["trained_tokens"], &done["error"], &done["seed"]),
        (&json!(50), &Value::Null, &json!(1))
    );
    assert_eq!(done["method"]["supervised"]["hyperparameters"]["n_epochs"], "auto");
    assert_eq!(done["hyperparameters"], done["method"]["supervised"]["hyperparameters"]);
    assert!(done["finished_at"].as_u64() >= done["created_at"].as_u64());
    // The stage was given the rows and a configuration that names the model
    let folder = tuner.path("store/jobs").join(&id);
    assert_eq!(
        fs::read_to_string(folder.join("train.jsonl")).unwrap().lines().count(),
        2
    );
    let config = fs::read_to_string(folder.join("config.toml")).unwrap();
    assert!(
        config.contains("[lora]") && config.contains(&tuner.path("base").display().to_string()),
        "{config}"
    );
    // It is served at once, beside what it was made from, and answers in its own way
    let models = server.client.get("/v1/models").json();
    let last = models["data"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["id"], &last["parent"]), (&json!(name), &json!("chat")));
    let ask = with(asked("hello"), json!({"temperature": 0, "logprobs": true}));
    let base = server.client.post("/v1/chat/completions", &ask).json();
    let tuned = server
        .client
        .post("/v1/chat/completions", &with(ask.clone(), json!({"model": name})))
        .json();
    assert_eq!(tuned["model"], name);
    assert_ne!(base["choices"][0]["logprobs"], tuned["choices"][0]["logprobs"]);
    // Events, their pages, and what is left
    assert_eq!(steps(&server, &id), [1, 2, 3, 4, 5]);
    let events = events(&server, &id);
    let said = said(&events);
    for expected in [
        "The job is created",
        "The job is queued: 5 steps, about 2 MB of memory and 3 seconds",
        "The job has started",
        "rows: 2 conversations to train on",
        "Step 5: \"hello\" is answered with \"there\"",
        &format!("its model is served as {name}"),
    ] {
        assert!(said.iter().any(|said| said.contains(expected)), "{expected}\n{said:?}");
    }
    let metrics = events.iter().find(|event| event["type"] == "metrics").unwrap();
    assert_eq!(
        (&metrics["message"], &metrics["data"]["train_loss"]),
        (&json!("Step 1: training loss 1.5000"), &json!(1.5))
    );
    let page = server
        .client
        .get(&format!("/v1/fine_tuning/jobs/{id}/events?limit=2"))
        .json();
    assert_eq!(
        (page["data"].as_array().unwrap().len(), &page["has_more"]),
        (2, &json!(true))
    );
    assert!(page["data"][0]["message"].as_str().unwrap().contains("served as"));
    let checkpoints = server
        .client
        .get(&format!("/v1/fine_tuning/jobs/{id}/checkpoints"))
        .json();
    assert_eq!(checkpoints["data"][0]["fine_tuned_model_checkpoint"], name);
    assert_eq!(checkpoints["data"][0]["metrics"], json!({"step": 5, "train_loss": 5.5}));
    let results = done["result_files"][0].as_str().unwrap();
    let table = server.client.get(&format!("/v1/files/{results}/content"));
    assert!(
        table.text().starts_with("step,train/loss,train/tokens\n1,1.5,10.0\n"),
        "{}",
        table.text()
    );
    let list = server.client.get("/v1/fine_tuning/jobs").json();
    assert_eq!(
        (list["data"].as_array().unwrap().len(), &list["data"][0]["id"]),
        (1, &json!(id))
    );
    // The result can be tuned further
    let file = server.client.upload("rows.jsonl", conversations().as_bytes()).json();
    let body = json!({"model": name, "training_file": file["id"]});
    let again = server.client.post("/v1/fine_tuning/jobs", &body).json();
    let again = wait_for(&server, again["id"].as_str().unwrap(), "succeeded");
    assert!(
        again["fine_tuned_model"].as_str().unwrap().starts_with("ft:chat::"),
        "{again}"
    );
    let config = fs::read_to_string(
        tuner
            .path("store/jobs")
            .join(again["id"].as_str().unwrap())
            .join("config.toml"),
    );
    assert!(!config.unwrap().contains("[lora]"), "an adapter is tuned further");
}

#[test]
fn http_costs_are_told_and_nothing_is_made() {
    let tuner = Tuner::new();
    let server = tuner.serve();
    let file = server.client.upload("rows.jsonl", conversations().as_bytes()).json();
    let body = json!({"model": "chat", "training_file": file["id"], "suffix": "a"});
    let expected = json!({"object": "fine_tuning.plan", "steps": 5, "tokens": null, "peak_bytes": 2_000_000,
        "available_bytes": 9_000_000, "fits": true, "seconds": 3.0});
    assert_eq!(server.client.post("/v1/fine_tuning/plan", &body).json(), expected);
    fs::write(tuner.path("unfit"), "").unwrap();
    assert_eq!(
        server.client.post("/v1/fine_tuning/plan", &body).json()["fits"],
        json!(false)
    );
    fs::write(tuner.path("unusable"), "").unwrap();
    let error = server.client.post("/v1/fine_tuning/plan", &body).error(400);
    assert_eq!(
        (&error["code"], &error["message"]),
        (
            &json!("invalid_configuration"),
            &json!("rows are too long\n  hint: shorten them")
        )
    );
    let absent = json!({"model": "chat", "training_file": "file-absent"});
    let error = server.client.post("/v1/fine_tuning/plan", &absent).error(400);
    assert_eq!(error["param"], "training_file");
    assert_eq!(
        server.client.get("/v1/fine_tuning/jobs").json()["data"],
        Value::Array(Vec::new())
    );
    for folder in ["store/jobs", "store/incoming"] {
        assert_eq!(fs::read_dir(tuner.path(folder)).unwrap().count(), 0, "{folder}");
    }
}

#[test]
fn http_jobs_run_one_after_the_other() {
    let tuner = Tuner::new();
    tuner.hold();
    let server = tuner.serve();
    let first = begin(&server, "a");
    wait_for_steps(&server, &first, 2);
    let second = begin(&server, "b");
    wait_for(&server, &second, "queued");
    assert_eq!(job(&server, &first)["status"], "running");
    assert_eq!(tuner.lines("begun").len(), 1);
    tuner.let_go();
    wait_for(&server, &second, "succeeded");
    assert_eq!(job(&server, &first)["status"], "succeeded");
    let of = |lines: Vec<String>| -> Vec<String> {
        lines
            .iter()
            .map(|line| line.rsplit('/').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(of(tuner.lines("begun")), [first.clone(), second.clone()]);
    assert_eq!(of(tuner.lines("ended")), [first, second]);
}

#[test]
fn http_jobs_can_be_cancelled() {
    let tuner = Tuner::new();
    tuner.hold();
    let server = tuner.serve();
    let (first, second) = (begin(&server, "a"), begin(&server, "b"));
    wait_for_steps(&server, &first, 2);
    let cancel = |id: &str| {
        server
            .client
            .ask("POST", &format!("/v1/fine_tuning/jobs/{id}/cancel"), &[], b"")
    };
    // One that waits never begins
    assert_eq!(cancel(&second).json()["status"], "cancelled");
    assert_eq!(cancel(&first).json()["status"], "cancelled");
    let third = begin(&server, "c");
    tuner.let_go();
    wait_for(&server, &third, "succeeded");
    // The one that ran was asked to stop, and had ended before the next began
    assert_eq!(
        (
            tuner.lines("stopped").len(),
            tuner.lines("begun").len(),
            tuner.lines("ended").len()
        ),
        (1, 2, 1)
    );
    let cancelled = job(&server, &first);
    assert_eq!(
        (&cancelled["status"], &cancelled["fine_tuned_model"]),
        (&json!("cancelled"), &Value::Null)
    );
    assert!(cancelled["finished_at"].is_u64());
    assert!(said(&events(&server, &first)).contains(&"The job is cancelled"));
    let error = cancel(&third).error(400);
    assert_eq!(error["code"], "job_has_ended");
    assert!(error["message"].as_str().unwrap().contains("has succeeded already"));
    assert_eq!(cancel("ftjob-absent").error(404)["code"], "job_not_found");
}

#[test]
fn http_jobs_can_be_paused_and_go_on() {
    let tuner = Tuner::new();
    tuner.hold();
    let server = tuner.serve();
    let (first, second) = (begin(&server, "a"), begin(&server, "b"));
    wait_for_steps(&server, &first, 2);
    let ask = |id: &str, what: &str| {
        let path = format!("/v1/fine_tuning/jobs/{id}/{what}");
        server.client.ask("POST", &path, &[], b"")
    };
    let error = ask(&first, "resume").error(400);
    assert_eq!(error["code"], "invalid_status");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("is running; only one that is paused"),
        "{error}"
    );
    assert_eq!(ask(&first, "pause").json()["status"], "paused");
    assert_eq!(ask(&first, "pause").error(400)["code"], "invalid_status");
    // The next one has its turn, and the paused one stays where it is
    wait_for_steps(&server, &second, 2);
    assert_eq!((tuner.lines("stopped").len(), steps(&server, &first)), (1, vec![1, 2]));
    // One that waits can be paused as well, and given up
    let third = begin(&server, "c");
    wait_for(&server, &third, "queued");
    assert_eq!(ask(&third, "pause").json()["status"], "paused");
    assert_eq!(ask(&third, "cancel").json()["status"], "cancelled");
    tuner.let_go();
    wait_for(&server, &second, "succeeded");
    assert_eq!(job(&server, &first)["status"], "paused");
    assert_eq!(ask(&first, "resume").json()["status"], "queued");
    let done = wait_for(&server, &first, "succeeded");
    assert!(done["fine_tuned_model"].is_string());
    assert_eq!(steps(&server, &first), [1, 2, 3, 4, 5]);
    let events = events(&server, &first);
    let said = said(&events);
    for message in ["The job is paused", "The job is queued again", "The job goes on"] {
        assert!(said.contains(&message), "{message} in {said:?}");
    }
    assert_eq!(ask(&first, "pause").error(400)["code"], "invalid_status");
    assert_eq!(ask("ftjob-absent", "pause").error(404)["code"], "job_not_found");
}

#[test]
fn http_jobs_go_on_with_the_next_server() {
    let tuner = Tuner::new();
    tuner.hold();
    let mut server = tuner.serve();
    let (first, second) = (begin(&server, "a"), begin(&server, "b"));
    wait_for_steps(&server, &first, 2);
    wait_for(&server, &second, "queued");
    server.stop();
    server.join().expect("a good end");
    // The process was asked to stop, and the server waited for it
    assert_eq!(tuner.lines("stopped").len(), 1);
    drop(server);
    tuner.let_go();
    let server = tuner.serve();
    let done = wait_for(&server, &second, "succeeded");
    // The one that had begun went on before the one that waited began
    let ended = tuner.lines("ended");
    assert!(
        ended.len() == 2 && ended[0].ends_with(&first) && ended[1].ends_with(&second),
        "{ended:?}"
    );
    assert_eq!(job(&server, &first)["status"], "succeeded");
    // Every step was told once
    assert_eq!(steps(&server, &first), [1, 2, 3, 4, 5]);
    assert!(said(&events(&server, &first)).contains(&"The job goes on"));
    drop(server);
    // Results are served by every later server that has their model
    let server = tuner.serve();
    let name = done["fine_tuned_model"].as_str().unwrap();
    let answer = server
        .client
        .post("/v1/chat/completions", &with(asked("hello"), json!({"model": name})))
        .json();
    assert_eq!(answer["model"], name);
    drop(server);
    // A request without a model still means the one that was given to the server
    let server = Running::with(only_chat, tuner.options());
    let mut nameless = asked("hello");
    nameless.as_object_mut().unwrap().remove("model");
    assert_eq!(
        server.client.post("/v1/chat/completions", &nameless).json()["model"],
        "chat"
    );
    assert_eq!(
        server.client.get("/v1/models").json()["data"].as_array().unwrap().len(),
        3
    );
}

/// A server that was killed leaves processes. One whose job is not to run is asked to stop before another begins.
#[test]
#[cfg(target_os = "linux")]
fn http_what_a_killed_server_left_of_a_paused_job_is_ended() {
    let tuner = Tuner::new();
    tuner.hold();
    let mut server = tuner.serve();
    let id = begin(&server, "a");
    wait_for_steps(&server, &id, 2);
    let paused = server
        .client
        .post(&format!("/v1/fine_tuning/jobs/{id}/pause"), &json!({}));
    assert_eq!(paused.json()["status"], "paused");
    server.stop();
    server.join().expect("a good end");
    drop(server);
    let run = tuner.path("store/jobs").join(&id).join("run");
    let script = "exec 9<>lock; flock 9; echo $$ > lock; trap 'exit 75' TERM; while :; do sleep 0.02; done";
    let mut left = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(&run)
        .spawn()
        .unwrap();
    let number = format!("{}\n", left.id());
    let begun = std::time::Instant::now();
    while fs::read_to_string(run.join("lock")).unwrap_or_default() != number {
        assert!(begun.elapsed().as_secs() < 20, "the lock is not taken");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let server = tuner.serve();
    let begun = std::time::Instant::now();
    let ended = loop {
        match left.try_wait().unwrap() {
            Some(ended) => break ended,
            None if begun.elapsed().as_secs() > 20 => {
                left.kill().unwrap();
                panic!("it was left at work");
            }
            None => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    };
    assert_eq!(ended.code(), Some(75));
    assert_eq!(job(&server, &id)["status"], "paused");
}

#[test]
fn http_jobs_that_fail_say_why() {
    let tuner = Tuner::new();
    fs::write(tuner.path("fail"), "").unwrap();
    let server = tuner.serve();
    let id = begin(&server, "");
    let failed = wait_for(&server, &id, "failed");
    let message = "training went wrong\n  hint: do not";
    assert_eq!(
        failed["error"],
        json!({"code": "training_failed", "message": message, "param": null})
    );
    // It is told a moment after the job says so
    let told = |event: Value| event["level"] == "error" && event["message"] == message;
    soon("its error is told last", || {
        events(&server, &id).pop().is_some_and(told)
    });
    // One that would not fit is not begun
    fs::write(tuner.path("unfit"), "").unwrap();
    let id = begin(&server, "");
    let failed = wait_for(&server, &id, "failed");
    assert_eq!(failed["error"]["code"], "insufficient_memory");
    assert!(
        failed["error"]["message"]
            .as_str()
            .unwrap()
            .contains("about 2000000 MB of memory, and 1 MB are available")
    );
    assert_eq!(tuner.lines("begun").len(), 1);
    fs::remove_file(tuner.path("unfit")).unwrap();
    fs::remove_file(tuner.path("fail")).unwrap();
    // A result that is no model
    fs::write(tuner.path("adapter/adapter_config.json"), "{}").unwrap();
    let id = begin(&server, "");
    let failed = wait_for(&server, &id, "failed");
    assert_eq!(failed["error"]["code"], "result_not_loaded");
    // A program that is not there
    fs::remove_file(tuner.path("tune.sh")).unwrap();
    let id = begin(&server, "");
    let failed = wait_for(&server, &id, "failed");
    assert_eq!(failed["error"]["code"], "not_started");
}

#[test]
fn http_jobs_that_cannot_be_are_refused_with_their_field() {
    let tuner = Tuner::new();
    let server = tuner.serve();
    let file = |rows: &str| server.client.upload("rows.jsonl", rows.as_bytes()).json()["id"].clone();
    let good = file(&conversations());
    let question = r#"{"messages": [{"role": "user", "content": "who?"}], "answer": "fox"}"#;
    let mixed = file(&format!("{}{question}\n", conversations()));
    let questions = file(question);
    let pair = json!({"input": {"messages": [{"role": "user", "content": "q"}]},
        "preferred_output": [{"role": "assistant", "content": "a"}], "non_preferred_output": [{"role": "assistant", "content": "b"}]});
    let pairs = file(&pair.to_string());
    let asked = |fields: Value| with(json!({"model": "chat", "training_file": good}), fields);
    let grader = json!({"type": "string_check", "input": "{{sample.output_text}}", "reference": "{{item.gold}}", "operation": "eq"});
    let practised = json!({"type": "reinforcement", "reinforcement": {"grader": grader}});
    let cases = [
        (json!({"training_file": good}), "model", "is missing"),
        (asked(json!({"model": "absent"})), "model", "not served here"),
        (asked(json!({"model": "reward"})), "model", "is a reward model"),
        (
            asked(json!({"model": "tuned"})),
            "model",
            "where `tuned` stands is not known",
        ),
        (json!({"model": "chat"}), "training_file", "is missing"),
        (
            asked(json!({"training_file": "file-absent"})),
            "training_file",
            "there is no file",
        ),
        (
            asked(json!({"training_file": pairs})),
            "training_file",
            "does not hold what the supervised method learns from",
        ),
        (
            asked(json!({"training_file": mixed})),
            "training_file",
            "line 3: `messages` ends without a reply",
        ),
        (
            asked(json!({"validation_file": good})),
            "validation_file",
            "line 1: begins as line 1 of the training file",
        ),
        (
            asked(json!({"method": {"type": "dpo"}})),
            "training_file",
            "non_preferred_output",
        ),
        (
            asked(json!({"method": {"type": "magic"}})),
            "method.type",
            "expected supervised, dpo or reinforcement",
        ),
        (
            asked(json!({"method": {"type": "supervised", "dpo": {}}})),
            "dpo",
            "is no parameter",
        ),
        (
            asked(json!({"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epoch": 1}}}})),
            "method.supervised.hyperparameters.n_epoch",
            "did you mean `n_epochs`?",
        ),
        (
            asked(json!({"hyperparameters": {"n_epochs": 0}})),
            "hyperparameters.n_epochs",
            "from 1 to 1000",
        ),
        (asked(json!({"suffix": "a:b"})), "suffix", "up to 64 letters"),
        (asked(json!({"seed": -1})), "seed", "whole number"),
        (
            asked(json!({"integrations": [{"type": "wandb"}]})),
            "integrations",
            "not supported",
        ),
        (
            asked(json!({"trainingfile": 1})),
            "trainingfile",
            "did you mean `training_file`?",
        ),
        (
            asked(json!({"method": {"type": "reinforcement"}})),
            "method.reinforcement.grader",
            "is missing",
        ),
        (
            asked(json!({"method": practised})),
            "training_file",
            "line 1: `messages` ends with a reply",
        ),
        (
            asked(json!({"method": practised, "training_file": questions})),
            "training_file",
            "line 1: has no `gold`, which a grader reads",
        ),
    ];
    for (body, param, said) in cases {
        let answer = server.client.post("/v1/fine_tuning/jobs", &body);
        assert!(matches!(answer.status, 400 | 404), "{body}: {}", answer.text());
        let error = answer.error(answer.status);
        let message = error["message"].as_str().unwrap();
        let got = error["param"].as_str().unwrap_or_default();
        assert!(
            got.ends_with(param) && message.contains(said),
            "{body}\n{got}: {message}\nshould say {said}"
        );
    }
    assert_eq!(server.client.get("/v1/fine_tuning/jobs").json()["data"], json!([]));
    assert_eq!(fs::read_dir(tuner.path("store/jobs")).unwrap().count(), 0);
    let absent = server.client.get("/v1/fine_tuning/jobs/ftjob-absent/events").error(404);
    assert_eq!(absent["code"], "job_not_found");
}

#[test]
fn http_jobs_of_the_other_methods_have_their_stage() {
    let tuner = Tuner::new();
    let server = tuner.serve();
    let file = |rows: &str| server.client.upload("rows.jsonl", rows.as_bytes()).json()["id"].clone();
    let pair = json!({"input": {"messages": [{"role": "user", "content": "q"}]},
        "preferred_output": [{"role": "assistant", "content": "a"}], "non_preferred_output": [{"role": "assistant", "content": "b"}]});
    let dpo = json!({"model": "chat", "training_file": file(&pair.to_string()),
        "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3}}}});
    let dpo = server.client.post("/v1/fine_tuning/jobs", &dpo).json();
    let question = r#"{"messages": [{"role": "user", "content": "who?"}], "answer": "fox"}"#;
    let check = json!({"type": "string_check", "input": "{{sample.output_text}}", "reference": "{{item.answer}}", "operation": "eq"});
    let grader = json!({"type": "multi", "calculate_output": "a + 0.5 * b",
        "graders": {"a": check, "b": {"type": "score_model", "name": "b", "model": "reward"}}});
    let practised = json!({"model": "chat", "training_file": file(question), "metadata": {"who": "me"},
        "method": {"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": {"batch_size": 2}}}});
    let practised = server.client.post("/v1/fine_tuning/jobs", &practised).json();
    assert_eq!(practised["method"]["reinforcement"]["grader"], grader);
    assert_eq!(practised["metadata"], json!({"who": "me"}));
    wait_for(&server, practised["id"].as_str().unwrap(), "succeeded");
    let stages: Vec<String> = tuner
        .lines("begun")
        .iter()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(stages, ["preference", "grpo"]);
    let config = |job: &Value| {
        fs::read_to_string(
            tuner
                .path("store/jobs")
                .join(job["id"].as_str().unwrap())
                .join("config.toml"),
        )
        .unwrap()
    };
    assert!(config(&dpo).contains("beta = 0.3"));
    let text = config(&practised);
    assert!(
        text.contains("[[rewards]]") && text.contains("kind = \"model\"") && text.contains("rollout_batch = 16"),
        "{text}"
    );
}

#[test]
fn http_the_page_of_jobs_shows_what_there_is() {
    let tuner = Tuner::new();
    let server = tuner.serve();
    let id = begin(&server, "");
    wait_until(&server, &id, &|job| job["fine_tuned_model"].is_string());
    let page = server.client.get("/fine-tuning");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let text = page.text();
    assert!(
        text.contains(&id) && text.contains("rows.jsonl, 2 rows") && text.contains("data-locked=\"no\""),
        "{text}"
    );
    // A reward model cannot be tuned, and what a grader's template says is text
    assert!(!text.contains("<option value=\"reward\">") && text.contains("{{ sample.output_text }}"));
    assert!(
        page.header("content-security-policy")
            .unwrap()
            .contains("script-src 'self'")
    );
    assert!(server.client.get("/").text().contains("href=\"/fine-tuning\""));
    for (path, kind) in [
        ("/assets/fine-tuning.js", "text/javascript"),
        ("/assets/fine-tuning.css", "text/css"),
    ] {
        assert!(
            server
                .client
                .get(path)
                .header("content-type")
                .unwrap()
                .starts_with(kind),
            "{path}"
        );
    }
    drop(server);
    // Where a token is asked for, the page names nothing
    let token = "0123456789abcdef0123456789abcdef".to_owned();
    let locked = Running::with(
        only_chat,
        hone_serve::Options {
            tokens: vec![token],
            ..tuner.options()
        },
    );
    let page = locked.client.get("/fine-tuning");
    assert!(
        page.text().contains("data-locked=\"yes\"")
            && !page.text().contains(&id)
            && !page.text().contains("rows.jsonl")
    );
}
