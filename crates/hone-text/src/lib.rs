//! Tokenizers, chat templates and prompt templates.
