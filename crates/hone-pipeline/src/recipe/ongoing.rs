//! A folder in which a stage works over several calls.

use std::path::{Path, PathBuf};

use hone_run::{Error as RunError, Lock, Resolved};
use serde_json::Value;

use crate::error::{PipelineError, Result};
use crate::files::{read_json, write_json};

/// The settings that the folder was begun with.
const SETTINGS: &str = "settings.toml";

/// An open folder: one process writes in it, always with the same settings.
pub(super) struct Ongoing {
    record: PathBuf,
    _lock: Lock,
}

impl Ongoing {
    /// Opens a stage's folder, or makes it; `record` is the name of the file that says what the stage came to.
    ///
    /// # Errors
    /// A folder in which another process works, or that was begun with other settings.
    pub fn open<C>(dir: &Path, record: &str, resolved: &Resolved<C>) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| PipelineError::file(dir, format!("cannot be created: {e}")))?;
        let lock = Lock::acquire(dir)?;
        let path = dir.join(SETTINGS);
        if path.exists() {
            let text = std::fs::read_to_string(&path)
                .map_err(|e| PipelineError::file(&path, format!("cannot be read: {e}")))?;
            let before: toml::Table =
                toml::from_str(&text).map_err(|e| PipelineError::file(&path, format!("is not TOML: {e}")))?;
            let keys = hone_run::config::changed_keys(&before, resolved.table());
            if !keys.is_empty() {
                let dir = dir.to_path_buf();
                return Err(RunError::ConfigChanged { dir, keys }.into());
            }
        } else {
            hone_run::write_atomic(&path, resolved.text().as_bytes())?;
        }
        Ok(Self {
            record: dir.join(record),
            _lock: lock,
        })
    }

    /// What the stage came to, if it is done.
    pub fn finished(&self) -> Result<Option<Value>> {
        match self.record.exists() {
            true => read_json(&self.record).map(Some),
            false => Ok(None),
        }
    }

    /// Notes what the stage came to: it is done. Gives the note as it will be read again.
    pub fn finish(&self, summary: &Value) -> Result<Value> {
        write_json(&self.record, summary)?;
        read_json(&self.record)
    }
}
