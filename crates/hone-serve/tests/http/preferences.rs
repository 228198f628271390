//! Which of two answers somebody prefers, from the page into a store of annotations.

use std::collections::BTreeMap;
use std::path::Path;

use hone_data::annotations::{Role, Settings, Store, TaskKind};
use hone_data::{Source, load_rankings};
use hone_serve::{AnnotationOptions, Options, ServeError, Server};
use serde_json::{Value, json};

use crate::client::Client;
use crate::common::{Running, asked, engine, models};
use crate::tuner::{Tuner, begin, conversations, wait_for};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn options(store: &Path, project: Option<&str>) -> Options {
    let weights = [("chat", "c0"), ("tuned", "c0+t0")].map(|(name, digest)| (name.to_owned(), digest.to_owned()));
    Options {
        port: 0,
        tokens: vec![TOKEN.into()],
        annotations: Some(AnnotationOptions {
            store: store.into(),
            project: project.map(String::from),
            weights: BTreeMap::from(weights),
        }),
        ..Options::default()
    }
}

fn preference() -> Value {
    json!({
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}],
        "responses": [
            {"model": "tuned", "text": "What?", "sampling": {"temperature": 0.5, "max_tokens": 64, "seed": 7}},
            {"model": "chat", "text": "Hello!", "sampling": {"temperature": 1, "top_k": 3}},
        ],
        "preferred": 1,
        "annotator": "ann",
        "seconds": 2.5,
    })
}

#[test]
fn http_a_preference_is_a_record_that_training_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let server = Running::with(models, options(&path, None));
    let kept = server.client.post("/preferences", &preference()).json();
    assert_eq!(
        (&kept["object"], &kept["project"]),
        (&json!("preference"), &json!("chat"))
    );
    assert_eq!(kept["counts"], true);
    // The same again is the same; another choice replaces it
    assert_eq!(server.client.post("/preferences", &preference()).json(), kept);
    let mut other = preference();
    other["preferred"] = json!(0);
    let replaced = server.client.post("/preferences", &other).json();
    assert_ne!(replaced["event"], kept["event"]);
    let store = Store::open_to_read(&path).unwrap();
    let records = store.records(&store.project("chat").unwrap()).unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].supersedes, kept["event"].as_i64());
    let record = &records[0];
    assert_eq!((record.kind, record.annotator.as_str()), (TaskKind::Rank, "ann"));
    assert_eq!(record.shown, [0, 1]);
    // What the page measured, and the moments until it was stored
    assert!((2500..7500).contains(&(record.submitted - record.started)));
    let roles: Vec<&str> = record.prompt.iter().map(|m| m.role.as_str()).collect();
    assert_eq!(roles, ["system", "user"]);
    let [first, second] = &record.responses[..] else {
        panic!("{record:?}");
    };
    assert_eq!(
        (first.model.as_deref(), first.weights.as_deref()),
        (Some("tuned"), Some("c0+t0"))
    );
    assert_eq!(
        first.sampling,
        Some(json!({"temperature": 0.5, "max_tokens": 64, "seed": 7}))
    );
    assert_eq!(
        (second.text.as_str(), second.weights.as_deref()),
        ("Hello!", Some("c0"))
    );
    // Training reads what stands
    let ranked = load_rankings(&Source::new(&path)).unwrap().items;
    assert_eq!(ranked.len(), 1);
    assert_eq!(
        (ranked[0].groups.clone(), ranked[0].responses[0].as_str()),
        (vec![vec![0], vec![1]], "What?")
    );
    // A link of the pages of annotation still signs nobody in by a name alone
    assert_eq!(store.annotators().unwrap()[0].name, "ann");
}

#[test]
fn http_preferences_are_refused_to_strangers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let server = Running::with(models, options(&path, None));
    let stranger = Client {
        token: None,
        ..server.client.clone()
    };
    assert_eq!(
        stranger.post("/preferences", &preference()).error(401)["code"],
        "invalid_api_key"
    );
    let body = preference().to_string();
    let with = |headers: &[(&str, &str)], body: &[u8]| server.client.ask("POST", "/preferences", headers, body);
    let json = ("Content-Type", "application/json");
    with(&[json, ("Origin", "http://evil.example")], body.as_bytes()).error(403);
    with(&[json, ("Host", "evil.example")], body.as_bytes()).error(403);
    with(&[("Content-Type", "text/plain")], body.as_bytes()).error(415);
    with(&[json], &[b' '; (1 << 20) + 1]).error(413);
    let store = Store::open_to_read(&path).unwrap();
    assert_eq!(store.progress(&store.project("chat").unwrap()).unwrap().items, 0);
}

#[test]
fn http_what_is_no_preference_is_refused_by_parameter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let server = Running::with(models, options(&path, None));
    let with = |pointer: &str, value: Value| {
        let mut body = preference();
        let (at, name) = pointer.rsplit_once('/').unwrap();
        let object = body.pointer_mut(at).unwrap().as_object_mut().unwrap();
        match value {
            Value::Null => object.remove(name),
            value => object.insert(name.to_owned(), value),
        };
        body
    };
    let reply = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    for (pointer, value, status, param) in [
        ("/messages", Value::Null, 400, "messages"),
        ("/messages", json!("Hello?"), 400, "messages"),
        ("/messages", reply, 400, "messages"),
        ("/responses", Value::Null, 400, "responses"),
        ("/responses", json!([{"model": "chat", "text": "a"}]), 400, "responses"),
        ("/responses", json!(["a", "b"]), 400, "responses[0]"),
        ("/responses/0/model", Value::Null, 400, "responses[0].model"),
        ("/responses/0/model", json!("absent"), 404, "responses[0].model"),
        ("/responses/1/model", json!("reward"), 400, "responses[1].model"),
        ("/responses/1/text", Value::Null, 400, "responses[1].text"),
        ("/responses/0/text", json!(" Hello!\r\n"), 400, "responses"),
        ("/responses/0/weights", json!("mine"), 400, "responses[0].weights"),
        ("/responses/0/sampling", json!([1]), 400, "responses[0].sampling"),
        (
            "/responses/0/sampling/temperature",
            json!(3),
            400,
            "responses[0].sampling.temperature",
        ),
        (
            "/responses/0/sampling/note",
            json!("x"),
            400,
            "responses[0].sampling.note",
        ),
        ("/preferred", Value::Null, 400, "preferred"),
        ("/preferred", json!(2), 400, "preferred"),
        ("/preferred", json!("0"), 400, "preferred"),
        ("/annotator", json!(" "), 400, "annotator"),
        ("/annotator", json!("x".repeat(101)), 400, "annotator"),
        ("/seconds", json!(-1), 400, "seconds"),
        ("/prefered", json!(1), 400, "prefered"),
    ] {
        let error = server
            .client
            .post("/preferences", &with(pointer, value.clone()))
            .error(status);
        assert_eq!(error["param"], param, "{pointer} {value}: {error}");
    }
    let store = Store::open_to_read(&path).unwrap();
    assert_eq!(store.progress(&store.project("chat").unwrap()).unwrap().items, 0);
    assert!(store.annotators().unwrap().is_empty());
}

#[test]
fn http_the_page_offers_it_where_there_is_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::with(models, options(&folder.path().join("a.db"), None));
    let page = server.client.get("/");
    assert!(page.text().contains("data-prefers=\"yes\"") && page.text().contains("id=\"annotator\""));
    let script = server.client.get("/assets/chat.js");
    assert!(script.text().contains("fetch(\"/preferences\""));
    let without = Running::new();
    assert!(without.client.get("/").text().contains("data-prefers=\"no\""));
    let error = without.client.post("/preferences", &preference()).error(404);
    assert_eq!(error["code"], "preferences_disabled");
    assert!(error["message"].as_str().unwrap().contains("--annotations FILE.db"));
}

#[test]
fn a_project_that_is_there_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let settings = Settings {
        overlap: 3,
        ..Settings::default()
    };
    let bind = |project: Option<&str>| {
        let engine = engine();
        let models = models(&engine);
        Server::bind(engine, models, &options(&path, project)).map(|_| ())
    };
    {
        let store = Store::open(&path).unwrap();
        store.put_project("helpful", &settings, 0).unwrap();
    }
    bind(None).unwrap();
    bind(Some("helpful")).unwrap();
    let read = || Store::open_to_read(&path).unwrap();
    assert_eq!(read().projects().unwrap(), ["helpful"]);
    assert_eq!(read().project("helpful").unwrap().settings, settings);
    bind(Some("chat")).unwrap();
    assert_eq!(read().projects().unwrap(), ["helpful", "chat"]);
    let error = bind(None).unwrap_err();
    assert!(matches!(error, ServeError::Annotations(_)) && error.is_usage());
    let said = error.to_string();
    assert!(
        said.contains("helpful") && said.contains("--project-name NAME"),
        "{said}"
    );
    std::fs::write(folder.path().join("none.db"), "no store").unwrap();
    let none = Server::bind(
        engine(),
        models(&engine()),
        &options(&folder.path().join("none.db"), None),
    );
    assert!(none.err().unwrap().to_string().contains("none.db"));
}

#[test]
fn http_nobody_prefers_in_the_name_of_somebody_who_was_invited() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let server = Running::with(models, options(&path, None));
    let store = Store::open(&path).unwrap();
    store.add_annotator("ann", Role::Annotator, "digest", 0).unwrap();
    let error = server.client.post("/preferences", &preference()).error(409);
    assert_eq!(
        (&error["param"], &error["code"]),
        (&json!("annotator"), &json!("annotator_invited"))
    );
    assert!(
        error["message"].as_str().unwrap().contains("give another name"),
        "{error}"
    );
    let project = store.project("chat").unwrap();
    assert_eq!(store.progress(&project).unwrap().items, 0);
    let mut nameless = preference();
    nameless.as_object_mut().unwrap().remove("annotator");
    server.client.post("/preferences", &nameless).json();
    assert_eq!(store.records(&project).unwrap()[0].annotator, "chat");
}

#[test]
fn http_a_store_that_another_program_holds_keeps_no_other_request_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let server = Running::with(models, options(&path, None));
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let kept: Vec<_> = (0..3)
        .map(|_| {
            let client = server.client.clone();
            std::thread::spawn(move || client.post("/preferences", &preference()).json())
        })
        .collect();
    // Time to come as far as the store
    std::thread::sleep(std::time::Duration::from_millis(500));
    server.client.post("/v1/chat/completions", &asked("hello")).json();
    assert!(kept.iter().all(|kept| !kept.is_finished()), "the store is held");
    other.execute_batch("COMMIT").unwrap();
    let kept: Vec<Value> = kept.into_iter().map(|kept| kept.join().unwrap()).collect();
    assert!(kept.iter().all(|other| *other == kept[0]), "{kept:?}");
}

#[test]
fn http_weights_of_a_tuned_model_are_its_base_and_its_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let tuner = Tuner::new();
    let annotations = options(&path, None).annotations;
    let server = Running::with(
        models,
        Options {
            annotations,
            ..tuner.options()
        },
    );
    let id = begin(&server, "a");
    let first = wait_for(&server, &id, "succeeded")["fine_tuned_model"].clone();
    // Tuned further it stands on the same base
    let file = server.client.upload("rows.jsonl", conversations().as_bytes()).json();
    let body = json!({"model": first, "training_file": file["id"]});
    let further = server.client.post("/v1/fine_tuning/jobs", &body).json();
    let further = wait_for(&server, further["id"].as_str().unwrap(), "succeeded")["fine_tuned_model"].clone();
    let mut body = preference();
    body["responses"][0]["model"] = first;
    body["responses"][1]["model"] = further;
    server.client.post("/preferences", &body).json();
    let store = Store::open_to_read(&path).unwrap();
    let record = store.records(&store.project("chat").unwrap()).unwrap().remove(0);
    let made = tuner.path("store/jobs").join(&id).join("run/model");
    let own = hone_run::digest_of(&made).unwrap().unwrap();
    for response in &record.responses {
        assert_eq!(
            response.weights,
            Some(format!("c0+{own}")),
            "the script leaves one adapter"
        );
    }
}

/// Whoever compares two answers may take longer than one of the models is there.
#[test]
fn http_a_preference_for_answers_of_a_deleted_model_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let tuner = Tuner::new();
    let annotations = options(&path, None).annotations;
    let server = Running::with(
        models,
        Options {
            annotations,
            ..tuner.options()
        },
    );
    let id = begin(&server, "a");
    let made = wait_for(&server, &id, "succeeded")["fine_tuned_model"].clone();
    let of = |model: &Value| {
        let mut body = preference();
        body["responses"][0]["model"] = model.clone();
        server.client.post("/preferences", &body)
    };
    let route = format!("/v1/models/{}", made.as_str().unwrap());
    assert_eq!(server.client.ask("DELETE", &route, &[], b"").status, 200);
    of(&made).json();
    let error = of(&json!("ft:chat:a:0123")).error(404);
    assert_eq!(error["param"], "responses[0].model");
    let store = Store::open_to_read(&path).unwrap();
    let records = store.records(&store.project("chat").unwrap()).unwrap();
    assert_eq!(records.len(), 1);
    let [first, second] = &records[0].responses[..] else {
        panic!("{records:?}");
    };
    assert_eq!(
        (first.model.as_deref(), first.weights.as_deref()),
        (made.as_str(), None)
    );
    assert_eq!(second.weights.as_deref(), Some("c0"));
}
