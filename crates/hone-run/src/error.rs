//! What can go wrong with a run, and with which code a program then ends.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How a program ends. The numbers are a contract with scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// The work is done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The arguments or the configuration are wrong.
    Usage = 2,
    /// A stated expectation was not met: a gate in a recipe, the order of the quickstart's rows.
    ExpectationNotMet = 3,
    /// Training diverged, or an invariant broke.
    Diverged = 4,
    /// Stopped before the end; the same command goes on from the last checkpoint.
    Resumable = 75,
}

impl ExitStatus {
    /// The process's exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}

/// A key of the configuration that nothing reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKey {
    /// The dotted key, `train.learning_rat`; elements of arrays by index, `data.train[1].pth`.
    pub key: String,
    /// Where it stands: `sft.toml:12` or `--set`.
    pub origin: String,
    /// The nearest valid dotted key.
    pub nearest: Option<String>,
    /// The keys that are valid in its place.
    pub valid: Vec<String>,
    /// Why a key that others have is none here; see [`crate::config::Configuration::refused`].
    pub reason: Option<&'static str>,
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = self.reason {
            return write!(f, "{}: `{}` is no key here: {reason}", self.origin, self.key);
        }
        write!(f, "{}: unknown key `{}`", self.origin, self.key)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean `{nearest}`?"),
            None if self.valid.is_empty() => write!(f, "; no keys are allowed here"),
            None => write!(f, "; valid here: {}", self.valid.join(", ")),
        }
    }
}

/// What is wrong with a file of a checkpoint or of a published directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// The manifest lists it, the folder lacks it.
    Missing,
    /// Its length differs.
    Length {
        /// Bytes according to the manifest.
        expected: u64,
        /// Bytes on disk.
        got: u64,
    },
    /// Its bytes differ.
    Digest {
        /// BLAKE3 according to the manifest.
        expected: String,
        /// BLAKE3 of what is on disk.
        got: String,
    },
    /// It cannot be read as what it should be.
    Unreadable(String),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "the manifest lists it but it is missing"),
            Self::Length { expected, got } => {
                write!(f, "length differs: expected {expected} bytes, got {got}")
            }
            Self::Digest { expected, got } => {
                let short = |digest: &str| digest.chars().take(16).collect::<String>();
                write!(
                    f,
                    "contents differ: expected blake3 {}..., got {}...",
                    short(expected),
                    short(got)
                )
            }
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
        }
    }
}

/// An error of configuration, run directory, checkpoint or report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// What was tried, as a verb and its object.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk or the quota is full. What was durable before is untouched.
    #[error(
        "{}: no space left on the disk; {needed} bytes are needed there. The last checkpoint is intact: \
         free the space and run the same command again", path.display()
    )]
    NoSpace {
        /// What was being written.
        path: PathBuf,
        /// Bytes the whole file, checkpoint or directory takes.
        needed: u64,
    },
    /// The folder is read-only, or belongs to somebody else.
    #[error("{}: cannot {action}: {source}. Choose another place, or change its permissions", path.display())]
    NotWritable {
        /// What was tried, as a verb and its object.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A configuration that is not there, or cannot be read.
    #[error("{}: cannot read the configuration: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{origin}: not valid TOML: {message}")]
    Syntax {
        /// File, line and column.
        origin: String,
        /// What the parser said.
        message: String,
    },
    /// Keys that nothing reads.
    #[error("{}", keys.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    UnknownKeys {
        /// All of them, in the file's order.
        keys: Vec<UnknownKey>,
    },
    /// A value of the wrong type, a missing key, or a value that makes no sense.
    #[error("{origin}: {key}: {message}")]
    Value {
        /// `sft.toml:12` or the `--set` that gave it.
        origin: String,
        /// The dotted key.
        key: String,
        /// What was expected and what was found.
        message: String,
    },
    /// A `--set` that is not `key=value`, or whose key does not fit the file.
    #[error("--set {text}: {message}")]
    Override {
        /// What was given.
        text: String,
        /// What is wrong with it.
        message: String,
    },
    /// The values cannot be written as TOML.
    #[error("the configuration cannot be written as TOML: {0}")]
    Unwritable(String),
    /// The run was started with another configuration.
    #[error(
        "{}: this run was started with another configuration; changed: {}. \
         Give the run another --name (a recipe's stage another name), or undo the change", dir.display(), keys.join(", ")
    )]
    ConfigChanged {
        /// The run.
        dir: PathBuf,
        /// The dotted keys whose values differ.
        keys: Vec<String>,
    },
    /// What the run is made from is no longer what it was.
    #[error(
        "{}: this run was started with other contents of {}. Restore what was there, give the run another --name, or \
         delete its folder to do it again", dir.display(), names.join(", ")
    )]
    InputsChanged {
        /// The run.
        dir: PathBuf,
        /// The files and folders, as the configuration names them.
        names: Vec<String>,
    },
    /// The checkpoint was made with another instruction set, whose bits differ.
    #[error(
        "{}: the checkpoint was made with instruction set `{recorded}`, this process uses `{current}`, and results \
         would differ in their last bits. Set HONE_ISA={recorded}, or accept it with --allow-isa-change", dir.display()
    )]
    IsaChanged {
        /// The run.
        dir: PathBuf,
        /// The instruction set in the manifest.
        recorded: String,
        /// The instruction set of this process.
        current: String,
    },
    /// Another process writes into the run.
    #[error("{}: another process{} is writing into this run; wait for it or stop it", dir.display(),
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked {
        /// The run.
        dir: PathBuf,
        /// The other process, where it can be read.
        pid: Option<u32>,
    },
    /// The folder holds something else.
    #[error("{}: holds `{found}` but no run.toml, so it is not a run; choose an empty or new folder", dir.display())]
    NotARun {
        /// The folder.
        dir: PathBuf,
        /// One of the things in it.
        found: String,
    },
    /// A file of a published directory is not what was written.
    #[error(
        "{}: {damage}; the file is damaged: restore it, or make the directory again. If it was changed on purpose, \
         delete the MANIFEST.json of its directory", path.display()
    )]
    DamagedResult {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A file of a checkpoint is damaged.
    #[error("{}: {damage}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A newer program wrote it.
    #[error("{}: manifest version {got}, this program reads up to {known}; use a newer hone", path.display())]
    UnsupportedVersion {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        got: u64,
        /// The newest version this program reads.
        known: u64,
    },
    /// The checkpoint belongs to a run with another configuration.
    #[error(
        "{}: the checkpoint was made with another configuration (digest {expected} expected, {got} found); \
         remove it or use the run it came from", path.display()
    )]
    ForeignCheckpoint {
        /// The checkpoint.
        path: PathBuf,
        /// The digest of this run's configuration.
        expected: String,
        /// The digest in the manifest.
        got: String,
    },
    /// A file name that would leave the folder, or that is taken.
    #[error("`{name}` cannot be a file of a checkpoint: {reason}")]
    InvalidName {
        /// The name given.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A file of results that was begun with other settings.
    #[error(
        "{}: was begun with other settings; changed: {}. Give another --out, undo the change, or delete the file and the \
         folder {}.run beside it to begin anew", path.display(), changed.join(", "), path.display()
    )]
    OutputChanged {
        /// The file.
        path: PathBuf,
        /// What differs, with both values.
        changed: Vec<String>,
    },
    /// A file of results cannot be written where something else stands.
    #[error("{}: {what}; name another --out, or remove it", path.display())]
    ForeignOutput {
        /// The file.
        path: PathBuf,
        /// What stands there.
        what: &'static str,
    },
    /// The caller's own code failed while it wrote a checkpoint or a directory.
    #[error("{0}")]
    Caller(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Wraps an error of the caller's code inside a writer callback.
    pub fn caller(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Caller(error.into())
    }

    /// The code a program ends with on this error.
    #[must_use]
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::NoSpace { .. } => ExitStatus::Resumable,
            Self::Unreadable { .. }
            | Self::Syntax { .. }
            | Self::UnknownKeys { .. }
            | Self::Value { .. }
            | Self::Override { .. }
            | Self::ConfigChanged { .. }
            | Self::IsaChanged { .. }
            | Self::InputsChanged { .. }
            | Self::OutputChanged { .. }
            | Self::ForeignOutput { .. }
            | Self::NotARun { .. } => ExitStatus::Usage,
            _ => ExitStatus::Failed,
        }
    }

    /// Sorts an error of the operating system; `needed` is what the whole object takes, should the disk be full.
    pub(crate) fn io(action: &'static str, path: &Path, needed: u64, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path, needed },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NotWritable { action, path, source }
            }
            _ => Self::Io { action, path, source },
        }
    }

    /// Whether a full disk is the cause, however deep in the chain of sources.
    pub(crate) fn is_no_space(&self) -> bool {
        if matches!(self, Self::NoSpace { .. }) {
            return true;
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if matches!(error.downcast_ref::<Self>(), Some(Self::NoSpace { .. })) {
                return true;
            }
            if let Some(io) = error.downcast_ref::<io::Error>()
                && matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            {
                return true;
            }
            cause = error.source();
        }
        false
    }
}
