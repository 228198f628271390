//! Directories of results (a model, say) that appear complete or not at all, and say when they are damaged.

use std::fs;
use std::io;
use std::path::Path;

use crate::durable::{self, temporary_of};
use crate::error::{Error, Result};
use crate::manifest::{MANIFEST_FILE, Manifest, seal};

/// What marks the directory that a new one is about to replace: `model` is then `.model.hone-replaced`. Nobody gives such
/// a name by hand.
const REPLACED: &str = ".hone-replaced";

/// Builds a directory by `write`, which is given an empty folder beside the final one, and puts it in place of
/// whatever stood there. A `MANIFEST.json` with each file's length and digest is added.
///
/// A directory cannot be replaced in one step on every system: for a moment the old one is called
/// `.NAME.hone-replaced`, and [`recover_dir`] (called here too) brings it back after a crash at that moment. Nothing else
/// beside `path` is touched.
///
/// # Errors
/// When the disk is full or not writable, or `write` fails; what stood there before is then untouched.
pub fn publish_dir(path: &Path, write: &mut dyn FnMut(&Path) -> Result<()>) -> Result<Manifest> {
    recover_dir(path)?;
    durable::create_dir(durable::parent(path))?;
    let temporary = durable::temporary_sibling(path);
    let result = durable::create_dir(&temporary)
        .and_then(|()| write(&temporary))
        .and_then(|()| seal(&temporary, Manifest::new(Default::default())));
    let manifest = match result {
        Ok(manifest) => manifest,
        Err(error) => {
            let needed = folder_bytes(&temporary).max(folder_bytes(path));
            // The error at hand says more than one of this clean-up would.
            let _ = durable::remove_dir(&temporary);
            let full = error.is_no_space();
            return Err(if full {
                Error::NoSpace {
                    path: path.to_path_buf(),
                    needed,
                }
            } else {
                error
            });
        }
    };
    let old = replaced_name(path);
    let replaces = path.exists();
    if replaces {
        durable::rename(path, &old)?;
    }
    durable::rename(&temporary, path)?;
    durable::sync_dir(durable::parent(path))?;
    if replaces {
        durable::remove_dir(&old)?;
    }
    Ok(manifest)
}

/// Finishes what a crash inside [`publish_dir`] left: brings back a directory that was about to be replaced, removes
/// leftovers. Does nothing when there are none.
///
/// # Errors
/// When the system refuses.
pub fn recover_dir(path: &Path) -> Result<()> {
    let old = replaced_name(path);
    if old.is_dir() {
        if path.exists() {
            durable::remove_dir(&old)?;
        } else {
            durable::rename(&old, path)?;
            durable::sync_dir(durable::parent(path))?;
        }
    }
    let name_of = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let ours = [name_of(path), name_of(&old)];
    let folder = durable::parent(path);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("list the folder", folder, 0, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|source| Error::io("list the folder", folder, 0, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let leftover = temporary_of(&name).is_some_and(|of| ours.iter().any(|name| name == of));
        if leftover && entry.path().is_dir() {
            durable::remove_dir(&entry.path())?;
        }
    }
    Ok(())
}

/// Verifies a directory against its `MANIFEST.json`. A directory without one (made elsewhere) gives `None`.
///
/// # Errors
/// [`Error::DamagedResult`] names the first file that is missing, cut short or changed. Whoever edits a file on purpose
/// deletes `MANIFEST.json`.
pub fn verify_dir(path: &Path) -> Result<Option<Manifest>> {
    if !path.join(MANIFEST_FILE).exists() {
        return Ok(None);
    }
    let verified = Manifest::read(path).and_then(|manifest| {
        manifest.verify_files(path)?;
        Ok(manifest)
    });
    match verified {
        Ok(manifest) => Ok(Some(manifest)),
        Err(Error::Damaged { path, damage }) => Err(Error::DamagedResult { path, damage }),
        Err(error) => Err(error),
    }
}

fn replaced_name(path: &Path) -> std::path::PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(REPLACED);
    path.with_file_name(name)
}

/// Bytes of the files in a folder and below; what cannot be read counts nothing.
pub(crate) fn folder_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
