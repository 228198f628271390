//! Exports, read back where hone reads the format.

use std::path::PathBuf;

use hone_data::annotations::{Degree, Export, Judgement, Record, Response, Rewrite, Settings, TaskKind};
use hone_data::{
    Format, Limits, Message, Ranking, Source, Unpaired, for_each_unpaired, load_demonstrations, load_rankings,
};

use super::common::{Fixture, NOW, item, prefers, ranks, settings};

/// A conversation that two people ranked, a pair, an item with a system message, and one with a written answer.
fn fixture() -> Fixture {
    let mut items = vec![
        item(TaskKind::Rank, 0, 3),
        item(TaskKind::Pair, 1, 2),
        item(TaskKind::Pair, 2, 2),
        item(TaskKind::Write, 3, 0),
    ];
    items[0].input.prompt = vec![
        Message::user("hi"),
        Message::assistant("hello"),
        Message::user("question 0?"),
    ];
    items[2].input.prompt.insert(0, Message::new("system", "be brief"));
    items[1].input.responses[0] = Response::new("answer 0 to 1");
    let fixture = Fixture::new(
        &Settings {
            overlap: 2,
            ..settings()
        },
        items,
        2,
    );
    for annotator in 0..2 {
        while let Some(task) = fixture.claim_at(annotator, NOW) {
            let judgement = match (task.kind, annotator) {
                (TaskKind::Rank, 0) => ranks(&[&[2], &[0], &[1]]),
                (TaskKind::Rank, _) => ranks(&[&[2], &[1, 0]]),
                (TaskKind::Pair, _) => Judgement {
                    degree: Some(Degree::Slightly),
                    ..prefers(annotator)
                },
                _ => Judgement {
                    rewrite: Some(Rewrite {
                        of: None,
                        text: format!("written by {annotator}"),
                    }),
                    ..Judgement::default()
                },
            };
            fixture
                .store
                .submit(fixture.submission(annotator, &task, judgement), NOW)
                .unwrap();
        }
    }
    fixture
}

fn records(fixture: &Fixture) -> Vec<Record> {
    fixture.store.records(&fixture.project).unwrap()
}

fn written(fixture: &Fixture, export: Export) -> (PathBuf, u64) {
    let path = fixture
        .folder
        .path()
        .join(format!("{}.{}", export.name(), export.ending()));
    let exported = export.rows(&records(fixture));
    export
        .write(&exported, &mut std::fs::File::create(&path).unwrap())
        .unwrap();
    (path, exported.left_out)
}

/// Every pair of every ranking as text: prompt, better, worse.
fn pairs(rankings: &[Ranking]) -> Vec<(String, String, String)> {
    let mut found: Vec<_> = rankings
        .iter()
        .flat_map(|r| {
            let prompt: Vec<&str> = r.prompt.iter().map(|m| m.content.as_str()).collect();
            let prompt = prompt.join("|");
            r.pairs()
                .into_iter()
                .map(move |(b, w)| (prompt.clone(), r.responses[b].clone(), r.responses[w].clone()))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn preferences_of_trl_read_back_as_the_same_pairs() {
    let fixture = fixture();
    let (path, left_out) = written(&fixture, Export::TrlPreference);
    let read = load_rankings(&Source::new(&path)).unwrap();
    // The two written answers are no pairs
    assert_eq!((read.report.format, read.report.bad, left_out), (Format::Pairs, 0, 2));
    let own: Vec<Ranking> = records(&fixture).iter().filter_map(Record::ranking).collect();
    assert_eq!(pairs(&read.items), pairs(&own));
    assert_eq!(
        read.items.iter().filter(|r| r.margins == Some(vec![1.0 / 3.0])).count(),
        4
    );
    assert_eq!(read.items.iter().filter(|r| r.margins.is_none()).count(), 5);
}

#[test]
fn transcripts_read_back_and_leave_out_what_they_cannot_say() {
    let fixture = fixture();
    let (path, left_out) = written(&fixture, Export::Hh);
    // The two judgements of the item with a system message, and the two written answers
    assert_eq!(left_out, 4);
    let read = load_rankings(&Source::new(&path)).unwrap();
    assert_eq!((read.report.format, read.report.bad), (Format::HhTranscripts, 0));
    let own: Vec<Ranking> = records(&fixture).iter().filter_map(Record::ranking).collect();
    let sayable: Vec<Ranking> = own.into_iter().filter(|r| r.prompt[0].role != "system").collect();
    assert_eq!(pairs(&read.items), pairs(&sayable));
    // A text that looks like the marks
    let mut records = records(&fixture);
    records.retain(|record| record.kind == TaskKind::Rank);
    records[0].responses[0].text = "a\n\nHuman: b".into();
    let exported = Export::Hh.rows(&records[..1]);
    assert_eq!((exported.rows.len(), exported.left_out), (0, 1));
}

#[test]
fn trees_read_back_with_ranks_by_mean_place() {
    let fixture = fixture();
    let (path, left_out) = written(&fixture, Export::OpenAssistant);
    assert_eq!(left_out, 2);
    let read = load_rankings(&Source::new(&path)).unwrap();
    assert_eq!((read.report.format, read.report.bad), (Format::OpenAssistant, 0));
    // The pair is undecided between the two annotators, so only the ranking of three is one: places 0, 1, 2 and 0, 1.5, 1.5
    assert_eq!(read.items.len(), 1);
    assert_eq!(read.items[0].groups, [vec![2], vec![0], vec![1]]);
    assert_eq!(read.items[0].prompt.len(), 3);
}

#[test]
fn written_answers_and_single_judgements_read_back() {
    let fixture = fixture();
    let (path, _) = written(&fixture, Export::Messages);
    let read = load_demonstrations(&Source::new(&path)).unwrap();
    let mut texts: Vec<String> = read.items.iter().map(|d| d.messages[1].content.clone()).collect();
    texts.sort();
    assert_eq!(
        (read.report.format, texts),
        (Format::Messages, vec!["written by 0".into(), "written by 1".into()])
    );
    let (path, _) = written(&fixture, Export::Unpaired);
    let mut got: Vec<Unpaired> = Vec::new();
    for_each_unpaired(&Source::new(&path), &Limits::default(), &mut |row| {
        got.push(row);
        Ok(())
    })
    .unwrap();
    let own: Vec<Unpaired> = records(&fixture).iter().flat_map(Record::unpaired).collect();
    assert_eq!(got, own);
    assert_eq!(own.len(), 2);
}

#[test]
fn annotations_of_alpaca_eval_have_its_columns() {
    let fixture = fixture();
    let exported = Export::AlpacaEval.rows(&records(&fixture));
    // Of the items with one turn: the pair, judged by two. The ranked conversation, the one with a system message, and what was written
    // are left out
    assert_eq!((exported.rows.len(), exported.left_out), (2, 6));
    let row = &exported.rows[0];
    let keys: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "instruction",
        "output_1",
        "generator_1",
        "output_2",
        "generator_2",
        "annotator",
        "preference",
    ];
    assert_eq!(keys, expected);
    assert_eq!(
        (&row["instruction"], &row["generator_1"], &row["generator_2"]),
        (&"question 1?".into(), &"unknown".into(), &"model 1".into())
    );
    let mut preferences: Vec<f64> = exported
        .rows
        .iter()
        .map(|row| row["preference"].as_f64().unwrap())
        .collect();
    preferences.sort_by(f64::total_cmp);
    assert_eq!(preferences, [1.0, 2.0]);
    let mut text = Vec::new();
    Export::AlpacaEval.write(&exported, &mut text).unwrap();
    assert_eq!(
        serde_json::from_slice::<Vec<serde_json::Value>>(&text).unwrap(),
        exported.rows
    );
}

#[test]
fn names_are_found_again() {
    for export in Export::ALL {
        assert_eq!(Export::of_name(export.name()), Some(export));
    }
    assert_eq!(Export::of_name("other"), None);
}

/// The digest says which guideline a judgement was made under, and the export what it says: once.
#[test]
fn records_tell_the_guideline_that_people_saw() {
    let mut fixture = Fixture::pairs(4, 1);
    let text = |number: usize| format!("Guideline {number}: be kind.");
    for round in 0..4 {
        let settings = Settings {
            guideline: text(round / 2),
            ..settings()
        };
        fixture.project = fixture.store.put_project("helpful", &settings, NOW).unwrap();
        let task = fixture.claim_at(0, NOW).unwrap();
        let submission = fixture.submission(0, &task, prefers(0));
        fixture.store.submit(submission, NOW).unwrap();
    }
    let told: Vec<Option<String>> = records(&fixture).into_iter().map(|record| record.guideline).collect();
    assert_eq!(told, [Some(text(0)), None, Some(text(1)), None]);
    let (path, _) = written(&fixture, Export::Records);
    let lines = std::fs::read_to_string(&path).unwrap();
    let digests: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["guideline_digest"].clone())
        .collect();
    assert!(digests[0] == digests[1] && digests[1] != digests[2] && digests[2] == digests[3]);
    for number in 0..2 {
        assert_eq!(lines.matches(&text(number)).count(), 1);
    }
    // It is read as the store is
    let read = |path: PathBuf| load_rankings(&Source::new(path)).unwrap().items;
    assert_eq!(read(path), read(fixture.store.path().to_path_buf()));
}
