//! The valid keys of a configuration, taken from its JSON Schema.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Configuration;
use crate::error::UnknownKey;

/// Types may contain themselves; keys are looked for this deep.
const MAX_DEPTH: usize = 12;

/// A step of a dotted key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Name(String),
    Index(usize),
}

/// `a.b[0].c` in its steps; nothing when a part is empty or an index no number.
pub(super) fn split(key: &str) -> Option<Vec<Segment>> {
    let mut segments = Vec::new();
    for part in key.split('.') {
        let (name, mut indices) = part.split_at(part.find('[').unwrap_or(part.len()));
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        segments.push(Segment::Name(name.to_owned()));
        while !indices.is_empty() {
            let (index, rest) = indices.strip_prefix('[')?.split_once(']')?;
            segments.push(Segment::Index(index.parse().ok()?));
            indices = rest;
        }
    }
    Some(segments)
}

/// `table` and `key` as one dotted key.
pub(super) fn join(table: &str, key: &str) -> String {
    if table.is_empty() {
        key.to_owned()
    } else {
        format!("{table}.{key}")
    }
}

/// The schema of a configuration type.
pub(super) struct Schema {
    root: Value,
}

/// What may stand in one place: the union of the alternatives the schema allows there.
#[derive(Default)]
pub(super) struct Place<'a> {
    /// Keys of a table, in the type's order, each with the schemas of its value.
    pub(super) properties: Vec<(&'a str, Vec<&'a Value>)>,
    /// Keys that must be given.
    pub(super) required: BTreeSet<&'a str>,
    /// Schemas of the values under keys of any name.
    pub(super) additional: Vec<&'a Value>,
    /// Schemas of a list's elements.
    pub(super) items: Vec<&'a Value>,
    /// `string`, `integer`, `number`, `boolean`, `array`, `object`, `null`.
    pub(super) types: BTreeSet<&'a str>,
    /// Texts and numbers a value is limited to.
    pub(super) constants: Vec<&'a Value>,
    /// The smallest number that is allowed.
    pub(super) least: Option<f64>,
    /// Values to show: given as such, then defaults.
    examples: Vec<&'a Value>,
    defaults: Vec<&'a Value>,
    /// A table may hold anything.
    open: bool,
}

impl Place<'_> {
    /// A value that may stand here, as TOML. One that was given as an example comes before the default.
    pub(super) fn example(&self) -> Option<String> {
        let says_something = |value: &&&Value| match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(array) => !array.is_empty(),
            _ => true,
        };
        let value = self.examples.iter().chain(&self.defaults).find(says_something)?;
        Some(toml::Value::try_from(value).ok()?.to_string())
    }

    /// A table that was given as an example of what may stand here.
    pub(super) fn example_table(&self) -> Option<toml::Table> {
        let tables = self.examples.iter().filter(|value| value.is_object());
        let mut read = tables.filter_map(|value| toml::Table::try_from(value).ok());
        read.next()
    }
}

impl Schema {
    pub(super) fn of<T: Configuration>() -> Self {
        Self {
            root: super::schema::<T>(),
        }
    }

    pub(super) fn root(&self) -> &Value {
        &self.root
    }

    /// The union of `schemas`. Alternatives whose tag (`kind = "a"`) differs from the value's are left out.
    pub(super) fn place<'a>(&'a self, schemas: &[&'a Value], value: Option<&toml::Value>) -> Place<'a> {
        let mut place = Place::default();
        for schema in schemas {
            self.add(schema, value, MAX_DEPTH, &mut place);
        }
        place
    }

    fn add<'a>(&'a self, schema: &'a Value, value: Option<&toml::Value>, depth: usize, place: &mut Place<'a>) {
        let Some(object) = schema.as_object() else {
            place.open |= schema == &Value::Bool(true);
            return;
        };
        if depth == 0 {
            place.open = true;
            return;
        }
        if object
            .keys()
            .all(|key| ["description", "title", "default", "examples"].contains(&key.as_str()))
        {
            place.open = true;
        }
        if let Some(target) = self.target(object) {
            self.add(target, value, depth - 1, place);
        }
        match object.get("type") {
            Some(Value::String(name)) => {
                place.types.insert(name);
            }
            Some(Value::Array(names)) => place.types.extend(names.iter().filter_map(Value::as_str)),
            _ => {}
        }
        if let Some(constant) = object.get("const") {
            place.constants.push(constant);
        }
        if let Some(least) = object.get("minimum").and_then(Value::as_f64) {
            place.least = Some(place.least.map_or(least, |other| other.min(least)));
        }
        let examples = object.get("examples").and_then(Value::as_array);
        place.examples.extend(examples.into_iter().flatten());
        place.defaults.extend(object.get("default"));
        place
            .constants
            .extend(object.get("enum").and_then(Value::as_array).into_iter().flatten());
        for (name, schema) in object
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            match place.properties.iter_mut().find(|(known, _)| known == name) {
                Some((_, schemas)) => schemas.push(schema),
                None => place.properties.push((name, vec![schema])),
            }
        }
        let required = object.get("required").and_then(Value::as_array);
        place
            .required
            .extend(required.into_iter().flatten().filter_map(Value::as_str));
        match object.get("additionalProperties") {
            Some(Value::Bool(open)) => place.open |= open,
            Some(schema) => place.additional.push(schema),
            None => {
                let shapeless = ["properties", "oneOf", "anyOf", "allOf", "$ref"]
                    .iter()
                    .all(|key| !object.contains_key(*key));
                place.open |= shapeless && object.get("type") == Some(&Value::String("object".to_owned()));
            }
        }
        if let Some(schema @ (Value::Object(_) | Value::Bool(true))) = object.get("items") {
            place.items.push(schema);
        }
        place.items.extend(
            object
                .get("prefixItems")
                .and_then(Value::as_array)
                .into_iter()
                .flatten(),
        );
        for all in object.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.add(all, value, depth - 1, place);
        }
        for combination in ["anyOf", "oneOf"] {
            let alternatives = object
                .get(combination)
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice);
            let fits = |schema: &&Value| value.is_none_or(|value| self.tag_fits(schema, value));
            let any_fits = alternatives.iter().any(|schema| fits(&schema));
            for schema in alternatives.iter().filter(|schema| !any_fits || fits(schema)) {
                self.add(schema, value, depth - 1, place);
            }
        }
    }

    fn target(&self, object: &Map<String, Value>) -> Option<&Value> {
        let reference = object.get("$ref")?.as_str()?;
        self.root.pointer(reference.strip_prefix('#')?)
    }

    /// False when the schema fixes a key to one text and the value has another there.
    fn tag_fits(&self, schema: &Value, value: &toml::Value) -> bool {
        let Some(object) = schema.as_object() else {
            return true;
        };
        if let Some(target) = self.target(object)
            && !self.tag_fits(target, value)
        {
            return false;
        }
        let properties = object.get("properties").and_then(Value::as_object);
        properties.into_iter().flatten().all(|(name, schema)| {
            match (
                schema.get("const").and_then(Value::as_str),
                value.get(name).and_then(toml::Value::as_str),
            ) {
                (Some(expected), Some(got)) => expected == got,
                _ => true,
            }
        })
    }

    /// Whether the value at a key can be nothing but text.
    pub(super) fn holds_only_text(&self, segments: &[Segment]) -> bool {
        let mut schemas = vec![&self.root];
        for segment in segments {
            let place = self.place(&schemas, None);
            schemas = match segment {
                Segment::Index(_) => place.items,
                Segment::Name(name) => match place.properties.into_iter().find(|(known, _)| known == name) {
                    Some((_, schemas)) => schemas,
                    None => place.additional,
                },
            };
        }
        let types = self.place(&schemas, None).types;
        types.contains("string") && types.iter().all(|name| *name == "string" || *name == "null")
    }

    /// Whether a key is one that the schema knows.
    pub(super) fn knows(&self, segments: &[Segment]) -> bool {
        let mut schemas = vec![&self.root];
        for segment in segments {
            let place = self.place(&schemas, None);
            schemas = match segment {
                Segment::Index(_) => place.items,
                Segment::Name(name) => match place.properties.into_iter().find(|(known, _)| known == name) {
                    Some((_, schemas)) => schemas,
                    None => place.additional,
                },
            };
            if schemas.is_empty() {
                return false;
            }
        }
        true
    }

    /// The keys of `value` that the schema does not know. Their origins are left empty.
    pub(super) fn unknown_keys(&self, value: &toml::Value) -> Vec<UnknownKey> {
        let mut unknown = Vec::new();
        self.check(value, &[&self.root], "", &mut unknown);
        unknown
    }

    fn check(&self, value: &toml::Value, schemas: &[&Value], path: &str, unknown: &mut Vec<UnknownKey>) {
        let place = self.place(schemas, Some(value));
        match value {
            toml::Value::Table(table) => {
                // Where no table is expected at all, deserialising says so better.
                let is_table = place.types.contains("object") || !place.properties.is_empty();
                for (key, value) in table {
                    let inside = join(path, key);
                    if let Some((_, schemas)) = place.properties.iter().find(|(known, _)| known == key) {
                        self.check(value, schemas, &inside, unknown);
                    } else if !place.additional.is_empty() {
                        self.check(value, &place.additional, &inside, unknown);
                    } else if is_table && !place.open {
                        unknown.push(self.describe(inside, key, path, &place));
                    }
                }
            }
            toml::Value::Array(array) if !place.items.is_empty() => {
                for (index, element) in array.iter().enumerate() {
                    self.check(element, &place.items, &format!("{path}[{index}]"), unknown);
                }
            }
            _ => {}
        }
    }

    fn describe(&self, key: String, name: &str, table: &str, place: &Place<'_>) -> UnknownKey {
        let valid: Vec<String> = place.properties.iter().map(|(name, _)| (*name).to_owned()).collect();
        let beside = valid.iter().map(|candidate| (distance(name, candidate), candidate));
        let beside = beside
            .min_by_key(|(distance, _)| *distance)
            .filter(|(distance, candidate)| {
                *distance <= 1.max(name.len().max(candidate.len()) / 3) && *distance < name.len()
            });
        let nearest = match beside {
            Some((0 | 1, candidate)) => Some(join(table, candidate)),
            _ => {
                let mut elsewhere = Vec::new();
                self.all_keys(&[&self.root], "", 0, &mut elsewhere);
                let same_name = elsewhere
                    .into_iter()
                    .find(|full| full.rsplit('.').next() == Some(name) && *full != key);
                same_name.or_else(|| beside.map(|(_, candidate)| join(table, candidate)))
            }
        };
        UnknownKey {
            key,
            origin: String::new(),
            nearest,
            valid,
            reason: None,
        }
    }

    /// Every dotted key, elements of lists as `key[0]`.
    fn all_keys(&self, schemas: &[&Value], path: &str, depth: usize, keys: &mut Vec<String>) {
        const MAX_KEYS: usize = 10_000;
        if depth > 6 || keys.len() > MAX_KEYS {
            return;
        }
        let place = self.place(schemas, None);
        for (name, schemas) in &place.properties {
            let inside = join(path, name);
            keys.push(inside.clone());
            self.all_keys(schemas, &inside, depth + 1, keys);
        }
        if !place.items.is_empty() {
            self.all_keys(&place.items, &format!("{path}[0]"), depth + 1, keys);
        }
    }
}

/// Edits between two names; `-`, `_` and case do not count.
fn distance(a: &str, b: &str) -> usize {
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    strsim::damerau_levenshtein(&plain(a), &plain(b))
}
