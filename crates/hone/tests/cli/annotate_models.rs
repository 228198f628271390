//! `hone annotate --models`: answers are sampled on the fly, once.

use std::collections::BTreeSet;
use std::fs;

use hone_data::annotations::{Degree, Judgement, Record, Role, Store, Submission, TaskKind};
use serde_json::Value;

use crate::annotate::served;
use crate::stages::Stages;

const MODELS: [&str; 11] = [
    "--db",
    "fly.db",
    "--prompts",
    "asked.jsonl",
    "--models",
    "a=model,b=adapter",
    "--k",
    "4",
    "--max-new-tokens",
    "6",
    "--seed=3",
];

/// Skips nothing: ranks everything as it comes, and gives the records.
fn records(stages: &Stages) -> Vec<Record> {
    let store = Store::open(&stages.fixture.path("fly.db")).unwrap();
    let project = store.only_project("").unwrap();
    let ann = store
        .put_annotator("ann", Role::Annotator, &Store::token_digest("t"), 0)
        .unwrap();
    while let Some(task) = store.claim(&project, ann.id, 0).unwrap() {
        let submission = Submission {
            lease: task.lease,
            annotator: ann.id,
            judgement: Judgement {
                ranking: Some((0..task.input.responses.len()).map(|i| vec![i]).collect()),
                degree: (task.kind == TaskKind::Pair).then_some(Degree::Better),
                ..Judgement::default()
            },
            started: 0,
            active: None,
        };
        store.submit(submission, 0).unwrap();
    }
    store.records(&project).unwrap()
}

/// Prompts as messages.
fn asked() -> String {
    let row = |i: usize| format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"who {i}?\"}}]}}\n");
    (0..24).map(row).collect()
}

/// The rows of `hone sample --json` for a model.
fn sampled(stages: &Stages, model: &str) -> Vec<Value> {
    let arguments = [
        "sample",
        "--model",
        model,
        "--input",
        "asked.jsonl",
        "--n",
        "2",
        "--json",
    ];
    let how = ["--max-new-tokens", "6", "--seed", "3"];
    stages.fixture.hone(&[&arguments[..], &how].concat()).json()
}

#[test]
fn cli_annotate_samples_as_hone_sample_does_and_only_once() {
    let stages = Stages::new();
    let fixture = &stages.fixture;
    fixture.file("asked.jsonl", asked());
    let (_, said) = served(&stages, &MODELS);
    assert!(said.contains("a: 24 of 24 prompts are to be answered"), "{said}");
    let found = records(&stages);
    assert!(found.len() > 12, "{}", found.len());
    let rows = [("a", sampled(&stages, "model")), ("b", sampled(&stages, "adapter"))];
    let mut models = BTreeSet::new();
    for record in &found {
        let asked = &record.prompt[0].content;
        for response in &record.responses {
            let name = response.model.as_deref().unwrap();
            let (_, rows) = rows.iter().find(|(known, _)| *known == name).unwrap();
            let row = rows.iter().find(|row| {
                row["prompt"][0]["content"] == asked.as_str() && row["completion"] == response.text.as_str()
            });
            let row = row.unwrap_or_else(|| panic!("{asked}: {response:?}"));
            assert_eq!(Some(&row["sampling"]), response.sampling.as_ref());
            assert_eq!(row["sampling"]["seed"], 3);
            assert_eq!(row["weights"].as_str(), response.weights.as_deref());
            models.insert((name.to_owned(), response.weights.clone()));
        }
    }
    // Two models, of which the adapter's digest has that of its base in it
    assert_eq!(models.len(), 2);
    let [(_, Some(base)), (_, Some(adapter))] = &models.into_iter().collect::<Vec<_>>()[..] else {
        panic!("no digests");
    };
    assert!(adapter.starts_with(&format!("{base}+")), "{adapter} {base}");

    // The same again samples nothing; one more prompt is one more prompt
    let (_, said) = served(&stages, &MODELS);
    assert!(
        said.contains(&format!("0 items added, {} known", found.len())),
        "{said}"
    );
    assert!(!said.contains("are to be answered"), "{said}");
    let prompts = fixture.path("asked.jsonl");
    let before = fs::read_to_string(&prompts).unwrap();
    fs::write(&prompts, format!("{before}{{\"prompt\":\"who else?\"}}\n")).unwrap();
    let (_, said) = served(&stages, &MODELS);
    assert!(said.contains("a: 1 of 25 prompts are to be answered"), "{said}");

    // What a kill left in the middle of a line is completed to the same bytes
    let files = || -> Vec<_> {
        let entries = fs::read_dir(fixture.path("fly.db.samples")).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.is_file());
        paths.sort();
        paths
    };
    assert_eq!(files().len(), 2);
    for path in files() {
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        served(&stages, &MODELS);
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
    // Another temperature gives other answers, in files of their own
    served(&stages, &[&MODELS[..], &["--temperature", "0.5"]].concat());
    assert_eq!(files().len(), 4);
}

#[test]
fn cli_a_projects_file_names_models_and_answers_of_rows_stay() {
    let stages = Stages::new();
    let fixture = &stages.fixture;
    fixture.file("asked.jsonl", asked());
    let rows =
        "{\"prompt\":\"who 1?\"}\n{\"prompt\":\"mine?\",\"responses\":[\"one\",\"two\"]}\n{\"prompt\":\"who 1?\"}\n";
    fixture.file("mixed.jsonl", rows);
    let project = "store = \"fly.db\"\nanswers = 2\nprompts = [\"mixed.jsonl\"]\n[models]\nonly = \"model\"\n\
                   [sampling]\nmax_new_tokens = 6\nseed = 3\n";
    fixture.file("fly.toml", project);
    let (_, said) = served(&stages, &["--project", "fly.toml"]);
    assert!(said.contains("only: 1 of 1 prompts are to be answered"), "{said}");
    assert!(said.contains("2 items added, 0 known"), "{said}");
    let found = records(&stages);
    let own = found.iter().find(|record| record.prompt[0].content == "mine?").unwrap();
    assert_eq!(
        (own.responses[0].text.as_str(), &own.responses[0].model),
        ("one", &None)
    );
    let other = found
        .iter()
        .find(|record| record.prompt[0].content == "who 1?")
        .unwrap();
    assert!(other.responses.iter().all(|r| r.model.as_deref() == Some("only")));

    let wrong = |set: &str, said: &[&str]| {
        fixture
            .hone(&["annotate", "--project", "fly.toml", "--set", set])
            .fails(2, said);
    };
    for (set, said) in [
        (
            "temperature=-1",
            "temperature: is -1; expected 0 or a finite number above 0",
        ),
        ("top_k=0", "top_k: is 0; expected at least 1"),
        ("top_p=1.1", "top_p: is 1.1; expected above 0 and at most 1"),
        ("min_p=-0.1", "min_p: is -0.1; expected 0 to 1"),
        ("max_new_tokens=0", "max_new_tokens: is 0; expected at least 1"),
    ] {
        wrong(&format!("sampling.{set}"), &[&format!("fly.toml: sampling.{said}")]);
    }
    wrong("sampling.temprature=1", &["temprature", "temperature"]);
    let refused = |more: &[&str], said: &[&str]| {
        let arguments = ["annotate", "--db", "refused.db"];
        fixture.hone(&[&arguments[..], more].concat()).fails(2, said);
    };
    refused(&["--models", "model"], &["--prompts"]);
    let twice = ["--prompts", "asked.jsonl", "--models", "a=model,a=adapter"];
    refused(&twice, &["two models called `a`", "hint: name them apart"]);
    fixture.file("answered.jsonl", "{\"prompt\":\"p\",\"responses\":[\"x\",\"y\"]}\n");
    let none = ["--prompts", "answered.jsonl", "--models", "model"];
    refused(&none, &["no prompt without answers", "hint: "]);
    // What could not be added afterwards is not sampled
    let pairs = [
        "--prompts",
        "asked.jsonl",
        "--models",
        "model",
        "--kind",
        "pair",
        "--k",
        "4",
    ];
    fixture
        .hone(&[&["annotate", "--db", "pairs.db"], &pairs[..]].concat())
        .fails(2, &["--k is 4; a task of kind `pair` shows 2 answers"]);
    assert!(!fixture.path("pairs.db").exists());
    fixture.file(
        "pairs.toml",
        format!("kind = \"pair\"\n{}", project.replace("= 2", "= 3")),
    );
    fixture
        .hone(&["annotate", "--project", "pairs.toml"])
        .fails(2, &["pairs.toml: answers is 3; a task of kind `pair` shows 2 answers"]);
    let ends = "{\"prompt\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]}\n";
    fixture.file("ends.jsonl", format!("{}{ends}", asked()));
    fixture
        .hone(&[
            "annotate",
            "--db",
            "ends.db",
            "--prompts",
            "ends.jsonl",
            "--models",
            "model",
        ])
        .fails(1, &["item 25: the prompt ends with the assistant's turn"]);
    assert!(!fixture.path("ends.db.samples").exists());
}

#[test]
fn cli_pairs_of_models_have_two_answers() {
    let stages = Stages::new();
    stages.fixture.file("asked.jsonl", asked());
    let arguments = [
        "--db",
        "fly.db",
        "--prompts",
        "asked.jsonl",
        "--models",
        "model",
        "--kind",
        "pair",
    ];
    let more = ["--max-new-tokens", "6", "--seed=3"];
    served(&stages, &[&arguments[..], &more].concat());
    let found = records(&stages);
    assert!(!found.is_empty() && found.iter().all(|record| record.responses.len() == 2));
}
