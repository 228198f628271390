//! Models over HTTP, in OpenAI's wire format, with a page to talk to them.
//!
//! One thread computes ([`engine`]): it owns the turns of a session for each model, takes what was asked since the last
//! step, and gives every running request one more token. Another thread speaks HTTP ([`server`]): it checks who asks
//! ([`security`]) and how much ([`bounds`]) before anything is allocated, turns requests into tokens and tokens into text
//! ([`openai`]), and serves the pages ([`pages`]). They meet in bounded channels; a client that leaves drops its end, and its
//! place is free at the next step. Where models are tuned, two more threads check the jobs and work through them, each job a
//! process ([`jobs`]).
//!
//! [`annotate`] is another server: pages on which people rank, rate, compare and write answers.
//!
//! An answer is a function of the model, the prompt, the parameters and the seed: who else is served does not matter, to the
//! bit.
#![forbid(unsafe_code)]

mod accept;
pub mod annotate;
mod bounds;
mod cookies;
mod dashboard;
mod desk;
mod engine;
mod error;
mod jobs;
mod metrics;
mod models;
mod openai;
mod pages;
mod patient;
mod routes;
mod security;
mod server;
mod shared;
mod shown;
mod urlencoded;

pub use bounds::Patience;
pub use dashboard::{Bounds, DASHBOARD_ROUTES, Dashboard, DashboardOptions, RULES};
pub use error::ServeError;
pub use jobs::JobOptions;
pub use models::ServedModel;
pub use openai::preferences::AnnotationOptions;
pub use routes::{Access, ROUTES, Route};
pub use security::{LEAST_TOKEN, read_token};
pub use server::{Options, Server};
