//! JSON Schema, the part of it that describes one value without references.
//!
//! Source: JSON Schema, draft 2020-12 (core and validation vocabularies). Understood: `type`, `enum`, `const`, `properties`, `required`,
//! `additionalProperties`, `minProperties`, `maxProperties`, `items`, `prefixItems`, `minItems`, `maxItems`, `uniqueItems`, `minLength`,
//! `maxLength`, `pattern`, `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`, `multipleOf` of whole numbers, `anyOf`, `oneOf`, `allOf`, `not`.
//! Annotations (`title`, `description` and the like) say nothing about validity. Any other keyword is refused by name, because a rule that
//! is passed over would reward what it forbids.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, Number, Value};

use super::{Verdict, Verifier};
use crate::sample::shortened;
use crate::{BadSetting, Problem, Sample};

/// Keywords that describe and do not judge.
const ANNOTATIONS: &[&str] = &[
    "$schema",
    "$id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
];

const TYPES: &[&str] = &["null", "boolean", "object", "array", "number", "integer", "string"];

/// Schemas inside schemas, at most.
const DEEPEST: usize = 64;

/// The response is one JSON value and nothing else, and the value fits the schema.
#[derive(Clone, Debug)]
pub struct JsonSchemaRule(Node);

/// A schema that was understood: all of these must hold.
#[derive(Clone, Debug)]
struct Node(Vec<Rule>);

#[derive(Clone, Debug)]
enum Rule {
    Never,
    Types(Vec<String>),
    Enum(Vec<Value>),
    Object(Object),
    Array(Array),
    /// What is counted of which kind of value, and the bounds.
    Count(Counted, u64, u64),
    Unique,
    Pattern(Regex),
    /// A bound, whether it is the upper one, and whether it is excluded.
    Bound(Number, bool, bool),
    MultipleOf(u64),
    Any(Vec<Node>),
    One(Vec<Node>),
    All(Vec<Node>),
    Not(Box<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Keys,
    Items,
    Characters,
}

#[derive(Clone, Debug, Default)]
struct Object {
    properties: Vec<(String, Node)>,
    required: Vec<String>,
    others: Option<Node>,
}

#[derive(Clone, Debug, Default)]
struct Array {
    first: Vec<Node>,
    rest: Option<Node>,
}

impl JsonSchemaRule {
    /// Understands a schema: an object, `true`, `false`, or a text that holds one of these as JSON.
    ///
    /// # Errors
    /// A keyword that is not understood, or a value that its keyword cannot have, named by its place.
    pub fn new(schema: &Value) -> Result<Self, BadSetting> {
        if let Value::String(text) = schema {
            let schema: Value = serde_json::from_str(text)
                .map_err(|error| BadSetting::new("schema", text, format!("a JSON Schema ({error})")))?;
            return node(&schema, "", 0).map(Self);
        }
        node(schema, "", 0).map(Self)
    }

    /// Where a value does not fit, and why.
    fn misfit(&self, value: &Value) -> Option<String> {
        self.0.misfit(value, "")
    }
}

impl Verifier for JsonSchemaRule {
    fn verify(&self, sample: &Sample<'_>) -> Result<Verdict, Problem> {
        let value: Value = match serde_json::from_str(sample.response.trim()) {
            Ok(value) => value,
            Err(error) => return Ok(Verdict::fail(format!("not JSON: {error}"))),
        };
        Ok(match self.misfit(&value) {
            Some(misfit) => Verdict::fail(misfit),
            None => Verdict::pass_if(true, "fits the schema"),
        })
    }
}

fn refuse<T>(place: &str, got: &Value, expected: &str) -> Result<T, BadSetting> {
    let place = if place.is_empty() { "/" } else { place };
    Err(BadSetting::new("schema", got, format!("{expected} at {place}")))
}

fn node(schema: &Value, place: &str, depth: usize) -> Result<Node, BadSetting> {
    let schema = match schema {
        Value::Bool(true) => return Ok(Node(Vec::new())),
        Value::Bool(false) => return Ok(Node(vec![Rule::Never])),
        Value::Object(schema) if depth < DEEPEST => schema,
        other => return refuse(place, other, "an object of at most 64 levels, true or false"),
    };
    let mut rules = Vec::new();
    for (keyword, value) in schema {
        let at = format!("{place}/{keyword}");
        if let Some(rule) = rule(keyword, value, &at, depth)? {
            rules.push(rule);
        }
    }
    if ["properties", "required", "additionalProperties"]
        .iter()
        .any(|k| schema.contains_key(*k))
    {
        rules.push(Rule::Object(object(schema, place, depth)?));
    }
    check_bounds(schema, place)?;
    if ["items", "prefixItems"].iter().any(|k| schema.contains_key(*k)) {
        let first = match schema.get("prefixItems") {
            Some(value) => nodes(value, &format!("{place}/prefixItems"), depth)?,
            None => Vec::new(),
        };
        let rest = schema
            .get("items")
            .map(|s| node(s, &format!("{place}/items"), depth + 1));
        rules.push(Rule::Array(Array {
            first,
            rest: rest.transpose()?,
        }));
    }
    Ok(Node(rules))
}

/// Keywords of which the first may not be above the second.
const BOUNDS: [(&str, &str); 4] = [
    ("minimum", "maximum"),
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
];

/// Refuses bounds that are the wrong way round, wherever they stand: nothing lies between them.
fn check_bounds(schema: &Map<String, Value>, place: &str) -> Result<(), BadSetting> {
    for (lower, upper) in BOUNDS {
        if let (Some(least @ Value::Number(a)), Some(most @ Value::Number(b))) = (schema.get(lower), schema.get(upper))
            && compared(a, b) == Ordering::Greater
        {
            return refuse(
                &format!("{place}/{lower}"),
                least,
                &format!("at most `{upper}`, which is {most},"),
            );
        }
    }
    Ok(())
}

/// The rule of one keyword; nothing for those that stand together with others, and for annotations.
fn rule(keyword: &str, value: &Value, at: &str, depth: usize) -> Result<Option<Rule>, BadSetting> {
    let number = || match value {
        Value::Number(number) => Ok(number.clone()),
        other => refuse(at, other, "a number"),
    };
    let count = || {
        value
            .as_u64()
            .map_or_else(|| refuse(at, value, "a whole number from 0"), Ok)
    };
    let least = |counted| Ok::<_, BadSetting>(Rule::Count(counted, count()?, u64::MAX));
    let most = |counted| Ok::<_, BadSetting>(Rule::Count(counted, 0, count()?));
    Ok(Some(match keyword {
        "type" => {
            let names = match value {
                Value::String(name) => vec![name.clone()],
                _ => texts(value, at)?,
            };
            if names.is_empty() || !names.iter().all(|name| TYPES.contains(&&**name)) {
                return refuse(at, value, &format!("one or more of {}", TYPES.join(", ")));
            }
            Rule::Types(names)
        }
        "enum" => match value {
            Value::Array(values) => Rule::Enum(values.clone()),
            _ => return refuse(at, value, "an array"),
        },
        "const" => Rule::Enum(vec![value.clone()]),
        "minProperties" => least(Counted::Keys)?,
        "maxProperties" => most(Counted::Keys)?,
        "minItems" => least(Counted::Items)?,
        "maxItems" => most(Counted::Items)?,
        "minLength" => least(Counted::Characters)?,
        "maxLength" => most(Counted::Characters)?,
        "uniqueItems" => match value {
            Value::Bool(true) => Rule::Unique,
            Value::Bool(false) => return Ok(None),
            _ => return refuse(at, value, "true or false"),
        },
        "pattern" => match value.as_str().map(super::pattern::compiled) {
            Some(Ok(regex)) => Rule::Pattern(regex),
            Some(Err(bad)) => return refuse(at, value, &bad.expected),
            None => return refuse(at, value, "a regular expression"),
        },
        "minimum" => Rule::Bound(number()?, false, false),
        "exclusiveMinimum" => Rule::Bound(number()?, false, true),
        "maximum" => Rule::Bound(number()?, true, false),
        "exclusiveMaximum" => Rule::Bound(number()?, true, true),
        "multipleOf" => match value.as_u64() {
            // Of fractions, floating point would decide wrongly: 0.3 is no multiple of 0.1 there
            Some(whole) if whole > 0 => Rule::MultipleOf(whole),
            _ => return refuse(at, value, "a whole number from 1"),
        },
        "anyOf" => Rule::Any(nodes(value, at, depth)?),
        "oneOf" => Rule::One(nodes(value, at, depth)?),
        "allOf" => Rule::All(nodes(value, at, depth)?),
        "not" => Rule::Not(Box::new(node(value, at, depth + 1)?)),
        "properties" | "required" | "additionalProperties" | "items" | "prefixItems" => return Ok(None),
        annotation if ANNOTATIONS.contains(&annotation) => return Ok(None),
        unknown => {
            let expected =
                format!("another keyword than `{unknown}`, which is none of those that docs/rewards.md lists,");
            return refuse(at, value, &expected);
        }
    }))
}

fn nodes(value: &Value, at: &str, depth: usize) -> Result<Vec<Node>, BadSetting> {
    let Some(schemas) = value.as_array().filter(|schemas| !schemas.is_empty()) else {
        return refuse(at, value, "an array of schemas");
    };
    let one = |(i, schema): (usize, &Value)| node(schema, &format!("{at}/{i}"), depth + 1);
    schemas.iter().enumerate().map(one).collect()
}

fn texts(value: &Value, at: &str) -> Result<Vec<String>, BadSetting> {
    let texts = value
        .as_array()
        .map(|values| values.iter().map(|v| v.as_str().map(str::to_owned)).collect());
    texts
        .flatten()
        .map_or_else(|| refuse(at, value, "an array of texts"), Ok)
}

fn object(schema: &Map<String, Value>, place: &str, depth: usize) -> Result<Object, BadSetting> {
    let mut object = Object::default();
    match schema.get("properties") {
        Some(Value::Object(properties)) => {
            for (name, schema) in properties {
                let inside = node(schema, &format!("{place}/properties/{name}"), depth + 1)?;
                object.properties.push((name.clone(), inside));
            }
        }
        Some(other) => return refuse(&format!("{place}/properties"), other, "an object of schemas"),
        None => {}
    }
    if let Some(required) = schema.get("required") {
        object.required = texts(required, &format!("{place}/required"))?;
    }
    if let Some(others) = schema.get("additionalProperties") {
        object.others = Some(node(others, &format!("{place}/additionalProperties"), depth + 1)?);
    }
    if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
        let is_known = |name: &&String| object.properties.iter().any(|(known, _)| known == *name);
        if let Some(name) = object.required.iter().find(|name| !is_known(name)) {
            let expected = "one of `properties`, since additionalProperties is false,";
            return refuse(&format!("{place}/required"), &Value::from(name.as_str()), expected);
        }
    }
    Ok(object)
}

impl Node {
    fn misfit(&self, value: &Value, place: &str) -> Option<String> {
        self.0.iter().find_map(|rule| rule.misfit(value, place))
    }

    fn fits(&self, value: &Value) -> bool {
        self.misfit(value, "").is_none()
    }
}

impl Rule {
    fn misfit(&self, value: &Value, place: &str) -> Option<String> {
        let says = |expected: String| {
            let place = if place.is_empty() { "the value" } else { place };
            Some(format!(
                "{place} is {}, expected {expected}",
                shortened(&value.to_string())
            ))
        };
        let unless = |holds: bool, expected: &dyn Fn() -> String| if holds { None } else { says(expected()) };
        match self {
            Self::Never => says("nothing here".to_owned()),
            Self::Types(names) => unless(names.iter().any(|name| is_of(value, name)), &|| names.join(" or ")),
            Self::Enum(values) => unless(values.iter().any(|allowed| equal(allowed, value)), &|| {
                shortened(&values.iter().map(Value::to_string).collect::<Vec<_>>().join(" or "))
            }),
            Self::Object(object) => value.as_object().and_then(|map| object.misfit(map, place)),
            Self::Array(array) => value.as_array().and_then(|items| array.misfit(items, place)),
            Self::Count(counted, least, most) => {
                let (count, unit) = match (counted, value) {
                    (Counted::Keys, Value::Object(map)) => (map.len(), "keys"),
                    (Counted::Items, Value::Array(items)) => (items.len(), "items"),
                    (Counted::Characters, Value::String(text)) => (text.chars().count(), "characters"),
                    _ => return None,
                };
                unless((*least..=*most).contains(&(count as u64)), &|| match most {
                    &u64::MAX => format!("at least {least} {unit}"),
                    most => format!("at most {most} {unit}"),
                })
            }
            Self::Unique => {
                let items = value.as_array()?;
                let mut seen = BTreeSet::new();
                unless(items.iter().all(|item| seen.insert(canonical(item))), &|| {
                    "no item twice".to_owned()
                })
            }
            Self::Pattern(regex) => unless(regex.is_match(value.as_str()?), &|| format!("a match of {regex}")),
            Self::Bound(bound, upper, excluded) => {
                let Value::Number(number) = value else {
                    return None;
                };
                let wanted = if *upper { Ordering::Less } else { Ordering::Greater };
                let found = compared(number, bound);
                unless(found == wanted || (found == Ordering::Equal && !excluded), &|| {
                    let side = if *upper { "below" } else { "above" };
                    format!("{bound}{} {side}", if *excluded { " excluded, or" } else { " or" })
                })
            }
            Self::MultipleOf(step) => {
                let Value::Number(number) = value else {
                    return None;
                };
                // A number that is not whole is no multiple of one that is
                let multiple = whole(number).is_some_and(|number| number % i128::from(*step) == 0);
                unless(multiple, &|| format!("a multiple of {step}"))
            }
            Self::Any(nodes) => unless(nodes.iter().any(|node| node.fits(value)), &|| "one of anyOf".to_owned()),
            Self::One(nodes) => unless(nodes.iter().filter(|node| node.fits(value)).count() == 1, &|| {
                "exactly one of oneOf".to_owned()
            }),
            Self::All(nodes) => nodes.iter().find_map(|node| node.misfit(value, place)),
            Self::Not(node) => unless(!node.fits(value), &|| "something else".to_owned()),
        }
    }
}

impl Object {
    fn misfit(&self, map: &Map<String, Value>, place: &str) -> Option<String> {
        if let Some(absent) = self.required.iter().find(|name| !map.contains_key(*name)) {
            return Some(format!("{place}/{absent} is absent"));
        }
        map.iter().find_map(|(name, value)| {
            let known = self.properties.iter().find(|(known, _)| known == name);
            let node = known.map(|(_, node)| node).or(self.others.as_ref())?;
            node.misfit(value, &format!("{place}/{name}"))
        })
    }
}

impl Array {
    fn misfit(&self, items: &[Value], place: &str) -> Option<String> {
        items.iter().enumerate().find_map(|(i, value)| {
            let node = self.first.get(i).or(self.rest.as_ref())?;
            node.misfit(value, &format!("{place}/{i}"))
        })
    }
}

fn is_of(value: &Value, name: &str) -> bool {
    match value {
        Value::Null => name == "null",
        Value::Bool(_) => name == "boolean",
        Value::Object(_) => name == "object",
        Value::Array(_) => name == "array",
        Value::String(_) => name == "string",
        // 1.0 is an integer, says the standard
        Value::Number(n) => name == "number" || (name == "integer" && whole(n).is_some()),
    }
}

/// The value of a whole number, exactly; 1.0 is one. None of others, and beyond 128 bits.
fn whole(number: &Number) -> Option<i128> {
    if let Some(whole) = number.as_i64() {
        return Some(whole.into());
    }
    if let Some(whole) = number.as_u64() {
        return Some(whole.into());
    }
    let float = number.as_f64()?;
    (float % 1.0 == 0.0 && float.abs() < 1e38).then_some(float as i128)
}

/// The order of two numbers: whole ones exactly, others as floating point has them.
fn compared(a: &Number, b: &Number) -> Ordering {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
    }
}

/// Equality by value: 1 and 1.0 are equal, and the order of keys does not count.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => compared(x, y) == Ordering::Equal,
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| equal(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, x)| y.get(key).is_some_and(|y| equal(x, y)))
        }
        _ => a == b,
    }
}

/// A text that two values share exactly where [`equal`] says that they are equal.
fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => whole(number).map_or_else(|| number.to_string(), |whole| whole.to_string()),
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Object(map) => {
            let sorted: BTreeSet<(&String, String)> = map.iter().map(|(key, value)| (key, canonical(value))).collect();
            let pairs = sorted
                .into_iter()
                .map(|(key, value)| format!("{}:{value}", Value::from(key.as_str())));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verifier::judged;
    use serde_json::json;

    fn detail(schema: Value, response: &str) -> String {
        judged(&JsonSchemaRule::new(&schema).unwrap(), response).detail
    }

    const FITS: &str = "fits the schema";

    #[test]
    fn whole_numbers_are_exact_and_many_items_are_quick() {
        let big = json!({"const": 9_007_199_254_740_993_u64});
        assert_eq!(detail(big.clone(), "9007199254740993"), FITS);
        assert_ne!(detail(big, "9007199254740992"), FITS);
        let most = json!({"maximum": 9_007_199_254_740_992_u64, "multipleOf": 2});
        assert_eq!(detail(most.clone(), "9007199254740992"), FITS);
        assert_ne!(detail(most, "9007199254740993"), FITS);
        assert_ne!(detail(json!({"multipleOf": 2}), "9007199254740993"), FITS);
        assert_eq!(detail(json!({"multipleOf": 2}), "-4.0"), FITS);
        assert_ne!(detail(json!({"multipleOf": 2}), "2.5"), FITS);
        let unique = json!({"uniqueItems": true});
        assert_ne!(detail(unique.clone(), r#"[{"a":1,"b":[2]},{"b":[2.0],"a":1.0}]"#), FITS);
        assert_eq!(
            detail(unique.clone(), r#"[1, "1", [1], {"a":1}, true, null, 1.5]"#),
            FITS
        );
        // Compared pair by pair these would be 5e9 comparisons
        let many: Vec<String> = (0..100_000).map(|i| i.to_string()).collect();
        assert_eq!(detail(unique, &format!("[{}]", many.join(","))), FITS);
    }

    #[test]
    fn an_object_with_everything() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A town", "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 2, "pattern": "^[A-Z]"},
                "people": {"type": "integer", "minimum": 1, "exclusiveMaximum": 100},
                "rivers": {"type": "array", "items": {"type": "string"}, "maxItems": 2, "uniqueItems": true},
                "kind": {"enum": ["port", "market", 7]},
            },
            "required": ["name"], "additionalProperties": false,
        });
        let of = |response: &str| detail(schema.clone(), response);
        assert_eq!(
            of(" {\"name\": \"Ulm\", \"people\": 99.0, \"rivers\": [\"a\", \"b\"], \"kind\": 7.0}\n"),
            FITS
        );
        assert_eq!(of("{\"people\": 1}"), "/name is absent");
        assert_eq!(of("{\"name\": 1}"), "/name is 1, expected string");
        assert_eq!(
            of("{\"name\": \"é\"}"),
            "/name is \"é\", expected at least 2 characters"
        );
        assert_eq!(
            of("{\"name\": \"ulm\"}"),
            "/name is \"ulm\", expected a match of ^[A-Z]"
        );
        assert_eq!(
            of("{\"name\": \"Ulm\", \"people\": 1.5}"),
            "/people is 1.5, expected integer"
        );
        assert_eq!(
            of("{\"name\": \"Ulm\", \"people\": 0}"),
            "/people is 0, expected 1 or above"
        );
        assert_eq!(
            of("{\"name\": \"Ulm\", \"people\": 100}"),
            "/people is 100, expected 100 excluded, or below"
        );
        assert_eq!(
            of("{\"name\": \"Ulm\", \"rivers\": [\"a\", 1]}"),
            "/rivers/1 is 1, expected string"
        );
        assert_eq!(
            of("{\"name\": \"Ulm\", \"rivers\": [\"a\", \"a\"]}"),
            "/rivers is [\"a\",\"a\"], expected no item twice"
        );
        assert_eq!(
            of("{\"name\": \"Ulm\", \"kind\": \"x\"}"),
            "/kind is \"x\", expected \"port\" or \"market\" or 7"
        );
        assert_eq!(
            of("{\"name\": \"Ulm\", \"mayor\": 1}"),
            "/mayor is 1, expected nothing here"
        );
        assert_eq!(of("[]"), "the value is [], expected object");
        assert!(of("{\"name\": \"Ulm\"} and more").starts_with("not JSON"));
        assert!(of("").starts_with("not JSON"));
        // Deep nesting is an answer like any other, not a crash
        assert!(of(&"[".repeat(100_000)).starts_with("not JSON"));
    }

    /// What `required` names must be there, whatever else is; of what is no object it says nothing.
    #[test]
    fn required_names_must_be_there() {
        let schema = json!({"required": ["a", "b"]});
        let of = |response: &str| detail(schema.clone(), response);
        assert_eq!(of("{\"b\": null, \"c\": 1, \"a\": 0}"), FITS);
        assert_eq!(of("{\"b\": 1}"), "/a is absent");
        assert_eq!(of("{\"a\": 1, \"B\": 1}"), "/b is absent");
        assert_eq!(of("[\"a\", \"b\"]"), FITS);
        let deep =
            json!({"type": "object", "properties": {"x": {"type": "array", "items": schema}}, "required": ["x"]});
        assert_eq!(
            detail(deep.clone(), "{\"x\": [{\"a\": 1, \"b\": 2}, {\"b\": 2}]}"),
            "/x/1/a is absent"
        );
        assert_eq!(detail(deep, "{}"), "/x is absent");
        // Annotations, and `required` of nothing, judge nothing
        let free = json!({
            "title": "t", "description": "d", "$schema": "s", "$id": "i", "$comment": "c", "examples": [1], "default": {}, "deprecated": true,
            "readOnly": true, "writeOnly": false, "required": [],
        });
        assert_eq!(detail(free, "{}"), FITS);
    }

    #[test]
    fn combinations_and_the_rest() {
        let fits = |schema: Value, response: &str| detail(schema, response) == FITS;
        let whole_or_text = json!({"anyOf": [{"type": "integer"}, {"type": "string"}]});
        assert!(fits(whole_or_text.clone(), "1") && fits(whole_or_text.clone(), "\"1\""));
        assert!(!fits(whole_or_text, "null"));
        let one = json!({"oneOf": [{"minimum": 5}, {"maximum": 7}]});
        assert!(fits(one.clone(), "3") && fits(one.clone(), "9") && !fits(one, "6"));
        assert!(!fits(json!({"allOf": [{"minimum": 5}, {"maximum": 7}]}), "8"));
        assert!(fits(json!({"not": {"type": "null"}}), "0") && !fits(json!({"not": {"type": "null"}}), "null"));
        assert!(fits(json!({"multipleOf": 5}), "10") && !fits(json!({"multipleOf": 5}), "11"));
        let tuple = json!({"prefixItems": [{"type": "string"}], "items": {"type": "number"}});
        assert!(fits(tuple.clone(), "[\"a\", 1, 2]") && !fits(tuple.clone(), "[1]") && !fits(tuple, "[\"a\", \"b\"]"));
        assert!(fits(json!({"const": {"a": [1]}}), "{\"a\": [1.0]}") && !fits(json!({"const": 1}), "true"));
        assert!(
            fits(json!({"maxProperties": 1}), "{\"a\":1}") && !fits(json!({"maxProperties": 1}), "{\"a\":1,\"b\":2}")
        );
        assert!(
            fits(json!({"type": ["null", "boolean"]}), "false") && fits(json!(true), "1") && !fits(json!(false), "1")
        );
        let others = json!({"properties": {"a": true}, "additionalProperties": {"type": "number"}});
        assert!(fits(others.clone(), "{\"a\": \"x\", \"b\": 1}") && !fits(others, "{\"b\": \"x\"}"));
        // As text, too
        assert!(fits(json!("{\"type\": \"number\"}"), "1"));
    }

    #[test]
    fn a_schema_that_is_not_understood_is_refused_with_its_place() {
        let refused = |schema: Value| JsonSchemaRule::new(&schema).unwrap_err().to_string();
        assert_eq!(
            refused(json!({"properties": {"a": {"$ref": "#/b"}}})),
            "`schema` is \"#/b\"; expected another keyword than `$ref`, which is none of those that docs/rewards.md lists, at \
             /properties/a/$ref"
        );
        // Keywords that judge and are not understood, and slips of the pen: none is passed over, however deep it stands
        for keyword in [
            "format",
            "patternProperties",
            "if",
            "dependentRequired",
            "contains",
            "$defs",
            "requried",
        ] {
            let deep = json!({"properties": {"a": {"items": {"anyOf": [{"type": "null"}, {keyword: ["b"]}]}}}});
            let said = refused(deep);
            assert!(said.contains(&format!("another keyword than `{keyword}`")), "{said}");
            assert!(
                said.ends_with(&format!("at /properties/a/items/anyOf/1/{keyword}")),
                "{said}"
            );
        }
        // As older drafts have it
        assert!(
            refused(json!({"properties": {"a": {"required": true}}}))
                .ends_with("an array of texts at /properties/a/required")
        );
        assert!(refused(json!({"exclusiveMinimum": true, "minimum": 0})).ends_with("a number at /exclusiveMinimum"));
        // What no response could fit
        assert_eq!(
            refused(json!({"properties": {"a": true}, "required": ["a", "b"], "additionalProperties": false})),
            "`schema` is \"b\"; expected one of `properties`, since additionalProperties is false, at /required"
        );
        assert_eq!(
            refused(json!({"not": {"minLength": 3, "maxLength": 2}})),
            "`schema` is 3; expected at most `maxLength`, which is 2, at /not/minLength"
        );
        assert!(refused(json!({"minimum": 1.5, "maximum": 1})).ends_with("at /minimum"));
        assert!(JsonSchemaRule::new(&json!({"minItems": 2, "maxItems": 2, "minimum": 1, "maximum": 1.0})).is_ok());
        assert!(refused(json!({"type": "int"})).contains("expected one or more of null, boolean"));
        assert!(refused(json!({"items": 3})).ends_with("true or false at /items"));
        assert!(refused(json!({"pattern": "("})).contains("unclosed group"));
        assert!(refused(json!({"minLength": -1})).ends_with("a whole number from 0 at /minLength"));
        assert!(refused(json!({"anyOf": []})).ends_with("an array of schemas at /anyOf"));
        assert!(refused(json!({"multipleOf": 0.1})).ends_with("a whole number from 1 at /multipleOf"));
        assert!(refused(json!("{")).contains("a JSON Schema ("));
        let deep = (0..100).fold(json!({}), |inside, _| json!({"not": inside}));
        assert!(refused(deep).contains("at most 64 levels"));
    }
}
