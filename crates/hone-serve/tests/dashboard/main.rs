//! The dashboard over real HTTP on a free port, with runs that the writer of runs wrote.

#[allow(dead_code, reason = "the other tests of this crate ask in more ways")]
#[path = "../shared/client.rs"]
mod client;
mod common;
#[path = "../shared/gates.rs"]
mod gates;
#[path = "../shared/injections.rs"]
mod injections;
mod live;
mod markup;
mod pages;
mod security;
#[path = "../shared/slow.rs"]
mod slow;
