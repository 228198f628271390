//! `hone compare RECIPE.toml`: several methods from one start, on the same prompts, under the same judge, as one picture of reward against KL.
//!
//! ```toml
//! [[stage]]                           # first, what makes the starting model: stages as in `hone run`
//! name = "sft"
//! kind = "sft"
//! config = "sft.toml"
//!
//! [compare]
//! start = "{out}/sft/model"           # what all methods begin with, also the reference of KL
//! seeds = [1, 2, 3]                   # every method once a seed
//!
//! [judge]                             # what counts: an environment, `rewards` or `reward` with prompts
//! environment = { kind = "maze", size = 4 }
//! episodes = 500
//!
//! [[method]]
//! name = "start"
//! kind = "start"
//!
//! [[method]]
//! name = "grpo"
//! kind = "grpo"                       # any stage that tunes a model; or best-of, few-shot
//! config = { environment = { kind = "maze", size = 4 } }
//!
//! [[expect]]                          # as in `hone run`, of a stage or of the comparison itself
//! that = "practice pays"
//! stage = "compare"
//! value = "methods.grpo.difference.low"
//! above = 0
//! ```
//! Everything lies in one folder: `NAME/` of each stage, `methods/NAME/seed-S/` of practice, `judged/NAME/seed-S/` of answers, `compare.json` and
//! `compare.html`. What is there is not made again, so the same command goes on where it was stopped, and a method, a seed or a figure more
//! costs no more than itself. Results do not depend on the clock; times stand in `timings.jsonl`.

mod config;
mod judge;
mod measure;
mod method;
mod page;
mod results;
mod tasks;
mod updates;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hone_compute::{Engine, EngineOptions};
use hone_run::{Event, JsonLines, Lock, Observer, Shutdown};
use serde_json::json;

use crate::error::{PipelineError, Result};
use crate::files::{read_json, record_instruction_set};
use crate::recipe::{Expectation, Kitchen, ReadyStage, StageResult};
use config::{ITSELF, METHODS, Ready, directory};
use measure::{Judged, judged, write_tasks};
use method::{Method, Way};
use results::{FORMAT, PerPrompt, Tokens, deviation, draws, overoptimisation};
use tasks::Tasks;
use updates::Trained;

pub use config::{CompareSection, Comparison, JudgeSection, MethodSection, ProxySection};
pub use results::{Alarm, CompareResult, Curve, Figure, Measures, MethodResult, Overoptimisation, SeedResult};
pub use updates::{LeftOut, Part, Updates};

/// The results, in the comparison's folder.
pub const RESULTS: &str = "compare.json";
/// The page.
pub const PAGE: &str = "compare.html";
const TIMINGS: &str = "timings.jsonl";

/// What to compare, and where.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// The comparison's file.
    pub path: PathBuf,
    /// The folder of everything; none: `runs/` and the file's stem.
    pub out: Option<PathBuf>,
    /// Relative paths of settings are taken from here; empty: from the working directory.
    pub base: PathBuf,
    /// Overrides: `NAME.KEY=VALUE`, of a stage, a method, or `compare`, `judge` and `proxy`.
    pub set: Vec<String>,
    /// Threads; none: as many as the machine has.
    pub threads: Option<usize>,
    /// Go on under another instruction set.
    pub allow_isa_change: bool,
}

/// A comparison that is done.
#[derive(Clone, Debug)]
pub struct Compared {
    /// Where everything is.
    pub out: PathBuf,
    /// What stands in `compare.json`.
    pub result: CompareResult,
    /// What practice took, by method and seed, over all calls that were not killed.
    pub times: Vec<Took>,
    /// What was expected, and whether it is so.
    pub expectations: Vec<Expectation>,
}

impl Compared {
    /// Whether the program should end with 3.
    pub fn expectation_missed(&self) -> bool {
        self.expectations.iter().any(|expectation| !expectation.holds)
    }
}

/// What the practice of a method with one seed took.
#[derive(Clone, Debug, PartialEq)]
pub struct Took {
    /// The method.
    pub method: String,
    /// The seed.
    pub seed: u64,
    /// Minutes of practice.
    pub minutes: f64,
    /// Minutes that the recipe said it should take.
    pub planned: Option<f64>,
}

/// Compares, or goes on where it was stopped.
///
/// # Errors
/// Before anything runs: a recipe that makes no sense, or that names what is not there. Then whatever stops a stage, sampling or judging.
/// [`PipelineError::Stopped`] when it was asked to stop: the same call goes on.
pub fn compare(options: &CompareOptions, observer: Arc<dyn Observer>, shutdown: Shutdown) -> Result<Compared> {
    let stem = options.path.file_stem().unwrap_or_default();
    let out = options.out.clone().unwrap_or_else(|| Path::new("runs").join(stem));
    // 1. The recipe, checked as far as can be before anything runs
    let ready = config::load(options, &out)?;
    std::fs::create_dir_all(&out).map_err(|e| PipelineError::file(&out, format!("cannot be created: {e}")))?;
    let _lock = Lock::acquire(&out)?;
    let engine = Engine::new(&EngineOptions {
        threads: options.threads,
        ..EngineOptions::default()
    })?;
    record_instruction_set(&out, engine.isa().name(), options.allow_isa_change)?;
    let kitchen = Kitchen {
        base: options.base.clone(),
        threads: options.threads,
        allow_isa_change: options.allow_isa_change,
        observer,
        shutdown,
    };
    // 2. What the methods begin with
    let mut stages = Vec::new();
    for stage in &ready.stages {
        stages.push(run_stage(&kitchen, stage, out.join(&stage.name))?);
    }
    // 3. What is asked
    let tasks = Tasks::judged(&ready.config.judge, &options.base)?;
    let bench = Bench {
        kitchen: &kitchen,
        engine: &engine,
        base: &options.base,
        out: &out,
        start: directory(&options.base, "compare.start", &ready.config.compare.start)?,
        tasks_digest: tasks.digest()?,
        tasks: &tasks,
        config: &ready.config,
    };
    write_tasks(&bench)?;
    // 4. Practice and answers, method by method and seed by seed
    let mut rows = Vec::new();
    for method in &ready.methods {
        rows.push(bench.run(method)?);
    }
    // 5. Figures, and the page
    let result = bench.result(&ready, &rows)?;
    let times = bench.times(&ready.methods)?;
    page::write(&bench, (&result, &rows), &times)?;
    result.write(&out.join(RESULTS))?;
    // 6. What is expected of them
    stages.push(StageResult {
        name: ITSELF.to_owned(),
        dir: out.clone(),
        summary: read_json(&out.join(RESULTS))?,
    });
    let expectations: Result<Vec<Expectation>> = ready.expectations.iter().map(|e| e.check(&stages)).collect();
    Ok(Compared {
        out,
        result,
        times,
        expectations: expectations?,
    })
}

fn run_stage(kitchen: &Kitchen, stage: &ReadyStage, dir: PathBuf) -> Result<StageResult> {
    kitchen.say(format!("stage {} ({})", stage.name, stage.work.kind().name()));
    Ok(StageResult {
        name: stage.name.clone(),
        summary: kitchen.run(stage, &dir)?,
        dir,
    })
}

/// What every method is given.
struct Bench<'a> {
    kitchen: &'a Kitchen,
    /// For sampling and scoring.
    engine: &'a Engine,
    base: &'a Path,
    out: &'a Path,
    config: &'a Comparison,
    /// The starting model's directory.
    start: PathBuf,
    tasks: &'a Tasks,
    tasks_digest: String,
}

/// A method, seed by seed.
struct Row {
    name: String,
    /// The directory of the model that answers.
    models: Vec<PathBuf>,
    judged: Vec<Judged>,
    tokens: Vec<Tokens>,
}

impl Bench<'_> {
    fn event(&self, event: &Event) {
        self.kitchen.observer.event(event);
    }

    /// Runs a method with every seed.
    fn run(&self, method: &Method) -> Result<Row> {
        let mut row = Row {
            name: method.name.clone(),
            models: Vec::new(),
            judged: Vec::new(),
            tokens: Vec::new(),
        };
        for (i, &seed) in self.config.compare.seeds.iter().enumerate() {
            self.check_stop(&method.name)?;
            let (model, mut tokens) = match &method.way {
                Way::Stage(stages) => self.practise((method, seed), &stages[i])?,
                Way::Start | Way::BestOf { .. } | Way::FewShot { .. } => {
                    let none = Tokens {
                        sampled: Some(0.0),
                        trained: Some(0.0),
                    };
                    (self.start.clone(), none)
                }
            };
            let judged = judged(self, method, seed, &model)?;
            if let Way::FewShot { .. } = method.way {
                tokens.sampled = Some(judged.practice.tokens as f64);
            }
            row.models.push(model);
            row.judged.push(judged);
            row.tokens.push(tokens);
        }
        Ok(row)
    }

    /// Runs a method's stage; gives its model and what it read.
    fn practise(&self, (method, seed): (&Method, u64), stage: &ReadyStage) -> Result<(PathBuf, Tokens)> {
        let dir = self.out.join(METHODS).join(&method.name).join(format!("seed-{seed}"));
        self.kitchen
            .say(format!("method {} ({}), seed {seed}", method.name, method.kind));
        if dir.join("finished.json").is_file() {
            self.kitchen.run(stage, &dir)?;
        } else {
            self.timed((&method.name, seed, "practice"), || self.kitchen.run(stage, &dir))?;
        }
        let tokens = Tokens::of_run(&dir, epochs(&dir, &method.kind))?;
        Ok((dir.join("model"), tokens))
    }

    fn check_stop(&self, stage: &str) -> Result<()> {
        if self.kitchen.shutdown.requested() {
            return Err(PipelineError::Stopped {
                stage: stage.into(),
                step: 0,
            });
        }
        Ok(())
    }

    /// Does something and notes how long it took, to its end or to where it stopped.
    fn timed<T>(&self, (method, seed, what): (&str, u64, &str), work: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let result = work();
        let seconds = started.elapsed().as_secs_f64();
        let line = json!({ "method": method, "seed": seed, "what": what, "seconds": seconds });
        let noted = JsonLines::open(&self.out.join(TIMINGS)).and_then(|mut lines| lines.append(&line.to_string()));
        let value = result?;
        noted?;
        Ok(value)
    }

    /// What practice took.
    fn times(&self, methods: &[Method]) -> Result<Vec<Took>> {
        let path = self.out.join(TIMINGS);
        let lines: Vec<serde_json::Value> = if path.is_file() {
            crate::files::read_lines(&path)?
        } else {
            Vec::new()
        };
        let mut times = Vec::new();
        for method in methods.iter().filter(|method| method.trains()) {
            for &seed in &self.config.compare.seeds {
                let own = lines.iter().filter(|line| {
                    line["method"] == method.name.as_str() && line["seed"] == seed && line["what"] == "practice"
                });
                times.push(Took {
                    method: method.name.clone(),
                    seed,
                    minutes: own.filter_map(|line| line["seconds"].as_f64()).sum::<f64>() / 60.0,
                    planned: method.minutes,
                });
            }
        }
        Ok(times)
    }

    /// All figures.
    fn result(&self, ready: &Ready, rows: &[Row]) -> Result<CompareResult> {
        let c = &self.config.compare;
        let draws = draws(c.resamples);
        let optimum: Option<Vec<f64>> = self.tasks.tasks.iter().map(tasks::Task::optimum).collect();
        let baseline = ready
            .methods
            .iter()
            .position(|m| m.name == c.baseline)
            .unwrap_or_default();
        let per_prompt = |row: &Row| -> Vec<PerPrompt> {
            let pairs = row.judged.iter().zip(&rows[baseline].judged);
            pairs
                .map(|(own, other)| PerPrompt::new(&own.verdicts, &other.verdicts, optimum.clone(), c.samples))
                .collect()
        };
        let by_seed: Vec<Vec<PerPrompt>> = rows.iter().map(per_prompt).collect();
        let all: Vec<PerPrompt> = by_seed.iter().map(|seeds| PerPrompt::mean(seeds)).collect();
        let mut methods = Vec::new();
        for (i, (method, row)) in ready.methods.iter().zip(rows).enumerate() {
            let bound = match method.way {
                Way::BestOf { n } => Some(n),
                _ => None,
            };
            let mut seeds = Vec::new();
            for (j, &seed) in c.seeds.iter().enumerate() {
                let (own, other) = (&by_seed[i][j], &by_seed[baseline][j]);
                seeds.push(SeedResult {
                    seed,
                    measures: Measures::new(own, other, bound, row.tokens[j], &draws)?,
                });
            }
            let means: Vec<f64> = seeds.iter().map(|seed| seed.measures.reward.mean).collect();
            methods.push(MethodResult {
                name: method.name.clone(),
                kind: method.kind.clone(),
                control: method.control,
                trains: method.trains(),
                measures: Measures::new(&all[i], &all[baseline], bound, Tokens::mean(&row.tokens), &draws)?,
                reward_seed_deviation: deviation(&means),
                seeds,
            });
        }
        Ok(CompareResult {
            format: FORMAT,
            recipe: ready.recipe.clone(),
            start: ready.start_as_given.clone(),
            baseline: c.baseline.clone(),
            judge: self.judge_name(),
            prompts: self.tasks.tasks.len() as u64,
            samples: c.samples as u64,
            temperature: c.temperature,
            max_new_tokens: c.max_new_tokens as u64,
            overoptimisation: overoptimisation(&methods, &all, &draws)?,
            updates: updates::updates(&self.start, &self.trained(ready, rows))?,
            methods,
        })
    }

    fn trained(&self, ready: &Ready, rows: &[Row]) -> Vec<Trained> {
        let pairs = ready.methods.iter().zip(rows).filter(|(method, _)| method.trains());
        pairs
            .flat_map(|(method, row)| {
                let seeds = self.config.compare.seeds.iter().zip(&row.models);
                seeds.map(|(&seed, model)| Trained {
                    method: method.name.clone(),
                    seed,
                    model: model.clone(),
                })
            })
            .collect()
    }

    fn judge_name(&self) -> String {
        let judge = &self.config.judge;
        match (&judge.environment, &judge.reward) {
            (Some(environment), _) => format!("environment {}", environment.name()),
            (None, Some(_)) => "reward model".to_owned(),
            (None, None) => "rewards".to_owned(),
        }
    }
}

/// How often a run passed over what it sampled, by its own record: `[KIND] epochs`, in PPO `ppo_epochs`.
fn epochs(dir: &Path, kind: &str) -> f64 {
    let text = std::fs::read_to_string(dir.join("run.toml")).unwrap_or_default();
    let table: toml::Table = toml::from_str(&text).unwrap_or_default();
    let section = table.get(&kind.replace('-', "_"));
    let number = |key: &str| {
        let value = section?.get(key)?;
        value.as_float().or_else(|| Some(value.as_integer()? as f64))
    };
    number("epochs").or_else(|| number("ppo_epochs")).unwrap_or(1.0)
}
