//! Many annotators at once.

use std::collections::{BTreeMap, BTreeSet};

use hone_data::annotations::{Settings, TaskKind};

use super::common::{Fixture, NOW, item, ranks, settings};

const ITEMS: usize = 5000;
const OVERLAP: u32 = 3;

#[test]
fn twenty_four_annotators_give_every_item_exactly_its_judgements() {
    let fixture = Fixture::new(
        &Settings {
            overlap: OVERLAP,
            ..settings()
        },
        (0..ITEMS).map(|i| item(TaskKind::Rank, i, 3)).collect(),
        24,
    );
    let acknowledged: Vec<Vec<i64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..24)
            .map(|annotator| {
                let fixture = &fixture;
                scope.spawn(move || {
                    let mut events = Vec::new();
                    // A lock that could not be had would be an error here
                    while let Some(task) = fixture.claim_at(annotator, NOW) {
                        let judgement = ranks(&[&[task.shown[0]], &task.shown[1..]]);
                        let submitted = fixture
                            .store
                            .submit(fixture.submission(annotator, &task, judgement), NOW)
                            .unwrap();
                        assert!(!submitted.surplus);
                        events.push(submitted.event);
                    }
                    events
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let records = fixture.store.records(&fixture.project).unwrap();
    let mut by_item: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
    for record in &records {
        assert!(record.counts());
        assert!(
            by_item.entry(record.item).or_default().insert(&record.annotator),
            "twice by one annotator"
        );
    }
    assert_eq!((records.len(), by_item.len()), (ITEMS * OVERLAP as usize, ITEMS));
    assert!(by_item.values().all(|annotators| annotators.len() == OVERLAP as usize));
    let acknowledged: BTreeSet<i64> = acknowledged.concat().into_iter().collect();
    let stored: BTreeSet<i64> = records.iter().map(|record| record.event).collect();
    assert_eq!(acknowledged, stored);
    let progress = fixture.store.progress(&fixture.project).unwrap();
    assert_eq!((progress.complete, progress.open), (ITEMS as u64, 0));
}
