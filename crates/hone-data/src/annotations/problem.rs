//! What a store of annotations refuses.

use std::path::PathBuf;

use crate::error::DataError;

/// Why a store of annotations cannot be used, or cannot take what it was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationProblem {
    /// A SQLite file of somebody else.
    #[error("a SQLite file, but no store of annotations; expected one that `hone annotate` made")]
    NotAStore,
    /// A store of another version.
    #[error("a store of annotations of version {found}, expected {known}; use the version of hone that wrote it")]
    Version {
        /// The version in the file.
        found: i64,
        /// The version that is read and written here.
        known: i64,
    },
    /// What SQLite says.
    #[error("SQLite: {detail}{hint}")]
    Sqlite {
        /// Its message.
        detail: String,
        /// What to do, or nothing.
        hint: &'static str,
    },
    /// A field of the store that is not what was written there.
    #[error("event or item {id}: `{field}` is damaged: {detail}; restore the file from a copy")]
    Damaged {
        /// The row.
        id: i64,
        /// The column.
        field: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A request ended by a defect of the program.
    #[error("the request ended unexpectedly, which is a defect; nothing of it was kept")]
    Defect,
    /// The thread that writes has ended.
    #[error("the store is closed; open it again")]
    Closed,
    /// Something that the store does not have.
    #[error("there is no {what} `{name}`{}", known_ones(known))]
    Unknown {
        /// Such as `project`.
        what: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A name that is taken.
    #[error("{what} `{name}` exists already; choose another name")]
    Exists {
        /// Such as `annotator`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The name of somebody who was invited, given by somebody of whom it is not known whether it is them.
    #[error(
        "`{name}` is somebody whom the owner of the project has invited, and judges on the pages of `hone annotate`; give another \
         name as `annotator`"
    )]
    Invited {
        /// The name.
        name: String,
    },
    /// A setting of a project outside its range.
    #[error("`{key}` is {got}, expected {expected}")]
    Setting {
        /// Its key.
        key: &'static str,
        /// Its value.
        got: String,
        /// What it may be.
        expected: &'static str,
    },
    /// An item that nobody could judge.
    #[error("item {number}: {reason}")]
    Item {
        /// Which of those that were given, from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A judgement that does not fit its item.
    #[error("the judgement of item {item} cannot be taken: {reason}")]
    Judgement {
        /// The item.
        item: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// A task that this annotator does not hold.
    #[error("task {lease} is not open for this annotator; take the next one")]
    Lease {
        /// The lease.
        lease: i64,
    },
    /// No event of this annotator is left to undo.
    #[error("there is nothing to undo")]
    NothingToUndo,
    /// An event that is not the last one of this annotator that stands.
    #[error("event {event} is not the last thing that this annotator did; open the page again")]
    NotLast {
        /// The event that was to be undone.
        event: i64,
    },
    /// A store that was opened to be read.
    #[error("the store was opened to be read; nothing can be written into it")]
    ReadOnly,
    /// Something that only one project can be asked for.
    #[error("the store holds {} projects: {}; {hint}", known.len(), known.join(", "))]
    SeveralProjects {
        /// Their names.
        known: Vec<String>,
        /// How to choose one.
        hint: &'static str,
    },
    /// A store without a project.
    #[error("the store holds no project yet")]
    NoProject,
    /// A place in which SQLite cannot keep a log beside the file.
    #[error(
        "the journal is `{found}`, expected `wal`; keep the store on a disk of this machine, not on a network drive"
    )]
    Journal {
        /// The mode that SQLite fell back to.
        found: String,
    },
}

fn known_ones(known: &[String]) -> String {
    match known {
        [] => String::new(),
        known => format!("; there is {}", known.join(", ")),
    }
}

impl AnnotationProblem {
    /// The problem with the file it is in.
    pub(super) fn at(self, path: impl Into<PathBuf>) -> DataError {
        DataError::Annotations {
            path: path.into(),
            problem: self,
        }
    }
}

impl From<rusqlite::Error> for AnnotationProblem {
    fn from(error: rusqlite::Error) -> Self {
        let hint = match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                "; another program holds the file: close it there"
            }
            Some(rusqlite::ErrorCode::DiskFull) => "; free space on the disk: what was acknowledged is kept",
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                "; restore the file from a copy"
            }
            Some(rusqlite::ErrorCode::ReadOnly) => "; the file or its folder cannot be written",
            _ => "",
        };
        Self::Sqlite {
            detail: error.to_string(),
            hint,
        }
    }
}
