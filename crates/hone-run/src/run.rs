//! A run's folder: opened by one process at a time, resumed from its last good checkpoint.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::board::EventFile;
use crate::checkpoint::{self, Checkpoint, CheckpointWriter};
use crate::config::{self, Configuration, Resolved};
use crate::durable::{self, temporary_of};
use crate::error::{Damage, Error, Result};
use crate::inputs::{self, Inputs};
use crate::jsonl::{JsonLines, Sample, metric_line};
use crate::lock::{LOCK_FILE, Lock};
use crate::manifest::{self, Manifest};
use crate::progress::{Event, Observer, Silent};
use crate::publish;

const CONFIG_FILE: &str = "run.toml";
const ENVIRONMENT_FILE: &str = "environment.json";
const FINISHED_FILE: &str = "finished.json";
const METRICS_FILE: &str = "metrics.jsonl";
const SAMPLES_FILE: &str = "samples.jsonl";
const TIMINGS_FILE: &str = "timings.jsonl";
const CHECKPOINTS: &str = "checkpoints";
const MODEL: &str = "model";
/// Fewer would leave nothing when the newest is damaged.
const LEAST_KEPT: usize = 2;

/// What made a run: `isa` (the instruction set, on which the last bits depend) and versions, by name.
pub type Environment = BTreeMap<String, String>;

/// How to open a run.
#[derive(Clone)]
pub struct OpenOptions {
    /// Recorded in every checkpoint. A checkpoint of another `isa` is refused.
    pub environment: Environment,
    /// Go on under another instruction set all the same (`--allow-isa-change`).
    pub allow_isa_change: bool,
    /// Checkpoints kept; at least 2.
    pub keep: usize,
    /// Dotted keys (or the tables above them) that may differ on resume because no result depends on them.
    pub may_change: Vec<String>,
    /// What the run is made from: it goes on only with the same contents.
    pub inputs: Inputs,
    /// Digests of inputs whose bytes say nothing of what they hold, such as a database with a log beside it, by their names.
    pub contents: BTreeMap<String, String>,
    /// A finished run without its `model/` is opened at its last checkpoint, so that the result can be made again.
    pub expects_model: bool,
    /// Told of damaged checkpoints, saves and other news.
    pub observer: Arc<dyn Observer>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            environment: Environment::new(),
            allow_isa_change: false,
            keep: LEAST_KEPT,
            may_change: Vec::new(),
            inputs: Inputs::new(),
            contents: BTreeMap::new(),
            expects_model: false,
            observer: Arc::new(Silent),
        }
    }
}

/// What was found in a run's folder.
pub enum Opened {
    /// Nothing, or a start that never saved: begin at step 0.
    Fresh(Run),
    /// A checkpoint: load it and go on from its step.
    Resumed {
        /// The run.
        run: Run,
        /// Its last good checkpoint, verified.
        checkpoint: Box<Checkpoint>,
    },
    /// The run was finished before.
    Finished {
        /// Its folder.
        dir: PathBuf,
        /// What [`Run::finish`] was given.
        summary: Value,
    },
}

/// A run that this process alone writes.
pub struct Run {
    dir: PathBuf,
    config_digest: String,
    /// Digests of what it is made from.
    inputs: inputs::Digests,
    options: OpenOptions,
    metrics: JsonLines,
    samples: JsonLines,
    timings: JsonLines,
    board: EventFile,
    /// The newest checkpoint.
    durable: Option<Checkpoint>,
    _lock: Lock,
}

impl Run {
    /// Opens or creates a run's folder for this configuration.
    ///
    /// The growing files are cut back to where the checkpoint found left them (to nothing without one), leftovers of
    /// interrupted saves are removed and damaged checkpoints set aside.
    ///
    /// # Errors
    /// When another process holds the run, the configuration or the instruction set changed, the folder holds
    /// something else, or the system refuses.
    pub fn open<T: Configuration>(dir: &Path, config: &Resolved<T>, options: OpenOptions) -> Result<Opened> {
        refuse_foreign_folder(dir)?;
        durable::create_dir(dir)?;
        let lock = Lock::acquire(dir)?;
        remove_leftovers(dir)?;
        let digests = reconcile_config(dir, config, &options.may_change)?;
        let mut inputs = inputs::digests(dir, &options.inputs)?;
        inputs.extend(options.contents.clone());
        let finished = dir.join(FINISHED_FILE);
        if finished.exists() {
            let (summary, made_from) = read_summary(&finished)?;
            refuse_changed_inputs(dir, &made_from, &inputs)?;
            if result_stands(dir, &options)? {
                return Ok(Opened::Finished {
                    dir: dir.to_path_buf(),
                    summary,
                });
            }
        }
        let checkpoints = dir.join(CHECKPOINTS);
        durable::create_dir(&checkpoints)?;
        let checkpoint = checkpoint::discover(&checkpoints, options.observer.as_ref())?;
        if let Some(checkpoint) = &checkpoint {
            accept(dir, checkpoint, &digests, &options)?;
            refuse_changed_inputs(dir, &checkpoint.manifest().inputs, &inputs)?;
        }
        let environment = serde_json::to_string_pretty(&options.environment).map_err(Error::caller)? + "\n";
        durable::write_atomic(&dir.join(ENVIRONMENT_FILE), environment.as_bytes())?;
        let mut run = Self {
            metrics: JsonLines::open(&dir.join(METRICS_FILE))?,
            samples: JsonLines::open(&dir.join(SAMPLES_FILE))?,
            timings: JsonLines::open(&dir.join(TIMINGS_FILE))?,
            board: EventFile::create(dir)?,
            dir: dir.to_path_buf(),
            config_digest: digests.current,
            inputs,
            options,
            durable: checkpoint.clone(),
            _lock: lock,
        };
        durable::sync_dir(dir)?;
        run.cut_back(checkpoint.as_ref())?;
        // A crash may have come between a save and the deletion that follows it.
        run.delete_old_checkpoints()?;
        Ok(match checkpoint {
            Some(checkpoint) => Opened::Resumed {
                run,
                checkpoint: Box::new(checkpoint),
            },
            None => Opened::Fresh(run),
        })
    }

    /// The run's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Who is told of news.
    #[must_use]
    pub fn observer(&self) -> &dyn Observer {
        self.options.observer.as_ref()
    }

    /// Records a step's metrics in `metrics.jsonl` and for TensorBoard. Nothing that depends on the clock belongs here.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn record(&mut self, step: u64, metrics: &[(&str, f64)]) -> Result<()> {
        self.metrics.append(&metric_line(step, metrics))?;
        self.board.scalars(step, metrics)
    }

    /// Records what depends on the clock (seconds, tokens/s) in `timings.jsonl` and for TensorBoard.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn record_timings(&mut self, step: u64, timings: &[(&str, f64)]) -> Result<()> {
        self.timings.append(&metric_line(step, timings))?;
        self.board.scalars(step, timings)
    }

    /// Records an evaluation's samples in `samples.jsonl` and the first few for TensorBoard.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn record_samples(&mut self, samples: &[Sample]) -> Result<()> {
        const SHOWN: usize = 8;
        for sample in samples {
            self.samples
                .append(&serde_json::to_string(sample).map_err(Error::caller)?)?;
        }
        for (index, sample) in samples.iter().take(SHOWN).enumerate() {
            let score = sample
                .score
                .map(|score| format!("**score** {score}\n\n"))
                .unwrap_or_default();
            let text = format!(
                "{score}**prompt**\n\n{}\n\n**response**\n\n{}",
                sample.prompt, sample.response
            );
            self.board.text(sample.step, &format!("samples/{index}"), &text)?;
        }
        Ok(())
    }

    /// Saves a checkpoint: complete and durable on return, or absent. `write` writes the files; `state` goes into the
    /// manifest (data cursor, random key, counters) and comes back by [`Checkpoint::state`].
    ///
    /// A second save at the step of the newest checkpoint writes nothing: the same step of the same run has the same
    /// state. It takes the place of what an interruption saved there.
    ///
    /// # Errors
    /// [`Error::NoSpace`] with what the whole checkpoint needs when the disk is full; `write`'s own errors; the
    /// system's. The checkpoint before stays intact in each case.
    pub fn save_checkpoint(
        &mut self,
        step: u64,
        write: &mut dyn FnMut(&mut CheckpointWriter) -> Result<()>,
        state: Value,
    ) -> Result<Checkpoint> {
        self.save(step, Occasion::Due, write, state)
    }

    /// As [`Run::save_checkpoint`], at a step where no checkpoint is due, because the run was asked to stop. It goes when
    /// the next one that is due is saved, so that the run ends with the checkpoints of one that was never stopped.
    ///
    /// # Errors
    /// As [`Run::save_checkpoint`].
    pub fn save_interruption(
        &mut self,
        step: u64,
        write: &mut dyn FnMut(&mut CheckpointWriter) -> Result<()>,
        state: Value,
    ) -> Result<Checkpoint> {
        self.save(step, Occasion::Interruption, write, state)
    }

    fn save(
        &mut self,
        step: u64,
        occasion: Occasion,
        write: &mut dyn FnMut(&mut CheckpointWriter) -> Result<()>,
        state: Value,
    ) -> Result<Checkpoint> {
        // What an interruption saved goes when one is due, at the same step too
        let stands = |checkpoint: &&Checkpoint| {
            checkpoint.step() == step && (!checkpoint.manifest().interruption || occasion == Occasion::Interruption)
        };
        if let Some(checkpoint) = self.durable.as_ref().filter(stands) {
            return Ok(checkpoint.clone());
        }
        // What the manifest acknowledges must be durable before the manifest is.
        self.metrics.sync()?;
        self.samples.sync()?;
        let checkpoints = self.dir.join(CHECKPOINTS);
        let path = checkpoints.join(checkpoint::folder_name(step));
        let temporary = durable::temporary_sibling(&path);
        let manifest = match self.build_checkpoint(&temporary, (step, occasion), write, state) {
            Ok(manifest) => manifest,
            Err(error) => {
                // The error at hand says more than one of this clean-up would.
                let _ = durable::remove_dir(&temporary);
                return Err(error);
            }
        };
        if path.exists() {
            // What an interruption saved, or a folder that this process neither saved nor loaded.
            durable::remove_dir(&path)?;
        }
        durable::rename(&temporary, &path)?;
        durable::sync_dir(&checkpoints)?;
        let checkpoint = Checkpoint::sealed(path, manifest, step);
        self.durable = Some(checkpoint.clone());
        self.observer().event(&Event::Saved { step });
        self.delete_old_checkpoints()?;
        Ok(checkpoint)
    }

    /// Puts a result directory (`model` unless named otherwise) in place, complete or not at all; see
    /// [`crate::publish_dir`].
    ///
    /// # Errors
    /// As [`crate::publish_dir`].
    pub fn publish(&self, name: &str, write: &mut dyn FnMut(&Path) -> Result<()>) -> Result<PathBuf> {
        manifest::check_name(name)?;
        let path = self.dir.join(name);
        publish::publish_dir(&path, write)?;
        Ok(path)
    }

    /// Marks the run as finished, last of all: opening it again gives [`Opened::Finished`] with `summary`. The digests
    /// of its inputs stand beside it, under `inputs`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn finish(mut self, mut summary: Value) -> Result<PathBuf> {
        if let (Value::Object(fields), false) = (&mut summary, self.inputs.is_empty()) {
            let digests = serde_json::to_value(&self.inputs).map_err(Error::caller)?;
            fields.insert(inputs::KEY.to_owned(), digests);
        }
        self.metrics.sync()?;
        self.samples.sync()?;
        let text = serde_json::to_string_pretty(&summary).map_err(Error::caller)? + "\n";
        durable::write_atomic(&self.dir.join(FINISHED_FILE), text.as_bytes())?;
        Ok(self.dir)
    }

    /// Steps 1 to 3 of a save: everything but the rename.
    fn build_checkpoint(
        &self,
        temporary: &Path,
        (step, occasion): (u64, Occasion),
        write: &mut dyn FnMut(&mut CheckpointWriter) -> Result<()>,
        state: Value,
    ) -> Result<Manifest> {
        let before = self
            .durable
            .as_ref()
            .map_or(0, |checkpoint| checkpoint.manifest().total_bytes());
        let no_space = |needed: u64| Error::NoSpace {
            path: temporary.to_path_buf(),
            needed: needed.max(before),
        };
        durable::create_dir(temporary)?;
        let mut writer = CheckpointWriter::new(temporary.to_path_buf());
        let result = write(&mut writer);
        let (full, bytes, files) = writer.finish();
        match result {
            Ok(()) if full => return Err(no_space(bytes)),
            Err(error) if full || error.is_no_space() => return Err(no_space(bytes)),
            other => other?,
        }
        let mut manifest = Manifest::new(files);
        manifest.step = Some(step);
        manifest.interruption = occasion == Occasion::Interruption;
        manifest.config_digest = Some(self.config_digest.clone());
        manifest.environment = self.options.environment.clone();
        manifest.inputs = self.inputs.clone();
        manifest.growing.insert(METRICS_FILE.to_owned(), self.metrics.bytes());
        manifest.growing.insert(SAMPLES_FILE.to_owned(), self.samples.bytes());
        manifest.state = state;
        manifest::seal(temporary, manifest).map_err(|error| {
            if error.is_no_space() {
                no_space(publish::folder_bytes(temporary))
            } else {
                error
            }
        })
    }

    fn delete_old_checkpoints(&self) -> Result<()> {
        let checkpoints = self.dir.join(CHECKPOINTS);
        let keep = self.options.keep.max(LEAST_KEPT);
        let (mut due, mut interruptions) = (0, 0);
        for step in checkpoint::steps(&checkpoints)? {
            let path = checkpoints.join(checkpoint::folder_name(step));
            // What cannot be read counts as due: it is found out when it is needed.
            let kept = if Manifest::read(&path).is_ok_and(|manifest| manifest.interruption) {
                interruptions += 1;
                due == 0 && interruptions <= keep
            } else {
                due += 1;
                due <= keep
            };
            if !kept {
                durable::remove_dir(&path)?;
            }
        }
        Ok(())
    }

    fn cut_back(&mut self, checkpoint: Option<&Checkpoint>) -> Result<()> {
        let step = checkpoint.map_or(0, Checkpoint::step);
        for (name, lines) in [(METRICS_FILE, &mut self.metrics), (SAMPLES_FILE, &mut self.samples)] {
            let bytes = checkpoint
                .and_then(|checkpoint| checkpoint.manifest().growing.get(name))
                .copied()
                .unwrap_or(0);
            if !lines.truncate(bytes)? {
                self.options.observer.event(&Event::Message(format!(
                    "{}: {} bytes, but the checkpoint of step {step} was saved when it had {bytes}: lines before \
                     that step are lost",
                    self.dir.join(name).display(),
                    lines.bytes()
                )));
            }
        }
        if step > 0 { self.board.restart(step) } else { Ok(()) }
    }
}

/// Why a checkpoint is saved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Occasion {
    Due,
    Interruption,
}

/// Digests of the configuration that a checkpoint of this run may bear.
struct Digests {
    current: String,
    recorded: String,
}

/// Compares with the configuration the run was started with, or records it. Until something is saved there is nothing
/// that the configuration could contradict: the run begins with the new one.
fn reconcile_config<T: Configuration>(dir: &Path, config: &Resolved<T>, may_change: &[String]) -> Result<Digests> {
    let path = dir.join(CONFIG_FILE);
    let current = config::digest(&config::without(config.table(), may_change));
    if !path.exists() || nothing_saved(dir)? {
        durable::write_atomic(&path, config.text().as_bytes())?;
        return Ok(Digests {
            recorded: current.clone(),
            current,
        });
    }
    let raw = config::read_table(&path)?;
    let recorded = config::digest(&config::without(&raw, may_change));
    // A key that a newer program added has its default value in an older run.
    let before = config::load::<T>(&path, &[]).map_or_else(|_| raw.clone(), |resolved| resolved.table().clone());
    let keys = config::changed_keys(
        &config::without(&before, may_change),
        &config::without(config.table(), may_change),
    );
    if !keys.is_empty() {
        return Err(Error::ConfigChanged {
            dir: dir.to_path_buf(),
            keys,
        });
    }
    if recorded == current && raw != *config.table() {
        durable::write_atomic(&path, config.text().as_bytes())?;
    }
    Ok(Digests { current, recorded })
}

/// Whether the run has neither a checkpoint, good or bad, nor a result.
fn nothing_saved(dir: &Path) -> Result<bool> {
    let checkpoints = dir.join(CHECKPOINTS);
    Ok(!dir.join(FINISHED_FILE).exists() && checkpoint::none_saved(&checkpoints)?)
}

/// Refuses a checkpoint of another configuration or instruction set, and mentions other versions.
fn accept(dir: &Path, checkpoint: &Checkpoint, digests: &Digests, options: &OpenOptions) -> Result<()> {
    let manifest = checkpoint.manifest();
    let got = manifest.config_digest.clone().unwrap_or_default();
    if got != digests.current && got != digests.recorded {
        let path = checkpoint.path().to_path_buf();
        return Err(Error::ForeignCheckpoint {
            path,
            expected: digests.current.clone(),
            got,
        });
    }
    for (name, recorded) in &manifest.environment {
        let current = options.environment.get(name).map_or("none", String::as_str);
        if current == recorded {
            continue;
        }
        if name == "isa" && !options.allow_isa_change {
            return Err(Error::IsaChanged {
                dir: dir.to_path_buf(),
                recorded: recorded.clone(),
                current: current.to_owned(),
            });
        }
        options.observer.event(&Event::Message(format!(
            "{}: the checkpoint was made with {name} {recorded}, this process has {current}; results may differ in \
             their last bits",
            checkpoint.path().display()
        )));
    }
    Ok(())
}

/// A folder with other things in it is somebody's, not a run.
fn refuse_foreign_folder(dir: &Path) -> Result<()> {
    if dir.join(CONFIG_FILE).exists() || !dir.exists() {
        return Ok(());
    }
    let fail = |source| Error::io("list the folder", dir, 0, source);
    for entry in fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name().to_string_lossy().into_owned();
        if name != LOCK_FILE && temporary_of(&name).is_none() {
            return Err(Error::NotARun {
                dir: dir.to_path_buf(),
                found: name,
            });
        }
    }
    Ok(())
}

/// Removes what interrupted writes left beside the run's files.
fn remove_leftovers(dir: &Path) -> Result<()> {
    publish::recover_dir(&dir.join(MODEL))?;
    let fail = |source| Error::io("clear leftovers", dir, 0, source);
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if temporary_of(&entry.file_name().to_string_lossy()).is_none() {
            continue;
        }
        if entry.path().is_dir() {
            durable::remove_dir(&entry.path())?;
        } else {
            durable::fault::operation()
                .and_then(|()| fs::remove_file(entry.path()))
                .map_err(fail)?;
        }
    }
    Ok(())
}

/// The summary, and the digests that stand in it.
fn read_summary(path: &Path) -> Result<(Value, inputs::Digests)> {
    const LIMIT: u64 = 64 << 20;
    let bytes = manifest::read_limited(path, LIMIT).map_err(|source| Error::io("read it", path, 0, source))?;
    let unreadable = |error: serde_json::Error| Error::Damaged {
        path: path.to_path_buf(),
        damage: Damage::Unreadable(error.to_string()),
    };
    let mut summary: Value = serde_json::from_slice(&bytes).map_err(unreadable)?;
    let made_from = summary.as_object_mut().and_then(|fields| fields.remove(inputs::KEY));
    let made_from = made_from.map_or_else(|| Ok(inputs::Digests::new()), serde_json::from_value);
    Ok((summary, made_from.map_err(unreadable)?))
}

/// Refuses to go on, or to call it done, with other contents than the run began with.
fn refuse_changed_inputs(dir: &Path, recorded: &inputs::Digests, current: &inputs::Digests) -> Result<()> {
    let names = inputs::changed(recorded, current);
    if names.is_empty() {
        return Ok(());
    }
    Err(Error::InputsChanged {
        dir: dir.to_path_buf(),
        names,
    })
}

/// Whether a finished run has its result; a damaged one is an error.
fn result_stands(dir: &Path, options: &OpenOptions) -> Result<bool> {
    let model = dir.join(MODEL);
    if !options.expects_model || model.is_dir() {
        publish::verify_dir(&model)?;
        return Ok(true);
    }
    options.observer.event(&Event::Message(format!(
        "{}: this run was finished before, but its {MODEL}/ is gone; it is made again from the last checkpoint",
        dir.display()
    )));
    Ok(false)
}
