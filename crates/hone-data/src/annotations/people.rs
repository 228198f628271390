//! Who judges, and how they sign in.
//!
//! An invite signs in once: it is exchanged for a session, and neither is stored but by its digest.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::problem::AnnotationProblem;
use super::store::{Store, digest};
use super::types::{Annotator, Role};
use crate::error::DataError;

/// An invite that is exchanged for a session.
#[derive(Clone, Debug)]
pub struct SignIn {
    /// [`Store::token_digest`] of the invite.
    pub invite: String,
    /// [`Store::session_digest`] of the session's token.
    pub session: String,
    /// The time, in milliseconds since 1970.
    pub now: i64,
    /// When the session ends.
    pub expires: i64,
}

impl Store {
    /// Adds somebody who judges. `token_digest` is [`Store::token_digest`] of the invite with which they will sign in.
    ///
    /// # Errors
    /// A name that is taken or empty.
    pub fn add_annotator(&self, name: &str, role: Role, token_digest: &str, now: i64) -> Result<Annotator, DataError> {
        let (name, token_digest) = (name.trim().to_string(), token_digest.to_string());
        self.write(move |connection| {
            check_name(&name)?;
            let new = connection.execute(
                "INSERT INTO annotators (name, role, token_digest, created) VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT (name) DO NOTHING",
                params![name, role.name(), token_digest, now],
            )?;
            if new == 0 {
                return Err(AnnotationProblem::Exists {
                    what: "annotator",
                    name,
                });
            }
            Ok(Annotator {
                id: connection.last_insert_rowid(),
                name,
                role,
                token_digest,
            })
        })
    }

    /// Gives somebody a role and an invite, and adds them where the store does not know the name. The invite before and the sessions that
    /// they have end.
    ///
    /// # Errors
    /// An empty name; the last owner, who is to become an annotator.
    pub fn put_annotator(&self, name: &str, role: Role, token_digest: &str, now: i64) -> Result<Annotator, DataError> {
        let (name, token_digest) = (name.trim().to_string(), token_digest.to_string());
        self.write(move |connection| put_annotator(connection, (&name, role), &token_digest, now))
    }

    /// Everybody who judges, in the order in which they were added.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn annotators(&self) -> Result<Vec<Annotator>, DataError> {
        self.read(all_annotators)
    }

    /// The digest under which a token is stored.
    pub fn token_digest(token: &str) -> String {
        digest(token.as_bytes())
    }

    /// The digest under which the token of a session is stored. A token that invites is therefore none that has a session.
    pub fn session_digest(token: &str) -> String {
        digest(format!("session {token}").as_bytes())
    }

    /// Whom an invite of this digest would sign in.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn invited(&self, invite: &str) -> Result<Option<Annotator>, DataError> {
        self.read(|connection| invited(connection, invite))
    }

    /// Ends an invite and begins a session; nobody where the invite is not, or no longer, valid. Asked again for the same session it answers
    /// as before, so that a form that comes twice signs in once.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn join(&self, sign_in: SignIn) -> Result<Option<Annotator>, DataError> {
        self.write(move |connection| {
            if let Some(annotator) = session(connection, &sign_in.session, sign_in.now)? {
                return Ok(Some(annotator));
            }
            let Some(annotator) = invited(connection, &sign_in.invite)? else {
                return Ok(None);
            };
            // No digest, so no token has it
            let used = format!("used {}", annotator.id);
            connection.execute(
                "UPDATE annotators SET token_digest = ?2 WHERE id = ?1",
                params![annotator.id, used],
            )?;
            connection.execute("DELETE FROM sessions WHERE expires <= ?1", [sign_in.now])?;
            connection.execute(
                "INSERT INTO sessions (digest, annotator, expires) VALUES (?1, ?2, ?3)",
                params![sign_in.session, annotator.id, sign_in.expires],
            )?;
            Ok(Some(Annotator {
                token_digest: used,
                ..annotator
            }))
        })
    }

    /// Whose session this digest is of.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn session(&self, digest: &str, now: i64) -> Result<Option<Annotator>, DataError> {
        self.read(|connection| session(connection, digest, now))
    }

    /// Ends a session, if there is one.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn leave(&self, digest: &str) -> Result<(), DataError> {
        let digest = digest.to_string();
        self.write(move |connection| {
            connection.execute("DELETE FROM sessions WHERE digest = ?1", [digest])?;
            Ok(())
        })
    }
}

pub(super) fn check_name(name: &str) -> Result<(), AnnotationProblem> {
    if name.is_empty() || name.len() > 100 || name.chars().any(char::is_control) {
        return Err(AnnotationProblem::Setting {
            key: "annotator",
            got: format!("{name:?}"),
            expected: "a name of 1 to 100 bytes on one line",
        });
    }
    Ok(())
}

fn put_annotator(
    connection: &Connection,
    (name, role): (&str, Role),
    token_digest: &str,
    now: i64,
) -> Result<Annotator, AnnotationProblem> {
    check_name(name)?;
    let owners: Vec<String> = all_annotators(connection)?
        .into_iter()
        .filter(|annotator| annotator.role == Role::Owner)
        .map(|annotator| annotator.name)
        .collect();
    if role != Role::Owner && owners == [name] {
        return Err(AnnotationProblem::Setting {
            key: "role",
            got: format!("`annotator` for {name}, the only owner"),
            expected: "another owner first",
        });
    }
    connection.execute(
        "INSERT INTO annotators (name, role, token_digest, created) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (name) DO UPDATE SET role = ?2, token_digest = ?3",
        params![name, role.name(), token_digest, now],
    )?;
    let id = connection.query_row("SELECT id FROM annotators WHERE name = ?1", [name], |row| row.get(0))?;
    connection.execute("DELETE FROM sessions WHERE annotator = ?1", [id])?;
    Ok(Annotator {
        id,
        name: name.into(),
        role,
        token_digest: token_digest.into(),
    })
}

fn all_annotators(connection: &Connection) -> Result<Vec<Annotator>, AnnotationProblem> {
    let mut statement = connection.prepare_cached("SELECT id, name, role, token_digest FROM annotators ORDER BY id")?;
    let found = statement.query_map([], annotator)?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// Of the columns id, name, role, digest.
fn annotator(row: &Row) -> rusqlite::Result<Annotator> {
    let role: String = row.get(2)?;
    Ok(Annotator {
        id: row.get(0)?,
        name: row.get(1)?,
        role: match role == Role::Owner.name() {
            true => Role::Owner,
            false => Role::Annotator,
        },
        token_digest: row.get(3)?,
    })
}

/// The annotator of a row that was found by a digest. The search by an index says nothing of the token that the digest is of; the digests
/// are compared once more, in the same time wherever they differ.
fn same_digest(found: Option<(Annotator, String)>, digest: &str) -> Option<Annotator> {
    let own = blake3::Hash::from_hex(digest).ok()?;
    found
        .filter(|(_, stored)| blake3::Hash::from_hex(stored).is_ok_and(|stored| stored == own))
        .map(|(annotator, _)| annotator)
}

fn invited(connection: &Connection, invite: &str) -> Result<Option<Annotator>, AnnotationProblem> {
    let mut statement =
        connection.prepare_cached("SELECT id, name, role, token_digest FROM annotators WHERE token_digest = ?1")?;
    let found = statement.query_row([invite], annotator).optional()?;
    let found = found.map(|annotator| (annotator.clone(), annotator.token_digest));
    Ok(same_digest(found, invite))
}

fn session(connection: &Connection, digest: &str, now: i64) -> Result<Option<Annotator>, AnnotationProblem> {
    let mut statement = connection.prepare_cached(
        "SELECT a.id, a.name, a.role, a.token_digest, s.digest FROM sessions s JOIN annotators a ON a.id = s.annotator
        WHERE s.digest = ?1 AND s.expires > ?2",
    )?;
    let found = statement
        .query_row(params![digest, now], |row| Ok((annotator(row)?, row.get(4)?)))
        .optional()?;
    Ok(same_digest(found, digest))
}
