//! What a stage will need of memory and time, before it starts.
//!
//! A stage rehearses itself: the code of its steps runs on [an engine that counts](hone_compute::Engine::rehearsal) and
//! holds no numbers. Only three figures are not counted so: what the process holds once its data are read, which is
//! measured; the buffer through which a tensor is written to a file; and the time of a step, for which the machine's
//! speeds are measured.

mod machine;
mod notes;
mod time;

use std::fmt;

use serde::Serialize;

use crate::error::{Result, TrainError};
use crate::job::Job;
use crate::sections::TrainSection;

pub use machine::MachineMemory;
pub(crate) use notes::{Notes, Planned, evaluations, telling_steps, telling_updates};

/// What a stage will need.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The stage, as its command is called.
    pub stage: &'static str,
    /// The instruction set.
    pub isa: &'static str,
    /// `bf16` or `f32`.
    pub precision: &'static str,
    /// Threads.
    pub threads: usize,
    /// The models in memory.
    pub models: Vec<ModelSize>,
    /// Optimiser steps; of stages that practise, updates or rounds.
    pub steps: u64,
    /// Tokens that the steps read, prompts and responses; sampled responses as long as they may be.
    pub tokens: u64,
    /// What is read, and how often.
    pub sources: Vec<SourcePlan>,
    /// What is taken for granted where a run depends on what a model does; without such, empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assumed: Vec<String>,
    /// Where memory goes, in bytes; the sum is the peak.
    pub memory: Vec<Part>,
    /// The most memory that the process will hold, in bytes.
    pub peak_bytes: u64,
    /// What there is; none where the system does not say.
    pub machine: Option<MachineMemory>,
    /// Whether it fits; none where the system does not say what there is.
    pub fits: Option<bool>,
    /// How long it takes; none if the machine's speed was not measured.
    pub time: Option<TimePlan>,
    /// Keys to change if it does not fit, with what they are.
    #[serde(skip)]
    pub(crate) hints: Vec<String>,
}

/// A model's numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelSize {
    /// What it is.
    pub name: &'static str,
    /// All of them.
    pub parameters: usize,
    /// Those that are trained.
    pub trained: usize,
}

/// A source of the data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourcePlan {
    /// Its file, or the environment.
    pub name: String,
    /// How much it has: tokens of texts; conversations, rankings or prompts. Of an environment the episodes that are played.
    pub items: u64,
    /// What they are.
    pub unit: &'static str,
    /// How often the run passes over it.
    pub epochs: f64,
}

/// A part of the memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is.
    pub what: String,
    /// Its bytes.
    pub bytes: u64,
}

/// How long a run takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TimePlan {
    /// All of it, checkpoints and reading of data aside.
    pub seconds: f64,
    /// A step; of PPO, an update.
    pub seconds_a_step: f64,
    /// Floating-point operations of all steps.
    pub operations: f64,
}

impl Plan {
    /// The biggest parts in words, the biggest first.
    fn biggest(&self) -> String {
        let mut parts: Vec<&Part> = self.memory.iter().collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
        let named = parts.iter().take(3).map(|p| format!("{} {}", p.what, Bytes(p.bytes)));
        named.collect::<Vec<_>>().join("; ")
    }

    /// An error if this machine lacks the memory, unless `train.check_memory` is off; else a word to whoever watches.
    pub(crate) fn check(&self, job: &Job, train: &TrainSection) -> Result<()> {
        let needed = Bytes(self.peak_bytes);
        let Some(machine) = self.machine else { return Ok(()) };
        let available = Bytes(machine.available);
        if self.fits == Some(false) && train.check_memory {
            return Err(TrainError::Memory {
                stage: self.stage,
                needed: needed.to_string(),
                available: available.to_string(),
                total: Bytes(machine.total).to_string(),
                bound: if machine.limited {
                    "this control group allows"
                } else {
                    "this machine has"
                },
                biggest: self.biggest(),
                hints: self.hints.join(", "),
            });
        }
        job.message(format!("memory: about {needed} at most, {available} available"));
        Ok(())
    }
}

/// Bytes for people.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..10_000_000 => write!(f, "{:.1} MB", bytes / 1e6),
            10_000_000..1_000_000_000 => write!(f, "{:.0} MB", bytes / 1e6),
            1_000_000_000..100_000_000_000 => write!(f, "{:.2} GB", bytes / 1e9),
            _ => write!(f, "{:.0} GB", bytes / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what it is told.
    #[derive(Default)]
    struct Listening(std::sync::Mutex<Vec<hone_run::Event>>);

    impl hone_run::Observer for Listening {
        fn event(&self, event: &hone_run::Event) {
            self.0.lock().unwrap().push(event.clone());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_unless_told_otherwise() {
        let heard = std::sync::Arc::new(Listening::default());
        let job = Job {
            dir: std::path::PathBuf::new(),
            base: std::path::PathBuf::new(),
            observer: heard.clone(),
            shutdown: hone_run::Shutdown::default(),
            allow_isa_change: false,
            threads: None,
        };
        let part = |what: &str, bytes| Part {
            what: what.into(),
            bytes,
        };
        let mut plan = Plan {
            stage: "sft",
            isa: "portable",
            precision: "f32",
            threads: 1,
            models: Vec::new(),
            steps: 1,
            tokens: 1,
            sources: Vec::new(),
            assumed: Vec::new(),
            memory: vec![
                part("a", 1_000_000),
                part("b", 7_000_000),
                part("c", 2_000_000),
                part("d", 3_000_000),
            ],
            peak_bytes: 13_000_000,
            machine: Some(MachineMemory {
                total: 20_000_000,
                available: 12_000_000,
                limited: true,
            }),
            fits: Some(false),
            time: None,
            hints: vec!["do less".into()],
        };
        let mut train = TrainSection::default();
        let error = plan.check(&job, &train).unwrap_err();
        assert_eq!(error.exit_status(), hone_run::ExitStatus::Usage);
        assert_eq!(
            error.to_string(),
            "memory: sft needs about 13 MB at most, and 12 MB of the 20 MB that this control group allows are available. \
             The biggest parts: b 7.0 MB; d 3.0 MB; c 2.0 MB. To make it fit: do less. hone plan shows all parts; \
             train.check_memory = false starts all the same"
        );
        assert!(heard.0.lock().unwrap().is_empty());
        train.check_memory = false;
        plan.check(&job, &train).unwrap();
        plan.fits = Some(true);
        train.check_memory = true;
        plan.check(&job, &train).unwrap();
        assert_eq!(heard.0.lock().unwrap().len(), 2, "a word on memory each time");
        // Where nobody knows what there is, nothing is refused
        (plan.machine, plan.fits) = (None, None);
        plan.check(&job, &train).unwrap();
    }

    #[test]
    fn bytes_are_written_for_people() {
        let cases = [
            (0, "0.0 MB"),
            (1_250_000, "1.2 MB"),
            (812_345_678, "812 MB"),
            (1_234_567_890, "1.23 GB"),
            (123_456_789_012, "123 GB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Bytes(bytes).to_string(), expected);
        }
    }
}
