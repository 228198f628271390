//! What a job would take: `hone plan` is asked about rows and a configuration that are thrown away again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::jobs::child::{End, Process, Start};
use crate::jobs::prepare::{CONFIG, PrepareError};
use crate::jobs::record::Method;
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
    /// The server ends.
    #[error("the server is stopping")]
    Stopping,
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
    /// It is given up once nobody holds `wanted` any more.
    pub fn cost(&self, new: &NewJob, wanted: &Weak<()>) -> Result<Value, CostError> {
        let scratch = Scratch(self.store().incoming());
        fs::create_dir_all(&scratch.0).map_err(PrepareError::Write)?;
        self.prepare(new, &scratch.0)?;
        let process = self.plan(new.method, &scratch.0);
        let process = process.map_err(|error| {
            let program = self.options.program.display();
            CostError::Process(format!("{program} cannot be started: {error}"))
        })?;
        let end = self.wait_for(process, wanted)?;
        let said = |otherwise: &str| last_error(&scratch.0.join(LOG)).unwrap_or_else(|| otherwise.to_owned());
        match end {
            End::Code(0) => Ok(costs(&read(&scratch.0.join(PLAN)))),
            End::Code(UNUSABLE) => Err(CostError::Unusable(said("the configuration cannot be used"))),
            _ => Err(CostError::Process(said("its process ended early"))),
        }
    }

    /// Starts `hone plan` on what a job's stage reads; what it finds goes into a file of the folder.
    pub(super) fn plan(&self, method: Method, folder: &Path) -> io::Result<Process> {
        let arguments = self.arguments(&["plan", "--stage", method.stage(), CONFIG, "--json"]);
        Process::start(&Start {
            program: &self.options.program,
            arguments: &arguments,
            folder,
            output: Some(PLAN),
            log: LOG,
        })
    }

    fn wait_for(&self, mut process: Process, wanted: &Weak<()>) -> Result<End, CostError> {
        let begun = Instant::now();
        loop {
            if let Some(end) = process.ended() {
                return Ok(end);
            }
            let given_up = if wanted.strong_count() == 0 {
                CostError::Process("nobody waits for it any more".into())
            } else if self.is_stopping() {
                CostError::Stopping
            } else if begun.elapsed() > LONGEST {
                CostError::Process("it took too long".into())
            } else {
                std::thread::sleep(GLANCE);
                continue;
            };
            process.kill();
            return Err(given_up);
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
