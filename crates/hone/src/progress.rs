//! How far the work is, on stderr: a bar on a terminal, else a line every few seconds.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use hone_run::format_duration;
use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// How often a line is written where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);

/// Counts units of work, and tokens where there are any.
pub struct Progress {
    what: String,
    bar: Option<ProgressBar>,
    start: Instant,
    last: Instant,
    total: u64,
    /// Units that were done before.
    begun: u64,
}

impl Progress {
    /// `total` units of `what`.
    pub fn new(what: &str, total: u64) -> Self {
        Self::from(what, total, 0)
    }

    /// `total` units of `what`, of which `begun` were done before.
    pub fn from(what: &str, total: u64, begun: u64) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let template = "{prefix} {wide_bar} {pos}/{len} {msg} {eta}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(total).with_style(style).with_prefix(what.to_string());
            bar.with_position(begun)
        });
        let now = Instant::now();
        Self {
            what: what.into(),
            bar,
            start: now,
            last: now,
            total,
            begun,
        }
    }

    /// The time left, at the pace so far.
    fn left(&self, done: u64) -> Option<Duration> {
        let own = done.checked_sub(self.begun).filter(|own| *own > 0)?;
        let seconds = self.start.elapsed().as_secs_f64() * self.total.saturating_sub(done) as f64 / own as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// `done` units, with those done before; `tokens` of this run so far.
    pub fn set(&mut self, done: u64, tokens: u64) {
        let rate = tokens as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                if tokens > 0 {
                    bar.set_message(format!("{rate:.0} tokens/s"));
                }
            }
            None if self.last.elapsed() >= EVERY => {
                self.last = Instant::now();
                let speed = if tokens > 0 {
                    format!(", {rate:.0} tokens/s")
                } else {
                    String::new()
                };
                let left = self.left(done);
                let left = left.map_or_else(String::new, |left| format!(", {} left", format_duration(left)));
                output::note(&format!("{}: {done} of {}{speed}{left}", self.what, self.total));
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
