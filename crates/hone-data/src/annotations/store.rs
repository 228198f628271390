//! Opening a store, and putting projects and items into it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, params};

use super::check;
use super::problem::AnnotationProblem;
use super::schema;
use super::types::{NewItem, Project, Settings, TaskKind};
use super::writer::Writer;
use crate::error::DataError;

/// An open store. It can be shared between threads.
pub struct Store {
    path: PathBuf,
    // Closed before the writer, so that the writer leaves one file behind
    reader: Mutex<Connection>,
    /// For what takes a while, so that nobody who wants a task waits for it.
    long_reader: Mutex<Connection>,
    /// Nothing where the store was opened to be read.
    writer: Option<Writer>,
}

/// What became of items that were to be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// New ones.
    pub added: u64,
    /// Those that the project had already: the same task on the same texts, whoever gave the answers and in whatever order they stand.
    pub known: u64,
    /// Of these, those that came with another known judgement than the project has, which stays as it is.
    pub other_gold: u64,
}

impl Store {
    /// Opens the store at this path, which is made where there is nothing yet.
    ///
    /// # Errors
    /// A path that cannot be written; a file that is no store, or one of another version.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let opened = schema::create(path).and_then(|connection| {
            let readers = (schema::open_to_read(path)?, schema::open_to_read(path)?);
            Ok((Writer::start(connection)?, readers))
        });
        let (writer, (reader, long_reader)) = opened.map_err(|problem| problem.at(path))?;
        Ok(Self {
            path: path.into(),
            reader: Mutex::new(reader),
            long_reader: Mutex::new(long_reader),
            writer: Some(writer),
        })
    }

    /// Opens a store that exists and changes nothing in it: what would write is refused.
    ///
    /// # Errors
    /// A file that is not there or no store, or one of another version.
    pub fn open_to_read(path: &Path) -> Result<Self, DataError> {
        let reader = || schema::open_to_read(path).map_err(|problem| problem.at(path));
        Ok(Self {
            path: path.into(),
            reader: Mutex::new(reader()?),
            long_reader: Mutex::new(reader()?),
            writer: None,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, AnnotationProblem> + Send + 'static,
    ) -> Result<T, DataError> {
        let written = match &self.writer {
            Some(writer) => writer.run(work),
            None => Err(AnnotationProblem::ReadOnly),
        };
        written.map_err(|problem| problem.at(&self.path))
    }

    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, AnnotationProblem>,
    ) -> Result<T, DataError> {
        self.read_by(&self.reader, work)
    }

    /// The same of all that was judged, which may take seconds; others read meanwhile.
    pub(super) fn read_long<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, AnnotationProblem>,
    ) -> Result<T, DataError> {
        self.read_by(&self.long_reader, work)
    }

    fn read_by<T>(
        &self,
        reader: &Mutex<Connection>,
        work: impl FnOnce(&Connection) -> Result<T, AnnotationProblem>,
    ) -> Result<T, DataError> {
        // A reader that panicked left nothing behind: a connection without a transaction has no state
        let reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
        work(&reader).map_err(|problem| problem.at(&self.path))
    }

    /// Makes a project, or finds the one of this name and gives it these settings. Every guideline that was ever given stays in the store
    /// under its digest.
    ///
    /// # Errors
    /// A setting outside its range.
    pub fn put_project(&self, name: &str, settings: &Settings, now: i64) -> Result<Project, DataError> {
        let (name, settings) = (name.to_string(), settings.clone());
        self.write(move |connection| {
            check::settings(&settings)?;
            if name.trim().is_empty() {
                return Err(AnnotationProblem::Setting {
                    key: "name",
                    got: "empty".into(),
                    expected: "a name",
                });
            }
            let digest = digest(settings.guideline.as_bytes());
            connection.execute(
                "INSERT INTO guidelines (digest, text) VALUES (?1, ?2) ON CONFLICT (digest) DO NOTHING",
                params![digest, settings.guideline],
            )?;
            connection.execute(
                "INSERT INTO projects (name, settings, guideline_digest, created) VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT (name) DO UPDATE SET settings = ?2, guideline_digest = ?3",
                params![name, to_json(&settings), digest, now],
            )?;
            project_named(connection, &name)
        })
    }

    /// The project of this name.
    ///
    /// # Errors
    /// A name that the store does not have; those that it has are listed.
    pub fn project(&self, name: &str) -> Result<Project, DataError> {
        self.read(|connection| project_named(connection, name))
    }

    /// The only project.
    ///
    /// # Errors
    /// A store with none, or with several, which are named together with `hint`: how to choose one.
    pub fn only_project(&self, hint: &'static str) -> Result<Project, DataError> {
        self.read(|connection| match project_names(connection)?.as_slice() {
            [] => Err(AnnotationProblem::NoProject),
            [name] => project_named(connection, name),
            names => Err(AnnotationProblem::SeveralProjects {
                known: names.to_vec(),
                hint,
            }),
        })
    }

    /// What annotators were told under this digest; nothing where the store never had it.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn guideline(&self, digest: &str) -> Result<Option<String>, DataError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT text FROM guidelines WHERE digest = ?1")?;
            Ok(statement.query_row([digest], |row| row.get(0)).optional()?)
        })
    }

    /// The names of all projects, in the order in which they were made.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn projects(&self) -> Result<Vec<String>, DataError> {
        self.read(project_names)
    }

    /// Whether items could be added. Nothing is written.
    ///
    /// # Errors
    /// The first item that nobody could judge.
    pub fn check_items(&self, project: &Project, items: &[NewItem]) -> Result<(), DataError> {
        for (i, item) in items.iter().enumerate() {
            check::item(item, &project.settings)
                .map_err(|reason| AnnotationProblem::Item { number: i + 1, reason }.at(self.path()))?;
        }
        Ok(())
    }

    /// Adds items to a project. One that it has already, with the same kind and the same texts, is passed over, so that the same file can be
    /// given again.
    ///
    /// # Errors
    /// The first item that nobody could judge, in which case none is added.
    pub fn add_items(&self, project: &Project, items: Vec<NewItem>) -> Result<Added, DataError> {
        let project = project.clone();
        self.write(move |connection| {
            let mut out = Added::default();
            for (i, item) in items.iter().enumerate() {
                let added = add_item(connection, (project.id, &project.settings), (i + 1, item))?;
                out.added += u64::from(added.new);
                out.known += u64::from(!added.new);
                out.other_gold += u64::from(added.other_gold);
            }
            Ok(out)
        })
    }
}

/// Where an item is.
pub(super) struct ItemAdded {
    /// Its number.
    pub id: i64,
    /// It was not there.
    pub new: bool,
    /// It was there, with another known judgement than this one.
    pub other_gold: bool,
}

/// Adds an item, the `number`-th of a call, where the project does not have it.
///
/// # Errors
/// One that nobody could judge.
pub(super) fn add_item(
    connection: &Connection,
    (project, settings): (i64, &Settings),
    (number, item): (usize, &NewItem),
) -> Result<ItemAdded, AnnotationProblem> {
    check::item(item, settings).map_err(|reason| AnnotationProblem::Item { number, reason })?;
    let (input, task_digest) = (to_json(&item.input), task_digest(item));
    let gold = item.gold.as_ref().map(to_json);
    let new = connection
        .prepare_cached(
            "INSERT INTO items (project, kind, input, input_digest, task_digest, gold) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT (project, task_digest) DO NOTHING",
        )?
        .execute(params![
            project,
            item.kind.name(),
            input,
            digest(input.as_bytes()),
            task_digest,
            gold
        ])?;
    let (id, known): (i64, Option<String>) = connection
        .prepare_cached("SELECT id, gold FROM items WHERE project = ?1 AND task_digest = ?2")?
        .query_row(params![project, task_digest], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(ItemAdded {
        id,
        new: new > 0,
        other_gold: new == 0 && gold.is_some() && gold != known,
    })
}

/// What makes two items the same task: its kind, what was said, and the set of answers. Where an answer comes from does not belong to it.
fn task_digest(item: &NewItem) -> String {
    let prompt: Vec<[&str; 2]> = item
        .input
        .prompt
        .iter()
        .map(|m| [m.role.as_str(), m.content.as_str()])
        .collect();
    let mut answers: Vec<&str> = item
        .input
        .responses
        .iter()
        .map(|response| response.text.as_str())
        .collect();
    answers.sort_unstable();
    digest(to_json(&(item.kind.name(), prompt, answers)).as_bytes())
}

/// Milliseconds since 1970, as a store keeps the time.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// JSON of a value whose serialisation cannot fail: names and numbers as keys, no foreign types.
pub(super) fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// # Errors
/// A column that does not hold what was written there.
pub(super) fn from_json<T: serde::de::DeserializeOwned>(
    id: i64,
    field: &'static str,
    text: &str,
) -> Result<T, AnnotationProblem> {
    serde_json::from_str(text).map_err(|error| AnnotationProblem::Damaged {
        id,
        field,
        detail: error.to_string(),
    })
}

/// # Errors
/// As [`from_json`].
pub(super) fn kind_of(id: i64, name: &str) -> Result<TaskKind, AnnotationProblem> {
    TaskKind::of_name(name).ok_or_else(|| AnnotationProblem::Damaged {
        id,
        field: "kind",
        detail: format!("`{name}` is no kind of task"),
    })
}

fn project_names(connection: &Connection) -> Result<Vec<String>, AnnotationProblem> {
    let mut statement = connection.prepare_cached("SELECT name FROM projects ORDER BY id")?;
    let names = statement.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

/// The settings of a project as they are now.
pub(super) fn settings_of(connection: &Connection, project: i64) -> Result<Settings, AnnotationProblem> {
    let text: String = connection
        .prepare_cached("SELECT settings FROM projects WHERE id = ?1")?
        .query_row([project], |row| row.get(0))?;
    from_json(project, "settings", &text)
}

pub(super) fn project_named(connection: &Connection, name: &str) -> Result<Project, AnnotationProblem> {
    let found: Option<(i64, String, String)> = connection
        .query_row(
            "SELECT id, settings, guideline_digest FROM projects WHERE name = ?1",
            [name],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    let Some((id, settings, guideline_digest)) = found else {
        return Err(AnnotationProblem::Unknown {
            what: "project",
            name: name.into(),
            known: project_names(connection)?,
        });
    };
    Ok(Project {
        id,
        name: name.into(),
        settings: from_json(id, "settings", &settings)?,
        guideline_digest,
    })
}
