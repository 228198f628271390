//! Whether two configurations are the same, and in which keys they differ.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::keys::join;

/// BLAKE3 of the table with its keys sorted at every level.
#[must_use]
pub fn digest(table: &Table) -> String {
    let mut text = String::new();
    canonical(&Value::Table(table.clone()), &mut text);
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// One unambiguous text a value: inline TOML with sorted keys.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Table(table) => {
            let mut keys: Vec<&String> = table.keys().collect();
            keys.sort();
            out.push('{');
            for key in keys {
                out.push_str(&Value::String(key.clone()).to_string());
                out.push('=');
                canonical(&table[key], out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(array) => {
            out.push('[');
            for element in array {
                canonical(element, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// The table without these dotted keys (or the tables they name).
#[must_use]
pub fn without(table: &Table, keys: &[String]) -> Table {
    let mut left = table.clone();
    for key in keys {
        let parts: Vec<&str> = key.split('.').collect();
        remove(&mut left, &parts);
    }
    left
}

fn remove(table: &mut Table, parts: &[&str]) {
    match parts {
        [] => {}
        [last] => {
            table.remove(*last);
        }
        [first, rest @ ..] => {
            if let Some(Value::Table(inner)) = table.get_mut(*first) {
                remove(inner, rest);
                // A table that holds nothing else says nothing.
                if inner.is_empty() {
                    table.remove(*first);
                }
            }
        }
    }
}

/// The dotted keys whose values differ, or that only one side has, sorted. Lists of one length are compared element
/// by element.
#[must_use]
pub fn changed_keys(before: &Table, after: &Table) -> Vec<String> {
    let mut changed = Vec::new();
    compare_tables(before, after, "", &mut changed);
    changed.sort();
    changed
}

fn compare_tables(before: &Table, after: &Table, path: &str, changed: &mut Vec<String>) {
    for (key, value) in before {
        let inside = join(path, key);
        match after.get(key) {
            Some(other) => compare(value, other, inside, changed),
            None => one_sided(value, inside, changed),
        }
    }
    for (key, value) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
        one_sided(value, join(path, key), changed);
    }
}

fn compare(before: &Value, after: &Value, path: String, changed: &mut Vec<String>) {
    match (before, after) {
        (Value::Table(before), Value::Table(after)) => compare_tables(before, after, &path, changed),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() && a.iter().chain(b).all(Value::is_table) => {
            for (index, (before, after)) in a.iter().zip(b).enumerate() {
                compare(before, after, format!("{path}[{index}]"), changed);
            }
        }
        (Value::Float(a), Value::Float(b)) if a.to_bits() == b.to_bits() => {}
        (a, b) if a == b => {}
        _ => changed.push(path),
    }
}

fn one_sided(value: &Value, path: String, changed: &mut Vec<String>) {
    match value {
        Value::Table(table) if !table.is_empty() => {
            for (key, value) in table {
                one_sided(value, join(&path, key), changed);
            }
        }
        _ => changed.push(path),
    }
}

/// Every value by its dotted key, as TOML. Elements of lists of tables have their index, other lists are one value.
#[must_use]
pub fn flat(table: &Table) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for (key, value) in table {
        flatten(value, key.clone(), &mut values);
    }
    values
}

fn flatten(value: &Value, path: String, values: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) if !table.is_empty() => {
            for (key, value) in table {
                flatten(value, join(&path, key), values);
            }
        }
        Value::Array(array) if !array.is_empty() && array.iter().all(Value::is_table) => {
            for (index, value) in array.iter().enumerate() {
                flatten(value, format!("{path}[{index}]"), values);
            }
        }
        scalar => {
            values.insert(path, scalar.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_dotted_keys() {
        let text = "seed = 1\n[data]\nempty = []\nlist = [1, 2]\n[[data.train]]\npath = \"a\"\n[[data.train]]\npath = \"b\"\n[none]\n";
        let found = flat(&toml::from_str(text).unwrap());
        let pairs: Vec<(&str, &str)> = found
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let expected = [
            ("data.empty", "[]"),
            ("data.list", "[1, 2]"),
            ("data.train[0].path", "\"a\""),
            ("data.train[1].path", "\"b\""),
            ("none", "{}"),
            ("seed", "1"),
        ];
        assert_eq!(pairs, expected);
    }
}
