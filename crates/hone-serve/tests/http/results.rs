//! `DELETE /v1/models/NAME`: what a job made goes, unless something needs it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Answer;
use crate::common::{Running, asked, endless, models, with};
use crate::tuner::{Tuner, begin, conversations, events, job, soon, wait_for, wait_for_steps};

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

/// Asks a model.
fn ask(server: &Running, name: &str) -> Answer {
    let body = with(asked("hello"), json!({"model": name, "temperature": 0}));
    server.client.post("/v1/chat/completions", &body)
}

/// How often it was told that a job's model is deleted.
fn times_deleted(server: &Running, id: &str) -> usize {
    let told = events(server, id);
    let deleted = |event: &&Value| event["message"] == "The job's model is deleted";
    told.iter().filter(deleted).count()
}

#[test]
fn http_a_tuned_model_is_deleted_for_good() {
    let tuner = Tuner::new();
    let server = tuner.serve();
    let (name, id) = made(&server, "polite");
    let (other, _) = made(&server, "other");
    let run = tuner.path("store/jobs").join(&id).join("run");
    assert!(run.join("model").is_dir());
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

/// The files of a result may be given to the next server, under another name or its own.
#[test]
fn http_models_that_were_given_keep_their_files() {
    let tuner = Tuner::new();
    let server = tuner.serve();
    let (name, id) = made(&server, "polite");
    drop(server);
    let folder = tuner.path("store/jobs").join(&id);
    let link = tuner.path("link");
    std::os::unix::fs::symlink(folder.join("run/model"), &link).unwrap();
    let stays = || assert!(folder.join("run/model/adapter_config.json").is_file());
    let mut given = tuner.options();
    let sources = &mut given.jobs.as_mut().unwrap().sources;
    sources.insert("tuned".into(), link);
    let server = Running::with(models, given.clone());
    let error = delete(&server, &name).error(409);
    assert_eq!(error["code"], "model_in_use");
    assert!(
        error["message"].as_str().unwrap().contains("`tuned`, which was given"),
        "{error}"
    );
    assert!(names(&server).contains(&name));
    ask(&server, &name).json();
    stays();
    drop(server);
    let of_its_name = |engine: &_| {
        let mut all = models(engine);
        all[2].name.clone_from(&name);
        all
    };
    let server = Running::with(of_its_name, tuner.options());
    assert_eq!(delete(&server, &name).error(403)["code"], "model_not_tuned_here");
    assert!(names(&server).contains(&name));
    ask(&server, &name).json();
    stays();
    drop(server);
    // Nor are they what is left of a deletion, while they are given
    let document = folder.join("job.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&document).unwrap()).unwrap();
    record["deleted"] = json!(true);
    fs::write(&document, record.to_string()).unwrap();
    drop(Running::with(models, given));
    stays();
    drop(tuner.serve());
    assert!(!folder.join("run").exists());
}

#[test]
fn http_a_deletion_that_fails_can_be_asked_for_again() {
    let tuner = Tuner::new();
    let server = tuner.serve();
    let (name, id) = made(&server, "polite");
    let folder = tuner.path("store/jobs").join(&id);
    // What cannot be noted is not done
    let held = Unwritable::new(&folder.join("job.json"));
    delete(&server, &name).error(500);
    drop(held);
    assert!(folder.join("run/model").is_dir());
    assert!(names(&server).contains(&name));
    ask(&server, &name).json();
    // What cannot be removed is served no more
    let run = folder.join("run");
    fs::remove_dir_all(&run).unwrap();
    fs::write(&run, "no folder").unwrap();
    for _ in 0..2 {
        let error = delete(&server, &name).error(500);
        assert!(
            error["message"].as_str().unwrap().contains("delete it again"),
            "{error}"
        );
        assert!(!names(&server).contains(&name));
        assert_eq!(job(&server, &id)["fine_tuned_model"], Value::Null);
    }
    fs::remove_file(&run).unwrap();
    fs::create_dir_all(run.join("model")).unwrap();
    assert_eq!(delete(&server, &name).json()["deleted"], true);
    assert!(!run.exists());
    assert_eq!(delete(&server, &name).error(404)["code"], "model_not_found");
    assert_eq!(times_deleted(&server, &id), 1);
}

#[test]
fn http_of_deletions_at_once_one_deletes() {
    let tuner = Tuner::new();
    let server = tuner.serve();
    let (name, id) = made(&server, "polite");
    let run = tuner.path("store/jobs").join(&id).join("run");
    // Enough that its removal takes a while
    for i in 0..2000 {
        fs::write(run.join(format!("{i}")), "").unwrap();
    }
    let statuses = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| delete(&server, &name).status)).collect();
        let mut statuses: Vec<u16> = asked.into_iter().map(|one| one.join().unwrap()).collect();
        statuses.sort_unstable();
        statuses
    });
    assert_eq!(statuses, [200, 404, 404, 404, 404, 404, 404, 404]);
    assert_eq!(times_deleted(&server, &id), 1);
    assert!(!run.exists());
}

/// A document that cannot be replaced: a folder stands in its place.
struct Unwritable(PathBuf);

impl Unwritable {
    fn new(document: &Path) -> Self {
        fs::remove_file(document).unwrap();
        fs::create_dir(document).unwrap();
        Self(document.to_path_buf())
    }
}

impl Drop for Unwritable {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}

/// A job that ends and cannot say so, as where the disk is full or where it was cancelled in this moment.
#[test]
fn http_a_model_that_no_job_names_is_not_served() {
    let tuner = Tuner::new();
    tuner.hold();
    let server = tuner.serve();
    let id = begin(&server, "polite");
    wait_for_steps(&server, &id, 2);
    let held = Unwritable::new(&tuner.path("store/jobs").join(&id).join("job.json"));
    tuner.let_go();
    soon("it ended, and was tried again", || tuner.lines("ended").len() >= 2);
    let tuned = |server: &Running| names(server).iter().filter(|name| name.starts_with("ft:")).count();
    assert_eq!(tuned(&server), 0);
    drop(held);
    let done = wait_for(&server, &id, "succeeded");
    assert_eq!(tuned(&server), 1);
    let name = done["fine_tuned_model"].as_str().unwrap();
    // It has the place that the engine gave it
    let tuned_answer = ask(&server, name).json();
    assert_ne!(tuned_answer["choices"], ask(&server, "chat").json()["choices"]);
    assert_eq!(delete(&server, name).json()["deleted"], true);
    assert_eq!(tuned(&server), 0);
}
