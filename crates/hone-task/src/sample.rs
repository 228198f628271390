use serde_json::{Map, Value};

use crate::Problem;

/// A prompt with whatever else its row holds, such as the reference answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptRow {
    /// The prompt as text; of a conversation, what the template made of it.
    pub prompt: String,
    /// The row's other columns.
    pub columns: Map<String, Value>,
}

impl PromptRow {
    /// A row without other columns.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self {
            prompt: prompt.into(),
            columns: Map::new(),
        }
    }

    /// The same row with one more column.
    #[must_use]
    pub fn with(mut self, column: impl Into<String>, value: impl Into<Value>) -> Self {
        self.columns.insert(column.into(), value.into());
        self
    }

    /// A column's value.
    pub(crate) fn column(&self, column: &str) -> Result<&Value, Problem> {
        self.columns.get(column).ok_or_else(|| Problem::MissingColumn {
            column: column.to_owned(),
            found: self.columns.keys().cloned().collect(),
        })
    }

    /// The acceptable answers in a column: a string, a number, true or false, or an array of these.
    pub(crate) fn references(&self, column: &str) -> Result<Vec<String>, Problem> {
        let value = self.column(column)?;
        let refuse = || Problem::BadColumn {
            column: column.to_owned(),
            got: shortened(&value.to_string()),
            expected: "a string, a number, true or false, or a non-empty array of these",
        };
        let one = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(truth) => Ok(truth.to_string()),
            _ => Err(refuse()),
        };
        match value {
            Value::Array(values) if values.is_empty() => Err(refuse()),
            Value::Array(values) => values.iter().map(one).collect(),
            value => one(value).map(|text| vec![text]),
        }
    }
}

/// A response to a prompt.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// What was asked.
    pub row: &'a PromptRow,
    /// The response as text, without the special tokens that end it.
    pub response: &'a str,
    /// The number of tokens it was sampled as, where that is known.
    pub tokens: Option<usize>,
}

impl<'a> Sample<'a> {
    /// A response whose number of tokens is not known.
    pub fn new(row: &'a PromptRow, response: &'a str) -> Self {
        Self {
            row,
            response,
            tokens: None,
        }
    }

    /// The same response with its number of tokens.
    #[must_use]
    pub fn with_tokens(self, tokens: usize) -> Self {
        Self {
            tokens: Some(tokens),
            ..self
        }
    }
}

/// The start of a text, for a message.
pub(crate) fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_of_every_kind() {
        let row = PromptRow::new("?")
            .with("a", "x")
            .with("b", 3)
            .with("c", json!(["x", 2.5, true]))
            .with("d", json!([]));
        assert_eq!(row.references("a").unwrap(), ["x"]);
        assert_eq!(row.references("b").unwrap(), ["3"]);
        assert_eq!(row.references("c").unwrap(), ["x", "2.5", "true"]);
        assert!(matches!(row.references("d"), Err(Problem::BadColumn { .. })));
        let row = row.with("e", json!({"k": 1})).with("f", json!([null]));
        assert!(row.references("e").is_err() && row.references("f").is_err());
        let row = PromptRow::new("?").with("gold", 1);
        assert_eq!(
            row.references("answer").unwrap_err().to_string(),
            "the prompt's row has no column `answer`, it has [\"gold\"]; name the column that holds the reference"
        );
    }

    #[test]
    fn shortening_never_cuts_a_character() {
        assert_eq!(shortened("short"), "short");
        let long = "é".repeat(61);
        assert_eq!(shortened(&long), format!("{}...", "é".repeat(60)));
    }
}
