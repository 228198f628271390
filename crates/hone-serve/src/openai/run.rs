//! Answers while they are sampled: tokens from the engine become text, and what is said of the tokens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hone_compute::Choice;
use hone_generate::{FinishReason, Request, stop_text};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::engine::Event;
use crate::openai::ApiError;
use crate::openai::sampling::Common;
use crate::openai::text::Growing;
use crate::shared::{Found, Shared, now};

/// A token of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub token: u32,
    pub logprob: f32,
    pub alternatives: Vec<Choice>,
    /// Characters of the answer before it.
    pub offset: usize,
    /// Whether it ended the answer and is no part of its text.
    pub ends: bool,
}

/// What came to an answer.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    /// Which answer: those to the first prompt come first.
    pub choice: usize,
    pub text: String,
    pub entries: Vec<Entry>,
    /// Set with the last, as the wire format has it.
    pub finish: Option<&'static str>,
}

/// What is sampled.
pub(crate) struct Plan {
    pub found: Found,
    /// Each prompt with the most tokens that are sampled after it.
    pub prompts: Vec<(Arc<[u32]>, usize)>,
    pub common: Common,
    /// Tokens that end an answer.
    pub stop_tokens: Arc<[u32]>,
    /// Whether answers go on from the prompts' text; else they are replies.
    pub continues: bool,
}

/// An answer so far.
struct Growth {
    growing: Growing,
    /// Tokens of which nothing was told yet, with the bytes of text before each.
    untold: Vec<(usize, Entry)>,
    characters: usize,
    done: bool,
}

/// Answers that are being sampled. Dropped, they are cancelled and their places are free.
pub(crate) struct Running {
    events: mpsc::Receiver<Event>,
    /// By the sequence's place among those sampled, with the choice's number.
    growths: Vec<(usize, Growth)>,
    stop_tokens: Arc<[u32]>,
    /// Updates that need no token.
    ready: VecDeque<Update>,
    left: usize,
    /// Tokens sampled so far.
    sampled: usize,
    prompt_tokens: usize,
    _places: OwnedSemaphorePermit,
}

impl Plan {
    /// Answers, those to prompts for which no token is sampled included.
    pub fn choices(&self) -> usize {
        self.prompts.len() * self.common.n
    }

    /// Begins.
    ///
    /// # Errors
    /// If the engine has ended.
    pub fn start(self, shared: &Shared, places: OwnedSemaphorePermit) -> Result<Running, ApiError> {
        let (model, served) = &self.found;
        let prompt_tokens: usize = self.prompts.iter().map(|(ids, _)| ids.len()).sum();
        shared
            .metrics
            .prompt_tokens
            .fetch_add(prompt_tokens as u64, Ordering::Relaxed);
        let mut sequences = Vec::new();
        let mut growths = Vec::new();
        let mut ready = VecDeque::new();
        for (p, (prompt, max_new_tokens)) in self.prompts.iter().enumerate() {
            for i in 0..self.common.n {
                let choice = p * self.common.n + i;
                if *max_new_tokens == 0 {
                    ready.push_back(Update {
                        choice,
                        text: String::new(),
                        entries: Vec::new(),
                        finish: Some("length"),
                    });
                    continue;
                }
                let before: &[u32] = if self.continues { prompt } else { &[] };
                let growing = Growing::new(&served.tokenizer, before, &self.common.stops)?;
                let growth = Growth {
                    growing,
                    untold: Vec::new(),
                    characters: 0,
                    done: false,
                };
                growths.push((choice, growth));
                sequences.push((self.request(prompt, i, *max_new_tokens), self.common.extras.clone()));
            }
        }
        let left = growths.len();
        let events = shared.engine.sample(*model, sequences)?;
        Ok(Running {
            events,
            growths,
            stop_tokens: self.stop_tokens,
            ready,
            left,
            sampled: 0,
            prompt_tokens,
            _places: places,
        })
    }

    /// The `i`-th answer's request. It does not depend on the other prompts of the request.
    fn request(&self, prompt: &Arc<[u32]>, i: usize, max_new_tokens: usize) -> Request {
        Request {
            prompt: Arc::clone(prompt),
            sampling: self.common.sampling,
            key: self.common.key.child(i as u64),
            max_new_tokens,
            stop_tokens: Arc::clone(&self.stop_tokens),
            stop_texts: stop_text(&self.found.1.tokenizer, &self.common.stops),
        }
    }
}

impl Running {
    /// What comes next to any of the answers; none when all have ended.
    ///
    /// # Errors
    /// If one cannot go on.
    pub async fn next(&mut self) -> Result<Option<Update>, ApiError> {
        loop {
            if let Some(update) = self.ready.pop_front() {
                return Ok(Some(update));
            }
            if self.left == 0 {
                return Ok(None);
            }
            match self.events.recv().await {
                None => return Err(ApiError::internal("the engine has ended")),
                Some(Event::Failed(failure)) => return Err(failure.into()),
                Some(Event::Token {
                    sequence,
                    token,
                    logprob,
                    alternatives,
                    finish,
                }) => {
                    let entry = Entry {
                        token,
                        logprob,
                        alternatives,
                        offset: 0,
                        ends: finish == Some(FinishReason::Stop) && self.stop_tokens.contains(&token),
                    };
                    if let Some(update) = self.token(sequence, entry, finish)? {
                        return Ok(Some(update));
                    }
                }
            }
        }
    }

    fn token(
        &mut self,
        sequence: usize,
        mut entry: Entry,
        finish: Option<FinishReason>,
    ) -> Result<Option<Update>, ApiError> {
        self.sampled += 1;
        let (choice, growth) = &mut self.growths[sequence];
        if growth.done {
            return Ok(None);
        }
        let start = growth.growing.text().len();
        entry.offset = growth.characters;
        let mut text = growth.growing.push(entry.token)?;
        growth.characters += growth.growing.text()[start..].chars().count();
        growth.untold.push((start, entry));
        let mut ended = match finish {
            Some(FinishReason::Stop) => Some("stop"),
            Some(FinishReason::Length | FinishReason::Cancelled) => Some("length"),
            // A stop text with control tokens inside, which are no text
            None if growth.growing.is_cut() => Some("stop"),
            None => None,
        };
        if ended.is_some() {
            text.push_str(&growth.growing.finish()?);
            if growth.growing.is_cut() {
                ended = Some("stop");
            }
            growth.done = true;
            self.left -= 1;
        } else if text.is_empty() {
            return Ok(None);
        }
        // Tokens whose text is held back are told of with it
        let given = growth.growing.given();
        let (told, untold): (Vec<_>, Vec<_>) = std::mem::take(&mut growth.untold)
            .into_iter()
            .partition(|(start, _)| ended.is_some() || *start < given);
        growth.untold = untold;
        let told = told.into_iter().filter(|(start, _)| growth.growing.holds(*start));
        Ok(Some(Update {
            choice: *choice,
            text,
            entries: told.map(|(_, entry)| entry).collect(),
            finish: ended,
        }))
    }

    /// Tokens so far, in the wire format.
    pub fn usage(&self) -> Value {
        usage(self.prompt_tokens, self.sampled)
    }
}

/// Tokens of prompts and answers.
pub(crate) fn usage(prompt: usize, completion: usize) -> Value {
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    })
}

/// What stands at the head of every answer.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub id: String,
    pub created: u64,
    pub model: String,
    pub fingerprint: String,
}

impl Head {
    pub fn new(shared: &Shared, kind: &str, found: &Found) -> Self {
        Self {
            id: shared.id(kind),
            created: now(),
            model: found.1.name.clone(),
            fingerprint: shared.fingerprint.clone(),
        }
    }

    /// An answer or a part of one.
    pub fn with(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        })
    }
}
