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

/// So many of a prompt's last tokens are decoded with what follows them.
const LAST: usize = 16;

/// The text of tokens that a model wrote, special ones included. After raw text, whose tokens are given, it is what the whole has beyond
/// that text: the space of a first token stays, which tokenizers of sentencepiece's kind take away from the beginning of a text, so that
/// prompt and completion, one after the other, are what was written. A turn of its own, without such a prompt, is decoded alone.
///
/// # Errors
/// If the tokenizer fails.
pub fn text_after(tokenizer: &Tokenizer, raw_prompt: Option<&[u32]>, ids: &[u32]) -> Result<String, TextError> {
    if tokenizer.is_byte_level() {
        return text_of(tokenizer, ids);
    }
    // A token such as `<s>` is no text that something could follow: what comes after it alone begins the text. What is taken away depends
    // on the beginning alone, so the prompt's last tokens stand for all of it; a character of several tokens of a byte each is among them
    let last = raw_prompt.unwrap_or_default().iter().rev().copied();
    let mut before: Vec<u32> = last.filter(|&id| !tokenizer.is_special(id)).take(LAST).collect();
    before.reverse();
    if !before.is_empty() {
        let whole = text_of(tokenizer, &[&before, ids].concat())?;
        if let Some(rest) = whole.strip_prefix(&text_of(tokenizer, &before)?) {
            return Ok(rest.to_string());
        }
    }
    text_of(tokenizer, ids)
}

/// The text of a completion: without the token that ended it, and up to the stop text that did; other special tokens are text like any other.
/// `raw_prompt` as in [`text_after`].
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
    let mut text = text_after(tokenizer, raw_prompt, own)?;
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
