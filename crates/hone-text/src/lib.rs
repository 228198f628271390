//! Tokenizers, chat templates and prompt templates.
//!
//! - [`Tokenizer`] reads and writes tokenizer directories in Hugging Face layout; [`train_bpe`]
//!   makes one from text.
//! - [`Chat`] turns conversations into token ids and says which of them a model is trained on.
//! - [`PromptTemplate`] and [`QaFraming`] write prompts from rows of data.
//!
//! Files and templates come from strangers: sizes are capped, contents are checked before use,
//! templates run with a bounded number of instructions, and text supplied by a user never turns
//! into a control token. No mask is derived from token ids, so a tokenizer whose padding token
//! equals its end-of-sequence token behaves like any other.

#![forbid(unsafe_code)]

mod chat;
mod error;
mod jinja;
mod prompt;
mod tokenizer;

pub use chat::{
    CHATML_TEMPLATE, Chat, ChatTemplate, ChatTokens, GenerationPrompt, Message, SpecialStrings, TrainedTurns, TurnSpan,
};
pub use error::{Result, TextError};
pub use prompt::{PromptTemplate, QaExample, QaFraming};
pub use tokenizer::{AddSpecial, DecodeStream, Digits, SkipSpecial, Tokenizer, TrainOptions, train_bpe};
