//! JSON lines, and a JSON array of objects read element by element.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::{Meter, Row, Rows};
use crate::error::DataError;

fn parse(line: u64, bytes: &[u8]) -> Row {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            return Row::bad(line, format!("not UTF-8 at byte {} of the row", e.valid_up_to()));
        }
    };
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(fields)) => Row::good(line, fields),
        Ok(other) => Row::bad(line, format!("expected a JSON object, got {}", describe(&other))),
        // the position inside the row; the line is known already
        Err(e) => Row::bad(line, format!("not JSON: {e}")),
    }
}

/// What a value is, with an article.
pub(crate) fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// One object a line; blank lines are passed over.
pub(super) fn lines(mut meter: Meter) -> Rows {
    let mut buffer = Vec::new();
    Rows::new(std::iter::from_fn(move || {
        loop {
            match meter.read_line(&mut buffer) {
                Err(error) => return Some(Err(error)),
                Ok(None) => return None,
                Ok(Some(_)) if buffer.trim_ascii().is_empty() => {}
                Ok(Some(line)) => return Some(Ok(parse(line, buffer.trim_ascii()))),
            }
        }
    }))
}

/// The elements of one array.
pub(super) fn array(meter: Meter) -> Rows {
    let mut array = Array {
        meter,
        element: Vec::new(),
        state: State::Before,
    };
    Rows::new(std::iter::from_fn(move || array.next().transpose()))
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Before,
    First,
    AfterElement,
    AfterComma,
    Done,
}

struct Array {
    meter: Meter,
    element: Vec<u8>,
    state: State,
}

impl Array {
    fn next(&mut self) -> Result<Option<Row>, DataError> {
        loop {
            let counters = self.meter.counters();
            counters.begin_row();
            let Some(byte) = self.peek_past_space()? else {
                return match self.state {
                    State::Done => Ok(None),
                    _ => Err(self.broken("the array is cut short: its `]` is missing".into())),
                };
            };
            match (self.state, byte) {
                (State::Before, b'[') => self.step(State::First),
                (State::First | State::AfterElement, b']') => self.step(State::Done),
                (State::AfterElement, b',') => self.step(State::AfterComma),
                (State::First | State::AfterComma, _) => {
                    let line = counters.line();
                    self.read_element(line)?;
                    self.state = State::AfterElement;
                    return Ok(Some(parse(line, &self.element)));
                }
                (_, other) => {
                    let expected = match self.state {
                        State::Done => "the end of the file",
                        State::AfterElement => "`,` or `]`",
                        _ => "`[`",
                    };
                    let got = other.escape_ascii();
                    return Err(self.broken(format!("expected {expected}, got `{got}`")));
                }
            }
        }
    }

    fn step(&mut self, state: State) {
        self.meter.consume(1);
        self.state = state;
    }

    fn broken(&self, detail: String) -> DataError {
        DataError::Corrupt {
            path: self.meter.place().path.clone(),
            line: self.meter.counters().line(),
            what: "JSON array",
            detail,
        }
    }

    fn peek_past_space(&mut self) -> Result<Option<u8>, DataError> {
        loop {
            let line = self.meter.counters().line();
            let available = match self.meter.fill_buf() {
                Ok(available) => available,
                Err(error) => return Err(self.meter.explain(error, line)),
            };
            if available.is_empty() {
                return Ok(None);
            }
            match available.iter().position(|b| !b.is_ascii_whitespace()) {
                Some(i) => {
                    let byte = available[i];
                    self.meter.consume(i);
                    return Ok(Some(byte));
                }
                None => {
                    let n = available.len();
                    self.meter.consume(n);
                }
            }
        }
    }

    /// The bytes up to the `,` or `]` that ends the element, which stays unread.
    fn read_element(&mut self, line: u64) -> Result<(), DataError> {
        self.element.clear();
        let (mut depth, mut in_string, mut escaped) = (0_u64, false, false);
        loop {
            let available = match self.meter.fill_buf() {
                Ok(available) => available,
                Err(error) => return Err(self.meter.explain(error, line)),
            };
            if available.is_empty() {
                let what = match depth == 0 && !in_string {
                    true => "its `]` is missing".to_string(),
                    false => format!("the row of line {line} does not end"),
                };
                return Err(self.broken(format!("the array is cut short: {what}")));
            }
            let mut end = None;
            for (i, &byte) in available.iter().enumerate() {
                if in_string {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => in_string = false,
                        _ => {}
                    }
                    continue;
                }
                match byte {
                    b'"' => in_string = true,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' if depth > 0 => depth -= 1,
                    b',' | b']' if depth == 0 => {
                        end = Some(i);
                        break;
                    }
                    _ => {}
                }
            }
            let taken = end.unwrap_or(available.len());
            self.element.extend_from_slice(&available[..taken]);
            self.meter.consume(taken);
            if end.is_some() {
                return Ok(());
            }
        }
    }
}

/// Strings of a table whose cells are text only.
pub(super) fn text_fields(names: &[String], cells: Vec<String>) -> Map<String, Value> {
    names
        .iter()
        .cloned()
        .zip(cells.into_iter().map(Value::String))
        .collect()
}
