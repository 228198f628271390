//! Any history of what people do, through two programs at once: tables of the queue follow from the events.

use hone_data::DataError;
use hone_data::annotations::{Judgement, NewItem, Settings, Store, Task, TaskKind};
use hone_math::Key;
use rusqlite::Connection;

use super::common::{Fixture, NOW, item, prefers, settings};

const OVERLAP: i64 = 2;
const PEOPLE: usize = 4;

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// What must hold after every step.
fn check(connection: &Connection, step: &str) {
    let wrong = |sql: &str, what: &str| assert_eq!(number(connection, sql), 0, "{step}: {what}");
    wrong(
        "SELECT COUNT(*) FROM items i WHERE i.gold IS NULL AND i.taken <> (
            SELECT COUNT(*) FROM leases l WHERE l.item = i.id AND l.round = 0 AND l.state IN ('open', 'judged'))",
        "places that are taken are those in hand or judged",
    );
    wrong(
        &format!("SELECT COUNT(*) FROM items WHERE taken > {OVERLAP} OR gold IS NOT NULL AND taken > 0"),
        "no more places than the overlap",
    );
    wrong(
        "SELECT COUNT(*) FROM leases l WHERE (l.state IN ('judged', 'surplus')) <> EXISTS (
            SELECT 1 FROM standing s WHERE s.item = l.item AND s.annotator = l.annotator AND s.round = l.round
            AND s.live AND s.kind = 'judgement' AND s.surplus = (l.state = 'surplus'))",
        "a place is judged where a judgement stands",
    );
    wrong(
        "SELECT COUNT(*) FROM leases l WHERE (l.state = 'skipped') <> EXISTS (
            SELECT 1 FROM standing s WHERE s.item = l.item AND s.annotator = l.annotator AND s.round = l.round
            AND s.live AND s.kind = 'skip')",
        "a place is skipped where a skip stands",
    );
}

/// A refusal is an answer; anything else that SQLite or the files say is not.
fn refused<T>(result: Result<T, DataError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(DataError::Annotations { problem, .. }) if !problem.to_string().contains("SQLite") => None,
        Err(error) => panic!("{error}"),
    }
}

fn judge(fixture: &Fixture, store: &Store, (person, task): (usize, &Task), now: i64) {
    let judgement: Judgement = prefers(task.shown[0]);
    refused(store.submit(fixture.submission(person, task, judgement), now));
}

#[test]
fn any_history_leaves_the_tables_as_the_events_say() {
    for seed in 0..8 {
        let gold = (100..102).map(|i| NewItem {
            gold: Some(prefers(0)),
            ..item(TaskKind::Pair, i, 2)
        });
        let settings = Settings {
            overlap: OVERLAP as u32,
            gold_share: 0.1,
            repeat_share: 0.1,
            repeat_after: 1,
            ..settings()
        };
        let items = (0..6).map(|i| item(TaskKind::Pair, i, 2)).chain(gold).collect();
        let fixture = Fixture::new(&settings, items, PEOPLE);
        let stores = [&fixture.store, &Store::open(fixture.store.path()).unwrap()];
        let connection = Connection::open(fixture.store.path()).unwrap();
        let key = Key::new(seed, "history", 0);
        let (mut now, mut seen) = (NOW, vec![Vec::<Task>::new(); PEOPLE]);
        for step in 0..150 {
            let draw = |what: u64, below: u64| key.child(step).bits(what) % below;
            let (person, store) = (draw(0, PEOPLE as u64) as usize, stores[draw(1, 2) as usize]);
            let annotator = fixture.annotators[person].id;
            now += draw(2, 900_000) as i64;
            let last = seen[person].last().cloned();
            let any = (!seen[person].is_empty()).then(|| {
                let at = draw(3, seen[person].len() as u64) as usize;
                seen[person][at].clone()
            });
            let action = draw(4, 10);
            match (action, last, any) {
                (0..=3, ..) => seen[person].extend(store.claim(&fixture.project, annotator, now).unwrap()),
                (4..=6, Some(task), _) | (7, _, Some(task)) => judge(&fixture, store, (person, &task), now),
                (8, Some(task), _) => {
                    refused(store.skip(task.lease, annotator, "unclear", now));
                }
                (9, ..) => {
                    if let Some(event) = store.last_event(&fixture.project, annotator).unwrap() {
                        let undone = refused(store.undo(&fixture.project, annotator, event, now));
                        seen[person].extend(undone.and_then(|undone| undone.task));
                    }
                }
                _ => {}
            }
            check(&connection, &format!("seed {seed}, step {step}, action {action}"));
        }
        // Everybody judges what there is for them: items are full, or there is nobody left for them
        now += 10_000_000;
        for person in (0..PEOPLE).chain(0..PEOPLE) {
            let annotator = fixture.annotators[person].id;
            while let Some(task) = stores[person % 2].claim(&fixture.project, annotator, now).unwrap() {
                judge(&fixture, stores[1], (person, &task), now);
            }
        }
        check(&connection, "the end");
        let short = number(
            &connection,
            &format!(
                "SELECT COUNT(*) FROM items i WHERE i.gold IS NULL AND i.taken < {OVERLAP} AND {PEOPLE} > (
                    SELECT COUNT(*) FROM leases l WHERE l.item = i.id AND l.round = 0 AND l.state <> 'expired')"
            ),
        );
        assert_eq!(short, 0, "seed {seed}");
        let records = fixture.store.records(&fixture.project).unwrap();
        let counting = records.iter().filter(|record| record.counts()).count() as i64;
        assert_eq!(
            counting,
            number(&connection, "SELECT SUM(taken) FROM items"),
            "seed {seed}"
        );
    }
}
