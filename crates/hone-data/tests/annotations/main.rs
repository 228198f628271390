//! The store of annotations: what the queue hands out, what undoing brings back, what survives, and what reads it.

mod common;
mod crowd;
mod events;
mod exports;
mod history;
mod kill;
mod people;
mod queue;
mod reading;
