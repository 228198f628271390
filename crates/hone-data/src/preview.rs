//! What of an example is trained on, as pieces that a program can colour.

use serde::Serialize;

use crate::items::Message;
use crate::items::TokenExample;

/// A stretch of an example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// What it says.
    pub text: String,
    /// Whether it is trained on.
    pub trained: bool,
}

/// The pieces of an example as the model gets it: runs of tokens that are alike in being trained on or not.
pub fn preview_tokens(example: &TokenExample, decode: impl Fn(&[u32]) -> String) -> Vec<Piece> {
    let mut start = 0;
    example
        .trained
        .chunk_by(|a, b| a == b)
        .map(|run| {
            let ids = &example.ids[start..start + run.len()];
            start += run.len();
            Piece {
                text: decode(ids),
                trained: run[0],
            }
        })
        .collect()
}

/// Which turns of a conversation are trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrainedTurns {
    /// Every turn of the assistant.
    #[default]
    AllReplies,
    /// The last one.
    LastReply,
}

/// The pieces of a conversation, without a model: two a turn, its role and what it says.
pub fn preview_messages(messages: &[Message], turns: TrainedTurns) -> Vec<Piece> {
    let last = messages.iter().rposition(|m| m.role == "assistant");
    let mut pieces = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        let reply = message.role == "assistant";
        pieces.push(Piece {
            text: format!("{}: ", message.role),
            trained: false,
        });
        pieces.push(Piece {
            text: message.content.clone(),
            trained: match turns {
                TrainedTurns::AllReplies => reply,
                TrainedTurns::LastReply => Some(i) == last,
            },
        });
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_tokens() {
        let example = TokenExample {
            ids: vec![97, 98, 99, 100, 101],
            trained: vec![false, false, true, true, false],
        };
        let decode = |ids: &[u32]| ids.iter().filter_map(|&i| char::from_u32(i)).collect();
        let piece = |text: &str, trained| Piece {
            text: text.into(),
            trained,
        };
        assert_eq!(
            preview_tokens(&example, decode),
            [piece("ab", false), piece("cd", true), piece("e", false)]
        );
    }

    #[test]
    fn replies_of_a_conversation() {
        let messages = [
            Message::user("a"),
            Message::assistant("b"),
            Message::user("c"),
            Message::assistant("d"),
        ];
        let trained = |turns| {
            preview_messages(&messages, turns)
                .into_iter()
                .filter(|p| p.trained)
                .map(|p| p.text)
                .collect::<Vec<_>>()
        };
        assert_eq!(trained(TrainedTurns::AllReplies), ["b", "d"]);
        assert_eq!(trained(TrainedTurns::LastReply), ["d"]);
    }
}
