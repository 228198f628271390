//! Real public files, where `HONE_DATA` names the folder that holds them.

use std::path::{Path, PathBuf};

use hone_data::{
    Container, Format, LoadReport, Opening, Source, hold_out, inspect, load_demonstrations, load_documents,
    load_prompts, load_rankings,
};

fn folder() -> Option<PathBuf> {
    std::env::var_os("HONE_DATA").map(PathBuf::from)
}

fn counts(report: &LoadReport) -> (Format, u64, u64, u64) {
    (report.format, report.rows, report.bad, report.items)
}

#[test]
fn texts() {
    let Some(data) = folder() else { return };
    let load = |name: &str| load_documents(&Source::new(data.join("text").join(name))).unwrap();
    let plays = load("tinyshakespeare.txt");
    assert_eq!(counts(&plays.report), (Format::PlainText, 1, 0, 1));
    assert_eq!(plays.items[0].text.len(), 1_115_394);
    let novel = load("war-and-peace.txt.gz");
    assert_eq!(counts(&novel.report), (Format::PlainText, 1, 0, 1));
    assert!((3_200_000..3_300_000).contains(&novel.items[0].text.len()));
    let web = load("c4-demo.jsonl");
    assert_eq!(counts(&web.report), (Format::Text, 300, 0, 300));
    assert_eq!(web.report.container, Container::JsonLines);
    let wiki = load("wiki-demo.txt");
    assert!(wiki.items.iter().map(|d| d.text.len()).sum::<usize>() > 900_000);
}

#[test]
fn instructions() {
    let Some(data) = folder() else { return };
    let load = |name: &str| load_demonstrations(&Source::new(data.join("instructions").join(name))).unwrap();
    assert_eq!(
        counts(&load("alpaca_en_demo.json").report),
        (Format::Alpaca, 999, 0, 999)
    );
    assert_eq!(
        counts(&load("gsm8k-train.jsonl.gz").report),
        (Format::QuestionAnswer, 7473, 0, 7473)
    );
    let templates = load("p3-templates.jsonl.gz");
    assert_eq!(counts(&templates.report), (Format::PromptCompletion, 29_059, 0, 29_059));
    assert!(templates.items.iter().all(|d| d.extra["template"].is_string()));
    let problems = load_prompts(&Source::new(data.join("instructions/gsm8k-train.jsonl.gz"))).unwrap();
    assert!(
        problems
            .items
            .iter()
            .all(|p| p.extra["answer"].as_str().unwrap().contains("#### "))
    );
}

#[test]
fn preferences() {
    let Some(data) = folder() else { return };
    let load = |name: &str| load_rankings(&Source::new(data.join("preferences").join(name)));
    let hh = load("hh-harmless.jsonl.gz").unwrap();
    assert_eq!(counts(&hh.report), (Format::HhTranscripts, 1800, 2, 1798));
    assert!(
        hh.report
            .samples_of_bad
            .iter()
            .all(|b| b.reason.contains("share no prompt"))
    );
    assert!(hh.items.iter().all(|r| r.prompt.last().unwrap().role == "user"));
    let dpo = load("dpo-en-demo.json").unwrap();
    assert_eq!(counts(&dpo.report), (Format::SharegptPreference, 299, 0, 299));
    let trees = load("oasst-trees.jsonl.gz").unwrap();
    let (format, rows, bad, items) = counts(&trees.report);
    assert_eq!((format, rows, bad), (Format::OpenAssistant, 100, 0));
    // every message of a prompter with at least two ranked replies
    assert_eq!(items, 212);
    let split = hold_out(trees.items, 0.05).unwrap();
    let openings = |side: &[hone_data::Ranking]| {
        side.iter()
            .map(Opening::opening)
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert!(openings(&split.train).is_disjoint(&openings(&split.held_out)));
    assert!((11..30).contains(&split.held_out.len()));
    let error = load("lfs-pointer.jsonl.gz").unwrap_err().to_string();
    assert!(error.contains("git lfs pull"), "{error}");
}

#[test]
fn every_file_can_be_inspected() {
    let Some(data) = folder() else { return };
    for part in ["text", "instructions", "preferences"] {
        for entry in std::fs::read_dir(Path::new(&data).join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("lfs")) {
                continue;
            }
            let found = inspect(&Source::new(&path)).unwrap();
            assert!(
                found.format.is_some() && found.rows > 0 && !found.lengths.is_empty(),
                "{}",
                path.display()
            );
        }
    }
}
