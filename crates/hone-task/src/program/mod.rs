//! A program of the user's own that judges: JSON lines over standard input and output.
//!
//! It is started once and asked one sample at a time: `{"id", "prompt", "response", "columns"}` in, `{"id", "reward"}` out. It runs in a
//! folder of its own, within limits of time and memory. One that crashes is started again and asked again; one that is slow, or answers
//! something else, ends the run with an error that names the sample. Every answer is in the journal before it is used.

mod journal;
mod limits;
mod process;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

pub use self::journal::Journal;
use self::process::{Failure, Process};
use crate::config::RewardRule;
use crate::sample::shortened;
use crate::{BadSetting, Error, Sample};

/// Which sample of a run: the RL iteration, and its place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The RL iteration.
    pub update: u64,
    /// The sample's index in it.
    pub index: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "update {}, sample {}", self.update, self.index)
    }
}

/// What a program is started with.
#[derive(Clone, Debug)]
pub(crate) struct ProgramSettings {
    words: Vec<String>,
    time_limit: Duration,
    start_limit: Duration,
    memory_limit_mib: Option<u64>,
    restarts: u32,
}

impl ProgramSettings {
    /// The settings of an entry of the kind `program`; nothing for other kinds.
    pub(crate) fn of(rule: &RewardRule) -> Result<Option<Self>, BadSetting> {
        let RewardRule::Program {
            command,
            time_limit,
            start_limit,
            memory_limit_mib,
            restarts,
        } = rule
        else {
            return Ok(None);
        };
        if command.first().is_none_or(String::is_empty) {
            let got = format!("{command:?}");
            return Err(BadSetting::new("command", got, "a program and its arguments"));
        }
        let seconds = |key, seconds: f64| {
            let duration = Duration::try_from_secs_f64(seconds).ok();
            let usable = duration.filter(|d| !d.is_zero() && *d <= Duration::from_secs(86_400));
            usable.ok_or_else(|| BadSetting::new(key, seconds, "seconds above 0, at most a day"))
        };
        if let Some(mib) = memory_limit_mib {
            if !limits::MEMORY {
                return Err(BadSetting::new(
                    "memory_limit_mib",
                    mib,
                    "no limit: there is none on this system",
                ));
            }
            if *mib == 0 {
                return Err(BadSetting::new(
                    "memory_limit_mib",
                    mib,
                    "at least 1, or nothing for no limit",
                ));
            }
        }
        Ok(Some(Self {
            words: command.clone(),
            time_limit: seconds("time_limit", *time_limit)?,
            start_limit: seconds("start_limit", *start_limit)?,
            memory_limit_mib: *memory_limit_mib,
            restarts: *restarts,
        }))
    }
}

/// A program that judges, with its journal. It is started when the first sample that is not in the journal comes.
#[derive(Debug)]
pub(crate) struct Program {
    entry: String,
    settings: ProgramSettings,
    folder: PathBuf,
    process: Option<Process>,
    journal: Journal,
}

impl Program {
    /// A program with its working folder, which is made, and its journal.
    pub(crate) fn new(
        entry: String,
        mut settings: ProgramSettings,
        folder: &Path,
        journal: Journal,
    ) -> Result<Self, Error> {
        std::fs::create_dir_all(folder).map_err(|source| Error::Io {
            path: folder.to_path_buf(),
            doing: "make the program's folder",
            source,
        })?;
        for (i, word) in settings.words.iter_mut().enumerate() {
            // A bare name is looked for where programs are
            let bare = i == 0 && Path::new(word).components().count() == 1;
            if !bare
                && let Ok(full) = std::path::absolute(&*word)
                && full.exists()
                && let Some(full) = full.to_str()
            {
                *word = full.to_owned();
            }
        }
        Ok(Self {
            entry,
            settings,
            folder: folder.to_path_buf(),
            process: None,
            journal,
        })
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The reward of a sample: from the journal, or the program's answer, which is then in the journal.
    pub(crate) fn judge(&mut self, place: Place, sample: &Sample<'_>) -> Result<f64, Error> {
        let digest = journal::digest(sample);
        if let Some(reward) = self.journal.replay(place, &digest)? {
            return Ok(reward);
        }
        let id = format!("{}-{}", place.update, place.index);
        let request = json!({
            "id": id, "prompt": sample.row.prompt, "response": sample.response, "columns": sample.row.columns,
        })
        .to_string();
        let answer = self.answer(place, &request)?;
        let reward = match reward_of(&answer, &id) {
            Ok(reward) => reward,
            Err(what) => return Err(self.fail(place, what)),
        };
        self.journal.record(place, digest, reward)?;
        Ok(reward)
    }

    /// One line of answer; a program that crashes is started again.
    fn answer(&mut self, place: Place, request: &str) -> Result<String, Error> {
        let mut crashes = 0;
        loop {
            let mut limit = self.settings.time_limit;
            if self.process.is_none() {
                limit += self.settings.start_limit;
                match Process::start(&self.settings.words, &self.folder, self.settings.memory_limit_mib) {
                    Ok(process) => self.process = Some(process),
                    Err(error) => return Err(self.fail(place, format!("cannot be started: {error}"))),
                }
            }
            let Some(process) = &mut self.process else { continue };
            let failure = match process.ask(request.to_owned(), limit) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let what = match failure {
                Failure::Ended(_) if crashes < self.settings.restarts => {
                    crashes += 1;
                    self.process = None;
                    continue;
                }
                Failure::Ended(how) => format!(
                    "{how} instead of answering, {} in a row on this sample; rewards given before are in the journal, and the same command goes on from there",
                    match crashes + 1 {
                        1 => "once".to_owned(),
                        times => format!("{times} times"),
                    }
                ),
                Failure::Slow => format!(
                    "no answer within {} s; raise `time_limit`, or see whether it flushes what it writes",
                    limit.as_secs_f64()
                ),
                Failure::TooLong => {
                    "wrote more than 1 MiB without a line's end; expected {\"id\", \"reward\"}".to_owned()
                }
                Failure::NotText => "wrote a line that is not UTF-8; expected {\"id\", \"reward\"}".to_owned(),
            };
            return Err(self.fail(place, what));
        }
    }

    /// Ends the program, of which nothing is known any more, and says why.
    fn fail(&mut self, place: Place, what: String) -> Error {
        let mut process = self.process.take();
        let said = process.as_mut().map(|process| {
            process.give_up();
            process.said()
        });
        let said = said.unwrap_or_default();
        Error::Program {
            entry: self.entry.clone(),
            place: place.to_string(),
            program: self.settings.words[0].clone(),
            what,
            said: if said.is_empty() {
                said
            } else {
                format!("; it wrote: {said}")
            },
        }
    }
}

/// The reward in a program's answer.
fn reward_of(answer: &str, id: &str) -> Result<f64, String> {
    let expected = format!("expected {{\"id\": \"{id}\", \"reward\": NUMBER}}");
    let wrote = || shortened(&format!("{:?}", answer.trim_end()));
    let value: Value =
        serde_json::from_str(answer).map_err(|error| format!("wrote {}, not JSON ({error}); {expected}", wrote()))?;
    if value.get("id").and_then(Value::as_str) != Some(id) {
        return Err(format!("wrote {}, an answer to something else; {expected}", wrote()));
    }
    match value.get("reward").and_then(Value::as_f64) {
        Some(reward) if reward.is_finite() => Ok(reward),
        _ => Err(format!(
            "wrote {}, without a reward that is a finite number; {expected}",
            wrote()
        )),
    }
}
