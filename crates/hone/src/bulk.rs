//! Results row by row: on stdout, or in a file that the same command goes on with.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::{Error, Result};
use hone_compute::{Engine, Precision};
use hone_data::{Prompt, Source, load_prompts};
use hone_run::{BulkFile, BulkPlan, BulkSettings, Inputs};
use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::model::ModelArguments;
use crate::output::{self, Output};

/// What the lines of a file are a function of.
pub struct Plan {
    /// Settings by name.
    pub settings: BulkSettings,
    inputs: Inputs,
    rows: u64,
    group: u64,
}

impl Plan {
    /// For a command that makes `group` lines of each of `rows` rows.
    pub fn new(command: &str, rows: u64, group: u64) -> Self {
        Self {
            settings: BulkSettings::from([("command".to_string(), command.to_string())]),
            inputs: Inputs::new(),
            rows,
            group,
        }
    }

    /// A setting that lines depend on.
    pub fn set(&mut self, name: &str, value: impl Display) {
        self.settings.insert(name.to_string(), value.to_string());
    }

    /// A file or folder whose contents lines depend on.
    ///
    /// # Errors
    /// Stdin, which cannot be read again.
    pub fn file(&mut self, name: &str, path: &Path) -> Result<()> {
        if path == Path::new("-") {
            let text =
                format!("{name} -: stdin cannot be read again, and with --out the same command must be able to go on");
            return Err(Failure::usage(text).hint("write it to a file first").into());
        }
        self.set(name, "given");
        self.inputs.insert(name.to_string(), path.to_path_buf());
        Ok(())
    }

    /// The model, and how it is computed.
    ///
    /// # Errors
    /// A directory that is not there.
    pub fn model(&mut self, model: &ModelArguments, engine: &Engine) -> Result<()> {
        let place = model.resolve()?;
        self.file("--model", &place.base)?;
        if let Some(adapter) = &place.adapter {
            self.file("--adapter", adapter)?;
        }
        let precision = match engine.precision() {
            Precision::Bf16 => "bf16",
            Precision::F32 => "f32",
        };
        self.set("--precision", precision);
        self.set("instruction set", engine.isa().name());
        Ok(())
    }

    /// The plan as a file takes it.
    pub fn of_file(&self) -> BulkPlan<'_> {
        BulkPlan {
            settings: &self.settings,
            inputs: &self.inputs,
            group: self.group,
            rows: self.rows,
        }
    }
}

/// Where results go.
pub enum Target {
    /// To whoever reads stdout.
    Stdout(Output),
    /// Into a file, from its row `rows` on.
    File {
        /// The file.
        file: Box<BulkFile>,
        /// Rows of which the lines are there.
        rows: u64,
        /// Lines a row.
        group: u64,
        /// Lines that were appended.
        appended: u64,
    },
}

/// Opens a file of results, or goes on with it.
///
/// # Errors
/// One that was begun with other settings, or that something else stands in the place of.
pub fn open(out: &Path, plan: &Plan) -> Result<Target> {
    let file = BulkFile::open(out, plan.of_file())?;
    let rows = file.rows();
    if rows > 0 && !file.is_finished() {
        let all = plan.rows;
        output::note(&format!("{}: going on after {rows} of {all} rows", out.display()));
    }
    Ok(Target::File {
        file: Box::new(file),
        rows,
        group: plan.group,
        appended: 0,
    })
}

impl Target {
    /// Rows whose results are there already.
    pub fn rows(&self) -> u64 {
        match self {
            Self::Stdout(_) => 0,
            Self::File { rows, .. } => *rows,
        }
    }

    /// Whether all results are there already.
    pub fn is_finished(&self) -> bool {
        matches!(self, Self::File { file, .. } if file.is_finished())
    }

    /// One JSON object on a line.
    pub fn json(&mut self, value: &impl Serialize) -> Result<()> {
        match self {
            Self::Stdout(output) => Ok(output.json(value)?),
            Self::File { file, appended, .. } => {
                file.append(&serde_json::to_string(value)?)?;
                *appended += 1;
                Ok(())
            }
        }
    }

    /// A line for a person; a file has none.
    pub fn line(&mut self, text: &str) -> Result<()> {
        match self {
            Self::Stdout(output) => Ok(output.line(text)?),
            Self::File { .. } => Ok(()),
        }
    }

    /// Each line of the file so far, as JSON.
    ///
    /// # Errors
    /// A file that was changed meanwhile.
    pub fn for_each(&self, each: &mut dyn FnMut(Value)) -> Result<()> {
        let Self::File { file, .. } = self else { return Ok(()) };
        let path = file.path();
        hone_run::for_each_line(path, &mut |number, line| {
            let read = serde_json::from_str(line);
            each(read.map_err(|error| Failure::failed(format!("{}: line {number}: {error}", path.display())))?);
            Ok::<(), Error>(())
        })
    }

    /// Makes what is there durable, and gives the error with which a stopped command ends.
    pub fn stopped(&mut self, total: u64, what: &str) -> Result<Error> {
        let Self::File {
            file,
            rows,
            group,
            appended,
        } = self
        else {
            return Ok(Failure::failed("interrupted").into());
        };
        file.sync()?;
        let done = *rows + *appended / *group;
        let text = format!("stopped after {done} of {total} {what}; the same command goes on from there");
        Ok(Failure::resumable(text).into())
    }

    /// A sentence for a person about all results, whether they went to stdout or into a file; none where JSON is wanted.
    pub fn say(&mut self, text: &str, json: bool) -> Result<()> {
        match self {
            _ if json => Ok(()),
            Self::Stdout(output) => Ok(output.line(text)?),
            Self::File { .. } => {
                let mut output = Output::new();
                output.line(text)?;
                Ok(output.finish()?)
            }
        }
    }

    /// Ends it, and says of a file that it is finished. `summary` is for JSON: a last line of stdout, or a key beside the file's.
    pub fn told(self, json: bool, before: bool, summary: Option<Value>) -> Result<()> {
        let summary = summary.filter(|_| json);
        match self {
            Self::Stdout(mut output) => {
                if let Some(summary) = summary {
                    output.json(&json!({ "summary": summary }))?;
                }
                Ok(output.finish()?)
            }
            Self::File {
                mut file,
                rows,
                group,
                appended,
            } => {
                file.sync()?;
                let (path, lines) = (file.path(), rows * group + appended);
                let mut output = Output::new();
                if json {
                    let mut told = json!({ "out": path, "lines": lines, "finished_before": before });
                    if let Some(summary) = summary {
                        told["summary"] = summary;
                    }
                    output.json(&told)?;
                } else {
                    let when = if before { "was finished before" } else { "is finished" };
                    output.line(&format!("{} {when}: {lines} lines", path.display()))?;
                }
                Ok(output.finish()?)
            }
        }
    }
}

/// The prompts of a file of any format that holds some; what a user should know of them goes to stderr.
///
/// # Errors
/// A file that cannot be used.
pub fn read_prompts(input: &Path, columns: &[(String, String)], limit: Option<u64>) -> Result<Vec<Prompt>> {
    let mut source = Source::new(input);
    source.max_rows = limit;
    source.columns = columns.iter().cloned().collect();
    let loaded = load_prompts(&source)?;
    tell(input, &loaded.report);
    Ok(loaded.items)
}

/// What reading a file left to say.
pub fn tell(path: &Path, report: &hone_data::LoadReport) {
    let path = path.display();
    for sentence in &report.notes {
        output::note(&format!("{path}: {sentence}"));
    }
    if report.bad > 0 {
        let first = report.samples_of_bad.first();
        let first = first.map_or_else(String::new, |bad| format!("; line {}: {}", bad.line, bad.reason));
        output::note(&format!(
            "{path}: {} of {} rows could not be used{first}",
            report.bad, report.rows
        ));
    }
}

/// Where a model's directory is, for [`hone_pipeline`].
///
/// # Errors
/// A directory that is not there, and no hub id.
pub fn find_model(name: &str) -> Result<PathBuf, hone_pipeline::PipelineError> {
    crate::model::resolve_directory(name).map_err(|error| hone_pipeline::PipelineError::Setting {
        key: "model".into(),
        reason: error.to_string(),
    })
}
