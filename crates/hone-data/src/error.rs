//! What can go wrong with data, each with the file, the place in it, what was found and a way out.

use std::fmt;
use std::path::PathBuf;

use crate::annotations::AnnotationProblem;
use crate::format::{Format, Kind};

/// A failure to read, understand, split, mix or pack data.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// What a function that takes rows returns for one that it cannot use: the row is counted as bad, with its line.
    #[error("a row cannot be used: {reason}")]
    Row {
        /// Why not.
        reason: String,
    },
    /// The file cannot be opened.
    #[error("{}: cannot be opened: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Reading stopped part of the way.
    #[error("{}: line {line}: reading failed: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Where reading had come to.
        line: u64,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A directory where a file is expected.
    #[error("{}: is a directory; name the files in it, one source each", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// Nothing in it.
    #[error("{}: the file is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Bytes that are not UTF-8.
    #[error(
        "{}: line {line}: not UTF-8 at byte {offset} (counted from 0 in the uncompressed data); \
         convert it first, for example with `iconv -f LATIN1 -t UTF-8`",
        path.display()
    )]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The offset of the first wrong byte in the uncompressed data.
        offset: u64,
    },
    /// The small text file that Git leaves in place of a large one.
    #[error(
        "{}: is a Git LFS pointer{}, not the data; run `git lfs pull` in its repository",
        path.display(),
        size.map(|s| format!(" to a file of {s} bytes")).unwrap_or_default()
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
        /// The size of the file it stands for, where the pointer states it.
        size: Option<u64>,
    },
    /// A compressed file without its end.
    #[error(
        "{}: the {compression} data is cut short after line {line}; fetch the file again",
        path.display()
    )]
    CutShort {
        /// The file.
        path: PathBuf,
        /// `gzip` or `zstd`.
        compression: &'static str,
        /// The last line that could be read.
        line: u64,
    },
    /// Damaged data.
    #[error("{}: line {line}: damaged {what}: {detail}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where it was noticed.
        line: u64,
        /// What is damaged, such as `gzip data`.
        what: &'static str,
        /// What the decoder says.
        detail: String,
    },
    /// A row larger than the limit.
    #[error(
        "{}: line {line}: this row is longer than {cap} bytes; \
         the file may lack line ends, or may be no table at all",
        path.display()
    )]
    RowTooLong {
        /// The file.
        path: PathBuf,
        /// The line the row begins on.
        line: u64,
        /// The limit in bytes.
        cap: u64,
    },
    /// A text document larger than the limit.
    #[error(
        "{}: is larger than {cap} bytes, too large for one document; \
         set `split = \"blank-lines\"` or `split = \"lines\"`",
        path.display()
    )]
    DocumentTooLong {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        cap: u64,
    },
    /// Compressed data that expands suspiciously far.
    #[error(
        "{}: expands to more than {produced} bytes from {size} compressed ones, \
         beyond the limit of {ratio} times; decompress it yourself if it is meant to",
        path.display()
    )]
    ExpandsTooFar {
        /// The file.
        path: PathBuf,
        /// Its compressed size.
        size: u64,
        /// How many bytes had come out.
        produced: u64,
        /// The limit.
        ratio: u64,
    },
    /// More data than the stated limit.
    #[error("{}: holds more than {cap} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        cap: u64,
    },
    /// A kind of file that is not read.
    #[error("{}: is {what}; {hint}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
        /// The way out.
        hint: &'static str,
    },
    /// Columns that fit no format.
    #[error(
        "{}: its columns fit no known format{}.\nFound: {}\nKnown:\n{known}{hint}\
         \nName the columns with `columns = {{ prompt = \"...\" }}`, or the format with `format = \"...\"`",
        path.display(),
        wanted.map(|k| format!(" of {k}")).unwrap_or_default(),
        found.join(", ")
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// The kind that was asked for.
        wanted: Option<Kind>,
        /// The columns found.
        found: Vec<String>,
        /// The formats known and the columns they need.
        known: String,
        /// The nearest format, as a sentence, or nothing.
        hint: String,
    },
    /// Data of another kind than asked for.
    #[error("{}: holds {} (format `{format}`), but {wanted} are wanted here{hint}", path.display(), format.kind())]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// What it is.
        format: Format,
        /// What was asked for.
        wanted: Kind,
        /// What to do, or nothing.
        hint: String,
    },
    /// A stated format or column mapping that the file does not have.
    #[error(
        "{}: no column `{column}`, which {needed_by} needs; found: {}{}",
        path.display(),
        found.join(", "),
        nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default()
    )]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column that is missing.
        column: String,
        /// The format or option that needs it.
        needed_by: String,
        /// The columns found.
        found: Vec<String>,
        /// The nearest of them.
        nearest: Option<String>,
    },
    /// More bad rows than the set share.
    #[error(
        "{}: {bad} of {rows} rows are bad, more than the allowed share of {}%{}",
        path.display(),
        allowed * 100.0,
        Listing(samples)
    )]
    TooManyBadRows {
        /// The file.
        path: PathBuf,
        /// Bad rows so far.
        bad: u64,
        /// Rows read so far.
        rows: u64,
        /// The allowed share.
        allowed: f64,
        /// Some of the bad rows.
        samples: Vec<BadRow>,
    },
    /// A table without a single row, or none that gives an item.
    #[error("{}: has no rows that can be used ({rows} read){}", path.display(), Listing(samples))]
    NoRows {
        /// The file.
        path: PathBuf,
        /// Rows read.
        rows: u64,
        /// Some of the bad rows.
        samples: Vec<BadRow>,
    },
    /// An option with a value that makes no sense.
    #[error("`{option}` is {got}, expected {expected}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// Its value.
        got: String,
        /// What it may be.
        expected: String,
    },
    /// A store of annotations that cannot be used, or something that it cannot take.
    #[error("{}: {problem}", path.display())]
    Annotations {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: AnnotationProblem,
    },
    /// More tokens than fit the stated limit.
    #[error(
        "the corpus has more than {cap} tokens, the limit held in memory; \
         use less data or raise the limit (4 bytes a token)"
    )]
    TooManyTokens {
        /// The limit.
        cap: usize,
    },
}

/// A row that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BadRow {
    /// The line the row begins on (for Parquet: the row), from 1.
    pub line: u64,
    /// Why it was not used.
    pub reason: String,
}

struct Listing<'a>(&'a [BadRow]);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for bad in self.0.iter().take(5) {
            write!(f, "\n  line {}: {}", bad.line, bad.reason)?;
        }
        Ok(())
    }
}

/// The candidate nearest to `word`, if it is near enough to be a slip of the finger.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&word, &c.to_lowercase()), c))
        .filter(|(distance, c)| *distance <= 1 + c.len() / 4)
        .min()
        .map(|(_, c)| c.to_string())
}
