//! A model's session with the clients of its sequences.

use std::collections::HashMap;

use hone_compute::Engine;
use hone_generate::{GenerateError, Generator, GeneratorOptions, RequestId, Session};
use hone_model::Transformer;
use tokio::sync::mpsc;

use crate::engine::{Event, Failure, Sampling};

/// What runs on one model.
pub(super) struct Lane<'m> {
    session: Session<'m>,
    clients: HashMap<RequestId, Client>,
}

/// Who hears of a sequence.
struct Client {
    events: mpsc::Sender<Event>,
    /// Its place among those that were asked for together.
    sequence: usize,
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stepped {
    /// Tokens sampled.
    pub tokens: u64,
    /// Sequences whose client had left.
    pub cancelled: u64,
}

impl<'m> Lane<'m> {
    pub fn new(engine: &'m Engine, model: &'m Transformer, options: GeneratorOptions) -> Self {
        Self {
            session: Generator::new(engine, model, options).session(),
            clients: HashMap::new(),
        }
    }

    pub fn is_idle(&self) -> bool {
        self.session.is_idle()
    }

    /// Sequences that are decoded, those that wait, and bytes of caches.
    pub fn load(&self) -> (usize, usize, usize) {
        (
            self.session.active(),
            self.session.waiting(),
            self.session.cache_bytes(),
        )
    }

    /// Adds sequences.
    pub fn take(&mut self, sampling: Sampling) {
        for (sequence, (request, extras)) in sampling.sequences.into_iter().enumerate() {
            match self.session.submit(request, extras) {
                Ok(id) => {
                    let events = sampling.events.clone();
                    self.clients.insert(id, Client { events, sequence });
                }
                Err(error) => {
                    let _ = sampling
                        .events
                        .try_send(Event::Failed(Failure::Because(error.to_string())));
                }
            }
        }
    }

    /// One more token for every sequence, once those that nobody hears of are out.
    pub fn step(&mut self) -> Stepped {
        let mut stepped = Stepped::default();
        let gone = self.clients.iter().filter(|(_, client)| client.events.is_closed());
        let gone: Vec<RequestId> = gone.map(|(id, _)| *id).collect();
        for id in gone {
            self.session.cancel(id);
            self.clients.remove(&id);
            stepped.cancelled += 1;
        }
        if self.session.is_idle() {
            self.session.take_finished();
            return stepped;
        }
        let clients = &mut self.clients;
        let result = self.session.step_with(&mut |event| {
            stepped.tokens += 1;
            let Some(client) = clients.get(&event.request) else {
                return false;
            };
            let told = client.events.try_send(Event::Token {
                sequence: client.sequence,
                token: event.token,
                logprob: event.logprob,
                alternatives: event.alternatives,
                finish: event.finish,
            });
            if told.is_err() {
                stepped.cancelled += 1;
            }
            if told.is_err() || event.finish.is_some() {
                clients.remove(&event.request);
            }
            told.is_ok()
        });
        // Clients gather the tokens themselves
        self.session.take_finished();
        if let Err(error) = result {
            let reason = Failure::Because(error.to_string());
            match error {
                GenerateError::Sampling { request, .. } => self.fail(request, &reason),
                // Requests are checked when they are added
                _ => self.give_up(&reason),
            }
        }
        stepped
    }

    fn fail(&mut self, id: RequestId, reason: &Failure) {
        if let Some(client) = self.clients.remove(&id) {
            let _ = client.events.try_send(Event::Failed(reason.clone()));
        }
    }

    /// Ends all sequences.
    pub fn give_up(&mut self, reason: &Failure) {
        let ids: Vec<RequestId> = self.clients.keys().copied().collect();
        for id in ids {
            self.session.cancel(id);
            self.fail(id, reason);
        }
    }
}
