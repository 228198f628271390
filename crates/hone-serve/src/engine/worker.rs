//! The loop of the thread that computes.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};

use hone_compute::Engine;
use hone_generate::GeneratorOptions;

use crate::engine::lane::Lane;
use crate::engine::reading::{ALONE, BETWEEN, read_pack};
use crate::engine::{Failure, Load, Message, Reading};
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

/// Models that are added while others run. Each stays where it is, so that what runs on it is not disturbed by the next.
#[derive(Default)]
struct Added(OnceCell<Box<(Arc<Served>, Added)>>);

impl Added {
    fn keep(&self, served: Arc<Served>) -> &Served {
        let mut last = self;
        while let Some(link) = last.0.get() {
            last = &link.1;
        }
        &last.0.get_or_init(|| Box::new((served, Added::default()))).0
    }
}

/// What is asked of the engine and not done.
struct Work<'m> {
    engine: &'m Engine,
    options: GeneratorOptions,
    models: Vec<&'m Served>,
    added: &'m Added,
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
        let added = Added::default();
        let mut work = Work {
            engine: &self.engine,
            options: self.options,
            models: Vec::with_capacity(self.models.len()),
            added: &added,
            lanes: Vec::with_capacity(self.models.len()),
            unread: VecDeque::new(),
        };
        for served in &self.models {
            work.open(served);
        }
        loop {
            // 1. What was asked since the last step; without work, wait for it
            if work.hear(&self.messages) == Next::End {
                break;
            }
            // 2. A pack of texts, a small one where answers are on their way
            let idle = work.lanes.iter().all(Lane::is_idle);
            let most = if idle { ALONE } else { BETWEEN };
            read_pack(&self.engine, &work.models, &mut work.unread, most);
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

impl<'m> Work<'m> {
    /// Gives a model its place, behind the last.
    fn open(&mut self, served: &'m Served) {
        let lane = Lane::new(self.engine, served.transformer(), self.options);
        self.models.push(served);
        self.lanes.push(lane);
    }

    fn load(&mut self, load: Load) {
        let loaded = (load.make)(self.engine).map(Arc::new);
        if let Ok(served) = &loaded {
            self.open(self.added.keep(Arc::clone(served)));
        }
        let _ = load.reply.send(loaded);
    }

    /// Frees the caches of a model of which nobody asks anything any more.
    fn close(&mut self, model: usize) {
        self.lanes[model].give_up(&Failure::Because("the model is served no more".into()));
        self.lanes[model] = Lane::new(self.engine, self.models[model].transformer(), self.options);
    }

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
            Message::Load(load) => self.load(load),
            Message::Close(model) => self.close(model),
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
