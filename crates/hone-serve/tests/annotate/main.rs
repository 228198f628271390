//! The annotation pages over real HTTP.

mod access;
mod browser;
#[allow(dead_code, reason = "the other tests of this crate ask in more ways")]
#[path = "../shared/client.rs"]
mod client;
#[path = "../shared/gates.rs"]
mod gates;
#[path = "../shared/injections.rs"]
mod injections;
mod judging;
mod markup;
mod owners;
#[path = "../shared/slow.rs"]
mod slow;
