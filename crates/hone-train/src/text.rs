//! From conversations to tokens.

use hone_data::{Message, PromptInput, TokenExample};
use hone_text::{AddSpecial, Chat, Tokenizer, TrainedTurns};

use crate::error::Result;

pub(crate) fn messages(of: &[Message]) -> Vec<hone_text::Message> {
    of.iter().map(|m| hone_text::Message::new(m.role.clone(), m.content.clone())).collect()
}

/// A conversation's tokens; targets are the chosen assistant turns, each with its end-of-turn token.
pub(crate) fn conversation(chat: &Chat, turns: &[Message], trained: TrainedTurns) -> Result<TokenExample> {
    let tokens = chat.encode(&messages(turns), trained)?;
    let mask = tokens.mask();
    Ok(TokenExample { ids: tokens.ids, trained: mask })
}

/// A prompt's tokens, ready for a reply: raw text as it is, messages through the template.
pub(crate) fn prompt_ids(tokenizer: &Tokenizer, chat: Option<&Chat>, prompt: &PromptInput) -> Result<Vec<u32>> {
    Ok(match (prompt, chat) {
        (PromptInput::Messages(turns), Some(chat)) => chat.prompt_ids(&messages(turns))?,
        (PromptInput::Messages(turns), None) => Chat::new(tokenizer)?.prompt_ids(&messages(turns))?,
        (PromptInput::Text(text), _) => tokenizer.encode(text, AddSpecial::Yes)?,
    })
}
