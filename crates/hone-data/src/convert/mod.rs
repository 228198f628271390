//! Rows of each format to items. A row that cannot be used gives a reason, never a panic.

mod annotations;
mod conversations;
mod preferences;
mod prompts;
mod transcript;
mod trees;

use serde_json::{Map, Value};

pub(crate) use annotations::{Asked, asked};
pub(crate) use conversations::demonstrations;
pub(crate) use preferences::{rankings, unpaired, unpaired_of};
pub(crate) use prompts::prompts;

use crate::format::Format;
use crate::items::Message;
use crate::read::describe;

/// The columns of one row.
pub(crate) type Fields = Map<String, Value>;

/// Takes a column out of the row; an absent one and null are the same.
fn take(fields: &mut Fields, column: &str) -> Option<Value> {
    fields.shift_remove(column).filter(|v| !v.is_null())
}

fn take_needed(fields: &mut Fields, column: &str) -> Result<Value, String> {
    take(fields, column).ok_or_else(|| format!("no `{column}`"))
}

fn take_text(fields: &mut Fields, column: &str) -> Result<String, String> {
    text(take_needed(fields, column)?, column)
}

/// The text of an optional column; absent and blank are the same.
fn take_optional_text(fields: &mut Fields, column: &str) -> Result<Option<String>, String> {
    match take(fields, column) {
        None => Ok(None),
        Some(value) => Ok(Some(text(value, column)?).filter(|t| !t.trim().is_empty())),
    }
}

fn text(value: Value, what: &str) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(format!("`{what}` is {}, expected a string", describe(&other))),
    }
}

/// The text of a document row.
pub(crate) fn document_text(fields: &mut Fields) -> Result<String, String> {
    let text = take_text(fields, Format::Text.required()[0])?;
    if text.trim().is_empty() {
        return Err("`text` is empty".into());
    }
    Ok(text)
}

fn not_empty(text: &str, what: &str) -> Result<(), String> {
    match text.trim().is_empty() {
        true => Err(format!("{what} is empty")),
        false => Ok(()),
    }
}

/// `[{role, content}]`.
fn messages(value: Value, what: &str) -> Result<Vec<Message>, String> {
    turns(value, what, "role", "content")
}

/// `[{from, value}]`.
fn sharegpt_messages(value: Value, what: &str) -> Result<Vec<Message>, String> {
    turns(value, what, "from", "value")
}

fn turns(value: Value, what: &str, role_key: &str, content_key: &str) -> Result<Vec<Message>, String> {
    let Value::Array(list) = value else {
        return Err(format!(
            "`{what}` is {}, expected an array of messages",
            describe(&value)
        ));
    };
    if list.is_empty() {
        return Err(format!("`{what}` is empty"));
    }
    list.into_iter()
        .enumerate()
        .map(|(i, turn)| message(turn, role_key, content_key).map_err(|e| format!("`{what}`, message {}: {e}", i + 1)))
        .collect()
}

fn message(turn: Value, role_key: &str, content_key: &str) -> Result<Message, String> {
    let Value::Object(mut turn) = turn else {
        return Err(format!("is {}, expected an object", describe(&turn)));
    };
    let role = take_text(&mut turn, role_key)?;
    let content = match take_needed(&mut turn, content_key)? {
        Value::Array(parts) => text_parts(parts)?,
        other => text(other, content_key)?,
    };
    Ok(Message::new(role_name(&role)?, content))
}

/// Content given in parts, of which only text is known here.
fn text_parts(parts: Vec<Value>) -> Result<String, String> {
    let mut joined = String::new();
    for part in parts {
        match (
            part.get("type").and_then(Value::as_str),
            part.get("text").and_then(Value::as_str),
        ) {
            (Some("text") | None, Some(text)) => joined.push_str(text),
            (kind, _) => {
                return Err(format!(
                    "a part of type `{}`, only text is read",
                    kind.unwrap_or("unknown")
                ));
            }
        }
    }
    Ok(joined)
}

fn role_name(role: &str) -> Result<&'static str, String> {
    Ok(match role {
        "system" => "system",
        "user" | "human" | "prompter" => "user",
        "assistant" | "gpt" | "chatgpt" | "bot" | "model" => "assistant",
        "tool" | "observation" => "tool",
        other => {
            return Err(format!(
                "role `{other}`, expected system, user (human), assistant (gpt) or tool"
            ));
        }
    })
}

/// Text becomes one turn of the user; messages stay as they are.
fn prompt_messages(value: Value, what: &str) -> Result<Vec<Message>, String> {
    match value {
        Value::String(text) => {
            not_empty(&text, &format!("`{what}`"))?;
            Ok(vec![Message::user(text)])
        }
        other => messages(other, what),
    }
}

/// A reply given as text, or as a list with one message of the assistant, or as that message.
fn reply_text(value: Value, what: &str) -> Result<String, String> {
    let turns = match value {
        Value::String(text) => return Ok(text),
        Value::Object(_) => messages(Value::Array(vec![value]), what)?,
        other => messages(other, what)?,
    };
    match <[Message; 1]>::try_from(turns) {
        Ok([turn]) if turn.role == "assistant" => Ok(turn.content),
        Ok([turn]) => Err(format!(
            "`{what}` is a message of role {}, expected assistant",
            turn.role
        )),
        Err(turns) => Err(format!("`{what}` has {} messages, expected one reply", turns.len())),
    }
}

#[cfg(test)]
pub(crate) fn fields(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        other => panic!("not an object: {other}"),
    }
}
