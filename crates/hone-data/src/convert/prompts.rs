//! Prompts: a `prompt` column, conversations without their final reply, or what preferences were about.

use serde_json::Value;

use super::conversations::{alpaca_question, history, turns};
use super::preferences::{rankings, unpaired};
use super::{Fields, messages, not_empty, take_needed, take_optional_text, take_text};
use crate::format::{Format, Kind};
use crate::items::{Message, Prompt, PromptInput};

/// The prompts of a row: several only of a tree. Prompts of preferences are turns, as they are for a reward model.
///
/// # Errors
/// The reason why the row cannot be used.
pub(crate) fn prompts(format: Format, fields: Fields) -> Result<Vec<Prompt>, String> {
    let turns = |turns: Vec<Message>| Prompt { input: PromptInput::Messages(turns), extra: Fields::new() };
    match format {
        Format::Unpaired => Ok(vec![turns(unpaired(fields)?.prompt)]),
        _ if format.kind() == Kind::Preferences => {
            Ok(rankings(format, fields)?.into_iter().map(|ranking| turns(ranking.prompt)).collect())
        }
        _ => Ok(vec![prompt(format, fields)?]),
    }
}

/// The prompt of a row. Reference answers stay in `extra` under their column's name; a final reply among messages is
/// kept there as `reply`.
///
/// # Errors
/// The reason why the row cannot be used.
fn prompt(format: Format, mut fields: Fields) -> Result<Prompt, String> {
    let input = match format {
        Format::Messages | Format::Sharegpt => {
            let mut turns = turns(format, &mut fields)?;
            if let Some(reply) = turns.pop_if(|last| last.role == "assistant") {
                fields
                    .entry("reply")
                    .or_insert(Value::String(reply.content));
            }
            if turns.is_empty() {
                return Err("a conversation without a question".into());
            }
            PromptInput::Messages(turns)
        }
        Format::Alpaca => {
            let system = take_optional_text(&mut fields, "system")?;
            let mut turns: Vec<Message> = system
                .map(|s| Message::new("system", s))
                .into_iter()
                .collect();
            turns.extend(history(&mut fields)?);
            turns.push(Message::user(alpaca_question(&mut fields)?));
            PromptInput::Messages(turns)
        }
        Format::QuestionAnswer => {
            let question = take_text(&mut fields, "question")?;
            not_empty(&question, "`question`")?;
            PromptInput::Messages(vec![Message::user(question)])
        }
        _ => match take_needed(&mut fields, "prompt")? {
            Value::String(text) => {
                not_empty(&text, "`prompt`")?;
                PromptInput::Text(text)
            }
            other => {
                let turns = messages(other, "prompt")?;
                if turns.last().is_some_and(|last| last.role == "assistant") {
                    return Err("the prompt ends with the assistant's turn".into());
                }
                PromptInput::Messages(turns)
            }
        },
    };
    Ok(Prompt {
        input,
        extra: fields,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::fields;
    use serde_json::json;

    #[test]
    fn prompts_keep_what_a_verifier_needs() {
        let asked = PromptInput::Messages(vec![Message::user("2 + 2?")]);
        let user = json!({"role": "user", "content": "2 + 2?"});
        let cases = [
            (
                Format::Prompt,
                json!({"prompt": [user], "answer": "4"}),
                json!({"answer": "4"}),
            ),
            (
                Format::Messages,
                json!({"messages": [user], "level": 1}),
                json!({"level": 1}),
            ),
            (
                Format::Messages,
                json!({"messages": [user, {"role": "assistant", "content": "4"}]}),
                json!({"reply": "4"}),
            ),
            (
                Format::QuestionAnswer,
                json!({"question": "2 + 2?", "answer": "4"}),
                json!({"answer": "4"}),
            ),
            (
                Format::Alpaca,
                json!({"instruction": "2 + 2?", "input": "", "output": "4"}),
                json!({"output": "4"}),
            ),
        ];
        for (format, row, extra) in cases {
            let found = prompt(format, fields(row.clone())).unwrap();
            assert_eq!(
                (&found.input, Value::Object(found.extra)),
                (&asked, extra),
                "{row}"
            );
        }
        let found = prompt(Format::Prompt, fields(json!({"prompt": "2 + 2?"}))).unwrap();
        assert_eq!(found.input, PromptInput::Text("2 + 2?".into()));
        assert_eq!(found.input.to_messages(), asked.to_messages());
    }

    #[test]
    fn preferences_give_what_was_asked() {
        let asked = PromptInput::Messages(vec![Message::user("2 + 2?")]);
        let cases = [
            (Format::Pairs, json!({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"})),
            (Format::HhTranscripts, json!({"chosen": "\n\nHuman: 2 + 2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2 + 2?\n\nAssistant: 5"})),
            (Format::Rankings, json!({"prompt": "2 + 2?", "responses": ["4", "5"], "ranking": [[0], [1]]})),
            (Format::Unpaired, json!({"prompt": "2 + 2?", "completion": "4", "label": true})),
        ];
        for (format, row) in cases {
            let found = prompts(format, fields(row.clone())).unwrap();
            assert_eq!((found.len(), &found[0].input), (1, &asked), "{row}");
        }
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let reply = json!({"role": "assistant", "content": "x"});
        let got = prompt(Format::Messages, fields(json!({"messages": [reply]}))).unwrap_err();
        assert_eq!(got, "a conversation without a question");
        let got = prompt(Format::Prompt, fields(json!({"prompt": [reply]}))).unwrap_err();
        assert!(got.contains("ends with the assistant"));
        let got = prompt(Format::Prompt, fields(json!({"prompt": 3}))).unwrap_err();
        assert!(got.contains("a number"), "{got}");
    }
}
