//! Conversations as text and as token ids.

mod encode;
mod template;

use serde::{Deserialize, Serialize};

pub use encode::{Chat, ChatTokens, TrainedTurns, TurnSpan};
pub use template::{ChatTemplate, GenerationPrompt, SpecialStrings};

/// The ChatML template, given to tokenizers that hone trains and to base models.
pub const CHATML_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// The role whose turns a model writes.
const ASSISTANT: &str = "assistant";

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message {
            role: role.into(),
            content: content.into(),
        }
    }

    /// A message of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Message::new("user", content)
    }

    /// A message of the assistant.
    pub fn assistant(content: impl Into<String>) -> Self {
        Message::new(ASSISTANT, content)
    }

    /// A system message.
    pub fn system(content: impl Into<String>) -> Self {
        Message::new("system", content)
    }

    /// Whether the assistant speaks.
    pub fn is_assistant(&self) -> bool {
        self.role == ASSISTANT
    }
}
