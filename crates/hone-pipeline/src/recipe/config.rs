//! A recipe's file.

use std::path::{Path, PathBuf};

use hone_data::Source;
use hone_run::config::parse;
use hone_run::{Configuration, Resolved};
use hone_train::{
    Checked, check, expert_iteration::ExpertIterationConfig, grpo::GrpoConfig,
    online_preference::OnlinePreferenceConfig, ppo::PpoConfig, preference::PreferenceConfig, pretrain::PretrainConfig,
    reward::RewardConfig, sft::SftConfig,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RecipeOptions;
use super::annotate::AnnotateConfig;
use super::demonstrations::DemonstrationsConfig;
use super::expect::{ReadyExpect, Subject};
use super::judge::JudgeConfig;
use super::split::SplitConfig;
use crate::error::{PipelineError, Result};
use crate::quickstart::{QuickstartConfig, Scale};

/// Stages and expectations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What is run, in order.
    #[serde(rename = "stage")]
    pub stages: Vec<StageSection>,
    /// What is expected of the results.
    #[serde(rename = "expect", default)]
    pub expectations: Vec<Expect>,
}

impl Configuration for Recipe {
    fn refused(key: &str) -> Option<&'static str> {
        let table = key.split(['.', '[']).next().unwrap_or_default();
        ["compare", "judge", "proxy", "method"]
            .contains(&table)
            .then_some("this is a part of a comparison, which `hone compare RECIPE` runs")
    }
}

/// `[[stage]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageSection {
    /// Its folder under the runs' folder.
    pub name: String,
    /// What it does.
    pub kind: StageKind,
    /// Its settings, or a file of them beside the recipe. A quickstart takes `set` instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Settings>,
    /// Overrides, `KEY=VALUE`.
    #[serde(default)]
    pub set: Vec<String>,
    /// Of a quickstart: how large it is; `default` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleSetting>,
    /// Of a quickstart: its seed; 1 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// What a stage does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StageKind {
    /// Writes episodes of a player that is no model.
    Demonstrations,
    /// Divides conversations into a part to learn from and a part to judge by.
    Split,
    /// Trains a tokenizer.
    Tokenizer,
    /// Pre-trains.
    Pretrain,
    /// Tunes on demonstrations.
    Sft,
    /// Trains a reward model.
    Reward,
    /// Tunes on preferences without a reward model.
    Preference,
    /// Improves a policy by PPO.
    Ppo,
    /// Improves a policy by a group-relative method.
    Grpo,
    /// Tunes a model on the best of its own responses, round after round.
    ExpertIteration,
    /// Tunes a policy on pairs of its own responses.
    OnlinePreference,
    /// Has a model's answers ranked, or demonstrations written, by people or simulated annotators.
    Annotate,
    /// Compares models by the small world's labeler, with what their labels cost.
    Judge,
    /// The whole arc on the bundled small world.
    Quickstart,
}

impl StageKind {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Demonstrations => "demonstrations",
            Self::Split => "split",
            Self::Tokenizer => "tokenizer",
            Self::Pretrain => "pretrain",
            Self::Sft => "sft",
            Self::Reward => "reward",
            Self::Preference => "preference",
            Self::Ppo => "ppo",
            Self::Grpo => "grpo",
            Self::ExpertIteration => "expert-iteration",
            Self::OnlinePreference => "online-preference",
            Self::Annotate => "annotate",
            Self::Judge => "judge",
            Self::Quickstart => "quickstart",
        }
    }

    /// Whether it makes a language model from another, so that it can be a method of a comparison.
    pub fn tunes_a_model(self) -> bool {
        !matches!(
            self,
            Self::Demonstrations
                | Self::Split
                | Self::Tokenizer
                | Self::Pretrain
                | Self::Reward
                | Self::Annotate
                | Self::Judge
                | Self::Quickstart
        )
    }
}

/// Of a quickstart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScaleSetting {
    /// Half a minute.
    Smoke,
    /// Five minutes.
    #[default]
    Default,
}

impl From<ScaleSetting> for Scale {
    fn from(setting: ScaleSetting) -> Self {
        match setting {
            ScaleSetting::Smoke => Self::Smoke,
            ScaleSetting::Default => Self::Default,
        }
    }
}

/// A stage's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Settings {
    /// A file beside the recipe.
    File(PathBuf),
    /// The settings themselves.
    Inline(#[schemars(with = "serde_json::Map<String, serde_json::Value>")] toml::Table),
}

/// Settings of a tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// Texts.
    pub files: Vec<Source>,
    /// Tokens.
    pub vocab_size: usize,
    /// Bytes of text at most; the document that crosses it is the last, and nothing after it is read.
    #[serde(default = "most_bytes")]
    pub bytes: usize,
}

impl Configuration for TokenizerConfig {}

fn most_bytes() -> usize {
    64 << 20
}

/// `[[expect]]`: exactly one of `value` and `metric`, and one of `above` and `below`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// In words.
    pub that: String,
    /// Of which stage.
    pub stage: String,
    /// A dotted path into its result; lists by index, or by the `name` of their elements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// A metric of its run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Which of the metric's values; the last unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<At>,
    /// The value is above this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<Amount>,
    /// The value is below this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<Amount>,
}

/// Which of a metric's values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// The first.
    First,
    /// The last.
    #[default]
    Last,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// What is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Amount {
    /// A number.
    Number(f64),
    /// Another value, `STAGE:VALUE`.
    Value(String),
}

/// A stage whose settings are resolved.
pub(crate) struct ReadyStage {
    pub name: String,
    pub work: Work,
}

impl ReadyStage {
    /// What can be expected of it.
    pub fn subject(&self) -> Subject {
        Subject {
            name: self.name.clone(),
            has_metrics: self.work.has_metrics(),
        }
    }
}

/// What a stage does, with its settings.
pub(crate) enum Work {
    Demonstrations(Box<Resolved<DemonstrationsConfig>>),
    Split(Box<Resolved<SplitConfig>>),
    Tokenizer(Resolved<TokenizerConfig>),
    Pretrain(Box<Resolved<PretrainConfig>>),
    Sft(Box<Resolved<SftConfig>>),
    Reward(Box<Resolved<RewardConfig>>),
    Preference(Box<Resolved<PreferenceConfig>>),
    Ppo(Box<Resolved<PpoConfig>>),
    Grpo(Box<Resolved<GrpoConfig>>),
    ExpertIteration(Box<Resolved<ExpertIterationConfig>>),
    OnlinePreference(Box<Resolved<OnlinePreferenceConfig>>),
    Annotate(Box<Resolved<AnnotateConfig>>),
    Judge(Box<Resolved<JudgeConfig>>),
    Quickstart(Box<Quickstart>),
}

/// Resolved settings that make sense by themselves: what a later stage would refuse is told before the first one runs.
fn checked<C: Checked>(source: &str, text: &str, overrides: &[String]) -> Result<Box<Resolved<C>>> {
    let resolved = parse(source, text, overrides)?;
    check(&resolved)?;
    Ok(Box::new(resolved))
}

impl Work {
    /// Resolves the settings of a stage: `text`, which errors call `source`, with overrides.
    fn new(stage: &StageSection, (source, text): (&str, &str), overrides: Vec<String>) -> Result<Self> {
        Ok(match stage.kind {
            StageKind::Demonstrations => {
                let resolved: Resolved<DemonstrationsConfig> = parse(source, text, &overrides)?;
                resolved.config.check()?;
                Self::Demonstrations(Box::new(resolved))
            }
            StageKind::Split => {
                let resolved: Resolved<SplitConfig> = parse(source, text, &overrides)?;
                resolved.config.check()?;
                Self::Split(Box::new(resolved))
            }
            StageKind::Tokenizer => Self::Tokenizer(parse(source, text, &overrides)?),
            StageKind::Pretrain => Self::Pretrain(checked(source, text, &overrides)?),
            StageKind::Sft => Self::Sft(checked(source, text, &overrides)?),
            StageKind::Reward => Self::Reward(checked(source, text, &overrides)?),
            StageKind::Preference => Self::Preference(checked(source, text, &overrides)?),
            StageKind::Ppo => Self::Ppo(checked(source, text, &overrides)?),
            StageKind::Grpo => Self::Grpo(checked(source, text, &overrides)?),
            StageKind::ExpertIteration => Self::ExpertIteration(checked(source, text, &overrides)?),
            StageKind::OnlinePreference => Self::OnlinePreference(checked(source, text, &overrides)?),
            StageKind::Annotate => {
                let resolved: Resolved<AnnotateConfig> = parse(source, text, &overrides)?;
                resolved.config.check()?;
                Self::Annotate(Box::new(resolved))
            }
            StageKind::Judge => {
                let resolved: Resolved<JudgeConfig> = parse(source, text, &overrides)?;
                resolved.config.check()?;
                Self::Judge(Box::new(resolved))
            }
            StageKind::Quickstart => {
                let (scale, seed) = (stage.scale.unwrap_or_default().into(), stage.seed.unwrap_or(1));
                let config = QuickstartConfig::with_overrides(scale, seed, &overrides)?;
                Self::Quickstart(Box::new(Quickstart {
                    scale,
                    seed,
                    set: overrides,
                    config,
                }))
            }
        })
    }

    /// What it is.
    pub fn kind(&self) -> StageKind {
        match self {
            Self::Demonstrations(_) => StageKind::Demonstrations,
            Self::Split(_) => StageKind::Split,
            Self::Tokenizer(_) => StageKind::Tokenizer,
            Self::Pretrain(_) => StageKind::Pretrain,
            Self::Sft(_) => StageKind::Sft,
            Self::Reward(_) => StageKind::Reward,
            Self::Preference(_) => StageKind::Preference,
            Self::Ppo(_) => StageKind::Ppo,
            Self::Grpo(_) => StageKind::Grpo,
            Self::ExpertIteration(_) => StageKind::ExpertIteration,
            Self::OnlinePreference(_) => StageKind::OnlinePreference,
            Self::Annotate(_) => StageKind::Annotate,
            Self::Judge(_) => StageKind::Judge,
            Self::Quickstart(_) => StageKind::Quickstart,
        }
    }

    /// Its settings, as they are resolved; none of a quickstart and a tokenizer.
    pub fn table(&self) -> Option<&toml::Table> {
        Some(match self {
            Self::Demonstrations(resolved) => resolved.table(),
            Self::Split(resolved) => resolved.table(),
            Self::Pretrain(resolved) => resolved.table(),
            Self::Sft(resolved) => resolved.table(),
            Self::Reward(resolved) => resolved.table(),
            Self::Preference(resolved) => resolved.table(),
            Self::Ppo(resolved) => resolved.table(),
            Self::Grpo(resolved) => resolved.table(),
            Self::ExpertIteration(resolved) => resolved.table(),
            Self::OnlinePreference(resolved) => resolved.table(),
            Self::Annotate(resolved) => resolved.table(),
            Self::Judge(resolved) => resolved.table(),
            Self::Tokenizer(_) | Self::Quickstart(_) => return None,
        })
    }

    /// Whether its run writes metrics.
    pub fn has_metrics(&self) -> bool {
        !matches!(
            self,
            Self::Demonstrations(_)
                | Self::Split(_)
                | Self::Tokenizer(_)
                | Self::Annotate(_)
                | Self::Judge(_)
                | Self::Quickstart(_)
        )
    }
}

/// Settings of a quickstart.
pub(crate) struct Quickstart {
    pub scale: Scale,
    pub seed: u64,
    pub set: Vec<String>,
    pub config: Resolved<QuickstartConfig>,
}

pub(super) struct ReadyRecipe {
    pub stages: Vec<ReadyStage>,
    pub expectations: Vec<ReadyExpect>,
}

/// Reads and checks a recipe: all settings of all stages are resolved and all expectations checked, but for the values and
/// metrics that only the runs will have.
pub(super) fn load(options: &RecipeOptions) -> Result<ReadyRecipe> {
    let recipe = hone_run::config::load::<Recipe>(&options.path, &[])?.config;
    let frame = Frame::new(&options.path, (&options.runs, &["{runs}"]), &options.set)?;
    let names: Vec<&str> = recipe.stages.iter().map(|stage| stage.name.as_str()).collect();
    for text in &options.set {
        if !text.split_once('.').is_some_and(|(name, _)| names.contains(&name)) {
            let reason = format!(
                "names no stage of this recipe; expected STAGE.KEY=VALUE with one of {}",
                names.join(", ")
            );
            return Err(PipelineError::setting(format!("--set {text}"), reason));
        }
    }
    let stages = frame.stages(recipe.stages)?;
    let subjects: Vec<Subject> = stages.iter().map(ReadyStage::subject).collect();
    Ok(ReadyRecipe {
        expectations: frame.expectations(recipe.expectations, &subjects)?,
        stages,
    })
}

/// Where a recipe lies, what its texts may name, and what is set on the command line.
pub(crate) struct Frame {
    path: PathBuf,
    folder: PathBuf,
    /// What stands for a folder in a recipe's texts, and the folder.
    places: Vec<(&'static str, String)>,
    /// `NAME.KEY=VALUE`, the stage by its name.
    set: Vec<String>,
}

impl Frame {
    /// The frame of a recipe whose runs lie in a folder, which its texts may call by these names.
    pub fn new(path: &Path, (runs, names): (&Path, &[&'static str]), set: &[String]) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let absolute = |path: &Path| std::path::absolute(path).map_err(|e| PipelineError::file(path, e.to_string()));
        let runs = absolute(runs)?.to_string_lossy().into_owned();
        let own = absolute(if folder == Path::new("") {
            Path::new(".")
        } else {
            folder
        })?;
        let places = names.iter().map(|name| (*name, runs.clone()));
        Ok(Self {
            path: path.into(),
            folder: folder.into(),
            places: places
                .chain([("{recipe}", own.to_string_lossy().into_owned())])
                .collect(),
            set: set.to_vec(),
        })
    }

    /// A text of TOML with the names of folders replaced. In a TOML string a backslash starts an escape.
    pub fn fill(&self, text: &str) -> String {
        let places = self.places.iter();
        places.fold(text.to_owned(), |text, (name, place)| {
            text.replace(name, &place.replace('\\', "/"))
        })
    }

    /// Resolves the settings of all stages.
    ///
    /// # Errors
    /// The first stage whose name or settings make no sense.
    pub fn stages(&self, sections: Vec<StageSection>) -> Result<Vec<ReadyStage>> {
        let mut stages: Vec<ReadyStage> = Vec::new();
        for (i, stage) in sections.into_iter().enumerate() {
            let key = format!("{}: stage[{i}]", self.path.display());
            if stages.iter().any(|earlier| earlier.name == stage.name) {
                return Err(PipelineError::setting(
                    format!("{key}.name"),
                    format!("`{}` stands twice", stage.name),
                ));
            }
            check_name(&stage.name, &key)?;
            stages.push(self.ready(stage, &key, &[])?);
        }
        Ok(stages)
    }

    /// Checks what is expected.
    ///
    /// # Errors
    /// The first expectation that makes no sense.
    pub fn expectations(&self, expectations: Vec<Expect>, subjects: &[Subject]) -> Result<Vec<ReadyExpect>> {
        let ready = |(i, expect)| ReadyExpect::new(expect, format!("{}: expect[{i}]", self.path.display()), subjects);
        expectations.into_iter().enumerate().map(ready).collect()
    }

    /// Resolves the settings of one stage, with overrides after all others.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub fn ready(&self, stage: StageSection, key: &str, last: &[String]) -> Result<ReadyStage> {
        if stage.kind != StageKind::Quickstart {
            for (given, name) in [(stage.scale.is_some(), "scale"), (stage.seed.is_some(), "seed")] {
                if given {
                    let reason = format!(
                        "is a quickstart's; what a {} stage reads stands in its config",
                        stage.kind.name()
                    );
                    return Err(PipelineError::setting(format!("{key}.{name}"), reason));
                }
            }
        }
        let (source, text) = self.settings(&stage, key)?;
        let overrides: Vec<String> = self.overrides(&stage).chain(last.iter().cloned()).collect();
        let work = Work::new(&stage, (&source, &text), overrides).map_err(|source| PipelineError::Settings {
            recipe: self.path.display().to_string(),
            stage: stage.name.clone(),
            source: Box::new(source),
        })?;
        Ok(ReadyStage { name: stage.name, work })
    }

    /// A stage's own overrides and those of the command line.
    pub fn overrides<'a>(&'a self, stage: &'a StageSection) -> impl Iterator<Item = String> + 'a {
        let prefix = format!("{}.", stage.name);
        let own = self
            .set
            .iter()
            .filter_map(move |text| text.strip_prefix(&prefix).map(String::from));
        stage.set.iter().cloned().chain(own).map(move |text| {
            let places = self.places.iter();
            places.fold(text, |text, (name, place)| text.replace(name, place))
        })
    }

    /// What errors call a stage's settings, and the settings as TOML.
    ///
    /// # Errors
    /// Settings that are missing, or a file that cannot be read.
    pub fn settings(&self, stage: &StageSection, key: &str) -> Result<(String, String)> {
        let source = "config".to_string();
        let (source, text) = match (&stage.config, stage.kind) {
            (None, StageKind::Quickstart) => (source, String::new()),
            (Some(_), StageKind::Quickstart) => {
                return Err(PipelineError::setting(
                    format!("{key}.config"),
                    "a quickstart takes scale, seed and set instead",
                ));
            }
            (None, _) => {
                return Err(PipelineError::setting(format!("{key}.config"), "is missing"));
            }
            (Some(Settings::Inline(table)), _) => {
                let text = toml::to_string(table)
                    .map_err(|e| PipelineError::setting(format!("{key}.config"), e.to_string()))?;
                (source, text)
            }
            (Some(Settings::File(file)), _) => {
                let path = self.folder.join(file);
                let text = std::fs::read_to_string(&path)
                    .map_err(|e| PipelineError::file(&path, format!("cannot be read: {e}")))?;
                (path.display().to_string(), text)
            }
        };
        Ok((source, self.fill(&text)))
    }
}

/// A name that is that of a folder.
pub(crate) fn check_name(name: &str, key: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        return Ok(());
    }
    let reason = format!("is `{name}`; expected letters, digits, - and _: it names a folder");
    Err(PipelineError::setting(format!("{key}.name"), reason))
}
