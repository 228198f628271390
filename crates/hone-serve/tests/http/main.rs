//! The server over real HTTP on a free port, with tiny random models.

mod bounds;
mod chat;
mod client;
mod common;
mod completions;
mod harness;
mod load;
mod others;
mod security;
