//! The server over real HTTP on a free port, with tiny random models.

mod bounds;
mod chat;
#[path = "../shared/client.rs"]
mod client;
mod common;
mod completions;
#[path = "../shared/gates.rs"]
mod gates;
mod harness;
#[cfg(unix)]
mod jobs;
mod load;
mod others;
mod security;
#[cfg(unix)]
mod tuner;
mod uploads;
