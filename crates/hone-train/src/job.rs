//! One stage's job: where it runs, who watches, when it must stop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_compute::{Engine, EngineOptions};
use hone_data::{Source, annotations};
use hone_run::report::{Report, Section};
use hone_run::{
    Checkpoint, CheckpointWriter, Configuration, Event, Inputs, Observer, OpenOptions, Opened, Resolved, Run, Shutdown,
};
use serde_json::Value;

use crate::artefact::{adapter_base, is_adapter};
use crate::error::{Result, TrainError};
use crate::hub;
use crate::sections::TrainSection;

/// What a stage is given beside its configuration.
pub struct Job {
    /// The run's directory.
    pub dir: PathBuf,
    /// Relative paths of the configuration are taken from here.
    pub base: PathBuf,
    /// Told of progress.
    pub observer: Arc<dyn Observer>,
    /// Asked before every step whether to stop.
    pub shutdown: Shutdown,
    /// Resume under another instruction set.
    pub allow_isa_change: bool,
    /// Threads; none: as many as the machine has.
    pub threads: Option<usize>,
}

/// How a stage ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is done: the model's directory, and figures.
    Done {
        /// The result.
        model: PathBuf,
        /// What it came to.
        summary: Value,
        /// Whether an earlier run had done it.
        before: bool,
    },
    /// It was asked to stop and can go on from a checkpoint.
    Stopped {
        /// Steps done.
        step: u64,
    },
}

/// A run that is open, from scratch or from a checkpoint.
pub(crate) struct Started {
    pub run: Run,
    pub checkpoint: Option<Checkpoint>,
}

/// What a run's folder held.
enum Start {
    Go(Box<Started>),
    Before(Outcome),
}

/// How a run begins.
pub(crate) enum Begun<P> {
    /// With what was prepared for it.
    Go(Box<(Started, P)>),
    /// It was done before.
    Before(Outcome),
}

/// The commits of models that came from the hub, in a run's folder.
const HUB_FILE: &str = "hub.json";

/// Keys of a configuration on which no result depends.
const MAY_CHANGE: [&str; 3] = ["train.keep_checkpoints", "train.check_memory", "model.recompute"];

impl Job {
    /// An engine for these settings.
    pub(crate) fn engine(&self, train: &TrainSection) -> Result<Engine> {
        Ok(Engine::new(&self.engine_options(train)?)?)
    }

    /// One that only counts what the other would need.
    pub(crate) fn rehearsal(&self, train: &TrainSection) -> Result<Engine> {
        Ok(Engine::rehearsal(&self.engine_options(train)?)?)
    }

    fn engine_options(&self, train: &TrainSection) -> Result<EngineOptions> {
        check_engine(train)?;
        Ok(EngineOptions {
            isa: None,
            precision: train.precision.into(),
            threads: self.threads,
        })
    }

    /// Threads for what is done beside the engine; results do not depend on them.
    pub(crate) fn worker_threads(&self) -> usize {
        let named = || std::env::var("HONE_THREADS").ok()?.trim().parse().ok();
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.or_else(named).unwrap_or_else(cores)
    }

    /// The directory of the model that a key names: where it stands, or the local copy of a hub id. A run that goes on
    /// takes the commit with which it began, though the hub may have another by then; see [`Self::keep_commit`].
    pub(crate) fn model(&self, key: &str, name: &str) -> Result<PathBuf> {
        let Some(id) = self.hub_id(name) else {
            return Ok(self.path(name));
        };
        let commits = self.commits();
        let wanted = commits.get(name).map_or_else(|| id.clone(), |commit| id.at(commit));
        let fetched = hub::fetch(&wanted).map_err(|source| TrainError::Hub {
            key: key.into(),
            name: name.into(),
            source,
        })?;
        if let Some(note) = &fetched.note {
            self.message(note);
        }
        Ok(fetched.directory)
    }

    /// Writes down of which commit the `directory` is that [`Self::model`] gave for this name, where it came from the hub.
    /// The run's folder is there.
    pub(crate) fn keep_commit(&self, name: &str, directory: &Path) -> Result<()> {
        let mut commits = self.commits();
        if let (Some(_), Some(commit)) = (self.hub_id(name), hub::commit_of(directory))
            && !commits.contains_key(name)
        {
            self.message(format!("{name}: commit {commit}"));
            commits.insert(name.into(), commit.into());
            let text = serde_json::to_string_pretty(&commits).unwrap_or_default() + "\n";
            hone_run::write_atomic(&self.dir.join(HUB_FILE), text.as_bytes())?;
        }
        Ok(())
    }

    /// The hub id that a name is, where no directory has that name.
    fn hub_id(&self, name: &str) -> Option<hub::Id> {
        hub::Id::parse(name).filter(|_| !self.path(name).exists())
    }

    /// The commits of the run so far.
    fn commits(&self) -> BTreeMap<String, String> {
        let text = std::fs::read_to_string(self.dir.join(HUB_FILE)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// A path of the configuration.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.base.join(path)
    }

    /// What a stage is made from, by the names of its configuration: models (an adapter with its base) and data.
    pub(crate) fn inputs<'a>(
        &self,
        models: impl IntoIterator<Item = &'a Option<String>>,
        sources: impl IntoIterator<Item = &'a Source>,
    ) -> Inputs {
        let mut inputs = Inputs::new();
        for name in models.into_iter().flatten().filter(|name| !name.is_empty()) {
            let directory = self.path(name);
            // A model from the hub is held to its commit
            if self.hub_id(name).is_some() {
                continue;
            }
            if is_adapter(&directory)
                && let Ok(base) = adapter_base(&directory)
            {
                inputs.insert(format!("{name}, its base"), base);
            }
            inputs.insert(name.clone(), directory);
        }
        for source in sources {
            let name = source.path.to_string_lossy().into_owned();
            inputs.insert(name, self.path(&source.path));
        }
        inputs
    }

    /// Opens the run and prepares it. A run that does not exist yet is prepared first, so that what cannot start leaves
    /// nothing behind. A run goes on only if `inputs` hold what they held, and begins only if stores of annotations held the
    /// same before they were read and after: what it is held to later is what it read.
    pub(crate) fn begin<T: Configuration, P>(
        &self,
        engine: &Engine,
        (config, train, inputs): (&Resolved<T>, &TrainSection, Inputs),
        prepare: impl FnOnce() -> Result<P>,
    ) -> Result<Begun<P>> {
        let inputs = Held::of(inputs)?;
        let open = || self.open(engine, config, (train, &inputs));
        let prepare = || {
            let prepared = prepare()?;
            inputs.check()?;
            Ok::<P, TrainError>(prepared)
        };
        let (start, prepared) = if self.dir.join("run.toml").exists() {
            match open()? {
                Start::Before(outcome) => return Ok(Begun::Before(outcome)),
                start @ Start::Go(_) => (start, prepare()?),
            }
        } else {
            let prepared = prepare()?;
            (open()?, prepared)
        };
        Ok(match start {
            Start::Before(outcome) => Begun::Before(outcome),
            Start::Go(started) => Begun::Go(Box::new((*started, prepared))),
        })
    }

    fn open<T: Configuration>(
        &self,
        engine: &Engine,
        config: &Resolved<T>,
        (train, inputs): (&TrainSection, &Held),
    ) -> Result<Start> {
        let environment = [
            ("isa".to_string(), engine.isa().name().to_string()),
            ("hone".to_string(), env!("CARGO_PKG_VERSION").to_string()),
        ];
        let options = OpenOptions {
            environment: environment.into_iter().collect(),
            allow_isa_change: self.allow_isa_change,
            keep: train.keep_checkpoints,
            may_change: MAY_CHANGE.map(String::from).to_vec(),
            inputs: inputs.files.clone(),
            contents: inputs.contents.clone(),
            expects_model: true,
            observer: Arc::clone(&self.observer),
        };
        Ok(match Run::open(&self.dir, config, options)? {
            Opened::Finished { dir, summary } => Start::Before(Outcome::Done {
                model: dir.join("model"),
                summary,
                before: true,
            }),
            Opened::Fresh(run) => Start::Go(Box::new(Started { run, checkpoint: None })),
            Opened::Resumed { run, checkpoint } => {
                self.message(format!("resuming after step {}", checkpoint.step()));
                Start::Go(Box::new(Started {
                    run,
                    checkpoint: Some(*checkpoint),
                }))
            }
        })
    }

    /// Marks the run as done, with its page: the default one and `sections` behind its first.
    pub(crate) fn finish(
        &self,
        run: Run,
        (model, summary): (PathBuf, Value),
        sections: Vec<Section>,
        step: u64,
    ) -> Result<Outcome> {
        let page = run.dir().join("report.html");
        let write = |dir: &Path| -> Result<()> {
            let mut report = Report::from_run(dir)?;
            let behind = report.sections.len().min(1);
            report.sections.splice(behind..behind, sections.iter().cloned());
            Ok(report.write(&page)?)
        };
        // Once before, so that a run that is done always has its page, and once after, so that it says that it is done
        write(run.dir())?;
        write(&run.finish(summary.clone())?)?;
        self.observer.event(&Event::Finished { step, stopped: false });
        Ok(Outcome::Done {
            model,
            summary,
            before: false,
        })
    }

    /// Ends a run that was asked to stop before its first step: there is nothing to save.
    pub(crate) fn check_stop(&self) -> Result<()> {
        if self.shutdown.requested() {
            return Err(TrainError::Stopped);
        }
        Ok(())
    }

    /// Says something to whoever watches.
    pub(crate) fn message(&self, text: impl Into<String>) {
        self.observer.event(&Event::Message(text.into()));
    }
}

/// The places in a run where something besides a step happens.
pub(crate) struct Cadence {
    pub total: u64,
    pub checkpoint_every: u64,
    pub eval_every: u64,
}

impl Cadence {
    /// Whether a checkpoint is due after `done` steps.
    pub fn saves(&self, done: u64) -> bool {
        done.is_multiple_of(self.checkpoint_every) || done == self.total
    }

    /// Whether an evaluation is due after `done` steps.
    pub fn evaluates(&self, done: u64) -> bool {
        done == self.total || (self.eval_every > 0 && done.is_multiple_of(self.eval_every))
    }
}

/// Why a checkpoint is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// One is due at this step.
    Due,
    /// The run was asked to stop.
    Interruption,
}

/// Saves a checkpoint of whatever `write` gives.
pub(crate) fn save(
    run: &mut Run,
    (step, occasion): (u64, Occasion),
    state: Value,
    mut write: impl FnMut(&mut CheckpointWriter) -> Result<(), hone_run::Error>,
) -> Result<()> {
    match occasion {
        Occasion::Due => run.save_checkpoint(step, &mut write, state)?,
        Occasion::Interruption => run.save_interruption(step, &mut write, state)?,
    };
    Ok(())
}

/// Refuses what an engine and checkpoints cannot be set to.
pub(crate) fn check_engine(train: &TrainSection) -> Result<()> {
    if train.shards == 0 {
        return Err(TrainError::setting("train.shards", "is 0; expected at least 1"));
    }
    if !train.shards.is_power_of_two() {
        let reason = format!(
            "is {}; expected a power of two: only then does the sum of their gradients not depend on how many ranks share them",
            train.shards
        );
        return Err(TrainError::setting("train.shards", reason));
    }
    if train.microbatch_tokens == 0 {
        return Err(TrainError::setting(
            "train.microbatch_tokens",
            "is 0; expected at least 1",
        ));
    }
    if train.checkpoint_every == 0 {
        return Err(TrainError::setting(
            "train.checkpoint_every",
            "is 0; expected at least 1",
        ));
    }
    if train.keep_checkpoints < 2 {
        let reason = format!(
            "is {}; expected at least 2: one would leave nothing when it is damaged",
            train.keep_checkpoints
        );
        return Err(TrainError::setting("train.keep_checkpoints", reason));
    }
    Ok(())
}

/// What a run is held to: stores of annotations apart from other inputs, with digests of what they hold. Their bytes change without a new
/// judgement, and stay as they are while judgements stand in the log beside them.
struct Held {
    files: Inputs,
    stores: Inputs,
    /// The digest of each store.
    contents: BTreeMap<String, String>,
}

impl Held {
    fn of(inputs: Inputs) -> Result<Self> {
        let (stores, files): (Inputs, Inputs) = inputs.into_iter().partition(|(_, place)| annotations::is_store(place));
        let contents = digests(&stores)?;
        Ok(Self {
            files,
            stores,
            contents,
        })
    }

    /// # Errors
    /// The first store that no longer holds what it held.
    fn check(&self) -> Result<()> {
        let now = digests(&self.stores)?;
        let changed = self
            .contents
            .iter()
            .find(|(name, digest)| now.get(*name) != Some(digest));
        changed.map_or(Ok(()), |(name, _)| {
            Err(TrainError::Artefact {
                path: name.clone(),
                reason: "judgements came while it was read, so it is not known which the run would stand on; give the \
                         command again, or train on what `hone annotate --export records` writes"
                    .into(),
            })
        })
    }
}

fn digests(stores: &Inputs) -> Result<BTreeMap<String, String>> {
    let digest = |(name, place): (&String, &PathBuf)| Ok((name.clone(), annotations::content_digest(place)?));
    stores.iter().map(digest).collect()
}
