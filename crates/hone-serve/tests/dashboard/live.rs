//! Runs that change while they are looked at.

use std::fs;

use serde_json::json;

use crate::common::{Board, append, finished, open, sample, settings, step};

#[test]
fn http_dashboard_follows_a_run_that_is_written() {
    let board = Board::new();
    let dir = board.path().join("run");
    let mut run = open(&dir, &settings(0.1, 40));
    step(&mut run, 1, 40);
    let first = board.client.get("/run/run");
    let tag = first.header("etag").unwrap().to_owned();
    // Nothing new: nothing is sent
    let again = board.client.ask("GET", "/run/run", &[("If-None-Match", &tag)], b"");
    assert_eq!((again.status, again.body.len()), (304, 0));
    step(&mut run, 2, 40);
    run.record_samples(&[sample(2, "p", "r")]).unwrap();
    let newer = board.client.ask("GET", "/run/run", &[("If-None-Match", &tag)], b"");
    assert_eq!(newer.status, 200);
    assert!(newer.text().contains("step 2 of 40") && newer.text().contains("All 1 samples"));
    // Half a line is no line yet
    let points = || {
        board.json("/run/run?metric=objective/scores")["charts"][0]["series"][0]["points"]
            .as_array()
            .map_or(0, Vec::len)
    };
    assert_eq!(points(), 2);
    let metrics = dir.join("metrics.jsonl");
    append(&metrics, "{\"step\":3,\"objective/sc");
    assert_eq!(points(), 2);
    append(&metrics, "ores\":0.3}\n");
    assert_eq!(points(), 3);
    assert!(board.json("/")["runs"][0]["alerts"].as_array().unwrap().is_empty());
}

#[test]
fn http_dashboard_takes_runs_that_are_cut_back_removed_and_made_anew() {
    let board = Board::new();
    let dir = board.path().join("run");
    let mut run = open(&dir, &settings(0.1, 40));
    (1..=9).for_each(|i| step(&mut run, i, 40));
    drop(run);
    assert_eq!(board.json("/run/run")["run"]["step"], 9);
    // Opened again without a checkpoint it begins at the beginning
    let mut run = open(&dir, &settings(0.1, 40));
    assert_eq!(fs::metadata(dir.join("metrics.jsonl")).unwrap().len(), 0);
    step(&mut run, 1, 40);
    let value = board.json("/run/run?metric=objective/scores");
    assert_eq!(value["charts"][0]["series"][0]["points"], json!([[1.0, 0.1]]));
    drop(run);
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(board.client.get("/run/run").status, 404);
    finished(&dir, 0.05);
    assert_eq!(board.json("/run/run")["run"]["state"], "finished");
    // The whole folder goes away, and comes back
    fs::remove_dir_all(board.path()).unwrap();
    assert_eq!(board.json("/")["all"], 0);
    fs::create_dir_all(board.path()).unwrap();
    finished(&dir, 0.05);
    assert_eq!(board.json("/")["all"], 1);
}

#[test]
fn http_dashboard_writes_and_locks_nothing() {
    let board = Board::new();
    let dir = board.path().join("run");
    finished(&dir, 0.05);
    let state = || {
        let mut files: Vec<_> = walk(&dir)
            .into_iter()
            .map(|path| (fs::read(&path).unwrap(), path))
            .collect();
        files.sort();
        files
    };
    let before = state();
    for path in ["/", "/run/run", "/run/run/samples?q=five", "/compare?runs=run,run"] {
        board.client.get(path);
    }
    assert_eq!(state(), before);
    // While it is looked at, a run can be opened
    let other = board.path().join("other");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..1000 {
                board.client.get("/");
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..20 {
            drop(open(&other, &settings(0.1, 9)));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path))
        } else {
            files.push(path)
        }
    }
    files
}
