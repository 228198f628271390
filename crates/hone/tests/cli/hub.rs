//! Hub ids against a local stub of the hub.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::common::Fixture;
use crate::stages::{Stages, promised};

const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

/// Each request's path, and its authorization.
type Log = Mutex<Vec<(String, Option<String>)>>;

/// A hub with one model, `org/tiny`; it lives as long as the test's process.
struct Stub {
    endpoint: String,
    seen: Arc<Log>,
}

impl Stub {
    fn new(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Log::default());
        let (files, log) = (Arc::new(files), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (files, log) = (Arc::clone(&files), Arc::clone(&log));
                std::thread::spawn(move || answer(&stream.unwrap(), &files, &log));
            }
        });
        Self { endpoint, seen }
    }
}

fn answer(stream: &TcpStream, files: &BTreeMap<String, Vec<u8>>, log: &Log) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(path) = lines.next().and_then(|line| Some(line.split(' ').nth(1)?.to_string())) else {
        return;
    };
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        let found = headers
            .iter()
            .filter_map(|h| h.split_once(": "))
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_string())
    };
    log.lock().unwrap().push((path.clone(), header("authorization")));
    let respond = |status: &str, more: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{more}\r\n",
            body.len()
        );
        let mut out = stream;
        let _ = out.write_all(head.as_bytes()).and_then(|()| out.write_all(body));
    };
    if path == "/api/models/org/tiny/revision/main" {
        let siblings: Vec<_> = files.keys().map(|name| json!({ "rfilename": name })).collect();
        return respond(
            "200 OK",
            "Content-Type: application/json\r\n",
            json!({ "sha": SHA, "siblings": siblings }).to_string().as_bytes(),
        );
    }
    let Some(content) = path
        .strip_prefix(&format!("/org/tiny/resolve/{SHA}/"))
        .and_then(|name| files.get(name))
    else {
        return respond("404 Not Found", "", b"");
    };
    let range = header("range").unwrap_or_default();
    let (start, end) = range.trim_start_matches("bytes=").split_once('-').unwrap_or(("0", ""));
    let (start, last) = (start.parse().unwrap_or(0), content.len() - 1);
    let end = end.parse().unwrap_or(last).min(last);
    let etag = format!("{}-{}", path.rsplit('/').next().unwrap(), content.len());
    let more = format!(
        "Content-Range: bytes {start}-{end}/{}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {SHA}\r\n",
        content.len()
    );
    respond("206 Partial Content", &more, &content[start..=end]);
}

fn files_of(fixture: &Fixture) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(fixture.path("model")).unwrap().map(Result::unwrap);
    let mut files: BTreeMap<_, _> = entries
        .map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap()))
        .collect();
    files.insert("README.md".into(), b"not needed".to_vec());
    files
}

const RUN: [&str; 7] = [
    "sample",
    "--model",
    "org/tiny",
    "--prompt",
    "the",
    "--json",
    "--max-new-tokens=4",
];

#[test]
fn cli_hub_ids_are_downloaded_once_and_found_offline() {
    let fixture = Fixture::new();
    let stub = Stub::new(files_of(&fixture));
    let online = [
        ("HF_ENDPOINT", stub.endpoint.as_str()),
        ("HF_HUB_OFFLINE", ""),
        ("HF_TOKEN", "secret"),
    ];
    let first = fixture.hone_with(&RUN, "", &online);
    let local = fixture.hone(&RUN.map(|a| if a == "org/tiny" { "model" } else { a }));
    // The same of all but the name that was given
    let mut named = local.json();
    for row in &mut named {
        row["model"] = "org/tiny".into();
    }
    assert_eq!(first.json(), named);
    let seen = std::mem::take(&mut *stub.seen.lock().unwrap());
    assert!(
        seen.iter().all(|(_, token)| token.as_deref() == Some("Bearer secret")),
        "{seen:?}"
    );
    assert!(seen.iter().any(|(path, _)| path.ends_with("/model.safetensors")));
    assert!(!seen.iter().any(|(path, _)| path.ends_with("README.md")));
    // Again: only the list of files is asked for
    assert_eq!(fixture.hone_with(&RUN, "", &online).stdout(), first.stdout());
    assert_eq!(stub.seen.lock().unwrap().len(), 1);
    // Offline by request, and without a hub that answers
    let offline = [("HF_ENDPOINT", stub.endpoint.as_str()), ("HF_HUB_OFFLINE", "1")];
    assert_eq!(fixture.hone_with(&RUN, "", &offline).stdout(), first.stdout());
    assert_eq!(stub.seen.lock().unwrap().len(), 1);
    let gone = fixture.hone_with(
        &RUN,
        "",
        &[("HF_ENDPOINT", "http://127.0.0.1:9"), ("HF_HUB_OFFLINE", "0")],
    );
    assert_eq!(gone.stdout(), first.stdout());
    assert!(
        gone.stderr().contains("taking the copy in the cache"),
        "{}",
        gone.stderr()
    );
}

#[test]
fn cli_hub_models_that_cannot_be_had() {
    let fixture = Fixture::new();
    let mut files = files_of(&fixture);
    let weights = files.remove("model.safetensors").unwrap();
    files.insert("pytorch_model.bin".into(), weights);
    let stub = Stub::new(files);
    let online = [("HF_ENDPOINT", stub.endpoint.as_str()), ("HF_HUB_OFFLINE", "")];
    fixture
        .hone_with(&RUN, "", &online)
        .fails(1, &["org/tiny@main", "pytorch_model.bin", "never read"]);
    let other = RUN.map(|a| if a == "org/tiny" { "org/other" } else { a });
    fixture
        .hone_with(&other, "", &online)
        .fails(1, &["org/other@main", "404", "HF_TOKEN"]);
}

/// A stage takes a hub id where it takes a directory, comes to the same, and stays with the commit it began with.
#[test]
fn cli_stages_start_from_hub_ids() {
    let stages = Stages::new();
    let stub = Stub::new(files_of(&stages.fixture));
    let online = [("HF_ENDPOINT", stub.endpoint.as_str()), ("HF_HUB_OFFLINE", "")];
    let sft = |name: &str, set: &str, environment: &[(&str, &str)]| {
        let arguments = ["sft", "sft.toml", "--name", name, "--set", set];
        stages.fixture.hone_with(&arguments, "", environment)
    };
    let local = sft("local", "model.path=model", &[]);
    assert_eq!(local.code(), 0, "{}", local.stderr());
    // Not there yet: it says what was looked for, and where the key stands
    sft("hub", "model.path=org/tiny", &[]).fails(
        1,
        &[
            "--set model.path=org/tiny: model.path: org/tiny is no directory here",
            "HF_HUB_OFFLINE is set",
        ],
    );
    let first = sft("hub", "model.path=org/tiny", &online);
    assert_eq!(first.code(), 0, "{}", first.stderr());
    // Manifests of checkpoints tell configurations apart
    let result = |name: &str| {
        let mut files = promised(&stages.dir(name));
        files.retain(|(name, _)| !name.ends_with("MANIFEST.json"));
        files
    };
    assert!(result("local") == result("hub"), "the same weights, the same run");
    let commits: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(stages.dir("hub/hub.json")).unwrap()).unwrap();
    assert_eq!(commits, json!({ "org/tiny": SHA }));
    // Offline from the cache; the recorded commit needs no look at the hub
    let asked = stub.seen.lock().unwrap().len();
    assert_eq!(sft("offline", "model.path=org/tiny", &[]).code(), 0);
    fs::remove_dir_all(stages.dir("hub/checkpoints")).unwrap();
    fs::remove_file(stages.dir("hub/finished.json")).unwrap();
    let again = sft("hub", "model.path=org/tiny", &online);
    assert_eq!(again.code(), 0, "{}", again.stderr());
    assert_eq!(stub.seen.lock().unwrap().len(), asked);
}
