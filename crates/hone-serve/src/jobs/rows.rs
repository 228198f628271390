//! The lines of an uploaded file: what they may be, and the rows that hone's stages read, made from them.
//!
//! A conversation is `{"messages": [...]}`, a preference `{"input": {"messages": [...]}, "preferred_output": [...],
//! "non_preferred_output": [...]}`. What hone would not train on as it is meant (tools, weights, names, images) is refused, not
//! passed over.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::shown::shown;

/// Bytes of a line.
const LINE_BYTES: u64 = 16 << 20;
/// Characters of a wrong value that a message shows.
const SHOWN: usize = 60;

/// What the lines of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shape {
    /// Conversations, with or without a reply at their end.
    Messages,
    /// Two replies to a conversation, of which one is preferred.
    Preferences,
}

impl Shape {
    /// A line of it.
    pub fn example(self) -> &'static str {
        match self {
            Self::Messages => {
                r#"{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}"#
            }
            Self::Preferences => {
                r#"{"input": {"messages": [{"role": "user", "content": "..."}]}, "preferred_output": [{"role": "assistant", "content": "..."}], "non_preferred_output": [{"role": "assistant", "content": "..."}]}"#
            }
        }
    }

    fn of(row: &Map<String, Value>) -> Option<Self> {
        if row.contains_key("messages") {
            Some(Self::Messages)
        } else if row.contains_key("preferred_output") || row.contains_key("input") {
            Some(Self::Preferences)
        } else {
            None
        }
    }
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    /// A line that is not as it should be.
    #[error("line {line}: {reason}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What was found and expected.
        reason: String,
    },
    /// No line with anything on it.
    #[error("the file has no rows; expected JSON lines such as {}", Shape::Messages.example())]
    Empty,
    /// A file that cannot be read.
    #[error("the file cannot be read: {0}")]
    Read(#[from] io::Error),
}

/// A message, as hone's stages read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Turn {
    pub role: &'static str,
    pub content: String,
}

/// Goes through the lines of a file and gives the number of those with something on them. A line's number counts all.
pub(crate) fn for_each_row(
    path: &Path,
    row: &mut dyn FnMut(u64, Map<String, Value>) -> Result<(), String>,
) -> Result<u64, RowError> {
    let mut reader = BufReader::new(File::open(path)?);
    let (mut rows, mut line) = (0, 0);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        line += 1;
        if reader.by_ref().take(LINE_BYTES + 1).read_until(b'\n', &mut bytes)? == 0 {
            return if rows == 0 { Err(RowError::Empty) } else { Ok(rows) };
        }
        let refuse = |reason: String| RowError::Line { line, reason };
        if bytes.len() as u64 > LINE_BYTES {
            return Err(refuse(format!("is longer than {LINE_BYTES} bytes")));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| refuse("is not UTF-8 text".to_owned()))?;
        let text = if line == 1 {
            text.trim_start_matches('\u{feff}')
        } else {
            text
        };
        if text.trim().is_empty() {
            continue;
        }
        let object = match serde_json::from_str(text) {
            Ok(Value::Object(object)) => object,
            Ok(other) => return Err(refuse(format!("is {}; expected a JSON object", shown(&other, SHOWN)))),
            Err(error) => {
                let reason = format!(
                    "is not JSON: {error}; expected one object a line, such as {}",
                    Shape::Messages.example()
                );
                return Err(refuse(reason));
            }
        };
        row(line, object).map_err(refuse)?;
        rows += 1;
    }
}

/// What an uploaded file holds: its shape and the number of its rows. All rows have the first one's shape.
pub(crate) fn inspect(path: &Path) -> Result<(Shape, u64), RowError> {
    let mut shape = None;
    let rows = for_each_row(path, &mut |_, row| {
        let Some(found) = Shape::of(&row) else {
            let keys: Vec<&str> = row.keys().map(String::as_str).take(8).collect();
            return Err(format!(
                "has the keys {keys:?}; expected a conversation, {}, or a preference, {}",
                Shape::Messages.example(),
                Shape::Preferences.example()
            ));
        };
        if *shape.get_or_insert(found) != found {
            return Err("is of another shape than the lines before; expected one shape a file".to_owned());
        }
        match found {
            Shape::Messages => messages(&row).map(|_| ()),
            Shape::Preferences => preference(row).map(|_| ()),
        }
    })?;
    // A file without rows is refused before
    Ok((shape.unwrap_or(Shape::Messages), rows))
}

/// The messages of a row.
fn messages(row: &Map<String, Value>) -> Result<Vec<Turn>, String> {
    no_tools(row)?;
    turns(row.get("messages"), "messages")
}

/// A row that is imitated.
pub(crate) fn demonstration(row: Map<String, Value>) -> Result<Value, String> {
    let turns = messages(&row)?;
    match &turns[..] {
        [.., before, last] if last.role == "assistant" && before.role != "assistant" => Ok(json!({"messages": turns})),
        [.., last] if last.role == "assistant" => {
            Err("`messages` has a reply to nothing; expected a user's message before it".into())
        }
        _ => Err("`messages` ends without a reply; the supervised method expects the assistant's message last".into()),
    }
}

/// A row of two replies.
pub(crate) fn preference(row: Map<String, Value>) -> Result<Value, String> {
    let Some(Value::Object(input)) = row.get("input") else {
        return Err(missing(row.get("input"), "input", "an object with `messages`"));
    };
    no_tools(input)?;
    let prompt = turns(input.get("messages"), "input.messages")?;
    if prompt.last().is_some_and(|last| last.role == "assistant") {
        return Err("`input.messages` ends with a reply; expected the user's message last".into());
    }
    let reply = |name: &str| {
        let turns = turns(row.get(name), name)?;
        match &turns[..] {
            [turn] if turn.role == "assistant" => Ok(turn.content.clone()),
            _ => Err(format!(
                "`{name}` has {} messages; expected one, of the assistant",
                turns.len()
            )),
        }
    };
    let (chosen, rejected) = (reply("preferred_output")?, reply("non_preferred_output")?);
    if chosen == rejected {
        return Err("`preferred_output` and `non_preferred_output` are equal; nothing can be learned from them".into());
    }
    Ok(json!({"prompt": prompt, "chosen": chosen, "rejected": rejected}))
}

/// A row that is practised on: its messages as `prompt`, and its other columns.
pub(crate) fn prompt(mut row: Map<String, Value>) -> Result<Map<String, Value>, String> {
    let turns = messages(&row)?;
    if turns.last().is_some_and(|last| last.role == "assistant") {
        return Err("`messages` ends with a reply; the reinforcement method expects the user's message last".into());
    }
    if row.contains_key("prompt") {
        return Err("has a column `prompt`, whose name is taken by what is made of `messages`; rename it".into());
    }
    let mut made = Map::new();
    made.insert("prompt".into(), json!(turns));
    row.shift_remove("messages");
    made.append(&mut row);
    Ok(made)
}

/// What two rows may not share when one is trained on and the other is held out: the conversation up to the first reply.
pub(crate) fn opening(row: &Value) -> String {
    let turns = row
        .get("messages")
        .or_else(|| row.get("prompt"))
        .and_then(Value::as_array);
    let before = turns
        .into_iter()
        .flatten()
        .take_while(|turn| turn["role"] != "assistant");
    before.map(Value::to_string).collect::<Vec<_>>().join("\u{1e}")
}

fn no_tools(row: &Map<String, Value>) -> Result<(), String> {
    for name in ["tools", "functions"] {
        let given = row.get(name).filter(|value| !value.is_null());
        if given.is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty())) {
            return Err(format!("has `{name}`; hone does not train on tools"));
        }
    }
    Ok(())
}

fn turns(value: Option<&Value>, place: &str) -> Result<Vec<Turn>, String> {
    let Some(Value::Array(list)) = value else {
        return Err(missing(value, place, "a list of messages"));
    };
    if list.is_empty() {
        return Err(format!("`{place}` is empty; expected at least one message"));
    }
    let turn = |(i, value): (usize, &Value)| turn(value).map_err(|reason| format!("`{place}[{i}]` {reason}"));
    list.iter().enumerate().map(turn).collect()
}

fn turn(value: &Value) -> Result<Turn, String> {
    let Value::Object(message) = value else {
        return Err(format!(
            "is {}; expected {{\"role\", \"content\"}}",
            shown(value, SHOWN)
        ));
    };
    let role = match message.get("role").and_then(Value::as_str) {
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        _ => {
            let got = message
                .get("role")
                .map_or_else(|| "missing".to_owned(), |role| shown(role, SHOWN));
            return Err(format!(
                "has a `role` that is {got}; expected system, developer, user or assistant"
            ));
        }
    };
    for (name, value) in message {
        let known = match name.as_str() {
            "role" | "content" => true,
            "weight" => value.as_f64() == Some(1.0),
            _ => false,
        };
        if !known && !value.is_null() {
            return Err(match name.as_str() {
                "weight" => format!(
                    "has the weight {}; hone trains on every reply of a conversation",
                    shown(value, SHOWN)
                ),
                _ => format!("has `{name}`, which hone does not train on; expected `role` and `content`"),
            });
        }
    }
    let content = match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts_text(parts)?,
        other => return Err(missing(other, "content", "text")),
    };
    if content.trim().is_empty() {
        return Err("has an empty `content`".into());
    }
    Ok(Turn { role, content })
}

fn parts_text(parts: &[Value]) -> Result<String, String> {
    let text = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        (kind, _) => Err(format!(
            "has a part of type `{}`; expected text",
            kind.unwrap_or("none")
        )),
    };
    parts.iter().map(text).collect()
}

fn missing(value: Option<&Value>, name: &str, expected: &str) -> String {
    match value.filter(|value| !value.is_null()) {
        None => format!("`{name}` is missing; expected {expected}"),
        Some(value) => format!("`{name}` is {}; expected {expected}", shown(value, SHOWN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(text: &str) -> Result<(Shape, u64), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, text).unwrap();
        inspect(&path).map_err(|error| error.to_string())
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn both_shapes_are_told_and_counted() {
        let conversation = Shape::Messages.example();
        assert_eq!(
            inspected(&format!("\u{feff}{conversation}\n\n{conversation}")).unwrap(),
            (Shape::Messages, 2)
        );
        let pair = json!({"input": {"messages": [{"role": "user", "content": "a"}], "tools": []},
            "preferred_output": [{"role": "assistant", "content": "b"}],
            "non_preferred_output": [{"role": "assistant", "content": "c"}]});
        assert_eq!(inspected(&format!("{pair}\n")).unwrap(), (Shape::Preferences, 1));
    }

    #[test]
    fn a_bad_line_is_named_with_what_is_expected() {
        let good = Shape::Messages.example();
        for (line, said) in [
            ("{", "line 2: is not JSON"),
            ("[1]", "line 2: is a list of 1; expected a JSON object"),
            (
                r#"{"text": "x"}"#,
                "line 2: has the keys [\"text\"]; expected a conversation",
            ),
            (r#"{"messages": []}"#, "line 2: `messages` is empty"),
            (
                r#"{"messages": "x"}"#,
                "line 2: `messages` is \"x\"; expected a list of messages",
            ),
            (
                r#"{"messages": [{"role": "user"}]}"#,
                "line 2: `messages[0]` `content` is missing",
            ),
            (
                r#"{"messages": [{"role": "critic", "content": "x"}]}"#,
                "`role` that is \"critic\"",
            ),
            (
                r#"{"messages": [{"role": "user", "content": " "}]}"#,
                "an empty `content`",
            ),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#,
                "type `image_url`",
            ),
            (
                r#"{"messages": [{"role": "assistant", "content": "x", "weight": 0}]}"#,
                "the weight 0",
            ),
            (
                r#"{"messages": [{"role": "assistant", "content": "x", "tool_calls": [1]}]}"#,
                "has `tool_calls`",
            ),
            (
                r#"{"messages": [{"role": "user", "content": "x"}], "tools": [1]}"#,
                "has `tools`",
            ),
            (
                r#"{"input": {"messages": [{"role": "user", "content": "x"}]}}"#,
                "line 2: is of another shape",
            ),
        ] {
            let error = inspected(&format!("{good}\n{line}\n")).unwrap_err();
            assert!(error.contains(said), "{error}\nshould contain {said}");
        }
        assert!(inspected("\n\n").unwrap_err().contains("no rows"));
        assert!(inspected("\u{1}").unwrap_err().contains("line 1"));
    }

    #[test]
    fn rows_become_those_that_stages_read() {
        let turns = json!([{"role": "developer", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": "b", "weight": 1}]);
        let read = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
        assert_eq!(
            demonstration(object(json!({"messages": turns, "kind": "x"}))).unwrap(),
            json!({"messages": read})
        );
        let question = json!([{"role": "user", "content": "a"}]);
        assert!(
            demonstration(object(json!({"messages": question})))
                .unwrap_err()
                .contains("ends without a reply")
        );
        let alone = json!([{"role": "assistant", "content": "a"}]);
        assert!(
            demonstration(object(json!({"messages": alone})))
                .unwrap_err()
                .contains("a reply to nothing")
        );
        let practised = prompt(object(json!({"messages": question, "answer": 4}))).unwrap();
        assert_eq!(Value::Object(practised), json!({"prompt": question, "answer": 4}));
        assert!(
            prompt(object(json!({"messages": turns})))
                .unwrap_err()
                .contains("ends with a reply")
        );
        assert!(
            prompt(object(json!({"messages": question, "prompt": 1})))
                .unwrap_err()
                .contains("rename")
        );
        let pair = json!({"input": {"messages": question}, "preferred_output": alone, "non_preferred_output": alone});
        assert!(preference(object(pair)).unwrap_err().contains("are equal"));
    }

    #[test]
    fn openings_end_at_the_first_reply() {
        let row = |more: &str| json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": more}]});
        assert_eq!(opening(&row("b")), opening(&row("c")));
        assert_eq!(
            opening(&row("b")),
            opening(&json!({"prompt": [{"role": "user", "content": "a"}]}))
        );
        assert_ne!(
            opening(&row("b")),
            opening(&json!({"prompt": [{"role": "user", "content": "b"}]}))
        );
    }
}
