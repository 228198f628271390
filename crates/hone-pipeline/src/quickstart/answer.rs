//! A model that answers questions of the world.

use std::path::Path;
use std::sync::Arc;

use hone_compute::{Engine, SamplingParameters};
use hone_generate::{Completion, FinishReason, Generator, GeneratorOptions, Request, StopText};
use hone_math::Key;
use hone_model::Transformer;
use hone_text::{AddSpecial, Chat, Message, SkipSpecial, Tokenizer};
use hone_train::artefact;
use hone_world::Question;

use crate::error::{PipelineError, Result};

/// Sequences decoded together.
const BATCH: usize = 128;

/// A loaded model with its tokenizer.
pub(crate) struct Answerer {
    pub model: Transformer,
    pub tokenizer: Tokenizer,
    chat: Chat,
}

/// What was answered.
pub(crate) struct Answered {
    /// Prompt and response, `[p + t]`.
    pub ids: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_length: usize,
    /// The response as text.
    pub text: String,
    /// Summed log-probability of the response, nats.
    pub logprob: f64,
    /// Whether it ended by itself.
    pub ended: bool,
}

impl Answerer {
    /// Loads the result of a stage.
    pub fn load(engine: &Engine, stage: &Path) -> Result<Self> {
        Self::open(engine, &stage.join("model"))
    }

    /// Loads a model's directory.
    pub fn open(engine: &Engine, directory: &Path) -> Result<Self> {
        let loaded = artefact::load(engine, directory)?;
        let chat = Chat::new(&loaded.companion.tokenizer)?;
        Ok(Self {
            model: loaded.model,
            tokenizer: loaded.companion.tokenizer,
            chat,
        })
    }

    /// Answers through the chat template, `n` times a question, question by question.
    pub fn chat(
        &self,
        engine: &Engine,
        questions: &[Question],
        limits: (usize, usize),
        key: Key,
    ) -> Result<Vec<Answered>> {
        let turns: Vec<Vec<Message>> = questions.iter().map(|q| vec![Message::user(&q.text)]).collect();
        self.chat_turns(engine, &turns, limits, key)
    }

    /// As [`Answerer::chat`], of whole conversations, each up to the reply.
    pub fn chat_turns(
        &self,
        engine: &Engine,
        conversations: &[Vec<Message>],
        (n, max_new_tokens): (usize, usize),
        key: Key,
    ) -> Result<Vec<Answered>> {
        let stop: Arc<[u32]> = self.chat.stop_ids()?.into();
        let mut requests = Vec::with_capacity(conversations.len() * n);
        for (i, turns) in conversations.iter().enumerate() {
            let prompt: Arc<[u32]> = self.chat.prompt_ids(turns)?.into();
            for j in 0..n {
                requests.push(Request {
                    prompt: Arc::clone(&prompt),
                    sampling: SamplingParameters::default(),
                    key: key.child(i as u64).child(j as u64),
                    max_new_tokens,
                    stop_tokens: Arc::clone(&stop),
                    stop_texts: None,
                });
            }
        }
        self.run(engine, &requests)
    }

    /// Goes on with plain prompts up to the end of the line or of the document.
    pub fn complete(
        &self,
        engine: &Engine,
        prompts: &[String],
        max_new_tokens: usize,
        key: Key,
    ) -> Result<Vec<Answered>> {
        let separator = self.tokenizer.document_separator();
        let separator =
            separator.ok_or_else(|| PipelineError::setting("tokenizer", "has no token that separates documents"))?;
        let tokenizer = self.tokenizer.clone();
        let stop_texts = StopText {
            texts: vec!["\n".to_string()].into(),
            bytes: Arc::new(move |id| tokenizer.token_bytes(id).unwrap_or_default().to_vec()),
        };
        let mut requests = Vec::with_capacity(prompts.len());
        for (i, prompt) in prompts.iter().enumerate() {
            let mut ids = vec![separator];
            ids.extend(self.tokenizer.encode(prompt, AddSpecial::No)?);
            requests.push(Request {
                prompt: ids.into(),
                sampling: SamplingParameters::default(),
                key: key.child(i as u64),
                max_new_tokens,
                stop_tokens: vec![separator].into(),
                stop_texts: Some(stop_texts.clone()),
            });
        }
        let mut answers = self.run(engine, &requests)?;
        for answer in &mut answers {
            let line = answer.text.split('\n').next().unwrap_or_default().trim();
            answer.text = line.to_owned();
        }
        Ok(answers)
    }

    fn run(&self, engine: &Engine, requests: &[Request]) -> Result<Vec<Answered>> {
        let options = GeneratorOptions {
            max_batch: BATCH,
            ..GeneratorOptions::default()
        };
        let completions = Generator::new(engine, &self.model, options).run(requests)?;
        requests
            .iter()
            .zip(completions)
            .map(|(request, completion)| self.answered(request, &completion))
            .collect()
    }

    fn answered(&self, request: &Request, completion: &Completion) -> Result<Answered> {
        Ok(Answered {
            ids: request.prompt.iter().chain(&completion.ids).copied().collect(),
            prompt_length: request.prompt.len(),
            text: self.tokenizer.decode(&completion.ids, SkipSpecial::Yes)?,
            logprob: completion.logprob(),
            ended: completion.finish == FinishReason::Stop,
        })
    }
}
