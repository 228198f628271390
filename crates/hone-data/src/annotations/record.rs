//! Events with everything that belongs to them, as rows that training, exports and statistics read.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::problem::AnnotationProblem;
use super::schema;
use super::store::{Store, from_json, kind_of, to_json};
use super::types::{Input, Judgement, Project, Response, TaskKind};
use crate::error::DataError;
use crate::items::Message;
use crate::read::Row;

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// A judgement was handed in.
    Judged,
    /// The annotator gave the item back.
    Skipped,
    /// An earlier event was undone.
    Undone,
}

/// One event with its item: everything that is known of a judgement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The event's number; later events have greater ones.
    pub event: i64,
    /// The event that it replaces (an edit) or undoes.
    pub supersedes: Option<i64>,
    /// What it is.
    pub status: Status,
    /// Nothing has replaced or undone it since.
    pub live: bool,
    /// It came too late and is counted nowhere.
    pub surplus: bool,
    /// The project.
    pub project: String,
    /// The item's number.
    pub item: i64,
    /// What was to be done.
    pub kind: TaskKind,
    /// Digest of prompt and answers.
    pub input_digest: String,
    /// Digest of these and the kind.
    pub task_digest: String,
    /// The judgement that is known to be right, of a gold item.
    pub gold: Option<Judgement>,
    /// The conversation up to the answer.
    pub prompt: Vec<Message>,
    /// The answers and where they come from.
    pub responses: Vec<Response>,
    /// Indices of the answers in the order in which they were shown.
    pub shown: Vec<usize>,
    /// What was found; nothing of a skip or an undo.
    pub judgement: Option<Judgement>,
    /// Why the item was skipped.
    pub reason: Option<String>,
    /// Who.
    pub annotator: String,
    /// 0; 1 where the annotator saw the item for the second time.
    pub round: i64,
    /// Digest of what annotators were told at the time.
    pub guideline_digest: String,
    /// What that was: with the first of a project's records that has this digest. Rows that training reads do without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guideline: Option<String>,
    /// When the task was last taken up, by opening it or by an undo that brought it back, in milliseconds since 1970.
    pub started: i64,
    /// When it was handed in.
    pub submitted: i64,
    /// Milliseconds of attention, where they were measured.
    pub active_ms: Option<i64>,
}

impl Record {
    /// Whether training reads it: a live judgement, within the item's overlap, of an item whose right answer was not known already, seen
    /// for the first time.
    pub fn counts(&self) -> bool {
        self.live && self.status == Status::Judged && !self.surplus && self.round == 0 && self.gold.is_none()
    }
}

const RECORDS: &str = "SELECT e.id, e.supersedes, e.kind, e.live, e.surplus, p.name, e.item, i.kind, i.input_digest,
    i.task_digest, i.gold, i.input, e.shown, e.judgement, e.reason, a.name, e.round, e.guideline_digest, e.started,
    e.submitted, e.active
    FROM standing e JOIN items i ON i.id = e.item JOIN projects p ON p.id = i.project
    JOIN annotators a ON a.id = e.annotator";

fn record(row: &SqlRow<'_>) -> Result<Record, AnnotationProblem> {
    let (event, item): (i64, i64) = (row.get(0)?, row.get(6)?);
    let (status, kind): (String, String) = (row.get(2)?, row.get(7)?);
    let (gold, input, shown): (Option<String>, String, String) = (row.get(10)?, row.get(11)?, row.get(12)?);
    let judgement: Option<String> = row.get(13)?;
    let input: Input = from_json(item, "input", &input)?;
    let judged = |id, field, text: Option<String>| -> Result<Option<Judgement>, AnnotationProblem> {
        text.map(|text| from_json(id, field, &text)).transpose()
    };
    Ok(Record {
        event,
        supersedes: row.get(1)?,
        status: match status.as_str() {
            "judgement" => Status::Judged,
            "skip" => Status::Skipped,
            _ => Status::Undone,
        },
        live: row.get(3)?,
        surplus: row.get(4)?,
        project: row.get(5)?,
        item,
        kind: kind_of(item, &kind)?,
        input_digest: row.get(8)?,
        task_digest: row.get(9)?,
        gold: judged(item, "gold", gold)?,
        prompt: input.prompt,
        responses: input.responses,
        shown: from_json(event, "shown", &shown)?,
        judgement: judged(event, "judgement", judgement)?,
        reason: row.get(14)?,
        annotator: row.get(15)?,
        round: row.get(16)?,
        guideline_digest: row.get(17)?,
        guideline: None,
        started: row.get(18)?,
        submitted: row.get(19)?,
        active_ms: row.get(20)?,
    })
}

impl Store {
    /// All events of a project, the oldest first: also those that were replaced or undone.
    ///
    /// # Errors
    /// A store that cannot be read, or that is damaged.
    pub fn records(&self, project: &Project) -> Result<Vec<Record>, DataError> {
        self.read_long(|connection| {
            let mut statement = connection.prepare_cached(&format!("{RECORDS} WHERE i.project = ?1 ORDER BY e.id"))?;
            let mut guideline = connection.prepare_cached("SELECT text FROM guidelines WHERE digest = ?1")?;
            let mut rows = statement.query([project.id])?;
            let (mut records, mut told) = (Vec::new(), HashSet::new());
            while let Some(row) = rows.next()? {
                let mut record = record(row)?;
                if told.insert(record.guideline_digest.clone()) {
                    let text = guideline.query_row([&record.guideline_digest], |row| row.get(0));
                    record.guideline = text.optional()?;
                }
                records.push(record);
            }
            Ok(records)
        })
    }

    /// The newest event of a project; nothing where nobody did anything yet. What is computed of [`Store::records`] holds until it is another.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn newest_event(&self, project: &Project) -> Result<Option<i64>, DataError> {
        self.read(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT MAX(e.id) FROM events e JOIN items i ON i.id = e.item WHERE i.project = ?1")?;
            Ok(statement.query_row([project.id], |row| row.get(0))?)
        })
    }
}

/// Events read at a time.
const PAGE: i64 = 256;

/// What counts of a store's judgements, as rows of a table. Reading happens within one transaction, so that what annotators do meanwhile
/// is not seen.
///
/// # Errors
/// A file that is no store, or one of another version; judgements of several projects.
pub(crate) fn rows(path: &Path) -> Result<impl Iterator<Item = Result<Row, DataError>> + use<>, DataError> {
    let connection = schema::open_to_read(path).and_then(|connection| {
        connection.execute_batch("BEGIN")?;
        one_project(&connection)?;
        Ok(connection)
    });
    let mut pages = Pages {
        connection: connection.map_err(|problem| problem.at(path))?,
        last: 0,
        page: Vec::new().into_iter(),
        done: false,
    };
    let path = path.to_path_buf();
    Ok(std::iter::from_fn(move || match pages.next() {
        Ok(found) => found.map(Ok),
        Err(problem) => Some(Err(problem.at(&path))),
    }))
}

/// # Errors
/// Judgements of more than one project: what is asked of people differs from one to the next.
fn one_project(connection: &Connection) -> Result<(), AnnotationProblem> {
    let mut statement = connection.prepare(
        "SELECT p.name FROM projects p WHERE EXISTS (
            SELECT 1 FROM events e JOIN items i ON i.id = e.item WHERE i.project = p.id) ORDER BY p.id",
    )?;
    let known: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    match known.len() {
        0 | 1 => Ok(()),
        _ => Err(AnnotationProblem::SeveralProjects {
            known,
            hint: "write one of them with `hone annotate --project-name NAME --export records --out FILE.jsonl`, and read that",
        }),
    }
}

/// Whether this file is a SQLite database, as stores of annotations are.
pub fn is_store(path: &Path) -> bool {
    const HEADER: &[u8; 16] = b"SQLite format 3\0";
    let mut begin = [0; 16];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut begin));
    read.is_ok() && begin == *HEADER
}

/// Digest of what training reads of a store: equal contents have equal digests, however SQLite lays them out in its file and its log.
///
/// # Errors
/// As [`rows`], and a store that cannot be read or is damaged.
pub fn content_digest(path: &Path) -> Result<String, DataError> {
    let mut hasher = blake3::Hasher::new();
    for row in rows(path)? {
        let row = row?;
        if let Ok(fields) = &row.fields {
            hasher.update(to_json(fields).as_bytes());
        }
        hasher.update(b"\n");
    }
    Ok(hasher.finalize().to_hex().to_string())
}

struct Pages {
    connection: Connection,
    /// The last event that was read.
    last: i64,
    page: std::vec::IntoIter<Row>,
    done: bool,
}

impl Pages {
    fn next(&mut self) -> Result<Option<Row>, AnnotationProblem> {
        loop {
            if let Some(row) = self.page.next() {
                return Ok(Some(row));
            }
            if self.done {
                return Ok(None);
            }
            let mut statement = self.connection.prepare_cached(&format!(
                "{RECORDS} WHERE e.id > ?1 AND e.live AND e.kind = 'judgement' AND e.round = 0 AND NOT e.surplus
                AND i.gold IS NULL ORDER BY e.id LIMIT ?2"
            ))?;
            let mut found = statement.query(params![self.last, PAGE])?;
            let mut page = Vec::new();
            while let Some(row) = found.next()? {
                let record = record(row)?;
                self.last = record.event;
                page.push(as_row(&record));
            }
            self.done = page.len() < PAGE as usize;
            self.page = page.into_iter();
        }
    }
}

/// The record as a row of a table; its line is the event's number.
fn as_row(record: &Record) -> Row {
    let line = u64::try_from(record.event).unwrap_or(0);
    match serde_json::to_value(record) {
        Ok(Value::Object(fields)) => Row::good(line, fields),
        _ => Row::bad(line, "a record that is no object"),
    }
}
