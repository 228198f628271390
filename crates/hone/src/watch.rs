//! Watching a run from the terminal: a bar with speed and time left, or a line every few seconds.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hone_run::{Eta, Event, Observer, format_duration};
use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// How often a line is written where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);

/// Shows what a run tells.
pub struct Watch(Mutex<State>);

struct State {
    terminal: bool,
    bar: Option<ProgressBar>,
    stage: String,
    eta: Eta,
    started: Instant,
    step_started: Instant,
    tokens: u64,
    last: Instant,
}

impl Watch {
    /// Watches nothing yet.
    pub fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(State {
            terminal: io::stderr().is_terminal(),
            bar: None,
            stage: String::new(),
            eta: Eta::new(0, 0),
            started: now,
            step_started: now,
            tokens: 0,
            last: now,
        }))
    }
}

impl Observer for Watch {
    fn event(&self, event: &Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).event(event);
    }
}

impl State {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Started { stage, step, total } => self.start(stage, *step, *total),
            Event::Step {
                step,
                total,
                tokens,
                headline,
            } => self.step((*step, *total), *tokens, headline),
            Event::Message(text) => self.say(text),
            Event::Finished { step, stopped } => self.finish(*step, *stopped),
            _ => {}
        }
    }

    fn start(&mut self, stage: &str, step: u64, total: u64) {
        self.close();
        let now = Instant::now();
        (self.stage, self.eta, self.tokens) = (stage.to_string(), Eta::new(step, total), 0);
        (self.started, self.step_started) = (now, now);
        // The first step writes a line at once.
        self.last = now.checked_sub(EVERY).unwrap_or(now);
        if self.terminal {
            let template = "{prefix} {wide_bar} {pos}/{len} {msg}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            self.bar = Some(
                ProgressBar::new(total)
                    .with_style(style)
                    .with_prefix(self.stage.clone())
                    .with_position(step),
            );
        }
    }

    fn step(&mut self, (step, total): (u64, u64), tokens: u64, headline: &[(String, f64)]) {
        self.tokens += tokens;
        self.eta.observe(step, self.step_started.elapsed());
        self.step_started = Instant::now();
        let rate = self.tokens as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        let figures = headline.iter().map(|(name, value)| format!("{name} {value:.3}"));
        let speed = (self.tokens > 0).then(|| format!("{rate:.0} tokens/s"));
        let left = self.eta.remaining();
        let left = left.map(|left| format!("{} left", format_duration(left)));
        let text = figures.chain(speed).chain(left).collect::<Vec<_>>().join(", ");
        match &self.bar {
            Some(bar) => {
                bar.set_position(step);
                bar.set_message(text);
            }
            None if self.last.elapsed() >= EVERY || step == total => {
                self.last = Instant::now();
                output::note(&format!("{}: {step} of {total}, {text}", self.stage));
            }
            None => {}
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }

    fn finish(&mut self, step: u64, stopped: bool) {
        self.close();
        let took = format_duration(self.started.elapsed());
        let how = if stopped { "stopped after step" } else { "done:" };
        let unit = if stopped { "" } else { " steps" };
        output::note(&format!("{} {how} {step}{unit}, {took}", self.stage));
    }

    fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
