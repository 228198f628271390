//! Commented configuration files and reference pages, both out of the type's doc comments.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::keys::{Place, Schema, join};
use super::{Configuration, Resolved, defaults};
use crate::error::Result;

const WIDTH: usize = 100;

/// A TOML file with every key of `T`, its doc comment above it and `defaults` as values. What `defaults` leaves
/// unset is there too, commented out, with an example. Nothing is filled in by [`Configuration::resolve`]: what follows
/// from other keys would stay as it is where those are changed.
///
/// # Errors
/// When the defaults cannot be written as TOML.
pub fn commented<T: Configuration>(defaults: &T) -> Result<String> {
    let schema = Schema::of::<T>();
    let table = defaults::table(defaults)?;
    let mut out = String::new();
    comment(&mut out, description(&[schema.root()]).as_deref().unwrap_or_default());
    write_table(&schema, &[schema.root()], (Some(&table), true), "", 0, &mut out);
    Ok(out)
}

/// A reference page in Markdown: one table a section, with key, type, default and meaning.
///
/// # Errors
/// When the defaults cannot be written as TOML.
pub fn markdown<T: Configuration + Clone>(title: &str, defaults: &T) -> Result<String> {
    let schema = Schema::of::<T>();
    let resolved = Resolved::from_config(defaults.clone())?;
    let mut out = format!("# {title}\n");
    if let Some(text) = description(&[schema.root()]) {
        let _ = write!(out, "\n{text}\n");
    }
    write_section(&schema, &[schema.root()], Some(resolved.table()), "", 0, &mut out);
    Ok(out)
}

/// A key of a table, with what may stand there.
struct Entry<'a> {
    name: &'a str,
    schemas: Vec<&'a serde_json::Value>,
    value: Option<&'a Value>,
    place: Place<'a>,
}

impl Entry<'_> {
    /// Written as a `[section]`: a table of known keys (or one that `defaults` set), never a list.
    fn is_section(&self) -> bool {
        match self.value {
            Some(Value::Table(table)) => !table.is_empty() || !self.place.properties.is_empty(),
            Some(_) => false,
            None => !self.place.properties.is_empty() && !self.place.types.contains("string"),
        }
    }
}

fn entries<'a>(schema: &'a Schema, schemas: &[&'a serde_json::Value], table: Option<&'a Table>) -> Vec<Entry<'a>> {
    let whole = table.map(|table| Value::Table(table.clone()));
    let place = schema.place(schemas, whole.as_ref());
    let mut entries: Vec<Entry<'a>> = place
        .properties
        .iter()
        .map(|(name, schemas)| {
            let value = table.and_then(|table| table.get(*name));
            Entry {
                name,
                schemas: schemas.clone(),
                value,
                place: schema.place(schemas, value),
            }
        })
        .collect();
    for (name, value) in table.into_iter().flatten() {
        if !place.properties.iter().any(|(known, _)| known == name) {
            let schemas = place.additional.clone();
            let inner = schema.place(&schemas, Some(value));
            entries.push(Entry {
                name,
                schemas,
                value: Some(value),
                place: inner,
            });
        }
    }
    entries
}

/// Writes a table's keys, as comments where the table is not `given`.
fn write_table(
    schema: &Schema,
    schemas: &[&serde_json::Value],
    (table, given): (Option<&Table>, bool),
    path: &str,
    depth: usize,
    out: &mut String,
) {
    let (sections, scalars): (Vec<_>, Vec<_>) =
        entries(schema, schemas, table).into_iter().partition(Entry::is_section);
    let off = if given { "" } else { "# " };
    for entry in &scalars {
        let mut help = description(&entry.schemas).unwrap_or_default();
        if let Some(choices) = choices(&entry.place) {
            let _ = write!(help, " One of {choices}.");
        }
        comment(out, help.trim());
        comment_elements(schema, entry, out);
        match entry.value {
            Some(value) => {
                let _ = writeln!(out, "{off}{} = {value}", quoted_key(entry.name));
            }
            None => {
                let _ = writeln!(out, "# {} = {}", quoted_key(entry.name), example(entry));
            }
        }
    }
    for entry in &sections {
        if depth > 6 {
            break;
        }
        let inside = join(path, entry.name);
        out.push('\n');
        comment(out, &description(&entry.schemas).unwrap_or_default());
        let inner = entry.value.and_then(Value::as_table);
        let given = given && inner.is_some();
        let off = if given { "" } else { "# " };
        let _ = writeln!(out, "{off}[{inside}]");
        // Of a section with several kinds the keys of one are shown
        let example = entry.place.example_table().filter(|_| inner.is_none());
        let shown = inner.or(example.as_ref());
        write_table(schema, &entry.schemas, (shown, given), &inside, depth + 1, out);
    }
}

/// The keys of a list's elements, where those are tables.
fn comment_elements(schema: &Schema, entry: &Entry<'_>, out: &mut String) {
    if entry.place.items.is_empty() {
        return;
    }
    for (name, schemas) in &schema.place(&entry.place.items, None).properties {
        let kind = type_name(schema, &schema.place(schemas, None), 0);
        comment(
            out,
            &format!("- {name} ({kind}): {}", description(schemas).unwrap_or_default()),
        );
    }
}

fn write_section(
    schema: &Schema,
    schemas: &[&serde_json::Value],
    table: Option<&Table>,
    path: &str,
    depth: usize,
    out: &mut String,
) {
    let (sections, scalars): (Vec<_>, Vec<_>) =
        entries(schema, schemas, table).into_iter().partition(Entry::is_section);
    if !scalars.is_empty() {
        out.push_str("\n| key | type | default | meaning |\n|---|---|---|---|\n");
    }
    for entry in &scalars {
        let value = match entry.value {
            Some(value) => format!("`{}`", cell(&value.to_string())),
            None => "unset".to_owned(),
        };
        let key = cell(&join(path, entry.name));
        let kind = cell(&type_name(schema, &entry.place, 0));
        let help = cell(&description(&entry.schemas).unwrap_or_default());
        let _ = writeln!(out, "| `{key}` | {kind} | {value} | {help} |");
        for (name, schemas) in schema
            .place(&entry.place.items, None)
            .properties
            .iter()
            .filter(|_| !entry.place.items.is_empty())
        {
            let kind = cell(&type_name(schema, &schema.place(schemas, None), 0));
            let help = cell(&description(schemas).unwrap_or_default());
            let _ = writeln!(out, "| `{key}[].{}` | {kind} | | {help} |", cell(name));
        }
    }
    for entry in &sections {
        if depth > 6 {
            break;
        }
        let inside = join(path, entry.name);
        let absent = if entry.value.is_none() {
            " (absent by default)"
        } else {
            ""
        };
        let _ = write!(out, "\n## `[{inside}]`{absent}\n");
        if let Some(text) = description(&entry.schemas) {
            let _ = write!(out, "\n{text}\n");
        }
        write_section(
            schema,
            &entry.schemas,
            entry.value.and_then(Value::as_table),
            &inside,
            depth + 1,
            out,
        );
    }
}

/// A field's doc comment, the paragraphs as they are.
fn description(schemas: &[&serde_json::Value]) -> Option<String> {
    schemas
        .iter()
        .find_map(|schema| Some(schema.get("description")?.as_str()?.trim().to_owned()))
}

fn comment(out: &mut String, text: &str) {
    // A doc comment is broken where its line was full; only an empty line ends a paragraph
    let text = text
        .split("\n\n")
        .map(|paragraph| paragraph.replace('\n', " "))
        .collect::<Vec<_>>()
        .join("\n\n");
    for paragraph in text.lines() {
        let mut line = String::from("#");
        for word in paragraph.split_whitespace() {
            if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > WIDTH {
                out.push_str(&line);
                out.push('\n');
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        out.push_str(&line);
        out.push('\n');
    }
}

/// The constants a value is limited to, `"a", "b"`.
fn choices(place: &Place<'_>) -> Option<String> {
    let list: Vec<String> = place
        .constants
        .iter()
        .filter(|value| !value.is_null())
        .map(ToString::to_string)
        .collect();
    (list.len() > 1).then(|| list.join(", "))
}

fn type_name(schema: &Schema, place: &Place<'_>, depth: usize) -> String {
    if let Some(choices) = choices(place) {
        return format!("one of {choices}");
    }
    let mut names: Vec<String> = Vec::new();
    for name in &place.types {
        names.push(match *name {
            "string" => "text".to_owned(),
            "integer" => "whole number".to_owned(),
            "number" => "number".to_owned(),
            "boolean" => "true or false".to_owned(),
            "array" if depth < 3 && !place.items.is_empty() => {
                format!(
                    "list of {}",
                    type_name(schema, &schema.place(&place.items, None), depth + 1)
                )
            }
            "array" => "list".to_owned(),
            "object" => "table".to_owned(),
            _ => continue,
        });
    }
    if names.is_empty() {
        "any".to_owned()
    } else {
        names.join(" or ")
    }
}

/// A value of the right type for a key that is not set.
fn example(entry: &Entry<'_>) -> String {
    if let Some(example) = entry.place.example() {
        return example;
    }
    if let Some(constant) = entry.place.constants.iter().find(|value| !value.is_null()) {
        return constant.to_string();
    }
    let types = &entry.place.types;
    let text = [
        ("string", "\"...\""),
        ("integer", "1"),
        ("number", "1.0"),
        ("boolean", "true"),
        ("array", "[]"),
    ];
    text.into_iter()
        .find(|(name, _)| types.contains(name))
        .map_or("{}", |(_, text)| text)
        .to_owned()
}

fn quoted_key(name: &str) -> String {
    let bare = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if bare {
        name.to_owned()
    } else {
        Value::String(name.to_owned()).to_string()
    }
}

/// Text inside a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}
