//! Text to token ids and back.

mod bytes;
mod continuation;
mod file;
mod load;
mod save;
mod stream;
mod train;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::chat::CHATML_TEMPLATE;
use crate::error::{Result, TextError};
use file::{AddedEntry, TokenizerFile};

pub use stream::DecodeStream;
pub use train::{Digits, TrainOptions, train_bpe};

/// The token that separates documents in tokenizers of GPT-2's kind and in hone's own.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";
/// Begins a turn in ChatML.
pub(crate) const IM_START: &str = "<|im_start|>";
/// Ends a turn in ChatML.
pub(crate) const IM_END: &str = "<|im_end|>";

/// Whether `encode` adds the tokens that the tokenizer puts around a text (`<s>`, `[CLS]` ..).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddSpecial {
    /// Add them.
    Yes,
    /// The text's own tokens only.
    No,
}

/// Whether `decode` leaves special tokens out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipSpecial {
    /// Leave them out.
    Yes,
    /// Write them as text.
    No,
}

/// A tokenizer with its special tokens and its chat template. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    core: Arc<Core>,
    roles: Roles,
    chat: ChatSources,
    /// The context length stated in `tokenizer_config.json`, kept for writing.
    model_max_length: Option<u64>,
}

/// What special tokens are for; ids below the vocabulary's size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Roles {
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    unk: Option<u32>,
    /// Every id that ends a generation; `eos` first.
    eos_ids: Vec<u32>,
}

/// The chat template, and any others that the directory names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ChatSources {
    default: Option<String>,
    named: Vec<(String, String)>,
}

/// A checked tokenizer, immutable.
#[derive(Debug)]
struct Core {
    /// Parses special tokens that stand in the text.
    parsing: tokenizers::Tokenizer,
    /// Takes them for ordinary text; made when first needed, because it doubles the vocabulary.
    ordinary: OnceLock<tokenizers::Tokenizer>,
    /// Writes no space before a text; none where `ordinary` writes none either. Made when first needed.
    continuing: OnceLock<std::result::Result<Option<tokenizers::Tokenizer>, String>>,
    json: String,
    added: Vec<AddedEntry>,
    /// By id; `None` where an id has no token.
    tokens: Vec<Option<TokenEntry>>,
    byte_level: bool,
    unk: Option<u32>,
    digest: String,
}

#[derive(Debug)]
struct TokenEntry {
    bytes: Box<[u8]>,
    special: bool,
}

impl Tokenizer {
    /// Reads the tokenizer of a model directory: `tokenizer.json`, or GPT-2's `vocab.json`
    /// (`encoder.json`) with `merges.txt` (`vocab.bpe`), whose `<|endoftext|>` is then bos and eos
    /// unless another file says otherwise; the special tokens' roles from
    /// `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json` and, failing
    /// these, `config.json`; the chat template from `chat_template.jinja` or
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// Files that are absent, too large, malformed or that contradict each other, each named.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        load::from_dir(dir.as_ref())
    }

    /// Reads the text of a `tokenizer.json`. Roles are left empty but for the unknown token.
    ///
    /// # Errors
    /// As [`Tokenizer::from_dir`].
    pub fn from_json(json: &str) -> Result<Self> {
        let path = Path::new(load::TOKENIZER_JSON);
        load::check_size(path, json.len() as u64, load::MAX_TOKENIZER_BYTES)?;
        let core = Core::new(json, path)?;
        Ok(Tokenizer::from_core(core))
    }

    fn from_core(core: Core) -> Self {
        let roles = Roles {
            unk: core.unk,
            ..Roles::default()
        };
        Tokenizer {
            core: Arc::new(core),
            roles,
            chat: ChatSources::default(),
            model_max_length: None,
        }
    }

    /// The number of ids: the largest id plus one. Some ids below it may have no token.
    pub fn vocab_size(&self) -> usize {
        self.core.tokens.len()
    }

    /// Encodes text; special tokens written out in it become special tokens, as in transformers.
    /// For text from users take [`Tokenizer::encode_ordinary`].
    ///
    /// # Errors
    /// [`TextError::Encode`] where the tokenizer fails on the text.
    pub fn encode(&self, text: &str, add: AddSpecial) -> Result<Vec<u32>> {
        self.core.run(&self.core.parsing, text, add == AddSpecial::Yes)
    }

    /// Encodes text in which nothing is special: `<|im_end|>` in it becomes the tokens of its
    /// characters. Nothing is added around the text.
    ///
    /// # Errors
    /// [`TextError::Encode`], and [`TextError::ControlTokenFromText`] for a tokenizer that cannot
    /// write the text without a control token.
    pub fn encode_ordinary(&self, text: &str) -> Result<Vec<u32>> {
        let core = &*self.core;
        let ids = core.run(&core.parsing, text, false)?;
        if !ids.iter().any(|&id| core.is_special(id)) {
            return Ok(ids);
        }
        self.without_control(core.ordinary(), text)
    }

    /// The tokens of `text` where it goes on with `before`, which has tokens of its own: as [`Tokenizer::encode_ordinary`], but without the
    /// space that tokenizers of sentencepiece's kind write before a text. The tokens of both, one after the other, are decoded to both
    /// texts, one after the other.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_ordinary`].
    pub fn encode_after(&self, before: &str, text: &str) -> Result<Vec<u32>> {
        if before.is_empty() {
            return self.encode_ordinary(text);
        }
        let failed = |reason: &String| TextError::Encode {
            bytes: text.len(),
            reason: format!("no tokenizer for a text that goes on with another: {reason}"),
        };
        match self.core.continuing().map_err(failed)? {
            Some(continuing) => self.without_control(continuing, text),
            None => self.encode_ordinary(text),
        }
    }

    /// The tokens of a text by a tokenizer for which nothing is special.
    fn without_control(&self, by: &tokenizers::Tokenizer, text: &str) -> Result<Vec<u32>> {
        let core = &*self.core;
        let ids = core.run(by, text, false)?;
        if core.first_control(&ids).is_none() {
            return Ok(ids);
        }
        // The model's own vocabulary holds a control token as a piece of text: character by
        // character it cannot appear, unless it is one character long.
        let mut ids = Vec::with_capacity(text.len());
        let mut buffer = [0; 4];
        for character in text.chars() {
            ids.extend(core.run(by, character.encode_utf8(&mut buffer), false)?);
        }
        match core.first_control(&ids) {
            None => Ok(ids),
            Some(id) => Err(TextError::ControlTokenFromText {
                token: self.id_to_token(id).unwrap_or_default(),
                id,
            }),
        }
    }

    /// Whether each token is a sequence of bytes by itself, so that a text's tokens can be decoded piece by piece.
    pub fn is_byte_level(&self) -> bool {
        self.core.byte_level
    }

    /// Decodes ids. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TextError::UnknownId`] for an id without a token, [`TextError::Decode`] where the
    /// tokenizer fails.
    pub fn decode(&self, ids: &[u32], skip: SkipSpecial) -> Result<String> {
        let core = &*self.core;
        if core.byte_level {
            let mut bytes = Vec::with_capacity(ids.len() * 4);
            for &id in ids {
                let entry = core.entry(id)?;
                if skip == SkipSpecial::No || !entry.special {
                    bytes.extend_from_slice(&entry.bytes);
                }
            }
            return Ok(match String::from_utf8(bytes) {
                Ok(text) => text,
                Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
            });
        }
        for &id in ids {
            core.entry(id)?;
        }
        contained(|| core.parsing.decode(ids, skip == SkipSpecial::Yes)).map_err(|reason| TextError::Decode {
            tokens: ids.len(),
            reason,
        })
    }

    /// The bytes that a token stands for in the middle of a text; `None` for an id without a
    /// token. Joined, the bytes of a byte-level tokenizer's ids are the text; with other
    /// tokenizers the first space may differ from [`Tokenizer::decode`]'s.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        let entry = self.core.tokens.get(id as usize)?.as_ref()?;
        Some(&entry.bytes)
    }

    /// A decoder that takes one id at a time.
    pub fn decode_stream(&self, skip: SkipSpecial) -> DecodeStream {
        DecodeStream::new(self.clone(), skip)
    }

    /// The id of a token, special or not.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.core.parsing.token_to_id(token)
    }

    /// The token of an id as the vocabulary spells it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.core.parsing.id_to_token(id)
    }

    /// Whether an id is a control token.
    pub fn is_special(&self, id: u32) -> bool {
        self.core.is_special(id)
    }

    /// The control tokens among ids, without the unknown token, since that stands for text.
    pub(crate) fn control_ids(&self, ids: &[u32]) -> impl Iterator<Item = u32> {
        self.core.control_ids(ids)
    }

    /// The control tokens and their ids, by ascending id.
    pub fn special_tokens(&self) -> impl Iterator<Item = (u32, &str)> {
        let special = self.core.added.iter().filter(|token| token.special);
        special.map(|token| (token.id, token.content.as_str()))
    }

    pub(crate) fn special_entries(&self) -> impl Iterator<Item = SpecialEntry<'_>> {
        let special = self.core.added.iter().filter(|token| token.special);
        special.map(|token| SpecialEntry {
            id: token.id,
            content: &token.content,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
        })
    }

    /// The token that begins a sequence.
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// The token that ends a sequence (of a chat model: a turn).
    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// Every token that ends a generation, [`Tokenizer::eos`] first.
    pub fn eos_ids(&self) -> &[u32] {
        &self.roles.eos_ids
    }

    /// The token that fills up batches. It may equal [`Tokenizer::eos`].
    pub fn pad(&self) -> Option<u32> {
        self.roles.pad
    }

    /// The token for what the vocabulary cannot write.
    pub fn unk(&self) -> Option<u32> {
        self.roles.unk
    }

    /// The token that stands between documents and before the first:
    /// `<|endoftext|>` where there is one, else bos, else eos.
    pub fn document_separator(&self) -> Option<u32> {
        let end_of_text = self.token_to_id(END_OF_TEXT);
        end_of_text.or(self.roles.bos).or(self.roles.eos)
    }

    /// The source of the chat template; `None` for a base model's tokenizer.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat.default.as_deref()
    }

    /// The source of another chat template that the directory names, for example `tool_use`.
    pub fn named_chat_template(&self, name: &str) -> Option<&str> {
        let mut named = self.chat.named.iter();
        named.find(|(n, _)| n == name).map(|(_, s)| s.as_str())
    }

    /// Replaces the chat template.
    pub fn set_chat_template(&mut self, source: impl Into<String>) {
        self.chat.default = Some(source.into());
    }

    /// The identity of the tokenizer, as 64 hexadecimal digits: equal digests give equal ids for
    /// every text. The roles of special tokens and the chat template are no part of it.
    pub fn digest(&self) -> &str {
        &self.core.digest
    }

    /// Adds control tokens and returns their ids, in order. Tokens that are there keep their ids
    /// (and become control tokens). The model's embeddings need a row for every new id.
    ///
    /// # Errors
    /// [`TextError::AddToken`] for an empty or over-long token, or one that the tokenizer cannot
    /// number.
    pub fn add_tokens(&mut self, tokens: &[&str]) -> Result<Vec<u32>> {
        if tokens.iter().all(|token| self.is_control(token)) {
            return Ok(tokens.iter().filter_map(|t| self.token_to_id(t)).collect());
        }
        let failed = |token: &str, reason: String| TextError::AddToken {
            token: file::truncated(token),
            reason,
        };
        let shown = tokens.join(" ");
        let mut file = TokenizerFile::parse(&self.core.json).map_err(|reason| failed(&shown, reason))?;
        let mut next = self.vocab_size() as u32;
        for token in tokens {
            if token.is_empty() {
                return Err(failed(token, "it is empty".to_owned()));
            }
            let added = &mut file.added_tokens;
            if let Some(entry) = added.iter_mut().find(|entry| entry.content == *token) {
                entry.special = true;
                continue;
            }
            let id = self.token_to_id(token).unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            added.push(AddedEntry::control(id, token));
        }
        let core = Core::from_file(file).map_err(|reason| failed(&shown, reason))?;
        self.core = Arc::new(core);
        tokens
            .iter()
            .map(|token| {
                self.token_to_id(token)
                    .ok_or_else(|| failed(token, "it was not added".to_owned()))
            })
            .collect()
    }

    /// Makes a base model's tokenizer a chat model's: adds ChatML's `<|im_start|>` and
    /// `<|im_end|>`, ends turns with the latter (the former end of sequence still ends a
    /// generation), and sets the ChatML template. Returns the ids of the two tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::add_tokens`].
    pub fn add_chat_tokens(&mut self) -> Result<Vec<u32>> {
        let ids = self.add_tokens(&[IM_START, IM_END])?;
        let previous = self.roles.eos;
        if self.roles.pad.is_none() {
            self.roles.pad = self.token_to_id(END_OF_TEXT).or(previous);
        }
        let end = ids[1];
        self.roles.eos = Some(end);
        self.roles.eos_ids.retain(|&id| id != end);
        self.roles.eos_ids.insert(0, end);
        self.set_chat_template(CHATML_TEMPLATE);
        Ok(ids)
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` (with the chat template) and
    /// `special_tokens_map.json`, and `generation_config.json` where several tokens end a
    /// generation. transformers' `AutoTokenizer` loads them as they are. The same tokenizer always
    /// gives the same bytes. Returns the paths written.
    ///
    /// # Errors
    /// [`TextError::Io`].
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        save::save(self, dir.as_ref())
    }

    fn is_control(&self, token: &str) -> bool {
        let mut added = self.core.added.iter();
        added.any(|entry| entry.special && entry.content == token)
    }
}

/// A control token as the chat encoder needs it.
pub(crate) struct SpecialEntry<'a> {
    pub id: u32,
    pub content: &'a str,
    pub lstrip: bool,
    pub rstrip: bool,
}

impl Core {
    fn new(json: &str, path: &Path) -> Result<Self> {
        TokenizerFile::parse(json)
            .and_then(Core::from_file)
            .map_err(|reason| TextError::MalformedTokenizer {
                path: path.to_owned(),
                reason,
            })
    }

    fn from_file(mut file: TokenizerFile) -> std::result::Result<Self, String> {
        let checked = file.check()?;
        drop(file);
        let parsing = contained(|| tokenizers::Tokenizer::from_bytes(&checked.json))?;
        for token in &checked.added {
            let given = parsing.token_to_id(&token.content);
            if given != Some(token.id) {
                let shown = file::truncated(&token.content);
                return Err(format!(
                    "added_tokens: {shown:?} has id {}, expected {given:?} (ids must follow the \
                     model's vocabulary without a gap)",
                    token.id
                ));
            }
        }
        let unk = checked.unk.as_deref();
        let unk = unk.and_then(|token| parsing.token_to_id(token));
        let tokens = token_table(&parsing, &checked);
        Ok(Core {
            parsing,
            ordinary: OnceLock::new(),
            continuing: OnceLock::new(),
            json: checked.json,
            added: checked.added,
            tokens,
            byte_level: checked.byte_level,
            unk,
            digest: checked.digest,
        })
    }

    fn run(&self, by: &tokenizers::Tokenizer, text: &str, add: bool) -> Result<Vec<u32>> {
        let failed = |reason: String| TextError::Encode {
            bytes: text.len(),
            reason,
        };
        let encoding = contained(|| by.encode_fast(text, add)).map_err(failed)?;
        let ids = encoding.get_ids().to_vec();
        match ids.iter().find(|&&id| id as usize >= self.tokens.len()) {
            None => Ok(ids),
            Some(id) => Err(failed(format!(
                "the tokenizer yields id {id}, beyond its {} ids",
                self.tokens.len()
            ))),
        }
    }

    fn ordinary(&self) -> &tokenizers::Tokenizer {
        self.ordinary.get_or_init(|| {
            let mut tokenizer = self.parsing.clone();
            tokenizer.set_encode_special_tokens(true);
            tokenizer
        })
    }

    /// What encodes a text that goes on with another; none where that is no different.
    fn continuing(&self) -> std::result::Result<Option<&tokenizers::Tokenizer>, &String> {
        let made = self.continuing.get_or_init(|| {
            let file = TokenizerFile::parse(&self.json)?;
            let Some(file) = continuation::continuing(&file)? else {
                return Ok(None);
            };
            let json = serde_json::to_string(&file).map_err(|error| error.to_string())?;
            let mut tokenizer = contained(|| tokenizers::Tokenizer::from_bytes(&json))?;
            tokenizer.set_encode_special_tokens(true);
            Ok(Some(tokenizer))
        });
        made.as_ref().map(Option::as_ref)
    }

    fn is_special(&self, id: u32) -> bool {
        let entry = self.tokens.get(id as usize).and_then(Option::as_ref);
        entry.is_some_and(|entry| entry.special)
    }

    /// The first control token among ids; the unknown token is none, since it stands for text.
    fn first_control(&self, ids: &[u32]) -> Option<u32> {
        self.control_ids(ids).next()
    }

    fn control_ids(&self, ids: &[u32]) -> impl Iterator<Item = u32> {
        let ids = ids.iter().copied();
        ids.filter(|&id| self.is_special(id) && Some(id) != self.unk)
    }

    fn entry(&self, id: u32) -> Result<&TokenEntry> {
        let entry = self.tokens.get(id as usize).and_then(Option::as_ref);
        entry.ok_or(TextError::UnknownId {
            id,
            vocab_size: self.tokens.len(),
        })
    }
}

fn token_table(parsing: &tokenizers::Tokenizer, checked: &file::Checked) -> Vec<Option<TokenEntry>> {
    let mut table: Vec<Option<TokenEntry>> = (0..checked.vocab_size as u32)
        .map(|id| {
            let token = parsing.id_to_token(id)?;
            Some(TokenEntry {
                bytes: model_token_bytes(&token, checked).into_boxed_slice(),
                special: false,
            })
        })
        .collect();
    for token in &checked.added {
        table[token.id as usize] = Some(TokenEntry {
            bytes: token.content.as_bytes().into(),
            special: token.special,
        });
    }
    table
}

/// The bytes of a token of the model's own vocabulary, by the spelling of its kind.
fn model_token_bytes(token: &str, checked: &file::Checked) -> Vec<u8> {
    if checked.byte_level {
        return bytes::bytes_of_token(token).unwrap_or_else(|| token.as_bytes().to_vec());
    }
    if checked.byte_fallback
        && let Some(hex) = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'))
        && let Ok(byte) = u8::from_str_radix(hex, 16)
    {
        return vec![byte];
    }
    if let Some(prefix) = &checked.continuing_prefix {
        return match token.strip_prefix(prefix.as_str()) {
            Some(rest) => rest.as_bytes().to_vec(),
            None => format!(" {token}").into_bytes(),
        };
    }
    token.replace('\u{2581}', " ").into_bytes()
}

/// Runs code of the tokenizers crate; a panic in it becomes an error.
fn contained<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("the tokenizer failed inside: {}", text.unwrap_or("no message")))
        }
    }
}
