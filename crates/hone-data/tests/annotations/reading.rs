//! A store as a source of data.

use std::path::Path;

use hone_data::annotations::{Degree, Export, Judgement, Rewrite, Settings, TaskKind, content_digest, is_store};
use hone_data::{
    Container, DataError, Format, Kind, Limits, Message, Source, for_each_unpaired, inspect, load_demonstrations,
    load_prompts, load_rankings,
};

use super::common::{Fixture, NOW, item, prefers, ranks, settings};

/// One item of each kind: ranked, compared, rated, written.
fn judged() -> Fixture {
    let kinds = [
        (TaskKind::Rank, 4),
        (TaskKind::Pair, 2),
        (TaskKind::Rate, 3),
        (TaskKind::Write, 1),
    ];
    let items = kinds
        .iter()
        .enumerate()
        .map(|(i, (kind, k))| item(*kind, i, *k))
        .collect();
    let fixture = Fixture::new(
        &Settings {
            overlap: 1,
            ..settings()
        },
        items,
        1,
    );
    for _ in 0..4 {
        let task = fixture.claim(0);
        let judgement = match task.kind {
            TaskKind::Rank => ranks(&[&[2], &[0, 3], &[1]]),
            TaskKind::Pair => Judgement {
                degree: Some(Degree::Much),
                ..prefers(1)
            },
            TaskKind::Rate => Judgement {
                ratings: vec![Some(7), Some(4), Some(1)],
                ..Judgement::default()
            },
            _ => Judgement {
                rewrite: Some(Rewrite {
                    of: Some(0),
                    text: "a better answer".into(),
                }),
                ..Judgement::default()
            },
        };
        fixture
            .store
            .submit(fixture.submission(0, &task, judgement), NOW)
            .unwrap();
    }
    fixture
}

fn check(path: &Path) {
    let source = Source::new(path);
    let mut rankings = load_rankings(&source).unwrap();
    assert_eq!(rankings.report.format, Format::Annotations);
    assert_eq!(
        (rankings.report.rows, rankings.report.bad, rankings.report.items),
        (4, 0, 2)
    );
    assert_eq!(rankings.report.notes, ["2 rows hold nothing to compare"]);
    rankings.items.sort_by_key(|ranking| ranking.responses.len());
    let (pair, ranked) = (&rankings.items[0], &rankings.items[1]);
    assert_eq!(ranked.prompt, [Message::user("question 0?")]);
    assert_eq!(ranked.responses[2], "answer 2 to 0");
    assert_eq!(
        (&ranked.groups, &ranked.margins),
        (&vec![vec![2], vec![0, 3], vec![1]], &None)
    );
    assert_eq!(
        (&pair.groups, &pair.margins),
        (&vec![vec![1], vec![0]], &Some(vec![1.0]))
    );
    let written = load_demonstrations(&source).unwrap();
    assert_eq!(written.items.len(), 1);
    assert_eq!(
        written.items[0].messages,
        [Message::user("question 3?"), Message::assistant("a better answer")]
    );
    assert_eq!(written.items[0].extra["annotator"], "annotator 0");
    assert_eq!(written.report.notes, ["3 rows hold no answer that somebody wrote"]);
    let mut labels = Vec::new();
    for_each_unpaired(&source, &Limits::default(), &mut |row| {
        labels.push((row.completion, row.label));
        Ok(())
    })
    .unwrap();
    labels.sort();
    let expected = [
        ("a better answer", true),
        ("answer 0 to 2", true),
        ("answer 2 to 2", false),
    ];
    assert_eq!(labels, expected.map(|(text, label)| (text.to_string(), label)));
    let error = load_prompts(&source).unwrap_err();
    assert!(matches!(error, DataError::WrongKind { .. }), "{error}");
    let found = inspect(&source).unwrap();
    assert_eq!(
        (found.format, found.kind, found.rows, found.bad),
        (Some(Format::Annotations), Some(Kind::Preferences), 4, 0)
    );
    assert!(
        found
            .columns
            .iter()
            .any(|column| column.name == "judgement" && column.present == 4)
    );
}

#[test]
fn a_store_is_read_without_an_export_also_while_it_is_open() {
    let fixture = judged();
    let path = fixture.store.path().to_path_buf();
    check(&path);
    let Fixture { folder, store, .. } = fixture;
    drop(store);
    check(&path);
    assert_eq!(inspect(&Source::new(&path)).unwrap().container, Container::Sqlite);
    drop(folder);
}

#[test]
fn the_export_in_our_own_form_reads_the_same() {
    let fixture = judged();
    let records = fixture.store.records(&fixture.project).unwrap();
    let path = fixture.folder.path().join("records.jsonl");
    let exported = Export::Records.rows(&records);
    Export::Records
        .write(&exported, &mut std::fs::File::create(&path).unwrap())
        .unwrap();
    check(&path);
}

#[test]
fn only_what_stands_and_counts_is_read() {
    let fixture = judged();
    let before = load_rankings(&Source::new(fixture.store.path())).unwrap().report;
    // Everything is undone
    for _ in 0..4 {
        fixture.undo(0).unwrap();
    }
    assert_eq!(before.items, 2);
    let error = load_rankings(&Source::new(fixture.store.path())).unwrap_err();
    assert!(matches!(error, DataError::NoRows { rows: 0, .. }), "{error}");
    let records = fixture.store.records(&fixture.project).unwrap();
    assert_eq!(records.len(), 8);
    assert!(
        Export::ALL[1..]
            .iter()
            .all(|export| export.rows(&records).rows.is_empty())
    );
}

#[test]
fn a_store_of_written_answers_holds_conversations() {
    let fixture = Fixture::new(&settings(), vec![item(TaskKind::Write, 0, 0)], 1);
    let task = fixture.claim(0);
    let judgement = Judgement {
        rewrite: Some(Rewrite {
            of: None,
            text: "from scratch".into(),
        }),
        ..Judgement::default()
    };
    fixture
        .store
        .submit(fixture.submission(0, &task, judgement), NOW)
        .unwrap();
    let found = inspect(&Source::new(fixture.store.path())).unwrap();
    assert_eq!((found.kind, found.bad), (Some(Kind::Conversations), 0));
    let error = load_rankings(&Source::new(fixture.store.path()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("has no rows that can be used (1 read)"), "{error}");
}

#[test]
fn other_sqlite_files_and_damaged_stores_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    let mut header = b"SQLite format 3\0".to_vec();
    header.resize(4096, 0);
    std::fs::write(&path, &header).unwrap();
    let error = load_rankings(&Source::new(&path)).unwrap_err().to_string();
    assert!(error.contains("other.db") && error.contains("SQLite: "), "{error}");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut packed, &header).unwrap();
    std::fs::write(&path, packed.finish().unwrap()).unwrap();
    let error = load_rankings(&Source::new(&path)).unwrap_err().to_string();
    assert!(error.contains("a compressed SQLite file; decompress it"), "{error}");
}

#[test]
fn a_closed_store_is_one_file() {
    let fixture = judged();
    let Fixture { folder, store, .. } = fixture;
    drop(store);
    load_rankings(&Source::new(folder.path().join("annotations.db"))).unwrap();
    let names: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["annotations.db"]);
}

#[test]
fn a_store_is_told_by_what_it_holds_and_not_by_its_bytes() {
    let fixture = Fixture::pairs(3, 1);
    let path = fixture.store.path();
    assert!(is_store(path) && !is_store(&fixture.folder.path().join("absent")));
    let empty = content_digest(path).unwrap();
    // A task that is taken changes bytes and nothing that training reads
    fixture.claim(0);
    assert_eq!(content_digest(path).unwrap(), empty);
    let bytes = std::fs::read(path).unwrap();
    fixture.judge(0);
    assert_eq!(std::fs::read(path).unwrap(), bytes, "the judgement stands in the log");
    let judged = content_digest(path).unwrap();
    assert_ne!(judged, empty);
    fixture.undo(0).unwrap();
    assert_eq!(content_digest(path).unwrap(), empty);
    fixture.judge(0);
    let judged = content_digest(path).unwrap();
    let path = path.to_path_buf();
    let Fixture { folder, store, .. } = fixture;
    drop(store);
    assert_ne!(std::fs::read(&path).unwrap(), bytes, "closing writes the log back");
    assert_eq!(content_digest(&path).unwrap(), judged);
    drop(folder);
}

#[test]
fn judgements_of_two_projects_are_not_mixed() {
    let fixture = Fixture::pairs(1, 1);
    fixture.judge(0);
    let store = &fixture.store;
    let other = store.put_project("harmless", &settings(), NOW).unwrap();
    store.add_items(&other, vec![item(TaskKind::Pair, 5, 2)]).unwrap();
    let source = Source::new(store.path());
    assert_eq!(load_rankings(&source).unwrap().items.len(), 1);
    let task = store.claim(&other, fixture.annotators[0].id, NOW).unwrap().unwrap();
    store.submit(fixture.submission(0, &task, prefers(0)), NOW).unwrap();
    let error = load_rankings(&source).err().unwrap().to_string();
    assert!(
        error.contains("2 projects: helpful, harmless") && error.contains("--export records"),
        "{error}"
    );
}
