//! Who judges what next.
//!
//! An annotator gets, in this order: the task they hold already, the latest first; by the project's shares a gold item or one of their own
//! a second time; an item that others have started, the nearest to done first; an item that nobody has started. Among equals the least
//! hash of (seed, item, annotator) decides, so that everybody has an order of their own. Gold items that were not seen by then come at the end.

use rusqlite::{Connection, OptionalExtension, params};

use hone_math::Key;

use super::problem::AnnotationProblem;
use super::store::{Store, from_json, kind_of, settings_of, to_json};
use super::types::{Input, Judgement, Project, Settings, Task};
use crate::error::DataError;

impl Store {
    /// A task of this annotator by its number, whatever its state.
    ///
    /// # Errors
    /// A number that is not theirs.
    pub fn task(&self, lease: i64, annotator: i64) -> Result<Task, DataError> {
        self.read(|connection| {
            let own: bool = connection
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM leases WHERE id = ?1 AND annotator = ?2)")?
                .query_row([lease, annotator], |row| row.get(0))?;
            match own {
                true => task(connection, lease),
                false => Err(AnnotationProblem::Lease { lease }),
            }
        })
    }

    /// The annotator's next task, or nothing where there is none for them now. What they hold already comes back with its lease renewed. The
    /// settings are those that the store has now.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn claim(&self, project: &Project, annotator: i64, now: i64) -> Result<Option<Task>, DataError> {
        let mut project = project.clone();
        self.write(move |connection| {
            project.settings = settings_of(connection, project.id)?;
            claim(connection, &project, annotator, now)
        })
    }
}

/// Which place of an item is taken.
#[derive(Clone, Copy)]
struct Place {
    item: i64,
    round: i64,
    /// Whether it counts for the item's overlap: the first round of an item that is not gold.
    counts: bool,
}

fn claim(
    connection: &Connection,
    project: &Project,
    annotator: i64,
    now: i64,
) -> Result<Option<Task>, AnnotationProblem> {
    expire(connection, now)?;
    let expires = now + i64::from(project.settings.lease_seconds) * 1000;
    if let Some(lease) = held(connection, project.id, annotator)? {
        connection
            .prepare_cached("UPDATE leases SET expires = ?2 WHERE id = ?1")?
            .execute(params![lease, expires])?;
        return task(connection, lease).map(Some);
    }
    let Some(place) = choose(connection, project, annotator)? else {
        return Ok(None);
    };
    let lease = take(connection, &project.settings, (annotator, place), (now, expires))?;
    task(connection, lease).map(Some)
}

/// Takes back what was held too long.
fn expire(connection: &Connection, now: i64) -> Result<(), AnnotationProblem> {
    let mut statement = connection.prepare_cached(
        "SELECT l.id, l.item, l.round = 0 AND i.gold IS NULL FROM leases l JOIN items i ON i.id = l.item
        WHERE l.state = 'open' AND l.expires <= ?1",
    )?;
    let gone: Vec<(i64, i64, bool)> = statement
        .query_map([now], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    for (lease, item, counts) in gone {
        set_state(connection, lease, "expired")?;
        if counts {
            change_taken(connection, item, -1)?;
        }
    }
    Ok(())
}

fn held(connection: &Connection, project: i64, annotator: i64) -> Result<Option<i64>, AnnotationProblem> {
    Ok(connection
        .prepare_cached(
            "SELECT l.id FROM leases l JOIN items i ON i.id = l.item
            WHERE l.annotator = ?1 AND l.state = 'open' AND i.project = ?2 ORDER BY l.id DESC LIMIT 1",
        )?
        .query_row([annotator, project], |row| row.get(0))
        .optional()?)
}

fn choose(connection: &Connection, project: &Project, annotator: i64) -> Result<Option<Place>, AnnotationProblem> {
    let settings = &project.settings;
    if settings.gold_share > 0.0 || settings.repeat_share > 0.0 {
        let done: i64 = connection
            .prepare_cached(
                "SELECT COUNT(*) FROM leases l JOIN items i ON i.id = l.item
                WHERE l.annotator = ?1 AND l.state <> 'open' AND i.project = ?2",
            )?
            .query_row([annotator, project.id], |row| row.get(0))?;
        let chance = |purpose: &str, share: f64| {
            let key = Key::new(settings.seed, purpose, 0).child(annotator as u64);
            key.uniform(done as u64) < share
        };
        if chance("annotation gold", settings.gold_share)
            && let Some(item) = unseen_gold(connection, project, annotator)?
        {
            return Ok(Some(Place {
                item,
                round: 0,
                counts: false,
            }));
        }
        if chance("annotation repeat", settings.repeat_share)
            && let Some(item) = to_repeat(connection, project, annotator)?
        {
            return Ok(Some(Place {
                item,
                round: 1,
                counts: false,
            }));
        }
    }
    let mut found = started(connection, project, annotator)?;
    if found.is_none() {
        found = fresh(connection, project, annotator)?;
    }
    let counts = found.is_some();
    if found.is_none() && settings.gold_share > 0.0 {
        found = unseen_gold(connection, project, annotator)?;
    }
    Ok(found.map(|item| Place { item, round: 0, counts }))
}

/// The item whose hash for this annotator is least.
fn first_of(settings: &Settings, annotator: i64, items: impl IntoIterator<Item = i64>) -> Option<i64> {
    let key = Key::new(settings.seed, "annotation queue", 0).child(annotator as u64);
    items.into_iter().min_by_key(|&item| (key.bits(item as u64), item))
}

fn unseen_gold(connection: &Connection, project: &Project, annotator: i64) -> Result<Option<i64>, AnnotationProblem> {
    let mut statement = connection.prepare_cached(
        "SELECT i.id FROM items i WHERE i.project = ?1 AND i.gold IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM leases l WHERE l.item = i.id AND l.annotator = ?2 AND l.round = 0 AND l.state <> 'expired')",
    )?;
    let items: Vec<i64> = statement
        .query_map([project.id, annotator], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(first_of(&project.settings, annotator, items))
}

/// An item that this annotator judged, at least `repeat_after` others ago, and has not seen again.
fn to_repeat(connection: &Connection, project: &Project, annotator: i64) -> Result<Option<i64>, AnnotationProblem> {
    let mut statement = connection.prepare_cached(
        "SELECT l.item, EXISTS (SELECT 1 FROM leases r
            WHERE r.item = l.item AND r.annotator = l.annotator AND r.round = 1 AND r.state <> 'expired')
        FROM leases l JOIN items i ON i.id = l.item
        WHERE l.annotator = ?1 AND i.project = ?2 AND l.round = 0 AND l.state = 'judged' AND i.gold IS NULL
        ORDER BY l.id DESC",
    )?;
    let items: Vec<(i64, bool)> = statement
        .query_map([annotator, project.id], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let old = items.into_iter().skip(project.settings.repeat_after as usize);
    let unseen = old.filter(|(_, seen)| !seen).map(|(item, _)| item);
    Ok(first_of(&project.settings, annotator, unseen))
}

const NOT_MINE: &str = "NOT EXISTS (SELECT 1 FROM leases l
    WHERE l.item = items.id AND l.annotator = ?2 AND l.round = 0 AND l.state <> 'expired')";

/// An item that others have, or had, in hand and that has places left.
fn started(connection: &Connection, project: &Project, annotator: i64) -> Result<Option<i64>, AnnotationProblem> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT id, taken FROM items
        WHERE project = ?1 AND gold IS NULL AND taken > 0 AND taken < ?3 AND {NOT_MINE} ORDER BY taken DESC"
    ))?;
    let overlap = i64::from(project.settings.overlap);
    let mut rows = statement.query(params![project.id, annotator, overlap])?;
    let (mut fullest, mut items) = (0, Vec::new());
    while let Some(row) = rows.next()? {
        let (item, taken): (i64, i64) = (row.get(0)?, row.get(1)?);
        if taken < fullest {
            break;
        }
        fullest = taken;
        items.push(item);
    }
    Ok(first_of(&project.settings, annotator, items))
}

fn fresh(connection: &Connection, project: &Project, annotator: i64) -> Result<Option<i64>, AnnotationProblem> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT id FROM items WHERE project = ?1 AND gold IS NULL AND taken = 0 AND {NOT_MINE}"
    ))?;
    let items: Vec<i64> = statement
        .query_map([project.id, annotator], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(first_of(&project.settings, annotator, items))
}

/// Writes the lease. One of the same place that expired goes on under its number.
fn take(
    connection: &Connection,
    settings: &Settings,
    (annotator, place): (i64, Place),
    (now, expires): (i64, i64),
) -> Result<i64, AnnotationProblem> {
    let input: String = connection
        .prepare_cached("SELECT input FROM items WHERE id = ?1")?
        .query_row([place.item], |row| row.get(0))?;
    let input: Input = from_json(place.item, "input", &input)?;
    let shown = order_shown(settings, place.item, (annotator, place.round), input.responses.len());
    connection
        .prepare_cached(
            "INSERT INTO leases (item, annotator, round, state, shown, claimed, expires)
            VALUES (?1, ?2, ?3, 'open', ?4, ?5, ?6)
            ON CONFLICT (item, annotator, round) DO UPDATE SET state = 'open', claimed = ?5, expires = ?6",
        )?
        .execute(params![
            place.item,
            annotator,
            place.round,
            to_json(&shown),
            now,
            expires
        ])?;
    if place.counts {
        change_taken(connection, place.item, 1)?;
    }
    Ok(connection
        .prepare_cached("SELECT id FROM leases WHERE item = ?1 AND annotator = ?2 AND round = ?3")?
        .query_row([place.item, annotator, place.round], |row| row.get(0))?)
}

/// The order in which an annotator sees the answers of an item in this round.
fn order_shown(settings: &Settings, item: i64, (annotator, round): (i64, i64), responses: usize) -> Vec<usize> {
    Key::new(settings.seed, "annotation order", round as u64)
        .child(item as u64)
        .child(annotator as u64)
        .permutation(responses)
}

pub(super) fn set_state(connection: &Connection, lease: i64, state: &str) -> Result<(), AnnotationProblem> {
    connection
        .prepare_cached("UPDATE leases SET state = ?2 WHERE id = ?1")?
        .execute(params![lease, state])?;
    Ok(())
}

pub(super) fn change_taken(connection: &Connection, item: i64, by: i64) -> Result<(), AnnotationProblem> {
    connection
        .prepare_cached("UPDATE items SET taken = taken + ?2 WHERE id = ?1")?
        .execute(params![item, by])?;
    Ok(())
}

/// What an undo brought back to the place of an open lease: the judgement that was undone last, and its attention.
fn brought_back(connection: &Connection, lease: i64) -> Result<(Option<Judgement>, Option<i64>), AnnotationProblem> {
    let found: Option<(i64, String, Option<i64>)> = connection
        .prepare_cached(
            "SELECT e.id, e.judgement, e.active FROM leases l
            JOIN events e ON e.item = l.item AND e.annotator = l.annotator AND e.round = l.round AND e.kind = 'judgement'
            JOIN events u ON u.kind = 'undo' AND u.supersedes = e.id
            WHERE l.id = ?1 AND l.state = 'open' ORDER BY u.id DESC LIMIT 1",
        )?
        .query_row([lease], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((event, text, active)) = found else {
        return Ok((None, None));
    };
    Ok((Some(from_json(event, "judgement", &text)?), active))
}

/// The task of a lease. One that an undo has opened again brings what was judged before.
pub(super) fn task(connection: &Connection, lease: i64) -> Result<Task, AnnotationProblem> {
    let mut statement = connection.prepare_cached(
        "SELECT l.item, i.kind, i.input, l.shown, l.claimed, l.expires FROM leases l JOIN items i ON i.id = l.item
        WHERE l.id = ?1",
    )?;
    let mut rows = statement.query([lease])?;
    let row = rows.next()?.ok_or(AnnotationProblem::Lease { lease })?;
    let item: i64 = row.get(0)?;
    let (earlier, spent) = brought_back(connection, lease)?;
    let (kind, input, shown): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
    Ok(Task {
        lease,
        item,
        kind: kind_of(item, &kind)?,
        input: from_json(item, "input", &input)?,
        shown: from_json(item, "shown", &shown)?,
        claimed: row.get(4)?,
        expires: row.get(5)?,
        earlier,
        spent,
    })
}
