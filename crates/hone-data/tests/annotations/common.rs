//! A store with a project in it.

use hone_data::annotations::{
    Annotator, Degree, Input, Judgement, NewItem, Project, Response, Role, Settings, Store, Submission, Task, TaskKind,
    Undone,
};
use hone_data::{DataError, Message};
use tempfile::TempDir;

/// The time at which every test begins.
pub const NOW: i64 = 1_700_000_000_000;

/// A store in a folder of its own.
pub struct Fixture {
    pub folder: TempDir,
    pub store: Store,
    pub project: Project,
    pub annotators: Vec<Annotator>,
}

pub fn settings() -> Settings {
    Settings {
        overlap: 2,
        seed: 7,
        gold_share: 0.0,
        ..Settings::default()
    }
}

/// A question with answers that tell items apart.
pub fn item(kind: TaskKind, number: usize, responses: usize) -> NewItem {
    NewItem {
        kind,
        input: Input {
            prompt: vec![Message::user(format!("question {number}?"))],
            responses: (0..responses)
                .map(|i| Response {
                    model: Some(format!("model {i}")),
                    ..Response::new(format!("answer {i} to {number}"))
                })
                .collect(),
        },
        gold: None,
    }
}

impl Fixture {
    pub fn new(settings: &Settings, items: Vec<NewItem>, annotators: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("annotations.db")).unwrap();
        let project = store.put_project("helpful", settings, NOW).unwrap();
        let count = items.len() as u64;
        assert_eq!(store.add_items(&project, items).unwrap().added, count);
        let annotators = (0..annotators)
            .map(|i| {
                let token = Store::token_digest(&format!("token {i}"));
                store
                    .add_annotator(&format!("annotator {i}"), Role::Annotator, &token, NOW)
                    .unwrap()
            })
            .collect();
        Self {
            folder,
            store,
            project,
            annotators,
        }
    }

    /// Pairs of answers with the usual settings.
    pub fn pairs(items: usize, annotators: usize) -> Self {
        let items = (0..items).map(|i| item(TaskKind::Pair, i, 2)).collect();
        Self::new(&settings(), items, annotators)
    }

    pub fn claim_at(&self, annotator: usize, now: i64) -> Option<Task> {
        self.store
            .claim(&self.project, self.annotators[annotator].id, now)
            .unwrap()
    }

    pub fn claim(&self, annotator: usize) -> Task {
        self.claim_at(annotator, NOW).expect("a task")
    }

    pub fn submission(&self, annotator: usize, task: &Task, judgement: Judgement) -> Submission {
        Submission {
            lease: task.lease,
            annotator: self.annotators[annotator].id,
            judgement,
            started: NOW,
            active: Some(1500),
        }
    }

    /// Undoes the last thing that this annotator did.
    pub fn undo(&self, annotator: usize) -> Result<Undone, DataError> {
        let annotator = self.annotators[annotator].id;
        let last = self.store.last_event(&self.project, annotator).unwrap().unwrap_or(0);
        self.store.undo(&self.project, annotator, last, NOW)
    }

    /// Claims and judges: the answer shown first is better.
    pub fn judge(&self, annotator: usize) -> Task {
        let task = self.claim(annotator);
        let judgement = prefers(task.shown[0]);
        self.store
            .submit(self.submission(annotator, &task, judgement), NOW)
            .unwrap();
        task
    }
}

/// This one of two answers is better.
pub fn prefers(index: usize) -> Judgement {
    Judgement {
        ranking: Some(vec![vec![index], vec![1 - index]]),
        degree: Some(Degree::Better),
        ..Judgement::default()
    }
}

/// These groups, best first.
pub fn ranks(groups: &[&[usize]]) -> Judgement {
    Judgement {
        ranking: Some(groups.iter().map(|group| group.to_vec()).collect()),
        ..Judgement::default()
    }
}
