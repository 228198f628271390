//! The loop of the thread that computes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};

use hone_compute::Engine;
use hone_generate::GeneratorOptions;

use crate::engine::lane::Lane;
use crate::engine::reading::read_pack;
use crate::engine::{Failure, Message, Reading};
use crate::metrics::Metrics;
use crate::models::Served;

/// The thread that computes. All models take turns on it: the engine's own threads share each operation.
pub(crate) struct Worker {
    pub engine: Engine,
    pub models: Vec<Arc<Served>>,
    pub options: GeneratorOptions,
    pub messages: Receiver<Message>,
    pub metrics: Arc<Metrics>,
}

/// What is asked of the engine and not done.
struct Work<'m> {
    lanes: Vec<Lane<'m>>,
    unread: VecDeque<Reading>,
}

/// Whether the loop goes on.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

impl Worker {
    /// Computes until it is told to stop, or nobody can ask any more.
    pub fn run(self) {
        let lanes = self
            .models
            .iter()
            .map(|served| Lane::new(&self.engine, served.transformer(), self.options));
        let mut work = Work {
            lanes: lanes.collect(),
            unread: VecDeque::new(),
        };
        loop {
            // 1. What was asked since the last step; without work, wait for it
            if work.hear(&self.messages) == Next::End {
                break;
            }
            // 2. A pack of texts
            read_pack(&self.engine, &self.models, &mut work.unread);
            // 3. A token for every sequence of every model
            for lane in &mut work.lanes {
                let stepped = lane.step();
                self.metrics.sampled_tokens.fetch_add(stepped.tokens, Ordering::Relaxed);
                self.metrics.cancelled.fetch_add(stepped.cancelled, Ordering::Relaxed);
            }
            self.metrics.steps.fetch_add(1, Ordering::Relaxed);
            work.tell(&self.metrics);
        }
        // What was asked in the meantime is answered, too
        while let Ok(message) = self.messages.try_recv() {
            work.take(message);
        }
        work.give_up();
    }
}

impl Work<'_> {
    fn is_done(&self) -> bool {
        self.unread.is_empty() && self.lanes.iter().all(Lane::is_idle)
    }

    fn hear(&mut self, messages: &Receiver<Message>) -> Next {
        if self.is_done() {
            match messages.recv() {
                Ok(message) => {
                    if self.take(message) == Next::End {
                        return Next::End;
                    }
                }
                Err(_) => return Next::End,
            }
        }
        loop {
            match messages.try_recv() {
                Ok(message) => {
                    if self.take(message) == Next::End {
                        return Next::End;
                    }
                }
                // Running answers are finished even if nobody can ask for more
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Next::GoOn,
            }
        }
    }

    fn take(&mut self, message: Message) -> Next {
        match message {
            Message::Sample(sampling) => self.lanes[sampling.model].take(sampling),
            Message::Read(readings) => self.unread.extend(readings),
            Message::Stop => return Next::End,
        }
        Next::GoOn
    }

    fn give_up(&mut self) {
        for lane in &mut self.lanes {
            lane.give_up(&Failure::Stopping);
        }
        for reading in self.unread.drain(..) {
            let _ = reading.reply.send(Err(Failure::Stopping));
        }
    }

    fn tell(&self, metrics: &Metrics) {
        let (mut running, mut waiting, mut bytes) = (0, 0, 0);
        for lane in &self.lanes {
            let load = lane.load();
            (running, waiting, bytes) = (running + load.0, waiting + load.1, bytes + load.2);
        }
        metrics.running.store(running as u64, Ordering::Relaxed);
        metrics.waiting.store(waiting as u64, Ordering::Relaxed);
        metrics.cache_bytes.store(bytes as u64, Ordering::Relaxed);
        metrics.unread.store(self.unread.len() as u64, Ordering::Relaxed);
    }
}
