//! Text that goes on with other text, as tokens.
//!
//! Tokenizers of sentencepiece's kind write a space before the text that they are given, so that a word has the same tokens at the beginning as
//! in the middle, and take it away again when they decode. A text that goes on where another ends needs no such space: with it, ` Paris`
//! would have two, and the `ing` of `going` one that nobody wrote. So what writes it is taken out of a copy of the tokenizer.

use serde_json::Value;
use serde_json::value::RawValue;

use super::file::TokenizerFile;

/// The same tokenizer without what it writes before a text; none where it writes nothing.
pub(super) fn continuing(file: &TokenizerFile) -> Result<Option<TokenizerFile>, String> {
    let normalizer = value(file.normalizer.as_deref())?;
    let pre_tokenizer = value(file.pre_tokenizer.as_deref())?;
    let without = (
        without_prepended(normalizer.clone()),
        without_first_space(pre_tokenizer.clone()),
    );
    if without == (normalizer, pre_tokenizer) {
        return Ok(None);
    }
    let mut continuing = file.clone();
    continuing.normalizer = section(&without.0)?;
    continuing.pre_tokenizer = section(&without.1)?;
    Ok(Some(continuing))
}

/// What a section holds; null of one that is absent.
fn value(section: Option<&RawValue>) -> Result<Value, String> {
    let read = |section: &RawValue| serde_json::from_str(section.get()).map_err(|error| error.to_string());
    section.map_or(Ok(Value::Null), read)
}

fn section(value: &Value) -> Result<Option<Box<RawValue>>, String> {
    if value.is_null() {
        return Ok(None);
    }
    let raw = serde_json::value::to_raw_value(value);
    raw.map(Some).map_err(|error| error.to_string())
}

fn is_of(section: &Value, kind: &str) -> bool {
    section.get("type").and_then(Value::as_str) == Some(kind)
}

/// A normaliser without `Prepend`; null where nothing else is in it.
fn without_prepended(mut normalizer: Value) -> Value {
    if is_of(&normalizer, "Prepend") {
        return Value::Null;
    }
    if is_of(&normalizer, "Sequence")
        && let Some(Value::Array(parts)) = normalizer.get_mut("normalizers")
    {
        let kept = std::mem::take(parts).into_iter().map(without_prepended);
        *parts = kept.filter(|part| !part.is_null()).collect();
    }
    normalizer
}

/// A pre-tokenizer whose parts add no space before a text.
fn without_first_space(mut pre_tokenizer: Value) -> Value {
    if is_of(&pre_tokenizer, "Sequence")
        && let Some(Value::Array(parts)) = pre_tokenizer.get_mut("pretokenizers")
    {
        for part in parts {
            *part = without_first_space(std::mem::take(part));
        }
        return pre_tokenizer;
    }
    let metaspace = is_of(&pre_tokenizer, "Metaspace");
    if let Value::Object(settings) = &mut pre_tokenizer {
        if metaspace {
            settings.remove("add_prefix_space");
            settings.insert("prepend_scheme".into(), "never".into());
        } else if settings.get("add_prefix_space") == Some(&Value::Bool(true)) {
            settings.insert("add_prefix_space".into(), false.into());
        }
    }
    pre_tokenizer
}
