//! The thread that computes, seen from the threads that speak HTTP.

mod lane;
mod reading;
mod worker;

use std::sync::Arc;
use std::sync::mpsc as blocking;

use hone_compute::Choice;
use hone_generate::{Extras, FinishReason, Ranked, Request};
use tokio::sync::{mpsc, oneshot};

use crate::openai::ApiError;

pub(crate) use worker::Worker;

/// What happens to one of the sequences that were asked for together.
#[derive(Debug)]
pub(crate) enum Event {
    /// A token was sampled.
    Token {
        /// Which of them.
        sequence: usize,
        token: u32,
        logprob: f32,
        /// The most probable tokens in its place, as many as were asked for.
        alternatives: Vec<Choice>,
        /// Set with the last.
        finish: Option<FinishReason>,
    },
    /// It cannot go on.
    Failed(Failure),
}

/// Why a sequence or a text could not be computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server ends.
    Stopping,
    /// The request, or the model, does not allow it.
    Because(String),
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Stopping => Self::stopping(),
            Failure::Because(reason) => Self::internal(reason),
        }
    }
}

/// Sequences to be sampled from one model.
pub(crate) struct Sampling {
    /// The model's place.
    pub model: usize,
    pub sequences: Vec<(Request, Extras)>,
    /// Has room for every event of theirs, so that the engine never waits; closed, they are cancelled.
    pub events: mpsc::Sender<Event>,
}

/// What is asked about a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// The log-probabilities of its tokens, and so many alternatives to each.
    Ranked(usize),
    /// The reward model's score.
    Score,
    /// Its embedding.
    Embedding,
}

impl Question {
    /// Whether two questions are answered in one pass.
    fn is_like(self, other: Self) -> bool {
        match self {
            Self::Ranked(_) => matches!(other, Self::Ranked(_)),
            _ => self == other,
        }
    }
}

/// What a text gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Ranked(Ranked),
    Score(f32),
    Embedding(Vec<f32>),
}

/// A text to be read.
pub(crate) struct Reading {
    /// The model's place.
    pub model: usize,
    pub question: Question,
    pub ids: Arc<[u32]>,
    pub reply: oneshot::Sender<Result<Answer, Failure>>,
}

/// What the engine is told.
pub(crate) enum Message {
    Sample(Sampling),
    Read(Vec<Reading>),
    /// Gives up what runs, and ends.
    Stop,
}

/// The way to the engine.
#[derive(Clone)]
pub(crate) struct Handle {
    messages: blocking::Sender<Message>,
}

impl Handle {
    /// A handle, and where the engine hears of what it says.
    pub fn new() -> (Self, blocking::Receiver<Message>) {
        let (messages, heard) = blocking::channel();
        (Self { messages }, heard)
    }

    fn tell(&self, message: Message) -> Result<(), ApiError> {
        let gone = |_| ApiError::internal("the engine has ended");
        self.messages.send(message).map_err(gone)
    }

    /// Has sequences sampled. Their events come until each has ended; dropping the receiver ends them.
    pub fn sample(&self, model: usize, sequences: Vec<(Request, Extras)>) -> Result<mpsc::Receiver<Event>, ApiError> {
        // Every sequence has at most one event a token, and one more if it fails
        let room = sequences
            .iter()
            .map(|(request, _)| request.max_new_tokens + 1)
            .sum::<usize>();
        let (events, told) = mpsc::channel(room.max(1));
        self.tell(Message::Sample(Sampling {
            model,
            sequences,
            events,
        }))?;
        Ok(told)
    }

    /// Has texts read, and waits for the answers, which are in their order. Dropping the future ends the work.
    pub async fn read(&self, model: usize, texts: Vec<(Question, Arc<[u32]>)>) -> Result<Vec<Answer>, ApiError> {
        let mut readings = Vec::with_capacity(texts.len());
        let mut replies = Vec::with_capacity(texts.len());
        for (question, ids) in texts {
            let (reply, answer) = oneshot::channel();
            readings.push(Reading {
                model,
                question,
                ids,
                reply,
            });
            replies.push(answer);
        }
        self.tell(Message::Read(readings))?;
        let mut answers = Vec::with_capacity(replies.len());
        for reply in replies {
            let answer = reply.await.map_err(|_| ApiError::internal("the engine has ended"))?;
            answers.push(answer?);
        }
        Ok(answers)
    }

    /// Tells the engine to end.
    pub fn stop(&self) {
        let _ = self.tell(Message::Stop);
    }
}
