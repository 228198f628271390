//! From conversations to tokens.

use hone_data::{Message, PromptInput, TokenExample};
use hone_text::{AddSpecial, Chat, TextError, Tokenizer, TrainedTurns};

use crate::error::Result;

pub(crate) fn messages(of: &[Message]) -> Vec<hone_text::Message> {
    of.iter()
        .map(|m| hone_text::Message::new(m.role.clone(), m.content.clone()))
        .collect()
}

/// A conversation's tokens; targets are the chosen assistant turns, each with its end-of-turn token.
pub(crate) fn conversation(chat: &Chat, turns: &[Message], trained: TrainedTurns) -> Result<TokenExample> {
    let tokens = chat.encode(&messages(turns), trained)?;
    let mask = tokens.mask();
    Ok(TokenExample {
        ids: tokens.ids,
        trained: mask,
    })
}

/// A prompt's tokens, ready for a reply: through the template, text as one turn of the user. A model without a template
/// takes text as it is.
pub(crate) fn prompt_ids(tokenizer: &Tokenizer, chat: Option<&Chat>, prompt: &PromptInput) -> Result<Vec<u32>> {
    Ok(match (prompt, chat) {
        (PromptInput::Text(text), None) => tokenizer.encode(text, AddSpecial::Yes)?,
        (PromptInput::Messages(_), None) => return Err(TextError::NoChatTemplate.into()),
        (prompt, Some(chat)) => chat.prompt_ids(&messages(&prompt.to_messages()))?,
    })
}

/// A prompt with its response, as a reward model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    /// Prompt, response, and the token that ends the response: the last one, at which the score is read.
    pub ids: Vec<u32>,
    /// How many of them are the response's, its end included.
    pub response_tokens: usize,
}

/// A conversation with its response through the template, up to the response's end-of-turn token; what a template writes
/// behind that token is left out.
pub(crate) fn answered(chat: &Chat, prompt: &[Message], response: &str) -> Result<Answered> {
    let mut turns = messages(prompt);
    turns.push(hone_text::Message::assistant(response));
    let mut tokens = chat.encode(&turns, TrainedTurns::Last)?;
    let (start, end) = tokens
        .spans
        .last()
        .map_or((0, tokens.ids.len()), |span| (span.start, span.end));
    tokens.ids.truncate(end);
    Ok(Answered {
        ids: tokens.ids,
        response_tokens: end - start,
    })
}

/// Raw text with its response, without a template: both are tokenised apart, as sampling has them, the response as what goes on with the
/// prompt, and it ends with the tokenizer's end token where there is one.
pub(crate) fn answered_raw(tokenizer: &Tokenizer, prompt: &str, response: &str) -> Result<Answered> {
    let mut ids = tokenizer.encode(prompt, AddSpecial::Yes)?;
    let start = ids.len();
    ids.extend(tokenizer.encode_after(prompt, response)?);
    ids.extend(tokenizer.eos());
    Ok(Answered {
        response_tokens: ids.len() - start,
        ids,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_text::{TrainOptions, train_bpe};

    #[test]
    fn a_string_prompt_is_the_users_turn_where_there_is_a_template() {
        let options = TrainOptions {
            vocab_size: 270,
            ..TrainOptions::default()
        };
        let tokenizer = train_bpe(std::iter::once("some text".repeat(9)), &options).unwrap();
        let text = PromptInput::Text("some text".into());
        let turns = PromptInput::Messages(vec![Message::user("some text")]);
        let chat = Chat::new(&tokenizer).unwrap();
        let through = prompt_ids(&tokenizer, Some(&chat), &turns).unwrap();
        assert_eq!(prompt_ids(&tokenizer, Some(&chat), &text).unwrap(), through);
        let raw = tokenizer.encode("some text", AddSpecial::Yes).unwrap();
        assert_ne!(raw, through);
        assert_eq!(prompt_ids(&tokenizer, None, &text).unwrap(), raw);
        assert!(prompt_ids(&tokenizer, None, &turns).is_err());
    }
}
