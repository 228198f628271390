//! What a file is and holds: for a person who wants to know before training on it.

use std::ops::ControlFlow;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::convert;
use crate::error::{BadRow, DataError};
use crate::format::{Format, Kind};
use crate::items::{Demonstration, Message};
use crate::read::{Compression, Container, Contents, Limits, open};
use crate::source::Source;

/// Rows shown as they are.
const EXAMPLES: usize = 3;
/// Rows whose lengths are kept; statistics of longer files are of the first so many.
const MEASURED: usize = 4_000_000;

/// What [`inspect`] found.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// How the file is compressed.
    pub compression: Compression,
    /// How its data are laid out.
    pub container: Container,
    /// The format of its rows, or nothing where the columns fit none (`notes` then says why).
    pub format: Option<Format>,
    /// What that format is for.
    pub kind: Option<Kind>,
    /// Rows read (plain text: one document; a dump: posts).
    pub rows: u64,
    /// Rows that could not be used.
    pub bad: u64,
    /// Up to ten of them.
    pub samples_of_bad: Vec<BadRow>,
    /// The columns in the order in which they first occur.
    pub columns: Vec<Column>,
    /// Lengths in characters of each part of an item, such as `prompt` and `response`.
    pub lengths: Vec<Lengths>,
    /// The first rows.
    pub examples: Vec<Value>,
    /// What a user should know, in sentences.
    pub notes: Vec<String>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Rows that have a value in it.
    pub present: u64,
    /// The type of its first value, such as `string` or `array`.
    pub holds: &'static str,
}

/// Statistics of lengths in characters.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// What is measured.
    pub part: String,
    /// How many were measured.
    pub count: u64,
    /// The shortest.
    pub min: u32,
    /// The mean.
    pub mean: f64,
    /// Half are not longer.
    pub median: u32,
    /// 95 in 100 are not longer.
    pub p95: u32,
    /// The longest.
    pub max: u32,
}

impl Lengths {
    fn of(part: &str, mut lengths: Vec<u32>) -> Self {
        lengths.sort_unstable();
        let at = |share: f64| {
            let rank = (lengths.len() as f64 * share).ceil() as usize;
            lengths[rank.clamp(1, lengths.len()) - 1]
        };
        Self {
            part: part.into(),
            count: lengths.len() as u64,
            min: lengths[0],
            mean: lengths.iter().map(|&l| f64::from(l)).sum::<f64>() / lengths.len() as f64,
            median: at(0.5),
            p95: at(0.95),
            max: lengths[lengths.len() - 1],
        }
    }
}

/// Reads the whole file (row by row) and says what it is. Bad rows are counted, however many there are.
///
/// # Errors
/// A source that cannot be opened or read to its end, or with unusable options.
pub fn inspect(source: &Source) -> Result<Inspection, DataError> {
    source.validate()?;
    let limits = Limits::default();
    let opened = open(&source.path, &limits, &source.hints())?;
    let mut found = Inspector {
        source,
        most: source.max_rows.unwrap_or(u64::MAX),
        out: Inspection {
            compression: opened.compression,
            container: opened.container,
            format: source.format,
            kind: None,
            rows: 0,
            bad: 0,
            samples_of_bad: Vec::new(),
            columns: Vec::new(),
            lengths: Vec::new(),
            examples: Vec::new(),
            notes: Vec::new(),
        },
        lengths: Vec::new(),
        serves_as: None,
        ordered: false,
    };
    match opened.contents {
        Contents::Text(text) => {
            found.out.format = Some(Format::PlainText);
            text.for_each(source.split, &mut |document| Ok(found.document(&document.text)))?;
        }
        Contents::Posts(posts) => {
            found.out.format = Some(Format::StackExchange);
            let mut ranked = 0_u64;
            let report = posts.for_each(&mut |thread| {
                ranked += u64::from(thread.ranking().is_some());
                let demonstration = thread.demonstration();
                let some = demonstration.is_some();
                if let Some(demonstration) = demonstration {
                    found.demonstration(demonstration);
                }
                Ok(some)
            })?;
            (found.out.rows, found.out.bad) = (report.rows, report.bad_count);
            found.out.samples_of_bad = report.bad;
            if report.unused > 0 {
                let note = format!("{} questions without an answer worth imitating", report.unused);
                found.out.notes.push(note);
            }
            let note = format!("{ranked} questions whose votes rank their answers: also preferences");
            found.out.notes.push(note);
        }
        Contents::Rows(rows) => {
            for row in rows {
                if found.out.rows >= found.most {
                    break;
                }
                let row = row?;
                found.out.rows += 1;
                if let Err(reason) = row.fields.and_then(|fields| found.row(fields)) {
                    found.out.bad += 1;
                    if found.out.samples_of_bad.len() < 10 {
                        found.out.samples_of_bad.push(BadRow { line: row.line, reason });
                    }
                }
            }
        }
    }
    Ok(found.finish())
}

struct Inspector<'a> {
    source: &'a Source,
    most: u64,
    out: Inspection,
    lengths: Vec<(&'static str, Vec<u32>)>,
    /// What it serves as, where that is not its format's own kind: conversations without a reply are prompts, and annotations in which
    /// nobody ordered answers but somebody wrote one are conversations.
    serves_as: Option<Kind>,
    /// Of annotations: somebody ordered answers.
    ordered: bool,
}

impl Inspector<'_> {
    fn measure(&mut self, part: &'static str, text: &str) {
        let length = text.chars().count().min(u32::MAX as usize) as u32;
        let index = self.lengths.iter().position(|(p, _)| *p == part).unwrap_or_else(|| {
            self.lengths.push((part, Vec::new()));
            self.lengths.len() - 1
        });
        if self.lengths[index].1.len() < MEASURED {
            self.lengths[index].1.push(length);
        }
    }

    fn measure_messages(&mut self, prompt: &[Message]) {
        let text: String = prompt.iter().map(|m| m.content.as_str()).collect();
        self.measure("prompt", &text);
    }

    fn document(&mut self, text: &str) -> ControlFlow<()> {
        if self.out.rows >= self.most {
            return ControlFlow::Break(());
        }
        self.out.rows += 1;
        self.measure("text", text);
        if self.out.examples.len() < EXAMPLES {
            let start: String = text.chars().take(400).collect();
            self.out.examples.push(start.into());
        }
        ControlFlow::Continue(())
    }

    fn demonstration(&mut self, mut demonstration: Demonstration) {
        if self.out.examples.len() < EXAMPLES {
            let example = serde_json::to_value(&demonstration).unwrap_or_default();
            self.out.examples.push(example);
        }
        if let Some(reply) = demonstration.messages.pop() {
            self.measure_messages(&demonstration.messages);
            self.measure("response", &reply.content);
        }
    }

    fn row(&mut self, fields: Map<String, Value>) -> Result<(), String> {
        for (name, value) in fields.iter().filter(|(_, v)| !v.is_null()) {
            let index = self.out.columns.iter().position(|c| c.name == *name);
            match index {
                Some(index) => self.out.columns[index].present += 1,
                // a lying table could have a column of its own in every row
                None if self.out.columns.len() >= 1000 => {}
                None => self.out.columns.push(Column {
                    name: name.clone(),
                    present: 1,
                    holds: holds(value),
                }),
            }
        }
        if self.out.examples.len() < EXAMPLES {
            self.out.examples.push(Value::Object(fields.clone()));
        }
        let fields = crate::load::renamed(fields, self.source);
        if self.out.format.is_none() && self.out.notes.is_empty() {
            match Format::detect(&self.source.path, &fields, None) {
                Ok(format) => {
                    self.out.format = Some(format);
                    self.serves_as = serves_as(format, &fields);
                }
                Err(error) => self.out.notes.push(error.to_string()),
            }
        }
        match self.out.format {
            None => Ok(()),
            Some(format) => {
                if format == Format::Annotations {
                    self.annotations(&fields);
                }
                self.item(format, fields)
            }
        }
    }

    /// One order among them, in whatever row, makes annotations preferences.
    fn annotations(&mut self, fields: &Map<String, Value>) {
        let ordered = convert::rankings(Format::Annotations, fields.clone()).is_ok_and(|found| !found.is_empty());
        let written = convert::demonstrations(Format::Annotations, fields.clone()).is_ok_and(|found| !found.is_empty());
        if ordered {
            (self.ordered, self.serves_as) = (true, None);
        } else if written && !self.ordered {
            self.serves_as = Some(Kind::Conversations);
        }
    }

    fn item(&mut self, format: Format, mut fields: Map<String, Value>) -> Result<(), String> {
        let kind = self.serves_as.unwrap_or(format.kind());
        match (format, kind) {
            (_, Kind::Text) => {
                let text = convert::document_text(&mut fields)?;
                self.measure("text", &text);
            }
            (_, Kind::Conversations) => {
                for mut found in convert::demonstrations(format, fields)? {
                    if let Some(reply) = found.messages.pop() {
                        self.measure_messages(&found.messages);
                        self.measure("response", &reply.content);
                    }
                }
            }
            (Format::Unpaired, _) => {
                let found = convert::unpaired(fields)?;
                self.measure_messages(&found.prompt);
                self.measure("response", &found.completion);
            }
            (_, Kind::Preferences) => {
                for ranking in convert::rankings(format, fields)? {
                    self.measure_messages(&ranking.prompt);
                    for response in &ranking.responses {
                        self.measure("response", response);
                    }
                }
            }
            (_, Kind::Prompts) => {
                for found in convert::prompts(format, fields)? {
                    self.measure_messages(&found.input.to_messages());
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Inspection {
        self.out.kind = self.serves_as.or(self.out.format.map(Format::kind));
        self.out.lengths = self.lengths.into_iter().map(|(part, l)| Lengths::of(part, l)).collect();
        self.out
    }
}

fn serves_as(format: Format, fields: &Map<String, Value>) -> Option<Kind> {
    let without_reply = format.kind() == Kind::Conversations
        && convert::demonstrations(format, fields.clone()).is_err()
        && convert::prompts(format, fields.clone()).is_ok();
    without_reply.then_some(Kind::Prompts)
}

fn holds(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
