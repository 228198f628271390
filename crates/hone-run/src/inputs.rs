//! What a run was made from: digests of the files and folders that its configuration names.
//!
//! A configuration names inputs by their paths, and a path says nothing of what is there. So checkpoints and
//! `finished.json` keep a digest of each input, and a run goes on only with what it began with.
//!
//! A file's digest is BLAKE3 of its bytes. A folder's is that of its `MANIFEST.json`, which holds its files' digests;
//! without one, that of the names and digests of the files in it. `inputs.json` in the run's folder remembers length and
//! time of each file, so that a large one that was not touched is not read again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::{Error, Result};
use crate::manifest::{MANIFEST_FILE, record_of};

/// Inputs by the names that the configuration gives them, with their places.
pub type Inputs = BTreeMap<String, PathBuf>;

/// Digests by the same names. What is not there has none.
pub(crate) type Digests = BTreeMap<String, String>;

pub(crate) const CACHE_FILE: &str = "inputs.json";
/// The key of `finished.json` under which digests stand.
pub(crate) const KEY: &str = "inputs";

/// A file as it was when its digest was computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    bytes: u64,
    modified_nanoseconds: u64,
    blake3: String,
}

/// Digests of all inputs, with what is known of files that were not touched since.
pub(crate) fn digests(dir: &Path, inputs: &Inputs) -> Result<Digests> {
    if inputs.is_empty() {
        return Ok(Digests::new());
    }
    let path = dir.join(CACHE_FILE);
    // A cache that cannot be read is no cache.
    let before: BTreeMap<String, Known> = fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let mut cache = Cache {
        before,
        after: BTreeMap::new(),
    };
    let mut digests = Digests::new();
    for (name, place) in inputs {
        if let Some(digest) = cache.digest(place)? {
            digests.insert(name.clone(), digest);
        }
    }
    if cache.after != cache.before {
        let text = serde_json::to_string_pretty(&cache.after).map_err(Error::caller)? + "\n";
        durable::write_atomic(&path, text.as_bytes())?;
    }
    Ok(digests)
}

/// The digest of a file or a folder, as a run keeps it of its inputs; none of what is not there.
///
/// # Errors
/// When the system refuses to read it.
pub fn digest_of(place: &Path) -> Result<Option<String>> {
    let mut cache = Cache {
        before: BTreeMap::new(),
        after: BTreeMap::new(),
    };
    cache.digest(place)
}

/// Names whose contents differ. What is missing on one side is not compared: an absent file is found by whoever reads it.
pub(crate) fn changed(recorded: &Digests, current: &Digests) -> Vec<String> {
    let differs = |(name, digest): &(&String, &String)| recorded.get(*name).is_some_and(|before| before != *digest);
    current.iter().filter(differs).map(|(name, _)| name.clone()).collect()
}

struct Cache {
    before: BTreeMap<String, Known>,
    after: BTreeMap<String, Known>,
}

impl Cache {
    fn digest(&mut self, place: &Path) -> Result<Option<String>> {
        if place.is_file() {
            return self.file(place).map(Some);
        }
        if !place.is_dir() {
            return Ok(None);
        }
        let manifest = place.join(MANIFEST_FILE);
        if manifest.is_file() {
            return self.file(&manifest).map(Some);
        }
        let list = || fs::read_dir(place)?.collect::<std::io::Result<Vec<_>>>();
        let entries = list().map_err(|source| Error::io("list the folder", place, 0, source))?;
        let mut lines = Vec::new();
        for path in entries.into_iter().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_file() && !name.starts_with('.') {
                lines.push(format!("{} {name}\n", self.file(&path)?));
            }
        }
        lines.sort();
        Ok(Some(blake3::hash(lines.concat().as_bytes()).to_hex().to_string()))
    }

    fn file(&mut self, path: &Path) -> Result<String> {
        let metadata = fs::metadata(path).map_err(|source| Error::io("read it", path, 0, source))?;
        let modified = metadata
            .modified()
            .ok()
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let modified_nanoseconds = modified.map_or(0, |since| since.as_nanos() as u64);
        let name = path.to_string_lossy().into_owned();
        let untouched = self
            .before
            .get(&name)
            .filter(|known| (known.bytes, known.modified_nanoseconds) == (metadata.len(), modified_nanoseconds));
        let known = match untouched {
            Some(known) => known.clone(),
            None => Known {
                bytes: metadata.len(),
                modified_nanoseconds,
                blake3: record_of(path)?.blake3,
            },
        };
        let digest = known.blake3.clone();
        self.after.insert(name, known);
        Ok(digest)
    }
}
