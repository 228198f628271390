//! A file of results that grows line by line, in the order of its input, and is gone on with by the same command.
//!
//! Beside `OUT` lies the folder `OUT.run`: `settings.json` says what the lines are a function of (settings, and digests of
//! the files they are made from), so lines that are there need not be made again and are never mixed with others. Each line
//! is appended in one write; half a line that a killed process left is cut off, and with it whatever else of its group (the
//! lines of one row of the input) is there. So a file that was interrupted ends with the bytes of one that was not.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::{Damage, Error, Result};
use crate::inputs::{self, Digests, Inputs};
use crate::jsonl::JsonLines;
use crate::lock::Lock;

/// The name in the side folder of what the lines are made from.
const SETTINGS_FILE: &str = "settings.json";
/// Lines are made durable at least so often.
const DURABLE_EVERY: Duration = Duration::from_secs(2);

/// Settings by name, as text: whatever a line depends on, and nothing else.
pub type BulkSettings = BTreeMap<String, String>;

/// What a file of results is made from, and how long it becomes.
#[derive(Clone, Copy, Debug)]
pub struct BulkPlan<'a> {
    /// The settings.
    pub settings: &'a BulkSettings,
    /// Files and folders by the names that messages call them.
    pub inputs: &'a Inputs,
    /// Lines that a row of the input gives; at least 1.
    pub group: u64,
    /// Rows of the input.
    pub rows: u64,
}

/// A growing file that this process alone writes.
#[derive(Debug)]
pub struct BulkFile {
    lines: JsonLines,
    path: PathBuf,
    folder: PathBuf,
    rows: u64,
    total: u64,
    durable_at: Instant,
    _lock: Lock,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    settings: BulkSettings,
    inputs: Digests,
}

/// The folder beside a file of results: `OUT.run`.
#[must_use]
pub fn side_folder(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".run");
    out.with_file_name(name)
}

impl BulkFile {
    /// Opens or creates `out`, whose lines are the results.
    ///
    /// # Errors
    /// When it was begun with other settings or inputs, something else stands there, another process writes it, or the
    /// system refuses.
    pub fn open(out: &Path, plan: BulkPlan<'_>) -> Result<Self> {
        Self::open_at(out, out.to_path_buf(), plan)
    }

    /// Opens or creates a growing file of this name in the side folder of `out`, from which `out` is made in the end.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_beside(out: &Path, name: &str, plan: BulkPlan<'_>) -> Result<Self> {
        Self::open_at(out, side_folder(out).join(name), plan)
    }

    fn open_at(out: &Path, path: PathBuf, plan: BulkPlan<'_>) -> Result<Self> {
        let folder = side_folder(out);
        let settings = folder.join(SETTINGS_FILE);
        let foreign = |what| {
            Err(Error::ForeignOutput {
                path: out.to_path_buf(),
                what,
            })
        };
        if out.is_dir() {
            return foreign("a folder");
        }
        if !settings.exists() && fs::metadata(out).is_ok_and(|file| file.len() > 0) {
            return foreign("already there, and nothing beside it says what it was made from");
        }
        durable::create_dir(&folder)?;
        let lock = Lock::acquire(&folder)?;
        let record = Record {
            settings: plan.settings.clone(),
            inputs: inputs::digests(&folder, plan.inputs)?,
        };
        reconcile(out, &settings, &record)?;
        let whole = whole_groups(&path, plan.group.max(1))?;
        if whole.rows > plan.rows {
            let (rows, lines) = (whole.rows, plan.rows * plan.group.max(1));
            let what = format!(
                "holds the lines of {rows} rows; the input has {} ({lines} lines)",
                plan.rows
            );
            return Err(Error::Damaged {
                path,
                damage: Damage::Unreadable(what),
            });
        }
        let mut lines = JsonLines::open(&path)?;
        lines.truncate(whole.bytes)?;
        durable::sync_dir(durable::parent(&path))?;
        Ok(Self {
            lines,
            path,
            folder,
            rows: whole.rows,
            total: plan.rows,
            durable_at: Instant::now(),
            _lock: lock,
        })
    }

    /// Rows of the input whose lines were there when it was opened.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether all lines were there when it was opened.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.rows == self.total
    }

    /// The growing file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The side folder, for what else belongs to the file.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Appends a line in one write.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn append(&mut self, line: &str) -> Result<()> {
        self.lines.append(line)?;
        if self.durable_at.elapsed() >= DURABLE_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes all lines durable.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn sync(&mut self) -> Result<()> {
        self.durable_at = Instant::now();
        self.lines.sync()
    }
}

/// Every line of a file with its number, from 1; one line is in memory at a time.
///
/// # Errors
/// A file that cannot be read or is not UTF-8, and what `each` returns.
pub fn for_each_line<E: From<Error>>(
    path: &Path,
    each: &mut dyn FnMut(u64, &str) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let read = |source| Error::io("read it", path, 0, source);
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path).map_err(read)?);
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        if reader.read_line(&mut line).map_err(read)? == 0 {
            break;
        }
        each(number, line.trim_end_matches('\n'))?;
    }
    Ok(())
}

/// Renames a file that is complete and durable to where it belongs, in place of what stood there, and makes that durable.
///
/// # Errors
/// When the system refuses.
pub fn put_in_place(from: &Path, to: &Path) -> Result<()> {
    durable::rename(from, to)?;
    durable::sync_dir(durable::parent(to))
}

/// Writes down what the lines are made from, or compares it with what is written down.
fn reconcile(out: &Path, path: &Path, record: &Record) -> Result<()> {
    let before: Record = match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| Error::Damaged {
            path: path.to_path_buf(),
            damage: Damage::Unreadable(format!(
                "{error}; delete its folder and the file beside it to begin anew"
            )),
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = serde_json::to_string_pretty(record).map_err(Error::caller)? + "\n";
            return durable::write_atomic(path, text.as_bytes());
        }
        Err(source) => return Err(Error::io("read it", path, 0, source)),
    };
    let mut changed = differences(&before.settings, &record.settings);
    changed.extend(
        inputs::changed(&before.inputs, &record.inputs)
            .into_iter()
            .map(|name| format!("contents of {name}")),
    );
    if changed.is_empty() {
        return Ok(());
    }
    Err(Error::OutputChanged {
        path: out.to_path_buf(),
        changed,
    })
}

/// `temperature (0.5 before, 1 now)` for each setting that differs.
fn differences(before: &BulkSettings, now: &BulkSettings) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let shown = |value: Option<&String>| match value {
        None => "not given".to_owned(),
        Some(value) if value.is_empty() => "empty".to_owned(),
        Some(value) => match value.char_indices().nth(60) {
            Some((end, _)) => format!("{}...", &value[..end]),
            None => value.clone(),
        },
    };
    names
        .into_iter()
        .filter(|name| before.get(*name) != now.get(*name))
        .map(|name| {
            format!(
                "{name} ({} before, {} now)",
                shown(before.get(name)),
                shown(now.get(name))
            )
        })
        .collect()
}

/// The beginning of a file that consists of whole groups.
struct Whole {
    rows: u64,
    bytes: u64,
}

fn whole_groups(path: &Path, group: u64) -> Result<Whole> {
    let mut whole = Whole { rows: 0, bytes: 0 };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(whole),
        Err(source) => return Err(Error::io("read it", path, 0, source)),
    };
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let (mut lines, mut at) = (0_u64, 0_u64);
    loop {
        let piece = reader
            .fill_buf()
            .map_err(|source| Error::io("read it", path, 0, source))?;
        if piece.is_empty() {
            return Ok(whole);
        }
        for (i, _) in piece.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            lines += 1;
            if lines.is_multiple_of(group) {
                whole = Whole {
                    rows: lines / group,
                    bytes: at + i as u64 + 1,
                };
            }
        }
        let read = piece.len();
        at += read as u64;
        reader.consume(read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(temperature: &str) -> BulkSettings {
        BulkSettings::from([
            ("temperature".to_owned(), temperature.to_owned()),
            ("n".to_owned(), "2".to_owned()),
        ])
    }

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("in.jsonl"), "{}\n{}\n{}\n").unwrap();
            Self { dir }
        }

        fn out(&self) -> PathBuf {
            self.dir.path().join("out.jsonl")
        }

        fn open(&self, settings: &BulkSettings) -> Result<BulkFile> {
            let inputs = Inputs::from([("in.jsonl".to_owned(), self.dir.path().join("in.jsonl"))]);
            let plan = BulkPlan {
                settings,
                inputs: &inputs,
                group: 2,
                rows: 3,
            };
            BulkFile::open(&self.out(), plan)
        }
    }

    #[test]
    fn cut_at_any_byte_it_goes_on_at_a_whole_group() {
        let place = Place::new();
        let same = settings("1");
        let lines = ["a0", "a1", "b0", "b1", "c0", "c1"];
        let mut file = place.open(&same).unwrap();
        assert_eq!((file.rows(), file.is_finished()), (0, false));
        lines.iter().for_each(|line| file.append(line).unwrap());
        file.sync().unwrap();
        drop(file);
        let whole = fs::read(place.out()).unwrap();
        assert_eq!(whole, b"a0\na1\nb0\nb1\nc0\nc1\n");
        for cut in 0..=whole.len() {
            fs::write(place.out(), &whole[..cut]).unwrap();
            let mut file = place.open(&same).unwrap();
            assert_eq!(file.rows() as usize, cut / 6, "cut at {cut}");
            assert_eq!(file.is_finished(), cut == whole.len());
            lines[file.rows() as usize * 2..]
                .iter()
                .for_each(|line| file.append(line).unwrap());
            drop(file);
            assert_eq!(fs::read(place.out()).unwrap(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn other_settings_and_inputs_are_named() {
        let place = Place::new();
        drop(place.open(&settings("1")).unwrap());
        let mut more = settings("0.5");
        more.insert("top-k".into(), "4".into());
        let error = place.open(&more).unwrap_err();
        assert_eq!(error.exit_status(), crate::ExitStatus::Usage);
        let said = error.to_string();
        assert!(
            said.contains("temperature (1 before, 0.5 now), top-k (not given before, 4 now)"),
            "{said}"
        );
        assert!(!said.contains("n ("), "{said}");
        fs::write(place.dir.path().join("in.jsonl"), "{}\n{}\n{ }\n").unwrap();
        let said = place.open(&settings("1")).unwrap_err().to_string();
        assert!(said.contains("contents of in.jsonl"), "{said}");
    }

    #[test]
    fn what_it_did_not_write_is_left_alone() {
        let place = Place::new();
        fs::write(place.out(), "mine\n").unwrap();
        let error = place.open(&settings("1")).unwrap_err();
        assert_eq!(error.exit_status(), crate::ExitStatus::Usage);
        assert!(error.to_string().contains("out.jsonl: already there"), "{error}");
        assert_eq!(fs::read(place.out()).unwrap(), b"mine\n");
        assert!(!side_folder(&place.out()).exists());
        fs::remove_file(place.out()).unwrap();
        let held = place.open(&settings("1")).unwrap();
        assert!(matches!(place.open(&settings("1")), Err(Error::Locked { .. })));
        drop(held);
        // More than the input can have given
        fs::write(place.out(), "1\n2\n3\n4\n5\n6\n7\n8\n").unwrap();
        let said = place.open(&settings("1")).unwrap_err().to_string();
        assert!(said.contains("holds the lines of 4 rows; the input has 3"), "{said}");
    }

    #[test]
    fn a_growing_file_may_lie_in_the_side_folder() {
        let place = Place::new();
        let (same, none) = (settings("1"), Inputs::new());
        let plan = BulkPlan {
            settings: &same,
            inputs: &none,
            group: 1,
            rows: 2,
        };
        let mut file = BulkFile::open_beside(&place.out(), "samples.jsonl", plan).unwrap();
        file.append("{}").unwrap();
        assert_eq!(file.path(), file.folder().join("samples.jsonl"));
        drop(file);
        assert!(!place.out().exists());
        assert_eq!(
            BulkFile::open_beside(&place.out(), "samples.jsonl", plan)
                .unwrap()
                .rows(),
            1
        );
    }
}
