//! The whole arc on the bundled small world, in one call: write the world, train a tokenizer, pre-train, imitate, rank,
//! model the reward, practise without and with the pre-training term, judge, report.
//!
//! Sources: Ouyang et al., "Training language models to follow instructions with human feedback", 2022 (the stages and
//! their order); Stiennon et al., 2020 (best-of-N by the reward model).
//!
//! Where it differs:
//! 1. The labeler is simulated, so that the judge is the labeler without its noise and the truth is known.
//! 2. Every step writes files under one folder and is skipped when they are there; a stage resumes from its checkpoint.
//! 3. Nothing depends on the clock: all counts are fixed, so one seed gives one table.

pub(crate) mod answer;
mod config;
mod curves;
mod judge;
mod page;
mod rank;
mod results;
mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hone_compute::{Engine, EngineOptions};
use hone_run::{Configuration, Event, JsonLines, Lock, Observer, Resolved, Shutdown};
use hone_train::{Job, Outcome};

use crate::error::{PipelineError, Result};
use crate::files::record_instruction_set;
use config::folder;

pub use config::{
    JudgeSection, PreferencesSetting, QuickstartConfig, RankingsSetting, Scale, TokenizerSection, Until, WorldSection,
};
pub use results::{Check, QuickstartResult, Row};

/// What to run, and where.
#[derive(Clone, Debug)]
pub struct QuickstartOptions {
    /// The folder that everything is written to.
    pub out: PathBuf,
    /// How large everything is.
    pub scale: Scale,
    /// Every random number follows from it.
    pub seed: u64,
    /// Dotted overrides; see [`QuickstartConfig::with_overrides`].
    pub set: Vec<String>,
    /// Threads; none: as many as the machine has. Results do not depend on it.
    pub threads: Option<usize>,
    /// Go on under another instruction set.
    pub allow_isa_change: bool,
}

/// Runs the quickstart, or goes on where it was interrupted.
///
/// # Errors
/// [`PipelineError::Stopped`] when it was asked to stop (the same call goes on); whatever stops a stage.
pub fn quickstart(
    options: &QuickstartOptions,
    observer: Arc<dyn Observer>,
    shutdown: Shutdown,
) -> Result<QuickstartResult> {
    let config = QuickstartConfig::with_overrides(options.scale, options.seed, &options.set)?;
    run(options, &config, observer, shutdown)
}

/// As [`quickstart`], of a configuration that is made already.
pub(crate) fn run(
    options: &QuickstartOptions,
    config: &Resolved<QuickstartConfig>,
    observer: Arc<dyn Observer>,
    shutdown: Shutdown,
) -> Result<QuickstartResult> {
    let steps = Steps::open(options, config, observer, shutdown)?;
    if steps.config.until != Until::Table {
        let reason = "is `reward`, which makes no table; a stage of a recipe can end there";
        return Err(PipelineError::setting("until", reason));
    }
    let before = steps.out.join(results::FILE);
    if before.is_file() {
        steps.say(format!(
            "{} is finished; its results stand in {}",
            steps.out.display(),
            results::FILE
        ));
        return QuickstartResult::read(&before);
    }
    up_to_reward(&steps)?;
    // 7. Practice, without and with the pre-training term
    steps.stage(folder::PPO, &steps.config.ppo, hone_train::ppo::run)?;
    steps.stage(folder::PPO_PTX, &steps.config.ppo_ptx(), hone_train::ppo::run)?;
    // 8. The judge's verdicts on held-out prompts
    let judged = steps.timed(folder::JUDGE, || judge::judge(&steps))?;
    // 9. The table and the page
    let result = results::collect(&steps, judged)?;
    page::write(&steps, &result)?;
    result.write(&before)?;
    Ok(result)
}

/// As [`run`], up to the reward model; gives what that stage came to.
pub(crate) fn run_to_reward(
    options: &QuickstartOptions,
    config: &Resolved<QuickstartConfig>,
    observer: Arc<dyn Observer>,
    shutdown: Shutdown,
) -> Result<serde_json::Value> {
    let steps = Steps::open(options, config, observer, shutdown)?;
    up_to_reward(&steps)?;
    world::summary(&steps.out.join(folder::REWARD))
}

fn up_to_reward(steps: &Steps) -> Result<()> {
    // 1. The world: text, demonstrations, prompts
    steps.timed(folder::WORLD, || world::write(steps))?;
    // 2. The tokenizer
    steps.timed(folder::TOKENIZER, || world::train_tokenizer(steps))?;
    if steps.reused.is_none() {
        // 3. Pre-training
        steps.stage(folder::PRETRAIN, &steps.config.pretrain, hone_train::pretrain::run)?;
        // 4. Imitation
        steps.stage(folder::SFT, &steps.config.sft, hone_train::sft::run)?;
    }
    // 5. Answers of the tuned model, ranked by the labeler
    steps.timed(folder::RANKINGS, || rank::write(steps))?;
    // 6. What people prefer, as a model
    steps.stage(folder::REWARD, &steps.config.reward, hone_train::reward::run)
}

/// What every step is given.
pub(crate) struct Steps {
    /// The quickstart's folder.
    pub out: PathBuf,
    /// The settings, with paths to reused files in place.
    pub config: QuickstartConfig,
    /// Whether the settings are those of the scale.
    pub as_given: bool,
    /// A finished quickstart whose model is used.
    pub reused: Option<PathBuf>,
    /// For sampling and scoring.
    pub engine: Engine,
    observer: Arc<dyn Observer>,
    shutdown: Shutdown,
    threads: Option<usize>,
    allow_isa_change: bool,
    /// One writer a folder.
    _lock: Lock,
}

impl Steps {
    fn open(
        options: &QuickstartOptions,
        resolved: &Resolved<QuickstartConfig>,
        observer: Arc<dyn Observer>,
        shutdown: Shutdown,
    ) -> Result<Self> {
        let engine = Engine::new(&EngineOptions {
            threads: options.threads,
            ..EngineOptions::default()
        })?;
        let out = options.out.clone();
        std::fs::create_dir_all(&out).map_err(|e| PipelineError::file(&out, format!("cannot be created: {e}")))?;
        let lock = Lock::acquire(&out)?;
        record_settings(&out, resolved)?;
        record_instruction_set(&out, engine.isa().name(), options.allow_isa_change)?;
        let mut config = resolved.config.clone();
        let reused = match &config.world.reuse {
            Some(path) => Some(world::finished_quickstart(Path::new(path), config.seed)?),
            None => None,
        };
        if let Some(from) = &reused {
            world::use_files_of(from, &mut config);
        }
        let mut given = QuickstartConfig::new(options.scale, options.seed);
        given.resolve();
        let as_given = given == resolved.config;
        let (threads, allow_isa_change) = (options.threads, options.allow_isa_change);
        Ok(Self {
            out,
            config,
            as_given,
            reused,
            engine,
            observer,
            shutdown,
            threads,
            allow_isa_change,
            _lock: lock,
        })
    }

    /// A folder of the quickstart, or of the one that is reused.
    pub fn shared(&self, folder: &str) -> PathBuf {
        self.reused.as_ref().unwrap_or(&self.out).join(folder)
    }

    pub fn say(&self, text: impl Into<String>) {
        self.observer.event(&Event::Message(text.into()));
    }

    pub fn event(&self, event: &Event) {
        self.observer.event(event);
    }

    /// Ends the pipeline if somebody asked for it.
    pub fn check_stop(&self, stage: &str, step: u64) -> Result<()> {
        if self.shutdown.requested() {
            return Err(PipelineError::Stopped {
                stage: stage.into(),
                step,
            });
        }
        Ok(())
    }

    /// Runs a step and notes how long it took, to its end or to where it stopped.
    fn timed<T>(&self, name: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        self.check_stop(name, 0)?;
        let started = Instant::now();
        let result = step();
        let noted = self.note_seconds(name, started);
        let value = result?;
        noted?;
        Ok(value)
    }

    /// Runs a training stage in its own folder.
    fn stage<C>(
        &self,
        name: &str,
        config: &C,
        run: impl FnOnce(&Job, &Resolved<C>) -> hone_train::Result<Outcome>,
    ) -> Result<()>
    where
        C: Configuration + Clone,
    {
        self.check_stop(name, 0)?;
        let started = Instant::now();
        let job = Job {
            dir: self.out.join(name),
            base: self.out.clone(),
            observer: Arc::clone(&self.observer),
            shutdown: self.shutdown.clone(),
            allow_isa_change: self.allow_isa_change,
            threads: self.threads,
        };
        let resolved = Resolved::from_config(config.clone())?;
        let outcome = run(&job, &resolved);
        let noted = match outcome {
            Ok(Outcome::Done { before: true, .. }) => Ok(()),
            _ => self.note_seconds(name, started),
        };
        let outcome = outcome.map_err(|source| PipelineError::Stage {
            stage: name.into(),
            source: Box::new(source),
        })?;
        if let Outcome::Stopped { step } = outcome {
            return Err(PipelineError::Stopped {
                stage: name.into(),
                step,
            });
        }
        noted
    }

    fn note_seconds(&self, name: &str, started: Instant) -> Result<()> {
        let seconds = started.elapsed().as_secs_f64();
        let line = serde_json::json!({ "step": name, "seconds": seconds });
        JsonLines::open(&self.out.join(results::TIMINGS))?.append(&line.to_string())?;
        Ok(())
    }
}

/// Writes the settings, or refuses a folder that has others.
fn record_settings(out: &Path, resolved: &Resolved<QuickstartConfig>) -> Result<()> {
    let path = out.join("quickstart.toml");
    if !path.exists() {
        hone_run::write_atomic(&path, resolved.text().as_bytes())?;
        return Ok(());
    }
    let before = hone_run::config::load::<QuickstartConfig>(&path, &[])?;
    let keys = hone_run::config::changed_keys(before.table(), resolved.table());
    if keys.is_empty() {
        Ok(())
    } else {
        Err(hone_run::Error::ConfigChanged {
            dir: out.to_path_buf(),
            keys,
        }
        .into())
    }
}
