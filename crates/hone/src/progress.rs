//! How far the work is, on stderr: a bar on a terminal, else a line every few seconds.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

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
}

impl Progress {
    /// `total` units of `what`.
    pub fn new(what: &str, total: u64) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let template = "{prefix} {wide_bar} {pos}/{len} {msg} {eta}";
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total)
                .with_style(style)
                .with_prefix(what.to_string())
        });
        let now = Instant::now();
        Self {
            what: what.into(),
            bar,
            start: now,
            last: now,
            total,
        }
    }

    /// `done` units, `tokens` so far.
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
                output::note(&format!("{}: {done} of {}{speed}", self.what, self.total));
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
