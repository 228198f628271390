//! One run, as its files tell it, read from where they were left.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hone_run::{Tail, config};
use serde_json::{Map, Value};

use super::clock::{Clock, State, Writer};
use super::curves::Curves;
use super::figures::{Figures, line_of};
use super::samples::Index;

/// Small files beyond this are not read.
const MAX_SMALL_FILE: u64 = 8 << 20;

/// A run's configuration as it was recorded.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub text: String,
    /// Every value by its dotted key.
    pub values: BTreeMap<String, String>,
    /// Why it cannot be read.
    pub problem: Option<String>,
}

/// What is kept of a run only while somebody looks at it.
#[derive(Clone, Debug, Default)]
pub(super) struct Open {
    pub curves: Curves,
    pub index: Index,
}

/// A run.
pub(super) struct Record {
    /// Its folder's path below the folder of all runs, with `/`.
    pub name: String,
    pub dir: PathBuf,
    pub settings: Settings,
    pub figures: Figures,
    pub clock: Clock,
    pub writer: Writer,
    /// What it ended with.
    pub finished: Option<Map<String, Value>>,
    /// What made it.
    pub environment: Map<String, Value>,
    pub open: Option<Open>,
    /// Files that the system refuses to show.
    pub refused: Option<String>,
    /// When it was last looked at; counted by the store.
    pub used: u64,
    metrics: Tail,
    timings: Tail,
    samples: Tail,
    /// Length and time of the small files when they were read.
    seen: [Option<(u64, SystemTime)>; 3],
}

impl Record {
    pub fn new(name: String, dir: PathBuf) -> Self {
        let tail = |file: &str| Tail::new(dir.join(file));
        Self {
            metrics: tail("metrics.jsonl"),
            timings: tail("timings.jsonl"),
            samples: tail("samples.jsonl"),
            name,
            dir,
            settings: Settings::default(),
            figures: Figures::default(),
            clock: Clock::default(),
            writer: Writer::Gone,
            finished: None,
            environment: Map::new(),
            open: None,
            refused: None,
            used: 0,
            seen: [None; 3],
        }
    }

    /// Keeps curves and samples from now on. All of it is read again.
    pub fn keep(&mut self) {
        if self.open.is_none() {
            self.open = Some(Open::default());
            for tail in [&mut self.metrics, &mut self.timings, &mut self.samples] {
                tail.rewind();
            }
            (self.figures, self.clock) = (Figures::default(), Clock::default());
        }
    }

    /// Keeps them no longer.
    pub fn let_go(&mut self) {
        self.open = None;
    }

    /// Reads what came since, up to `budget` bytes, which are taken off.
    pub fn refresh(&mut self, budget: &mut u64) {
        self.refused = None;
        let results = [
            self.read_small(),
            self.read_metrics(budget),
            self.read_timings(budget),
            self.read_samples(budget),
        ];
        if let Some(error) = results.into_iter().find_map(Result::err) {
            self.refused = Some(error.to_string());
        }
        self.writer = if self.finished.is_some() {
            Writer::Gone
        } else {
            Writer::of(&self.dir)
        };
    }

    fn read_metrics(&mut self, budget: &mut u64) -> io::Result<()> {
        let (figures, open) = (&mut self.figures, &mut self.open);
        let read = self.metrics.read(*budget, &mut |piece| {
            let mut restart = false;
            let line = line_of(piece, || restart = true, || figures.bad_lines += 1);
            if restart {
                *figures = Figures::default();
                if let Some(open) = open {
                    let mut curves = Curves::default();
                    curves.keep_times(&open.curves);
                    open.curves = curves;
                }
            }
            if let Some((step, fields)) = line.and_then(|(_, line)| figures.take(line))
                && let Some(open) = open
            {
                open.curves.take(step, &fields);
            }
        })?;
        *budget = budget.saturating_sub(read);
        Ok(())
    }

    fn read_timings(&mut self, budget: &mut u64) -> io::Result<()> {
        let (clock, open) = (&mut self.clock, &mut self.open);
        let read = self.timings.read(*budget, &mut |piece| {
            let mut restart = false;
            let line = line_of(piece, || restart = true, || clock.bad_lines += 1);
            if restart {
                *clock = Clock::default();
                if let Some(open) = open {
                    open.curves.forget_times();
                }
            }
            if let Some((step, seconds)) = line.and_then(|(_, line)| clock.take(line))
                && let Some(open) = open
            {
                open.curves.took(step, seconds);
            }
        })?;
        *budget = budget.saturating_sub(read);
        Ok(())
    }

    fn read_samples(&mut self, budget: &mut u64) -> io::Result<()> {
        let Some(Open { index, .. }) = &mut self.open else {
            return Ok(());
        };
        let read = self.samples.read(*budget, &mut |piece| {
            let mut restart = false;
            let line = line_of(piece, || restart = true, || index.bad_lines += 1);
            if restart {
                *index = Index::default();
            }
            if let Some((offset, line)) = line {
                index.take(offset, line);
            }
        })?;
        *budget = budget.saturating_sub(read);
        Ok(())
    }

    /// Reads the configuration and what stands in small files, where they changed.
    fn read_small(&mut self) -> io::Result<()> {
        if let Some(change) = changed(&self.dir.join("run.toml"), &mut self.seen[0])? {
            self.settings = if change {
                settings(&self.dir.join("run.toml"))
            } else {
                Settings::default()
            };
        }
        if let Some(change) = changed(&self.dir.join("finished.json"), &mut self.seen[1])? {
            self.finished = change.then(|| object(&self.dir.join("finished.json"))).transpose()?;
        }
        if let Some(change) = changed(&self.dir.join("environment.json"), &mut self.seen[2])? {
            self.environment = if change {
                object(&self.dir.join("environment.json"))?
            } else {
                Map::new()
            };
        }
        Ok(())
    }

    /// The stage that made it, as the sections of its configuration tell.
    pub fn stage(&self) -> &'static str {
        let has = |start: &str| {
            self.settings
                .values
                .range(start.to_owned()..)
                .next()
                .is_some_and(|(key, _)| key.starts_with(start))
        };
        let stages = [
            ("online_preference.", "online-preference"),
            ("expert_iteration.", "expert-iteration"),
            ("grpo.", "grpo"),
            ("ppo.", "ppo"),
            ("preference.", "preference"),
            ("reward.", "reward"),
            ("data.turns", "sft"),
            ("data.cross_document", "pretrain"),
        ];
        stages
            .into_iter()
            .find(|(start, _)| has(start))
            .map_or("run", |(_, stage)| stage)
    }

    /// The last step that it told of.
    pub fn step(&self) -> u64 {
        self.figures.last_step.max(self.clock.last_step)
    }

    /// Steps in all, where it says so.
    pub fn total(&self) -> Option<u64> {
        let keys = [
            "ppo.updates",
            "grpo.updates",
            "online_preference.updates",
            "expert_iteration.rounds",
            "train.steps",
        ];
        let configured = || keys.iter().find_map(|key| self.settings.values.get(*key)?.parse().ok());
        self.clock.total.or_else(configured)
    }

    /// When it was last written.
    pub fn written(&self) -> Option<SystemTime> {
        let configured = self.seen[0].map(|(_, modified)| modified);
        let tails = [&self.metrics, &self.timings, &self.samples].map(Tail::modified);
        tails.into_iter().chain([configured]).flatten().max()
    }

    pub fn state(&self, now: SystemTime) -> State {
        if self.finished.is_some() {
            return State::Finished;
        }
        let age = self
            .written()
            .map_or(Duration::MAX, |written| now.duration_since(written).unwrap_or_default());
        State::unfinished(self.writer, age, self.clock.seconds_per_step())
    }

    /// The time left, while it runs.
    pub fn left(&self, state: State) -> Option<Duration> {
        let left = self.total()?.checked_sub(self.step()).filter(|left| *left > 0)?;
        (state == State::Running).then(|| self.clock.time_for(left)).flatten()
    }

    /// Lines that could not be read.
    pub fn bad_lines(&self) -> u64 {
        self.figures.bad_lines + self.clock.bad_lines + self.open.as_ref().map_or(0, |open| open.index.bad_lines)
    }

    /// Bytes that are there and were not read yet, beyond what half a line may have.
    pub fn unread(&self) -> u64 {
        let samples = if self.open.is_some() { self.samples.unread() } else { 0 };
        let unread = self.metrics.unread() + self.timings.unread() + samples;
        if unread > 1 << 20 { unread } else { 0 }
    }

    pub fn samples_path(&self) -> &Path {
        self.samples.path()
    }
}

/// Whether a small file is another one than when it was `seen`: none if it is not, otherwise whether it is there.
fn changed(path: &Path, seen: &mut Option<(u64, SystemTime)>) -> io::Result<Option<bool>> {
    let now = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => Some((metadata.len(), metadata.modified()?)),
        Ok(_) => None,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
        Err(error) => return Err(error),
    };
    if now == *seen {
        return Ok(None);
    }
    *seen = now;
    Ok(Some(now.is_some()))
}

fn settings(path: &Path) -> Settings {
    match config::read_recorded(path) {
        Ok((text, table)) => Settings {
            text,
            values: config::flat(&table),
            problem: None,
        },
        Err(error) => Settings {
            problem: Some(error.to_string()),
            ..Settings::default()
        },
    }
}

/// The object of a file; an empty one where it holds something else.
fn object(path: &Path) -> io::Result<Map<String, Value>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_SMALL_FILE).read_to_end(&mut bytes)?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Ok(Map::new()),
    }
}
