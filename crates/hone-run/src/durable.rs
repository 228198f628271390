//! Operations on files that survive a loss of power, each counted so that tests can stop between any two.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// What marks a file or folder that is still being written, or about to be deleted; two numbers follow. Nobody gives such
/// a name by hand, and what bears it may be deleted.
const TEMPORARY: &str = ".tmp.hone-";

/// What a temporary name stands for: `model` of `model.tmp.hone-71-0`. None if the name is not one of
/// [`temporary_sibling`]'s.
pub(crate) fn temporary_of(name: &str) -> Option<&str> {
    let (before, id) = name.rsplit_once(TEMPORARY)?;
    let (process, call) = id.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (!before.is_empty() && digits(process) && digits(call)).then_some(before)
}

/// `path` with `.tmp.hone-<process>-<call>` appended, so that names differ between processes and between calls.
pub(crate) fn temporary_sibling(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!("{TEMPORARY}{}-{id}", std::process::id()));
    path.with_file_name(name)
}

/// The folder that holds `path`; `.` for a bare name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a folder's entries durable. On systems where folders cannot be opened this is the file system's duty.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    fault::operation()
        .and_then(|()| {
            if cfg!(unix) {
                File::open(path)?.sync_all()
            } else {
                Ok(())
            }
        })
        .map_err(|source| Error::io("make the folder durable", path, 0, source))
}

/// Makes a file's bytes durable.
pub(crate) fn sync_file(file: &File) -> io::Result<()> {
    fault::operation()?;
    file.sync_all()
}

/// Renames, replacing a file (a folder is never replaced).
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fault::operation()
        .and_then(|()| fs::rename(from, to))
        .map_err(|source| Error::io("rename it into place", to, 0, source))
}

/// Creates a folder and those above it, and makes the new entry durable.
pub(crate) fn create_dir(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fault::operation()
        .and_then(|()| fs::create_dir_all(path))
        .map_err(|source| Error::io("create the folder", path, 0, source))?;
    sync_dir(parent(path))
}

/// Deletes a folder and what is in it. It is renamed first, so that no half-deleted folder bears a real name.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    let is_temporary = path
        .file_name()
        .is_some_and(|name| temporary_of(&name.to_string_lossy()).is_some());
    let doomed = if is_temporary {
        path.to_path_buf()
    } else {
        let doomed = temporary_sibling(path);
        rename(path, &doomed)?;
        doomed
    };
    fault::operation()
        .and_then(|()| fs::remove_dir_all(&doomed))
        .map_err(|source| Error::io("delete the folder", path, 0, source))
}

/// Writes a file that appears complete or not at all, and is durable on return.
///
/// # Errors
/// When the disk is full or the folder cannot be written; the file that stood there before is then untouched.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary_sibling(path);
    let result = write_synced(&temporary, bytes).and_then(|()| rename(&temporary, path));
    if result.is_err() {
        // The error at hand says more than one of this clean-up would.
        let _ = fault::operation().and_then(|()| fs::remove_file(&temporary));
    }
    result?;
    sync_dir(parent(path))
}

/// Writes a new file and makes its bytes (not yet its name) durable.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        fault::operation()?;
        let mut file = File::create_new(path)?;
        write_all(&mut file, bytes)?;
        sync_file(&file)
    };
    write().map_err(|source| Error::io("write it", path, bytes.len() as u64, source))
}

/// Writes all bytes; a simulated crash leaves the first half of them.
pub(crate) fn write_all(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    if let Err(error) = fault::operation() {
        file.write_all(&bytes[..bytes.len() / 2])?;
        return Err(error);
    }
    file.write_all(bytes)
}

/// In the program: nothing. In this crate's tests: the place where a crash or a full disk is simulated.
#[cfg(not(test))]
pub(crate) mod fault {
    use std::io;

    #[expect(clippy::unnecessary_wraps, reason = "the version under test fails")]
    #[inline]
    pub(crate) fn operation() -> io::Result<()> {
        Ok(())
    }
}

/// Lets the first `n` operations of this thread pass and fails after them.
#[cfg(test)]
pub(crate) mod fault {
    use std::cell::Cell;
    use std::io;

    #[derive(Clone, Copy, PartialEq)]
    pub(crate) enum Fault {
        /// Every later operation fails, as if the process were gone.
        Crash,
        /// One operation finds the disk full.
        DiskFull,
    }

    thread_local! {
        static PLAN: Cell<Option<(u64, Fault)>> = const { Cell::new(None) };
    }

    pub(crate) fn after(operations: u64, fault: Fault) {
        PLAN.set(Some((operations, fault)));
    }

    /// Ends the simulation; true when the fault had happened.
    pub(crate) fn clear() -> bool {
        match PLAN.take() {
            Some((left, Fault::Crash)) => left == 0,
            Some((_, Fault::DiskFull)) => false,
            None => true,
        }
    }

    pub(crate) fn operation() -> io::Result<()> {
        match PLAN.get() {
            None => Ok(()),
            Some((0, Fault::Crash)) => Err(io::Error::other("simulated crash")),
            Some((0, Fault::DiskFull)) => {
                PLAN.set(None);
                Err(io::ErrorKind::StorageFull.into())
            }
            Some((left, fault)) => {
                PLAN.set(Some((left - 1, fault)));
                Ok(())
            }
        }
    }
}
