//! Scores of responses by a reward model: what PPO, best-of-N and `hone score` share.

use std::path::Path;

use hone_compute::Engine;
use hone_data::PromptInput;
use hone_generate::scores_of;
use hone_model::Transformer;
use hone_text::{Chat, TextError, Tokenizer};

use crate::artefact::{self, Artefact};
use crate::error::{Result, TrainError};
use crate::text::{answered, answered_raw};

/// A reward model with its own tokenizer and template.
///
/// The score is read at the token that ends the response. From text alone nobody can tell a response that was cut off
/// at its longest from one that ended, so [`Self::score`] reads every response as one that ended; a caller that knows
/// better (PPO's `missing_eos_score`) says so itself, or scores tokens.
pub struct Scorer {
    model: Transformer,
    tokenizer: Tokenizer,
    chat: Option<Chat>,
}

impl Scorer {
    /// Loads a reward model's directory, or an adapter's onto its base.
    ///
    /// # Errors
    /// If files are missing or damaged, or the model has no reward head.
    pub fn load(engine: &Engine, directory: &Path) -> Result<Self> {
        let Artefact { model, companion } = artefact::load(engine, directory)?;
        if !model.has_head() {
            let reason = "is no reward model: it has no `score.weight`; expected the model/ of a reward stage";
            return Err(TrainError::setting(directory.display().to_string(), reason));
        }
        Self::new(model, companion.tokenizer)
    }

    /// A reward model that is loaded already.
    ///
    /// # Errors
    /// If the model has no head, or the tokenizer's template cannot be read.
    pub fn new(model: Transformer, tokenizer: Tokenizer) -> Result<Self> {
        if !model.has_head() {
            return Err(TrainError::setting(
                "reward model",
                "has no head; expected the result of a reward stage",
            ));
        }
        let chat = match tokenizer.chat_template() {
            Some(_) => Some(Chat::new(&tokenizer)?),
            None => None,
        };
        Ok(Self { model, tokenizer, chat })
    }

    /// The model, its head included.
    pub fn model(&self) -> &Transformer {
        &self.model
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether tokens and templates are the same, so that another model's tokens can be scored as they are.
    pub fn shares_tokenizer_with(&self, other: &Tokenizer) -> bool {
        self.tokenizer.digest() == other.digest() && self.tokenizer.chat_template() == other.chat_template()
    }

    /// The tokens of a response after its prompt, the end of the response last, as the reward stage has them: messages
    /// through the template, text as one turn of the user. A model without a template takes text as it is.
    ///
    /// # Errors
    /// If the tokenizer has no template for messages, or text cannot be encoded.
    pub fn encode(&self, prompt: &PromptInput, response: &str) -> Result<Vec<u32>> {
        let answered = match (prompt, &self.chat) {
            (PromptInput::Text(text), None) => answered_raw(&self.tokenizer, text, response)?,
            (PromptInput::Messages(_), None) => return Err(TextError::NoChatTemplate.into()),
            (prompt, Some(chat)) => answered(chat, &prompt.to_messages(), response)?,
        };
        Ok(answered.ids)
    }

    /// Scores responses, each after its prompt, from text. A score does not depend on what is scored beside it.
    ///
    /// # Errors
    /// As [`Self::encode`] and [`Self::score_tokens`].
    pub fn score(&self, engine: &Engine, answers: &[(&PromptInput, &str)]) -> Result<Vec<f32>> {
        let encoded: Vec<Vec<u32>> = answers
            .iter()
            .map(|(prompt, response)| self.encode(prompt, response))
            .collect::<Result<_>>()?;
        self.score_tokens(engine, &encoded.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// Scores sequences of this model's tokens at their last token.
    ///
    /// # Errors
    /// If a sequence is empty, longer than the model's context, or has a token that the model lacks.
    pub fn score_tokens(&self, engine: &Engine, sequences: &[&[u32]]) -> Result<Vec<f32>> {
        for (index, ids) in sequences.iter().enumerate() {
            if let Some(reason) = self.refusal(ids) {
                return Err(TrainError::Unscorable { index, reason });
            }
        }
        Ok(scores_of(engine, &self.model, sequences)
            .into_iter()
            .map(|score| score.0)
            .collect())
    }

    /// Why a sequence cannot be scored, if it cannot.
    pub(crate) fn refusal(&self, ids: &[u32]) -> Option<String> {
        let a = self.model.architecture();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= a.vocab_size) {
            return Some(format!("has token {id}; the reward model knows {}", a.vocab_size));
        }
        if ids.is_empty() {
            return Some("is empty; expected at least one token".into());
        }
        (ids.len() > a.context).then(|| {
            let (tokens, context) = (ids.len(), a.context);
            format!("has {tokens} tokens with its prompt; the reward model's context is {context}")
        })
    }

    /// The token that ends a response, as the reward stage has it: the template's, or without a template the
    /// tokenizer's where there is one.
    ///
    /// # Errors
    /// If the template has none.
    pub(crate) fn end_token(&self) -> Result<Option<u32>> {
        let Some(chat) = &self.chat else {
            return Ok(self.tokenizer.eos());
        };
        let turns = [hone_data::Message::user("a")];
        Ok(answered(chat, &turns, "b")?.ids.last().copied())
    }
}
