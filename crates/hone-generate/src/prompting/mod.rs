//! Prompting: questions put into words for a model, with worked examples before them.
//!
//! Source: Brown et al., "Language models are few-shot learners", 2020 (zero-, one- and few-shot); Liu et al., "What makes good
//! in-context examples for GPT-3?", 2022 (examples chosen by similarity to the question).
//!
//! Where it differs from other implementations:
//! 1. Which examples a question gets is a function of the files, the seed and the question's row: no number depends on what was
//!    asked before.
//! 2. Similarity is the cosine of TF-IDF-weighted counts of character trigrams, computed here, without a model of its own.
//! 3. Where the context is too short the first examples are left out, which under `Similar` are the least similar ones.

mod frame;
mod select;
mod similar;

use hone_data::{Demonstration, Message, Prompt};
use hone_text::QaExample;
use serde_json::{Map, Value};

pub use frame::{AnswerEnd, Frame, Framed, Framer, PromptError};
pub use select::{ExamplePool, Selection};
pub use similar::Similarity;

/// What is asked, with the other columns of its row.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The turns, the last of which is the user's.
    pub turns: Vec<Message>,
    /// The row's other columns.
    pub columns: Map<String, Value>,
}

impl Question {
    /// The last turn: what is asked.
    pub fn text(&self) -> &str {
        self.turns.last().map_or("", |turn| &turn.content)
    }
}

impl From<Prompt> for Question {
    fn from(prompt: Prompt) -> Self {
        Self {
            turns: prompt.input.to_messages(),
            columns: prompt.extra,
        }
    }
}

/// The worked example in a conversation: its last question and reply. None where other turns than a system message stand
/// before them, for such a question cannot be read alone.
pub fn example_of(demonstration: &Demonstration) -> Option<QaExample> {
    let [before @ .., question, reply] = demonstration.messages.as_slice() else {
        return None;
    };
    let alone = before.iter().all(|turn| turn.role == "system");
    (alone && question.role == "user").then(|| QaExample {
        question: question.content.clone(),
        answer: reply.content.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_is_a_question_that_can_be_read_alone() {
        let turns = |roles: &[&str]| Demonstration {
            messages: roles
                .iter()
                .map(|role| Message::new(*role, format!("{role} said")))
                .collect(),
            ..Demonstration::default()
        };
        let expected = Some(QaExample {
            question: "user said".into(),
            answer: "assistant said".into(),
        });
        assert_eq!(example_of(&turns(&["user", "assistant"])), expected);
        assert_eq!(example_of(&turns(&["system", "user", "assistant"])), expected);
        assert_eq!(example_of(&turns(&["user", "assistant", "user", "assistant"])), None);
        assert_eq!(example_of(&turns(&["user", "tool", "assistant"])), None);
        assert_eq!(example_of(&turns(&["assistant"])), None);
    }
}
