//! Stopping on request: the first signal asks, the second ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::ExitStatus;

/// Whether the process was asked to stop.
///
/// After the first SIGTERM, SIGINT (Ctrl-C) or SIGHUP (the terminal went) [`Shutdown::requested`] is true: the loop saves a checkpoint at the next
/// step's end and the program ends with [`ExitStatus::Resumable`]. A second signal ends the process inside the signal
/// handler, also with 75: the last complete checkpoint is what the next start resumes from, and one that was being
/// saved is removed then.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    requested: Arc<AtomicBool>,
    /// Signals do what they do without this.
    stood_down: Arc<AtomicBool>,
}

impl Shutdown {
    /// Handles SIGTERM, SIGINT and SIGHUP from now on. Call once, in the program, before anything else: a signal that comes
    /// earlier ends the process without a word. A SIGHUP that is ignored, as under `nohup`, stays ignored; where that
    /// cannot be told, SIGHUP is left as it is.
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub fn install() -> io::Result<Self> {
        let shutdown = Self::default();
        for signal in [SIGTERM, SIGINT].into_iter().chain(hangup()) {
            flag::register_conditional_default(signal, Arc::clone(&shutdown.stood_down))?;
            // Handlers run in the order of registration: the exit looks at the flag before the flag is set.
            let code = i32::from(ExitStatus::Resumable.code());
            flag::register_conditional_shutdown(signal, code, Arc::clone(&shutdown.requested))?;
            flag::register(signal, Arc::clone(&shutdown.requested))?;
        }
        Ok(shutdown)
    }

    /// From now on signals end the process as they do by default: for a program's commands that have nothing to save.
    pub fn stand_down(&self) {
        self.stood_down.store(true, Ordering::SeqCst);
    }

    /// Asks for a stop without a signal: from a test, a page, or a time limit.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked. The training loop looks once a step.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }
}

/// SIGHUP, where it is known not to be ignored.
#[cfg(unix)]
fn hangup() -> Option<i32> {
    use signal_hook::consts::SIGHUP;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    (ignores(&status, SIGHUP) == Some(false)).then_some(SIGHUP)
}

#[cfg(not(unix))]
fn hangup() -> Option<i32> {
    None
}

/// Whether a process ignores a signal, from its `/proc/PID/status`.
#[cfg(unix)]
fn ignores(status: &str, signal: i32) -> Option<bool> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask >> (signal - 1) & 1 == 1)
}

#[cfg(all(test, unix))]
mod tests {
    use super::ignores;

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let status = "Name:\thone\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n";
        assert_eq!(ignores(status, 1), Some(true));
        assert_eq!(ignores(status, 13), Some(true));
        assert_eq!(ignores(status, 15), Some(false));
        assert_eq!(ignores("Name:\thone\n", 1), None);
    }
}
