//! Limits of a program that judges: its memory, and its end together with whatever it has started.
//!
//! The limit is set by the system's shell (`ulimit -d`), which then becomes the program. Setting it in this process between `fork` and
//! `exec` would take `unsafe` code, setting it from outside after the start would leave a moment in which the program can start others
//! without a limit. What is limited is the data segment (`RLIMIT_DATA`), which on Linux counts all memory that only the process itself
//! can write to; the address space (`RLIMIT_AS`) would also count what Java, Go and Node only reserve.

use std::path::Path;
use std::process::{Child, Command, ExitStatus};

/// Whether memory can be limited here.
pub(super) const MEMORY: bool = cfg!(unix);

/// The command that starts a program with a limit. It is not started.
pub(super) fn command(words: &[String], folder: &Path, memory_mib: Option<u64>) -> Command {
    let mut command = match memory_mib {
        Some(mib) => {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "ulimit -d \"$0\" && exec \"$@\""]);
            shell.arg(mib.saturating_mul(1024).to_string()).args(words);
            shell
        }
        None => {
            let mut program = Command::new(&words[0]);
            program.args(&words[1..]);
            program
        }
    };
    command.current_dir(folder);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command
}

/// Whether a program has ended by itself. It is not waited for, so that its number stays its own.
pub(super) fn has_ended(child: &mut Child) -> bool {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_))))
    }
    #[cfg(not(unix))]
    matches!(child.try_wait(), Ok(Some(_)))
}

/// Ends a program and all that belongs to its process group, and waits for it. How it ended, if that can be known.
pub(super) fn end(child: &mut Child) -> Option<ExitStatus> {
    // The group bears the number of its leader, which is not given to another process before the leader was waited for
    #[cfg(unix)]
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // It may have ended by itself
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
    child.wait().ok()
}
