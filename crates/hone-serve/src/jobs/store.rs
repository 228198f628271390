//! The folder in which files and jobs outlive the server.
//!
//! ```text
//! files/ID/file.json, content              an uploaded file
//! jobs/ID/job.json, events.jsonl           a job, and what happened to it, line by line
//! jobs/ID/train.jsonl, config.toml         what its stage reads
//! jobs/ID/log.txt, run/                    what its stage says, and its run directory
//! incoming/                                uploads that are not complete
//! ```
//! Documents are replaced as a whole; a folder without its document is what a crash left, and is removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use hone_run::{JsonLines, Lock, write_atomic};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::ServeError;
use crate::jobs::record::{FileRecord, Job};
use crate::shared::now;

const FILE: &str = "file.json";
const JOB: &str = "job.json";
const EVENTS: &str = "events.jsonl";

/// What the store cannot do.
pub(crate) type StoreError = hone_run::Error;

/// The folder, which one server at a time has.
pub(crate) struct Store {
    root: PathBuf,
    _lock: Lock,
}

impl Store {
    /// Opens the folder, or makes it, and gives what is in it, the oldest first.
    pub fn open(root: &Path) -> Result<(Self, Vec<FileRecord>, Vec<Job>), ServeError> {
        let failed = |source: std::io::Error| ServeError::JobsFolder {
            path: root.display().to_string(),
            reason: source.to_string(),
        };
        fs::create_dir_all(root).map_err(failed)?;
        let root = root.canonicalize().map_err(failed)?;
        let lock = Lock::acquire(&root).map_err(|error| ServeError::JobsFolder {
            path: root.display().to_string(),
            reason: match error {
                StoreError::Locked { .. } => "another server keeps its jobs there; choose another folder".into(),
                other => other.to_string(),
            },
        })?;
        let _ = fs::remove_dir_all(root.join("incoming"));
        for part in ["files", "jobs", "incoming"] {
            fs::create_dir_all(root.join(part)).map_err(failed)?;
        }
        let mut files: Vec<FileRecord> = documents(&root.join("files"), FILE)?;
        let mut jobs: Vec<Job> = documents(&root.join("jobs"), JOB)?;
        files.sort_by_key(|file| file.serial);
        jobs.sort_by_key(|job| job.serial);
        let store = Self { root, _lock: lock };
        for job in &jobs {
            cut_half_a_line(&store.job_folder(&job.id).join(EVENTS)).map_err(failed)?;
        }
        Ok((store, files, jobs))
    }

    /// A name that nothing has yet for an upload that is beginning.
    pub fn incoming(&self) -> PathBuf {
        self.root.join("incoming").join(unique_id(""))
    }

    /// The bytes of a file.
    pub fn content(&self, file: &str) -> PathBuf {
        self.root.join("files").join(file).join("content")
    }

    /// The folder of a job.
    pub fn job_folder(&self, job: &str) -> PathBuf {
        self.root.join("jobs").join(job)
    }

    /// Takes a complete file in.
    pub fn keep_file(&self, file: &FileRecord, content: &Path) -> Result<(), StoreError> {
        let place = self.content(&file.id);
        let folder = place.parent().unwrap_or(&self.root);
        let moved = fs::create_dir_all(folder).and_then(|()| fs::rename(content, &place));
        moved.map_err(|source| failed("keep the file", &place, source))?;
        write_document(&folder.join(FILE), file)
    }

    /// Removes a file. Its document goes first, so that what is left of it after a crash is no file.
    pub fn remove_file(&self, id: &str) -> Result<(), StoreError> {
        let folder = self.root.join("files").join(id);
        let removed = fs::remove_file(folder.join(FILE)).and_then(|()| fs::remove_dir_all(&folder));
        removed.map_err(|source| failed("delete the file", &folder, source))
    }

    /// Writes a job as it is now.
    pub fn keep_job(&self, job: &Job) -> Result<(), StoreError> {
        write_document(&self.job_folder(&job.id).join(JOB), job)
    }

    /// Removes what was written of a job that did not come to be.
    pub fn abandon_job(&self, id: &str) {
        let _ = fs::remove_dir_all(self.job_folder(id));
    }

    /// Adds to what happened to a job.
    pub fn tell(&self, job: &str, event: &Told<'_>) -> Result<(), StoreError> {
        let line = json!({
            "object": "fine_tuning.job.event",
            "id": unique_id("ftevent-"),
            "created_at": now(),
            "level": event.level,
            "message": event.message,
            "type": event.kind,
            "data": event.data,
        });
        let mut lines = JsonLines::open(&self.job_folder(job).join(EVENTS))?;
        lines.append(&line.to_string())
    }

    /// What happened to a job, the oldest first.
    pub fn events(&self, job: &str) -> Vec<Value> {
        let text = self.event_lines(job);
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The same as it is written: a line of JSON each. One that is being written is not there yet.
    pub fn event_lines(&self, job: &str) -> String {
        let mut text = fs::read_to_string(self.job_folder(job).join(EVENTS)).unwrap_or_default();
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        text
    }
}

/// Something that happened to a job.
pub(crate) struct Told<'a> {
    pub level: &'static str,
    /// `message` or `metrics`.
    pub kind: &'static str,
    pub message: &'a str,
    /// What programs can read, or null.
    pub data: Value,
}

impl<'a> Told<'a> {
    /// Something a person should know.
    pub fn info(message: &'a str) -> Self {
        Self {
            level: "info",
            kind: "message",
            message,
            data: Value::Null,
        }
    }

    /// The same of something that went wrong.
    pub fn error(message: &'a str) -> Self {
        Self {
            level: "error",
            ..Self::info(message)
        }
    }
}

fn failed(action: &'static str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}

fn write_document(path: &Path, document: &impl Serialize) -> Result<(), StoreError> {
    // Numbers, texts and lists: nothing in it can fail to be JSON
    let text = serde_json::to_string_pretty(document).unwrap_or_default();
    write_atomic(path, text.as_bytes())
}

/// The documents of all folders. What is damaged is an error, what has no document is removed.
fn documents<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Vec<T>, ServeError> {
    let refuse = |path: &Path, reason: String| ServeError::JobsFolder {
        path: path.display().to_string(),
        reason,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| refuse(folder, error.to_string()))? {
        let entry = entry.map_err(|error| refuse(folder, error.to_string()))?.path();
        let path = entry.join(name);
        match fs::read(&path) {
            Ok(bytes) => {
                let document = serde_json::from_slice(&bytes);
                found.push(document.map_err(|error| refuse(&path, error.to_string()))?);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let _ = fs::remove_dir_all(&entry);
            }
            Err(error) => return Err(refuse(&path, error.to_string())),
        }
    }
    Ok(found)
}

/// Takes off the end of a file of lines what a crash left of a line.
fn cut_half_a_line(path: &Path) -> std::io::Result<()> {
    let Ok(bytes) = fs::read(path) else { return Ok(()) };
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    if whole < bytes.len() {
        fs::OpenOptions::new().write(true).open(path)?.set_len(whole as u64)?;
    }
    Ok(())
}

/// An identifier that no other has: from the time, this process and a count.
pub(crate) fn unique_id(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos());
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    let digest = blake3::hash(format!("{time} {} {count}", std::process::id()).as_bytes());
    format!("{prefix}{}", &digest.to_hex()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::record::{Purpose, Status, job};
    use crate::jobs::rows::Shape;

    #[test]
    fn files_and_jobs_are_found_again_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let (store, files, jobs) = Store::open(&root).unwrap();
        assert!(files.is_empty() && jobs.is_empty());
        let record = |serial: u64| FileRecord {
            id: format!("file-{}", 9 - serial),
            serial,
            filename: "a.jsonl".into(),
            bytes: 3,
            created_at: 1,
            purpose: Purpose::FineTune,
            rows: Some((Shape::Messages, 1)),
        };
        for serial in 0..3 {
            let incoming = store.incoming();
            fs::write(&incoming, "abc").unwrap();
            store.keep_file(&record(serial), &incoming).unwrap();
        }
        store.remove_file("file-8").unwrap();
        let mut kept = job("ftjob-1", 4);
        fs::create_dir_all(store.job_folder("ftjob-1")).unwrap();
        store.keep_job(&kept).unwrap();
        kept.status = Status::Running;
        store.keep_job(&kept).unwrap();
        let told = Told::info("begun");
        store.tell("ftjob-1", &told).unwrap();
        // What a crash leaves
        let events = store.job_folder("ftjob-1").join(EVENTS);
        fs::write(
            &events,
            [&fs::read(&events).unwrap()[..], b"{\"message\": \"ha"].concat(),
        )
        .unwrap();
        fs::create_dir_all(store.job_folder("ftjob-2")).unwrap();
        fs::write(store.incoming(), "half").unwrap();
        let second = Store::open(&root).err().expect("it is in use").to_string();
        assert!(second.contains("another server"), "{second}");
        drop(store);
        let (store, files, jobs) = Store::open(&root).unwrap();
        assert_eq!(files, [record(0), record(2)]);
        assert_eq!(fs::read(store.content("file-7")).unwrap(), b"abc");
        assert_eq!(jobs, [kept]);
        store.tell("ftjob-1", &told).unwrap();
        let events = store.events("ftjob-1");
        assert_eq!((events.len(), &events[1]["message"]), (2, &Value::from("begun")));
        assert!(!store.job_folder("ftjob-2").exists());
        assert_eq!(fs::read_dir(root.join("incoming")).unwrap().count(), 0);
        fs::write(store.job_folder("ftjob-1").join(JOB), "{").unwrap();
        drop(store);
        let error = Store::open(&root).err().expect("damaged").to_string();
        assert!(error.contains("job.json"), "{error}");
    }

    #[test]
    fn identifiers_differ() {
        assert_ne!(unique_id("a-"), unique_id("a-"));
        assert!(unique_id("file-").starts_with("file-"));
    }
}
