//! Arguments that several commands have.

use anyhow::Result;
use clap::Args;
use hone_data::Prompt;

use super::data::parse_column;
use super::sample::SamplingArguments;
use crate::bulk::{self, Plan};

/// How a run is carried out, or several of them.
#[derive(Args, Clone, Debug)]
pub struct RunArguments {
    /// Threads; results do not depend on it [default: HONE_THREADS, or one a core]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,
    /// Go on under another instruction set than it began with; the last bits then differ
    #[arg(long)]
    pub allow_isa_change: bool,
}

impl RunArguments {
    /// Threads, where they are given.
    pub fn threads(&self) -> Option<usize> {
        self.threads.map(|threads| threads as usize)
    }
}

/// How the rows of a file of prompts are read.
#[derive(Args, Clone, Debug)]
pub struct RowArguments {
    /// A column of a format and the file's name for it, such as question=q
    #[arg(long = "column", value_name = "FORMAT=FILE", value_parser = parse_column)]
    columns: Vec<(String, String)>,
    /// Take the first rows of the file only
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl RowArguments {
    /// The prompts of a file.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no prompts.
    pub fn read(&self, path: &std::path::Path) -> Result<Vec<Prompt>> {
        bulk::read_prompts(path, &self.columns, self.limit)
    }

    /// Adds what an output depends on.
    pub fn tell(&self, plan: &mut Plan) {
        plan.set("--column", format!("{:?}", self.columns));
        plan.set("--limit", self.limit.map(|limit| limit.to_string()).unwrap_or_default());
    }
}

/// How answers are sampled, and how many at once.
#[derive(Args, Clone, Debug)]
pub struct DecodingArguments {
    /// Sequences decoded together; results do not depend on it
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    #[command(flatten)]
    pub sampling: SamplingArguments,
}

impl DecodingArguments {
    /// Sequences decoded together.
    pub fn batch(&self) -> usize {
        self.batch as usize
    }
}
