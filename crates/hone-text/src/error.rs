//! What can go wrong, with where, what was expected, and a way out.

use std::path::PathBuf;

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, TextError>;

/// An error of a tokenizer, a chat template or a prompt template.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A directory holds no tokenizer.
    #[error(
        "{dir}: no tokenizer found; expected tokenizer.json, or vocab.json (encoder.json) with \
         merges.txt (vocab.bpe). A sentencepiece tokenizer.model is not read: convert it with \
         AutoTokenizer.from_pretrained(dir).save_pretrained(dir)"
    )]
    NoTokenizer {
        /// The directory.
        dir: PathBuf,
    },
    /// A file is larger than is sane for its kind.
    #[error("{path}: {bytes} bytes, more than the {limit} allowed for this kind of file")]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A Git LFS pointer lies where a file's content should be.
    #[error("{path}: a Git LFS pointer, not the file itself; run `git lfs pull`")]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A tokenizer file is not what it should be.
    #[error("{path}: {reason}")]
    MalformedTokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A special token is named that the vocabulary does not have.
    #[error(
        "{path}: {role} is {got}, which is not in the vocabulary of {vocab_size} ids; \
         use the tokenizer files that belong together, or correct this entry"
    )]
    UnknownSpecialToken {
        /// The file that names it.
        path: PathBuf,
        /// The key that names it, for example `eos_token`.
        role: &'static str,
        /// The token or id.
        got: String,
        /// The number of ids of the tokenizer.
        vocab_size: usize,
    },
    /// Text could not be encoded.
    #[error("cannot tokenize {bytes} bytes of text: {reason}")]
    Encode {
        /// The length of the text.
        bytes: usize,
        /// The tokenizer's complaint.
        reason: String,
    },
    /// Token ids could not be decoded.
    #[error("cannot decode {tokens} tokens: {reason}")]
    Decode {
        /// The number of ids.
        tokens: usize,
        /// The tokenizer's complaint.
        reason: String,
    },
    /// An id that no token has.
    #[error(
        "token id {id} has no token: the tokenizer has ids below {vocab_size}; \
         sample only from the tokenizer's own ids"
    )]
    UnknownId {
        /// The id.
        id: u32,
        /// The number of ids of the tokenizer.
        vocab_size: usize,
    },
    /// Ordinary text yields a control token however it is cut.
    #[error(
        "ordinary text yields the control token {token:?} (id {id}); the tokenizer cannot represent this text safely"
    )]
    ControlTokenFromText {
        /// The token.
        token: String,
        /// Its id.
        id: u32,
    },
    /// Tokens could not be added to a vocabulary.
    #[error("cannot add the token {token:?}: {reason}")]
    AddToken {
        /// The token.
        token: String,
        /// Why.
        reason: String,
    },
    /// Options of tokenizer training that cannot work.
    #[error("cannot train a tokenizer: {reason}")]
    Train {
        /// Why, with numbers and a hint.
        reason: String,
    },
    /// A template's source is too long.
    #[error("{template}: {bytes} bytes of source, more than the {limit} allowed")]
    TemplateTooLarge {
        /// Which template.
        template: &'static str,
        /// The size of its source in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A template does not parse.
    #[error("{template}, line {line}: {reason}")]
    TemplateSyntax {
        /// Which template.
        template: &'static str,
        /// The line, from 1 (0 where it is not known).
        line: usize,
        /// The parser's complaint.
        reason: String,
    },
    /// A template failed while it ran.
    #[error("{template}, line {line}: {reason}")]
    TemplateFailed {
        /// Which template.
        template: &'static str,
        /// The line, from 1 (0 where it is not known).
        line: usize,
        /// What failed.
        reason: String,
    },
    /// A template refused the conversation through `raise_exception`.
    #[error("the chat template refuses this conversation: {message}")]
    TemplateRaised {
        /// The template's own words.
        message: String,
    },
    /// A template asks for the date, which would make results depend on the clock.
    #[error(
        "{template}: calls strftime_now without a fallback, so its text would depend on the day; \
         write the date into the template"
    )]
    TemplateReadsClock {
        /// Which template.
        template: &'static str,
    },
    /// A template ran for too long.
    #[error("{template}: stopped after {fuel} instructions; the template loops too much for its input")]
    TemplateOutOfFuel {
        /// Which template.
        template: &'static str,
        /// The number of instructions allowed.
        fuel: u64,
    },
    /// A template wrote too much.
    #[error("{template}: wrote more than the {limit} bytes allowed")]
    TemplateOutputTooLarge {
        /// Which template.
        template: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// A row lacks a column that a prompt template uses.
    #[error("prompt template: the row has no column {column:?}; its columns are: {known}")]
    UnknownColumn {
        /// The column.
        column: String,
        /// The row's columns, separated by commas.
        known: String,
    },
    /// The tokenizer has no chat template.
    #[error(
        "this tokenizer has no chat template, so it is a base model's; supervised tuning (hone sft) adds ChatML to the model, \
         a chat_template.jinja in its directory gives it another, and plain text needs none"
    )]
    NoChatTemplate,
    /// A conversation without anything to train on.
    #[error("the conversation of {messages} messages has no assistant turn to train on")]
    NoAssistantTurn {
        /// The number of messages.
        messages: usize,
    },
    /// The text before a reply is not the start of the text with the reply.
    #[error(
        "the chat template is not prefix-preserving at message {turn}: byte {offset} differs, the \
         prompt has {expected:?} and the conversation {got:?}; train on the last assistant turn \
         only, or use a template that does not rewrite earlier text"
    )]
    TemplateNotPrefixPreserving {
        /// The index of the assistant message.
        turn: usize,
        /// Where the two texts part, in bytes.
        offset: usize,
        /// The prompt from there on, shortened.
        expected: String,
        /// The conversation from there on, shortened.
        got: String,
    },
    /// The template ends a reply without a control token.
    #[error(
        "the chat template writes no end-of-turn token after the reply in message {turn}, so a \
         model trained on it would never stop; end the assistant turn with the eos token"
    )]
    NoEndOfTurn {
        /// The index of the assistant message.
        turn: usize,
    },
    /// The template's text changes when control-token text in a message is marked.
    #[error(
        "the chat template treats the text of control tokens in messages specially, so that text \
         cannot be told from the template's own; remove {tokens} from the messages"
    )]
    ContentNotSeparable {
        /// The control tokens found in the messages.
        tokens: String,
    },
}

impl TextError {
    pub(crate) fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        TextError::Io {
            path: path.to_owned(),
            source,
        }
    }
}
