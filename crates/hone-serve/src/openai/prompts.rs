//! Prompts in their four forms: a text, a list of texts, a list of ids, a list of lists of ids; and messages.

use std::sync::Arc;

use hone_text::{AddSpecial, Message, SkipSpecial, Tokenizer};
use serde_json::Value;

use crate::bounds;
use crate::models::Served;
use crate::openai::ApiError;
use crate::openai::fields::{Fields, wrong};
use crate::openai::text::{Laid, lay};

/// One prompt as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    Text(String),
    Ids(Vec<u32>),
}

/// Reads the forms.
///
/// # Errors
/// Another form, mixed ones, none or too many, naming the place.
pub(crate) fn read(name: &str, value: Value) -> Result<Vec<Given>, ApiError> {
    const EXPECTED: &str = "text, a list of texts, a list of token ids, or a list of lists of token ids";
    let list = match value {
        Value::String(text) => return Ok(vec![Given::Text(text)]),
        Value::Array(list) => list,
        other => return Err(wrong(name, &other, EXPECTED)),
    };
    match list.first() {
        None => Err(ApiError::bad(
            name,
            format!("`{name}` is an empty list; expected {EXPECTED}"),
        )),
        Some(Value::Number(_)) => Ok(vec![Given::Ids(ids(name, &list)?)]),
        Some(_) if list.len() > bounds::PROMPTS => {
            let message = format!(
                "`{name}` has {} prompts; expected at most {}",
                list.len(),
                bounds::PROMPTS
            );
            Err(ApiError::bad(name, message))
        }
        Some(first) => {
            let texts = first.is_string();
            let one = |(i, value): (usize, Value)| {
                let place = format!("{name}[{i}]");
                match value {
                    Value::String(text) if texts => Ok(Given::Text(text)),
                    Value::Array(list) if !texts => Ok(Given::Ids(ids(&place, &list)?)),
                    other => Err(wrong(place, &other, EXPECTED)),
                }
            };
            list.into_iter().enumerate().map(one).collect()
        }
    }
}

fn ids(place: &str, list: &[Value]) -> Result<Vec<u32>, ApiError> {
    if list.is_empty() {
        return Err(ApiError::bad(
            place,
            format!("`{place}` is empty; expected at least one token id"),
        ));
    }
    let id = |(i, value): (usize, &Value)| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| wrong(format!("{place}[{i}]"), value, "a token id"))
    };
    list.iter().enumerate().map(id).collect()
}

/// A prompt as tokens.
#[derive(Clone, Debug)]
pub(crate) struct Prompt {
    pub given: Given,
    pub ids: Arc<[u32]>,
}

impl Prompt {
    /// The tokens of a prompt of raw text; an empty one begins a document.
    ///
    /// # Errors
    /// Ids that the model does not have, and text that has no token.
    pub fn raw(served: &Served, name: &str, given: Given) -> Result<Self, ApiError> {
        let ids = match &given {
            Given::Text(text) => {
                let encoded = served.tokenizer.encode(text, AddSpecial::Yes);
                encoded.map_err(|error| ApiError::bad(name, error.to_string()))?
            }
            Given::Ids(ids) => ids.clone(),
        };
        let ids = match (ids.is_empty(), served.tokenizer.document_separator()) {
            (false, _) => ids,
            (true, Some(separator)) => vec![separator],
            (true, None) => {
                return Err(ApiError::bad(
                    name,
                    format!("`{name}` has no token; expected at least one"),
                ));
            }
        };
        check_ids(served, name, &ids)?;
        Ok(Self { given, ids: ids.into() })
    }

    /// The prompt as text, as it is echoed, and where its tokens begin in it.
    pub fn laid(&self, tokenizer: &Tokenizer) -> Result<Laid, ApiError> {
        match &self.given {
            // Tokens that the tokenizer puts around a text are no part of it
            Given::Text(text) => Ok(Laid {
                text: text.clone(),
                ..lay(tokenizer, &self.ids, SkipSpecial::Yes)?
            }),
            Given::Ids(ids) => lay(tokenizer, ids, SkipSpecial::No),
        }
    }
}

/// Refuses ids that the model has no row for.
pub(crate) fn check_ids(served: &Served, name: &str, ids: &[u32]) -> Result<(), ApiError> {
    let vocabulary = served.vocabulary();
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        None => Ok(()),
        Some(id) => {
            let message = format!(
                "`{name}` has token id {id}; `{}` has ids below {vocabulary}",
                served.name
            );
            Err(ApiError::bad(name, message))
        }
    }
}

/// Refuses a sequence that the model's context does not hold, with so many places left for tokens to come.
pub(crate) fn check_length(served: &Served, name: &str, tokens: usize, to_come: usize) -> Result<(), ApiError> {
    let context = served.context();
    if tokens + to_come <= context {
        return Ok(());
    }
    let room = if to_come > 0 {
        "; an answer needs at least one more"
    } else {
        ""
    };
    let message = format!(
        "`{name}` has {tokens} tokens, and the context of `{}` is {context}{room}",
        served.name
    );
    Err(ApiError::too_long(name, message))
}

/// Reads messages, `[{"role", "content"}]`, a content being text or parts of text.
///
/// # Errors
/// What is no conversation of texts, naming the place.
pub(crate) fn messages(name: &str, value: Value) -> Result<Vec<Message>, ApiError> {
    let Value::Array(list) = value else {
        return Err(wrong(name, &value, "a list of messages"));
    };
    if list.is_empty() {
        return Err(ApiError::bad(
            name,
            format!("`{name}` is empty; expected at least one message"),
        ));
    }
    let one = |(i, value): (usize, Value)| {
        let place = format!("{name}[{i}]");
        let Value::Object(object) = value else {
            return Err(wrong(place, &value, "an object with `role` and `content`"));
        };
        message(&place, Fields::of(object)).map_err(|mut error| {
            let param = error.param.take().unwrap_or_default();
            error.message = format!("{place}: {}", error.message);
            error.param = Some(format!("{place}.{param}"));
            error
        })
    };
    list.into_iter().enumerate().map(one).collect()
}

fn message(place: &str, mut fields: Fields) -> Result<Message, ApiError> {
    let role = fields.text("role")?.unwrap_or_default();
    let role = match role.as_str() {
        "developer" => "system".to_owned(),
        "system" | "user" | "assistant" => role,
        "tool" | "function" => return Err(ApiError::unsupported("role", "hone has no tools")),
        _ => {
            return Err(ApiError::bad(
                "role",
                "`role` is none of system, developer, user and assistant",
            ));
        }
    };
    let content = match fields.take("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => joined(parts)?,
        Some(other) => return Err(wrong("content", &other, "text, or a list of parts of text")),
        None => return Err(ApiError::bad("content", format!("`content` is missing in {place}"))),
    };
    for name in ["tool_calls", "function_call", "audio"] {
        fields.only(
            name,
            |value| value.as_array().is_some_and(Vec::is_empty),
            "hone has texts only",
        )?;
    }
    fields.pass_over(&["name", "refusal", "annotations"]);
    fields.finish()?;
    Ok(Message::new(role, content))
}

/// Parts of text, a line each.
fn joined(parts: Vec<Value>) -> Result<String, ApiError> {
    let text = |(i, part): (usize, Value)| {
        let kind = part.get("type").and_then(Value::as_str);
        match (kind, part.get("text").and_then(Value::as_str)) {
            (Some("text"), Some(text)) => Ok(text.to_owned()),
            (Some("text"), None) => Err(wrong(format!("content[{i}]"), &part, "a `text`")),
            _ => Err(ApiError::unsupported(
                "content",
                "hone reads parts of the type `text` only",
            )),
        }
    };
    let texts: Vec<String> = parts.into_iter().enumerate().map(text).collect::<Result<_, _>>()?;
    Ok(texts.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn four_forms() {
        let text = |text: &str| Given::Text(text.into());
        assert_eq!(read("prompt", json!("a")).unwrap(), [text("a")]);
        assert_eq!(read("prompt", json!(["a", ""])).unwrap(), [text("a"), text("")]);
        assert_eq!(read("prompt", json!([1, 2])).unwrap(), [Given::Ids(vec![1, 2])]);
        let two = [Given::Ids(vec![1]), Given::Ids(vec![2, 3])];
        assert_eq!(read("prompt", json!([[1], [2, 3]])).unwrap(), two);
    }

    #[test]
    fn other_forms_are_refused_with_their_place() {
        for (value, param) in [
            (json!([]), "prompt"),
            (json!({}), "prompt"),
            (json!(3), "prompt"),
            (json!(["a", 1]), "prompt[1]"),
            (json!([1, "a"]), "prompt[1]"),
            (json!([1, -1]), "prompt[1]"),
            (json!([1, 4_294_967_296_u64]), "prompt[1]"),
            (json!([[1], []]), "prompt[1]"),
            (json!([[1], [2, 0.5]]), "prompt[1][1]"),
            (json!([null]), "prompt[0]"),
            (json!(vec!["a"; bounds::PROMPTS + 1]), "prompt"),
        ] {
            let error = read("prompt", value.clone()).expect_err(&value.to_string());
            assert_eq!(error.param.as_deref(), Some(param), "{value}: {}", error.message);
        }
    }

    #[test]
    fn messages_of_texts() {
        let read = |value| messages("messages", value);
        let parts = json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "ann"},
            {"role": "assistant", "content": "c", "tool_calls": null},
        ]);
        let expected = [
            Message::system("be brief"),
            Message::user("a\nb"),
            Message::assistant("c"),
        ];
        assert_eq!(read(parts).unwrap(), expected);
        for (value, param) in [
            (json!([]), "messages"),
            (json!("hello"), "messages"),
            (json!(["hello"]), "messages[0]"),
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([{"role": "pirate", "content": "a"}]), "messages[0].role"),
            (json!([{"role": "tool", "content": "a"}]), "messages[0].role"),
            (json!([{"role": "user", "content": 3}]), "messages[0].content"),
            (json!([{"role": "user", "content": "a", "imag": 1}]), "messages[0].imag"),
            (
                json!([{"role": "user", "content": [{"type": "image_url"}]}]),
                "messages[0].content",
            ),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "messages[0].content[0]",
            ),
            (
                json!([{"role": "assistant", "content": "a", "tool_calls": [{}]}]),
                "messages[0].tool_calls",
            ),
        ] {
            let error = read(value.clone()).expect_err(&value.to_string());
            assert_eq!(error.param.as_deref(), Some(param), "{value}: {}", error.message);
        }
    }
}
