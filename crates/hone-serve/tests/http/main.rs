//! The server over real HTTP on a free port, with tiny random models.

mod bounds;
mod chat;
mod client;
mod common;
mod completions;
mod harness;
#[cfg(unix)]
mod jobs;
mod load;
mod others;
mod preferences;
mod security;
#[cfg(unix)]
mod tuner;
mod uploads;
