//! OpenAssistant message trees: every message of a prompter with ranked replies is one ranking.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Fields, role_name, take_needed};
use crate::items::{Message, Ranking};

/// A message is repeated in the prompt of every ranking under it; this bounds the sum.
const MOST_PROMPT_BYTES: usize = 64 << 20;

/// The rankings of a tree, in the order in which its messages stand. Deleted replies and replies without a rank are
/// left out; a message whose remaining replies are fewer than two, equal, or all tied gives none.
///
/// # Errors
/// The reason why the tree cannot be read.
pub(super) fn rankings(fields: &mut Fields) -> Result<Vec<Ranking>, String> {
    let root = take_needed(fields, "prompt")?;
    let mut found = Vec::new();
    let mut pending: Vec<(&Value, usize)> = vec![(&root, 0)];
    let mut path: Vec<Message> = Vec::new();
    let mut repeated = 0;
    while let Some((node, depth)) = pending.pop() {
        path.truncate(depth);
        let text = node["text"].as_str().ok_or("a message of the tree has no `text`")?;
        let role = node["role"].as_str().ok_or("a message of the tree has no `role`")?;
        path.push(Message::new(role_name(role)?, text));
        let replies = match &node["replies"] {
            Value::Array(replies) => replies.as_slice(),
            Value::Null => &[],
            _ => return Err("`replies` of a message of the tree is not an array".into()),
        };
        if path.last().is_some_and(|m| m.role == "user")
            && let Some(ranking) = ranked(replies, &path)?
        {
            repeated += path.iter().map(|m| m.content.len()).sum::<usize>();
            if repeated > MOST_PROMPT_BYTES {
                return Err(format!("its prompts add up to more than {MOST_PROMPT_BYTES} bytes"));
            }
            found.push(ranking);
        }
        let alive = replies.iter().filter(|r| r["deleted"] != Value::Bool(true));
        pending.extend(alive.rev().map(|reply| (reply, depth + 1)));
    }
    Ok(found)
}

fn ranked(replies: &[Value], prompt: &[Message]) -> Result<Option<Ranking>, String> {
    let mut responses: Vec<String> = Vec::new();
    let mut by_rank: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for reply in replies {
        let is_reply = reply["role"].as_str() == Some("assistant") && reply["deleted"] != Value::Bool(true);
        let (true, Some(rank)) = (is_reply, reply["rank"].as_i64()) else {
            continue;
        };
        let text = reply["text"].as_str().ok_or("a message of the tree has no `text`")?;
        if responses.iter().any(|r| r == text) {
            continue; // the same reply twice: the first one's rank counts
        }
        by_rank.entry(rank).or_default().push(responses.len());
        responses.push(text.to_string());
    }
    if by_rank.len() < 2 {
        return Ok(None);
    }
    Ok(Some(Ranking {
        prompt: prompt.to_vec(),
        responses,
        groups: by_rank.into_values().collect(),
        margins: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::fields;
    use serde_json::json;

    fn reply(text: &str, rank: Option<i64>, replies: Value) -> Value {
        json!({"text": text, "role": "assistant", "rank": rank, "deleted": false, "replies": replies})
    }

    #[test]
    fn siblings_are_ranked_at_every_depth() {
        let follow_up = json!({"text": "and then?", "role": "prompter", "replies": [
            reply("worse", Some(1), json!([])),
            reply("better", Some(0), json!([])),
            reply("tied with worse", Some(1), json!([])),
            reply("nobody ranked it", None, json!([])),
        ]});
        let mut deleted = reply("deleted", Some(0), json!([]));
        deleted["deleted"] = true.into();
        let tree = json!({"message_tree_id": "t", "prompt": {"text": "how?", "role": "prompter", "replies": [
            reply("second", Some(1), json!([follow_up])),
            reply("first", Some(0), json!([{"text": "thanks", "role": "prompter", "replies": [reply("alone", Some(0), json!([]))]}])),
            deleted,
        ]}});
        let found = rankings(&mut fields(tree)).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].prompt, [Message::user("how?")]);
        assert_eq!(found[0].responses, ["second", "first"]);
        assert_eq!(found[0].groups, [[1], [0]]);
        assert_eq!(
            found[1].prompt,
            [
                Message::user("how?"),
                Message::assistant("second"),
                Message::user("and then?")
            ]
        );
        assert_eq!(found[1].responses, ["worse", "better", "tied with worse"]);
        assert_eq!(found[1].groups, [vec![1], vec![0, 2]]);
    }

    #[test]
    fn a_broken_tree_says_why() {
        let tree = json!({"prompt": {"role": "prompter", "replies": []}});
        assert!(rankings(&mut fields(tree)).unwrap_err().contains("no `text`"));
        let tree = json!({"prompt": {"text": "a", "role": "prompter", "replies": "b"}});
        assert!(rankings(&mut fields(tree)).unwrap_err().contains("not an array"));
    }
}
