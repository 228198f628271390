//! The fields of a request. Each is read by its name with what it may be; one that nobody reads is an error with the nearest
//! name, so that a misspelt parameter is not passed over.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::openai::ApiError;
use crate::shown::shown;

/// Characters of a wrong value that a message shows.
const SHOWN: usize = 80;

/// A request's fields that were not read yet.
pub(crate) struct Fields {
    left: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(left)) => Ok(Self {
                left,
                known: Vec::new(),
            }),
            Ok(other) => Err(ApiError::bad(
                "body",
                format!("the body is {}; expected a JSON object", shown(&other, SHOWN)),
            )),
            Err(error) => Err(ApiError::bad("body", format!("the body is not JSON: {error}"))),
        }
    }

    /// Fields of an object within the request.
    pub fn of(object: Map<String, Value>) -> Self {
        Self {
            left: object,
            known: Vec::new(),
        }
    }

    /// A field as it is; null is as absent.
    pub fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        // Order matters to messages alone, but `remove` would change it
        self.left.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Text.
    pub fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, &other, "text")),
        }
    }

    /// True or false; absent is false.
    pub fn flag(&mut self, name: &'static str) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(wrong(name, &other, "true or false")),
        }
    }

    /// A whole number in a range.
    pub fn whole(&mut self, name: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let whole = value.as_u64().filter(|number| range.contains(number));
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        whole.map(Some).ok_or_else(|| wrong(name, &value, expected()))
    }

    /// A number in a range.
    pub fn number(&mut self, name: &'static str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().filter(|number| range.contains(number));
        let expected = || format!("a number from {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| wrong(name, &value, expected()))
    }

    /// Fields that say something about the request which changes no answer.
    pub fn pass_over(&mut self, names: &[&'static str]) {
        for name in names {
            self.take(name);
        }
    }

    /// A field that hone has one value of; another is refused, since passing it over would be another answer than asked.
    pub fn only(&mut self, name: &'static str, holds: impl Fn(&Value) -> bool, what: &str) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !holds(&value) => Err(ApiError::unsupported(name, what)),
            _ => Ok(()),
        }
    }

    /// What was not read.
    pub fn rest(self) -> Map<String, Value> {
        self.left
    }

    /// Refuses what was not read.
    pub fn finish(self) -> Result<(), ApiError> {
        let Some(name) = self.left.keys().next() else {
            return Ok(());
        };
        let shown: String = name.chars().take(SHOWN).collect();
        let near = self
            .known
            .iter()
            .map(|known| (strsim::osa_distance(known, &shown), *known));
        let hint = match near.min().filter(|(distance, _)| *distance <= 3) {
            Some((_, known)) => format!("; did you mean `{known}`?"),
            None => String::new(),
        };
        let message = format!("`{shown}` is no parameter of this route{hint}");
        Err(ApiError {
            code: Some("unknown_parameter"),
            ..ApiError::bad(shown, message)
        })
    }
}

/// A value that is none of what is expected.
pub(crate) fn wrong(name: impl Display, value: &Value, expected: impl Display) -> ApiError {
    let message = format!("`{name}` is {}; expected {expected}", shown(value, SHOWN));
    ApiError::bad(name.to_string(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: &str) -> Fields {
        Fields::parse(body.as_bytes()).expect("an object")
    }

    #[test]
    fn fields_are_read_by_name_and_kind() {
        let mut read = fields(r#"{"a": "x", "b": true, "c": 3, "d": 0.5, "e": null, "f": [1]}"#);
        assert_eq!(read.text("a").unwrap(), Some("x".into()));
        assert!(read.flag("b").unwrap() && !read.flag("absent").unwrap());
        assert_eq!(read.whole("c", 1..=3).unwrap(), Some(3));
        assert_eq!(read.number("d", 0.0..=1.0).unwrap(), Some(0.5));
        assert_eq!(read.take("e"), None);
        read.pass_over(&["f"]);
        read.finish().unwrap();
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = fields(r#"{"n": 65}"#).whole("n", 1..=64).unwrap_err();
        assert_eq!(error.message, "`n` is 65; expected a whole number from 1 to 64");
        assert_eq!(error.param.as_deref(), Some("n"));
        let long = format!(r#"{{"t": "{}"}}"#, "x".repeat(300));
        assert!(fields(&long).flag("t").unwrap_err().message.len() < 150);
        assert!(fields(r#"{"x": 1.5}"#).whole("x", 0..=9).is_err());
        assert!(fields(r#"{"x": -1}"#).whole("x", 0..=9).is_err());
        assert!(fields(r#"{"x": "1"}"#).number("x", 0.0..=9.0).is_err());
        let mut misspelt = fields(r#"{"temprature": 1}"#);
        misspelt.number("temperature", 0.0..=2.0).unwrap();
        let error = misspelt.finish().unwrap_err();
        assert_eq!(
            error.message,
            "`temprature` is no parameter of this route; did you mean `temperature`?"
        );
        assert_eq!(error.status.as_u16(), 400);
        for body in ["", "{", "[]", "3", "nul"] {
            assert!(Fields::parse(body.as_bytes()).is_err(), "{body}");
        }
        let tools = fields(r#"{"tools": [1]}"#).only("tools", |v| v == &Value::Array(Vec::new()), "no");
        assert_eq!(tools.unwrap_err().code, Some("unsupported_parameter"));
    }
}
