//! `MANIFEST.json`: what a checkpoint or a published directory holds, with lengths and digests.
//!
//! The manifest also covers itself: its first field is the digest of the file with that field set to zeros. All of
//! it is a function of the run's state, never of time or process, so that equal runs leave equal manifests.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::{Damage, Error, Result};

/// The manifest's name in its folder.
pub const MANIFEST_FILE: &str = "MANIFEST.json";
/// The manifest version this program writes, and the newest it reads.
const VERSION: u64 = 1;
/// No honest manifest is larger.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;
/// What stands before the manifest's own digest.
const DIGEST_PREFIX: &str = "{\n  \"manifest_blake3\": \"";
const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Length and digest of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Bytes.
    pub bytes: u64,
    /// BLAKE3, 64 lower-case hexadecimal digits.
    pub blake3: String,
}

/// The contents of `MANIFEST.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// BLAKE3 of this file with these digits set to zero.
    manifest_blake3: String,
    /// Version of this format.
    version: u64,
    /// Optimiser steps done; absent for a published directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Saved because the run was asked to stop, not because a checkpoint was due.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interruption: bool,
    /// Digest of the resolved configuration; absent for a published directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
    /// Instruction set (`isa`) and versions of what made it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Digests of what the run is made from, by the names that the configuration gives them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// Every file by its path relative to the folder, `/` between parts.
    pub files: BTreeMap<String, FileRecord>,
    /// Lengths in bytes that the run's growing files had, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub growing: BTreeMap<String, u64>,
    /// What the caller keeps beside its files: data cursor, random key, counters.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub state: serde_json::Value,
}

impl Manifest {
    /// A manifest of the given files and nothing else.
    pub(crate) fn new(files: BTreeMap<String, FileRecord>) -> Self {
        Self {
            manifest_blake3: ZEROS.to_owned(),
            version: VERSION,
            step: None,
            interruption: false,
            config_digest: None,
            environment: BTreeMap::new(),
            inputs: BTreeMap::new(),
            files,
            growing: BTreeMap::new(),
            state: serde_json::Value::Null,
        }
    }

    /// Sum of the files' lengths.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files
            .values()
            .map(|record| record.bytes)
            .fold(0, u64::saturating_add)
    }

    /// The text of the file, its own digest filled in.
    pub(crate) fn to_text(&self) -> Result<String> {
        let blank = Self {
            manifest_blake3: ZEROS.to_owned(),
            ..self.clone()
        };
        let text = serde_json::to_string_pretty(&blank).map_err(Error::caller)? + "\n";
        let digest = blake3::hash(text.as_bytes()).to_hex();
        Ok(text.replacen(ZEROS, &digest, 1))
    }

    /// Reads and checks a folder's manifest, not the files it lists.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST_FILE);
        let damaged = |damage| Error::Damaged {
            path: path.clone(),
            damage,
        };
        let bytes = match read_limited(&path, MAX_MANIFEST_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged(Damage::Missing));
            }
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Err(damaged(Damage::Unreadable(error.to_string())));
            }
            Err(error) => return Err(Error::io("read it", &path, 0, error)),
        };
        // The version comes first: a newer format may differ in everything else.
        if let Ok(serde_json::Value::Object(fields)) = serde_json::from_slice(&bytes)
            && let Some(got) = fields.get("version").and_then(serde_json::Value::as_u64)
            && got > VERSION
        {
            return Err(Error::UnsupportedVersion {
                path,
                got,
                known: VERSION,
            });
        }
        check_own_digest(bytes.clone()).map_err(&damaged)?;
        let manifest: Self =
            serde_json::from_slice(&bytes).map_err(|error| damaged(Damage::Unreadable(error.to_string())))?;
        for name in manifest.files.keys() {
            check_name(name)?;
        }
        Ok(manifest)
    }

    /// Compares every listed file with its length and digest; names the first that differs.
    pub(crate) fn verify_files(&self, folder: &Path) -> Result<()> {
        // Lengths first: they are cheap and catch most.
        for (name, record) in &self.files {
            let path = folder.join(name);
            let got = match fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::Damaged {
                        path,
                        damage: Damage::Missing,
                    });
                }
                Err(error) => return Err(Error::io("read it", &path, 0, error)),
            };
            if got != record.bytes {
                return Err(Error::Damaged {
                    path,
                    damage: Damage::Length {
                        expected: record.bytes,
                        got,
                    },
                });
            }
        }
        for (name, record) in &self.files {
            let path = folder.join(name);
            let got = record_of(&path)?;
            if got.blake3 != record.blake3 {
                let damage = Damage::Digest {
                    expected: record.blake3.clone(),
                    got: got.blake3,
                };
                return Err(Error::Damaged { path, damage });
            }
        }
        Ok(())
    }
}

/// A file's bytes, refused above `limit`.
pub(crate) fn read_limited(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// Length and digest of a file, read in pieces.
pub(crate) fn record_of(path: &Path) -> Result<FileRecord> {
    let read = || -> io::Result<FileRecord> {
        let mut file = File::open(path)?;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            let count = file.read(&mut piece)?;
            if count == 0 {
                return Ok(FileRecord {
                    bytes,
                    blake3: hasher.finalize().to_hex().to_string(),
                });
            }
            hasher.update(&piece[..count]);
            bytes += count as u64;
        }
    };
    read().map_err(|source| Error::io("read it", path, 0, source))
}

/// Files already known keep their record; the others in `folder` (temporary, being built) are made durable and read.
/// Then the manifest is written and the folder made durable: everything but the rename.
pub(crate) fn seal(folder: &Path, mut manifest: Manifest) -> Result<Manifest> {
    let mut pending = vec![PathBuf::new()];
    let mut folders = Vec::new();
    while let Some(relative) = pending.pop() {
        let here = folder.join(&relative);
        let list = || fs::read_dir(&here)?.collect::<io::Result<Vec<_>>>();
        for entry in list().map_err(|source| Error::io("list the folder", &here, 0, source))? {
            let inside = relative.join(entry.file_name());
            let path = folder.join(&inside);
            if path.is_dir() {
                pending.push(inside);
                continue;
            }
            let name = portable_name(&inside)?;
            if let std::collections::btree_map::Entry::Vacant(slot) = manifest.files.entry(name) {
                check_name(slot.key())?;
                let sync = || durable::sync_file(&File::options().append(true).open(&path)?);
                sync().map_err(|source| Error::io("make it durable", &path, 0, source))?;
                slot.insert(record_of(&path)?);
            }
        }
        folders.push(here);
    }
    durable::write_synced(&folder.join(MANIFEST_FILE), manifest.to_text()?.as_bytes())?;
    // Deepest first; the folder itself, pushed first, comes last.
    for path in folders.iter().rev() {
        durable::sync_dir(path)?;
    }
    Ok(manifest)
}

/// Refuses names that leave the folder, are not portable, or are the manifest's.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let refuse = |reason| {
        Err(Error::InvalidName {
            name: name.to_owned(),
            reason,
        })
    };
    if name.is_empty() || name.ends_with('/') {
        return refuse("it is empty");
    }
    if name.contains(['\\', ':', '\0']) || name.contains("//") {
        return refuse("it holds a character that is not portable");
    }
    if !Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return refuse("it must stay inside the folder: no `..`, no `/` in front");
    }
    if name.eq_ignore_ascii_case(MANIFEST_FILE) {
        return refuse("that is the manifest's name");
    }
    Ok(())
}

fn portable_name(relative: &Path) -> Result<String> {
    let parts: Option<Vec<&str>> = relative.iter().map(|part| part.to_str()).collect();
    parts.map(|parts| parts.join("/")).ok_or_else(|| Error::InvalidName {
        name: relative.to_string_lossy().into_owned(),
        reason: "it is not UTF-8",
    })
}

fn check_own_digest(mut bytes: Vec<u8>) -> Result<(), Damage> {
    let (start, end) = (DIGEST_PREFIX.len(), DIGEST_PREFIX.len() + ZEROS.len());
    if bytes.len() < end || !bytes.starts_with(DIGEST_PREFIX.as_bytes()) {
        return Err(Damage::Unreadable("it does not begin with its own digest".to_owned()));
    }
    let expected = String::from_utf8_lossy(&bytes[start..end]).into_owned();
    bytes[start..end].copy_from_slice(ZEROS.as_bytes());
    let got = blake3::hash(&bytes).to_hex().to_string();
    if got == expected {
        Ok(())
    } else {
        Err(Damage::Digest { expected, got })
    }
}
