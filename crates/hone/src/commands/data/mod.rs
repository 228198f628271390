//! `hone data`: looking at data before it is trained on, and writing it anew.

mod convert;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use hone_data::{
    DataError, Demonstration, Format, Kind, Limits, Piece, Source, TokenExample, TrainedTurns, for_each_demonstration,
    for_each_document, for_each_prompt, for_each_ranking, for_each_unpaired, inspect, preview_messages, preview_tokens,
};
use hone_text::{Chat, Message, SkipSpecial, Tokenizer};
use serde_json::json;

use crate::failure::Failure;
use crate::model::resolve_directory;
use crate::output::{Output, colours};

/// Look at data before it is trained on, or write it anew
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what a file is: format, rows, bad rows, lengths
    Inspect(InspectArguments),
    /// Show examples, and what of them is trained on
    Preview(PreviewArguments),
    /// Write a file's rows as JSON lines: of a Stack Exchange dump, demonstrations or preferences by votes
    Convert(convert::ConvertArguments),
}

#[derive(Args)]
struct FileArguments {
    /// The file
    file: PathBuf,
    /// The format, where it is not to be told from the columns
    #[arg(long, value_parser = parse_format)]
    format: Option<Format>,
    /// A column of the format and the file's name for it, such as prompt=question
    #[arg(long = "column", value_name = "FORMAT=FILE", value_parser = parse_column)]
    columns: Vec<(String, String)>,
}

#[derive(Args)]
struct InspectArguments {
    #[command(flatten)]
    file: FileArguments,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct PreviewArguments {
    #[command(flatten)]
    file: FileArguments,
    /// A model or tokenizer directory, or a hub id: shows the tokens that the model gets
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// Examples shown
    #[arg(long, default_value_t = 3)]
    limit: usize,
    /// Which replies of a conversation are trained on
    #[arg(long, value_enum, default_value = "all")]
    turns: TurnsArgument,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum TurnsArgument {
    /// Every reply
    All,
    /// The last one
    Last,
}

fn parse_format(text: &str) -> Result<Format, String> {
    let parsed = serde_json::from_value(json!(text));
    parsed.map_err(|error| error.to_string())
}

/// A column of a format and the file's name for it, as an argument.
pub fn parse_column(text: &str) -> Result<(String, String), String> {
    let (ours, theirs) = text
        .split_once('=')
        .ok_or("expected FORMAT=FILE, such as prompt=question")?;
    Ok((ours.trim().into(), theirs.trim().into()))
}

impl FileArguments {
    fn source(&self) -> Source {
        let mut source = Source::new(&self.file);
        source.format = self.format;
        source.columns = self.columns.iter().cloned().collect();
        source
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Command::Inspect(arguments) => run_inspect(arguments),
        Command::Preview(arguments) => run_preview(arguments),
        Command::Convert(arguments) => convert::run(arguments),
    }
}

fn run_inspect(arguments: &InspectArguments) -> Result<()> {
    let found = inspect(&arguments.file.source())?;
    let mut output = Output::new();
    if arguments.json {
        output.json(&found)?;
        return Ok(output.finish()?);
    }
    // Names as configurations spell them
    let word = |value: serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let format = found.format.map_or("of no known format", Format::name);
    let (container, compression) = (word(json!(found.container)), word(json!(found.compression)));
    output.line(&format!(
        "{}: {format} ({container}, compression: {compression})",
        arguments.file.file.display()
    ))?;
    output.line(&format!("{} rows, {} bad", found.rows, found.bad))?;
    for column in &found.columns {
        output.line(&format!(
            "  column {:<24} {:<10} in {} rows",
            column.name, column.holds, column.present
        ))?;
    }
    for l in &found.lengths {
        let numbers = format!(
            "{} to {}, median {}, mean {:.0}, 95% up to {}",
            l.min, l.max, l.median, l.mean, l.p95
        );
        output.line(&format!("  {:<12} {} of {numbers} characters", l.part, l.count))?;
    }
    for bad in &found.samples_of_bad {
        output.line(&format!("  bad: {}", word(json!(bad))))?;
    }
    for note in &found.notes {
        output.line(&format!("note: {note}"))?;
    }
    Ok(output.finish()?)
}

/// An example as it is shown.
struct Example {
    title: String,
    pieces: Vec<Piece>,
}

fn run_preview(arguments: &PreviewArguments) -> Result<()> {
    let source = arguments.file.source();
    let found = inspect(&Source {
        max_rows: Some(100),
        ..source.clone()
    })?;
    let Some(kind) = found.kind.or(found.format.map(Format::kind)) else {
        let notes = found.notes.join("; ");
        return Err(Failure::failed(format!(
            "{}: of no known format: {notes}",
            arguments.file.file.display()
        ))
        .into());
    };
    let viewer = match &arguments.model {
        Some(name) => Some(Viewer::new(Tokenizer::from_dir(resolve_directory(name)?)?, kind)?),
        None => None,
    };
    let examples = collect(&source, (kind, found.format), arguments, viewer.as_ref())?;
    let mut output = Output::new();
    for (i, example) in examples.iter().enumerate() {
        if arguments.json {
            output.json(&json!({ "title": example.title, "pieces": example.pieces }))?;
        } else {
            output.line(&format!(
                "--- {} of {}: {}",
                i + 1,
                arguments.file.file.display(),
                example.title
            ))?;
            output.line(&painted(&example.pieces, colours()))?;
        }
    }
    Ok(output.finish()?)
}

/// Trained pieces in green on a terminal, else between brackets.
fn painted(pieces: &[Piece], colours: bool) -> String {
    let mut text = String::new();
    for piece in pieces {
        match (piece.trained, colours) {
            (true, true) => text.push_str(&format!("\x1b[32m{}\x1b[0m", piece.text)),
            (true, false) => text.push_str(&format!("[{}]", piece.text)),
            (false, true) => text.push_str(&format!("\x1b[2m{}\x1b[0m", piece.text)),
            (false, false) => text.push_str(&piece.text),
        }
    }
    text
}

/// Reads the first examples; reading stops as soon as there are enough.
fn collect(
    source: &Source,
    (kind, format): (Kind, Option<Format>),
    arguments: &PreviewArguments,
    viewer: Option<&Viewer>,
) -> Result<Vec<Example>> {
    let most = arguments.limit as u64;
    let source = Source {
        max_rows: Some(source.max_rows.unwrap_or(u64::MAX).min(most.max(1) * 4)),
        ..source.clone()
    };
    let mut examples = Vec::new();
    let mut failure = None;
    let mut add = |made: Result<Vec<Example>>| match made {
        Ok(made) => {
            examples.extend(made);
            Ok::<(), DataError>(())
        }
        Err(error) => {
            failure.get_or_insert(error);
            Ok(())
        }
    };
    let limits = Limits::default();
    let turns = arguments.turns;
    match kind {
        Kind::Text => for_each_document(&source, &limits, &mut |d| add(document(&d.text, viewer))),
        Kind::Conversations => for_each_demonstration(&source, &limits, &mut |d| add(demonstration(&d, turns, viewer))),
        Kind::Preferences if format == Some(Format::Unpaired) => for_each_unpaired(&source, &limits, &mut |row| {
            let mut messages = row.prompt;
            messages.push(hone_data::Message::assistant(row.completion));
            let title = if row.label { "desirable" } else { "undesirable" };
            let made = demonstration(
                &Demonstration {
                    messages,
                    ..Demonstration::default()
                },
                TurnsArgument::Last,
                viewer,
            );
            add(made.map(|made| {
                made.into_iter()
                    .map(|e| Example {
                        title: title.into(),
                        ..e
                    })
                    .collect()
            }))
        }),
        Kind::Preferences => for_each_ranking(&source, &limits, &mut |ranking| {
            let mut made = Vec::new();
            for (place, group) in ranking.groups.iter().enumerate() {
                for &response in group {
                    let mut messages = ranking.prompt.clone();
                    messages.push(hone_data::Message::assistant(ranking.responses[response].as_str()));
                    let reply = Demonstration {
                        messages,
                        ..Demonstration::default()
                    };
                    match demonstration(&reply, TurnsArgument::Last, viewer) {
                        Ok(shown) => made.extend(shown.into_iter().map(|e| Example {
                            title: format!("place {} of {}", place + 1, ranking.groups.len()),
                            ..e
                        })),
                        Err(error) => return add(Err(error)),
                    }
                }
            }
            add(Ok(made))
        }),
        Kind::Prompts => for_each_prompt(&source, &limits, &mut |prompt| {
            let pieces = preview_messages(&prompt.input.to_messages(), TrainedTurns::AllReplies);
            let pieces = pieces
                .into_iter()
                .map(|piece| Piece {
                    trained: false,
                    ..piece
                })
                .collect();
            add(Ok(vec![Example {
                title: "prompt".into(),
                pieces,
            }]))
        }),
    }?;
    if let Some(error) = failure {
        return Err(error);
    }
    examples.truncate(arguments.limit);
    Ok(examples)
}

fn document(text: &str, viewer: Option<&Viewer>) -> Result<Vec<Example>> {
    // The beginning says enough
    let shown: String = text.chars().take(2000).collect();
    let pieces = match viewer {
        None => vec![Piece {
            text: shown,
            trained: true,
        }],
        Some(viewer) => viewer.tokens(viewer.tokenizer.encode_ordinary(&shown)?, |_| true),
    };
    let title = if text.len() > 2000 {
        "document, its beginning"
    } else {
        "document"
    };
    Ok(vec![Example {
        title: title.into(),
        pieces,
    }])
}

fn demonstration(d: &Demonstration, turns: TurnsArgument, viewer: Option<&Viewer>) -> Result<Vec<Example>> {
    let pieces = match viewer {
        None => {
            let turns = match turns {
                TurnsArgument::All => TrainedTurns::AllReplies,
                TurnsArgument::Last => TrainedTurns::LastReply,
            };
            let mut pieces = preview_messages(&d.messages, turns);
            // Two pieces a turn, the first of which names the role
            for role in pieces.iter_mut().step_by(2).skip(1) {
                role.text.insert(0, '\n');
            }
            pieces
        }
        Some(viewer) => viewer.conversation(d, turns)?,
    };
    Ok(vec![Example {
        title: format!("{} turns", d.messages.len()),
        pieces,
    }])
}

/// Shows examples as the model gets them.
struct Viewer {
    tokenizer: Tokenizer,
    chat: Option<Chat>,
}

impl Viewer {
    fn new(tokenizer: Tokenizer, kind: Kind) -> Result<Self> {
        let chat = if kind == Kind::Text {
            None
        } else {
            Some(Chat::new(&tokenizer)?)
        };
        Ok(Self { tokenizer, chat })
    }

    fn conversation(&self, d: &Demonstration, turns: TurnsArgument) -> Result<Vec<Piece>> {
        let Some(chat) = &self.chat else {
            return Ok(Vec::new());
        };
        let messages: Vec<Message> = d.messages.iter().map(|m| Message::new(&m.role, &m.content)).collect();
        let turns = match turns {
            TurnsArgument::All => hone_text::TrainedTurns::All,
            TurnsArgument::Last => hone_text::TrainedTurns::Last,
        };
        let tokens = chat.encode(&messages, turns)?;
        let trained = |i: usize| tokens.spans.iter().any(|span| (span.start..span.end).contains(&i));
        Ok(self.tokens(tokens.ids.clone(), trained))
    }

    fn tokens(&self, ids: Vec<u32>, trained: impl Fn(usize) -> bool) -> Vec<Piece> {
        let trained = (0..ids.len()).map(trained).collect();
        let decode = |ids: &[u32]| self.tokenizer.decode(ids, SkipSpecial::No).unwrap_or_default();
        preview_tokens(&TokenExample { ids, trained }, decode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trained_pieces_stand_out() {
        let pieces = [
            Piece {
                text: "user: a ".into(),
                trained: false,
            },
            Piece {
                text: "b".into(),
                trained: true,
            },
        ];
        assert_eq!(painted(&pieces, false), "user: a [b]");
        assert_eq!(painted(&pieces, true), "\x1b[2muser: a \x1b[0m\x1b[32mb\x1b[0m");
    }
}
