//! Log-probabilities on the wire. JSON has no NaN and no infinity, so numbers below [`LEAST`] are that; otherwise a number is
//! the very one that the engine has, and equal numbers stay equal.

use hone_compute::Choice;
use hone_text::Tokenizer;
use serde_json::{Map, Value, json};

use crate::openai::run::Entry;
use crate::openai::text::token_text;

/// What stands for a log-probability that is lower, or none.
const LEAST: f64 = -9999.0;

/// A log-probability as JSON can hold it.
pub(crate) fn number(logprob: f32) -> f64 {
    if logprob.is_finite() {
        f64::from(logprob).max(LEAST)
    } else {
        LEAST
    }
}

fn described(tokenizer: &Tokenizer, token: u32, logprob: f32) -> Value {
    json!({
        "token": token_text(tokenizer, token),
        "logprob": number(logprob),
        "bytes": tokenizer.token_bytes(token),
    })
}

/// `choices[].logprobs.content` of a conversation's reply. The token that ended it is no part of the content.
pub(crate) fn content(tokenizer: &Tokenizer, entries: &[Entry]) -> Vec<Value> {
    let shown = entries.iter().filter(|entry| !entry.ends);
    shown
        .map(|entry| {
            let mut value = described(tokenizer, entry.token, entry.logprob);
            let top = entry.alternatives.iter();
            let top: Vec<Value> = top.map(|c| described(tokenizer, c.token, c.logprob)).collect();
            value["top_logprobs"] = top.into();
            value
        })
        .collect()
}

/// `choices[].logprobs` of a completion: lists of the same length, the token that ended it included.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lists {
    tokens: Vec<Value>,
    logprobs: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<Value>,
}

impl Lists {
    /// Adds a token with nothing before it.
    pub fn first(&mut self, tokenizer: &Tokenizer, token: u32, offset: usize) {
        self.tokens.push(token_text(tokenizer, token).into());
        self.logprobs.push(Value::Null);
        self.top.push(Value::Null);
        self.offsets.push(offset.into());
    }

    /// Adds a token. What is listed for it holds the most probable tokens, so the true arg-max among them, and itself.
    pub fn push(&mut self, tokenizer: &Tokenizer, chosen: Choice, alternatives: &[Choice], offset: usize) {
        let text = token_text(tokenizer, chosen.token);
        let mut top = Map::new();
        for choice in alternatives.iter().chain([&chosen]) {
            // Tokens of one text are one entry, the more probable one
            let name = token_text(tokenizer, choice.token);
            top.entry(name).or_insert_with(|| number(choice.logprob).into());
        }
        self.tokens.push(text.into());
        self.logprobs.push(number(chosen.logprob).into());
        self.top.push(top.into());
        self.offsets.push(offset.into());
    }

    /// Adds tokens of an answer that begins after so many characters.
    pub fn extend(&mut self, tokenizer: &Tokenizer, entries: &[Entry], before: usize) {
        for entry in entries {
            let chosen = Choice {
                token: entry.token,
                logprob: entry.logprob,
            };
            self.push(tokenizer, chosen, &entry.alternatives, before + entry.offset);
        }
    }

    /// As the wire format has it.
    pub fn value(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.logprobs,
            "top_logprobs": self.top,
            "text_offset": self.offsets,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_holds_every_number() {
        assert_eq!(number(-0.5), -0.5);
        assert_eq!(number(-20_000.0), LEAST);
        assert_eq!(number(f32::NEG_INFINITY), LEAST);
        assert_eq!(number(f32::NAN), LEAST);
        assert_eq!(number(-0.1).to_string(), f64::from(-0.1_f32).to_string());
        // What is read back is the number that was written
        let x = -1.234_567_9_f32;
        let read: f64 = serde_json::from_str(&json!(number(x)).to_string()).unwrap();
        assert_eq!((read as f32).to_bits(), x.to_bits());
    }
}
