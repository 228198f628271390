//! Completions as text, and the texts and tokens that end them.

use std::sync::Arc;

use hone_text::{SkipSpecial, TextError, Tokenizer};

use crate::request::{Completion, FinishReason, StopText};

/// Texts that end a completion; none without any.
pub fn stop_text(tokenizer: &Tokenizer, texts: &[String]) -> Option<StopText> {
    let tokenizer = tokenizer.clone();
    (!texts.is_empty()).then(|| StopText {
        texts: texts.to_vec().into(),
        bytes: Arc::new(move |id| tokenizer.token_bytes(id).unwrap_or_default().to_vec()),
    })
}

/// What ends a completion of raw text: the tokenizer's ends of sequence, and the separator of documents.
pub fn raw_stop_tokens(tokenizer: &Tokenizer) -> Vec<u32> {
    let mut ids = tokenizer.eos_ids().to_vec();
    if let Some(separator) = tokenizer.token_to_id("<|endoftext|>")
        && !ids.contains(&separator)
    {
        ids.push(separator);
    }
    ids
}

/// The text of a completion: without control tokens, and up to the stop text that ended it. After a raw prompt, whose tokens are
/// given, it is what the whole text has beyond the prompt's, so that the first space is kept; a turn of its own is decoded alone.
///
/// # Errors
/// A token that the tokenizer lacks.
pub fn completion_text(
    tokenizer: &Tokenizer,
    raw_prompt: Option<&[u32]>,
    completion: &Completion,
    stop: &[String],
) -> Result<String, TextError> {
    let decode = |ids: &[u32]| tokenizer.decode(ids, SkipSpecial::Yes);
    let mut text = match raw_prompt {
        None => decode(&completion.ids)?,
        Some(prompt) => {
            let whole = decode(&[prompt, completion.ids.as_slice()].concat())?;
            match whole.strip_prefix(&decode(prompt)?) {
                Some(rest) => rest.to_string(),
                None => decode(&completion.ids)?,
            }
        }
    };
    if completion.finish == FinishReason::Stop
        && let Some(end) = stop
            .iter()
            .filter(|stop| !stop.is_empty())
            .filter_map(|stop| text.find(stop.as_str()))
            .min()
    {
        text.truncate(end);
    }
    Ok(text)
}
