//! Strict configuration: TOML in, a plain Rust type out, every key accounted for.
//!
//! The type's own `Deserialize` gives the values, its [`JsonSchema`] gives the valid keys, its doc comments the help.
//! A key that nothing reads is an error with the nearest valid one. A type should give every field a default or let
//! its absence be an error, and needs no `deny_unknown_fields` (which serde cannot combine with `flatten`).

mod compare;
mod defaults;
mod document;
mod keys;
mod overrides;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use toml::de::{DeTable, DeValue};

pub use compare::{changed_keys, digest, flat, without};
pub use document::{commented, markdown};

use crate::error::{Error, Result};
use crate::manifest::read_limited;
use keys::Schema;

/// No honest configuration is larger.
const MAX_BYTES: u64 = 4 << 20;

/// What a configuration file becomes.
pub trait Configuration: DeserializeOwned + Serialize + JsonSchema {
    /// The values of the keys that a file leaves out, where they are not those of the fields' types: two stages may share
    /// a section and differ in its defaults. Lists are taken whole, tables key by key.
    fn defaults() -> Option<Self> {
        None
    }

    /// Fills in what follows from other values, so that a run's record states every value that was used. What is filled
    /// in already stays, so that a record resolves to itself.
    fn resolve(&mut self) {}

    /// Why a dotted key that others have is none here, and what to use instead.
    fn refused(key: &str) -> Option<&'static str> {
        let _ = key;
        None
    }
}

/// A configuration with every default filled in, and where each value came from.
#[derive(Debug, Clone)]
pub struct Resolved<T> {
    /// The values.
    pub config: T,
    text: String,
    table: toml::Table,
    /// The file; none where a program made the values.
    source: Option<String>,
    origins: BTreeMap<String, String>,
}

impl<T> Resolved<T> {
    /// The configuration as TOML, every default written out: the contents of `run.toml`.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The same as a table.
    #[must_use]
    pub fn table(&self) -> &toml::Table {
        &self.table
    }

    /// BLAKE3 of the canonical TOML: keys sorted, so that it depends on values alone.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.table)
    }

    /// Where a value came from: `sft.toml:12`, `--set`, or the file for a default.
    #[must_use]
    pub fn origin(&self, key: &str) -> String {
        let source = self.source.as_deref().unwrap_or("the configuration");
        origin_of(&self.origins, source, key)
    }

    /// As [`Self::origin`]; nothing where a program made the values.
    #[must_use]
    pub fn place(&self, key: &str) -> Option<String> {
        self.source.as_ref().map(|source| origin_of(&self.origins, source, key))
    }

    /// An error about a value that has the right type and makes no sense, with its place:
    /// `resolved.invalid("train.learning_rate", "got -0.1, expected a number above 0")`.
    #[must_use]
    pub fn invalid(&self, key: &str, message: impl Into<String>) -> Error {
        Error::Value {
            origin: self.origin(key),
            key: key.to_owned(),
            message: message.into(),
        }
    }
}

impl<T: Configuration> Resolved<T> {
    /// A configuration that a program made.
    ///
    /// # Errors
    /// When the values cannot be written as TOML (an integer above `i64::MAX`, say).
    pub fn from_config(config: T) -> Result<Self> {
        Self::new(config, None, BTreeMap::new())
    }

    fn new(mut config: T, source: Option<String>, origins: BTreeMap<String, String>) -> Result<Self> {
        config.resolve();
        let text = toml::to_string_pretty(&config).map_err(|error| Error::Unwritable(error.to_string()))?;
        let table = toml::from_str(&text).map_err(|error| Error::Unwritable(error.to_string()))?;
        Ok(Self {
            config,
            text,
            table,
            source,
            origins,
        })
    }
}

/// Reads a configuration file, applies overrides (`ppo.kl_coef=0.1`) in order, and checks every key.
///
/// # Errors
/// Each names the file and line or the override, the dotted key, and what was expected.
pub fn load<T>(path: &Path, overrides: &[String]) -> Result<Resolved<T>>
where
    T: Configuration,
{
    parse(&path.display().to_string(), &read_text(path)?, overrides)
}

/// As [`load`], of a text; `source` is what errors call it.
///
/// # Errors
/// As [`load`].
pub fn parse<T>(source: &str, text: &str, overrides: &[String]) -> Result<Resolved<T>>
where
    T: Configuration,
{
    let mut origins = origins(source, text)?;
    let mut table: toml::Table = toml::from_str(text).map_err(|error| syntax(source, text, &error))?;
    let schema = Schema::of::<T>();
    for text in overrides {
        overrides::apply(text, &schema, &mut table, &mut origins)?;
    }
    let mut unknown = schema.unknown_keys(&toml::Value::Table(table.clone()));
    if !unknown.is_empty() {
        for key in &mut unknown {
            key.origin = origin_of(&origins, source, &key.key);
            key.reason = T::refused(&key.key);
        }
        return Err(Error::UnknownKeys { keys: unknown });
    }
    if let Some(defaults) = T::defaults() {
        table = defaults::beneath(defaults::table(&defaults)?, table);
    }
    let table = toml::Value::Table(table);
    let config = serde_path_to_error::deserialize(table.clone()).map_err(|error| {
        // What the schema says is in the user's terms; what it does not see is told as the type's reader tells it.
        let (key, message) = schema.misfit(&table).unwrap_or_else(|| {
            let key = error.path().to_string();
            (key, error.into_inner().message().trim().to_owned())
        });
        Error::Value {
            origin: origin_of(&origins, source, &key),
            key,
            message,
        }
    })?;
    Resolved::new(config, Some(source.to_owned()), origins)
}

/// The JSON Schema of a configuration, with its own defaults: what `hone config schema` prints.
#[must_use]
pub fn schema<T: Configuration>() -> serde_json::Value {
    let mut schema = schemars::schema_for!(T).to_value();
    if let Some(mut defaults) = T::defaults() {
        defaults.resolve();
        // What cannot be written as TOML is refused where it is used.
        if let Ok(table) = defaults::table(&defaults) {
            defaults::inject(&mut schema, "", &table);
        }
    }
    schema
}

/// A run's name by default: the configuration file's stem.
#[must_use]
pub fn run_name(path: &Path) -> PathBuf {
    PathBuf::from(path.file_stem().unwrap_or_default())
}

/// The text of a configuration file, such as a run's `run.toml`, and its table, whatever keys it has.
///
/// # Errors
/// When it cannot be read, or is not TOML.
pub fn read_recorded(path: &Path) -> Result<(String, toml::Table)> {
    let text = read_text(path)?;
    let table = toml::from_str(&text).map_err(|error| syntax(&path.display().to_string(), &text, &error))?;
    Ok((text, table))
}

/// A TOML file as it is.
pub(crate) fn read_table(path: &Path) -> Result<toml::Table> {
    Ok(read_recorded(path)?.1)
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = read_limited(path, MAX_BYTES).map_err(|source| Error::Unreadable {
        path: path.to_path_buf(),
        source,
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count();
        Error::Syntax {
            origin: format!("{}:{line}", path.display()),
            message: "not UTF-8 text".to_owned(),
        }
    })
}

fn syntax(source: &str, text: &str, error: &toml::de::Error) -> Error {
    let origin = match error.span() {
        Some(span) => {
            let (line, column) = position(text, span.start);
            format!("{source}:{line}:{column}")
        }
        None => source.to_owned(),
    };
    Error::Syntax {
        origin,
        message: error.message().trim().to_owned(),
    }
}

/// Line and column, from 1, of a byte.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..byte.min(text.len())];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    (line, 1 + String::from_utf8_lossy(&before[line_start..]).chars().count())
}

/// The place of every dotted key of a file.
fn origins(source: &str, text: &str) -> Result<BTreeMap<String, String>> {
    fn walk(value: &DeValue<'_>, key: &str, note: &mut dyn FnMut(&str, usize)) {
        match value {
            DeValue::Table(table) => walk_table(table, key, note),
            DeValue::Array(array) => {
                for (index, element) in array.iter().enumerate() {
                    let inside = format!("{key}[{index}]");
                    note(&inside, element.span().start);
                    walk(element.get_ref(), &inside, note);
                }
            }
            _ => {}
        }
    }
    fn walk_table(table: &DeTable<'_>, key: &str, note: &mut dyn FnMut(&str, usize)) {
        for (name, value) in table {
            let inside = keys::join(key, name.get_ref());
            note(&inside, name.span().start);
            walk(value.get_ref(), &inside, note);
        }
    }
    let table = DeTable::parse(text).map_err(|error| syntax(source, text, &error))?;
    let mut origins = BTreeMap::new();
    walk_table(table.get_ref(), "", &mut |key, byte| {
        origins.insert(key.to_owned(), format!("{source}:{}", position(text, byte).0));
    });
    Ok(origins)
}

/// The origin of a key, or of the nearest table around it.
fn origin_of(origins: &BTreeMap<String, String>, source: &str, key: &str) -> String {
    let mut key = key;
    loop {
        if let Some(origin) = origins.get(key) {
            return origin.clone();
        }
        match key.rfind(['.', '[']) {
            Some(at) => key = &key[..at],
            None => return source.to_owned(),
        }
    }
}
