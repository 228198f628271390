//! Values that do not fit their key, told in the words of whoever wrote the file.

use toml::Value;

use super::keys::{Place, Schema, join};

impl Schema {
    /// The first value that the schema does not allow, or a key that must be given and is not: its dotted key, and what
    /// is wrong.
    pub(super) fn misfit(&self, value: &Value) -> Option<(String, String)> {
        self.misfit_in(value, &[self.root()], "")
    }

    fn misfit_in(&self, value: &Value, schemas: &[&serde_json::Value], path: &str) -> Option<(String, String)> {
        let place = self.place(schemas, Some(value));
        if !takes(&place, value) {
            let message = format!("is {}; expected {}", shown(value), expected(&place, path));
            return Some((path.to_owned(), message));
        }
        match value {
            Value::Table(table) => {
                for (name, schemas) in &place.properties {
                    if place.required.contains(name) && !table.contains_key(*name) {
                        let inside = join(path, name);
                        let expected = expected(&self.place(schemas, None), &inside);
                        return Some((inside, format!("is missing; expected {expected}")));
                    }
                }
                table.iter().find_map(|(key, value)| {
                    let known = place.properties.iter().find(|(known, _)| known == key);
                    let schemas = known.map_or(&place.additional, |(_, schemas)| schemas);
                    let inside = join(path, key);
                    (!schemas.is_empty()).then(|| self.misfit_in(value, schemas, &inside))?
                })
            }
            Value::Array(array) if !place.items.is_empty() => array
                .iter()
                .enumerate()
                .find_map(|(index, element)| self.misfit_in(element, &place.items, &format!("{path}[{index}]"))),
            _ => None,
        }
    }
}

/// Whether a value is of a type, and within the limits, that a place allows. What is inside it is not looked at.
fn takes(place: &Place<'_>, value: &Value) -> bool {
    let names: &[&str] = match value {
        Value::String(_) => &["string"],
        Value::Integer(_) => &["integer", "number"],
        Value::Float(_) => &["number"],
        Value::Boolean(_) => &["boolean"],
        Value::Array(_) => &["array"],
        Value::Table(_) => &["object"],
        Value::Datetime(_) => &[],
    };
    if !place.types.is_empty() && !names.iter().any(|name| place.types.contains(name)) {
        return false;
    }
    if let Value::Integer(number) = value
        && place.least.is_some_and(|least| (*number as f64) < least)
    {
        return false;
    }
    match value {
        Value::String(text) if !place.constants.is_empty() => {
            place.constants.iter().any(|constant| constant.as_str() == Some(text))
        }
        _ => true,
    }
}

/// A value as a person would read it out; what is long by its kind.
fn shown(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        scalar => scalar.to_string(),
    }
}

/// What a place takes, with an example.
fn expected(place: &Place<'_>, key: &str) -> String {
    let constants: Vec<String> = place
        .constants
        .iter()
        .filter(|constant| !constant.is_null())
        .map(ToString::to_string)
        .collect();
    if !constants.is_empty() {
        return match constants.as_slice() {
            [only] => only.clone(),
            several => format!("one of {}", several.join(", ")),
        };
    }
    let whole = match place.least {
        Some(least) => format!("a whole number of at least {least}"),
        None => "a whole number".to_owned(),
    };
    let kinds: Vec<&str> = [
        ("string", "text in quotes"),
        ("integer", whole.as_str()),
        ("number", "a number"),
        ("boolean", "true or false"),
        ("array", "a list"),
        ("object", "a table"),
    ]
    .into_iter()
    .filter(|(name, _)| place.types.contains(name))
    .map(|(_, kind)| kind)
    .collect();
    let mut text = if kinds.is_empty() {
        "another value".to_owned()
    } else {
        kinds.join(" or ")
    };
    let is_section = place.types.contains("object") && !place.types.contains("string");
    match place.example() {
        _ if is_section && !key.contains('[') && !key.is_empty() => text.push_str(&format!(", as in [{key}]")),
        Some(example) => {
            let name = key.rsplit('.').next().unwrap_or(key);
            // An element of a list has no name of its own.
            match name.contains('[') {
                true => text.push_str(&format!(", as in {example}")),
                false => text.push_str(&format!(", as in {name} = {example}")),
            }
        }
        None => {}
    }
    text
}
