//! The bundled small world: a closed set of people, places and things, a small invented language, tasks about them,
//! experts' demonstrations and a simulated labeler. Everything is generated from a seed.
//!
//! Every document, question, demonstration and ranking is a function of (seed, purpose, index), so any part of it
//! can be made alone, at any size, with the same bits on every platform.
//!
//! ```
//! use hone_world::{Labeler, Preferences, Source, Split, World};
//!
//! let world = World::new(1);
//! let story = world.document(Source::Stories, 0);
//! assert!(!story.is_empty());
//! let question = &world.questions(1, Split::HeldOut)?[0];
//! let labeler = Labeler::new(Preferences::standard(), 1);
//! let good = format!("Happy to help! Answer: {}.", question.answer);
//! assert_eq!(labeler.prefers(question, &good, "No idea."), 1.0);
//! # Ok::<(), hone_world::Error>(())
//! ```
#![forbid(unsafe_code)]

mod corpus;
mod demonstration;
mod error;
mod fact;
mod files;
mod labeler;
mod language;
mod phrase;
mod posts;
mod ranking;
mod reading;
mod task;
mod words;
mod world;

pub use corpus::Source;
pub use demonstration::{Demonstration, Style, WorkedExample, WorkedForm};
pub use error::Error;
pub use fact::{Attribute, Fact};
pub use files::{
    CorpusFile, DemonstrationRow, Message, PromptRow, RankingRow, TextRow, read_demonstrations, read_prompts,
    read_rankings, read_texts, write_rows,
};
pub use labeler::{Features, Labeler, Preferences};
pub use language::{LANGUAGE, Lexicon};
pub use phrase::{COURTESIES, RUDENESSES};
pub use ranking::Ranking;
pub use reading::{given_answer, in_asked_form, is_right};
pub use task::{Group, Kind, Question, Split, few_shot_prompt};
pub use world::World;
