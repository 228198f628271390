//! Tokens as text: of a token alone, and of an answer as it grows.

use std::fmt::Write as _;
use std::sync::Arc;

use hone_text::{DecodeStream, SkipSpecial, Tokenizer};

use crate::openai::ApiError;

/// The text of a token alone: its bytes where they are text, else `bytes:\xNN...`; `token_id:N` for an id that the tokenizer
/// has no token for (models have more rows than tokens).
pub(crate) fn token_text(tokenizer: &Tokenizer, id: u32) -> String {
    let Some(bytes) = tokenizer.token_bytes(id) else {
        return format!("token_id:{id}");
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let mut text = "bytes:".to_owned();
            for byte in bytes {
                let _ = write!(text, "\\x{byte:02x}");
            }
            text
        }
    }
}

/// A text that was given as tokens, and where in it each of them begins.
pub(crate) struct Laid {
    pub text: String,
    /// Characters before each token.
    pub offsets: Vec<usize>,
}

/// Lays tokens out as text, those without a token of the tokenizer as nothing.
pub(crate) fn lay(tokenizer: &Tokenizer, ids: &[u32], skip: SkipSpecial) -> Result<Laid, ApiError> {
    let mut decoder = tokenizer.decode_stream(skip);
    let mut laid = Laid {
        text: String::new(),
        offsets: Vec::with_capacity(ids.len()),
    };
    let mut characters = 0;
    for &id in ids {
        laid.offsets.push(characters);
        let piece = push(tokenizer, &mut decoder, id)?;
        characters += piece.chars().count();
        laid.text.push_str(&piece);
    }
    laid.text.push_str(&decoder.finish().map_err(undecodable)?);
    Ok(laid)
}

fn push(tokenizer: &Tokenizer, decoder: &mut DecodeStream, id: u32) -> Result<String, ApiError> {
    if tokenizer.token_bytes(id).is_none() {
        return Ok(String::new());
    }
    decoder.push(id).map_err(undecodable)
}

fn undecodable(error: hone_text::TextError) -> ApiError {
    ApiError::internal(error.to_string())
}

/// The text of an answer while its tokens come: whole characters, up to a stop text, and nothing that may become a part of
/// one.
pub(crate) struct Growing {
    tokenizer: Tokenizer,
    decoder: Option<DecodeStream>,
    stops: Arc<[String]>,
    /// All text so far.
    text: String,
    /// Bytes of it that were given out.
    given: usize,
    /// Where a stop text begins.
    cut: Option<usize>,
}

impl Growing {
    /// The text after a prompt: for a completion of raw text the prompt's tokens, so that a first space is kept and a
    /// character that was cut is completed; for a reply none.
    pub fn new(tokenizer: &Tokenizer, prompt: &[u32], stops: &Arc<[String]>) -> Result<Self, ApiError> {
        let mut decoder = tokenizer.decode_stream(SkipSpecial::Yes);
        for &id in prompt {
            push(tokenizer, &mut decoder, id)?;
        }
        Ok(Self {
            tokenizer: tokenizer.clone(),
            decoder: Some(decoder),
            stops: Arc::clone(stops),
            text: String::new(),
            given: 0,
            cut: None,
        })
    }

    /// The text so far, given out or not.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Bytes of it that were given out.
    pub fn given(&self) -> usize {
        self.given
    }

    /// Whether a stop text came.
    pub fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// Whether a token that begins after so many bytes is a part of the answer.
    pub fn holds(&self, start: usize) -> bool {
        self.cut.is_none_or(|cut| start < cut)
    }

    /// Adds a token; gives the text that is certain now, perhaps none.
    pub fn push(&mut self, id: u32) -> Result<String, ApiError> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(String::new());
        };
        let piece = push(&self.tokenizer, decoder, id)?;
        self.text.push_str(&piece);
        self.find_stop();
        let end = self.cut.unwrap_or_else(|| self.text.len() - self.held());
        Ok(self.give(end))
    }

    /// Ends the answer; gives what was held back.
    pub fn finish(&mut self) -> Result<String, ApiError> {
        if let Some(decoder) = self.decoder.take() {
            self.text.push_str(&decoder.finish().map_err(undecodable)?);
            self.find_stop();
        }
        let end = self.cut.unwrap_or(self.text.len());
        Ok(self.give(end))
    }

    /// Text that was given out has no part of a stop text, so only the rest is looked at.
    fn find_stop(&mut self) {
        if self.cut.is_none() {
            let rest = &self.text[self.given..];
            let first = self.stops.iter().filter_map(|stop| rest.find(stop.as_str())).min();
            self.cut = first.map(|at| self.given + at);
        }
    }

    /// Bytes at the end that a stop text may begin with.
    fn held(&self) -> usize {
        let rest = &self.text[self.given..];
        let begins = |stop: &String| {
            let ends = stop.char_indices().map(|(at, _)| at).filter(|&at| at > 0);
            ends.filter(|&end| rest.ends_with(&stop[..end])).max().unwrap_or(0)
        };
        self.stops.iter().map(begins).max().unwrap_or(0)
    }

    fn give(&mut self, end: usize) -> String {
        let piece = self.text[self.given..end].to_owned();
        self.given = end;
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_text::{AddSpecial, TrainOptions, train_bpe};

    fn tokenizer() -> Tokenizer {
        let options = TrainOptions {
            vocab_size: 280,
            ..TrainOptions::default()
        };
        train_bpe(
            ["the quick brown fox jumps over the lazy dog".repeat(3)].into_iter(),
            &options,
        )
        .expect("trained")
    }

    fn grown(text: &str, stops: &[&str]) -> (Vec<String>, bool) {
        let tokenizer = tokenizer();
        let stops: Arc<[String]> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut growing = Growing::new(&tokenizer, &[], &stops).expect("a decoder");
        let ids = tokenizer.encode(text, AddSpecial::No).expect("encoded");
        let mut pieces: Vec<String> = ids.iter().map(|&id| growing.push(id).expect("decoded")).collect();
        pieces.push(growing.finish().expect("decoded"));
        (pieces, growing.is_cut())
    }

    #[test]
    fn pieces_join_to_the_text() {
        for text in ["the dog", "Zürich 水 and the fox", "", "\u{1F600}"] {
            let (pieces, cut) = grown(text, &[]);
            assert_eq!(pieces.concat(), text);
            assert!(!cut);
        }
    }

    #[test]
    fn nothing_of_a_stop_text_is_given_out() {
        // Every character is a token here, so the stop text comes bit by bit
        let (pieces, cut) = grown("aXYbXYZc", &["XYZ", "never"]);
        assert_eq!((pieces.concat().as_str(), cut), ("aXYb", true));
        // What might have become one is given when it did not
        assert_eq!(grown("aXYbXY", &["XYZ"]).0.concat(), "aXYbXY");
        // The earliest of several, also where one holds another
        assert_eq!(grown("abcdef", &["e", "cde", "d"]).0.concat(), "ab");
        assert_eq!(grown("水水x", &["水x"]).0.concat(), "水");
        assert_eq!(grown("QQQ", &["Q"]).0.concat(), "");
    }

    #[test]
    fn tokens_that_are_no_text_show_their_bytes() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("水", AddSpecial::No).expect("encoded");
        assert_eq!(ids.len(), 3, "a token a byte");
        let texts: Vec<String> = ids.iter().map(|&id| token_text(&tokenizer, id)).collect();
        assert_eq!(texts, [r"bytes:\xe6", r"bytes:\xb0", r"bytes:\xb4"]);
        assert_eq!(token_text(&tokenizer, 9999), "token_id:9999");
        let laid = lay(&tokenizer, &[&ids[..], &[9999], &ids[..]].concat(), SkipSpecial::No).expect("decoded");
        assert_eq!(laid.text, "水水");
        assert_eq!(laid.offsets, [0, 0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn a_character_that_the_prompt_began_is_completed() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("水", AddSpecial::No).expect("encoded");
        let mut growing = Growing::new(&tokenizer, &ids[..2], &[].into()).expect("a decoder");
        assert_eq!(growing.push(ids[2]).expect("decoded"), "水");
        assert_eq!((growing.text(), growing.given()), ("水", 3));
    }
}
