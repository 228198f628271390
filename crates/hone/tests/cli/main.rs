//! The real binary on a tiny random model: shapes of what it prints, messages and exit codes for bad input.

mod annotate;
mod annotate_models;
mod bad_input;
mod bad_stage;
mod best_of;
mod bulk;
mod common;
mod compare;
mod config;
mod dashboard;
mod documents;
mod files;
mod first_space;
mod generate;
mod hub;
mod kill;
mod plan;
mod prompt;
mod serve;
mod serve_jobs;
mod stages;
