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
#[path = "../shared/injections.rs"]
#[cfg(unix)]
mod injections;
#[cfg(unix)]
mod jobs;
mod load;
#[cfg(unix)]
mod markup;
mod others;
#[cfg(unix)]
mod plans;
mod preferences;
#[cfg(unix)]
mod results;
mod security;
#[path = "../shared/slow.rs"]
mod slow;
#[cfg(unix)]
mod tuner;
mod uploads;
