//! The defaults of a configuration: beneath a file's keys, and inside its schema.

use serde::Serialize;
use toml::{Table, Value};

use crate::error::{Error, Result};

/// A configuration as a table.
pub(super) fn table<T: Serialize>(config: &T) -> Result<Table> {
    let text = toml::to_string(config).map_err(|error| Error::Unwritable(error.to_string()))?;
    toml::from_str(&text).map_err(|error| Error::Unwritable(error.to_string()))
}

/// `given`, and beneath it what `defaults` has besides. Tables are joined key by key, anything else is taken whole.
pub(super) fn beneath(mut defaults: Table, given: Table) -> Table {
    for (key, value) in given {
        let joined = match (defaults.remove(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => Value::Table(beneath(below, above)),
            (_, value) => value,
        };
        defaults.insert(key, joined);
    }
    defaults
}

/// Writes the values of `table` into the schema as the defaults of its keys. `at` points to the table's own schema.
pub(super) fn inject(schema: &mut serde_json::Value, at: &str, table: &Table) {
    for (name, value) in table {
        let place = format!("{at}/properties/{name}");
        let Some(property) = schema.pointer_mut(&place).and_then(serde_json::Value::as_object_mut) else {
            continue;
        };
        let Value::Table(inner) = value else {
            if let Ok(value) = serde_json::to_value(value) {
                property.insert("default".to_owned(), value);
            }
            continue;
        };
        // The default of a section is that of its keys.
        property.remove("default");
        let reference = property.get("$ref").and_then(serde_json::Value::as_str);
        let target = match reference.and_then(|reference| reference.strip_prefix('#')) {
            Some(target) => target.to_owned(),
            None => place,
        };
        inject(schema, &target, inner);
    }
}
