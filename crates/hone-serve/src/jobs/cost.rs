//! What a job would take: `hone plan` is asked about rows and a configuration that are thrown away again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::jobs::child::{End, Process, Start};
use crate::jobs::prepare::{CONFIG, PrepareError};
use crate::jobs::runner::{LOG, PLAN, last_error};
use crate::jobs::{Jobs, NewJob};

/// How often the process is looked at, and how long it may take.
const GLANCE: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(120);
/// The code of a stage that cannot use what it was given.
const UNUSABLE: i32 = 2;

/// Why it cannot be said what a job would take.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CostError {
    /// What it is to be made from.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The stage does not take it.
    #[error("{0}")]
    Unusable(String),
    /// The process.
    #[error("what the job would take is not known: {0}")]
    Process(String),
}

/// A folder that is gone once this is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Jobs {
    /// What a job would take of memory and time. The machine's speed is measured for it, so a busy machine gives more time.
    pub fn cost(&self, new: &NewJob) -> Result<Value, CostError> {
        let scratch = Scratch(self.store().incoming());
        fs::create_dir_all(&scratch.0).map_err(PrepareError::Write)?;
        self.prepare(new, &scratch.0)?;
        let arguments = self.arguments(&["plan", "--stage", new.method.stage(), CONFIG, "--json"]);
        let start = Start {
            program: &self.options.program,
            arguments: &arguments,
            folder: &scratch.0,
            output: Some(PLAN),
            log: LOG,
        };
        let process = Process::start(&start);
        let process = process.map_err(|error| {
            let program = self.options.program.display();
            CostError::Process(format!("{program} cannot be started: {error}"))
        })?;
        let end = self.wait_for(process)?;
        let said = |otherwise: &str| last_error(&scratch.0.join(LOG)).unwrap_or_else(|| otherwise.to_owned());
        match end {
            End::Code(0) => Ok(costs(&read(&scratch.0.join(PLAN)))),
            End::Code(UNUSABLE) => Err(CostError::Unusable(said("the configuration cannot be used"))),
            _ => Err(CostError::Process(said("its process ended early"))),
        }
    }

    fn wait_for(&self, mut process: Process) -> Result<End, CostError> {
        let begun = Instant::now();
        loop {
            if let Some(end) = process.ended() {
                return Ok(end);
            }
            if self.is_stopping() || begun.elapsed() > LONGEST {
                process.kill();
                return Err(CostError::Process("it took too long".to_owned()));
            }
            std::thread::sleep(GLANCE);
        }
    }
}

/// What `hone plan` wrote; nothing where it cannot be read.
pub(super) fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// What of a plan concerns whoever asks for a job.
pub(super) fn costs(plan: &Value) -> Value {
    json!({
        "steps": plan["steps"],
        "tokens": plan["tokens"],
        "peak_bytes": plan["peak_bytes"],
        "available_bytes": plan["machine"]["available"],
        "fits": plan["fits"],
        "seconds": plan["time"]["seconds"],
    })
}
