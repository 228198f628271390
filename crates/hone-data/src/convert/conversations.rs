//! Conversations to imitate.

use serde_json::Value;

use super::{Fields, annotations, messages, not_empty, prompt_messages, reply_text, sharegpt_messages};
use super::{take, take_needed, take_optional_text, take_text};
use crate::format::Format;
use crate::items::{Demonstration, Message};

/// The demonstration of a row of a conversation format.
///
/// # Errors
/// The reason why the row cannot be used: a column of the wrong type, no reply at the end, an empty reply.
fn demonstration(format: Format, mut fields: Fields) -> Result<Demonstration, String> {
    let messages = turns(format, &mut fields)?;
    match messages.last() {
        Some(last) if last.role == "assistant" => not_empty(&last.content, "the reply")?,
        Some(last) => {
            return Err(format!(
                "a conversation without a reply: it ends with the {}",
                last.role
            ));
        }
        None => return Err("a conversation without messages".into()),
    }
    if messages.len() == 1 {
        return Err("a reply to nothing".into());
    }
    Ok(Demonstration {
        messages,
        extra: fields,
    })
}

/// The demonstrations of a row: one, or of a record of annotations none where nobody wrote an answer.
///
/// # Errors
/// As [`demonstration`].
pub(crate) fn demonstrations(format: Format, fields: Fields) -> Result<Vec<Demonstration>, String> {
    match format {
        Format::Annotations => Ok(annotations::demonstration(fields)?.into_iter().collect()),
        _ => demonstration(format, fields).map(|found| vec![found]),
    }
}

/// The turns of a row of a conversation format, which need not end with a reply. What is left in `fields` is extra.
pub(super) fn turns(format: Format, fields: &mut Fields) -> Result<Vec<Message>, String> {
    let mut turns = Vec::new();
    if matches!(format, Format::Alpaca | Format::Sharegpt)
        && let Some(system) = take_optional_text(fields, "system")?
    {
        turns.push(Message::new("system", system));
    }
    match format {
        Format::Messages => turns = messages(take_needed(fields, "messages")?, "messages")?,
        Format::Sharegpt => turns.extend(sharegpt_messages(
            take_needed(fields, "conversations")?,
            "conversations",
        )?),
        Format::Alpaca => {
            turns.extend(history(fields)?);
            turns.push(Message::user(alpaca_question(fields)?));
            turns.push(Message::assistant(take_text(fields, "output")?));
        }
        Format::PromptCompletion => {
            turns = prompt_messages(take_needed(fields, "prompt")?, "prompt")?;
            turns.push(Message::assistant(reply_text(
                take_needed(fields, "completion")?,
                "completion",
            )?));
        }
        Format::QuestionAnswer => {
            let question = take_text(fields, "question")?;
            not_empty(&question, "`question`")?;
            turns.push(Message::user(question));
            turns.push(Message::assistant(take_text(fields, "answer")?));
        }
        other => return Err(format!("format `{other}` holds no conversations")),
    }
    Ok(turns)
}

/// Instruction and input, a blank line between.
pub(super) fn alpaca_question(fields: &mut Fields) -> Result<String, String> {
    let instruction = take_optional_text(fields, "instruction")?;
    let input = take_optional_text(fields, "input")?;
    match (instruction, input) {
        (Some(instruction), Some(input)) => Ok(format!("{instruction}\n\n{input}")),
        (Some(text), None) | (None, Some(text)) => Ok(text),
        (None, None) => Err("`instruction` is empty".into()),
    }
}

/// Earlier turns of an Alpaca row: `[[question, answer], ...]`.
pub(super) fn history(fields: &mut Fields) -> Result<Vec<Message>, String> {
    let mut turns = Vec::new();
    let history = match take(fields, "history") {
        None => return Ok(turns),
        // a cell of a table cannot hold a list: empty text is none
        Some(Value::String(text)) if text.is_empty() => return Ok(turns),
        Some(history) => history,
    };
    let pairs: Vec<(String, String)> =
        serde_json::from_value(history).map_err(|e| format!("`history`, expected pairs of strings: {e}"))?;
    for (question, answer) in pairs {
        turns.push(Message::user(question));
        turns.push(Message::assistant(answer));
    }
    Ok(turns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::fields;
    use serde_json::json;

    fn read(format: Format, row: Value) -> Result<Vec<(String, String)>, String> {
        let found = demonstration(format, fields(row))?;
        Ok(found.messages.into_iter().map(|m| (m.role, m.content)).collect())
    }

    fn turn(role: &str, content: &str) -> (String, String) {
        (role.into(), content.into())
    }

    #[test]
    fn every_format_of_conversations() {
        let asked = [turn("user", "2 + 2?"), turn("assistant", "4")];
        let rows = [
            (
                Format::Messages,
                json!({"messages": [{"role": "user", "content": "2 + 2?"},
                    {"role": "assistant", "content": [{"type": "text", "text": "4"}]}]}),
            ),
            (
                Format::Sharegpt,
                json!({"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}], "system": ""}),
            ),
            (
                Format::Alpaca,
                json!({"instruction": "2 + 2?", "input": "", "output": "4"}),
            ),
            (Format::PromptCompletion, json!({"prompt": "2 + 2?", "completion": "4"})),
            (
                Format::PromptCompletion,
                json!({"prompt": [{"role": "user", "content": "2 + 2?"}],
                    "completion": [{"role": "assistant", "content": "4"}]}),
            ),
            (Format::QuestionAnswer, json!({"question": "2 + 2?", "answer": "4"})),
        ];
        for (format, row) in rows {
            assert_eq!(read(format, row.clone()).unwrap(), asked, "{row}");
        }
    }

    #[test]
    fn alpaca_joins_input_and_reads_system_and_history() {
        let row = json!({"instruction": "Add.", "input": "1, 2", "output": "3", "system": "Be brief.",
            "history": [["Hi", "Hello"]]});
        let expected = [
            turn("system", "Be brief."),
            turn("user", "Hi"),
            turn("assistant", "Hello"),
            turn("user", "Add.\n\n1, 2"),
            turn("assistant", "3"),
        ];
        assert_eq!(read(Format::Alpaca, row).unwrap(), expected);
    }

    #[test]
    fn other_columns_are_kept() {
        let row = json!({"template": "cola_3", "prompt": "p", "completion": "c"});
        let found = demonstration(Format::PromptCompletion, fields(row)).unwrap();
        assert_eq!(Value::Object(found.extra), json!({"template": "cola_3"}));
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let cases = [
            (
                json!({"messages": [{"role": "user", "content": "x"}]}),
                "without a reply",
            ),
            (json!({"messages": []}), "`messages` is empty"),
            (json!({"messages": "x"}), "`messages` is a string, expected an array"),
            (
                json!({"messages": [{"role": "critic", "content": "x"}]}),
                "message 1: role `critic`",
            ),
            (json!({"messages": [{"role": "user", "content": null}]}), "no `content`"),
            (
                json!({"messages": [{"role": "assistant", "content": "x"}]}),
                "a reply to nothing",
            ),
            (
                json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}]}),
                "the reply is empty",
            ),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
                "a part of type `image_url`",
            ),
        ];
        for (row, reason) in cases {
            let got = read(Format::Messages, row).unwrap_err();
            assert!(got.contains(reason), "{got} / {reason}");
        }
        let got = read(Format::QuestionAnswer, json!({"question": 3, "answer": "x"})).unwrap_err();
        assert_eq!(got, "`question` is a number, expected a string");
    }
}
