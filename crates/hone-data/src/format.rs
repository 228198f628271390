//! The kinds of data, the formats each is accepted in, and how a format is told from a row's columns.

use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{DataError, nearest};

/// What data is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Documents to pre-train on.
    Text,
    /// Conversations to imitate.
    Conversations,
    /// Which reply is better.
    Preferences,
    /// What to answer.
    Prompts,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Text => "text documents",
            Kind::Conversations => "conversations",
            Kind::Preferences => "preferences",
            Kind::Prompts => "prompts",
        })
    }
}

/// The shape of a row. The names are those of `format = "..."`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A file that is itself the text.
    PlainText,
    /// A column `text`.
    Text,
    /// `messages: [{role, content}]` (OpenAI, TRL).
    Messages,
    /// `conversations: [{from, value}]`.
    Sharegpt,
    /// `instruction, input, output`.
    Alpaca,
    /// `prompt, completion`.
    PromptCompletion,
    /// `question, answer`.
    QuestionAnswer,
    /// A Stack Exchange dump's `Posts.xml`.
    StackExchange,
    /// `prompt, chosen, rejected[, margin]`, strings or messages.
    Pairs,
    /// `chosen, rejected`: transcripts of `Human:` and `Assistant:`.
    HhTranscripts,
    /// `conversations, chosen: {from, value}, rejected: {from, value}`.
    SharegptPreference,
    /// `prompt, responses, ranking`.
    Rankings,
    /// OpenAssistant message trees, `rank` among siblings.
    OpenAssistant,
    /// `prompt, completion, label`.
    Unpaired,
    /// Records of annotations: a store that `hone annotate` made, or its export.
    Annotations,
    /// `prompt`.
    Prompt,
}

impl Format {
    /// Every format that is told from columns, the most specific first.
    pub const TABULAR: [Format; 14] = [
        Format::Annotations,
        Format::OpenAssistant,
        Format::Rankings,
        Format::SharegptPreference,
        Format::Pairs,
        Format::HhTranscripts,
        Format::Unpaired,
        Format::Messages,
        Format::Sharegpt,
        Format::Alpaca,
        Format::PromptCompletion,
        Format::QuestionAnswer,
        Format::Prompt,
        Format::Text,
    ];

    /// The name used in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Format::PlainText => "plain-text",
            Format::Text => "text",
            Format::Messages => "messages",
            Format::Sharegpt => "sharegpt",
            Format::Alpaca => "alpaca",
            Format::PromptCompletion => "prompt-completion",
            Format::QuestionAnswer => "question-answer",
            Format::StackExchange => "stack-exchange",
            Format::Pairs => "pairs",
            Format::HhTranscripts => "hh-transcripts",
            Format::SharegptPreference => "sharegpt-preference",
            Format::Rankings => "rankings",
            Format::OpenAssistant => "open-assistant",
            Format::Unpaired => "unpaired",
            Format::Annotations => "annotations",
            Format::Prompt => "prompt",
        }
    }

    /// What the format is for.
    pub fn kind(self) -> Kind {
        match self {
            Format::PlainText | Format::Text => Kind::Text,
            Format::Messages
            | Format::Sharegpt
            | Format::Alpaca
            | Format::PromptCompletion
            | Format::QuestionAnswer
            | Format::StackExchange => Kind::Conversations,
            Format::Pairs
            | Format::HhTranscripts
            | Format::SharegptPreference
            | Format::Rankings
            | Format::OpenAssistant
            | Format::Unpaired
            | Format::Annotations => Kind::Preferences,
            Format::Prompt => Kind::Prompts,
        }
    }

    /// The columns the format must have; those it may have follow in [`Format::optional`].
    pub fn required(self) -> &'static [&'static str] {
        match self {
            Format::PlainText | Format::StackExchange => &[],
            Format::Text => &["text"],
            Format::Messages => &["messages"],
            Format::Sharegpt => &["conversations"],
            Format::Alpaca => &["instruction", "output"],
            Format::PromptCompletion => &["prompt", "completion"],
            Format::QuestionAnswer => &["question", "answer"],
            Format::Pairs => &["prompt", "chosen", "rejected"],
            Format::HhTranscripts => &["chosen", "rejected"],
            Format::SharegptPreference => &["conversations", "chosen", "rejected"],
            Format::Rankings => &["prompt", "responses", "ranking"],
            Format::OpenAssistant => &["prompt"],
            Format::Unpaired => &["prompt", "completion", "label"],
            Format::Annotations => &["event", "status", "responses", "annotator", "input_digest"],
            Format::Prompt => &["prompt"],
        }
    }

    /// Columns with a meaning that may be absent.
    pub fn optional(self) -> &'static [&'static str] {
        match self {
            Format::Alpaca => &["input", "system", "history"],
            Format::Sharegpt | Format::SharegptPreference => &["system"],
            Format::Pairs => &["margin"],
            Format::Rankings => &["margins"],
            _ => &[],
        }
    }

    /// Whether rows of this format can serve as `wanted`. Prompts can be taken from conversations and from preferences, and
    /// rankings from the votes of a Stack Exchange dump; annotations are conversations, too, where somebody wrote an answer, but
    /// several of them have one prompt.
    pub fn serves(self, wanted: Kind) -> bool {
        if self == Format::Annotations {
            return matches!(wanted, Kind::Preferences | Kind::Conversations);
        }
        self.kind() == wanted
            || wanted == Kind::Preferences && self == Format::StackExchange
            || wanted == Kind::Prompts
                && (self.kind() == Kind::Conversations && self != Format::StackExchange
                    || self.kind() == Kind::Preferences)
    }

    fn fits(self, row: &Map<String, Value>) -> bool {
        let has = |name: &str| row.get(name).is_some_and(|v| !v.is_null());
        if !self.required().iter().all(|c| has(c)) {
            // pairs of whole conversations need no prompt column
            return self == Format::Pairs && has("chosen") && has("rejected") && row["chosen"].is_array();
        }
        let tree = row.get("prompt").is_some_and(|p| p.get("replies").is_some());
        match self {
            Format::OpenAssistant => tree,
            Format::Prompt => !tree,
            Format::HhTranscripts => row["chosen"].is_string(),
            _ => true,
        }
    }

    /// Tells the format from the first row. With a wanted kind, the most specific format that serves it is taken; records of
    /// annotations are nothing else, whatever is wanted.
    pub(crate) fn detect(path: &Path, row: &Map<String, Value>, wanted: Option<Kind>) -> Result<Format, DataError> {
        let mut fitting: Vec<Format> = Self::TABULAR.into_iter().filter(|f| f.fits(row)).collect();
        if fitting.first() == Some(&Format::Annotations) {
            fitting.truncate(1);
        }
        let serving = fitting.iter().find(|f| wanted.is_none_or(|kind| f.serves(kind)));
        match (serving, fitting.first(), wanted) {
            (Some(&format), _, _) => Ok(format),
            (None, Some(&format), Some(wanted)) => Err(DataError::WrongKind {
                path: path.into(),
                format,
                wanted,
                hint: format!(
                    "; formats of {wanted}: {}",
                    Self::TABULAR
                        .iter()
                        .filter(|f| f.kind() == wanted)
                        .map(|f| f.name())
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            }),
            _ => Err(Self::unknown(path, row, wanted)),
        }
    }

    fn unknown(path: &Path, row: &Map<String, Value>, wanted: Option<Kind>) -> DataError {
        let offered = || {
            Self::TABULAR
                .into_iter()
                .filter(move |f| wanted.is_none_or(|kind| f.serves(kind)))
        };
        let known: Vec<String> = offered()
            .map(|f| format!("  {}: {}", f.name(), f.required().join(", ")))
            .collect();
        // the format with the largest share of its columns present or nearly so
        let hint = offered()
            .filter_map(|f| {
                let missing: Vec<&str> = f.required().iter().copied().filter(|c| !row.contains_key(*c)).collect();
                let near: Vec<(String, &str)> = missing
                    .iter()
                    .filter_map(|c| Some((nearest(c, row.keys().map(String::as_str))?, *c)))
                    .collect();
                let present = f.required().len() - missing.len();
                (present + near.len() > 0).then_some((f, missing, near, present))
            })
            .max_by_key(|(f, _, near, present)| {
                (
                    (present * 2 + near.len()) * 100 / f.required().len(),
                    f.required().len(),
                )
            })
            .map(|(f, missing, near, _)| match near.first() {
                Some((found, column)) if near.len() == missing.len() => {
                    format!(
                        "\nNearest: `{}`, with `columns = {{ {column} = \"{found}\" }}`",
                        f.name()
                    )
                }
                _ => format!("\nNearest: `{}`, which also needs {}", f.name(), missing.join(", ")),
            })
            .unwrap_or_default();
        DataError::UnknownFormat {
            path: path.into(),
            wanted,
            found: row.keys().cloned().collect(),
            known: known.join("\n"),
            hint,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Every column name that has a meaning in some format of tables; records of annotations are made by hone alone.
pub(crate) fn known_columns() -> impl Iterator<Item = &'static str> {
    Format::TABULAR
        .into_iter()
        .filter(|f| *f != Format::Annotations)
        .flat_map(|f| f.required().iter().chain(f.optional()).copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn detect(row: Value, wanted: Option<Kind>) -> Result<Format, DataError> {
        Format::detect(Path::new("f.jsonl"), row.as_object().unwrap(), wanted)
    }

    #[test]
    fn columns_tell_the_format() {
        let cases = [
            (json!({"text": "t"}), Format::Text),
            (json!({"messages": []}), Format::Messages),
            (json!({"conversations": []}), Format::Sharegpt),
            (json!({"instruction": "i", "input": "", "output": "o"}), Format::Alpaca),
            (
                json!({"prompt": "p", "completion": "c", "template": "t"}),
                Format::PromptCompletion,
            ),
            (json!({"question": "q", "answer": "a"}), Format::QuestionAnswer),
            (json!({"prompt": "p", "chosen": "c", "rejected": "r"}), Format::Pairs),
            (json!({"chosen": [], "rejected": []}), Format::Pairs),
            (json!({"chosen": "c", "rejected": "r"}), Format::HhTranscripts),
            (
                json!({"conversations": [], "chosen": {}, "rejected": {}}),
                Format::SharegptPreference,
            ),
            (json!({"prompt": "p", "responses": [], "ranking": []}), Format::Rankings),
            (
                json!({"message_tree_id": "1", "prompt": {"text": "t", "replies": []}}),
                Format::OpenAssistant,
            ),
            (
                json!({"prompt": "p", "completion": "c", "label": true}),
                Format::Unpaired,
            ),
            (
                json!({"event": 1, "status": "judged", "prompt": [], "responses": [], "annotator": "ann", "input_digest": "00"}),
                Format::Annotations,
            ),
            (json!({"prompt": "p", "answer": "4"}), Format::Prompt),
        ];
        for (row, format) in cases {
            assert_eq!(detect(row.clone(), None).unwrap(), format, "{row}");
            assert_eq!(detect(row.clone(), Some(format.kind())).unwrap(), format, "{row}");
        }
    }

    #[test]
    fn the_wanted_kind_decides_where_several_fit() {
        let row = json!({"prompt": "p", "completion": "c", "text": "pc"});
        assert_eq!(detect(row.clone(), Some(Kind::Text)).unwrap(), Format::Text);
        assert_eq!(
            detect(row.clone(), Some(Kind::Prompts)).unwrap(),
            Format::PromptCompletion
        );
        let error = detect(row, Some(Kind::Preferences)).unwrap_err().to_string();
        assert!(
            error.contains("holds conversations") && error.contains("hh-transcripts"),
            "{error}"
        );
    }

    #[test]
    fn what_fits_nothing_names_columns_formats_and_the_nearest() {
        let error = detect(json!({"promt": "p", "completion": "c"}), None)
            .unwrap_err()
            .to_string();
        assert!(error.contains("Found: promt, completion"), "{error}");
        assert!(error.contains("question-answer: question, answer"), "{error}");
        assert!(error.contains("columns = { prompt = \"promt\" }"), "{error}");
        let error = detect(json!({"prompt": "p", "chosen": "c"}), Some(Kind::Preferences)).unwrap_err();
        assert!(
            error.to_string().contains("Nearest") || matches!(error, DataError::WrongKind { .. }),
            "{error}"
        );
    }

    #[test]
    fn names_agree_with_serde() {
        for format in Format::TABULAR
            .into_iter()
            .chain([Format::PlainText, Format::StackExchange])
        {
            assert_eq!(serde_json::to_value(format).unwrap(), json!(format.name()));
        }
    }
}
