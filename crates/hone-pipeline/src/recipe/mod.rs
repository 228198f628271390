//! `hone run RECIPE.toml`: stages in order, each in a folder of its own and resumable, then what is expected of them.
//!
//! ```toml
//! [[stage]]
//! name = "base"                       # its folder under the runs' folder
//! kind = "pretrain"                   # demonstrations, split, tokenizer, pretrain, sft, reward, preference,
//!                                     # ppo, grpo, expert-iteration, online-preference, annotate, judge
//!                                     # or quickstart
//! config = "base.toml"                # a file beside the recipe, or the settings themselves
//!
//! [[stage]]
//! name = "tuned"
//! kind = "sft"
//! config = { model = { path = "{runs}/base/model" }, data = { train = ["demonstrations.jsonl"] } }
//!
//! [[expect]]
//! that = "imitation helps"
//! stage = "tuned"
//! value = "best.eval/loss"            # of the stage's result; or metric = "eval/loss" with at = "first", "last", ..
//! below = 1.0                         # or above; a number, or another value as "STAGE:VALUE"
//! ```
//! Paths of settings are taken from the working directory, as in a stage's own file; only `config` names a file beside
//! the recipe. In any text `{runs}` is the runs' folder and `{recipe}` the recipe's. All settings and expectations are checked
//! before the first stage. Which values and metrics a run has is known only at the end; then the finished stages stand, so
//! the recipe can be mended and called again at no cost.

mod annotate;
mod config;
mod demonstrations;
mod expect;
mod judge;
mod ongoing;
mod sampled;
mod split;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_data::{Limits, LoadReport, Source, take_documents};
use hone_run::{Error as RunError, Event, Observer, Resolved, Shutdown, publish_dir};
use hone_text::{TrainOptions, train_bpe};
use hone_train::{Job, Outcome};
use serde_json::{Value, json};

use crate::error::{PipelineError, Result};
use crate::files::{read_json, write_json};
use crate::quickstart::{self, QuickstartOptions};
pub(crate) use config::{Frame, ReadyStage, Work, check_name};

pub use annotate::{AnnotateConfig, Annotators, SimulatedSection, Writing};
pub use config::{Amount, At, Expect, Recipe, Settings, StageKind, StageSection, TokenizerConfig};
pub use demonstrations::{DemonstrationsConfig, Form};
pub use expect::Expectation;
pub(crate) use expect::{ReadyExpect, Subject};
pub use judge::{JudgeConfig, JudgedModel};
pub use split::{SplitConfig, SplitReport, split};

/// What to run, and where.
#[derive(Clone, Debug)]
pub struct RecipeOptions {
    /// The recipe.
    pub path: PathBuf,
    /// The folder under which every stage has its own.
    pub runs: PathBuf,
    /// Relative paths of settings are taken from here; empty: from the working directory.
    pub base: PathBuf,
    /// Overrides: `STAGE.KEY=VALUE`, the stage by its name in the recipe.
    pub set: Vec<String>,
    /// Threads; none: as many as the machine has.
    pub threads: Option<usize>,
    /// Go on under another instruction set.
    pub allow_isa_change: bool,
}

/// How a recipe ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RecipeResult {
    /// The stages with what each came to.
    pub stages: Vec<StageResult>,
    /// What was expected, and whether it is so.
    pub expectations: Vec<Expectation>,
}

/// What a stage came to.
#[derive(Clone, Debug, PartialEq)]
pub struct StageResult {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub dir: PathBuf,
    /// Its summary; of a quickstart, its results.
    pub summary: Value,
}

impl RecipeResult {
    /// Whether the program should end with 3.
    pub fn expectation_missed(&self) -> bool {
        self.expectations.iter().any(|expectation| !expectation.holds)
    }
}

/// Runs a recipe, or goes on where it was interrupted.
///
/// # Errors
/// Before anything runs: a recipe, settings of any of its stages, or an expectation that make no sense. Then whatever stops a
/// stage; at the end an expectation about a value or a metric that the run does not have.
/// [`PipelineError::Stopped`] when it was asked to stop: the same call goes on.
pub fn run_recipe(options: &RecipeOptions, observer: Arc<dyn Observer>, shutdown: Shutdown) -> Result<RecipeResult> {
    let recipe = config::load(options)?;
    let kitchen = Kitchen {
        base: options.base.clone(),
        threads: options.threads,
        allow_isa_change: options.allow_isa_change,
        observer,
        shutdown,
    };
    let mut stages: Vec<StageResult> = Vec::new();
    for stage in &recipe.stages {
        kitchen.say(format!("stage {} ({})", stage.name, stage.work.kind().name()));
        let dir = options.runs.join(&stage.name);
        let summary = kitchen.run(stage, &dir)?;
        stages.push(StageResult {
            name: stage.name.clone(),
            dir,
            summary,
        });
    }
    let expectations: Result<Vec<_>> = recipe.expectations.iter().map(|e| e.check(&stages)).collect();
    Ok(RecipeResult {
        stages,
        expectations: expectations?,
    })
}

/// What a stage that trains nothing came to before, where its folder is there: the record in it, if the settings are those
/// of then.
pub(crate) fn finished(record: &Path, dir: &Path, digest: String) -> Result<Option<Value>> {
    if !dir.exists() {
        return Ok(None);
    }
    let before = read_json(record)?;
    if before["digest"] != digest {
        return Err(RunError::ConfigChanged {
            dir: dir.to_path_buf(),
            keys: vec!["config".into()],
        }
        .into());
    }
    Ok(Some(before))
}

/// What every stage of a recipe is given.
pub(crate) struct Kitchen {
    /// Relative paths of settings are taken from here; empty: from the working directory.
    pub base: PathBuf,
    /// Threads; none: as many as the machine has.
    pub threads: Option<usize>,
    /// Go on under another instruction set.
    pub allow_isa_change: bool,
    /// Told of progress.
    pub observer: Arc<dyn Observer>,
    /// Asked whether to stop.
    pub shutdown: Shutdown,
}

impl Kitchen {
    /// Runs a stage in its folder, or goes on with it; gives its summary.
    pub fn run(&self, stage: &ReadyStage, dir: &Path) -> Result<Value> {
        match &stage.work {
            Work::Demonstrations(config) => demonstrations::run(config, dir),
            Work::Split(config) => split::run(config, (&self.base, dir), &|source, report| self.tell(source, report)),
            Work::Tokenizer(config) => self.tokenizer(config, dir),
            Work::Pretrain(config) => self.train(stage, config, dir, hone_train::pretrain::run),
            Work::Sft(config) => self.train(stage, config, dir, hone_train::sft::run),
            Work::Reward(config) => self.train(stage, config, dir, hone_train::reward::run),
            Work::Preference(config) => self.train(stage, config, dir, hone_train::preference::run),
            Work::Ppo(config) => self.train(stage, config, dir, hone_train::ppo::run),
            Work::Grpo(config) => self.train(stage, config, dir, hone_train::grpo::run),
            Work::ExpertIteration(config) => self.train(stage, config, dir, hone_train::expert_iteration::run),
            Work::OnlinePreference(config) => self.train(stage, config, dir, hone_train::online_preference::run),
            Work::Annotate(config) => annotate::run(self, &stage.name, config, dir),
            Work::Judge(config) => judge::run(self, &stage.name, config, dir),
            Work::Quickstart(settings) => self.quickstart(settings, dir),
        }
    }

    fn train<C>(
        &self,
        stage: &ReadyStage,
        config: &Resolved<C>,
        dir: &Path,
        run: impl FnOnce(&Job, &Resolved<C>) -> hone_train::Result<Outcome>,
    ) -> Result<Value> {
        let job = Job {
            dir: dir.to_path_buf(),
            base: self.base.clone(),
            observer: Arc::clone(&self.observer),
            shutdown: self.shutdown.clone(),
            allow_isa_change: self.allow_isa_change,
            threads: self.threads,
        };
        let outcome = run(&job, config);
        match outcome.map_err(|source| PipelineError::Stage {
            stage: stage.name.clone(),
            source: Box::new(source),
        })? {
            Outcome::Done { summary, .. } => Ok(summary),
            Outcome::Stopped { step } => Err(PipelineError::Stopped {
                stage: stage.name.clone(),
                step,
            }),
        }
    }

    fn tokenizer(&self, resolved: &Resolved<TokenizerConfig>, dir: &Path) -> Result<Value> {
        let record = dir.join("tokenizer.run.json");
        if dir.exists() {
            let before = read_json(&record)?;
            if before["digest"] != resolved.digest() {
                let keys = vec!["files, vocab_size or bytes".to_string()];
                return Err(RunError::ConfigChanged {
                    dir: dir.to_path_buf(),
                    keys,
                }
                .into());
            }
            return Ok(before);
        }
        let texts = self.texts(&resolved.config)?;
        let options = TrainOptions {
            vocab_size: resolved.config.vocab_size,
            ..TrainOptions::default()
        };
        let tokenizer = train_bpe(texts.into_iter(), &options)?;
        let summary = json!({ "vocab_size": tokenizer.vocab_size(), "digest": resolved.digest() });
        publish_dir(dir, &mut |dir| {
            tokenizer.save(dir).map_err(RunError::caller)?;
            write_json(&dir.join("tokenizer.run.json"), &summary).map_err(RunError::caller)
        })?;
        Ok(summary)
    }

    /// The documents of a tokenizer's files, up to its number of bytes.
    fn texts(&self, config: &TokenizerConfig) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        let mut left = config.bytes;
        for source in &config.files {
            if left == 0 {
                break;
            }
            let source = source.clone().resolved_in(&self.base);
            let report = take_documents(&source, &Limits::default(), &mut |document| {
                left = left.saturating_sub(document.text.len());
                texts.push(document.text);
                Ok(if left == 0 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            })?;
            self.say(format!("{}: {} documents", source.path.display(), report.items));
            self.tell(&source, &report);
        }
        Ok(texts)
    }

    /// Tells what could not be used of a source, and what else a user should know of it.
    fn tell(&self, source: &Source, report: &LoadReport) {
        let file = source.path.display();
        if report.bad > 0 {
            let first = report.samples_of_bad.first();
            let first = first.map_or(String::new(), |row| format!("; line {}: {}", row.line, row.reason));
            self.say(format!(
                "{file}: {} of {} rows could not be used{first}",
                report.bad, report.rows
            ));
        }
        for note in &report.notes {
            self.say(format!("{file}: {note}"));
        }
    }

    /// Tells one sentence.
    pub fn say(&self, text: impl Into<String>) {
        self.observer.event(&Event::Message(text.into()));
    }

    fn quickstart(&self, settings: &config::Quickstart, dir: &Path) -> Result<Value> {
        let options = QuickstartOptions {
            out: dir.to_path_buf(),
            scale: settings.scale,
            seed: settings.seed,
            set: settings.set.clone(),
            threads: self.threads,
            allow_isa_change: self.allow_isa_change,
        };
        let (observer, shutdown) = (Arc::clone(&self.observer), self.shutdown.clone());
        if settings.config.config.until == quickstart::Until::Reward {
            return quickstart::run_to_reward(&options, &settings.config, observer, shutdown);
        }
        let result = quickstart::run(&options, &settings.config, observer, shutdown)?;
        serde_json::to_value(result).map_err(|e| PipelineError::file(dir, e.to_string()))
    }
}
