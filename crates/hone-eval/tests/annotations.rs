//! The report on annotations, by hand.

use hone_data::Message;
use hone_data::annotations::{Degree, Judgement, Record, Response, Rewrite, Status, TaskKind};
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
        guideline: None,
        started: 0,
        submitted: 0,
        active_ms: Some(1000 * item),
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
    // From both sides 100 of 200 values say first: disagreement 15/50 against 2 * 100 * 100 / (200 * 199)
    let preference = &report.questions[0];
    let alpha = 1.0 - (15.0 / 50.0) / (2.0 * 100.0 * 100.0 / (200.0 * 199.0));
    assert!(
        (preference.alpha.unwrap().value - alpha).abs() < 1e-12,
        "{preference:?}"
    );
    assert!((preference.fleiss.unwrap() - (0.7 - 0.5) / 0.5).abs() < 1e-12);
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
        // As the form says it: no lists at all where nothing is flagged
        let flags: Vec<Vec<String>> = match flag {
            true => vec![vec!["wrong".to_string()], vec![]],
            false => Vec::new(),
        };
        record.judgement = Some(Judgement {
            ratings: ratings.map(Some).into(),
            flags,
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
    assert_eq!(
        report.questions[0].fleiss, None,
        "one item was judged by one person only"
    );
    // Of eight values three are flags; one of the four rows has one, one has both
    let flag = report.questions[1].alpha.unwrap();
    let alpha = 1.0 - (2.0 / 8.0) / (2.0 * 3.0 * 5.0 / (8.0 * 7.0));
    assert!((flag.value - alpha).abs() < 1e-12 && flag.n == 2, "{flag:?}");
    let rating = report.pairs[0].rating_kappa.unwrap();
    assert!(rating.value > 0.8 && rating.n == 4);
}

/// Three people on 20 items of three answers, as noisy as a hash is.
fn ranked() -> Vec<Record> {
    let key = Key::new(5, "ranked", 0);
    let mut records = Vec::new();
    for item in 0..20 {
        for (i, name) in ["ann", "bob", "eve"].into_iter().enumerate() {
            let mut order = [2, 0, 1];
            let at = item as u64 * 3 + i as u64;
            if key.uniform(at) < 0.4 {
                order.swap(0, 1 + usize::from(key.uniform(1000 + at) < 0.5));
            }
            let groups: Vec<&[usize]> = order.chunks(1).collect();
            let mut record = record(item, name, &groups);
            record.responses = ["a", "two words", "middle"].map(Response::new).into();
            record.shown = vec![0, 1, 2];
            record.judgement.as_mut().unwrap().degree = None;
            records.push(record);
        }
    }
    records
}

#[test]
fn the_order_in_which_answers_are_stored_changes_nothing() {
    let records = ranked();
    let expected = annotation_report(&records, &draws()).unwrap();
    let mut moved = records;
    for record in &mut moved {
        // An order of its own for every item
        let places = Key::new(6, "stored", 0).child(record.item as u64).permutation(3);
        let old = record.responses.clone();
        for (from, &to) in places.iter().enumerate() {
            record.responses[to] = old[from].clone();
        }
        let rename = |answers: &mut Vec<usize>| answers.iter_mut().for_each(|answer| *answer = places[*answer]);
        rename(&mut record.shown);
        let ranking = record.judgement.as_mut().unwrap().ranking.as_mut().unwrap();
        ranking.iter_mut().for_each(rename);
    }
    let got = annotation_report(&moved, &draws()).unwrap();
    assert_eq!(got.questions, expected.questions);
    let kappas = |report: &hone_eval::AnnotationReport| report.pairs.iter().map(|pair| pair.kappa).collect::<Vec<_>>();
    assert_eq!(kappas(&got), kappas(&expected));
    assert_eq!((got.side, got.length), (expected.side, expected.length));
    // Where all always prefer the answer that is stored first they agree
    let agreed: Vec<Record> = (1..9)
        .flat_map(|item| ["ann", "bob"].map(|name| record(item, name, FIRST)))
        .collect();
    let report = annotation_report(&agreed, &draws()).unwrap();
    assert_eq!(report.questions[0].alpha.unwrap().value, 1.0);
    assert_eq!(report.pairs[0].kappa.unwrap().value, 1.0);
}

#[test]
fn judging_an_item_three_times_alike_makes_no_interval_narrower() {
    let once: Vec<Record> = ranked()
        .into_iter()
        .filter(|record| record.annotator == "ann")
        .collect();
    let thrice: Vec<Record> = once
        .iter()
        .flat_map(|record| {
            ["ann", "bob", "eve"].map(|name| Record {
                annotator: name.into(),
                ..record.clone()
            })
        })
        .collect();
    let (one, three) = (
        annotation_report(&once, &draws()).unwrap(),
        annotation_report(&thrice, &draws()).unwrap(),
    );
    for (one, three) in [(one.side, three.side), (one.length, three.length)] {
        let (one, three) = (one.unwrap(), three.unwrap());
        assert_eq!((one.value, one.low, one.high), (three.value, three.low, three.high));
        assert_eq!(3 * one.n, three.n);
    }
}

#[test]
fn gold_is_scored_for_every_kind() {
    let all_bad = || Judgement {
        all_bad: true,
        ..Judgement::default()
    };
    let rated = |ratings: [u8; 2]| Judgement {
        ratings: ratings.map(Some).into(),
        ..Judgement::default()
    };
    let gold = |item, judged: Judgement, right: Judgement| Record {
        gold: Some(right),
        judgement: Some(judged),
        ..record(item, "ann", FIRST)
    };
    let order = || record(0, "ann", FIRST).judgement.unwrap();
    let records = [
        gold(1, all_bad(), all_bad()),
        gold(2, order(), all_bad()),
        gold(3, rated([1, 7]), rated([1, 6])),
    ];
    let found = annotation_report(&records, &draws()).unwrap().annotators[0]
        .gold
        .unwrap();
    assert_eq!((found.value, found.n), (0.5, 4));
}

/// Of one item there is no spread, and where hardly anybody ever flagged there is none that could be told.
#[test]
fn what_has_no_interval_is_not_shown_with_one() {
    let one = [record(1, "ann", FIRST), record(1, "bob", FIRST)];
    let report = annotation_report(&one, &draws()).unwrap();
    assert_eq!(
        (report.questions[0].alpha, report.side, report.pairs[0].kappa),
        (None, None, None)
    );
    let flagged = |times: i64| {
        let mut records = Vec::new();
        for item in 1..=40 {
            for name in ["ann", "bob"] {
                let mut record = record(item, name, if item % 2 == 0 { FIRST } else { SECOND });
                let flags = if item <= times {
                    vec!["rude".to_string()]
                } else {
                    Vec::new()
                };
                record.judgement.as_mut().unwrap().flags = vec![flags.clone(), flags];
                records.push(record);
            }
        }
        let report = annotation_report(&records, &draws()).unwrap();
        let question = report
            .questions
            .into_iter()
            .find(|question| question.name == "flag: rude");
        question.unwrap().alpha.map(|alpha| alpha.value)
    };
    // A resample without the one item that was flagged comes up in more than a third of all
    assert_eq!((flagged(1), flagged(20)), (None, Some(1.0)));
}

#[test]
fn a_comparison_costs_what_it_took_without_a_written_answer() {
    let mut records: Vec<Record> = (1..=5).map(|item| record(item, "ann", FIRST)).collect();
    for written in &mut records[3..] {
        written.active_ms = Some(100_000);
        written.judgement.as_mut().unwrap().rewrite = Some(Rewrite {
            of: None,
            text: "better".into(),
        });
    }
    let cost = &annotation_report(&records, &draws()).unwrap().costs[0];
    assert_eq!(
        (cost.judgements, cost.seconds, cost.seconds_a_comparison),
        (5, 3.0, Some(2.0))
    );
}
