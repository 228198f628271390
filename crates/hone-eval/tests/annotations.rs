//! The report on annotations, by hand.

use hone_data::Message;
use hone_data::annotations::{Degree, Judgement, Record, Response, Status, TaskKind};
use hone_eval::{Bootstrap, annotation_report};
use hone_math::Key;

fn record(item: i64, annotator: &str, ranking: &[&[usize]]) -> Record {
    Record {
        event: item,
        supersedes: None,
        status: Status::Judged,
        live: true,
        surplus: false,
        project: "p".into(),
        item,
        kind: TaskKind::Pair,
        input_digest: String::new(),
        task_digest: String::new(),
        gold: None,
        prompt: vec![Message::user("q")],
        responses: vec![Response::new("short"), Response::new("rather longer")],
        shown: vec![0, 1],
        judgement: Some(Judgement {
            ranking: Some(ranking.iter().map(|group| group.to_vec()).collect()),
            degree: Some(Degree::Better),
            ..Judgement::default()
        }),
        reason: None,
        annotator: annotator.into(),
        round: 0,
        guideline_digest: String::new(),
        started: 0,
        submitted: 0,
        active_ms: 1000 * item,
    }
}

fn draws() -> Bootstrap {
    Bootstrap {
        resamples: 200,
        ..Bootstrap::new(Key::new(1, "report", 0))
    }
}

const FIRST: &[&[usize]] = &[&[0], &[1]];
const SECOND: &[&[usize]] = &[&[1], &[0]];

#[test]
fn agreement_of_two_people_by_hand() {
    // Cohen's example of 20, 5, 10, 15: kappa 0.4
    let mut records = Vec::new();
    for (count, ann, bob) in [
        (20, FIRST, FIRST),
        (5, FIRST, SECOND),
        (10, SECOND, FIRST),
        (15, SECOND, SECOND),
    ] {
        for _ in 0..count {
            let item = records.len() as i64 / 2 + 1;
            records.push(record(item, "ann", ann));
            records.push(record(item, "bob", bob));
        }
    }
    let report = annotation_report(&records, &draws()).unwrap();
    assert_eq!((report.judgements, report.items, report.pairs.len()), (100, 50, 1));
    let pair = &report.pairs[0];
    let kappa = pair.kappa.unwrap();
    assert!((kappa.value - 0.4).abs() < 1e-12 && kappa.low < 0.4 && 0.4 < kappa.high && kappa.n == 50);
    assert_eq!(
        (pair.annotators.join(" "), pair.items, pair.rating_kappa),
        ("ann bob".into(), 50, None)
    );
    // Tau of two answers is 1 or -1: 35 times the one, 15 times the other
    assert!((pair.tau.unwrap().value - 0.4).abs() < 1e-12);
    // Of 100 values 55 say first: disagreement 15/50 * 2 against 2 * 55 * 45 / (100 * 99)
    let preference = &report.questions[0];
    let alpha = 1.0 - (15.0 / 50.0) / (2.0 * 55.0 * 45.0 / (100.0 * 99.0));
    assert!(
        (preference.alpha.unwrap().value - alpha).abs() < 1e-12,
        "{preference:?}"
    );
    assert!((preference.fleiss.unwrap() - (0.7 - 0.505) / 0.495).abs() < 1e-12);
    // The first answer is shown first and is the shorter one
    assert!((report.side.unwrap().value - 0.55).abs() < 1e-12);
    assert!((report.length.unwrap().value - 0.45).abs() < 1e-12);
    assert_eq!(report.costs.len(), 1);
    assert_eq!(
        (report.costs[0].seconds, report.costs[0].seconds_a_comparison),
        (25.5, Some(25.5))
    );
}

#[test]
fn second_looks_and_gold_items_show_how_steady_somebody_is() {
    let mut records: Vec<Record> = (1..5).map(|item| record(item, "ann", FIRST)).collect();
    // Of four items seen again one came out otherwise
    for item in 1..5 {
        let again = record(item, "ann", if item == 2 { SECOND } else { FIRST });
        records.push(Record { round: 1, ..again });
    }
    for item in 5..7 {
        let gold = record(item, "ann", SECOND).judgement;
        records.push(Record {
            gold,
            ..record(item, "ann", if item == 5 { SECOND } else { FIRST })
        });
    }
    let report = annotation_report(&records, &draws()).unwrap();
    let ann = &report.annotators[0];
    assert_eq!(
        (ann.judgements, ann.consistency.unwrap().value, ann.gold.unwrap().value),
        (4, 0.75, 0.5)
    );
    assert_eq!(ann.seconds, Some(2.5));
    assert!(report.questions.is_empty() && report.pairs.is_empty());
    let none = annotation_report(&[], &draws()).unwrap();
    assert_eq!((none.judgements, none.side, none.costs.len()), (0, None, 0));
}

#[test]
fn ratings_flags_and_rankings_are_questions_of_their_own() {
    let rated = |item, name: &str, ratings: [u8; 2], flag: bool| {
        let mut record = record(item, name, &[]);
        let flags = [if flag { vec!["wrong".to_string()] } else { vec![] }, vec![]];
        record.judgement = Some(Judgement {
            ratings: ratings.map(Some).into(),
            flags: flags.into(),
            ..Judgement::default()
        });
        record
    };
    let records = [
        rated(1, "ann", [1, 5], true),
        rated(1, "bob", [2, 5], true),
        rated(2, "ann", [7, 3], false),
        rated(2, "bob", [7, 4], true),
        rated(3, "ann", [4, 4], false),
    ];
    let report = annotation_report(&records, &draws()).unwrap();
    let names: Vec<&str> = report.questions.iter().map(|question| question.name.as_str()).collect();
    assert_eq!(names, ["rating", "flag: wrong"]);
    assert!(report.questions[0].alpha.unwrap().value > 0.8);
    assert_eq!(report.questions[0].alpha.unwrap().n, 2);
    let rating = report.pairs[0].rating_kappa.unwrap();
    assert!(rating.value > 0.8 && rating.n == 4);
}
