//! The thread that computes, seen from the threads that speak HTTP.

mod lane;
mod reading;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as blocking;

use hone_compute::{Choice, Engine};
use hone_generate::{Extras, FinishReason, GenerateError, Ranked, Request};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::models::Served;
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

impl Failure {
    /// What clients are told; the number of a request says nothing to them.
    fn of(error: &GenerateError) -> Self {
        match error {
            GenerateError::Sampling { source, .. } => Self::Because(source.to_string()),
            other => Self::Because(other.to_string()),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Stopping => Self::stopping(),
            Failure::Because(reason) => Self::internal(reason),
        }
    }
}

/// A place among those that the server has, taken for as long as anybody holds it.
pub(crate) type Place = Arc<OwnedSemaphorePermit>;

/// A sequence to be sampled. Its place is free when it has ended, not before.
pub(crate) struct Sequence {
    pub request: Request,
    pub extras: Extras,
    pub place: Place,
}

/// Sequences to be sampled from one model.
pub(crate) struct Sampling {
    /// The model's place.
    pub model: usize,
    pub sequences: Vec<Sequence>,
    /// Has room for every event of theirs, so that the engine never waits; closed, they are cancelled.
    pub events: mpsc::Sender<Event>,
    /// Which of them are not wanted any more, though others are.
    pub unwanted: Unwanted,
}

/// Marks of sequences that nobody wants more of.
#[derive(Clone)]
pub(crate) struct Unwanted(Arc<[AtomicBool]>);

impl Unwanted {
    fn none(count: usize) -> Self {
        Self((0..count).map(|_| AtomicBool::new(false)).collect())
    }

    /// Has a sequence cancelled.
    pub fn mark(&self, sequence: usize) {
        self.0[sequence].store(true, Ordering::Relaxed);
    }

    fn has(&self, sequence: usize) -> bool {
        self.0[sequence].load(Ordering::Relaxed)
    }
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
    /// Free once it is read or left out.
    pub _place: Place,
}

/// Makes a model with the engine that is to run it.
pub(crate) type Loading = Box<dyn FnOnce(&Engine) -> Result<Served, String> + Send>;

/// A model to be loaded.
pub(crate) struct Load {
    pub make: Loading,
    pub reply: blocking::Sender<Result<Arc<Served>, String>>,
}

/// What the engine is told.
pub(crate) enum Message {
    Sample(Sampling),
    Read(Vec<Reading>),
    Load(Load),
    /// The model in this place is served no more.
    Close(usize),
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

    /// Has sequences sampled. Their events come until each has ended; dropping the receiver ends them, a mark one of them.
    pub fn sample(
        &self,
        model: usize,
        sequences: Vec<Sequence>,
    ) -> Result<(mpsc::Receiver<Event>, Unwanted), ApiError> {
        // Every sequence has at most one event a token, and one more if it fails
        let room = sequences
            .iter()
            .map(|sequence| sequence.request.max_new_tokens + 1)
            .sum::<usize>();
        let (events, told) = mpsc::channel(room.max(1));
        let unwanted = Unwanted::none(sequences.len());
        self.tell(Message::Sample(Sampling {
            model,
            sequences,
            events,
            unwanted: unwanted.clone(),
        }))?;
        Ok((told, unwanted))
    }

    /// Has texts read, and waits for the answers, which are in their order. Dropping the future ends the work.
    pub async fn read(&self, model: usize, texts: Vec<(Question, Arc<[u32]>, Place)>) -> Result<Vec<Answer>, ApiError> {
        let mut readings = Vec::with_capacity(texts.len());
        let mut replies = Vec::with_capacity(texts.len());
        for (question, ids, place) in texts {
            let (reply, answer) = oneshot::channel();
            readings.push(Reading {
                model,
                question,
                ids,
                reply,
                _place: place,
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

    /// Has a model loaded between two steps, and waits for it. From then on it has the place behind the last.
    ///
    /// # Errors
    /// What the loading says, or that the engine has ended.
    pub fn load(&self, make: Loading) -> Result<Arc<Served>, String> {
        let ended = || "the engine has ended".to_owned();
        let (reply, answer) = blocking::channel();
        self.tell(Message::Load(Load { make, reply })).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())?
    }

    /// Has nothing kept of a model that is served no more but its weights, which stay until the engine ends.
    pub fn close(&self, model: usize) {
        let _ = self.tell(Message::Close(model));
    }

    /// Tells the engine to end.
    pub fn stop(&self) {
        let _ = self.tell(Message::Stop);
    }
}
