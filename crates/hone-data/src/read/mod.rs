//! Reading files of any supported container, with bounded memory, told by content and not by name.
//!
//! [`open`] looks at the first bytes and returns either a text to read whole or by pieces, rows of a table, or a
//! Stack Exchange dump. Every row knows its line; a row that cannot be used says why and reading goes on.

mod delimited;
mod json;
mod meter;
mod parquet;
mod sniff;
mod text;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::DataError;
pub(crate) use json::describe;
pub(crate) use meter::{Meter, explain};
pub use sniff::{Compression, Container};
pub use text::{DOCUMENT_MARKER, DocumentSplit, TextFile};

/// How much a file may ask for before it is refused.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The longest row in bytes. Default 16 MiB.
    pub row_bytes: u64,
    /// The longest single text document in bytes. Default 1 GiB.
    pub document_bytes: u64,
    /// How many times larger than its compressed form data may be. Default 200.
    pub expansion: u64,
    /// Below this many bytes any expansion is accepted. Default 64 MiB.
    pub expansion_floor: u64,
    /// The most bytes a file may hold uncompressed. Default 1 TiB.
    pub total_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            row_bytes: 16 << 20,
            document_bytes: 1 << 30,
            expansion: 200,
            expansion_floor: 64 << 20,
            total_bytes: 1 << 40,
        }
    }
}

/// Where errors say they are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub path: PathBuf,
    pub compression: Compression,
    pub compressed_size: u64,
}

/// One row of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The line it begins on, from 1 (for Parquet: the row).
    pub line: u64,
    /// Its columns, or why it cannot be used.
    pub fields: Result<Map<String, Value>, String>,
}

impl Row {
    pub(crate) fn good(line: u64, fields: Map<String, Value>) -> Self {
        Self {
            line,
            fields: Ok(fields),
        }
    }

    pub(crate) fn bad(line: u64, reason: impl Into<String>) -> Self {
        Self {
            line,
            fields: Err(reason.into()),
        }
    }
}

/// The rows of a table, one after another. After an error there are no more.
pub struct Rows {
    inner: Box<dyn Iterator<Item = Result<Row, DataError>>>,
    done: bool,
}

impl Rows {
    fn new(inner: impl Iterator<Item = Result<Row, DataError>> + 'static) -> Self {
        Self {
            inner: Box::new(inner),
            done: false,
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.inner.next();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

/// What a file holds.
pub enum Contents {
    /// Plain text.
    Text(TextFile),
    /// A table.
    Rows(Rows),
    /// A Stack Exchange `Posts.xml`.
    Posts(crate::posts::Posts),
}

/// An opened file.
pub struct Opened {
    /// How it is compressed.
    pub compression: Compression,
    /// How its data are laid out.
    pub container: Container,
    /// The data.
    pub contents: Contents,
}

/// What the caller knows about a file.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// Column names to expect in a table's header, beside those of the known formats.
    pub columns: Vec<String>,
    /// Read as plain text, whatever the content looks like.
    pub plain_text: bool,
}

/// Opens a file and finds out what it is.
///
/// Compression (gzip with any number of members, zstd with any number of frames), then container: Parquet,
/// `Posts.xml`, JSON array, JSON lines, comma or tab separated values with a header, plain text.
///
/// # Errors
/// Files that cannot be opened, are empty, are Git LFS pointers, or are of a kind that is not read (archives, pickles).
pub fn open(path: &Path, limits: &Limits, hints: &Hints) -> Result<Opened, DataError> {
    sniff::open(path, limits, hints)
}
