//! `hone world`: the bundled small world as files.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use hone_world::{Labeler, Preferences, Split, World};
use serde_json::json;

use crate::failure::Failure;
use crate::input::parse_size;
use crate::output::Output;

/// Write the bundled small world: text, demonstrations, prompts and rankings, at any size
///
/// Everything is a function of the seed: the same command writes the same bytes on every machine.
#[derive(Args)]
pub struct Arguments {
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Which world
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Bytes of text to pre-train on, such as 4M; 0 for none
    #[arg(long, default_value = "4M", value_parser = parse_size)]
    bytes: usize,
    /// Demonstrations
    #[arg(long, default_value_t = 4000)]
    demonstrations: usize,
    /// Prompts to train on
    #[arg(long, default_value_t = 4000)]
    prompts: usize,
    /// Prompts held out
    #[arg(long, default_value_t = 1000)]
    held_out: usize,
    /// Prompts with ranked responses
    #[arg(long, default_value_t = 2000)]
    rankings: usize,
    /// Responses a ranking
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=16))]
    responses: u32,
    /// Bytes of a question-and-answer site's dump in the format of Stack Exchange's Posts.xml, such as 100M; 0 for none
    #[arg(long, default_value = "0", value_parser = parse_size)]
    posts: usize,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let out = &arguments.out;
    if out.is_file() {
        return Err(Failure::usage(format!("{}: a file; expected a folder to write", out.display())).into());
    }
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let world = World::new(arguments.seed);
    let mut files = Vec::new();
    if arguments.bytes > 0 {
        for file in world.write_corpus(&out.join("corpus"), arguments.bytes)? {
            files.push(json!({ "path": file.path, "rows": file.documents, "bytes": file.bytes }));
        }
    }
    let mut wrote = |name: &str, rows: usize, write: &dyn Fn(&std::path::Path) -> Result<(), hone_world::Error>| {
        if rows == 0 {
            return Ok(());
        }
        let path = out.join(name);
        write(&path)?;
        files.push(json!({ "path": path, "rows": rows }));
        Ok::<(), anyhow::Error>(())
    };
    let labeler = Labeler::new(Preferences::standard(), arguments.seed);
    let (demonstrations, prompts, held_out) = (arguments.demonstrations, arguments.prompts, arguments.held_out);
    let (rankings, responses) = (arguments.rankings, arguments.responses as usize);
    wrote("demonstrations.jsonl", demonstrations, &|path| {
        world.write_demonstrations(path, demonstrations)
    })?;
    wrote("prompts.jsonl", prompts, &|path| {
        world.write_prompts(path, prompts, Split::Training)
    })?;
    wrote("prompts-held-out.jsonl", held_out, &|path| {
        world.write_prompts(path, held_out, Split::HeldOut)
    })?;
    wrote("rankings.jsonl", rankings, &|path| {
        world.write_rankings(path, rankings, responses, &labeler)
    })?;
    if arguments.posts > 0 {
        let path = out.join("Posts.xml");
        let (questions, answers) = world.write_posts(&path, arguments.posts as u64, &labeler)?;
        files.push(json!({ "path": path, "rows": questions + answers, "questions": questions }));
    }
    let mut output = Output::new();
    if arguments.json {
        output.json(&json!({ "seed": arguments.seed, "files": files }))?;
    } else {
        for file in &files {
            let bytes = file
                .get("bytes")
                .map(|bytes| format!(", {bytes} bytes of text"))
                .unwrap_or_default();
            output.line(&format!(
                "{}: {} rows{bytes}",
                file["path"].as_str().unwrap_or_default(),
                file["rows"]
            ))?;
        }
    }
    Ok(output.finish()?)
}
