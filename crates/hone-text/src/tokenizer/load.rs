//! Reading a tokenizer directory.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Result, TextError};
use crate::tokenizer::file::{AddedEntry, TokenizerFile, split_merge};
use crate::tokenizer::{ChatSources, Core, END_OF_TEXT, Tokenizer};

pub(super) const TOKENIZER_JSON: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
pub(super) const GENERATION_CONFIG: &str = "generation_config.json";
const MODEL_CONFIG: &str = "config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// The largest vocabulary file.
pub(super) const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// The largest configuration file.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

pub(super) fn from_dir(dir: &Path) -> Result<Tokenizer> {
    let core = read_core(dir)?;
    let mut tokenizer = Tokenizer::from_core(core);
    let config = read_config(&dir.join(TOKENIZER_CONFIG))?;
    read_roles(&mut tokenizer, dir, &config)?;
    if !dir.join(TOKENIZER_JSON).is_file() && tokenizer.roles.eos.is_none() {
        // GPT-2's own files name no roles: its one special token begins and ends a text.
        let end_of_text = tokenizer.token_to_id(END_OF_TEXT);
        let roles = &mut tokenizer.roles;
        roles.bos = roles.bos.or(end_of_text);
        roles.eos = end_of_text;
        roles.eos_ids = end_of_text.into_iter().collect();
    }
    tokenizer.chat = read_chat(dir, &config)?;
    // transformers writes 1e30 where it knows no length; that is no integer.
    tokenizer.model_max_length = config.get("model_max_length").and_then(Value::as_u64);
    Ok(tokenizer)
}

fn read_core(dir: &Path) -> Result<Core> {
    let path = dir.join(TOKENIZER_JSON);
    if let Some(json) = read_text(&path, MAX_TOKENIZER_BYTES)? {
        return Core::new(&json, &path);
    }
    for (vocab, merges) in [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")] {
        for (vocab, merges) in [(vocab, merges), (vocab, other_merges(merges))] {
            let (vocab_path, merges_path) = (dir.join(vocab), dir.join(merges));
            if vocab_path.is_file() && merges_path.is_file() {
                let json = gpt2_json(&vocab_path, &merges_path)?;
                return Core::new(&json, &vocab_path);
            }
        }
    }
    Err(TextError::NoTokenizer { dir: dir.to_owned() })
}

fn other_merges(merges: &str) -> &'static str {
    if merges == "merges.txt" {
        "vocab.bpe"
    } else {
        "merges.txt"
    }
}

/// The `tokenizer.json` that GPT-2's two files amount to: byte-level BPE without a prefix space,
/// `<|endoftext|>` the only special token.
fn gpt2_json(vocab_path: &Path, merges_path: &Path) -> Result<String> {
    let malformed = |path: &Path, reason: String| TextError::MalformedTokenizer {
        path: path.to_owned(),
        reason,
    };
    let vocab_text = read_text(vocab_path, MAX_TOKENIZER_BYTES)?.unwrap_or_default();
    let vocab: HashMap<String, u32> = serde_json::from_str(&vocab_text)
        .map_err(|error| malformed(vocab_path, format!("not a map of tokens to ids: {error}")))?;
    let merges_text = read_text(merges_path, MAX_TOKENIZER_BYTES)?.unwrap_or_default();
    let mut merges = Vec::new();
    for (index, line) in merges_text.lines().enumerate() {
        if line.is_empty() || (index == 0 && line.starts_with("#version")) {
            continue;
        }
        let pair = split_merge(line).ok_or_else(|| {
            let reason = format!("line {}: expected two tokens with a space between", index + 1);
            malformed(merges_path, reason)
        })?;
        merges.push(pair);
    }
    let special = vocab.get(END_OF_TEXT);
    let special = special.map(|&id| AddedEntry::control(id, END_OF_TEXT));
    Ok(byte_level_json(ByteLevelParts {
        added: special.into_iter().collect(),
        pre_tokenizer: json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
        }),
        vocab,
        merges,
    }))
}

/// What differs between byte-level BPE tokenizers.
pub(super) struct ByteLevelParts {
    pub added: Vec<AddedEntry>,
    pub pre_tokenizer: Value,
    pub vocab: HashMap<String, u32>,
    pub merges: Vec<(String, String)>,
}

/// Writes the `tokenizer.json` of a byte-level BPE, vocabulary by ascending id.
fn byte_level_json(parts: ByteLevelParts) -> String {
    let mut entries: Vec<(String, u32)> = parts.vocab.into_iter().collect();
    entries.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    let vocab: Map<String, Value> = entries.into_iter().map(|(t, id)| (t, json!(id))).collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": parts.added,
        "normalizer": null,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": parts.merges,
        },
    })
    .to_string()
}

fn read_roles(tokenizer: &mut Tokenizer, dir: &Path, config: &Map<String, Value>) -> Result<()> {
    let map_path = dir.join(SPECIAL_TOKENS_MAP);
    let map = read_config(&map_path)?;
    let config_path = dir.join(TOKENIZER_CONFIG);
    let mut ids = [None; 4];
    let keys = ["bos_token", "eos_token", "pad_token", "unk_token"];
    for (slot, key) in ids.iter_mut().zip(keys) {
        for (source, path) in [(config, &config_path), (&map, &map_path)] {
            let Some(token) = source.get(key).and_then(token_text) else {
                continue;
            };
            match tokenizer.token_to_id(token) {
                Some(id) => *slot = Some(id),
                // A padding token is never fed to the model, nor an unknown token that is
                // not there.
                None if matches!(key, "pad_token" | "unk_token") => {}
                None => {
                    return Err(TextError::UnknownSpecialToken {
                        path: path.clone(),
                        role: key,
                        got: format!("{token:?}"),
                        vocab_size: tokenizer.vocab_size(),
                    });
                }
            }
            break;
        }
    }
    let [mut bos, mut eos, mut pad, unk] = ids;
    let mut eos_ids: Vec<u32> = eos.into_iter().collect();
    for name in [GENERATION_CONFIG, MODEL_CONFIG] {
        let path = dir.join(name);
        let source = read_config(&path)?;
        if name == GENERATION_CONFIG || eos.is_none() {
            for id in read_ids(tokenizer, &path, &source, "eos_token_id")? {
                if !eos_ids.contains(&id) {
                    eos_ids.push(id);
                }
            }
        }
        eos = eos.or(eos_ids.first().copied());
        for (slot, key) in [(&mut bos, "bos_token_id"), (&mut pad, "pad_token_id")] {
            if slot.is_none() {
                let ids = read_ids(tokenizer, &path, &source, key)?;
                *slot = ids.first().copied();
            }
        }
    }
    let control: Vec<String> = [bos, eos, pad]
        .into_iter()
        .flatten()
        .chain(eos_ids.iter().copied())
        .filter(|&id| !tokenizer.is_special(id))
        .filter_map(|id| tokenizer.id_to_token(id))
        .collect();
    if !control.is_empty() {
        let names: Vec<&str> = control.iter().map(String::as_str).collect();
        tokenizer.add_tokens(&names)?;
    }
    let roles = &mut tokenizer.roles;
    (roles.bos, roles.eos, roles.pad, roles.eos_ids) = (bos, eos, pad, eos_ids);
    roles.unk = unk.or(roles.unk);
    Ok(())
}

/// A token given as a string or as an `AddedToken` object.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// An entry that holds an id or a list of ids.
fn read_ids(tokenizer: &Tokenizer, path: &Path, source: &Map<String, Value>, key: &'static str) -> Result<Vec<u32>> {
    let values = match source.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
    };
    let mut ids = Vec::with_capacity(values.len());
    for value in values {
        // Some configurations write -1 for "none".
        if value.as_i64() == Some(-1) {
            continue;
        }
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        match id.filter(|&id| tokenizer.token_bytes(id).is_some()) {
            Some(id) => ids.push(id),
            None => {
                return Err(TextError::UnknownSpecialToken {
                    path: path.to_owned(),
                    role: key,
                    got: value.to_string(),
                    vocab_size: tokenizer.vocab_size(),
                });
            }
        }
    }
    Ok(ids)
}

fn read_chat(dir: &Path, config: &Map<String, Value>) -> Result<ChatSources> {
    let mut chat = ChatSources::default();
    match config.get("chat_template") {
        Some(Value::String(source)) => chat.default = Some(source.clone()),
        Some(Value::Array(list)) => {
            for entry in list {
                let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
                match (text("name"), text("template")) {
                    (Some(name), Some(source)) if name == "default" => {
                        chat.default = Some(source);
                    }
                    (Some(name), Some(source)) => chat.named.push((name, source)),
                    _ => {
                        return Err(TextError::MalformedTokenizer {
                            path: dir.join(TOKENIZER_CONFIG),
                            reason: "chat_template: expected {\"name\", \"template\"} in each \
                                     entry of the list"
                                .to_owned(),
                        });
                    }
                }
            }
        }
        _ => {}
    }
    let limit = crate::jinja::MAX_SOURCE as u64;
    if let Some(source) = read_text(&dir.join(CHAT_TEMPLATE), limit)? {
        chat.default = Some(source);
    }
    Ok(chat)
}

/// A JSON object; empty where the file is absent.
fn read_config(path: &Path) -> Result<Map<String, Value>> {
    let Some(text) = read_text(path, MAX_CONFIG_BYTES)? else {
        return Ok(Map::new());
    };
    serde_json::from_str(&text).map_err(|error| TextError::MalformedTokenizer {
        path: path.to_owned(),
        reason: format!("expected a JSON object: {error}"),
    })
}

/// A file's text; `None` where there is no such file.
fn read_text(path: &Path, limit: u64) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(TextError::io(path, error)),
    };
    let bytes = file.metadata().map_err(|error| TextError::io(path, error))?.len();
    check_size(path, bytes, limit)?;
    let mut text = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut text)
        .map_err(|error| TextError::io(path, error))?;
    check_size(path, text.len() as u64, limit)?;
    if text.starts_with(b"version https://git-lfs") {
        return Err(TextError::LfsPointer { path: path.to_owned() });
    }
    let text = String::from_utf8(text).map_err(|error| TextError::MalformedTokenizer {
        path: path.to_owned(),
        reason: format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()),
    })?;
    Ok(Some(text))
}

pub(super) fn check_size(path: &Path, bytes: u64, limit: u64) -> Result<()> {
    if bytes > limit {
        return Err(TextError::FileTooLarge {
            path: path.to_owned(),
            bytes,
            limit,
        });
    }
    Ok(())
}

/// Builds a tokenizer from the parts of a byte-level BPE.
pub(super) fn byte_level(parts: ByteLevelParts) -> std::result::Result<Tokenizer, String> {
    let file = TokenizerFile::parse(&byte_level_json(parts))?;
    Ok(Tokenizer::from_core(Core::from_file(file)?))
}
