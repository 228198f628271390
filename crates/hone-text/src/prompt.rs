//! Prompts from rows of data, and the question-and-answer framing for base models.

use serde_json::{Map, Value};

use crate::error::{Result, TextError};
use crate::jinja::{Dialect, Sandbox};

const WHAT: &str = "prompt template";

/// A prompt with `{{ column }}` places that a JSON row fills.
///
/// The language is Jinja's, so `{% if hint %}..{% endif %}` and filters work. Text is kept as
/// written, a last newline included. Values are inserted as they are: braces within a value are
/// text. A column that the row lacks is an error.
#[derive(Debug)]
pub struct PromptTemplate {
    source: String,
    sandbox: Sandbox,
}

impl PromptTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// [`TextError::TemplateTooLarge`] and [`TextError::TemplateSyntax`].
    pub fn new(source: &str) -> Result<Self> {
        Ok(PromptTemplate {
            source: source.to_owned(),
            sandbox: Sandbox::new(WHAT, source, Dialect::Prompt)?,
        })
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The columns that the template reads from rows like this one, sorted. The names of Jinja's functions (`range`,
    /// `dict`, `namespace`, `debug`) are columns where the row has them.
    pub fn columns(&self, row: &Map<String, Value>) -> Vec<String> {
        let mut names = self.sandbox.variables();
        let function = |name: &str| matches!(name, "range" | "dict" | "namespace" | "debug");
        names.retain(|name| row.contains_key(name) || !function(name));
        names
    }

    /// Fills the template from a row.
    ///
    /// # Errors
    /// [`TextError::UnknownColumn`] where the row lacks a column, and the errors of a template
    /// that fails, loops or writes too much.
    pub fn render(&self, row: &Map<String, Value>) -> Result<String> {
        self.sandbox.render(row).map_err(|error| match error {
            TextError::TemplateFailed { .. } => self.missing_column(row).unwrap_or(error),
            other => other,
        })
    }

    fn missing_column(&self, row: &Map<String, Value>) -> Option<TextError> {
        let column = self.columns(row).into_iter().find(|name| !row.contains_key(name))?;
        let known: Vec<&str> = row.keys().map(String::as_str).collect();
        Some(TextError::UnknownColumn {
            column,
            known: known.join(", "),
        })
    }
}

/// A worked example of [`QaFraming`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QaExample {
    /// The question, without its `Q:`.
    pub question: String,
    /// The answer, without its `A:`.
    pub answer: String,
}

/// The `Q: ..` / `A: ..` framing in which a base model answers questions: zero-shot without
/// examples, few-shot with some.
///
/// ```text
/// Q: first worked question
/// A: its answer
///
/// Q: the question
/// A:
/// ```
/// The prompt ends in `A:` without a space, because the space belongs to the answer's first token.
/// Questions and answers are stripped of surrounding white space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QaFraming {
    examples: Vec<QaExample>,
}

impl QaFraming {
    /// The framing with no worked example.
    pub fn zero_shot() -> Self {
        QaFraming::default()
    }

    /// The framing with worked examples, in this order.
    pub fn few_shot(examples: Vec<QaExample>) -> Self {
        QaFraming { examples }
    }

    /// The worked examples.
    pub fn examples(&self) -> &[QaExample] {
        &self.examples
    }

    /// The prompt for a question.
    pub fn prompt(&self, question: &str) -> String {
        let mut text = String::new();
        for example in &self.examples {
            let (question, answer) = (example.question.trim(), example.answer.trim());
            text.push_str(&format!("Q: {question}\nA: {answer}\n\n"));
        }
        text.push_str(&format!("Q: {}\nA:", question.trim()));
        text
    }

    /// The strings at which a completion ends: the model has begun to write the next question.
    pub fn stop_strings(&self) -> [&'static str; 1] {
        ["\nQ:"]
    }

    /// The answer within a completion: the text before the first stop string, stripped of
    /// surrounding white space.
    pub fn answer<'a>(&self, completion: &'a str) -> &'a str {
        let end = self
            .stop_strings()
            .iter()
            .filter_map(|stop| completion.find(stop))
            .min()
            .unwrap_or(completion.len());
        completion[..end].trim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("a row is an object, got {other}"),
        }
    }

    #[test]
    fn columns_are_filled_and_values_are_not_templates() {
        let template = PromptTemplate::new("{{ name }} has {{ n }} coins.\n").unwrap();
        let given = row(json!({"name": "{{ n }}", "n": 3, "unused": null}));
        assert_eq!(template.columns(&given), ["n", "name"]);
        let text = template.render(&given).unwrap();
        assert_eq!(text, "{{ n }} has 3 coins.\n");
    }

    #[test]
    fn a_missing_column_is_named_with_those_known() {
        let template = PromptTemplate::new("{{ qestion }}").unwrap();
        let error = template
            .render(&row(json!({"question": "?", "answer": "!"})))
            .unwrap_err();
        match error {
            TextError::UnknownColumn { column, known } => {
                assert_eq!(column, "qestion");
                assert_eq!(known, "question, answer");
            }
            other => panic!("unexpected error: {other}"),
        }
    }

    #[test]
    fn columns_with_the_names_of_functions() {
        let template = PromptTemplate::new("{{ range }} of {{ n }}").unwrap();
        let given = row(json!({"range": "3 to 5", "n": 7}));
        assert_eq!(template.columns(&given), ["n", "range"]);
        assert_eq!(template.render(&given).unwrap(), "3 to 5 of 7");
        let template = PromptTemplate::new("{% for i in range(n) %}{{ i }}{% endfor %}").unwrap();
        let given = row(json!({"n": 3}));
        assert_eq!(template.columns(&given), ["n"]);
        assert_eq!(template.render(&given).unwrap(), "012");
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let error = PromptTemplate::new("one\ntwo {{ three").unwrap_err();
        assert!(matches!(error, TextError::TemplateSyntax { line: 2, .. }), "{error}");
    }

    #[test]
    fn few_shot_prompts_end_where_the_answer_begins() {
        let framing = QaFraming::few_shot(vec![QaExample {
            question: " What is 1 + 1? ".into(),
            answer: "2\n".into(),
        }]);
        assert_eq!(
            framing.prompt("What is 2 + 2?"),
            "Q: What is 1 + 1?\nA: 2\n\nQ: What is 2 + 2?\nA:"
        );
        assert_eq!(QaFraming::zero_shot().prompt("Why?"), "Q: Why?\nA:");
        assert_eq!(framing.answer(" 4\n\nQ: What is 3 + 3?\nA: 6"), "4");
        assert_eq!(framing.answer(" 4, I think"), "4, I think");
    }
}
