//! A source of data as a configuration names it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{DataError, nearest};
use crate::format::{Format, known_columns};
use crate::read::{DocumentSplit, Hints};

/// A file to load: a table with these keys, or just its path as a string.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Source {
    /// The file. Compression and layout are told from its content.
    pub path: PathBuf,
    /// Its weight in a mixture, relative to the other sources.
    pub weight: f64,
    /// The format of its rows; detected from the columns where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Which column of the file is meant by a column of the format, as in `{ prompt = "q" }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// How a plain text is cut into documents.
    pub split: DocumentSplit,
    /// Reads no more than this many rows (of plain text: documents).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
    /// The largest share of rows that may be bad before loading fails.
    pub max_bad_share: f64,
}

const DEFAULT_BAD_SHARE: f64 = 0.01;

impl Source {
    /// The file with every option at its default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            weight: 1.0,
            format: None,
            columns: BTreeMap::new(),
            split: DocumentSplit::None,
            max_rows: None,
            max_bad_share: DEFAULT_BAD_SHARE,
        }
    }

    /// The source with a relative path taken from this directory.
    pub fn resolved_in(mut self, directory: &Path) -> Self {
        self.path = directory.join(self.path);
        self
    }

    /// Checks the numbers and the names of columns.
    ///
    /// # Errors
    /// [`DataError::Option`] with the option's name.
    pub fn validate(&self) -> Result<(), DataError> {
        let wrong = |option, got: String, expected: &str| {
            Err(DataError::Option {
                option,
                got,
                expected: expected.into(),
            })
        };
        if !(self.weight.is_finite() && self.weight >= 0.0) {
            return wrong("weight", self.weight.to_string(), "a number of at least 0");
        }
        if !(0.0..=1.0).contains(&self.max_bad_share) {
            return wrong("max_bad_share", self.max_bad_share.to_string(), "a number from 0 to 1");
        }
        for column in self.columns.keys() {
            if !known_columns().any(|known| known == column) {
                let hint = match nearest(column, known_columns()) {
                    Some(near) => format!("a column of a format, such as `{near}`"),
                    None => "a column of a format, such as `prompt`, `completion` or `text`".into(),
                };
                return wrong("columns", format!("{{ {column} = .. }}"), &hint);
            }
        }
        Ok(())
    }

    pub(crate) fn hints(&self) -> Hints {
        Hints {
            columns: self.columns.values().cloned().collect(),
            plain_text: self.format == Some(Format::PlainText) || self.split != DocumentSplit::None,
        }
    }
}

/// The table form.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SourceTable {
    /// The file. Compression and layout are told from its content.
    path: PathBuf,
    /// Its weight in a mixture, relative to the other sources.
    #[serde(default = "one")]
    weight: f64,
    /// The format of its rows; detected from the columns where it is absent.
    #[serde(default)]
    format: Option<Format>,
    /// Which column of the file is meant by a column of the format, as in `{ prompt = "q" }`.
    #[serde(default)]
    columns: BTreeMap<String, String>,
    /// How a plain text is cut into documents.
    #[serde(default)]
    split: DocumentSplit,
    /// Reads no more than this many rows (of plain text: documents).
    #[serde(default)]
    max_rows: Option<u64>,
    /// The largest share of rows that may be bad before loading fails.
    #[serde(default = "default_bad_share")]
    max_bad_share: f64,
}

fn one() -> f64 {
    1.0
}

fn default_bad_share() -> f64 {
    DEFAULT_BAD_SHARE
}

impl From<SourceTable> for Source {
    fn from(table: SourceTable) -> Self {
        let SourceTable {
            path,
            weight,
            format,
            columns,
            split,
            max_rows,
            max_bad_share,
        } = table;
        Self {
            path,
            weight,
            format,
            columns,
            split,
            max_rows,
            max_bad_share,
        }
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Source;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a path or a table with `path`")
            }

            fn visit_str<E>(self, path: &str) -> Result<Source, E> {
                Ok(Source::new(path))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Source, A::Error> {
                SourceTable::deserialize(MapAccessDeserializer::new(map)).map(Source::from)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Source {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Source".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<SourceTable>();
        schemars::json_schema!({
            "description": "A file to load: its path, or a table with `path` and options.",
            "anyOf": [{ "type": "string" }, table]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Config {
        train: Vec<Source>,
    }

    #[test]
    fn a_path_or_a_table() {
        let config: Config = toml::from_str(
            r#"train = ["a.json", { path = "b.txt", weight = 0.5, split = "blank-lines" },
                { path = "c.csv", format = "question-answer", columns = { question = "q" }, max_rows = 10 }]"#,
        )
        .unwrap();
        assert_eq!(config.train[0], Source::new("a.json"));
        assert_eq!(
            (config.train[1].weight, config.train[1].split),
            (0.5, DocumentSplit::BlankLines)
        );
        assert_eq!(config.train[2].format, Some(Format::QuestionAnswer));
        assert_eq!(config.train[2].columns["question"], "q");
        assert!(config.train.iter().all(|s| s.validate().is_ok()));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let source = Source {
            columns: [("prompt".to_string(), "q".to_string())].into(),
            max_rows: Some(3),
            ..Source::new("x")
        };
        let text = toml::to_string(&source).unwrap();
        assert_eq!(toml::from_str::<Source>(&text).unwrap(), source);
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_errors() {
        let error = toml::from_str::<Config>("train = [{ path = \"a\", wieght = 2.0 }]")
            .unwrap_err()
            .to_string();
        assert!(error.contains("wieght") && error.contains("weight"), "{error}");
        let error = toml::from_str::<Config>("train = [3]").unwrap_err().to_string();
        assert!(error.contains("a path or a table"), "{error}");
        let negative = Source {
            weight: -1.0,
            ..Source::new("a")
        };
        assert!(negative.validate().unwrap_err().to_string().contains("`weight` is -1"));
        let column = Source {
            columns: [("promt".to_string(), "q".to_string())].into(),
            ..Source::new("a")
        };
        assert!(column.validate().unwrap_err().to_string().contains("such as `prompt`"));
    }

    #[test]
    fn the_schema_offers_both_forms() {
        let schema = serde_json::to_string(&schemars::schema_for!(Source)).unwrap();
        assert!(schema.contains("max_bad_share") && schema.contains("anyOf"), "{schema}");
    }
}
