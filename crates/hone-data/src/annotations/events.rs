//! What annotators do: judge, edit, skip, undo. Each is an event of its own.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::check;
use super::problem::AnnotationProblem;
use super::queue::{change_taken, set_state, task};
use super::store::{Store, from_json, kind_of, settings_of, to_json};
use super::types::{Input, Judgement, Project, Settings, Submission, Submitted, Undone};
use crate::error::DataError;

/// The longest reason for a skip, in bytes.
const MOST_REASON: usize = 1000;

impl Store {
    /// Takes a judgement. Handing in the same judgement of the same task again answers as the first time and changes nothing, so a
    /// request whose answer was lost can be repeated.
    ///
    /// # Errors
    /// A task that is not this annotator's, or that they judged otherwise or skipped already; a judgement that does not fit the item.
    pub fn submit(&self, submission: Submission, now: i64) -> Result<Submitted, DataError> {
        self.write(move |connection| submit(connection, &submission, now))
    }

    /// Replaces a judgement that stands: `submission.lease` is passed over, `event` says which one. The same edit of the same judgement again
    /// answers as the first time and changes nothing.
    ///
    /// # Errors
    /// An event that is not a standing judgement of this annotator; a judgement that does not fit the item.
    pub fn edit(&self, event: i64, submission: Submission, now: i64) -> Result<Submitted, DataError> {
        self.write(move |connection| edit(connection, event, (&submission, None), now))
    }

    /// Gives a task back for good: this annotator will not see it again. Doing it again changes nothing.
    ///
    /// # Errors
    /// A task that is not this annotator's, or that they have judged.
    pub fn skip(&self, lease: i64, annotator: i64, reason: &str, now: i64) -> Result<i64, DataError> {
        let reason = reason.trim().to_string();
        self.write(move |connection| skip(connection, (lease, annotator), &reason, now))
    }

    /// The event that an undo of this annotator is about: the last judgement, edit or skip of theirs in the project that stands.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn last_event(&self, project: &Project, annotator: i64) -> Result<Option<i64>, DataError> {
        self.read(|connection| Ok(last(connection, project.id, annotator)?.map(|last| last.event)))
    }

    /// Undoes `event`, the last thing that this annotator did in the project: a judgement, an edit or a skip. Undoing what is undone already
    /// answers as the first time and changes nothing, so a request that comes twice undoes one thing.
    ///
    /// # Errors
    /// Nothing left to undo; an event that is not the last one of theirs.
    pub fn undo(&self, project: &Project, annotator: i64, event: i64, now: i64) -> Result<Undone, DataError> {
        let project = project.clone();
        self.write(move |connection| undo(connection, &project, (annotator, event), now))
    }
}

/// A lease with what belongs to it.
struct Held {
    lease: i64,
    item: i64,
    annotator: i64,
    round: i64,
    state: String,
    shown: String,
    claimed: i64,
    kind: String,
    input: String,
    gold: bool,
    taken: i64,
    settings: String,
    guideline_digest: String,
}

impl Held {
    fn counts(&self) -> bool {
        self.round == 0 && !self.gold
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            lease: row.get(0)?,
            item: row.get(1)?,
            annotator: row.get(2)?,
            round: row.get(3)?,
            state: row.get(4)?,
            shown: row.get(5)?,
            claimed: row.get(6)?,
            kind: row.get(7)?,
            input: row.get(8)?,
            gold: row.get(9)?,
            taken: row.get(10)?,
            settings: row.get(11)?,
            guideline_digest: row.get(12)?,
        })
    }

    /// # Errors
    /// A judgement that does not fit the item.
    fn check(&self, judgement: &Judgement) -> Result<Settings, AnnotationProblem> {
        let settings: Settings = from_json(self.item, "settings", &self.settings)?;
        let input: Input = from_json(self.item, "input", &self.input)?;
        let kind = kind_of(self.item, &self.kind)?;
        check::judgement(judgement, kind, &input.responses, &settings).map_err(|reason| {
            AnnotationProblem::Judgement {
                item: self.item,
                reason,
            }
        })?;
        Ok(settings)
    }
}

const HELD: &str = "SELECT l.id, l.item, l.annotator, l.round, l.state, l.shown, l.claimed,
    i.kind, i.input, i.gold IS NOT NULL, i.taken, p.settings, p.guideline_digest
    FROM leases l JOIN items i ON i.id = l.item JOIN projects p ON p.id = i.project";

fn held(connection: &Connection, lease: i64, annotator: i64) -> Result<Held, AnnotationProblem> {
    connection
        .prepare_cached(&format!("{HELD} WHERE l.id = ?1 AND l.annotator = ?2"))?
        .query_row([lease, annotator], Held::read)
        .optional()?
        .ok_or(AnnotationProblem::Lease { lease })
}

fn held_at(connection: &Connection, item: i64, annotator: i64, round: i64) -> Result<Held, AnnotationProblem> {
    Ok(connection
        .prepare_cached(&format!(
            "{HELD} WHERE l.item = ?1 AND l.annotator = ?2 AND l.round = ?3"
        ))?
        .query_row([item, annotator, round], Held::read)?)
}

/// A row of `events`; the place it belongs to is that of `held`.
struct NewEvent<'a> {
    kind: &'static str,
    held: &'a Held,
    /// The task that is handed in; nothing for edits and undos.
    lease: Option<i64>,
    supersedes: Option<i64>,
    surplus: bool,
    judgement: Option<&'a str>,
    reason: Option<&'a str>,
    started: i64,
    submitted: i64,
    active: Option<i64>,
}

fn append(connection: &Connection, event: &NewEvent<'_>) -> Result<i64, AnnotationProblem> {
    connection
        .prepare_cached(
            "INSERT INTO events (kind, item, annotator, round, lease, supersedes, surplus, shown, judgement, reason,
                guideline_digest, started, submitted, active)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        )?
        .execute(params![
            event.kind,
            event.held.item,
            event.held.annotator,
            event.held.round,
            event.lease,
            event.supersedes,
            event.surplus,
            event.held.shown,
            event.judgement,
            event.reason,
            event.held.guideline_digest,
            event.started,
            event.submitted,
            event.active,
        ])?;
    Ok(connection.last_insert_rowid())
}

pub(super) fn submit(
    connection: &Connection,
    submission: &Submission,
    now: i64,
) -> Result<Submitted, AnnotationProblem> {
    let held = held(connection, submission.lease, submission.annotator)?;
    let settings = held.check(&submission.judgement)?;
    let judgement = to_json(&submission.judgement);
    let free = held.taken < i64::from(settings.overlap);
    let surplus = match held.state.as_str() {
        "open" => false,
        // The place was taken back: it may be free still
        "expired" if !held.counts() => false,
        "expired" if free => {
            change_taken(connection, held.item, 1)?;
            false
        }
        "expired" => true,
        _ => return repeated(connection, &held, &judgement),
    };
    set_state(connection, held.lease, if surplus { "surplus" } else { "judged" })?;
    let event = append(
        connection,
        &NewEvent {
            kind: "judgement",
            held: &held,
            lease: Some(held.lease),
            supersedes: None,
            surplus,
            judgement: Some(&judgement),
            reason: None,
            started: submission.started,
            submitted: now,
            active: submission.active.map(|active| active.max(0)),
        },
    )?;
    Ok(Submitted { event, surplus })
}

/// The answer to a task that was handed in before: the same one, if it is the same judgement.
fn repeated(connection: &Connection, held: &Held, judgement: &str) -> Result<Submitted, AnnotationProblem> {
    let found: Option<(i64, bool, Option<String>)> = connection
        .prepare_cached("SELECT id, surplus, judgement FROM events WHERE lease = ?1")?
        .query_row([held.lease], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    match found {
        Some((event, surplus, Some(before))) if before == judgement => Ok(Submitted { event, surplus }),
        _ => Err(AnnotationProblem::Lease { lease: held.lease }),
    }
}

/// An event that stands.
struct Standing {
    event: i64,
    item: i64,
    round: i64,
    surplus: bool,
    kind: String,
    shown: String,
}

const STANDING: &str = "SELECT s.id, s.item, s.round, s.surplus, s.kind, s.shown
    FROM standing s JOIN items i ON i.id = s.item";

fn standing(row: &Row<'_>) -> rusqlite::Result<Standing> {
    Ok(Standing {
        event: row.get(0)?,
        item: row.get(1)?,
        round: row.get(2)?,
        surplus: row.get(3)?,
        kind: row.get(4)?,
        shown: row.get(5)?,
    })
}

/// Replaces a judgement; `shown` is the order in which the answers stood this time, where it is another one than before.
pub(super) fn edit(
    connection: &Connection,
    event: i64,
    (submission, shown): (&Submission, Option<&[usize]>),
    now: i64,
) -> Result<Submitted, AnnotationProblem> {
    let again = connection
        .prepare_cached(&format!(
            "{STANDING} WHERE s.supersedes = ?1 AND s.annotator = ?2 AND s.live AND s.judgement = ?3"
        ))?
        .query_row(
            params![event, submission.annotator, to_json(&submission.judgement)],
            standing,
        )
        .optional()?;
    if let Some(done) = again {
        return Ok(Submitted {
            event: done.event,
            surplus: done.surplus,
        });
    }
    let before = connection
        .prepare_cached(&format!("{STANDING} WHERE s.id = ?1 AND s.annotator = ?2 AND s.live"))?
        .query_row([event, submission.annotator], standing)
        .optional()?
        .filter(|before| before.kind == "judgement")
        .ok_or_else(|| AnnotationProblem::Unknown {
            what: "standing judgement",
            name: event.to_string(),
            known: Vec::new(),
        })?;
    let held = Held {
        shown: shown.map_or(before.shown, |shown| to_json(&shown)),
        ..held_at(connection, before.item, submission.annotator, before.round)?
    };
    held.check(&submission.judgement)?;
    let judgement = to_json(&submission.judgement);
    let event = append(
        connection,
        &NewEvent {
            kind: "judgement",
            held: &held,
            lease: None,
            supersedes: Some(before.event),
            surplus: before.surplus,
            judgement: Some(&judgement),
            reason: None,
            started: submission.started,
            submitted: now,
            active: submission.active.map(|active| active.max(0)),
        },
    )?;
    Ok(Submitted {
        event,
        surplus: before.surplus,
    })
}

fn skip(
    connection: &Connection,
    (lease, annotator): (i64, i64),
    reason: &str,
    now: i64,
) -> Result<i64, AnnotationProblem> {
    let held = held(connection, lease, annotator)?;
    if reason.is_empty() || reason.len() > MOST_REASON {
        return Err(AnnotationProblem::Judgement {
            item: held.item,
            reason: format!(
                "a reason of {} bytes for the skip, expected 1 to {MOST_REASON}",
                reason.len()
            ),
        });
    }
    match held.state.as_str() {
        "open" if held.counts() => change_taken(connection, held.item, -1)?,
        "open" | "expired" => {}
        "skipped" => {
            let event = connection
                .prepare_cached("SELECT id FROM events WHERE lease = ?1")?
                .query_row([lease], |row| row.get(0))?;
            return Ok(event);
        }
        _ => return Err(AnnotationProblem::Lease { lease }),
    }
    set_state(connection, lease, "skipped")?;
    append(
        connection,
        &NewEvent {
            kind: "skip",
            held: &held,
            lease: Some(lease),
            supersedes: None,
            surplus: false,
            judgement: None,
            reason: Some(reason),
            started: held.claimed,
            submitted: now,
            active: None,
        },
    )
}

fn last(connection: &Connection, project: i64, annotator: i64) -> Result<Option<Standing>, AnnotationProblem> {
    Ok(connection
        .prepare_cached(&format!(
            "{STANDING} WHERE s.annotator = ?1 AND i.project = ?2 AND s.live ORDER BY s.id DESC LIMIT 1"
        ))?
        .query_row([annotator, project], standing)
        .optional()?)
}

/// The answer to an undo that was asked for before; nothing where it was not.
fn undone_before(connection: &Connection, (annotator, event): (i64, i64)) -> Result<Option<Undone>, AnnotationProblem> {
    let place: Option<(i64, i64)> = connection
        .prepare_cached("SELECT item, round FROM events WHERE kind = 'undo' AND supersedes = ?1 AND annotator = ?2")?
        .query_row([event, annotator], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((item, round)) = place else {
        return Ok(None);
    };
    let held = held_at(connection, item, annotator, round)?;
    let open = held.state == "open";
    let task = open.then(|| task(connection, held.lease)).transpose()?;
    Ok(Some(Undone { event, task }))
}

fn append_undo(connection: &Connection, held: &Held, undone: &Standing, now: i64) -> Result<i64, AnnotationProblem> {
    append(
        connection,
        &NewEvent {
            kind: "undo",
            held,
            lease: None,
            supersedes: Some(undone.event),
            surplus: undone.surplus,
            judgement: None,
            reason: None,
            started: now,
            submitted: now,
            active: None,
        },
    )
}

/// Undoes the skip of a place that stands. What comes after it can then be undone without the skip standing again.
pub(super) fn undo_skip(
    connection: &Connection,
    (item, annotator): (i64, i64),
    now: i64,
) -> Result<(), AnnotationProblem> {
    let skip = connection
        .prepare_cached(&format!(
            "{STANDING} WHERE s.item = ?1 AND s.annotator = ?2 AND s.round = 0 AND s.kind = 'skip' AND s.live"
        ))?
        .query_row([item, annotator], standing)
        .optional()?;
    if let Some(skip) = skip {
        let held = held_at(connection, item, annotator, skip.round)?;
        append_undo(connection, &held, &skip, now)?;
    }
    Ok(())
}

fn undo(
    connection: &Connection,
    project: &Project,
    (annotator, event): (i64, i64),
    now: i64,
) -> Result<Undone, AnnotationProblem> {
    if let Some(undone) = undone_before(connection, (annotator, event))? {
        return Ok(undone);
    }
    let last = last(connection, project.id, annotator)?.ok_or(AnnotationProblem::NothingToUndo)?;
    if last.event != event {
        return Err(AnnotationProblem::NotLast { event });
    }
    let held = held_at(connection, last.item, annotator, last.round)?;
    append_undo(connection, &held, &last, now)?;
    let edited: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM standing WHERE item = ?1 AND annotator = ?2 AND round = ?3 AND live)",
        )?
        .query_row([last.item, annotator, last.round], |row| row.get(0))?;
    if edited {
        return Ok(Undone {
            event: last.event,
            task: None,
        });
    }
    let settings = settings_of(connection, project.id)?;
    let lease = again(connection, &settings, &held, now)?;
    let task = lease.map(|lease| task(connection, lease)).transpose()?;
    Ok(Undone {
        event: last.event,
        task,
    })
}

/// Opens a place again, under a new number, after what was handed in for it was undone. Nothing where others have filled the item.
fn again(
    connection: &Connection,
    settings: &Settings,
    held: &Held,
    now: i64,
) -> Result<Option<i64>, AnnotationProblem> {
    let state = match held.state.as_str() {
        "judged" => "open",
        _ if !held.counts() => "open",
        _ if held.taken < i64::from(settings.overlap) => {
            change_taken(connection, held.item, 1)?;
            "open"
        }
        _ => "expired",
    };
    connection
        .prepare_cached("DELETE FROM leases WHERE id = ?1")?
        .execute([held.lease])?;
    let expires = now + i64::from(settings.lease_seconds) * 1000;
    connection
        .prepare_cached(
            "INSERT INTO leases (item, annotator, round, state, shown, claimed, expires) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            held.item,
            held.annotator,
            held.round,
            state,
            held.shown,
            now,
            expires
        ])?;
    Ok((state == "open").then(|| connection.last_insert_rowid()))
}
