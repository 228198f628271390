//! The dashboard over real HTTP on a free port, with runs that the writer of runs wrote.

#[allow(dead_code, reason = "the other tests of this crate ask in more ways")]
#[path = "../http/client.rs"]
mod client;
mod common;
mod live;
mod pages;
mod security;
