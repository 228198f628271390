//! The models that are served, with what their prompts and answers need.

use std::sync::Arc;

use hone_generate::raw_stop_tokens;
use hone_model::Transformer;
use hone_text::{Chat, TextError, Tokenizer};
use hone_train::Scorer;

use crate::error::ServeError;

/// A model to be served under a name.
pub struct ServedModel {
    /// The name that clients give.
    pub name: String,
    /// The name of the model that an adapter stands on.
    pub parent: Option<String>,
    /// Its weights; adapters of one model share those of it ([`Transformer::duplicate`]). One with a head is a reward model.
    pub model: Transformer,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

/// What a model computes.
pub(crate) enum Weights {
    /// Next tokens.
    Language(Box<Transformer>),
    /// Scores.
    Reward(Box<Scorer>),
}

/// A model as the server knows it.
pub(crate) struct Served {
    pub name: String,
    pub parent: Option<String>,
    pub weights: Weights,
    pub tokenizer: Tokenizer,
    /// None for a base model.
    pub chat: Option<Chat>,
    /// Tokens that end an answer in a conversation.
    pub chat_stop: Arc<[u32]>,
    /// Tokens that end a completion of raw text.
    pub raw_stop: Arc<[u32]>,
}

impl Served {
    pub fn new(model: ServedModel) -> Result<Self, ServeError> {
        let ServedModel {
            name,
            parent,
            model,
            tokenizer,
        } = model;
        let template = |source: TextError| ServeError::Template {
            name: name.clone(),
            source,
        };
        let chat = match tokenizer.chat_template() {
            Some(_) => Some(Chat::new(&tokenizer).map_err(template)?),
            None => None,
        };
        let raw_stop = raw_stop_tokens(&tokenizer);
        let chat_stop = match &chat {
            Some(chat) => chat.stop_ids().map_err(template)?,
            None => raw_stop.clone(),
        };
        let weights = if model.has_head() {
            let scorer = Scorer::new(model, tokenizer.clone());
            let scorer = scorer.map_err(|source| ServeError::Reward {
                name: name.clone(),
                source,
            })?;
            Weights::Reward(Box::new(scorer))
        } else {
            Weights::Language(Box::new(model))
        };
        Ok(Self {
            name,
            parent,
            weights,
            tokenizer,
            chat,
            chat_stop: chat_stop.into(),
            raw_stop: raw_stop.into(),
        })
    }

    /// The weights, whatever they compute.
    pub fn transformer(&self) -> &Transformer {
        match &self.weights {
            Weights::Language(model) => model,
            Weights::Reward(scorer) => scorer.model(),
        }
    }

    /// Tokens that a sequence may have.
    pub fn context(&self) -> usize {
        self.transformer().architecture().context
    }

    /// Rows of the embedding.
    pub fn vocabulary(&self) -> usize {
        self.transformer().architecture().vocab_size
    }

    pub fn is_reward(&self) -> bool {
        matches!(self.weights, Weights::Reward(_))
    }
}
