//! Plain text as documents.

use std::ops::ControlFlow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Limits, Meter};
use crate::error::DataError;
use crate::items::Document;

/// The line that separates the documents of a plain text, as in TinyStories' files; white space around it does not count.
pub const DOCUMENT_MARKER: &str = "<|endoftext|>";

/// How a plain text is cut into documents. Whatever the way, a line that is [`DOCUMENT_MARKER`] ends a document and
/// belongs to none; blank lines beside it belong to none either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DocumentSplit {
    /// The file is one document, or one between markers.
    #[default]
    None,
    /// Runs of lines that blank lines separate are a document each.
    BlankLines,
    /// Each line that is not blank is a document.
    Lines,
}

/// A plain text, not yet read.
pub struct TextFile {
    meter: Meter,
    document_cap: u64,
}

impl TextFile {
    pub(super) fn new(meter: Meter, limits: &Limits) -> Self {
        Self {
            meter,
            document_cap: limits.document_bytes,
        }
    }

    /// Hands over document after document; only one is in memory at a time. `each` may stop early.
    ///
    /// # Errors
    /// Text that is not UTF-8 (with line and offset), a document longer than the limit, failures of the file, and
    /// whatever `each` returns.
    pub fn for_each(
        mut self,
        split: DocumentSplit,
        each: &mut dyn FnMut(Document) -> Result<ControlFlow<()>, DataError>,
    ) -> Result<(), DataError> {
        let mut pending = String::new();
        let mut line = Vec::new();
        let (mut offset, mut marked) = (0, false);
        while let Some(number) = self.read_piece(&mut line, &pending)? {
            let piece = std::str::from_utf8(&line).map_err(|e| DataError::NotUtf8 {
                path: self.meter.place().path.clone(),
                line: number,
                offset: offset + e.valid_up_to() as u64,
            })?;
            offset += line.len() as u64;
            let content = piece.trim_end_matches(['\n', '\r']);
            if content.trim() == DOCUMENT_MARKER {
                marked = true;
                let text = std::mem::take(&mut pending);
                let text = between_markers(&text);
                if !text.is_empty() && each(Document { text: text.into() })?.is_break() {
                    return Ok(());
                }
                continue;
            }
            match split {
                DocumentSplit::None => pending.push_str(piece),
                DocumentSplit::Lines if content.trim().is_empty() => {}
                DocumentSplit::Lines => {
                    if each(Document { text: content.into() })?.is_break() {
                        return Ok(());
                    }
                }
                DocumentSplit::BlankLines if content.trim().is_empty() => {
                    let text = std::mem::take(&mut pending);
                    if !text.is_empty() && each(Document { text })?.is_break() {
                        return Ok(());
                    }
                }
                DocumentSplit::BlankLines => {
                    if !pending.is_empty() {
                        pending.push('\n');
                    }
                    pending.push_str(content);
                }
            }
        }
        if !pending.trim().is_empty() {
            let text = if marked {
                between_markers(&pending).into()
            } else {
                pending
            };
            let _ = each(Document { text })?;
        }
        Ok(())
    }

    /// The next line with its end, and its number.
    fn read_piece(&mut self, line: &mut Vec<u8>, pending: &str) -> Result<Option<u64>, DataError> {
        use std::io::BufRead;
        line.clear();
        let number = self.meter.counters().line();
        loop {
            if (pending.len() + line.len()) as u64 > self.document_cap {
                return Err(DataError::DocumentTooLong {
                    path: self.meter.place().path.clone(),
                    cap: self.document_cap,
                });
            }
            let available = match self.meter.fill_buf() {
                Ok(available) => available,
                Err(error) => return Err(self.meter.explain(error, number)),
            };
            if available.is_empty() {
                return Ok((!line.is_empty()).then_some(number));
            }
            let end = available.iter().position(|&b| b == b'\n');
            let taken = end.map_or(available.len(), |e| e + 1);
            line.extend_from_slice(&available[..taken]);
            self.meter.consume(taken);
            if end.is_some() {
                return Ok(Some(number));
            }
        }
    }
}

/// A document without the blank lines and the line end beside the markers; empty if there is nothing else.
fn between_markers(text: &str) -> &str {
    let text = text.trim_end();
    let blank = text.len() - text.trim_start().len();
    let first = text[..blank].rfind('\n').map_or(0, |end| end + 1);
    &text[first..]
}
