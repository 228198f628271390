//! `POST /v1/embeddings`: the mean of a text's last hidden states, of length 1.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};

use crate::engine::{Answer, Question};
use crate::openai::fields::{Fields, wrong};
use crate::openai::logprobs::number;
use crate::openai::prompts::{self, Prompt};
use crate::openai::{ApiError, answered, prepared, reply};
use crate::shared::{Found, Shared};

/// Texts to be embedded.
struct Asked {
    found: Found,
    texts: Vec<Arc<[u32]>>,
    /// Whether numbers go out as base64 of little-endian f32, which OpenAI's own client asks for.
    base64: bool,
}

/// Embeds texts.
pub(crate) async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answered(try_answer(&shared, request).await)
}

async fn try_answer(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let asked = prepared(shared, request, prepare).await?;
    let _places = shared.places(asked.texts.len())?;
    let tokens: usize = asked.texts.iter().map(|ids| ids.len()).sum();
    let texts = asked.texts.into_iter().map(|ids| (Question::Embedding, ids)).collect();
    let answers = shared.engine.read(asked.found.0, texts).await?;
    let datum = |(index, answer): (usize, Answer)| {
        let Answer::Embedding(numbers) = answer else {
            return Value::Null;
        };
        let embedding: Value = match asked.base64 {
            true => in_base64(&numbers).into(),
            false => numbers
                .iter()
                .map(|&x| if x.is_finite() { f64::from(x) } else { number(x) })
                .collect(),
        };
        json!({"object": "embedding", "index": index, "embedding": embedding})
    };
    let data: Vec<Value> = answers.into_iter().enumerate().map(datum).collect();
    Ok(reply(&json!({
        "object": "list",
        "data": data,
        "model": asked.found.1.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })))
}

fn prepare(shared: &Shared, mut fields: Fields) -> Result<Asked, ApiError> {
    let found = shared.model(fields.text("model")?.as_deref())?;
    let served = &found.1;
    let Some(input) = fields.take("input") else {
        return Err(ApiError::bad(
            "input",
            "`input` is missing; expected text, token ids, or a list of these",
        ));
    };
    let base64 = match fields.text("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => return Err(wrong("encoding_format", &json!(other), "float or base64")),
    };
    let width = served.transformer().architecture().width as u64;
    let whole = |value: &Value| value.as_u64() == Some(width);
    fields.only(
        "dimensions",
        whole,
        &format!("`{}` has embeddings of {width} numbers", served.name),
    )?;
    fields.pass_over(&["user"]);
    fields.finish()?;
    let given = prompts::read("input", input)?;
    let mut texts = Vec::with_capacity(given.len());
    for (i, given) in given.into_iter().enumerate() {
        let place = format!("input[{i}]");
        let prompt = Prompt::raw(served, &place, given)?;
        prompts::check_length(served, &place, prompt.ids.len(), 0)?;
        texts.push(prompt.ids);
    }
    Ok(Asked { found, texts, base64 })
}

/// Numbers as base64 (RFC 4648) of their bytes.
fn in_base64(numbers: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            // A group of n bytes has n + 1 digits
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize] as char;
            text.push(if i <= group.len() { digit } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_by_hand() {
        // 1.0 is 00 00 80 3f
        assert_eq!(in_base64(&[1.0]), "AACAPw==");
        assert_eq!(in_base64(&[1.0, -2.0]), "AACAPwAAAMA=");
        assert_eq!(in_base64(&[0.0; 3]), "AAAAAAAAAAAAAAAA");
        assert_eq!(in_base64(&[]), "");
    }
}
