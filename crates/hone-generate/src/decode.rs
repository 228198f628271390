//! Sampled tokens as text.

use hone_text::{SkipSpecial, TextError, Tokenizer};

/// The text of sampled tokens, special ones included. A token that the tokenizer lacks (a row of the embedding that
/// nothing uses) becomes U+FFFD.
///
/// # Errors
/// If the tokenizer fails.
pub fn text_of(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String, TextError> {
    let known = ids.split(|&id| tokenizer.token_bytes(id).is_none());
    let pieces: Result<Vec<String>, TextError> = known.map(|ids| tokenizer.decode(ids, SkipSpecial::No)).collect();
    Ok(pieces?.join("\u{FFFD}"))
}
