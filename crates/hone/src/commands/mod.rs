//! One file a command; what several of them take is in `shared`.

pub mod annotate;
pub mod bench;
pub mod best_of;
pub mod chat;
pub mod compare;
pub mod config;
pub mod dashboard;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod logprobs;
pub mod plan;
pub mod prompt;
pub mod quickstart;
pub mod recipe;
pub mod sample;
pub mod score;
pub mod serve;
pub mod shared;
pub mod stage;
pub mod tokenizer;
pub mod world;
