//! A comparison's file.

use std::path::{Path, PathBuf};

use hone_data::Source;
use hone_run::Configuration;
use hone_run::config::parse;
use hone_task::{EnvironmentSetting, RewardEntry, Rewards};
use hone_train::hub;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CompareOptions;
use super::method::{Method, check_method};
use crate::error::{PipelineError, Result};
use crate::recipe::{Expect, Frame, ReadyExpect, ReadyStage, Settings, StageSection, Subject, check_name};

/// Stages that make the starting model, what is compared, and what counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// What is run first, as in a recipe of `hone run`.
    #[serde(rename = "stage", default)]
    pub stages: Vec<StageSection>,
    /// What is the same for all methods.
    pub compare: CompareSection,
    /// What counts in the end.
    pub judge: JudgeSection,
    /// What the methods could see, where that is something else; best-of-N and few-shot choose by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxySection>,
    /// What is compared.
    #[serde(rename = "method")]
    pub methods: Vec<MethodSection>,
    /// What is expected of the stages, or of `compare.json` by `stage = "compare"`.
    #[serde(rename = "expect", default)]
    pub expectations: Vec<Expect>,
}

impl Configuration for Comparison {}

/// `[compare]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompareSection {
    /// The model that all methods begin with, also the reference of KL: a directory or a hub id.
    pub start: String,
    /// Every method is run once for each.
    #[serde(default = "seeds")]
    pub seeds: Vec<u64>,
    /// Answers to each of the judge's prompts.
    #[serde(default = "samples")]
    pub samples: usize,
    /// Of sampling; above 0.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// Most tokens of an answer.
    #[serde(default = "max_new_tokens")]
    pub max_new_tokens: usize,
    /// The method against which win rates and differences are taken.
    #[serde(default = "baseline")]
    pub baseline: String,
    /// Times the prompts are drawn again for an interval.
    #[serde(default = "resamples")]
    pub resamples: u32,
    /// Prompts whose answers the page shows side by side.
    #[serde(default = "shown")]
    pub shown: usize,
}

fn seeds() -> Vec<u64> {
    vec![1]
}

fn samples() -> usize {
    4
}

fn temperature() -> f64 {
    1.0
}

fn max_new_tokens() -> usize {
    64
}

fn baseline() -> String {
    "start".to_owned()
}

fn resamples() -> u32 {
    1000
}

fn shown() -> usize {
    8
}

/// `[judge]`: exactly one of `environment`, `rewards` and `reward`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeSection {
    /// Episodes of an environment are played.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentSetting>,
    /// Of an environment: so many of them; 500 where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episodes: Option<u64>,
    /// Of an environment: the seed of the episodes, with which no method may practise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Held-out prompts, for `rewards` and `reward`.
    #[serde(default)]
    pub prompts: Vec<Source>,
    /// A weighted sum of rules, programs and reward models.
    #[serde(default)]
    pub rewards: Vec<RewardEntry>,
    /// A reward model's directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<String>,
}

/// Episodes of a judge where nothing is said.
const EPISODES: u64 = 500;
/// Their seed.
const JUDGE_SEED: u64 = 1_000_003;

impl JudgeSection {
    /// Of an environment: how many episodes.
    pub fn episode_count(&self) -> u64 {
        self.episodes.unwrap_or(EPISODES)
    }

    /// Of an environment: the seed of the episodes.
    pub fn episode_seed(&self) -> u64 {
        self.seed.unwrap_or(JUDGE_SEED)
    }
}

/// `[proxy]`: exactly one of `rewards` and `reward`. It scores the answers to the judge's prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxySection {
    /// A weighted sum of rules, programs and reward models.
    #[serde(default)]
    pub rewards: Vec<RewardEntry>,
    /// A reward model's directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<String>,
}

/// `[[method]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MethodSection {
    /// Its name, and that of its folder.
    pub name: String,
    /// `start`, `best-of`, `few-shot`, or a stage that tunes a model: `sft`, `preference`, `ppo`, `grpo` ...
    pub kind: String,
    /// Of a stage: its settings, or a file of them beside the recipe. `model.path` and `train.seed` are the comparison's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Settings>,
    /// Of a stage: overrides, `KEY=VALUE`.
    #[serde(default)]
    pub set: Vec<String>,
    /// Whether it is a control: something that should not help, to see how the others differ from it.
    #[serde(default)]
    pub control: bool,
    /// How long its practice should take, in minutes; told beside what it took and never enforced, since results do not depend on
    /// the clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minutes: Option<f64>,
    /// Of `best-of`: samples of which one is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<usize>,
    /// Of `few-shot`: the best samples that are shown as examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shots: Option<usize>,
    /// Of `few-shot`: samples from the start, one a practice prompt, of which the best are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Of `few-shot`: practice prompts; of an environment none, since its episodes are played.
    #[serde(default)]
    pub prompts: Vec<Source>,
}

/// A comparison whose settings are resolved and whose files are there, or will be made by its stages.
pub(super) struct Ready {
    /// The recipe's file name.
    pub recipe: String,
    pub stages: Vec<ReadyStage>,
    pub config: Comparison,
    /// The starting model as the recipe has it, before folders are filled in.
    pub start_as_given: String,
    pub methods: Vec<Method>,
    pub expectations: Vec<ReadyExpect>,
}

/// The name by which expectations call `compare.json`.
pub(super) const ITSELF: &str = "compare";

/// Reads and checks a comparison.
///
/// # Errors
/// Anything that can be known to be wrong before something runs.
pub(super) fn load(options: &CompareOptions, out: &Path) -> Result<Ready> {
    let path = &options.path;
    let source = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| PipelineError::file(path, format!("cannot be read: {e}")))?;
    let as_given = parse::<Comparison>(&source, &text, &[])?.config;
    let routed = Routed::new(&as_given, &options.set)?;
    let frame = Frame::new(path, (out, &["{out}", "{runs}"]), &routed.stages)?;
    let fill = |text: &String| frame.fill(text);
    let own: Vec<String> = routed.own.iter().map(fill).collect();
    let config = parse::<Comparison>(&source, &frame.fill(&text), &own)?.config;
    let start_as_given = parse::<Comparison>(&source, &text, &routed.own)?.config.compare.start;

    let check = Check {
        source: &source,
        base: &options.base,
        out,
        stages: &config.stages,
    };
    check.names(&config)?;
    check.compare(&config)?;
    check.judge(&config)?;
    let stages = frame.stages(config.stages.clone())?;
    let mut methods = Vec::new();
    for (i, section) in config.methods.iter().enumerate() {
        let key = format!("method[{i}]");
        methods.push(check_method(&check, (&frame, &key), section, &config)?);
    }
    let mut subjects: Vec<Subject> = stages.iter().map(ReadyStage::subject).collect();
    subjects.push(Subject {
        name: ITSELF.to_owned(),
        has_metrics: false,
    });
    Ok(Ready {
        expectations: frame.expectations(config.expectations.clone(), &subjects)?,
        recipe: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        stages,
        start_as_given,
        methods,
        config,
    })
}

/// Overrides of the command line, by whom they reach.
struct Routed {
    /// Of the comparison's own keys, `judge.episodes=50`, `method[2].n=4`.
    own: Vec<String>,
    /// Of the settings of stages and of methods that are stages, by name.
    stages: Vec<String>,
}

/// The comparison's own tables.
const SECTIONS: [&str; 3] = ["compare", "judge", "proxy"];

impl Routed {
    fn new(config: &Comparison, set: &[String]) -> Result<Self> {
        let (mut own, mut stages) = (Vec::new(), Vec::new());
        for text in set {
            let (name, rest) = text.split_once('.').unwrap_or((text, ""));
            let method = config.methods.iter().position(|method| method.name == name);
            if SECTIONS.contains(&name) {
                own.push(text.clone());
            } else if let Some(i) = method.filter(|&i| config.methods[i].config.is_none()) {
                own.push(format!("method[{i}].{rest}"));
            } else if method.is_some() || config.stages.iter().any(|stage| stage.name == name) {
                stages.push(text.clone());
            } else {
                let stages = config.stages.iter().map(|stage| stage.name.as_str());
                let methods = config.methods.iter().map(|method| method.name.as_str());
                let known: Vec<&str> = SECTIONS.into_iter().chain(stages).chain(methods).collect();
                let reason = format!(
                    "names no part of this comparison; expected NAME.KEY=VALUE with one of {}",
                    known.join(", ")
                );
                return Err(PipelineError::setting(format!("--set {text}"), reason));
            }
        }
        Ok(Self { own, stages })
    }
}

/// What checks need to know.
pub(super) struct Check<'a> {
    /// The recipe's file, as errors call it.
    pub source: &'a str,
    base: &'a Path,
    out: &'a Path,
    stages: &'a [StageSection],
}

impl Check<'_> {
    /// What is wrong with a key of the recipe.
    pub fn error(&self, key: &str, reason: impl Into<String>) -> PipelineError {
        PipelineError::setting(format!("{}: {key}", self.source), reason)
    }

    fn refuse<T>(&self, key: &str, reason: impl Into<String>) -> Result<T> {
        Err(self.error(key, reason))
    }

    fn names(&self, config: &Comparison) -> Result<()> {
        let mut seen: Vec<&str> = SECTIONS.to_vec();
        seen.extend(config.stages.iter().map(|stage| stage.name.as_str()));
        for (i, stage) in config.stages.iter().enumerate() {
            if SECTIONS.contains(&stage.name.as_str()) || [METHODS, JUDGED].contains(&stage.name.as_str()) {
                return self.refuse(
                    &format!("stage[{i}].name"),
                    format!("`{}` has a meaning of its own here", stage.name),
                );
            }
        }
        for (i, method) in config.methods.iter().enumerate() {
            let key = format!("method[{i}]");
            check_name(&method.name, &format!("{}: {key}", self.source))?;
            if seen.contains(&method.name.as_str()) {
                return self.refuse(&format!("{key}.name"), format!("`{}` stands twice", method.name));
            }
            seen.push(&method.name);
        }
        let names: Vec<&str> = config.methods.iter().map(|method| method.name.as_str()).collect();
        if !names.contains(&config.compare.baseline.as_str()) {
            let reason = format!(
                "there is no method `{}`; expected one of {}",
                config.compare.baseline,
                names.join(", ")
            );
            return self.refuse("compare.baseline", reason);
        }
        Ok(())
    }

    fn compare(&self, config: &Comparison) -> Result<()> {
        let c = &config.compare;
        if c.seeds.is_empty() {
            return self.refuse("compare.seeds", "is empty; expected at least one, such as [1]");
        }
        if let Some(twice) = c
            .seeds
            .iter()
            .enumerate()
            .find(|(i, seed)| c.seeds[..*i].contains(seed))
        {
            return self.refuse("compare.seeds", format!("{} stands twice", twice.1));
        }
        let positive = [
            ("compare.samples", c.samples),
            ("compare.max_new_tokens", c.max_new_tokens),
            ("compare.resamples", c.resamples as usize),
        ];
        for (key, value) in positive {
            if value == 0 {
                return self.refuse(key, "is 0; expected at least 1");
            }
        }
        if !c.temperature.is_finite() || c.temperature <= 0.0 {
            let reason = format!(
                "is {}; expected a number above 0, since KL is of a distribution",
                c.temperature
            );
            return self.refuse("compare.temperature", reason);
        }
        self.model("compare.start", &c.start)
    }

    fn judge(&self, config: &Comparison) -> Result<()> {
        let judge = &config.judge;
        let given = [
            judge.environment.is_some(),
            !judge.rewards.is_empty(),
            judge.reward.is_some(),
        ];
        match given.iter().filter(|given| **given).count() {
            1 => {}
            0 => {
                return self.refuse(
                    "judge",
                    "has none of environment, rewards and reward; expected one of them",
                );
            }
            _ => {
                return self.refuse(
                    "judge",
                    "has several of environment, rewards and reward; expected one of them",
                );
            }
        }
        if let Some(environment) = &judge.environment {
            if !judge.prompts.is_empty() {
                return self.refuse(
                    "judge.prompts",
                    "an environment has episodes instead of prompts; leave it out",
                );
            }
            if judge.episodes == Some(0) {
                return self.refuse("judge.episodes", "is 0; expected at least 1");
            }
            let seed = judge.episode_seed();
            if config.compare.seeds.contains(&seed) {
                let reason = format!("is {seed}, with which a method practises; expected another than compare.seeds");
                return self.refuse("judge.seed", reason);
            }
            self.environment(environment)?;
        } else {
            for (key, given) in [("episodes", judge.episodes), ("seed", judge.seed)] {
                if given.is_some() {
                    return self.refuse(&format!("judge.{key}"), "is an environment's; these are prompts");
                }
            }
            if judge.prompts.is_empty() {
                return self.refuse(
                    "judge.prompts",
                    "is empty; expected at least one source of held-out prompts",
                );
            }
            self.sources("judge.prompts", &judge.prompts)?;
        }
        self.scale("judge", &judge.rewards, judge.reward.as_deref())?;
        let Some(proxy) = &config.proxy else { return Ok(()) };
        if proxy.rewards.is_empty() == proxy.reward.is_none() {
            return self.refuse("proxy", "expected exactly one of rewards and reward");
        }
        self.scale("proxy", &proxy.rewards, proxy.reward.as_deref())
    }

    fn environment(&self, environment: &EnvironmentSetting) -> Result<()> {
        let several_turns = match environment {
            EnvironmentSetting::Maze(maze) => maze.moves_per_turn.is_some(),
            EnvironmentSetting::WordGame(game) => game.turns > 1,
        };
        if let Err(error) = environment.build() {
            return self.refuse("judge.environment", error.to_string());
        }
        if several_turns {
            let reason = "has several turns; expected one in which the whole way is written, as without moves_per_turn";
            return self.refuse("judge.environment", reason);
        }
        Ok(())
    }

    /// Rewards or a reward model.
    fn scale(&self, table: &str, rewards: &[RewardEntry], reward: Option<&str>) -> Result<()> {
        if let Some(reward) = reward {
            self.model(&format!("{table}.reward"), reward)?;
        }
        if rewards.is_empty() {
            return Ok(());
        }
        if let Err(error) = Rewards::check(rewards) {
            return self.refuse(table, error.to_string());
        }
        for (i, entry) in rewards.iter().enumerate() {
            if let hone_task::RewardRule::Model { path } = &entry.rule {
                self.model(&format!("{table}.rewards[{i}].path"), path)?;
            }
        }
        Ok(())
    }

    /// A model that is there, will be made by a stage, or may be on the hub.
    pub fn model(&self, key: &str, name: &str) -> Result<()> {
        let path = self.base.join(name);
        let there = path.join("config.json").is_file() || path.join("adapter_config.json").is_file();
        if there || self.is_made(key, &path)? || (!path.exists() && hub::Id::parse(name).is_some()) {
            return Ok(());
        }
        let what = if path.exists() {
            "is no model: it has no config.json"
        } else {
            "is not there"
        };
        self.refuse(key, format!("{} {what}; expected a model's directory", path.display()))
    }

    /// Files of data that are there or will be made by a stage.
    pub fn sources(&self, key: &str, sources: &[Source]) -> Result<()> {
        sources.iter().try_for_each(|source| self.file(key, &source.path))
    }

    /// A file that is there or will be made by a stage.
    pub fn file(&self, key: &str, path: &Path) -> Result<()> {
        let path = self.base.join(path);
        if path.exists() || self.is_made(key, &path)? {
            return Ok(());
        }
        self.refuse(key, format!("{} is not there; expected a file", path.display()))
    }

    /// Whether a path lies in the folder of a stage of this comparison.
    fn is_made(&self, key: &str, path: &Path) -> Result<bool> {
        let out = std::path::absolute(self.out).map_err(|e| PipelineError::file(self.out, e.to_string()))?;
        let path = std::path::absolute(path).map_err(|e| PipelineError::file(path, e.to_string()))?;
        let Ok(inside) = path.strip_prefix(&out) else {
            return Ok(false);
        };
        let first = inside
            .components()
            .next()
            .map(|part| part.as_os_str().to_string_lossy().into_owned());
        let Some(first) = first else { return Ok(false) };
        let made = self.stages.iter().any(|stage| stage.name == first);
        if !made && !path.exists() {
            let names: Vec<&str> = self.stages.iter().map(|stage| stage.name.as_str()).collect();
            let reason = format!(
                "is {}, and there is no stage `{first}`; there are: {}",
                path.display(),
                names.join(", ")
            );
            return self.refuse(key, reason);
        }
        Ok(made)
    }
}

/// The folder of practice.
pub(super) const METHODS: &str = "methods";
/// The folder of judged answers.
pub(super) const JUDGED: &str = "judged";

/// The model's directory: where it stands, or the local copy of a hub id.
pub(super) fn directory(base: &Path, key: &str, name: &str) -> Result<PathBuf> {
    let path = base.join(name);
    match hub::Id::parse(name) {
        Some(id) if !path.exists() => {
            let fetched = hub::fetch(&id).map_err(|source| hone_train::TrainError::Hub {
                key: key.into(),
                name: name.into(),
                source,
            })?;
            Ok(fetched.directory)
        }
        _ => Ok(path),
    }
}
