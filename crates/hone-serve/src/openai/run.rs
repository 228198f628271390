//! Answers while they are sampled: tokens from the engine become text, and what is said of the tokens.

use std::collections::VecDeque;
use std::sync::Arc;

use hone_compute::Choice;
use hone_generate::{FinishReason, Request, stop_text};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::bounds;
use crate::engine::{Event, Place, Sequence, Unwanted};
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

/// An answer that is whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whole {
    pub text: String,
    pub entries: Vec<Entry>,
    pub finish: Option<&'static str>,
}

/// What is sampled.
pub(crate) struct Plan {
    pub found: Found,
    pub prompts: Vec<Continued>,
    pub common: Common,
    /// Tokens that end an answer.
    pub stop_tokens: Arc<[u32]>,
}

/// A prompt, and how answers to it begin.
pub(crate) struct Continued {
    pub ids: Arc<[u32]>,
    /// The most tokens that are sampled after it.
    pub max_new_tokens: usize,
    /// The text of an answer before its first token.
    pub growing: Growing,
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
    unwanted: Unwanted,
    stop_tokens: Arc<[u32]>,
    /// Updates that need no token.
    ready: VecDeque<Update>,
    left: usize,
    /// Tokens sampled so far.
    sampled: usize,
    prompt_tokens: usize,
}

impl Plan {
    /// Answers, those to prompts for which no token is sampled included.
    pub fn choices(&self) -> usize {
        self.prompts.len() * self.common.n
    }

    /// Refuses an answer of more than can be written: of each choice the tokens that are `echoed`, and with `logprobs` those
    /// to come, each with its alternatives.
    ///
    /// # Errors
    /// More than [`bounds::LISTED`].
    pub fn check_size(&self, echoed: usize, logprobs: bool) -> Result<(), ApiError> {
        let to_come: usize = self.prompts.iter().map(|prompt| prompt.max_new_tokens).sum();
        let listed = match logprobs {
            true => (echoed + to_come).saturating_mul(2 + self.common.extras.alternatives),
            false => echoed,
        };
        let listed = listed.saturating_mul(self.common.n);
        if listed <= bounds::LISTED {
            return Ok(());
        }
        let message = format!(
            "the answer may list {listed} tokens and log-probabilities; expected at most {}: ask for fewer tokens, answers or \
             alternatives",
            bounds::LISTED
        );
        Err(ApiError::bad(if logprobs { "logprobs" } else { "echo" }, message))
    }

    /// Begins, with a place for each choice.
    ///
    /// # Errors
    /// If the engine has ended.
    pub fn start(self, shared: &Shared, places: Vec<Place>) -> Result<Running, ApiError> {
        let model = self.found.0;
        let prompt_tokens: usize = self.prompts.iter().map(|prompt| prompt.ids.len()).sum();
        shared.metrics.asked(prompt_tokens);
        let mut sequences = Vec::new();
        let mut growths = Vec::new();
        let mut ready = VecDeque::new();
        let mut places = places.into_iter();
        for (p, prompt) in self.prompts.iter().enumerate() {
            for (i, place) in places.by_ref().take(self.common.n).enumerate() {
                let choice = p * self.common.n + i;
                if prompt.max_new_tokens == 0 {
                    ready.push_back(Update {
                        choice,
                        text: String::new(),
                        entries: Vec::new(),
                        finish: Some("length"),
                    });
                    continue;
                }
                let growth = Growth {
                    growing: prompt.growing.clone(),
                    untold: Vec::new(),
                    characters: 0,
                    done: false,
                };
                growths.push((choice, growth));
                sequences.push(Sequence {
                    request: self.request(p, i),
                    extras: self.common.extras.clone(),
                    place,
                });
            }
        }
        let left = growths.len();
        let (events, unwanted) = shared.engine.sample(model, sequences)?;
        Ok(Running {
            events,
            growths,
            unwanted,
            stop_tokens: self.stop_tokens,
            ready,
            left,
            sampled: 0,
            prompt_tokens,
        })
    }

    /// The request of the `i`-th answer to prompt `p`. With a seed it does not depend on the other prompts of the request;
    /// without one equal prompts have answers of their own.
    fn request(&self, p: usize, i: usize) -> Request {
        let prompt = &self.prompts[p];
        let key = match self.common.seeded {
            true => self.common.key,
            false => self.common.key.child(p as u64),
        };
        Request {
            prompt: Arc::clone(&prompt.ids),
            sampling: self.common.sampling,
            key: key.child(i as u64),
            max_new_tokens: prompt.max_new_tokens,
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
        let (choice, growth) = &mut self.growths[sequence];
        // The engine goes on until it hears that nobody wants more; how far, depends on what else it does
        if growth.done {
            return Ok(None);
        }
        self.sampled += 1;
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
            if finish.is_none() {
                self.unwanted.mark(sequence);
            }
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

    /// Waits for so many answers to be whole, in their order; what is said of their tokens is kept where `entries` says so.
    ///
    /// # Errors
    /// If one cannot go on.
    pub async fn gather(&mut self, choices: usize, entries: bool) -> Result<Vec<Whole>, ApiError> {
        let mut gathered = vec![Whole::default(); choices];
        while let Some(update) = self.next().await? {
            let whole = &mut gathered[update.choice];
            whole.text.push_str(&update.text);
            if entries {
                whole.entries.extend(update.entries);
            }
            whole.finish = update.finish;
        }
        Ok(gathered)
    }

    /// Whether all has been sampled, told or not.
    pub fn is_sampled(&self) -> bool {
        self.events.is_closed()
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
