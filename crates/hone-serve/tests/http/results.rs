//! `DELETE /v1/models/NAME`: what a job made goes, unless something needs it.

use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Answer;
use crate::common::{Running, asked, endless, with};
use crate::tuner::{Tuner, begin, conversations, events, job, wait_for, wait_for_steps};

/// Asks for a model to be deleted.
fn delete(server: &Running, name: &str) -> Answer {
    server.client.ask("DELETE", &format!("/v1/models/{name}"), &[], b"")
}

/// The names of all models.
fn names(server: &Running) -> Vec<String> {
    let models = server.client.get("/v1/models").json();
    let models = models["data"].as_array().unwrap().iter();
    models.map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

/// A model that a job made, and the job.
fn made(server: &Running, suffix: &str) -> (String, String) {
    let id = begin(server, suffix);
    let done = wait_for(server, &id, "succeeded");
    (done["fine_tuned_model"].as_str().unwrap().to_owned(), id)
}

#[test]
fn http_a_tuned_model_is_deleted_for_good() {
    let tuner = Tuner::new();
    let server = tuner.serve();
    let (name, id) = made(&server, "polite");
    let (other, _) = made(&server, "other");
    let run = tuner.path("store/jobs").join(&id).join("run");
    assert!(run.join("model").is_dir());
    let ask = |server: &Running, name: &str| {
        let body = with(asked("hello"), json!({"model": name, "temperature": 0}));
        server.client.post("/v1/chat/completions", &body)
    };
    let before = ask(&server, &other).json();
    ask(&server, &name).json();
    assert_eq!(
        delete(&server, &name).json(),
        json!({"id": name, "object": "model", "deleted": true})
    );
    assert!(!run.exists());
    let gone = |server: &Running| {
        assert!(!names(server).contains(&name));
        for answer in [
            ask(server, &name),
            delete(server, &name),
            server.client.get(&format!("/v1/models/{name}")),
        ] {
            assert_eq!(answer.error(404)["code"], "model_not_found");
        }
        let file = server.client.upload("rows.jsonl", conversations().as_bytes()).json();
        let body = json!({"model": name, "training_file": file["id"]});
        server.client.post("/v1/fine_tuning/jobs", &body).error(404);
        let kept = job(server, &id);
        assert_eq!(
            (&kept["status"], &kept["fine_tuned_model"]),
            (&json!("succeeded"), &Value::Null)
        );
        let checkpoints = format!("/v1/fine_tuning/jobs/{id}/checkpoints");
        assert_eq!(server.client.get(&checkpoints).json()["data"], json!([]));
        let told = events(server, &id);
        assert_eq!(told.last().unwrap()["message"], "The job's model is deleted");
        // Its metrics stay, and the models behind it answer as before
        let metrics = kept["result_files"][0].as_str().unwrap();
        assert_eq!(server.client.get(&format!("/v1/files/{metrics}/content")).status, 200);
        assert_eq!(ask(server, &other).json()["choices"], before["choices"]);
    };
    gone(&server);
    // Models that come later have places of their own
    let (later, _) = made(&server, "later");
    ask(&server, &later).json();
    drop(server);
    // What a crash left of it is removed
    fs::create_dir_all(run.join("model")).unwrap();
    let server = tuner.serve();
    gone(&server);
    assert!(!run.exists());
    assert!(names(&server).contains(&later));
}

#[test]
fn http_models_that_something_needs_are_kept() {
    let tuner = Tuner::new();
    let server = tuner.serve();
    let error = delete(&server, "chat").error(403);
    assert_eq!(
        (&error["code"], &error["param"]),
        (&json!("model_not_tuned_here"), &json!("model"))
    );
    assert_eq!(delete(&server, "ft:chat::0123").error(404)["code"], "model_not_found");
    let (parent, _) = made(&server, "parent");
    // A request that nobody reads the answer of
    let body = with(
        asked("hello"),
        json!({"model": parent, "n": 64, "max_tokens": 200, "stream": true, "logprobs": true, "top_logprobs": 20, "logit_bias": endless()}),
    );
    let mut unread = server.client.begin("/v1/chat/completions", &body);
    unread.read_exact(&mut [0; 64]).unwrap();
    let error = delete(&server, &parent).error(409);
    assert_eq!(
        (&error["code"], &error["param"]),
        (&json!("model_in_use"), &json!("model"))
    );
    assert!(error["message"].as_str().unwrap().contains("requests to"), "{error}");
    drop(unread);
    // A job that starts from it
    tuner.hold();
    let file = server.client.upload("rows.jsonl", conversations().as_bytes()).json();
    let body = json!({"model": parent, "training_file": file["id"], "suffix": "child"});
    let child = server.client.post("/v1/fine_tuning/jobs", &body).json();
    let child = child["id"].as_str().unwrap();
    wait_for_steps(&server, child, 2);
    let refused = |reason: &str| {
        // The request before may end a moment later than its connection
        let begun = Instant::now();
        loop {
            let error = delete(&server, &parent).error(409);
            if error["message"].as_str().unwrap().contains(reason) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{error}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    refused(&format!("the job `{child}` starts from"));
    // A model that was made from it
    tuner.let_go();
    let child = wait_for(&server, child, "succeeded");
    let child = child["fine_tuned_model"].as_str().unwrap();
    refused(&format!("`{child}` was made from"));
    assert!(names(&server).contains(&parent));
    assert_eq!(delete(&server, child).json()["deleted"], true);
    assert_eq!(delete(&server, &parent).json()["deleted"], true);
}
