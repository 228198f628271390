//! What a response of the reinforcement method is judged by: hone's rewards, and the columns that they read beside a row's own.

use hone_task::RewardEntry;
use serde_json::{Map, Value};

/// The rewards of a job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Judging {
    pub entries: Vec<RewardEntry>,
    /// Columns that are made for each row, with the template of each.
    pub columns: Vec<(String, Template)>,
}

/// A text with places such as `{{ item.answer }}` that a row fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// The keys that lead to a value of the row.
    Item(Vec<String>),
}

/// Whether a text is the response and nothing else: `{{ sample.output_text }}`.
pub(crate) fn is_response(text: &str) -> bool {
    let inner = text.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
    inner.is_some_and(|inner| inner.trim() == "sample.output_text")
}

impl Template {
    /// Reads a text.
    ///
    /// # Errors
    /// Brackets that do not close, and places that are no part of a row.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("{{") {
            let Some((place, after)) = behind.split_once("}}") else {
                return Err("has `{{` without `}}`".into());
            };
            let place = place.trim();
            let keys = place.strip_prefix("item.").filter(|keys| !keys.is_empty());
            let Some(keys) = keys else {
                return Err(format!(
                    "has `{{{{ {place} }}}}`; expected a column of the row, such as `{{{{ item.answer }}}}`"
                ));
            };
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Item(keys.split('.').map(|key| key.trim().to_owned()).collect()));
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    /// The text for a row.
    fn render(&self, row: &Map<String, Value>) -> Result<String, String> {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Item(keys) => {
                    let mut found = row.get(&keys[0]);
                    for key in &keys[1..] {
                        found = found.and_then(|value| value.get(key));
                    }
                    match found {
                        None | Some(Value::Null) => {
                            let place = keys.join(".");
                            return Err(format!(
                                "has no `{place}`, which a grader reads as `{{{{ item.{place} }}}}`"
                            ));
                        }
                        Some(Value::String(text)) => out.push_str(text),
                        Some(other) => out.push_str(&other.to_string()),
                    }
                }
            }
        }
        Ok(out)
    }
}

impl Judging {
    /// Adds to a row what the rewards read of it.
    ///
    /// # Errors
    /// A row that lacks something.
    pub fn complete(&self, row: &mut Map<String, Value>) -> Result<(), String> {
        for (name, template) in &self.columns {
            let text = template.render(row)?;
            row.insert(name.clone(), Value::String(text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_are_filled_from_rows() {
        let row = json!({"answer": "4", "n": 2, "deep": {"er": [1]}});
        let row = row.as_object().unwrap();
        for (text, expected) in [
            ("{{item.answer}}", "4"),
            ("{{ item.n }}-{{item.deep.er}}!", "2-[1]!"),
            ("plain }} text", "plain }} text"),
            ("", ""),
        ] {
            assert_eq!(Template::parse(text).unwrap().render(row).unwrap(), expected, "{text}");
        }
        let absent = Template::parse("{{item.deep.absent}}")
            .unwrap()
            .render(row)
            .unwrap_err();
        assert!(absent.contains("has no `deep.absent`"), "{absent}");
        for bad in ["{{item.answer", "{{sample.output_text}}", "{{item.}}", "{{}}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
        assert!(is_response(" {{ sample.output_text }}\n") && is_response("{{sample.output_text}}"));
        assert!(!is_response("a {{sample.output_text}}") && !is_response("{{item.answer}}"));
    }
}
