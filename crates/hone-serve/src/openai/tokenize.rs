//! `GET /tokenizer_info`, `POST /tokenize`, `POST /detokenize`: what evaluation harnesses ask for, without a key. They say what
//! the tokenizer's files say, and nothing of the weights.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::Response;
use hone_text::{AddSpecial, SkipSpecial, Tokenizer};
use serde_json::{Value, json};

use crate::openai::fields::{Fields, wrong};
use crate::openai::prompts::{self, Given};
use crate::openai::{ApiError, answered, prepared, reply};
use crate::shared::Shared;

/// The tokenizer's special tokens and template; `?model=NAME` where there are several models.
pub(crate) async fn info(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let query = uri.query().unwrap_or_default();
    let name = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("model="))
        .map(decoded);
    // Without a name the first: clients that ask this way know of one model
    let name = name.or_else(|| shared.models.first().map(|served| served.name.clone()));
    let found = shared.model(name.as_deref());
    answered(found.map(|(_, served)| {
        let tokenizer = &served.tokenizer;
        let token = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
        reply(&json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model": served.name,
            "vocab_size": tokenizer.vocab_size(),
            "model_max_length": served.context(),
            "bos_token": token(tokenizer.bos()),
            "eos_token": token(tokenizer.eos().or_else(|| tokenizer.document_separator())),
            "pad_token": token(tokenizer.pad()),
            "unk_token": token(tokenizer.unk()),
            "additional_special_tokens": special(tokenizer),
            "chat_template": tokenizer.chat_template(),
        }))
    }))
}

fn special(tokenizer: &Tokenizer) -> Vec<&str> {
    tokenizer.special_tokens().map(|(_, token)| token).collect()
}

/// A part of a query, its `%XX` and `+` undone; what is no text stays as it is.
fn decoded(text: &str) -> String {
    let raw = text.as_bytes();
    let digit = |at: usize| raw.get(at).and_then(|&byte| (byte as char).to_digit(16));
    let mut bytes = Vec::with_capacity(raw.len());
    let mut at = 0;
    while at < raw.len() {
        match (raw[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) => bytes.push(b' '),
            (byte, ..) => bytes.push(byte),
        }
        at += 1;
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// The ids of a text or of a conversation.
pub(crate) async fn tokenize(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answered(
        prepared(&shared, request, try_tokenize)
            .await
            .map(|value| reply(&value)),
    )
}

fn try_tokenize(shared: &Shared, mut fields: Fields) -> Result<Value, ApiError> {
    let (_, served) = shared.model(named(shared, &mut fields)?.as_deref())?;
    let tokenizer = &served.tokenizer;
    let add = match fields.take("add_special_tokens") {
        None | Some(Value::Bool(true)) => AddSpecial::Yes,
        Some(Value::Bool(false)) => AddSpecial::No,
        Some(other) => return Err(wrong("add_special_tokens", &other, "true or false")),
    };
    let strings = fields.flag("return_token_strs")?;
    let ids = match (fields.text("prompt")?, fields.take("messages")) {
        (Some(text), None) => tokenizer.encode(&text, add),
        (None, Some(messages)) => {
            let messages = prompts::messages("messages", messages)?;
            let Some(chat) = &served.chat else {
                let message = format!("`{}` has no chat template", served.name);
                return Err(ApiError::bad("messages", message));
            };
            chat.prompt_ids(&messages)
        }
        _ => return Err(ApiError::bad("prompt", "expected either `prompt` or `messages`")),
    };
    fields.finish()?;
    let ids = ids.map_err(|error| ApiError::bad("prompt", error.to_string()))?;
    let names: Option<Vec<_>> = strings.then(|| ids.iter().map(|&id| tokenizer.id_to_token(id)).collect());
    Ok(json!({
        "count": ids.len(),
        "max_model_len": served.context(),
        "tokens": ids,
        "token_strs": names,
    }))
}

/// The text of ids, control tokens included.
pub(crate) async fn detokenize(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answered(
        prepared(&shared, request, try_detokenize)
            .await
            .map(|value| reply(&value)),
    )
}

fn try_detokenize(shared: &Shared, mut fields: Fields) -> Result<Value, ApiError> {
    let (_, served) = shared.model(named(shared, &mut fields)?.as_deref())?;
    let ids = match fields.take("tokens") {
        Some(Value::Array(list)) if list.is_empty() => Vec::new(),
        Some(value) => match prompts::read("tokens", value)?.pop() {
            Some(Given::Ids(ids)) => ids,
            _ => return Err(ApiError::bad("tokens", "`tokens` is no list of token ids")),
        },
        None => {
            return Err(ApiError::bad(
                "tokens",
                "`tokens` is missing; expected a list of token ids",
            ));
        }
    };
    fields.finish()?;
    let text = served.tokenizer.decode(&ids, SkipSpecial::No);
    let text = text.map_err(|error| ApiError::bad("tokens", error.to_string()))?;
    Ok(json!({"prompt": text}))
}

/// The model that is named, or the first: clients that ask these routes know of one model.
fn named(shared: &Shared, fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let name = fields.text("model")?;
    Ok(name.or_else(|| shared.models.first().map(|served| served.name.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        assert_eq!(decoded("org%2Fname+x"), "org/name x");
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz%4"), "%zz%4");
        assert_eq!(decoded("%ff"), "%ff");
    }
}
