//! Completions as text, and the texts and tokens that end them.

use std::sync::Arc;

use hone_text::{TextError, Tokenizer};

use crate::decode::text_of;
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

/// The text of a completion: without the token that ended it, and up to the stop text that did; other special tokens are text like any other.
/// After a raw prompt, whose tokens are given, it is what the whole text has beyond the prompt's, so that the first space is kept; a turn
/// of its own is decoded alone.
///
/// # Errors
/// If the tokenizer fails.
pub fn completion_text(
    tokenizer: &Tokenizer,
    raw_prompt: Option<&[u32]>,
    completion: &Completion,
    stop: &[String],
) -> Result<String, TextError> {
    let ends = |id: &u32| tokenizer.is_special(*id) || tokenizer.eos_ids().contains(id);
    let own = match (completion.finish, completion.ids.split_last()) {
        (FinishReason::Stop, Some((last, before))) if ends(last) => before,
        _ => &completion.ids,
    };
    let mut text = match raw_prompt {
        None => text_of(tokenizer, own)?,
        Some(prompt) => {
            let whole = text_of(tokenizer, &[prompt, own].concat())?;
            match whole.strip_prefix(&text_of(tokenizer, prompt)?) {
                Some(rest) => rest.to_string(),
                None => text_of(tokenizer, own)?,
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
