//! Records of annotations: rows of a store, or of its export in hone's own form.

use serde_json::Value;

use super::{Fields, messages, prompt_messages, reply_text, take, take_optional_text};
use crate::annotations::{Judgement, Record, Response};
use crate::items::{Demonstration, Message, Ranking, Unpaired};
use crate::read::describe;

fn record(fields: Fields) -> Result<Record, String> {
    serde_json::from_value(Value::Object(fields)).map_err(|error| format!("no record of an annotation: {error}"))
}

/// The order of the answers, where one was given that counts.
pub(super) fn ranking(fields: Fields) -> Result<Option<Ranking>, String> {
    let record = record(fields)?;
    if let Some(groups) = record
        .judgement
        .as_ref()
        .and_then(|judgement| judgement.ranking.as_ref())
    {
        let mut named: Vec<usize> = groups.concat();
        named.sort_unstable();
        if !named.iter().copied().eq(0..record.responses.len()) {
            return Err("`judgement.ranking` does not name each answer once".into());
        }
    }
    Ok(record.ranking())
}

/// The answer that somebody wrote, where it counts.
pub(super) fn demonstration(fields: Fields) -> Result<Option<Demonstration>, String> {
    Ok(record(fields)?.demonstration())
}

/// The answers that were found good or bad by themselves.
pub(super) fn unpaired(fields: Fields) -> Result<Vec<Unpaired>, String> {
    Ok(record(fields)?.unpaired())
}

/// A row that asks for judgements.
pub(crate) struct Asked {
    /// The conversation up to the answer.
    pub prompt: Vec<Message>,
    /// The answers of the row.
    pub responses: Vec<Response>,
    /// The judgement that is known to be right.
    pub gold: Option<Judgement>,
    /// The row is one answer of several that other rows give to the same prompt.
    pub is_sample: bool,
}

/// Rows of three forms: a prompt with `responses`, texts or objects, and perhaps `gold`; a prompt with one `completion`, as `hone sample`
/// writes them; a prompt alone.
pub(crate) fn asked(mut fields: Fields) -> Result<Asked, String> {
    let fields = &mut fields;
    let prompt = match (take(fields, "prompt"), take(fields, "messages")) {
        (Some(prompt), _) => prompt_messages(prompt, "prompt")?,
        (None, Some(turns)) => messages(turns, "messages")?,
        (None, None) => return Err("no `prompt` or `messages`".into()),
    };
    let model = take_optional_text(fields, "model")?;
    if let Some(list) = take(fields, "responses") {
        let Value::Array(list) = list else {
            return Err(format!("`responses` is {}, expected an array", describe(&list)));
        };
        let responses = list.into_iter().enumerate().map(|(i, value)| match value {
            Value::String(text) => Ok(Response::new(text)),
            other => serde_json::from_value(other).map_err(|error| format!("`responses[{i}]`: {error}")),
        });
        let gold = take(fields, "gold").map(serde_json::from_value).transpose();
        return Ok(Asked {
            prompt,
            responses: responses.collect::<Result<_, String>>()?,
            gold: gold.map_err(|error| format!("`gold`: {error}"))?,
            is_sample: false,
        });
    }
    let Some(completion) = take(fields, "completion") else {
        return Ok(Asked {
            prompt,
            responses: Vec::new(),
            gold: None,
            is_sample: false,
        });
    };
    Ok(Asked {
        prompt,
        responses: vec![Response {
            text: reply_text(completion, "completion")?,
            model,
            sampling: take(fields, "sampling"),
            weights: take_optional_text(fields, "weights")?,
        }],
        gold: None,
        is_sample: true,
    })
}
