//! The stage `split`, and `hone data split`: conversations in two parts by chance, one to learn from and one to judge by.
//!
//! A row is held out where a number that follows from the seed and its opening (the conversation up to the first reply)
//! is below the share. So rows with one opening are on one side, and a row keeps its side whatever is added to the file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use hone_data::{DataError, Demonstration, Limits, LoadReport, Opening, Source, for_each_demonstration};
use hone_math::Key;
use hone_run::{Configuration, Error as RunError, Resolved, digest_of, publish_dir};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::finished;
use crate::error::{PipelineError, Result};
use crate::files::write_json;

/// Conversations to learn from.
const TRAIN: &str = "train.jsonl";
/// Conversations to judge by.
const HELD_OUT: &str = "held-out.jsonl";
/// The rows of [`TRAIN`] as texts to pre-train on.
const TEXT: &str = "text.jsonl";
/// What the stage came to.
const RECORD: &str = "split.run.json";

/// Settings of a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitConfig {
    /// Conversations, in any format of them.
    pub file: Source,
    /// The probability of a row to be held out, above 0 and below 1.
    #[serde(default = "tenth")]
    pub held_out: f64,
    /// Which rows these are follows from it and from what the rows ask.
    #[serde(default = "one")]
    pub seed: u64,
    /// Rows whose last reply has more characters are not learned from; absent: all are. What is held out does not
    /// depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_reply: Option<usize>,
}

fn tenth() -> f64 {
    0.1
}

fn one() -> u64 {
    1
}

impl Configuration for SplitConfig {}

impl SplitConfig {
    /// Refuses what is no split.
    pub(super) fn check(&self) -> Result<()> {
        self.file.validate()?;
        if !(self.held_out > 0.0 && self.held_out < 1.0) {
            let reason = format!("is {}; expected a share above 0 and below 1", self.held_out);
            return Err(PipelineError::setting("held_out", reason));
        }
        match self.longest_reply {
            Some(0) => Err(PipelineError::setting("longest_reply", "is 0; expected at least 1")),
            _ => Ok(()),
        }
    }
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitReport {
    /// Rows to learn from.
    pub train: usize,
    /// Rows to judge by.
    pub held_out: usize,
    /// Rows of the first part that were left out because of their length.
    pub longer: usize,
    /// How reading went.
    pub loading: LoadReport,
}

/// Writes the parts into a folder that is made for them: `train.jsonl` and `held-out.jsonl` hold rows of `messages` with
/// the file's other columns and `answer`, the last reply, where there is no column of that name; `text.jsonl` holds the
/// first part as texts, turn after turn in lines of their own. The folder appears whole or not at all.
///
/// # Errors
/// Settings that are no split, a file that cannot be read, or one of which either part has nothing.
pub fn split(config: &SplitConfig, dir: &Path) -> Result<SplitReport> {
    write(config, dir, |_| None)
}

fn write(config: &SplitConfig, dir: &Path, record: impl Fn(&SplitReport) -> Option<Value>) -> Result<SplitReport> {
    config.check()?;
    let (mut report, mut failure) = (None, None);
    let published = publish_dir(dir, &mut |dir| {
        let made = divide(config, dir).and_then(|made| match record(&made) {
            Some(record) => write_json(&dir.join(RECORD), &record).map(|()| made),
            None => Ok(made),
        });
        match made {
            Ok(made) => report = Some(made),
            // A full disk is known by the error as it is
            Err(PipelineError::Run(error)) => return Err(error),
            Err(error) => {
                let text = error.to_string();
                failure = Some(error);
                return Err(RunError::caller(text));
            }
        }
        Ok(())
    });
    if let Some(error) = failure {
        return Err(error);
    }
    published?;
    report.ok_or_else(|| PipelineError::file(dir, "was not written"))
}

/// Writes the parts row by row, so that no more than a row is in memory.
fn divide(config: &SplitConfig, dir: &Path) -> Result<SplitReport> {
    let (mut train, mut held_out) = (Lines::create(dir.join(TRAIN))?, Lines::create(dir.join(HELD_OUT))?);
    let (mut texts, mut longer, mut failure) = (Lines::create(dir.join(TEXT))?, 0, None);
    let loading = for_each_demonstration(&config.file, &Limits::default(), &mut |demonstration| {
        let reply = demonstration.messages.last().map_or(0, |m| m.content.chars().count());
        let wrote = if is_held_out(config, &demonstration) {
            held_out.add(&row(demonstration))
        } else if config.longest_reply.is_some_and(|most| reply > most) {
            longer += 1;
            Ok(())
        } else {
            let text = json!({ "text": text(&demonstration) });
            texts.add(&text).and_then(|()| train.add(&row(demonstration)))
        };
        wrote.map_err(|error| {
            let reason = error.to_string();
            failure.get_or_insert(error);
            DataError::Option {
                option: "out",
                got: reason,
                expected: "a place to write to".into(),
            }
        })
    });
    if let Some(error) = failure {
        return Err(error);
    }
    let loading = loading?;
    let report = SplitReport {
        train: train.finish()?,
        held_out: held_out.finish()?,
        longer,
        loading,
    };
    texts.finish()?;
    for (part, rows) in [("held out", report.held_out), ("left to learn from", report.train)] {
        if rows == 0 {
            let reason = format!(
                "of {} conversations none is {part}; expected more of them, or another held_out, seed or longest_reply",
                report.loading.items
            );
            return Err(PipelineError::file(&config.file.path, reason));
        }
    }
    Ok(report)
}

/// A file of JSON lines that grows.
struct Lines {
    path: PathBuf,
    out: BufWriter<File>,
    rows: usize,
}

impl Lines {
    fn create(path: PathBuf) -> Result<Self> {
        match File::create(&path) {
            Ok(file) => Ok(Self {
                path,
                out: BufWriter::new(file),
                rows: 0,
            }),
            Err(error) => Err(unwritten(path, error)),
        }
    }

    fn add(&mut self, row: &Value) -> Result<()> {
        self.rows += 1;
        let line = format!("{row}\n");
        let wrote = self.out.write_all(line.as_bytes());
        wrote.map_err(|error| unwritten(self.path.clone(), error))
    }

    /// Makes it durable; gives its rows.
    fn finish(self) -> Result<usize> {
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error);
        match file.and_then(|file| file.sync_all()) {
            Ok(()) => Ok(self.rows),
            Err(error) => Err(unwritten(self.path, error)),
        }
    }
}

fn unwritten(path: PathBuf, source: io::Error) -> PipelineError {
    let action = "write it";
    RunError::Io { action, path, source }.into()
}

fn is_held_out(config: &SplitConfig, demonstration: &Demonstration) -> bool {
    Key::new(config.seed, &demonstration.opening(), 0).uniform(0) < config.held_out
}

/// The conversation with the columns of its row.
fn row(demonstration: Demonstration) -> Value {
    let reply = demonstration.messages.last().map(|last| json!(last.content));
    let mut row = Map::from_iter([("messages".to_owned(), json!(demonstration.messages))]);
    row.extend(demonstration.extra);
    if let Some(reply) = reply {
        row.entry("answer").or_insert(reply);
    }
    Value::Object(row)
}

fn text(demonstration: &Demonstration) -> String {
    let turns: Vec<&str> = demonstration.messages.iter().map(|m| m.content.as_str()).collect();
    turns.join("\n")
}

/// Writes the parts, unless they are there; gives the summary. `tell` is given how reading went.
pub(super) fn run(
    resolved: &Resolved<SplitConfig>,
    (base, dir): (&Path, &Path),
    tell: &dyn Fn(&Source, &LoadReport),
) -> Result<Value> {
    let config = SplitConfig {
        file: resolved.config.file.clone().resolved_in(base),
        ..resolved.config.clone()
    };
    // What is not there is told of where it is needed
    let content = || digest_of(&config.file.path).map(|digest| digest.unwrap_or_default());
    if let Some(before) = finished(&dir.join(RECORD), dir, resolved.digest())? {
        let now = content()?;
        if !now.is_empty() && before["input"] != now.as_str() {
            return Err(PipelineError::file(
                &config.file.path,
                format!(
                    "is another file than the one whose parts are in {}; delete that folder, and what was made from it, to divide this one",
                    dir.display()
                ),
            ));
        }
        return Ok(before);
    }
    let input = content()?;
    let summary = |report: &SplitReport| {
        json!({
            "train": report.train,
            "held_out": report.held_out,
            "longer": report.longer,
            "digest": resolved.digest(),
            "input": input,
        })
    };
    let report = write(&config, dir, |report| Some(summary(report)))?;
    tell(&config.file, &report.loading);
    Ok(summary(&report))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_run::config::parse;

    fn question(i: usize) -> String {
        format!(
            "{{\"question\":\"What is {i} and {i}?\",\"answer\":\"#### {}\"}}\n",
            2 * i
        )
    }

    fn config(dir: &Path, more: &str) -> Result<Resolved<SplitConfig>> {
        let path = dir.join("maths.jsonl");
        std::fs::write(&path, (0..40).map(question).collect::<String>())
            .map_err(|e| PipelineError::file(&path, e.to_string()))?;
        Ok(parse("config", &format!("file = \"maths.jsonl\"\n{more}"), &[])?)
    }

    fn quiet(_: &Source, _: &LoadReport) {}

    fn temporary() -> Result<tempfile::TempDir> {
        tempfile::tempdir().map_err(|e| PipelineError::file(Path::new("."), e.to_string()))
    }

    const SEED_1: &[usize] = &[1, 6, 11, 12, 13, 14, 16, 18, 19, 20, 23, 29, 30, 33, 34, 37, 38];
    const SEED_2: &[usize] = &[6, 11, 14, 15, 18, 24, 25, 37, 39];

    /// The numbers come from another implementation of the generator and of the rule.
    #[test]
    fn who_is_held_out_follows_from_seed_and_question() -> Result<()> {
        let dir = temporary()?;
        for (seed, expected) in [(1, SEED_1), (2, SEED_2)] {
            let resolved = config(dir.path(), &format!("held_out = 0.3\nseed = {seed}"))?;
            let folder = dir.path().join(format!("seed-{seed}"));
            let summary = run(&resolved, (dir.path(), &folder), &quiet)?;
            let rows: Vec<Value> = crate::files::read_lines(&folder.join(HELD_OUT))?;
            let held_out: Vec<usize> = (0..40)
                .filter(|i| {
                    rows.iter()
                        .any(|row| row["messages"][0]["content"] == format!("What is {i} and {i}?"))
                })
                .collect();
            assert_eq!(held_out, expected, "seed {seed}");
            assert_eq!(summary["held_out"], expected.len());
        }
        Ok(())
    }

    #[test]
    fn a_split_that_is_there_is_kept_and_another_is_refused() -> Result<()> {
        let dir = temporary()?;
        let folder = dir.path().join("rows");
        let first = run(&config(dir.path(), "held_out = 0.3")?, (dir.path(), &folder), &quiet)?;
        assert_eq!(
            run(&config(dir.path(), "held_out = 0.3")?, (dir.path(), &folder), &quiet)?,
            first
        );
        let other = run(&config(dir.path(), "held_out = 0.4")?, (dir.path(), &folder), &quiet);
        assert!(other.is_err_and(|error| error.to_string().contains("changed: config")));
        // The same settings, and a row more
        let same = config(dir.path(), "held_out = 0.3")?;
        let path = dir.path().join("maths.jsonl");
        let rows = (0..41).map(question).collect::<String>();
        std::fs::write(&path, rows).map_err(|e| PipelineError::file(&path, e.to_string()))?;
        let other = run(&same, (dir.path(), &folder), &quiet);
        assert!(other.is_err_and(|error| {
            error
                .to_string()
                .contains("is another file than the one whose parts are in")
        }));
        // Without the file its parts are what they were
        std::fs::remove_file(&path).map_err(|e| PipelineError::file(&path, e.to_string()))?;
        assert_eq!(run(&same, (dir.path(), &folder), &quiet)?, first);
        Ok(())
    }

    #[test]
    fn what_is_no_split_is_refused_by_key() -> Result<()> {
        let dir = temporary()?;
        for (more, message) in [
            ("held_out = 0.0", "held_out: is 0; expected a share above 0 and below 1"),
            (
                "held_out = nan",
                "held_out: is NaN; expected a share above 0 and below 1",
            ),
            ("longest_reply = 0", "longest_reply: is 0; expected at least 1"),
            (
                "longest_reply = 3\nheld_out = 0.3\nseed = 2",
                "of 40 conversations none is left to learn from",
            ),
        ] {
            let resolved = config(dir.path(), more)?;
            match run(&resolved, (dir.path(), &dir.path().join("rows")), &quiet) {
                Ok(_) => panic!("{more}"),
                Err(error) => assert!(error.to_string().contains(message), "{error}"),
            }
            assert!(!dir.path().join("rows").exists(), "{more}");
        }
        Ok(())
    }
}
