//! Loading a source: open, tell the format, convert every row, count what is bad.

use std::ops::ControlFlow;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::convert;
use crate::error::{BadRow, DataError, nearest};
use crate::format::{Format, Kind};
use crate::items::{Demonstration, Document, Prompt, Ranking, Unpaired};
use crate::posts::Thread;
use crate::read::{Compression, Container, Contents, DocumentSplit, Limits, Row, Rows, open};
use crate::source::Source;

/// Bad rows kept as samples.
const SAMPLES: usize = 10;
/// After this many rows, more than half of them bad, loading stops at once.
const EARLY_STOP: u64 = 1000;

/// The items of a source and how loading went.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// The items, in the order of the file.
    pub items: Vec<T>,
    /// What was read.
    pub report: LoadReport,
}

/// How loading a source went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadReport {
    /// Rows read (plain text: documents; a dump: posts).
    pub rows: u64,
    /// Rows that could not be used.
    pub bad: u64,
    /// Up to ten of them.
    pub samples_of_bad: Vec<BadRow>,
    /// Items that came out.
    pub items: u64,
    /// The format of the rows.
    pub format: Format,
    /// How the file is laid out.
    pub container: Container,
    /// How it is compressed.
    pub compression: Compression,
    /// What a user should know, in sentences.
    pub notes: Vec<String>,
}

type Sink<'a, T> = &'a mut dyn FnMut(T) -> Result<(), DataError>;
/// A sink that may have enough.
type Taker<'a, T> = &'a mut dyn FnMut(T) -> Result<ControlFlow<()>, DataError>;
type Convert<T> = fn(Format, Map<String, Value>) -> Result<Vec<T>, String>;

/// Documents to pre-train on, from plain text or a `text` column.
///
/// # Errors
/// Whatever is wrong with the file or with more rows than the source allows.
pub fn load_documents(source: &Source) -> Result<Loaded<Document>, DataError> {
    collect(|sink| for_each_document(source, &Limits::default(), sink))
}

/// Conversations to imitate.
///
/// # Errors
/// As [`load_documents`].
pub fn load_demonstrations(source: &Source) -> Result<Loaded<Demonstration>, DataError> {
    collect(|sink| for_each_demonstration(source, &Limits::default(), sink))
}

/// Pairs and longer rankings.
///
/// # Errors
/// As [`load_documents`].
pub fn load_rankings(source: &Source) -> Result<Loaded<Ranking>, DataError> {
    collect(|sink| for_each_ranking(source, &Limits::default(), sink))
}

/// Prompts, also from conversations (their final reply taken off) and from preferences (what was answered).
///
/// # Errors
/// As [`load_documents`].
pub fn load_prompts(source: &Source) -> Result<Loaded<Prompt>, DataError> {
    collect(|sink| for_each_prompt(source, &Limits::default(), sink))
}

fn collect<T>(run: impl FnOnce(Sink<T>) -> Result<LoadReport, DataError>) -> Result<Loaded<T>, DataError> {
    let mut items = Vec::new();
    let report = run(&mut |item| {
        items.push(item);
        Ok(())
    })?;
    Ok(Loaded { items, report })
}

/// [`load_documents`] with one document in memory at a time.
///
/// # Errors
/// As [`load_documents`], and whatever `sink` returns.
pub fn for_each_document(source: &Source, limits: &Limits, sink: Sink<Document>) -> Result<LoadReport, DataError> {
    take_documents(source, limits, &mut all(sink))
}

/// As [`for_each_document`], up to where `sink` has enough: what follows is not read. The report is of what was read, and
/// its share of bad rows is checked as if the file ended there.
///
/// # Errors
/// As [`for_each_document`].
pub fn take_documents(source: &Source, limits: &Limits, sink: Taker<Document>) -> Result<LoadReport, DataError> {
    drive(source, limits, (Kind::Text, false), documents, sink)
}

/// [`load_demonstrations`] with one row in memory at a time. A row for which `sink` returns [`DataError::Row`] counts as
/// bad; so it is for rankings and prompts.
///
/// # Errors
/// As [`load_documents`], and whatever else `sink` returns.
pub fn for_each_demonstration(
    source: &Source,
    limits: &Limits,
    sink: Sink<Demonstration>,
) -> Result<LoadReport, DataError> {
    drive(
        source,
        limits,
        (Kind::Conversations, false),
        convert::demonstrations,
        &mut all(sink),
    )
}

/// [`load_rankings`] with one row in memory at a time.
///
/// # Errors
/// As [`load_documents`], and whatever `sink` returns.
pub fn for_each_ranking(source: &Source, limits: &Limits, sink: Sink<Ranking>) -> Result<LoadReport, DataError> {
    drive(
        source,
        limits,
        (Kind::Preferences, false),
        convert::rankings,
        &mut all(sink),
    )
}

/// Replies judged one by one, with one row in memory at a time.
///
/// # Errors
/// As [`load_documents`], and whatever `sink` returns.
pub fn for_each_unpaired(source: &Source, limits: &Limits, sink: Sink<Unpaired>) -> Result<LoadReport, DataError> {
    drive(
        source,
        limits,
        (Kind::Preferences, true),
        convert::unpaired_of,
        &mut all(sink),
    )
}

/// [`load_prompts`] with one row in memory at a time.
///
/// # Errors
/// As [`load_documents`], and whatever `sink` returns.
pub fn for_each_prompt(source: &Source, limits: &Limits, sink: Sink<Prompt>) -> Result<LoadReport, DataError> {
    let convert: Convert<Prompt> = convert::prompts;
    drive(source, limits, (Kind::Prompts, false), convert, &mut all(sink))
}

/// A sink that never has enough.
fn all<T>(sink: Sink<T>) -> impl FnMut(T) -> Result<ControlFlow<()>, DataError> {
    |item| sink(item).map(ControlFlow::Continue)
}

fn documents(_: Format, mut row: Map<String, Value>) -> Result<Vec<Document>, String> {
    Ok(vec![Document {
        text: convert::document_text(&mut row)?,
    }])
}

/// Items a caller can build from a conversation or a document: how the two containers without columns are read.
trait FromWhole: Sized {
    fn from_document(_: Document) -> Option<Self> {
        None
    }
    fn from_thread(_: &Thread<'_>) -> Option<Self> {
        None
    }
    /// Said of questions of which nothing could be made.
    const UNUSED: &str = "questions without an answer worth imitating";
}

impl FromWhole for Document {
    fn from_document(document: Document) -> Option<Self> {
        Some(document)
    }
}
impl FromWhole for Demonstration {
    fn from_thread(thread: &Thread<'_>) -> Option<Self> {
        thread.demonstration()
    }
}
impl FromWhole for Ranking {
    fn from_thread(thread: &Thread<'_>) -> Option<Self> {
        thread.ranking()
    }
    const UNUSED: &str = "questions without two answers that their votes tell apart";
}
impl FromWhole for Unpaired {}
impl FromWhole for Prompt {}

fn drive<T: FromWhole>(
    source: &Source,
    limits: &Limits,
    (wanted, unpaired): (Kind, bool),
    convert: Convert<T>,
    sink: Taker<T>,
) -> Result<LoadReport, DataError> {
    source.validate()?;
    let path = source.path.as_path();
    let opened = open(path, limits, &source.hints())?;
    let mut tally = Tally::new(source, wanted);
    let most = source.max_rows.unwrap_or(u64::MAX);
    let format = match opened.contents {
        Contents::Text(text) => {
            refuse_other_kind(path, Format::PlainText, wanted)?;
            text.for_each(source.split, &mut |document| {
                if tally.rows >= most {
                    return Ok(ControlFlow::Break(()));
                }
                tally.rows += 1;
                tally.give(T::from_document(document), sink)
            })?;
            if source.split == DocumentSplit::None && tally.rows == 1 {
                tally.notes.push("the whole file is one document".into());
            }
            Format::PlainText
        }
        Contents::Posts(posts) => {
            if unpaired || !Format::StackExchange.serves(wanted) {
                return Err(wrong_kind(path, Format::StackExchange, wanted));
            }
            let (mut enough, mut refused) = (false, 0);
            let report = posts.for_each(&mut |thread| {
                if enough || tally.items >= most {
                    return Ok(true);
                }
                let item = T::from_thread(thread);
                let some = item.is_some();
                match tally.give(item, sink) {
                    // Which line a question stood on is not kept
                    Err(DataError::Row { reason }) => {
                        refused += 1;
                        tally.sample(0, reason);
                    }
                    other => enough = other?.is_break(),
                }
                Ok(some)
            })?;
            tally.rows = report.rows;
            tally.bad = report.bad_count + refused;
            tally.samples.splice(0..0, report.bad);
            tally.samples.truncate(SAMPLES);
            if report.unused > 0 {
                tally.notes.push(format!("{} {}", report.unused, T::UNUSED));
            }
            Format::StackExchange
        }
        Contents::Rows(rows) => {
            let (format, head, mut rows) = told(source, wanted, unpaired, rows, &mut tally)?;
            let mut head = head.into_iter();
            let mut enough = false;
            while tally.rows < most && !enough {
                let Some(row) = head.next().map(Ok).or_else(|| rows.next()) else {
                    break;
                };
                let Row { line, fields } = row?;
                tally.rows += 1;
                match fields.and_then(|row| convert(format, renamed(row, source))) {
                    Ok(items) => {
                        tally.barren += u64::from(items.is_empty());
                        for item in items {
                            match tally.give(Some(item), sink) {
                                Err(DataError::Row { reason }) => {
                                    tally.reject(line, reason)?;
                                    break;
                                }
                                other => enough |= other?.is_break(),
                            }
                        }
                    }
                    Err(reason) => tally.reject(line, reason)?,
                }
            }
            format
        }
    };
    tally.finish(format, opened.container, opened.compression)
}

fn refuse_other_kind(path: &Path, format: Format, wanted: Kind) -> Result<(), DataError> {
    if format.serves(wanted) {
        return Ok(());
    }
    Err(wrong_kind(path, format, wanted))
}

fn wrong_kind(path: &Path, format: Format, wanted: Kind) -> DataError {
    let hint = match format {
        Format::PlainText => "; a table needs a header line or one JSON object a line",
        _ => "",
    };
    DataError::WrongKind {
        path: path.into(),
        format,
        wanted,
        hint: hint.into(),
    }
}

/// Tells the format from the first row that is an object. Returns the rows read on the way, to be read again.
fn told(
    source: &Source,
    wanted: Kind,
    unpaired: bool,
    mut rows: Rows,
    tally: &mut Tally,
) -> Result<(Format, Vec<Row>, Rows), DataError> {
    let path = source.path.as_path();
    let mut head: Vec<Row> = Vec::new();
    let first = loop {
        let Some(row) = rows.next() else {
            for row in head {
                tally.rows += 1;
                if let Err(reason) = row.fields {
                    tally.sample(row.line, reason);
                }
            }
            return Err(DataError::NoRows {
                path: path.into(),
                rows: tally.rows,
                samples: std::mem::take(&mut tally.samples),
            });
        };
        let row = row?;
        let found = row.fields.clone().ok();
        head.push(row);
        match found {
            Some(fields) => break fields,
            None if head.len() >= 100 => {
                return Err(DataError::TooManyBadRows {
                    path: path.into(),
                    bad: 100,
                    rows: 100,
                    allowed: source.max_bad_share,
                    samples: head
                        .into_iter()
                        .take(SAMPLES)
                        .filter_map(|r| {
                            let reason = r.fields.err()?;
                            Some(BadRow { line: r.line, reason })
                        })
                        .collect(),
                });
            }
            None => {}
        }
    };
    for (meant, column) in &source.columns {
        if !first.contains_key(column) {
            return Err(missing(path, column, format!("`columns = {{ {meant} = .. }}`"), &first));
        }
    }
    let first = renamed(first, source);
    let format = match source.format {
        Some(format) => format,
        None => Format::detect(path, &first, Some(wanted))?,
    };
    // the two kinds of judgements are read by different functions
    let of_both = format == Format::Annotations;
    if !format.serves(wanted) || wanted == Kind::Preferences && !of_both && (format == Format::Unpaired) != unpaired {
        let hint = match (wanted, format) {
            (Kind::Preferences, Format::Unpaired) => "; comparisons are needed here, such as `chosen` and `rejected`",
            (Kind::Preferences, _) if unpaired => "; single judgements are needed here: prompt, completion, label",
            _ => "",
        };
        return Err(DataError::WrongKind {
            path: path.into(),
            format,
            wanted,
            hint: hint.into(),
        });
    }
    let implicit = format == Format::Pairs && first.get("chosen").is_some_and(Value::is_array);
    for column in format.required() {
        let may_lack = implicit && *column == "prompt";
        if !may_lack && !first.contains_key(*column) {
            return Err(missing(path, column, format!("format `{format}`"), &first));
        }
    }
    Ok((format, head, rows))
}

fn missing(path: &Path, column: &str, needed_by: String, row: &Map<String, Value>) -> DataError {
    DataError::MissingColumn {
        path: path.into(),
        column: column.into(),
        needed_by,
        found: row.keys().cloned().collect(),
        nearest: nearest(column, row.keys().map(String::as_str)),
    }
}

/// The row with the columns under the names that the format gives them.
pub(crate) fn renamed(mut row: Map<String, Value>, source: &Source) -> Map<String, Value> {
    if source.columns.is_empty() {
        return row;
    }
    let taken: Vec<(&String, Option<Value>)> = source
        .columns
        .iter()
        .map(|(meant, column)| (meant, row.get(column).cloned()))
        .collect();
    for column in source.columns.values() {
        row.shift_remove(column);
    }
    for (meant, value) in taken {
        row.insert(meant.clone(), value.unwrap_or(Value::Null));
    }
    row
}

struct Tally<'a> {
    source: &'a Source,
    wanted: Kind,
    rows: u64,
    bad: u64,
    items: u64,
    barren: u64,
    samples: Vec<BadRow>,
    notes: Vec<String>,
}

impl<'a> Tally<'a> {
    fn new(source: &'a Source, wanted: Kind) -> Self {
        Self {
            source,
            wanted,
            rows: 0,
            bad: 0,
            items: 0,
            barren: 0,
            samples: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn give<T>(&mut self, item: Option<T>, sink: Taker<T>) -> Result<ControlFlow<()>, DataError> {
        let Some(item) = item else {
            return Ok(ControlFlow::Continue(()));
        };
        let flow = sink(item)?;
        self.items += 1;
        Ok(flow)
    }

    fn sample(&mut self, line: u64, reason: String) {
        if self.samples.len() < SAMPLES {
            self.samples.push(BadRow { line, reason });
        }
    }

    fn reject(&mut self, line: u64, reason: String) -> Result<(), DataError> {
        self.bad += 1;
        self.sample(line, reason);
        let hopeless = self.rows >= EARLY_STOP && self.bad * 2 > self.rows && self.source.max_bad_share < 0.5;
        if hopeless { Err(self.too_many()) } else { Ok(()) }
    }

    fn too_many(&mut self) -> DataError {
        DataError::TooManyBadRows {
            path: self.source.path.clone(),
            bad: self.bad,
            rows: self.rows,
            allowed: self.source.max_bad_share,
            samples: std::mem::take(&mut self.samples),
        }
    }

    fn finish(
        mut self,
        format: Format,
        container: Container,
        compression: Compression,
    ) -> Result<LoadReport, DataError> {
        if self.bad as f64 > self.source.max_bad_share * self.rows as f64 {
            return Err(self.too_many());
        }
        if self.items == 0 {
            return Err(DataError::NoRows {
                path: self.source.path.clone(),
                rows: self.rows,
                samples: self.samples,
            });
        }
        if self.barren > 0 {
            let n = self.barren;
            let what = match self.wanted {
                Kind::Conversations => "no answer that somebody wrote",
                _ => "nothing to compare",
            };
            self.notes.push(format!("{n} rows hold {what}"));
        }
        Ok(LoadReport {
            rows: self.rows,
            bad: self.bad,
            samples_of_bad: self.samples,
            items: self.items,
            format,
            container,
            compression,
            notes: self.notes,
        })
    }
}
