//! What rows become: documents, demonstrations, rankings, unpaired judgements, prompts; and what text becomes: tokens.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of this role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model says.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}

/// What tells a prompt from others: who says what, turn by turn.
pub fn identity_of(turns: &[Message]) -> String {
    let turn = |m: &Message| format!("{}\u{1f}{}\u{1e}", m.role, m.content);
    turns.iter().map(turn).collect()
}

/// A text to pre-train on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// The whole text.
    pub text: String,
}

/// A conversation to imitate. It ends with the assistant's reply.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Demonstration {
    /// The turns, in order.
    pub messages: Vec<Message>,
    /// The row's other columns, such as the name of its task.
    pub extra: Map<String, Value>,
}

/// Replies to one prompt in order of preference. A pair is a ranking of two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ranking {
    /// The conversation up to the reply.
    pub prompt: Vec<Message>,
    /// The replies, in the order of the file (a pair: chosen, rejected).
    pub responses: Vec<String>,
    /// Indices into `responses`, best group first; those in one group are tied. Each index occurs once.
    pub groups: Vec<Vec<usize>>,
    /// By how much each group is preferred to the next: one number fewer than there are groups.
    pub margins: Option<Vec<f64>>,
}

impl Ranking {
    /// A pair: the first reply is preferred.
    pub fn pair(prompt: Vec<Message>, chosen: impl Into<String>, rejected: impl Into<String>) -> Self {
        Self {
            prompt,
            responses: vec![chosen.into(), rejected.into()],
            groups: vec![vec![0], vec![1]],
            margins: None,
        }
    }

    /// Every (better, worse) pair of indices into `responses`, ties left out, best first.
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        let mut pairs = Vec::new();
        for (g, group) in self.groups.iter().enumerate() {
            for &better in group {
                for &worse in self.groups[g + 1..].iter().flatten() {
                    pairs.push((better, worse));
                }
            }
        }
        pairs
    }
}

/// One reply that somebody found good or bad, without another to compare it with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Unpaired {
    /// The conversation up to the reply.
    pub prompt: Vec<Message>,
    /// The reply.
    pub completion: String,
    /// True where it is desirable.
    pub label: bool,
}

/// What the model is asked: text, or turns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PromptInput {
    /// One turn of the user for a model with a chat template; taken raw by one without.
    Text(String),
    /// Put through the chat template; ends with the user's turn.
    Messages(Vec<Message>),
}

impl PromptInput {
    /// The turns; text counts as one turn of the user.
    pub fn to_messages(&self) -> Vec<Message> {
        match self {
            PromptInput::Text(text) => vec![Message::user(text.as_str())],
            PromptInput::Messages(messages) => messages.clone(),
        }
    }
}

/// Something to answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// What is asked.
    pub input: PromptInput,
    /// The row's other columns, for a verifier (such as `answer`). A final reply that a conversation had is kept as `reply`.
    pub extra: Map<String, Value>,
}

/// An example as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenExample {
    /// The tokens, `[t]`.
    pub ids: Vec<u32>,
    /// True where the token is a target that is trained on, `[t]`. The first token follows nothing, so never there.
    pub trained: Vec<bool>,
}

impl TokenExample {
    /// How many targets it has.
    pub fn targets(&self) -> usize {
        self.trained.iter().filter(|t| **t).count()
    }
}

/// Items that share an opening belong on the same side of a held-out split.
pub trait Opening {
    /// The conversation up to the first reply, as a key.
    fn opening(&self) -> String;
}

fn opening_of(messages: &[Message]) -> String {
    let mut key = String::new();
    for message in messages.iter().take_while(|m| m.role != "assistant") {
        key.push_str(&message.role);
        key.push('\u{1f}');
        key.push_str(&message.content);
        key.push('\u{1e}');
    }
    key
}

impl Opening for Demonstration {
    fn opening(&self) -> String {
        opening_of(&self.messages)
    }
}

impl Opening for Ranking {
    fn opening(&self) -> String {
        opening_of(&self.prompt)
    }
}

impl Opening for Prompt {
    fn opening(&self) -> String {
        match &self.input {
            PromptInput::Text(text) => text.clone(),
            PromptInput::Messages(messages) => opening_of(messages),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_leave_ties_out() {
        let ranking = Ranking {
            prompt: vec![Message::user("q")],
            responses: vec!["a".into(), "b".into(), "c".into(), "d".into()],
            groups: vec![vec![2], vec![0, 3], vec![1]],
            margins: None,
        };
        assert_eq!(ranking.pairs(), [(2, 0), (2, 3), (2, 1), (0, 1), (3, 1)]);
        assert_eq!(Ranking::pair(vec![], "good", "bad").pairs(), [(0, 1)]);
    }

    #[test]
    fn an_opening_ends_at_the_first_reply() {
        let one = Demonstration {
            messages: vec![Message::user("hi"), Message::assistant("hello")],
            ..Demonstration::default()
        };
        let two = Ranking::pair(
            vec![Message::user("hi"), Message::assistant("yes?"), Message::user("bye")],
            "a",
            "b",
        );
        assert_eq!(one.opening(), two.opening());
        let other = Ranking::pair(vec![Message::new("system", "hi")], "a", "b");
        assert_ne!(one.opening(), other.opening());
    }
}
