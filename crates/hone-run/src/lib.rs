//! Configuration, run directory, manifest, metrics and report.
//!
//! A run is one folder that one configuration file describes. This crate reads that file strictly
//! ([`config`]), opens the folder for one writer at a time ([`Run`]), saves checkpoints that appear complete or
//! not at all ([`Run::save_checkpoint`]), records what happens ([`Run::record`]) and draws it ([`report`]).
//! Results of commands that work through a file row by row grow in a [`BulkFile`].
//! It knows nothing of models: a checkpoint is a set of named files that the caller writes.
//!
//! Nothing here prints. What a person should hear goes to an [`Observer`]; what went wrong is an [`Error`], and
//! [`Error::exit_status`] says with which code a program ends.
#![forbid(unsafe_code)]

mod board;
mod bulk;
mod checkpoint;
pub mod config;
mod durable;
mod error;
mod inputs;
mod jsonl;
mod lock;
mod manifest;
mod progress;
mod publish;
pub mod report;
mod run;
mod shutdown;

pub use board::EventFile;
pub use bulk::{BulkFile, BulkPlan, BulkSettings, for_each_line, put_in_place, side_folder};
pub use checkpoint::{Checkpoint, CheckpointWriter};
pub use config::{Configuration, Resolved};
pub use durable::write_atomic;
pub use error::{Damage, Error, ExitStatus, Result, UnknownKey};
pub use inputs::Inputs;
pub use jsonl::{JsonLines, Sample, metric_line};
pub use lock::Lock;
pub use manifest::{FileRecord, MANIFEST_FILE, Manifest};
pub use progress::{Eta, Event, Observer, Silent, format_duration};
pub use publish::{publish_dir, recover_dir, verify_dir};
pub use run::{Environment, OpenOptions, Opened, Run};
pub use shutdown::Shutdown;

#[cfg(test)]
mod crash_tests;
