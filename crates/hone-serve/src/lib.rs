//! What hone serves over HTTP.
//!
//! - [`annotate`]: pages on which people rank, rate, compare and write answers.
#![forbid(unsafe_code)]

pub mod annotate;
