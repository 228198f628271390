//! JSON lines as input: every error names the file and the line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hone_text::Message;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// The longest line that is read.
const MAX_LINE: u64 = 64 << 20;

/// A row and where it stands.
pub struct Row<T> {
    /// What it says.
    pub value: T,
    /// `FILE:LINE`.
    pub place: String,
}

/// What is asked of a model: text as it stands, or turns for the chat template.
#[derive(Clone, Debug, Deserialize, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum Prompt {
    /// Raw text.
    Text(String),
    /// A conversation.
    Messages(Vec<Message>),
}

/// Reads a file of JSON lines (`-`: stdin); blank lines are passed over.
///
/// # Errors
/// A file that cannot be read, has no row, or a line that is not `expected`.
pub fn read_rows<T: DeserializeOwned>(path: &Path, expected: &str) -> Result<Vec<Row<T>>> {
    let (name, reader) = open(path)?;
    let mut reader = BufReader::new(reader);
    let mut rows = Vec::new();
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let place = format!("{name}:{number}");
        let read = (&mut reader).take(MAX_LINE + 1).read_until(b'\n', &mut line);
        if read.with_context(|| place.clone())? == 0 {
            break;
        }
        if line.len() as u64 > MAX_LINE {
            return Err(Failure::failed(format!("{place}: a line longer than {MAX_LINE} bytes")).into());
        }
        if number == 1 && line.starts_with(b"version https://git-lfs") {
            let failure = Failure::failed(format!("{name}: a Git LFS pointer where data should be"));
            return Err(failure.hint("run `git lfs pull` where the file comes from").into());
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(value) => rows.push(Row { value, place }),
            Err(error) => {
                let reason = said(&error);
                return Err(Failure::failed(format!("{place}: {reason}; expected {expected}")).into());
            }
        }
    }
    if rows.is_empty() {
        return Err(Failure::failed(format!("{name}: no row; expected one {expected} a line")).into());
    }
    Ok(rows)
}

/// What serde says, without its own count of lines (always 1 here).
fn said(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once(" at line ") {
        Some((reason, _)) => format!("{reason} (column {})", error.column()),
        None => text,
    }
}

fn open(path: &Path) -> Result<(String, Box<dyn Read>)> {
    if path == Path::new("-") {
        return Ok(("stdin".into(), Box::new(io::stdin())));
    }
    let file = File::open(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    Ok((path.display().to_string(), Box::new(file)))
}

/// A size such as `300`, `64k`, `4M` or `2G` (powers of 1,000), for arguments.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.to_ascii_lowercase().trim_end_matches('b') {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        _ => return Err(format!("`{unit}` is no unit; expected k, M or G")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("`{text}` is no size; expected one like 4M"))?;
    Ok((number * factor) as usize)
}

/// Refuses to write into a folder that holds something that hone did not write.
///
/// # Errors
/// If it is a file, or a folder with other things in it.
pub fn check_output_directory(path: &Path) -> Result<()> {
    if path.is_file() {
        return Err(Failure::usage(format!("{}: a file; expected a folder to write", path.display())).into());
    }
    let Ok(mut entries) = path.read_dir() else {
        return Ok(());
    };
    let ours: PathBuf = path.join(hone_run::MANIFEST_FILE);
    if entries.next().is_some() && !ours.exists() {
        let failure = Failure::usage(format!("{}: not empty, and not written by hone", path.display()));
        return Err(failure.hint("name a new folder, or empty this one first").into());
    }
    Ok(())
}

/// A share of a file, as an argument.
pub fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("expected a number above 0 and below 1".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("300"), Ok(300));
        assert_eq!(parse_size("64k"), Ok(64_000));
        assert_eq!(parse_size("1.5MB"), Ok(1_500_000));
        assert!(parse_size("4x").is_err());
        assert!(parse_size("").is_err());
    }
}
