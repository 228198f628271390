//! Writing a tokenizer directory that transformers loads unchanged.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Result, TextError};
use crate::tokenizer::{Tokenizer, load};

pub(super) fn save(tokenizer: &Tokenizer, dir: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir).map_err(|error| TextError::io(dir, error))?;
    let special = special_tokens(tokenizer);
    let mut files = vec![
        (load::TOKENIZER_JSON, tokenizer.core.json.clone()),
        (load::TOKENIZER_CONFIG, pretty(config(tokenizer, &special))),
        (load::SPECIAL_TOKENS_MAP, pretty(Value::Object(special))),
    ];
    if let [_, _, ..] = tokenizer.eos_ids() {
        let mut generation = Map::new();
        for (key, id) in [("bos_token_id", tokenizer.bos()), ("pad_token_id", tokenizer.pad())] {
            if let Some(id) = id {
                generation.insert(key.to_owned(), json!(id));
            }
        }
        generation.insert("eos_token_id".to_owned(), json!(tokenizer.eos_ids()));
        files.push((load::GENERATION_CONFIG, pretty(Value::Object(generation))));
    }
    let mut written = Vec::with_capacity(files.len());
    for (name, text) in files {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|error| TextError::io(&path, error))?;
        written.push(path);
    }
    Ok(written)
}

fn special_tokens(tokenizer: &Tokenizer) -> Map<String, Value> {
    let roles = [
        ("bos_token", tokenizer.bos()),
        ("eos_token", tokenizer.eos()),
        ("pad_token", tokenizer.pad()),
        ("unk_token", tokenizer.unk()),
    ];
    let mut map = Map::new();
    for (key, id) in roles {
        if let Some(token) = id.and_then(|id| tokenizer.id_to_token(id)) {
            map.insert(key.to_owned(), Value::String(token));
        }
    }
    map
}

fn config(tokenizer: &Tokenizer, special: &Map<String, Value>) -> Value {
    let mut map = special.clone();
    map.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    // Otherwise transformers would remove spaces before punctuation when it decodes.
    map.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    if let Some(length) = tokenizer.model_max_length {
        map.insert("model_max_length".to_owned(), json!(length));
    }
    if let Some(template) = chat_template(tokenizer) {
        map.insert("chat_template".to_owned(), template);
    }
    Value::Object(map)
}

fn chat_template(tokenizer: &Tokenizer) -> Option<Value> {
    let default = tokenizer.chat.default.as_deref();
    if tokenizer.chat.named.is_empty() {
        return default.map(|source| json!(source));
    }
    let named = tokenizer.chat.named.iter();
    let named = named.map(|(name, source)| (name.as_str(), source.as_str()));
    let all = default.map(|source| ("default", source)).into_iter();
    let list = all.chain(named);
    Some(
        list.map(|(name, template)| json!({"name": name, "template": template}))
            .collect(),
    )
}

fn pretty(value: Value) -> String {
    let mut text = format!("{value:#}");
    text.push('\n');
    text
}
