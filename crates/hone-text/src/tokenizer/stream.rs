//! Decoding one token at a time.

use crate::error::Result;
use crate::tokenizer::{SkipSpecial, Tokenizer};

/// Tokens held back at most while waiting for the rest of a character (of at most four bytes).
const MAX_HELD: usize = 8;

/// Decodes ids as they come and gives out whole characters only.
///
/// The pieces, joined with [`DecodeStream::finish`]'s, are what [`Tokenizer::decode`] gives for
/// all ids at once (for byte-level tokenizers to the byte; others are decoded in a window that
/// reaches one piece back, which their decoders' handling of spaces allows).
#[derive(Clone, Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    skip: SkipSpecial,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// Bytes that may be the start of a character.
    Bytes(Vec<u8>),
    /// The ids of the last piece given out (`..read`) and those held back.
    Window { ids: Vec<u32>, read: usize },
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer, skip: SkipSpecial) -> Self {
        let state = if tokenizer.core.byte_level {
            State::Bytes(Vec::new())
        } else {
            State::Window {
                ids: Vec::new(),
                read: 0,
            }
        };
        DecodeStream { tokenizer, skip, state }
    }

    /// Takes an id; returns the text that it completes, perhaps none.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        match &mut self.state {
            State::Bytes(held) => {
                let entry = self.tokenizer.core.entry(id)?;
                if self.skip == SkipSpecial::No || !entry.special {
                    held.extend_from_slice(&entry.bytes);
                }
                Ok(take_characters(held))
            }
            State::Window { ids, read } => {
                let entry = self.tokenizer.core.entry(id)?;
                // It would only make the window longer
                if self.skip == SkipSpecial::Yes && entry.special {
                    return Ok(String::new());
                }
                ids.push(id);
                let held = ids.len() - *read;
                let (before, text) = window_text(&self.tokenizer, self.skip, ids, *read)?;
                if text.ends_with(char::REPLACEMENT_CHARACTER) && held < MAX_HELD {
                    return Ok(String::new());
                }
                let new = text.get(before.len()..).unwrap_or_default().to_owned();
                if !new.is_empty() {
                    ids.drain(..*read);
                    *read = ids.len();
                }
                Ok(new)
            }
        }
    }

    /// Ends the stream; returns what was held back, U+FFFD for an incomplete character.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(self) -> Result<String> {
        match self.state {
            State::Bytes(held) => Ok(String::from_utf8_lossy(&held).into_owned()),
            State::Window { ids, read } => {
                let (before, text) = window_text(&self.tokenizer, self.skip, &ids, read)?;
                Ok(text.get(before.len()..).unwrap_or_default().to_owned())
            }
        }
    }
}

fn window_text(tokenizer: &Tokenizer, skip: SkipSpecial, ids: &[u32], read: usize) -> Result<(String, String)> {
    Ok((tokenizer.decode(&ids[..read], skip)?, tokenizer.decode(ids, skip)?))
}

/// Takes the whole characters off the front; bytes that can start none become U+FFFD, cut as
/// `String::from_utf8_lossy` cuts them.
fn take_characters(held: &mut Vec<u8>) -> String {
    let mut text = String::new();
    loop {
        match std::str::from_utf8(held) {
            Ok(valid) => {
                text.push_str(valid);
                held.clear();
                return text;
            }
            Err(error) => {
                let valid = error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&held[..valid]));
                let Some(invalid) = error.error_len() else {
                    held.drain(..valid);
                    return text;
                };
                text.push(char::REPLACEMENT_CHARACTER);
                held.drain(..valid + invalid);
            }
        }
    }
}
