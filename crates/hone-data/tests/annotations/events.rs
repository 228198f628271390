//! Undo, edit, skip: nothing is deleted, and the newest event that stands is what counts.

use hone_data::DataError;
use hone_data::annotations::{AnnotationProblem, Judgement, Record, Settings, Status, TaskKind};

use super::common::{Fixture, NOW, item, prefers, settings};

fn events(fixture: &Fixture) -> Vec<Record> {
    fixture.store.records(&fixture.project).unwrap()
}

/// Event, status, whether it stands, what it supersedes.
fn outline(fixture: &Fixture) -> Vec<(i64, Status, bool, Option<i64>)> {
    events(fixture)
        .iter()
        .map(|r| (r.event, r.status, r.live, r.supersedes))
        .collect()
}

#[test]
fn an_undone_judgement_comes_back_with_what_was_judged() {
    let fixture = Fixture::pairs(10, 2);
    let task = fixture.judge(0);
    // The next one is in hand already, as it is when the page has moved on
    let next = fixture.claim(0);
    let undone = fixture.undo(0).unwrap();
    let back = undone.task.expect("the task");
    assert_eq!((undone.event, back.item, &back.shown), (1, task.item, &task.shown));
    assert_eq!(back.earlier, Some(prefers(task.shown[0])));
    assert_ne!(back.lease, task.lease);
    assert_eq!(
        outline(&fixture),
        [(1, Status::Judged, false, None), (2, Status::Undone, false, Some(1))]
    );
    assert!(events(&fixture).iter().all(|record| !record.counts()));
    // What came back is first, then what was in hand
    assert_eq!(fixture.claim(0).item, back.item);
    fixture
        .store
        .submit(fixture.submission(0, &back, prefers(task.shown[1])), NOW)
        .unwrap();
    assert_eq!(fixture.claim(0).item, next.item);
    let records = events(&fixture);
    assert_eq!(records.len(), 3);
    assert_eq!(records[2].judgement, Some(prefers(task.shown[1])));
    assert!(records[2].counts());
    assert_eq!(fixture.store.progress(&fixture.project).unwrap().judged, 1);
}

#[test]
fn undoing_goes_back_step_by_step() {
    let fixture = Fixture::pairs(10, 1);
    let tasks = [fixture.judge(0), fixture.judge(0), fixture.judge(0)];
    for expected in tasks.iter().rev() {
        let undone = fixture.undo(0).unwrap();
        assert_eq!(undone.task.unwrap().item, expected.item);
    }
    let error = fixture.undo(0).unwrap_err();
    assert!(
        matches!(
            error,
            DataError::Annotations {
                problem: AnnotationProblem::NothingToUndo,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(events(&fixture).len(), 6);
}

#[test]
fn an_edit_supersedes_and_undoing_it_restores_what_stood_before() {
    let fixture = Fixture::pairs(10, 1);
    let task = fixture.judge(0);
    let (first, second) = (prefers(task.shown[0]), prefers(task.shown[1]));
    let edited = fixture
        .store
        .edit(1, fixture.submission(0, &task, second.clone()), NOW)
        .unwrap();
    assert_eq!(
        outline(&fixture),
        [(1, Status::Judged, false, None), (2, Status::Judged, true, Some(1))]
    );
    assert_eq!(edited.event, 2);
    // What does not stand cannot be edited
    assert!(
        fixture
            .store
            .edit(1, fixture.submission(0, &task, first.clone()), NOW)
            .is_err()
    );
    let undone = fixture.undo(0).unwrap();
    assert_eq!((undone.event, undone.task), (2, None));
    let standing: Vec<Record> = events(&fixture).into_iter().filter(Record::counts).collect();
    assert_eq!(
        (standing.len(), standing[0].event, &standing[0].judgement),
        (1, 1, &Some(first))
    );
    // Once more takes the judgement itself back
    assert!(fixture.undo(0).unwrap().task.is_some());
}

#[test]
fn a_skipped_item_goes_to_others_and_a_skip_can_be_undone() {
    let fixture = Fixture::new(
        &Settings {
            overlap: 1,
            ..settings()
        },
        vec![item(TaskKind::Pair, 0, 2)],
        2,
    );
    let annotator = fixture.annotators[0].id;
    let task = fixture.claim(0);
    let event = fixture
        .store
        .skip(task.lease, annotator, " not my language ", NOW)
        .unwrap();
    assert_eq!(fixture.store.skip(task.lease, annotator, "again", NOW).unwrap(), event);
    assert_eq!(fixture.claim_at(0, NOW), None, "never again to the same person");
    let records = events(&fixture);
    assert_eq!(
        (records[0].status, records[0].reason.as_deref()),
        (Status::Skipped, Some("not my language"))
    );
    let undone = fixture.undo(0).unwrap();
    let back = undone.task.expect("nobody took it");
    fixture.store.skip(back.lease, annotator, "too long", NOW).unwrap();
    let taken = fixture.claim(1);
    fixture
        .store
        .submit(fixture.submission(1, &taken, prefers(0)), NOW)
        .unwrap();
    // The item is full now: the skip is undone, but there is no place left
    let undone = fixture.undo(0).unwrap();
    assert_eq!(undone.task, None);
    assert_eq!(fixture.store.progress(&fixture.project).unwrap().judged, 1);
    assert_eq!(fixture.claim_at(0, NOW), None);
    assert!(
        fixture
            .store
            .skip(taken.lease, fixture.annotators[1].id, "late", NOW)
            .is_err()
    );
    assert!(fixture.store.skip(back.lease, annotator, " ", NOW).is_err());
}

#[test]
fn a_record_says_everything() {
    let fixture = Fixture::pairs(1, 1);
    let task = fixture.judge(0);
    let record = events(&fixture).remove(0);
    assert_eq!(
        (record.project.as_str(), record.annotator.as_str()),
        ("helpful", "annotator 0")
    );
    assert_eq!(
        (record.item, record.kind, &record.shown),
        (task.item, TaskKind::Pair, &task.shown)
    );
    assert_eq!(record.responses[1].model.as_deref(), Some("model 1"));
    assert_eq!(
        (record.started, record.submitted, record.active_ms),
        (NOW, NOW, Some(1500))
    );
    assert_eq!(record.guideline_digest, fixture.project.guideline_digest);
    assert!(record.input_digest.len() == 64 && record.task_digest != record.input_digest);
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
}

#[test]
fn an_undo_that_comes_twice_undoes_one_thing_and_what_came_back_stays_filled_in() {
    let fixture = Fixture::pairs(10, 2);
    let annotator = fixture.annotators[0].id;
    let (first, second) = (fixture.judge(0), fixture.judge(0));
    let undo = |event| fixture.store.undo(&fixture.project, annotator, event, NOW);
    // Only the last one, and only one's own
    assert!(matches!(
        undo(1).unwrap_err(),
        DataError::Annotations {
            problem: AnnotationProblem::NotLast { event: 1 },
            ..
        }
    ));
    let theirs = fixture.store.undo(&fixture.project, fixture.annotators[1].id, 2, NOW);
    assert!(theirs.is_err(), "{theirs:?}");
    let back = undo(2).unwrap();
    assert_eq!(undo(2).unwrap(), back);
    assert_eq!(fixture.store.last_event(&fixture.project, annotator).unwrap(), Some(1));
    undo(1).unwrap();
    assert_eq!(events(&fixture).len(), 4);
    // The queue brings back both with what was judged, whenever they are opened
    for task in [first, second] {
        let again = fixture.claim(0);
        assert_eq!(again.item, task.item);
        assert_eq!(
            (&again.earlier, again.spent),
            (&Some(prefers(task.shown[0])), Some(1500))
        );
        let judgement = prefers(again.shown[1]);
        fixture
            .store
            .submit(fixture.submission(0, &again, judgement), NOW)
            .unwrap();
    }
    assert_eq!(fixture.claim(0).earlier, None);
}

#[test]
fn an_edit_that_comes_twice_is_one_edit_and_own_judgements_are_found() {
    let fixture = Fixture::pairs(2, 2);
    let (store, project) = (&fixture.store, &fixture.project);
    let task = fixture.judge(0);
    let own = store.own(project, fixture.annotators[0].id, 10).unwrap();
    assert_eq!((own.len(), own[0].kind), (1, task.kind));
    assert_eq!(own[0].last_message, task.input.prompt.last().unwrap().content);
    assert_eq!(store.own(project, fixture.annotators[1].id, 10).unwrap(), []);
    let seen = store
        .judged(&fixture.project, own[0].event, fixture.annotators[0].id)
        .unwrap();
    assert_eq!((seen.item, &seen.shown), (task.item, &task.shown));
    assert!(
        store
            .judged(&fixture.project, own[0].event, fixture.annotators[1].id)
            .is_err()
    );
    let earlier = seen.earlier.clone().unwrap();
    let changed = Judgement {
        comment: Some("changed".into()),
        ..earlier.clone()
    };
    assert_ne!(changed, earlier);
    let edit = |judgement: &Judgement| store.edit(own[0].event, fixture.submission(0, &seen, judgement.clone()), NOW);
    let first = edit(&changed).unwrap();
    assert_eq!(edit(&changed).unwrap(), first);
    assert!(edit(&earlier).is_err(), "it no longer stands");
    let now = store.own(project, fixture.annotators[0].id, 10).unwrap();
    assert_eq!((now.len(), now[0].event), (1, first.event));
    assert_eq!(
        store
            .judged(&fixture.project, first.event, fixture.annotators[0].id)
            .unwrap()
            .earlier,
        Some(changed)
    );
    assert_eq!(store.records(project).unwrap().len(), 2);
}
