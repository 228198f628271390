//! Transcripts of `\n\nHuman:` and `\n\nAssistant:` turns, as in Anthropic's HH data.

use crate::items::Message;

const HUMAN: &str = "\n\nHuman:";
const ASSISTANT: &str = "\n\nAssistant:";

/// Splits a transcript at its last `\n\nAssistant:` into what was said before and the reply.
pub(super) fn split(transcript: &str) -> Result<(&str, &str), String> {
    let at = transcript
        .rfind(ASSISTANT)
        .ok_or("a transcript without `\\n\\nAssistant:`")?;
    Ok((&transcript[..at], &transcript[at + ASSISTANT.len()..]))
}

/// The turns of a transcript, spaces around each taken off.
pub(super) fn messages(transcript: &str) -> Result<Vec<Message>, String> {
    // the first turn may lack the blank line before it
    let text = format!("\n\n{}", transcript.trim_start());
    let mut turns: Vec<Message> = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (role, after) = match (rest.strip_prefix(HUMAN), rest.strip_prefix(ASSISTANT)) {
            (Some(after), _) => ("user", after),
            (_, Some(after)) => ("assistant", after),
            _ => return Err("a transcript that does not start with `Human:`".into()),
        };
        let end = [HUMAN, ASSISTANT].iter().filter_map(|mark| after.find(mark)).min();
        let content = &after[..end.unwrap_or(after.len())];
        turns.push(Message::new(role, content.trim()));
        rest = &after[content.len()..];
    }
    Ok(turns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_found_and_trimmed() {
        let got = messages("\n\nHuman: one\n\ntwo\n\nAssistant: three \n\nHuman:four").unwrap();
        let expected = [
            Message::user("one\n\ntwo"),
            Message::assistant("three"),
            Message::user("four"),
        ];
        assert_eq!(got, expected);
        assert_eq!(messages("Human: x").unwrap(), [Message::user("x")]);
        assert!(messages("Hello").unwrap_err().contains("does not start"));
    }

    #[test]
    fn the_last_reply_is_split_off() {
        let (before, reply) = split("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d").unwrap();
        assert_eq!((before, reply), ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c", " d"));
        assert!(split("Assistant: x").is_err());
    }
}
