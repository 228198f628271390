//! What was acknowledged is there after `kill -9`, once.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use hone_data::annotations::Store;
use hone_math::Key;

use super::common::{Fixture, NOW, prefers};

/// Names the store in which the child process judges.
const STORE: &str = "HONE_TEST_ANNOTATIONS";

/// Judges without end, and says what was acknowledged. It does something only where [`STORE`] is set, by the test below.
#[test]
fn the_child_that_judges() {
    let Ok(path) = std::env::var(STORE) else {
        return;
    };
    let store = Store::open(Path::new(&path)).unwrap();
    let project = store.project("helpful").unwrap();
    let annotators = store.annotators().unwrap();
    std::thread::scope(|scope| {
        for annotator in &annotators {
            let (store, project) = (&store, &project);
            scope.spawn(move || {
                while let Some(task) = store.claim(project, annotator.id, NOW).unwrap() {
                    let submission = hone_data::annotations::Submission {
                        lease: task.lease,
                        annotator: annotator.id,
                        judgement: prefers(task.shown[0]),
                        started: NOW,
                        active: Some(task.lease),
                    };
                    let event = store.submit(submission, NOW).unwrap().event;
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "acknowledged {event} {} {}", task.item, annotator.name).unwrap();
                    out.flush().unwrap();
                }
            });
        }
    });
}

/// `HONE_KILLS` says how often; 20 times where it is not set.
#[test]
fn every_acknowledged_judgement_survives_a_kill() {
    let kills = std::env::var("HONE_KILLS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(20);
    let fixture = Fixture::pairs(300 * kills, 4);
    let path = fixture.store.path().to_path_buf();
    let Fixture { folder, store, .. } = fixture;
    drop(store);
    let mut acknowledged: BTreeMap<i64, (i64, String)> = BTreeMap::new();
    for round in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "kill::the_child_that_judges",
                "--nocapture",
                "--test-threads",
                "1",
            ])
            .env(STORE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let patience = Key::new(1, "kills", 0).below(round as u64, 60) + 1;
        let mut seen = 0;
        // Lines that were written before the kill are read after it, too
        while let Some(Ok(line)) = lines.next() {
            let Some(said) = line.split("acknowledged ").nth(1) else {
                continue;
            };
            let mut words = said.splitn(3, ' ');
            let mut number = || words.next().and_then(|word| word.parse().ok());
            if let (Some(event), Some(item)) = (number(), number()) {
                let before = acknowledged.insert(event, (item, words.next().unwrap_or_default().to_string()));
                assert!(before.is_none(), "event {event} was acknowledged twice");
            }
            seen += 1;
            if seen == patience {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= patience, "the child ended by itself after {seen}");
    }
    let store = Store::open(&path).unwrap();
    let project = store.project("helpful").unwrap();
    let records = store.records(&project).unwrap();
    let stored: BTreeMap<i64, (i64, String)> = records
        .iter()
        .map(|r| (r.event, (r.item, r.annotator.clone())))
        .collect();
    assert_eq!(stored.len(), records.len());
    assert!(acknowledged.len() >= kills);
    for (event, place) in &acknowledged {
        assert_eq!(stored.get(event), Some(place), "event {event}");
    }
    // Whatever was cut off, no item has more than its places
    let mut places: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.counts()) {
        places.entry(record.item).or_default().push(&record.annotator);
    }
    assert!(places.values().all(|annotators| annotators.len() <= 2));
    assert!(places.values().all(|a| a.len() < 2 || a[0] != a[1]));
    drop(folder);
}
