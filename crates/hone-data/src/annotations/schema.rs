//! The tables of a store, and how its file is opened.
//!
//! What was judged stands in `events` and nowhere else; triggers refuse to change or delete a row there. `leases` and `items.taken` say
//! what the queue needs to know at once, and follow from the events and from who holds what.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::problem::AnnotationProblem;

/// "hone" in ASCII, in the header of the file.
const APPLICATION: i64 = 0x686f_6e65;
/// Version of the tables.
const VERSION: i64 = 1;
/// Statements that are kept prepared: more than there are.
const STATEMENTS: usize = 64;
/// How long to wait for another program that writes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Added after the first stores were made, and made where it is missing.
const SESSIONS: &str = "
CREATE TABLE IF NOT EXISTS sessions (
    digest TEXT PRIMARY KEY,
    annotator INTEGER NOT NULL REFERENCES annotators(id),
    expires INTEGER NOT NULL
) STRICT;
";

const TABLES: &str = "
CREATE TABLE projects (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    settings TEXT NOT NULL,
    guideline_digest TEXT NOT NULL,
    created INTEGER NOT NULL
) STRICT;
CREATE TABLE guidelines (
    digest TEXT PRIMARY KEY,
    text TEXT NOT NULL
) STRICT;
CREATE TABLE items (
    id INTEGER PRIMARY KEY,
    project INTEGER NOT NULL REFERENCES projects(id),
    kind TEXT NOT NULL,
    input TEXT NOT NULL,
    input_digest TEXT NOT NULL,
    task_digest TEXT NOT NULL,
    gold TEXT,
    taken INTEGER NOT NULL DEFAULT 0 CHECK (taken >= 0),
    UNIQUE (project, task_digest)
) STRICT;
CREATE INDEX items_of_queue ON items(project, taken) WHERE gold IS NULL;
CREATE INDEX items_of_gold ON items(project) WHERE gold IS NOT NULL;
CREATE TABLE annotators (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL CHECK (role IN ('owner', 'annotator')),
    token_digest TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL
) STRICT;
CREATE TABLE leases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    item INTEGER NOT NULL REFERENCES items(id),
    annotator INTEGER NOT NULL REFERENCES annotators(id),
    round INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'expired', 'judged', 'skipped', 'surplus')),
    shown TEXT NOT NULL,
    claimed INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    UNIQUE (item, annotator, round)
) STRICT;
CREATE INDEX leases_of_annotator ON leases(annotator, state);
CREATE INDEX leases_that_expire ON leases(expires) WHERE state = 'open';
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('judgement', 'skip', 'undo')),
    item INTEGER NOT NULL REFERENCES items(id),
    annotator INTEGER NOT NULL REFERENCES annotators(id),
    round INTEGER NOT NULL,
    lease INTEGER UNIQUE,
    supersedes INTEGER REFERENCES events(id),
    surplus INTEGER NOT NULL,
    shown TEXT NOT NULL,
    judgement TEXT,
    reason TEXT,
    guideline_digest TEXT NOT NULL,
    started INTEGER NOT NULL,
    submitted INTEGER NOT NULL,
    active INTEGER
) STRICT;
CREATE INDEX events_of_place ON events(item, annotator, round);
CREATE INDEX events_of_annotator ON events(annotator);
CREATE UNIQUE INDEX events_undone ON events(supersedes) WHERE kind = 'undo';
CREATE TRIGGER events_stay BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
CREATE TRIGGER events_hold BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE VIEW standing AS SELECT e.*, (
    e.kind <> 'undo'
    AND NOT EXISTS (SELECT 1 FROM events u WHERE u.kind = 'undo' AND u.supersedes = e.id)
    AND NOT EXISTS (
        SELECT 1 FROM events n
        WHERE n.item = e.item AND n.annotator = e.annotator AND n.round = e.round AND n.id > e.id AND n.kind <> 'undo'
        AND NOT EXISTS (SELECT 1 FROM events u WHERE u.kind = 'undo' AND u.supersedes = n.id)
    )
) AS live FROM events e;
";

/// A connection that reads and writes; the file is made where it does not exist or is empty.
pub(super) fn create(path: &Path) -> Result<Connection, AnnotationProblem> {
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(PATIENCE)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let tables: i64 = transaction.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        transaction.execute_batch(TABLES)?;
        transaction.execute_batch(&format!(
            "PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};"
        ))?;
    }
    check(&transaction)?;
    transaction.execute_batch(SESSIONS)?;
    transaction.commit()?;
    // Readers do not wait for the writer, nor the writer for them; a commit is on the disk before it is acknowledged
    let found: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if found != "wal" {
        return Err(AnnotationProblem::Journal { found });
    }
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// A connection that only reads a store that exists. It is opened for writing where the file allows it, since the last connection to be closed
/// writes the log back into the file; statements that change anything are refused.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, AnnotationProblem> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(PATIENCE)?;
    connection.execute_batch("PRAGMA query_only = ON")?;
    check(&connection)?;
    Ok(connection)
}

fn check(connection: &Connection) -> Result<(), AnnotationProblem> {
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    if pragma("application_id")? != APPLICATION {
        return Err(AnnotationProblem::NotAStore);
    }
    match pragma("user_version")? {
        VERSION => Ok(()),
        found => Err(AnnotationProblem::Version { found, known: VERSION }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before 3.51.3 a store in WAL mode could lose a commit to a reset of the log.
    #[test]
    fn the_bundled_sqlite_is_new_enough() {
        assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
    }

    #[test]
    fn events_are_neither_changed_nor_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let connection = create(&folder.path().join("a.db")).unwrap();
        connection
            .execute_batch(
                "INSERT INTO projects VALUES (1, 'p', '{}', '', 0);
                INSERT INTO items VALUES (1, 1, 'rank', '{}', 'i', 't', NULL, 0);
                INSERT INTO annotators VALUES (1, 'ann', 'annotator', 'd', 0);
                INSERT INTO events VALUES (1, 'skip', 1, 1, 0, NULL, NULL, 0, '[]', NULL, 'r', '', 0, 0, 0);",
            )
            .unwrap();
        for change in ["DELETE FROM events", "UPDATE events SET reason = 'other'"] {
            let error = connection.execute_batch(change).unwrap_err().to_string();
            assert!(error.contains("events are never"), "{error}");
        }
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.db");
        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE t (x)")
            .unwrap();
        assert_eq!(create(&path).unwrap_err(), AnnotationProblem::NotAStore);
        assert_eq!(open_to_read(&path).unwrap_err(), AnnotationProblem::NotAStore);
        let newer = folder.path().join("newer.db");
        create(&newer)
            .unwrap()
            .execute_batch("PRAGMA user_version = 7")
            .unwrap();
        assert_eq!(
            open_to_read(&newer).unwrap_err(),
            AnnotationProblem::Version { found: 7, known: 1 }
        );
    }
}
