//! What is handed out, to whom, in which order.

use std::collections::{BTreeMap, BTreeSet};

use hone_data::DataError;
use hone_data::annotations::{AnnotationProblem, Judgement, NewItem, Role, Settings, Status, Store, TaskKind};

use super::common::{Fixture, NOW, item, prefers, settings};

#[test]
fn a_task_in_hand_comes_back_until_it_is_handed_in() {
    let fixture = Fixture::pairs(10, 1);
    let task = fixture.claim(0);
    assert_eq!(fixture.claim(0), task);
    let later = fixture.claim_at(0, NOW + 60_000).unwrap();
    assert_eq!(
        (later.lease, later.item, later.expires),
        (task.lease, task.item, task.expires + 60_000)
    );
    fixture.judge(0);
    assert_ne!(fixture.claim(0).item, task.item);
}

#[test]
fn what_is_started_is_finished_first_and_never_by_the_same_person() {
    let fixture = Fixture::pairs(20, 3);
    let first = fixture.judge(0);
    // The second annotator gets the item that the first has judged, the first a new one
    assert_eq!(fixture.claim(1).item, first.item);
    let second = fixture.claim(0);
    assert_ne!(second.item, first.item);
    // Overlap 2: the first item is full, so the third finishes the second
    assert_eq!(fixture.claim(2).item, second.item);
    fixture.judge(1);
    let record = fixture.store.progress(&fixture.project).unwrap();
    assert_eq!(
        (record.items, record.wanted, record.judged, record.complete, record.open),
        (20, 40, 2, 1, 2)
    );
}

#[test]
fn everybody_has_an_order_of_items_and_of_answers_of_their_own() {
    let orders: Vec<Vec<(i64, Vec<usize>)>> = (0..3)
        .map(|_| {
            // One annotator at a time, so that nothing is started by others
            let fixture = Fixture::new(
                &Settings {
                    overlap: 9,
                    ..settings()
                },
                (0..30).map(|i| item(TaskKind::Comment, i, 4)).collect(),
                1,
            );
            (0..30)
                .map(|_| {
                    let task = fixture.claim(0);
                    fixture
                        .store
                        .skip(task.lease, fixture.annotators[0].id, "broken", NOW)
                        .unwrap();
                    (task.item, task.shown)
                })
                .collect()
        })
        .collect();
    assert_eq!(orders[0], orders[1], "the seed decides");
    let items: Vec<i64> = orders[0].iter().map(|(item, _)| *item).collect();
    assert!(
        items.windows(2).any(|pair| pair[0] > pair[1]),
        "not the order of the file: {items:?}"
    );
    let shown: BTreeSet<&Vec<usize>> = orders[0].iter().map(|(_, shown)| shown).collect();
    assert!(shown.len() > 8, "answers are shuffled: {shown:?}");
    // Two annotators of one store begin with different items
    let fixture = Fixture::pairs(200, 2);
    let task = fixture.claim(0);
    fixture
        .store
        .skip(task.lease, fixture.annotators[0].id, "broken", NOW)
        .unwrap();
    assert_ne!(fixture.claim(1).item, task.item);
}

#[test]
fn an_expired_lease_goes_to_somebody_else_and_a_late_judgement_is_kept() {
    let fixture = Fixture::new(
        &Settings {
            overlap: 1,
            ..settings()
        },
        vec![item(TaskKind::Pair, 0, 2)],
        2,
    );
    let task = fixture.claim(0);
    assert_eq!(
        fixture.claim_at(1, NOW + 1000),
        None,
        "the only item is in the first annotator's hands"
    );
    let late = NOW + 1_800_000;
    let taken = fixture.claim_at(1, late).expect("the lease has expired");
    fixture
        .store
        .submit(fixture.submission(1, &taken, prefers(0)), late)
        .unwrap();
    let submitted = fixture
        .store
        .submit(fixture.submission(0, &task, prefers(1)), late + 1)
        .unwrap();
    assert!(submitted.surplus);
    let records = fixture.store.records(&fixture.project).unwrap();
    let counting: Vec<bool> = records.iter().map(|record| record.counts()).collect();
    assert_eq!(counting, [true, false]);
    // Where the place is still free a late judgement counts
    let fixture = Fixture::pairs(1, 2);
    let task = fixture.claim(0);
    fixture.claim_at(1, late).unwrap();
    let submitted = fixture
        .store
        .submit(fixture.submission(0, &task, prefers(1)), late)
        .unwrap();
    assert!(!submitted.surplus);
    assert_eq!(fixture.claim_at(0, late), None);
}

#[test]
fn handing_in_twice_is_handing_in_once() {
    let fixture = Fixture::pairs(3, 1);
    let task = fixture.claim(0);
    let first = fixture
        .store
        .submit(fixture.submission(0, &task, prefers(1)), NOW)
        .unwrap();
    let again = fixture
        .store
        .submit(fixture.submission(0, &task, prefers(1)), NOW + 5)
        .unwrap();
    assert_eq!(first, again);
    let other = fixture
        .store
        .submit(fixture.submission(0, &task, prefers(0)), NOW)
        .unwrap_err();
    assert!(
        matches!(
            other,
            DataError::Annotations {
                problem: AnnotationProblem::Lease { .. },
                ..
            }
        ),
        "{other}"
    );
    assert_eq!(fixture.store.records(&fixture.project).unwrap().len(), 1);
    // Nobody hands in for somebody else
    let fixture = Fixture::pairs(3, 2);
    let task = fixture.claim(0);
    assert!(
        fixture
            .store
            .submit(fixture.submission(1, &task, prefers(1)), NOW)
            .is_err()
    );
}

#[test]
fn a_judgement_that_does_not_fit_is_refused_and_the_task_stays() {
    let fixture = Fixture::pairs(3, 1);
    let task = fixture.claim(0);
    let error = fixture
        .store
        .submit(fixture.submission(0, &task, Judgement::default()), NOW)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("annotations.db") && error.contains("no ranking"),
        "{error}"
    );
    assert_eq!(fixture.claim(0), task);
}

#[test]
fn gold_items_come_at_their_share_and_repeats_show_an_item_again() {
    let right = prefers(0);
    let gold = (1000..1020).map(|i| NewItem {
        gold: Some(right.clone()),
        ..item(TaskKind::Pair, i, 2)
    });
    let items = (0..200).map(|i| item(TaskKind::Pair, i, 2)).chain(gold).collect();
    let fixture = Fixture::new(
        &Settings {
            gold_share: 0.2,
            repeat_share: 0.25,
            repeat_after: 5,
            ..settings()
        },
        items,
        1,
    );
    let tasks: Vec<i64> = (0..60).map(|_| fixture.judge(0).item).collect();
    let records = fixture.store.records(&fixture.project).unwrap();
    let golden = records.iter().filter(|record| record.gold.is_some()).count();
    let repeats: Vec<usize> = (0..60).filter(|&i| records[i].round == 1).collect();
    assert!((5..=20).contains(&golden), "{golden}");
    assert!((5..=25).contains(&repeats.len()), "{repeats:?}");
    for &i in &repeats {
        let first = tasks.iter().position(|item| *item == tasks[i]).unwrap();
        let others = (first + 1..i)
            .filter(|&j| records[j].round == 0 && records[j].gold.is_none())
            .count();
        assert!(first < i && others >= 5, "{first} {i}");
        assert!(!records[i].counts() && records[first].counts());
    }
    let progress = fixture.store.progress(&fixture.project).unwrap();
    assert_eq!((progress.items, progress.gold, progress.wanted), (200, 20, 400));
    assert_eq!(progress.judged as usize, 60 - golden - repeats.len());
    assert_eq!(progress.annotators[0].checks as usize, golden + repeats.len());
    // No item comes a third time
    let mut times: BTreeMap<i64, usize> = BTreeMap::new();
    tasks.iter().for_each(|item| *times.entry(*item).or_default() += 1);
    assert!(times.values().all(|&count| count <= 2));
}

#[test]
fn the_same_items_again_are_passed_over_and_names_are_taken_once() {
    let fixture = Fixture::pairs(5, 1);
    let again = (3..8).map(|i| item(TaskKind::Pair, i, 2)).collect();
    let added = fixture.store.add_items(&fixture.project, again).unwrap();
    assert_eq!((added.added, added.known), (3, 2));
    // Of several items with one that nobody could judge none is added
    let wrong = vec![item(TaskKind::Pair, 50, 2), item(TaskKind::Rank, 51, 1)];
    let error = fixture
        .store
        .add_items(&fixture.project, wrong)
        .unwrap_err()
        .to_string();
    assert!(error.contains("item 2: 1 answers"), "{error}");
    assert_eq!(fixture.store.progress(&fixture.project).unwrap().items, 8);
    let digest = Store::token_digest("x");
    let error = fixture
        .store
        .add_annotator("annotator 0", Role::Owner, &digest, NOW)
        .unwrap_err();
    assert!(error.to_string().contains("`annotator 0` exists already"), "{error}");
    let error = fixture.store.project("harmless").unwrap_err().to_string();
    assert!(error.contains("no project `harmless`; there is helpful"), "{error}");
}

#[test]
fn a_store_is_found_again_as_it_was_left() {
    let fixture = Fixture::pairs(4, 2);
    fixture.judge(0);
    let held = fixture.claim(1);
    let Fixture {
        folder,
        store,
        project,
        annotators,
    } = fixture;
    let path = store.path().to_path_buf();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.project("helpful").unwrap(), project);
    assert_eq!(store.annotators().unwrap(), annotators);
    assert_eq!(store.claim(&project, annotators[1].id, NOW).unwrap(), Some(held));
    let records = store.records(&project).unwrap();
    assert_eq!((records.len(), records[0].status), (1, Status::Judged));
    drop((store, folder));
}

#[test]
fn settings_are_those_that_the_store_has_now_and_old_guidelines_stay() {
    let fixture = Fixture::pairs(2, 2);
    let first = fixture.judge(0);
    let before = fixture.project.guideline_digest.clone();
    let changed = Settings {
        overlap: 1,
        guideline: "Be brief.".into(),
        ..settings()
    };
    fixture.store.put_project("helpful", &changed, NOW).unwrap();
    // The fixture's project still says that two people judge each item
    assert_ne!(fixture.claim(1).item, first.item);
    let store = Store::open_to_read(fixture.store.path()).unwrap();
    assert_eq!(store.guideline(&before).unwrap().as_deref(), Some(""));
    let now = store.only_project("").unwrap();
    assert_eq!(
        store.guideline(&now.guideline_digest).unwrap().as_deref(),
        Some("Be brief.")
    );
    assert_eq!(now.settings, changed);
    let refused = store.put_project("helpful", &settings(), NOW).unwrap_err().to_string();
    assert!(refused.contains("opened to be read"), "{refused}");
    assert!(Store::open_to_read(&fixture.folder.path().join("absent.db")).is_err());
    assert!(!fixture.folder.path().join("absent.db").exists());
    fixture.store.put_project("second", &settings(), NOW).unwrap();
    let several = store.only_project("choose").unwrap_err().to_string();
    assert!(several.contains("2 projects: helpful, second; choose"), "{several}");
}

#[test]
fn gold_items_that_are_left_come_at_the_end() {
    let gold = (0..3).map(|i| NewItem {
        gold: Some(prefers(0)),
        ..item(TaskKind::Pair, i, 2)
    });
    let settings = Settings {
        gold_share: 0.01,
        ..settings()
    };
    let fixture = Fixture::new(&settings, gold.chain([item(TaskKind::Pair, 9, 2)]).collect(), 1);
    for _ in 0..4 {
        fixture.judge(0);
    }
    assert_eq!(fixture.claim_at(0, NOW), None);
    assert_eq!(
        fixture.store.progress(&fixture.project).unwrap().annotators[0].checks,
        3
    );
}

#[test]
fn a_task_is_known_by_its_texts_whoever_wrote_them() {
    let fixture = Fixture::pairs(1, 0);
    let mut again = item(TaskKind::Pair, 0, 2);
    again.input.responses.reverse();
    again.input.responses[0].model = Some("renamed".into());
    again.gold = Some(prefers(0));
    let added = fixture.store.add_items(&fixture.project, vec![again.clone()]).unwrap();
    assert_eq!((added.added, added.known, added.other_gold), (0, 1, 1));
    again.input.responses[0].text.push('!');
    assert_eq!(fixture.store.add_items(&fixture.project, vec![again]).unwrap().added, 1);
}

#[test]
fn a_task_whose_time_is_over_is_in_nobodys_hands() {
    let fixture = Fixture::pairs(3, 2);
    let task = fixture.claim(0);
    let open = |now| fixture.store.progress_at(&fixture.project, now).unwrap().open;
    assert_eq!((open(NOW), open(task.expires - 1), open(task.expires)), (1, 1, 0));
}
