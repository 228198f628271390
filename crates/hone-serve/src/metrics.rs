//! Counters in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What the server did so far, and what it is doing.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Answered requests by route and status.
    answered: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// Tokens of prompts that were asked for.
    pub prompt_tokens: AtomicU64,
    /// Tokens that were sampled.
    pub sampled_tokens: AtomicU64,
    /// Steps of the engine.
    pub steps: AtomicU64,
    /// Sequences whose client left before their end.
    pub cancelled: AtomicU64,
    /// Sequences that are decoded now.
    pub running: AtomicU64,
    /// Sequences that wait for a place.
    pub waiting: AtomicU64,
    /// Texts that wait to be read.
    pub unread: AtomicU64,
    /// Bytes of the caches of running sequences.
    pub cache_bytes: AtomicU64,
}

impl Metrics {
    /// Counts an answer.
    pub fn answered(&self, route: &'static str, status: u16) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        *answered.entry((route, status)).or_default() += 1;
    }

    /// Answered requests of all routes.
    pub fn requests(&self) -> u64 {
        self.answered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .sum()
    }

    /// The page.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let numbers: [(&str, &str, &str, &AtomicU64); 8] = [
            (
                "hone_prompt_tokens_total",
                "counter",
                "Tokens of prompts.",
                &self.prompt_tokens,
            ),
            (
                "hone_sampled_tokens_total",
                "counter",
                "Tokens sampled.",
                &self.sampled_tokens,
            ),
            (
                "hone_engine_steps_total",
                "counter",
                "Steps of the engine.",
                &self.steps,
            ),
            (
                "hone_sequences_cancelled_total",
                "counter",
                "Sequences whose client left.",
                &self.cancelled,
            ),
            (
                "hone_sequences_running",
                "gauge",
                "Sequences being decoded.",
                &self.running,
            ),
            (
                "hone_sequences_waiting",
                "gauge",
                "Sequences that wait for a place.",
                &self.waiting,
            ),
            (
                "hone_texts_waiting",
                "gauge",
                "Texts that wait to be read.",
                &self.unread,
            ),
            (
                "hone_cache_bytes",
                "gauge",
                "Bytes of the caches of running sequences.",
                &self.cache_bytes,
            ),
        ];
        for (name, kind, help, number) in numbers {
            let number = number.load(Ordering::Relaxed);
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {number}\n");
        }
        let name = "hone_requests_total";
        let _ = write!(out, "# HELP {name} Answered requests.\n# TYPE {name} counter\n");
        for ((route, status), count) in self.answered.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(out, "{name}{{route=\"{route}\",status=\"{status}\"}} {count}");
        }
        out
    }
}
