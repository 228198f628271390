//! How fast a run goes, how far it is, and whether it is going at all.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hone_run::Eta;

use super::figures::fields_of;

/// A run whose process lives is quiet after this long, or ten steps' time if that is longer.
const QUIET: Duration = Duration::from_secs(120);
/// A run whose process is not seen has stopped after this long, or three steps' time.
const GONE: Duration = Duration::from_secs(15);
/// The process may be on another machine: then it is told by the files alone.
const UNSEEN: Duration = Duration::from_secs(120);

/// What `timings.jsonl` says.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    pub last_step: u64,
    /// Steps in all, as the run said.
    pub total: Option<u64>,
    pub bad_lines: u64,
    eta: Eta,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            last_step: 0,
            total: None,
            bad_lines: 0,
            eta: Eta::new(0, 0),
        }
    }
}

impl Clock {
    /// Takes a line, and gives the step and its seconds where it has them.
    pub fn take(&mut self, line: &[u8]) -> Option<(u64, f64)> {
        let Some((step, fields)) = fields_of(line) else {
            self.bad_lines += 1;
            return None;
        };
        let number = |name: &str| fields.get(name).and_then(serde_json::Value::as_f64);
        if let Some(total) = number("steps_in_all").filter(|total| *total >= 0.0) {
            self.total = Some(total as u64);
        }
        self.last_step = step;
        let seconds = number("seconds")?;
        if let Ok(took) = Duration::try_from_secs_f64(seconds) {
            self.eta.observe(step, took);
        }
        Some((step, seconds))
    }

    /// Seconds that a step takes.
    pub fn seconds_per_step(&self) -> Option<f64> {
        self.eta.seconds_per_step()
    }

    /// The time that `left` steps take.
    pub fn time_for(&self, left: u64) -> Option<Duration> {
        Duration::try_from_secs_f64(self.seconds_per_step()? * left as f64).ok()
    }
}

/// Who writes a run, as far as it can be seen from here without touching its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// A process of this machine has its lock file open.
    Here,
    /// None of this machine has.
    Gone,
    /// This system does not tell.
    Unseen,
}

impl Writer {
    /// Looks at the process that is named in the folder's lock file. The lock itself is not tried: a trial would hold it for
    /// a moment, and a run that starts in that moment would be refused.
    pub fn of(dir: &Path) -> Self {
        let path = dir.join("lock");
        let is_file = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file() && metadata.len() < 32);
        let process = is_file.then(|| fs::read_to_string(&path).ok()).flatten();
        let Some(process) = process.and_then(|text| text.trim().parse::<u32>().ok()) else {
            return Self::Gone;
        };
        if !cfg!(target_os = "linux") {
            return Self::Unseen;
        }
        let proc = Path::new("/proc").join(process.to_string());
        if !proc.exists() {
            return Self::Gone;
        }
        let (Ok(files), Ok(lock)) = (fs::read_dir(proc.join("fd")), path.canonicalize()) else {
            // A process of somebody else, whose files are not shown
            return Self::Here;
        };
        let open = files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|to| to == lock));
        if open { Self::Here } else { Self::Gone }
    }
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Running,
    /// Its process lives, but nothing came for long.
    Quiet,
    /// It ended before its last step.
    Stopped,
    Finished,
}

impl State {
    pub const ALL: [Self; 4] = [Self::Running, Self::Quiet, Self::Stopped, Self::Finished];

    /// Of an unfinished run that was last written `age` ago.
    pub fn unfinished(writer: Writer, age: Duration, seconds_per_step: Option<f64>) -> Self {
        let steps = |count: f64| {
            let seconds = (count * seconds_per_step.unwrap_or(0.0)).min(1e9);
            Duration::try_from_secs_f64(seconds).unwrap_or_default()
        };
        match writer {
            Writer::Here if age > QUIET.max(steps(10.0)) => Self::Quiet,
            Writer::Gone if age > GONE.max(steps(3.0)) => Self::Stopped,
            Writer::Unseen if age > UNSEEN.max(steps(10.0)) => Self::Stopped,
            _ => Self::Running,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Quiet => "quiet",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
        }
    }
}

/// Seconds since 1970.
pub(super) fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_and_totals_come_from_lines() {
        let mut clock = Clock::default();
        for step in 1..=5 {
            let line = format!("{{\"step\":{step},\"seconds\":2.0,\"steps_in_all\":9.0}}");
            assert_eq!(clock.take(line.as_bytes()), Some((step, 2.0)));
        }
        assert_eq!((clock.last_step, clock.total), (5, Some(9)));
        assert!((clock.time_for(4).unwrap().as_secs_f64() - 8.0).abs() < 1e-9);
        assert_eq!(clock.take(b"nonsense"), None);
        assert_eq!(clock.take(b"{\"step\":6,\"seconds\":-1e300}"), Some((6, -1e300)));
        assert_eq!(clock.bad_lines, 1);
        assert_eq!(Clock::default().time_for(3), None);
    }

    #[test]
    fn states_follow_from_the_writer_and_the_age() {
        use State::{Quiet, Running, Stopped};
        use Writer::{Gone, Here, Unseen};
        for (writer, age, per_step, expected) in [
            (Here, 119, None, Running),
            (Here, 121, None, Quiet),
            (Here, 599, Some(60.0), Running),
            (Here, 601, Some(60.0), Quiet),
            (Gone, 14, Some(0.1), Running),
            (Gone, 16, Some(0.1), Stopped),
            (Gone, 170, Some(60.0), Running),
            (Gone, 190, Some(60.0), Stopped),
            (Unseen, 100, None, Running),
            (Unseen, 130, None, Stopped),
            (Here, 1, Some(f64::MAX), Running),
        ] {
            let state = State::unfinished(writer, Duration::from_secs(age), per_step);
            assert_eq!(state, expected, "{writer:?} {age} {per_step:?}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_writer_is_seen_by_its_open_lock() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Writer::of(folder.path()), Writer::Gone);
        let lock = hone_run::Lock::acquire(folder.path()).unwrap();
        assert_eq!(Writer::of(folder.path()), Writer::Here);
        drop(lock);
        assert_eq!(Writer::of(folder.path()), Writer::Gone);
    }
}
