//! The process that tunes a model: its start, its end, and one that an earlier server left behind.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use hone_run::Lock;

/// What is started, and where it says what.
pub(crate) struct Start<'a> {
    pub program: &'a Path,
    pub arguments: &'a [String],
    /// Its working folder.
    pub folder: &'a Path,
    /// The file there that its standard output replaces; none: it is thrown away.
    pub output: Option<&'a str>,
    /// The file there to which its standard error is added.
    pub log: &'a str,
}

/// A process, or one that an earlier server started and that still runs.
pub(crate) enum Process {
    Own(Child),
    /// It holds the lock of this run directory.
    Left(PathBuf),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, with this code.
    Code(i32),
    /// By a signal, where its number is known.
    Signal(Option<i32>),
    /// Somehow: another server had started it.
    Unknown,
}

impl Process {
    /// Starts a process. Signals of a terminal do not reach it: it is asked to stop by [`Process::ask_to_stop`] alone.
    pub fn start(start: &Start<'_>) -> io::Result<Self> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(start.folder.join(start.log))?;
        let output = match start.output {
            Some(name) => Stdio::from(File::create(start.folder.join(name))?),
            None => Stdio::null(),
        };
        let mut command = Command::new(start.program);
        command.args(start.arguments).current_dir(start.folder);
        command.stdin(Stdio::null()).stdout(output).stderr(log);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn().map(Self::Own)
    }

    /// One that still works in this run directory, if any.
    pub fn left(run: &Path) -> Option<Self> {
        holder(run).map(|_| Self::Left(run.to_path_buf()))
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<End> {
        match self {
            Self::Own(child) => match child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) => Some(end_of(status)),
                Err(_) => Some(End::Unknown),
            },
            Self::Left(run) => holder(run).is_none().then_some(End::Unknown),
        }
    }

    /// Asks it to save and end.
    pub fn ask_to_stop(&self) {
        #[cfg(unix)]
        self.signal(rustix::process::Signal::TERM);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        #[cfg(unix)]
        self.signal(rustix::process::Signal::KILL);
        if let Self::Own(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    #[cfg(unix)]
    fn signal(&self, signal: rustix::process::Signal) {
        let id = match self {
            Self::Own(child) => Some(child.id()),
            Self::Left(run) => holder(run).flatten(),
        };
        let id = id
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            // It may have ended by itself
            let _ = rustix::process::kill_process(id, signal);
        }
    }
}

/// Who holds a run directory, if anybody: the process, where it can be told.
fn holder(run: &Path) -> Option<Option<u32>> {
    if !run.is_dir() {
        return None;
    }
    match Lock::acquire(run) {
        Err(hone_run::Error::Locked { pid, .. }) => Some(pid),
        _ => None,
    }
}

fn end_of(status: ExitStatus) -> End {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    let signal = None;
    status.code().map_or(End::Signal(signal), End::Code)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn shell(folder: &Path, script: &str) -> Process {
        let arguments = ["-c".to_owned(), script.to_owned()];
        let start = Start {
            program: Path::new("/bin/sh"),
            arguments: &arguments,
            folder,
            output: Some("out"),
            log: "log",
        };
        Process::start(&start).unwrap()
    }

    fn end(process: &mut Process) -> End {
        let begun = Instant::now();
        loop {
            if let Some(end) = process.ended() {
                return end;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn processes_end_by_themselves_and_on_request() {
        let folder = tempfile::tempdir().unwrap();
        let mut done = shell(folder.path(), "echo said; echo so >&2; exit 3");
        assert_eq!(end(&mut done), End::Code(3));
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((read("out"), read("log")), ("said\n".to_owned(), "so\n".to_owned()));
        let mut asked = shell(
            folder.path(),
            "trap 'exit 75' TERM; echo up; while :; do sleep 0.01; done",
        );
        while read("out") != "up\n" {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(asked.ended(), None);
        asked.ask_to_stop();
        assert_eq!(end(&mut asked), End::Code(75));
        let mut deaf = shell(folder.path(), "sleep 100");
        deaf.kill();
        assert_eq!(end(&mut deaf), End::Signal(Some(9)));
    }

    #[test]
    fn one_that_was_left_behind_is_known_by_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Process::left(&folder.path().join("absent")).is_none());
        assert!(Process::left(folder.path()).is_none());
        let lock = Lock::acquire(folder.path()).unwrap();
        let mut left = Process::left(folder.path()).expect("it is held");
        assert_eq!(left.ended(), None);
        drop(lock);
        assert_eq!(left.ended(), Some(End::Unknown));
    }
}
