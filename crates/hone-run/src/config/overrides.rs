//! `--set ppo.kl_coef=0.1`, and `--set train.steps=` to go back to the default.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::keys::{Schema, Segment, join, split};
use crate::error::{Error, Result};

/// Applies one override. The value is TOML; where the key holds text, or the value is not TOML, it is text as it is.
/// Nothing behind the equals sign takes the key out of the file (empty text is `""`).
pub(super) fn apply(
    text: &str,
    schema: &Schema,
    table: &mut Table,
    origins: &mut BTreeMap<String, String>,
) -> Result<()> {
    let fail = |message: String| Error::Override {
        text: text.to_owned(),
        message,
    };
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| fail("expected KEY=VALUE, as in train.learning_rate=1e-4".to_owned()))?;
    let (key, value) = (key.trim(), value.trim());
    let segments = split(key).ok_or_else(|| {
        fail(format!(
            "`{key}` is not a dotted key; expected names and indices, as in data.train[0].weight"
        ))
    })?;
    let unset = value.is_empty();
    // A key that is not known has to be refused: one that was put in is found among the file's.
    if unset && schema.knows(&segments) {
        take(table, &segments);
    } else {
        let value = parse_value(value, schema.holds_only_text(&segments));
        put(table, &segments, value).map_err(fail)?;
    }
    origins.retain(|known, _| {
        known != key && !known.starts_with(&format!("{key}.")) && !known.starts_with(&format!("{key}["))
    });
    origins.insert(key.to_owned(), format!("--set {text}"));
    Ok(())
}

/// Takes a key, or an element of a list, out.
fn take(table: &mut Table, segments: &[Segment]) {
    let mut root = Value::Table(std::mem::take(table));
    take_from(&mut root, segments);
    if let Value::Table(left) = root {
        *table = left;
    }
}

fn take_from(place: &mut Value, segments: &[Segment]) {
    match (segments, place) {
        ([Segment::Name(name)], Value::Table(table)) => {
            table.remove(name);
        }
        ([Segment::Index(index)], Value::Array(array)) if *index < array.len() => {
            array.remove(*index);
        }
        ([Segment::Name(name), rest @ ..], Value::Table(table)) => {
            if let Some(inner) = table.get_mut(name) {
                take_from(inner, rest);
            }
        }
        ([Segment::Index(index), rest @ ..], Value::Array(array)) => {
            if let Some(inner) = array.get_mut(*index) {
                take_from(inner, rest);
            }
        }
        _ => {}
    }
}

fn parse_value(text: &str, only_text: bool) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"));
    match parsed {
        Some(value) if !only_text || value.is_str() => value,
        _ => Value::String(text.to_owned()),
    }
}

fn put(table: &mut Table, segments: &[Segment], value: Value) -> Result<(), String> {
    let mut path = String::new();
    let mut root = Value::Table(std::mem::take(table));
    let result = put_into(&mut root, segments, value, &mut path);
    if let Value::Table(changed) = root {
        *table = changed;
    }
    result
}

fn put_into(place: &mut Value, segments: &[Segment], value: Value, path: &mut String) -> Result<(), String> {
    let Some((first, rest)) = segments.split_first() else {
        *place = value;
        return Ok(());
    };
    match (first, place) {
        (Segment::Name(name), Value::Table(table)) => {
            *path = join(path, name);
            let inner = table.entry(name.clone()).or_insert_with(|| Value::Table(Table::new()));
            put_into(inner, rest, value, path)
        }
        (Segment::Index(index), Value::Array(array)) => {
            let length = array.len();
            if *index == length {
                array.push(Value::Table(Table::new()));
            }
            let inner = array
                .get_mut(*index)
                .ok_or_else(|| format!("`{path}` has {length} elements, so there is no [{index}]"))?;
            path.push_str(&format!("[{index}]"));
            put_into(inner, rest, value, path)
        }
        (Segment::Name(name), other) => Err(format!("`{path}` is {}, so it has no key `{name}`", describe(other))),
        (Segment::Index(index), other) => Err(format!(
            "`{path}` is {}, not a list, so it has no [{index}]",
            describe(other)
        )),
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Table(table) if table.is_empty() => "not set in the file".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        scalar => format!("`{scalar}`"),
    }
}
