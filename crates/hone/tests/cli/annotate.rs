//! `hone annotate` as a program: it serves until it is stopped, and stages read what was judged.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use hone_data::annotations::{Degree, Judgement, Rewrite, Role, Store, Submission};

use crate::stages::Stages;

const PROJECT: &str = "name = \"helpful\"\nstore = \"annotations.db\"\nkind = \"pair\"\nanswers = 2\n[samples]\na = \"a.jsonl\"\n\
                       b = \"b.jsonl\"\n[settings]\nseed = 3\ngold_share = 0.0\nguideline = \"Be kind.\"\n";

/// A project with answers of two models to 24 prompts.
fn project() -> Stages {
    let stages = Stages::new();
    for name in ["a", "b"] {
        let rows: String = (0..24)
            .map(|i| {
                format!(
                    "{{\"prompt\": \"who {i}?\", \"completion\": \"the fox {name}\", \"finish_reason\": \"stop\"}}\n"
                )
            })
            .collect();
        stages.fixture.file(&format!("{name}.jsonl"), rows);
    }
    stages.fixture.file("project.toml", PROJECT);
    stages
}

/// Judges everything as an annotator who writes a better answer each time.
fn judge(path: &Path) {
    let store = Store::open(path).unwrap();
    let project = store.project("helpful").unwrap();
    let annotator = store
        .add_annotator("ann", Role::Annotator, &Store::token_digest("t"), 0)
        .unwrap();
    while let Some(task) = store.claim(&project, annotator.id, 0).unwrap() {
        let better = task
            .input
            .responses
            .iter()
            .position(|r| r.model.as_deref() == Some("b"))
            .unwrap();
        let submission = Submission {
            lease: task.lease,
            annotator: annotator.id,
            judgement: Judgement {
                ranking: Some(vec![vec![better], vec![1 - better]]),
                degree: Some(Degree::Better),
                rewrite: Some(Rewrite {
                    of: Some(better),
                    text: "the dog".into(),
                }),
                ..Judgement::default()
            },
            started: 0,
            active: Some(1000),
        };
        store.submit(submission, 0).unwrap();
    }
}

/// Serves until the owner was signed in by the link; gives back the answer that did it and what the program said.
pub(crate) fn served(stages: &Stages, arguments: &[&str]) -> (String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hone"))
        .args(["annotate", "--port", "0"])
        .args(arguments)
        .current_dir(stages.fixture.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut link = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut link)
        .unwrap();
    let Some((address, path)) = link
        .trim()
        .strip_prefix("http://")
        .filter(|rest| rest.starts_with("127.0.0.1:"))
        .and_then(|rest| rest.split_once('/'))
    else {
        let output = child.wait_with_output().unwrap();
        panic!("no link in {link:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let ask = |request: String| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let page = ask(format!(
        "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    ));
    assert!(
        page.starts_with("HTTP/1.1 200") && page.contains("as <strong>owner</strong>"),
        "{page}"
    );
    let hidden = |name: &str| {
        let mark = format!("name=\"{name}\" value=\"");
        page.split(&mark)
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap()
            .to_owned()
    };
    let form = format!("token={}&session={}", hidden("token"), hidden("session"));
    let answer = ask(format!(
        "POST /join HTTP/1.1\r\nHost: {address}\r\nOrigin: http://{address}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    ));
    let stopped = Command::new("sh")
        .args(["-c", &format!("kill -TERM {}", child.id())])
        .status()
        .unwrap();
    assert!(stopped.success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    (answer, said)
}

/// The link that is printed can be opened where it is printed, also if all of the machine's addresses are listened on.
#[test]
fn cli_annotate_prints_a_link_that_a_browser_opens() {
    let stages = project();
    let (answer, said) = served(&stages, &["--project", "project.toml", "--host", "0.0.0.0"]);
    assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
    assert!(
        said.contains("others open http://ADDRESS:") && said.contains("--name HOST"),
        "{said}"
    );
    let (_, said) = served(&stages, &["--project", "project.toml"]);
    assert!(!said.contains("ADDRESS"), "{said}");
}

#[test]
fn cli_annotate_serves_its_link_and_stops_in_good_order() {
    let stages = project();
    let (answer, said) = served(&stages, &["--project", "project.toml"]);
    assert!(
        answer.starts_with("HTTP/1.1 303") && answer.contains("HttpOnly; SameSite=Strict"),
        "{answer}"
    );
    assert!(said.contains("24 items added, 0 known already"), "{said}");
    let store = Store::open(&stages.fixture.path("annotations.db")).unwrap();
    let project = store.project("helpful").unwrap();
    assert_eq!(
        (store.progress(&project).unwrap().items, project.settings.seed),
        (24, 3)
    );
}

#[test]
fn cli_annotate_changes_only_what_it_is_told() {
    let stages = project();
    let fixture = &stages.fixture;
    let export = |more: &[&str]| {
        let mut arguments = vec!["annotate", "--db", "annotations.db", "--export", "records"];
        arguments.extend_from_slice(more);
        fixture.hone(&arguments)
    };
    // There is nothing to export, and nothing is made
    export(&[]).fails(1, &["annotations.db"]);
    assert!(!fixture.path("annotations.db").exists());
    served(&stages, &["--project", "project.toml"]);
    judge(&fixture.path("annotations.db"));
    let settings = || {
        let store = Store::open_to_read(&fixture.path("annotations.db")).unwrap();
        (store.projects().unwrap(), store.only_project("").unwrap().settings)
    };
    let before = settings();
    let exported = export(&[]);
    assert_eq!((exported.code(), exported.stdout().lines().count()), (0, 24));
    assert_eq!(settings(), before);
    export(&["--project-name", "other"]).fails(1, &["no project `other`; there is helpful"]);
    assert_eq!(settings(), before);
    // Serving goes on as before, but for what is said
    served(&stages, &["--db", "annotations.db"]);
    assert_eq!(settings(), before);
    served(&stages, &["--db", "annotations.db", "--overlap", "2"]);
    let (names, now) = settings();
    assert_eq!((names, now.overlap), (before.0.clone(), 2));
    assert_eq!(hone_data::annotations::Settings { overlap: 1, ..now }, before.1);
    let twice = [
        "annotate",
        "--samples",
        "a=a.jsonl",
        "--samples",
        "a=b.jsonl",
        "--db",
        "other.db",
    ];
    fixture.hone(&twice).fails(2, &["names the model `a` twice", "hint: "]);
}

/// A run goes on with the judgements that it began with, or not at all.
#[test]
fn cli_a_run_does_not_go_on_with_other_judgements() {
    let stages = project();
    let path = stages.fixture.path("annotations.db");
    served(&stages, &["--project", "project.toml"]);
    judge(&path);
    let train = || stages.run("reward", "held", &["--set", "data.train=[\"annotations.db\"]"]);
    let first = train();
    assert_eq!(first.code(), 0, "{}", first.stderr());
    // Serving changes bytes of the file, and nothing that training reads
    let bytes = std::fs::read(&path).unwrap();
    served(&stages, &["--project", "project.toml"]);
    assert_ne!(std::fs::read(&path).unwrap(), bytes);
    let again = train();
    assert_eq!(again.code(), 0, "{}", again.stderr());
    let store = Store::open(&path).unwrap();
    let project = store.project("helpful").unwrap();
    let ann = store
        .annotators()
        .unwrap()
        .into_iter()
        .find(|a| a.name == "ann")
        .unwrap();
    let last = store.last_event(&project, ann.id).unwrap().unwrap();
    store.undo(&project, ann.id, last, 0).unwrap();
    let refused = train();
    assert_ne!(refused.code(), 0, "{}", refused.stderr());
    assert!(refused.stderr().contains("annotations.db"), "{}", refused.stderr());
}

#[test]
fn cli_stages_learn_from_a_store() {
    let stages = project();
    served(&stages, &["--project", "project.toml"]);
    let exported = stages
        .fixture
        .hone(&["annotate", "--project", "project.toml", "--export", "records"]);
    assert_eq!(
        (exported.code(), exported.stdout()),
        (0, String::new()),
        "{}",
        exported.stderr()
    );
    judge(&stages.fixture.path("annotations.db"));
    for stage in ["reward", "preference", "sft"] {
        let ran = stages.run(
            stage,
            &format!("{stage}-annotations"),
            &["--set", "data.train=[\"annotations.db\"]"],
        );
        assert_eq!(ran.code(), 0, "{stage}: {}", ran.stderr());
    }
    let found = stages
        .fixture
        .hone(&["data", "inspect", "annotations.db", "--json"])
        .json();
    assert_eq!(
        (found[0]["format"].as_str(), found[0]["rows"].as_u64()),
        (Some("annotations"), Some(24))
    );
    let shown = stages.fixture.hone(&["data", "preview", "annotations.db"]).stdout();
    assert!(
        shown.contains("place 1 of 2") && shown.contains("[the fox b]"),
        "{shown}"
    );
    let out = [
        "annotate",
        "--project",
        "project.toml",
        "--export",
        "trl-preference",
        "--out",
        "pairs.jsonl",
    ];
    assert_eq!(stages.fixture.hone(&out).code(), 0);
    let pairs = std::fs::read_to_string(stages.fixture.path("pairs.jsonl")).unwrap();
    assert_eq!(pairs.lines().count(), 24);
    assert!(pairs.contains("\"margin\":0.66"), "{pairs}");
}

#[test]
fn cli_annotate_says_what_is_wrong() {
    let stages = project();
    let fixture = &stages.fixture;
    fixture
        .hone(&["annotate", "--db", "empty.db"])
        .fails(2, &["the project `project` has no items", "hint: give --prompts"]);
    fixture
        .hone(&["annotate", "--kind", "judge"])
        .fails(2, &["expected one of rank, pair"]);
    let wrong = ["annotate", "--project", "project.toml", "--set", "settings.overlapp=2"];
    fixture.hone(&wrong).fails(2, &["overlapp", "overlap"]);
    let wrong = ["annotate", "--project", "project.toml", "--set", "settings.overlap=0"];
    fixture
        .hone(&wrong)
        .fails(2, &["project.toml: settings: `overlap` is 0, expected 1 to 1000"]);
    assert!(!fixture.path("annotations.db").exists());
    let wrong = ["annotate", "--db", "a.jsonl", "--prompts", "a.jsonl"];
    fixture.hone(&wrong).fails(1, &["a.jsonl", "SQLite: "]);
}
