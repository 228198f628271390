//! Checkpoints: folders `step-000120` that appear complete or not at all.
//!
//! The order of a save: (1) every file is written into `step-N.tmp.<id>` and made durable; (2) so is `MANIFEST.json`,
//! with each file's length and digest; (3) the folder is made durable; (4) it is renamed to `step-N`; (5) the folder
//! above is made durable. Only then are older checkpoints deleted. A crash between any two leaves the one before.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::durable::{self, temporary_of};
use crate::error::{Damage, Error, Result};
use crate::manifest::{self, FileRecord, Manifest, read_limited};
use crate::progress::{Event, Observer};

/// A complete checkpoint on disk.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    manifest: Manifest,
    step: u64,
}

impl Checkpoint {
    /// Opens a checkpoint and verifies every file.
    ///
    /// # Errors
    /// [`Error::Damaged`] names the first file that is missing, cut short or changed.
    pub fn open(path: &Path) -> Result<Self> {
        let manifest = Manifest::read(path)?;
        let unreadable = |why: &str| Error::Damaged {
            path: path.join(manifest::MANIFEST_FILE),
            damage: Damage::Unreadable(why.to_owned()),
        };
        let step = manifest
            .step
            .ok_or_else(|| unreadable("it has no step, so this is not a checkpoint"))?;
        if let Some(named) = path.file_name().and_then(|name| step_of(&name.to_string_lossy()))
            && named != step
        {
            return Err(unreadable(&format!(
                "it says step {step}, the folder's name says {named}"
            )));
        }
        manifest.verify_files(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            manifest,
            step,
        })
    }

    pub(crate) fn sealed(path: PathBuf, manifest: Manifest, step: u64) -> Self {
        Self { path, manifest, step }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Optimiser steps done when it was saved.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What the manifest says.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The state that was given to the save: data cursor, random key, counters.
    #[must_use]
    pub fn state(&self) -> &serde_json::Value {
        &self.manifest.state
    }

    /// The bytes of one file, checked against its digest as they are read.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the manifest does not list the file, or its bytes differ.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        let damaged = |damage| Error::Damaged {
            path: path.clone(),
            damage,
        };
        let Some(record) = self.manifest.files.get(name) else {
            return Err(damaged(Damage::Unreadable("the manifest does not list it".to_owned())));
        };
        let bytes = match read_limited(&path, record.bytes) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged(Damage::Missing));
            }
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                let got = fs::metadata(&path).map_or(u64::MAX, |metadata| metadata.len());
                return Err(damaged(Damage::Length {
                    expected: record.bytes,
                    got,
                }));
            }
            Err(error) => return Err(Error::io("read it", &path, 0, error)),
        };
        if bytes.len() as u64 != record.bytes {
            return Err(damaged(Damage::Length {
                expected: record.bytes,
                got: bytes.len() as u64,
            }));
        }
        let got = blake3::hash(&bytes).to_hex().to_string();
        if got != record.blake3 {
            return Err(damaged(Damage::Digest {
                expected: record.blake3.clone(),
                got,
            }));
        }
        Ok(bytes)
    }

    /// The path of a listed file or of a folder of listed files, for code that maps files itself. The checkpoint was
    /// verified when it was opened.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the manifest lists nothing there.
    pub fn path_of(&self, name: &str) -> Result<PathBuf> {
        let prefix = format!("{name}/");
        let path = self.path.join(name);
        if self
            .manifest
            .files
            .keys()
            .any(|file| file == name || file.starts_with(&prefix))
        {
            return Ok(path);
        }
        Err(Error::Damaged {
            path,
            damage: Damage::Unreadable("the manifest does not list it".to_owned()),
        })
    }
}

/// Takes a checkpoint's files, one after the other.
pub struct CheckpointWriter {
    folder: PathBuf,
    files: BTreeMap<String, FileRecord>,
    bytes: u64,
    full: bool,
}

impl CheckpointWriter {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            files: BTreeMap::new(),
            bytes: 0,
            full: false,
        }
    }

    /// Writes a file of these bytes. Names may have folders in front: `model/model.safetensors`.
    ///
    /// # Errors
    /// When the name leaves the folder or is taken, or the system refuses.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.file(name, |sink| sink.write_all(bytes))
    }

    /// Writes a file by a function that is given a place to write to; it is buffered.
    ///
    /// When the disk fills, writing goes on without effect so that the whole checkpoint is measured, and the save
    /// then fails with what it needs.
    ///
    /// # Errors
    /// As [`CheckpointWriter::bytes`], and the function's own as [`Error::Caller`].
    pub fn file<E>(&mut self, name: &str, write: impl FnOnce(&mut dyn Write) -> Result<(), E>) -> Result<()>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        manifest::check_name(name)?;
        if self.files.contains_key(name) {
            return Err(Error::InvalidName {
                name: name.to_owned(),
                reason: "it is already written",
            });
        }
        let path = self.folder.join(name);
        let fail = |source| Error::io("write it", &path, 0, source);
        fs::create_dir_all(durable::parent(&path)).map_err(fail)?;
        let mut file = File::create_new(&path).map_err(fail)?;
        let sink = Sink {
            file: &mut file,
            hasher: blake3::Hasher::new(),
            bytes: 0,
            full: self.full,
        };
        let mut buffered = BufWriter::with_capacity(1 << 20, sink);
        write(&mut buffered).map_err(Error::caller)?;
        let sink = buffered.into_inner().map_err(|error| fail(error.into_error()))?;
        let (record, mut full) = (sink.record(), sink.full);
        if !full && let Err(error) = durable::sync_file(&file) {
            let error = fail(error);
            if !error.is_no_space() {
                return Err(error);
            }
            full = true;
        }
        if full {
            // What is left of it is of no use; the room may serve whoever else is stuck.
            let _ = file.set_len(0);
        }
        self.full = full;
        self.bytes += record.bytes;
        self.files.insert(name.to_owned(), record);
        Ok(())
    }

    /// The folder being built, for code that writes its files by path (a model directory, say). What is found there
    /// when the function returns becomes part of the checkpoint.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the disk filled, the bytes asked for, and the records of the files written.
    pub(crate) fn finish(self) -> (bool, u64, BTreeMap<String, FileRecord>) {
        (self.full, self.bytes, self.files)
    }
}

/// Digests and counts what passes, and swallows it once the disk is full.
struct Sink<'a> {
    file: &'a mut File,
    hasher: blake3::Hasher,
    bytes: u64,
    full: bool,
}

impl Sink<'_> {
    fn record(&self) -> FileRecord {
        FileRecord {
            bytes: self.bytes,
            blake3: self.hasher.finalize().to_hex().to_string(),
        }
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.full {
            match durable::write_all(self.file, bytes) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                    self.full = true;
                }
                Err(error) => return Err(error),
            }
        }
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `step-000120`
pub(crate) fn folder_name(step: u64) -> String {
    format!("step-{step:06}")
}

/// The step in a complete checkpoint's name.
fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("step-")?;
    (digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}

/// The steps of the folders that bear a complete checkpoint's name, highest first. Nothing is verified.
pub(crate) fn steps(folder: &Path) -> Result<Vec<u64>> {
    let mut steps: Vec<u64> = names(folder)?.iter().filter_map(|name| step_of(name)).collect();
    steps.sort_unstable_by(|a, b| b.cmp(a));
    Ok(steps)
}

/// Whether no save was ever completed here, not even of a checkpoint that was set aside since.
pub(crate) fn none_saved(folder: &Path) -> Result<bool> {
    Ok(!names(folder)?
        .iter()
        .any(|name| name.starts_with("step-") && temporary_of(name).is_none()))
}

/// The checkpoint of the highest step that verifies. Damaged ones are renamed to `.bad`, leftovers of interrupted
/// saves and deletions are removed.
pub(crate) fn discover(folder: &Path, observer: &dyn Observer) -> Result<Option<Checkpoint>> {
    for name in names(folder)?.iter().filter(|name| temporary_of(name).is_some()) {
        durable::remove_dir(&folder.join(name))?;
    }
    for step in steps(folder)? {
        let path = folder.join(folder_name(step));
        match Checkpoint::open(&path) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(error @ (Error::Damaged { .. } | Error::InvalidName { .. })) => {
                let aside = set_aside(&path)?;
                observer.event(&Event::Message(format!(
                    "{error}. The checkpoint is set aside as {}; the one before it is used",
                    aside.display()
                )));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Renames a damaged checkpoint to a free `.bad` name.
fn set_aside(path: &Path) -> Result<PathBuf> {
    let base = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut aside = path.with_file_name(format!("{base}.bad"));
    let mut number = 2;
    while aside.exists() {
        aside = path.with_file_name(format!("{base}.bad{number}"));
        number += 1;
    }
    durable::rename(path, &aside)?;
    Ok(aside)
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let list = || -> io::Result<Vec<String>> {
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    match list() {
        Ok(names) => Ok(names),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("list the folder", folder, 0, error)),
    }
}
