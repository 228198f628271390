//! The annotation pages over real HTTP.

mod access;
mod client;
mod judging;
mod owners;
