//! What somebody has judged, for themselves to look at and to change.

use rusqlite::{OptionalExtension, params};

use super::problem::AnnotationProblem;
use super::store::{Store, from_json, kind_of};
use super::types::{Input, Judgement, Project, Task, TaskKind};
use crate::error::DataError;

/// A judgement of somebody's own that stands.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Own {
    /// Its event: what [`Store::judged`] and [`Store::edit`] ask for.
    pub event: i64,
    /// What was asked.
    pub kind: TaskKind,
    /// The last message of what was judged.
    pub last_message: String,
    /// When it was handed in, in milliseconds since 1970.
    pub submitted: i64,
}

impl Store {
    /// The judgements of an annotator in a project that stand, the newest first, at most so many.
    ///
    /// # Errors
    /// A store that cannot be read, or that is damaged.
    pub fn own(&self, project: &Project, annotator: i64, most: u32) -> Result<Vec<Own>, DataError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT s.id, i.id, i.kind, i.input, s.submitted FROM standing s JOIN items i ON i.id = s.item
                WHERE i.project = ?1 AND s.annotator = ?2 AND s.kind = 'judgement' AND s.live ORDER BY s.id DESC LIMIT ?3",
            )?;
            let mut rows = statement.query(params![project.id, annotator, most])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let (item, kind, input): (i64, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
                let mut input: Input = from_json(item, "input", &input)?;
                found.push(Own {
                    event: row.get(0)?,
                    kind: kind_of(item, &kind)?,
                    last_message: input.prompt.pop().map(|message| message.content).unwrap_or_default(),
                    submitted: row.get(4)?,
                });
            }
            Ok(found)
        })
    }

    /// The task of a judgement, as its annotator saw it, with what they said; also of one that was replaced since.
    ///
    /// # Errors
    /// An event that is no judgement of this annotator in this project.
    pub fn judged(&self, project: &Project, event: i64, annotator: i64) -> Result<Task, DataError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT l.id, i.id, i.kind, i.input, s.shown, s.judgement, s.started, l.expires, s.active
                FROM standing s JOIN items i ON i.id = s.item
                JOIN leases l ON l.item = s.item AND l.annotator = s.annotator AND l.round = s.round
                WHERE s.id = ?1 AND s.annotator = ?2 AND i.project = ?3 AND s.kind = 'judgement'",
            )?;
            let read = |row: &rusqlite::Row| {
                let texts: [String; 4] = [row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?];
                let numbers: [i64; 4] = [row.get(0)?, row.get(1)?, row.get(6)?, row.get(7)?];
                Ok((texts, numbers, row.get::<_, Option<i64>>(8)?))
            };
            let found = statement.query_row([event, annotator, project.id], read).optional()?;
            let Some(([kind, input, shown, judgement], [lease, item, claimed, expires], spent)) = found else {
                return Err(AnnotationProblem::Unknown {
                    what: "judgement of this annotator",
                    name: event.to_string(),
                    known: Vec::new(),
                });
            };
            let earlier: Judgement = from_json(event, "judgement", &judgement)?;
            Ok(Task {
                lease,
                item,
                kind: kind_of(item, &kind)?,
                input: from_json(item, "input", &input)?,
                shown: from_json(event, "shown", &shown)?,
                claimed,
                expires,
                earlier: Some(earlier),
                spent,
            })
        })
    }
}
