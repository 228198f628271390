//! `tokenizer.json`: parsing, checking, rewriting, and its digest.
//!
//! The tokenizers crate panics on some crafted files and silently renumbers added tokens in
//! others, so what it relies on is checked here first. Truncation and padding settings are
//! dropped: cutting and padding belong to whoever builds batches.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// The largest id that is believed, exclusive: embeddings have a row for each id.
const MAX_IDS: u64 = 1 << 24;
/// How many ids may lack a token, beside as many as have one.
const MAX_GAPS: usize = 4096;
/// The longest token in bytes.
const MAX_TOKEN_BYTES: usize = 1 << 16;
/// The longest section other than the vocabulary, in bytes (a sentencepiece character map is the
/// longest that occurs).
const MAX_SECTION_BYTES: usize = 8 << 20;

/// An entry of `added_tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AddedEntry {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub normalized: bool,
    #[serde(default)]
    pub special: bool,
}

impl AddedEntry {
    /// A control token: never normalised, skipped on request when decoding.
    pub(super) fn control(id: u32, content: &str) -> Self {
        AddedEntry {
            id,
            content: content.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: true,
        }
    }
}

/// The sections of `tokenizer.json`, unread ones kept to the byte.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TokenizerFile {
    #[serde(default = "version_1")]
    version: String,
    #[serde(default, skip_deserializing)]
    truncation: Option<()>,
    #[serde(default, skip_deserializing)]
    padding: Option<()>,
    #[serde(default)]
    pub added_tokens: Vec<AddedEntry>,
    #[serde(default)]
    pub normalizer: Option<Box<RawValue>>,
    #[serde(default)]
    pub pre_tokenizer: Option<Box<RawValue>>,
    #[serde(default)]
    post_processor: Option<Box<RawValue>>,
    #[serde(default)]
    decoder: Option<Box<RawValue>>,
    model: Box<RawValue>,
}

fn version_1() -> String {
    "1.0".to_owned()
}

/// What the checks read out of a file.
pub(super) struct Checked {
    /// The file's text, rewritten.
    pub json: String,
    /// Its added tokens by ascending id.
    pub added: Vec<AddedEntry>,
    /// The number of ids: the largest id plus one.
    pub vocab_size: usize,
    /// Whether tokens are written in the characters of byte-level BPE.
    pub byte_level: bool,
    /// Whether `<0xAB>` tokens stand for bytes.
    pub byte_fallback: bool,
    /// The prefix of tokens that continue a word (WordPiece's `##`).
    pub continuing_prefix: Option<String>,
    /// The token for what the vocabulary cannot write.
    pub unk: Option<String>,
    /// The digest of everything that decides which ids a text gets.
    pub digest: String,
}

#[derive(Deserialize)]
struct ModelSection<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(borrow)]
    vocab: &'a RawValue,
    #[serde(borrow, default)]
    merges: Option<&'a RawValue>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    unk_id: Option<u64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: Option<bool>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    ignore_merges: Option<bool>,
    #[serde(default)]
    max_input_chars_per_word: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MergeEntry {
    Pair(String, String),
    Line(String),
}

impl TokenizerFile {
    pub(super) fn parse(json: &str) -> Result<Self, String> {
        let file: TokenizerFile =
            serde_json::from_str(json).map_err(|error| format!("not a tokenizer.json: {error}"))?;
        if file.version != "1.0" {
            return Err(format!("version is {:?}, expected \"1.0\"", truncated(&file.version)));
        }
        Ok(file)
    }

    /// Checks the file and summarises it; the error says what is wrong and where.
    pub(super) fn check(&mut self) -> Result<Checked, String> {
        for (name, section) in self.sections() {
            let bytes = section.map_or(0, |raw| raw.get().len());
            if bytes > MAX_SECTION_BYTES {
                return Err(format!(
                    "{name} has {bytes} bytes, more than the {MAX_SECTION_BYTES} allowed"
                ));
            }
        }
        self.added_tokens.sort_by_key(|token| token.id);
        let model: ModelSection = serde_json::from_str(self.model.get()).map_err(|error| format!("model: {error}"))?;
        if model.dropout.is_some_and(|p| p != 0.0) {
            return Err(
                "model.dropout is set, so that the same text would get other ids each time; \
                 set it to null"
                    .to_owned(),
            );
        }
        let vocab = Vocabulary::read(&model)?;
        let merges = model.merges.map(read_merges).transpose()?;
        let merges = merges.unwrap_or_default();
        let prefix = model.continuing_subword_prefix.as_deref().unwrap_or("");
        vocab.check_merges(&merges, prefix)?;
        if let Some(unk) = &model.unk_token
            && !vocab.ids.contains_key(unk)
            && model.kind.as_deref() == Some("BPE")
        {
            return Err(format!("model.unk_token {:?} is not in the vocabulary", truncated(unk)));
        }
        if let Some(id) = model.unk_id
            && id >= vocab.entries.len() as u64
        {
            return Err(format!(
                "model.unk_id is {id}, beyond the vocabulary of {} pieces",
                vocab.entries.len()
            ));
        }
        self.check_added(&vocab)?;
        let largest_added = self.added_tokens.iter().map(|token| u64::from(token.id));
        let largest = vocab.entries.iter().map(|&(id, _, _)| id);
        let vocab_size = largest.chain(largest_added).max().map_or(0, |id| id + 1) as usize;
        if vocab_size == 0 {
            return Err("the vocabulary is empty".to_owned());
        }
        let tokens = vocab.entries.len() + self.added_tokens.len();
        if vocab_size > 2 * tokens + MAX_GAPS {
            return Err(format!(
                "the largest id is {}, but there are {tokens} tokens: most ids have none",
                vocab_size - 1
            ));
        }
        let digest = self.digest(&model, &vocab, &merges)?;
        let unk = model.unk_token.clone().or_else(|| {
            let id = model.unk_id?;
            Some(vocab.entries.get(id as usize)?.1.clone())
        });
        let wordpiece = model.kind.as_deref() == Some("WordPiece");
        Ok(Checked {
            byte_level: names_type(self.decoder.as_deref(), "ByteLevel"),
            byte_fallback: names_type(self.decoder.as_deref(), "ByteFallback"),
            continuing_prefix: match model.continuing_subword_prefix {
                Some(prefix) if !prefix.is_empty() => Some(prefix),
                None if wordpiece => Some("##".to_owned()),
                _ => None,
            },
            json: serde_json::to_string(self).map_err(|error| error.to_string())?,
            added: self.added_tokens.clone(),
            vocab_size,
            unk,
            digest,
        })
    }

    fn sections(&self) -> [(&'static str, Option<&RawValue>); 4] {
        [
            ("normalizer", self.normalizer.as_deref()),
            ("pre_tokenizer", self.pre_tokenizer.as_deref()),
            ("post_processor", self.post_processor.as_deref()),
            ("decoder", self.decoder.as_deref()),
        ]
    }

    fn check_added(&self, vocab: &Vocabulary) -> Result<(), String> {
        let mut contents = std::collections::HashSet::new();
        let mut previous = None;
        for token in &self.added_tokens {
            let shown = truncated(&token.content);
            if token.content.is_empty() {
                return Err(format!("added_tokens: id {} is empty", token.id));
            }
            if token.content.len() > MAX_TOKEN_BYTES {
                return Err(format!("added_tokens: {shown:?} is too long"));
            }
            if u64::from(token.id) >= MAX_IDS {
                return Err(format!(
                    "added_tokens: {shown:?} has id {}, not below {MAX_IDS}",
                    token.id
                ));
            }
            if previous == Some(token.id) || !contents.insert(token.content.as_str()) {
                return Err(format!("added_tokens: {shown:?} (id {}) is there twice", token.id));
            }
            previous = Some(token.id);
            if let Some(&id) = vocab.ids.get(&token.content)
                && id != u64::from(token.id)
            {
                return Err(format!(
                    "added_tokens: {shown:?} has id {}, but id {id} in the model's vocabulary",
                    token.id
                ));
            }
        }
        Ok(())
    }

    /// Hashes what decides which ids a text gets: the vocabulary, merges, added tokens,
    /// normaliser, pre-tokenizer and post-processor, not their spelling in the file.
    fn digest(
        &self,
        model: &ModelSection<'_>,
        vocab: &Vocabulary,
        merges: &[(String, String)],
    ) -> Result<String, String> {
        let mut hash = Hasher(blake3::Hasher::new());
        hash.text("hone tokenizer 1");
        hash.text(model.kind.as_deref().unwrap_or("BPE"));
        for text in [
            &model.unk_token,
            &model.continuing_subword_prefix,
            &model.end_of_word_suffix,
        ] {
            hash.text(text.as_deref().unwrap_or(""));
        }
        for flag in [model.fuse_unk, model.byte_fallback, model.ignore_merges] {
            hash.number(u64::from(flag.unwrap_or(false)));
        }
        hash.number(model.unk_id.map_or(0, |id| id + 1));
        hash.number(model.max_input_chars_per_word.unwrap_or(0));
        hash.number(vocab.entries.len() as u64);
        for (id, token, score) in &vocab.entries {
            hash.number(*id);
            hash.text(token);
            hash.number(score.to_bits());
        }
        hash.number(merges.len() as u64);
        for (left, right) in merges {
            hash.text(left);
            hash.text(right);
        }
        hash.number(self.added_tokens.len() as u64);
        for token in &self.added_tokens {
            hash.number(u64::from(token.id));
            hash.text(&token.content);
            for flag in [
                token.single_word,
                token.lstrip,
                token.rstrip,
                token.normalized,
                token.special,
            ] {
                hash.number(u64::from(flag));
            }
        }
        for (name, section) in &self.sections()[..3] {
            let value: Value = match section {
                // The byte-level post-processor moves offsets, not ids.
                Some(raw) if names_type(Some(raw), "ByteLevel") && *name == "post_processor" => Value::Null,
                Some(raw) => serde_json::from_str(raw.get()).map_err(|error| format!("{name}: {error}"))?,
                None => Value::Null,
            };
            hash.text(&canonical(&value).unwrap_or(Value::Null).to_string());
        }
        Ok(hash.0.finalize().to_hex().to_string())
    }
}

/// The model's tokens as `(id, token, score)` by ascending id, and by token.
struct Vocabulary {
    entries: Vec<(u64, String, f64)>,
    ids: HashMap<String, u64>,
}

impl Vocabulary {
    fn read(model: &ModelSection<'_>) -> Result<Self, String> {
        let failed = |error: serde_json::Error| format!("model.vocab: {error}");
        let mut entries: Vec<(u64, String, f64)> = Vec::new();
        if model.kind.as_deref() == Some("Unigram") {
            let pieces: Vec<(String, f64)> = serde_json::from_str(model.vocab.get()).map_err(failed)?;
            for (id, (token, score)) in pieces.into_iter().enumerate() {
                entries.push((id as u64, token, score));
            }
        } else {
            let map: HashMap<String, u64> = serde_json::from_str(model.vocab.get()).map_err(failed)?;
            entries.extend(map.into_iter().map(|(token, id)| (id, token, 0.0)));
            entries.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        }
        for pair in entries.windows(2) {
            if pair[0].0 == pair[1].0 {
                return Err(format!(
                    "model.vocab: id {} is given to {:?} and to {:?}",
                    pair[0].0,
                    truncated(&pair[0].1),
                    truncated(&pair[1].1)
                ));
            }
        }
        for (id, token, _) in &entries {
            if *id >= MAX_IDS {
                return Err(format!(
                    "model.vocab: {:?} has id {id}, not below {MAX_IDS}",
                    truncated(token)
                ));
            }
            if token.len() > MAX_TOKEN_BYTES {
                return Err(format!(
                    "model.vocab: the token with id {id} has {} bytes, more than {MAX_TOKEN_BYTES}",
                    token.len()
                ));
            }
        }
        let ids = entries.iter().map(|(id, t, _)| (t.clone(), *id)).collect();
        Ok(Vocabulary { entries, ids })
    }

    fn check_merges(&self, merges: &[(String, String)], prefix: &str) -> Result<(), String> {
        for (rank, (left, right)) in merges.iter().enumerate() {
            let place = |what: &str, token: &str| {
                format!(
                    "model.merges[{rank}] ({:?} {:?}): the {what} {:?} is not in the vocabulary",
                    truncated(left),
                    truncated(right),
                    truncated(token)
                )
            };
            for part in [left, right] {
                if !self.ids.contains_key(part) {
                    return Err(place("part", part));
                }
            }
            let Some(rest) = right.strip_prefix(prefix) else {
                return Err(format!(
                    "model.merges[{rank}]: {:?} lacks the prefix {prefix:?} of continuing tokens",
                    truncated(right)
                ));
            };
            let merged = format!("{left}{rest}");
            if !self.ids.contains_key(&merged) {
                return Err(place("result", &merged));
            }
        }
        Ok(())
    }
}

fn read_merges(raw: &RawValue) -> Result<Vec<(String, String)>, String> {
    let entries: Vec<MergeEntry> = serde_json::from_str(raw.get()).map_err(|error| format!("model.merges: {error}"))?;
    let lines = entries.into_iter().enumerate();
    lines
        .filter(|(_, entry)| !matches!(entry, MergeEntry::Line(l) if l.starts_with("#version")))
        .map(|(rank, entry)| match entry {
            MergeEntry::Pair(left, right) => Ok((left, right)),
            MergeEntry::Line(line) => {
                split_merge(&line).ok_or_else(|| format!("model.merges[{rank}]: {:?} is not a pair", truncated(&line)))
            }
        })
        .collect()
}

/// The two parts of a line of a merges file.
pub(super) fn split_merge(line: &str) -> Option<(String, String)> {
    let (left, right) = line.split_once(' ')?;
    let pair = !left.is_empty() && !right.is_empty() && !right.contains(' ');
    pair.then(|| (left.to_owned(), right.to_owned()))
}

/// Whether a section is of a type, or a sequence with a member of it.
fn names_type(section: Option<&RawValue>, wanted: &str) -> bool {
    fn search(value: &Value, wanted: &str) -> bool {
        match value {
            Value::Object(map) => {
                map.get("type").and_then(Value::as_str) == Some(wanted)
                    || map.values().any(|inner| search(inner, wanted))
            }
            Value::Array(items) => items.iter().any(|inner| search(inner, wanted)),
            _ => false,
        }
    }
    section
        .and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok())
        .is_some_and(|value| search(&value, wanted))
}

/// A section with sorted keys and without what has no effect on ids.
fn canonical(value: &Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            let mut out = serde_json::Map::new();
            for key in keys {
                let default = key == "use_regex" && map[key] == Value::Bool(true);
                if key != "trim_offsets" && !default {
                    out.insert(key.clone(), canonical(&map[key])?);
                }
            }
            Some(Value::Object(out))
        }
        Value::Array(items) => items.iter().map(canonical).collect::<Option<_>>(),
        other => Some(other.clone()),
    }
}

/// A hash over fields whose ends are marked.
struct Hasher(blake3::Hasher);

impl Hasher {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }
}

/// The first characters of a token, for messages.
pub(super) fn truncated(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}
