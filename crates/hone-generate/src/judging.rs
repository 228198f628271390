//! A completion as rules and programs are given it, wherever it is judged.
//!
//! 1. The prompt is the text as it stands; of a conversation, the text of the tokens that the template made of it.
//! 2. The response is the text of the sampled tokens, special ones included, without the token that ended it; after a prompt
//!    without a template what goes on with it ([`crate::text_after`]), after a turn a text of its own.
//! 3. Its number of tokens is that of these.

use hone_data::PromptInput;
use hone_task::{PromptRow, Sample};
use hone_text::{TextError, Tokenizer};
use serde_json::{Map, Value};

use crate::decode::text_of;
use crate::request::{Completion, FinishReason};

/// A prompt whose tokens are `ids`, with its row's other columns.
///
/// # Errors
/// If the tokenizer fails.
pub fn row_to_judge(
    tokenizer: &Tokenizer,
    (input, ids): (&PromptInput, &[u32]),
    columns: &Map<String, Value>,
) -> Result<PromptRow, TextError> {
    Ok(PromptRow {
        prompt: match input {
            PromptInput::Text(text) => text.clone(),
            PromptInput::Messages(_) => text_of(tokenizer, ids)?,
        },
        columns: columns.clone(),
    })
}

/// A response to a prompt, of `tokens` tokens without the one that ended it.
pub fn sample_to_judge<'a>(row: &'a PromptRow, (response, tokens): (&'a str, usize)) -> Sample<'a> {
    Sample::new(row, response).with_tokens(tokens)
}

/// A completion's tokens without the one that ended it; `stop` are those that could.
pub fn without_stop<'a>(completion: &'a Completion, stop: &[u32]) -> &'a [u32] {
    match (completion.finish, completion.ids.split_last()) {
        (FinishReason::Stop, Some((last, before))) if stop.contains(last) => before,
        _ => &completion.ids,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_that_ends_a_completion_is_no_part_of_it() {
        let completion = |finish, ids: &[u32]| Completion {
            ids: ids.to_vec(),
            logprobs: vec![-1.0; ids.len()],
            finish,
        };
        let stopped = completion(FinishReason::Stop, &[7, 8, 2]);
        assert_eq!(without_stop(&stopped, &[2]), [7, 8]);
        // A stop text ended it: its tokens are its own
        assert_eq!(without_stop(&stopped, &[3]), [7, 8, 2]);
        let cut = completion(FinishReason::Length, &[7, 2]);
        assert_eq!(without_stop(&cut, &[2]), [7, 2]);
        let row = PromptRow::new("?");
        assert_eq!(sample_to_judge(&row, ("a", 2)).tokens, Some(2));
    }
}
