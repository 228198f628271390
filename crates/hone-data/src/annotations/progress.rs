//! How far a project has come.

use rusqlite::params;

use super::store::Store;
use super::types::Project;
use crate::error::DataError;

/// How far a project has come.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Progress {
    /// Items to judge, gold ones aside.
    pub items: u64,
    /// Gold items.
    pub gold: u64,
    /// Judgements wanted: items times overlap.
    pub wanted: u64,
    /// Judgements that count.
    pub judged: u64,
    /// Items with all of theirs.
    pub complete: u64,
    /// Tasks in hand.
    pub open: u64,
    /// Everybody who did something, in the order in which they were added.
    pub annotators: Vec<AnnotatorProgress>,
    /// Why tasks were given back, the most frequent reason first.
    pub skips: Vec<SkipReason>,
}

/// A reason for which tasks were given back.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SkipReason {
    /// In the annotator's words.
    pub reason: String,
    /// How many tasks.
    pub tasks: u64,
}

/// What one annotator did.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct AnnotatorProgress {
    /// Who.
    pub name: String,
    /// Judgements that count.
    pub judged: u64,
    /// Tasks given back.
    pub skipped: u64,
    /// Gold items and second looks.
    pub checks: u64,
    /// Judgements that came too late to count.
    pub surplus: u64,
}

impl Store {
    /// How far a project has come. Among the tasks in hand are those whose time is over and that nobody has asked for since.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn progress(&self, project: &Project) -> Result<Progress, DataError> {
        self.progress_at(project, i64::MIN)
    }

    /// How far a project has come at this time, in milliseconds since 1970: tasks whose time is over are in nobody's hands.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn progress_at(&self, project: &Project, now: i64) -> Result<Progress, DataError> {
        let overlap = i64::from(project.settings.overlap);
        let id = project.id;
        self.read_long(|connection| {
            let number = |sql: &str, parameters: &[i64]| -> rusqlite::Result<u64> {
                let count: i64 =
                    connection.query_row(sql, rusqlite::params_from_iter(parameters.iter()), |row| row.get(0))?;
                Ok(u64::try_from(count).unwrap_or(0))
            };
            let items = number("SELECT COUNT(*) FROM items WHERE project = ?1 AND gold IS NULL", &[id])?;
            let leases = "FROM leases l JOIN items i ON i.id = l.item WHERE i.project = ?1";
            let mut statement = connection.prepare_cached(
                "SELECT a.name,
                    SUM(l.state = 'judged' AND l.round = 0 AND i.gold IS NULL),
                    SUM(l.state = 'skipped'),
                    SUM(l.state = 'judged' AND (l.round > 0 OR i.gold IS NOT NULL)),
                    SUM(l.state = 'surplus')
                FROM leases l JOIN items i ON i.id = l.item JOIN annotators a ON a.id = l.annotator
                WHERE i.project = ?1 GROUP BY a.id ORDER BY a.id",
            )?;
            let annotators = statement.query_map(params![id], |row| {
                let count = |column: usize| row.get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or(0));
                Ok(AnnotatorProgress {
                    name: row.get(0)?,
                    judged: count(1)?,
                    skipped: count(2)?,
                    checks: count(3)?,
                    surplus: count(4)?,
                })
            })?;
            let annotators = annotators.collect::<Result<Vec<_>, _>>()?;
            let mut statement = connection.prepare_cached(
                "SELECT s.reason, COUNT(*) AS tasks FROM standing s JOIN items i ON i.id = s.item
                WHERE i.project = ?1 AND s.kind = 'skip' AND s.live GROUP BY s.reason ORDER BY tasks DESC, s.reason LIMIT 100",
            )?;
            let skips = statement.query_map([id], |row| {
                Ok(SkipReason {
                    reason: row.get(0)?,
                    tasks: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
                })
            })?;
            let skips = skips.collect::<Result<Vec<_>, _>>()?;
            Ok(Progress {
                items,
                skips,
                gold: number("SELECT COUNT(*) FROM items WHERE project = ?1 AND gold IS NOT NULL", &[id])?,
                wanted: items * overlap as u64,
                judged: annotators.iter().map(|a| a.judged).sum(),
                complete: number(
                    "SELECT COUNT(*) FROM items i WHERE i.project = ?1 AND i.gold IS NULL AND (
                        SELECT COUNT(*) FROM leases l WHERE l.item = i.id AND l.round = 0 AND l.state = 'judged') >= ?2",
                    &[id, overlap],
                )?,
                open: number(&format!("SELECT COUNT(*) {leases} AND l.state = 'open' AND l.expires > ?2"), &[id, now])?,
                annotators,
            })
        })
    }
}
