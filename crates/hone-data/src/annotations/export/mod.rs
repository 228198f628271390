//! Annotations in the formats of other programs.
//!
//! Sources: TRL's documentation of dataset formats (preference, unpaired preference, prompt and messages); Bai et al., "Training a helpful
//! and harmless assistant", 2022 (HH transcripts); Köpf et al., "OpenAssistant Conversations", 2023 (message trees); Li et al., "AlpacaEval",
//! 2023 (annotations of pairs).
//!
//! Training needs none of them: it reads the store.

mod pairs;
mod trees;

use std::io::{self, Write};

use serde_json::{Value, json};

use super::record::Record;
use crate::items::Message;

/// A format to export to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    /// hone's own, one event a line, with nothing left out. It is read again as `format = "annotations"`.
    Records,
    /// TRL's preferences: `prompt, chosen, rejected[, margin]` as messages, one line a pair of answers that are not tied.
    TrlPreference,
    /// TRL's unpaired preferences: `prompt, completion, label`.
    Unpaired,
    /// Conversations with the answers that annotators wrote: `messages`.
    Messages,
    /// Transcripts of `Human:` and `Assistant:` turns: `chosen, rejected`.
    Hh,
    /// OpenAssistant's message trees, one an item; an answer's `rank` is that of its mean place over annotators.
    OpenAssistant,
    /// AlpacaEval's annotations, one array: `instruction, output_1, generator_1, output_2, generator_2, annotator, preference`.
    AlpacaEval,
}

impl Export {
    /// All formats.
    pub const ALL: [Export; 7] = [
        Export::Records,
        Export::TrlPreference,
        Export::Unpaired,
        Export::Messages,
        Export::Hh,
        Export::OpenAssistant,
        Export::AlpacaEval,
    ];

    /// The name by which it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Export::Records => "records",
            Export::TrlPreference => "trl-preference",
            Export::Unpaired => "unpaired",
            Export::Messages => "messages",
            Export::Hh => "hh",
            Export::OpenAssistant => "open-assistant",
            Export::AlpacaEval => "alpaca-eval",
        }
    }

    /// The format of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|export| export.name() == name)
    }

    /// The ending of a file in this format.
    pub fn ending(self) -> &'static str {
        match self {
            Export::AlpacaEval => "json",
            _ => "jsonl",
        }
    }

    /// The records in this format.
    pub fn rows(self, records: &[Record]) -> Exported {
        let mut out = Exported::default();
        let counting = records.iter().filter(|record| record.counts());
        match self {
            Export::Records => out.rows.extend(records.iter().map(|record| json!(record))),
            Export::OpenAssistant => trees::trees(counting, &mut out),
            _ => counting.for_each(|record| {
                let before = out.rows.len();
                self.add(record, &mut out.rows);
                out.left_out += u64::from(out.rows.len() == before);
            }),
        }
        out
    }

    /// The rows of one record: none where the format cannot say what it holds.
    fn add(self, record: &Record, rows: &mut Vec<Value>) {
        match self {
            // Of all records together
            Export::Records | Export::OpenAssistant => {}
            Export::TrlPreference => pairs::trl(record, rows),
            Export::Unpaired => rows.extend(record.unpaired().into_iter().map(|row| {
                json!({
                    "prompt": row.prompt,
                    "completion": [Message::assistant(row.completion)],
                    "label": row.label
                })
            })),
            Export::Messages => {
                let written = record.demonstration();
                rows.extend(written.map(|row| json!({ "messages": row.messages })));
            }
            Export::Hh => pairs::hh(record, rows),
            Export::AlpacaEval => pairs::alpaca_eval(record, rows),
        }
    }

    /// Writes rows as a file of this format.
    ///
    /// # Errors
    /// What writing says.
    pub fn write(self, exported: &Exported, out: &mut impl Write) -> io::Result<()> {
        if self == Export::AlpacaEval {
            serde_json::to_writer_pretty(&mut *out, &exported.rows)?;
            return out.write_all(b"\n");
        }
        for row in &exported.rows {
            serde_json::to_writer(&mut *out, row)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }
}

/// Rows of an export.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exported {
    /// One object each.
    pub rows: Vec<Value>,
    /// Judgements of which the format says nothing, such as ratings in a format of pairs, a ranking in which all are tied, or one on a
    /// conversation with a system message in a format that has none.
    pub left_out: u64,
}
