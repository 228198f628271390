//! A recipe's file.

use std::path::{Path, PathBuf};

use hone_data::Source;
use hone_run::Configuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RecipeOptions;
use crate::error::{PipelineError, Result};
use crate::quickstart::Scale;

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

impl Configuration for Recipe {}

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
    /// Of a quickstart: how large it is.
    #[serde(default)]
    pub scale: ScaleSetting,
    /// Of a quickstart: its seed.
    #[serde(default = "one")]
    pub seed: u64,
}

fn one() -> u64 {
    1
}

/// What a stage does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StageKind {
    /// Trains a tokenizer.
    Tokenizer,
    /// Pre-trains.
    Pretrain,
    /// Tunes on demonstrations.
    Sft,
    /// Trains a reward model.
    Reward,
    /// Improves a policy by PPO.
    Ppo,
    /// The whole arc on the bundled small world.
    Quickstart,
}

impl StageKind {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::Pretrain => "pretrain",
            Self::Sft => "sft",
            Self::Reward => "reward",
            Self::Ppo => "ppo",
            Self::Quickstart => "quickstart",
        }
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
    /// Bytes read at most.
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
    /// Which of the metric's values.
    #[serde(default)]
    pub at: At,
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

/// A stage with its settings as text, ready to be parsed for its kind.
pub(super) struct ReadyStage {
    pub name: String,
    pub kind: StageKind,
    /// What errors call the settings.
    pub source: String,
    pub text: String,
    pub overrides: Vec<String>,
    pub scale: ScaleSetting,
    pub seed: u64,
}

pub(super) struct ReadyRecipe {
    pub stages: Vec<ReadyStage>,
    pub expectations: Vec<Expect>,
}

/// Reads and checks a recipe.
pub(super) fn load(options: &RecipeOptions) -> Result<ReadyRecipe> {
    let recipe = hone_run::config::load::<Recipe>(&options.path, &[])?.config;
    let folder = options.path.parent().unwrap_or(Path::new(""));
    let runs = std::path::absolute(&options.runs).map_err(|e| PipelineError::file(&options.runs, e.to_string()))?;
    let own = std::path::absolute(if folder == Path::new("") {
        Path::new(".")
    } else {
        folder
    })
    .map_err(|e| PipelineError::file(folder, e.to_string()))?;
    let places =
        [("{runs}", &runs), ("{recipe}", &own)].map(|(name, path)| (name, path.to_string_lossy().into_owned()));
    for text in &options.set {
        let name = text.split_once('.').map(|(name, _)| name);
        if !recipe.stages.iter().any(|stage| Some(stage.name.as_str()) == name) {
            let names: Vec<&str> = recipe.stages.iter().map(|stage| stage.name.as_str()).collect();
            let reason = format!(
                "names no stage of this recipe; expected STAGE.KEY=VALUE with one of {}",
                names.join(", ")
            );
            return Err(PipelineError::setting(format!("--set {text}"), reason));
        }
    }
    let mut stages: Vec<ReadyStage> = Vec::new();
    for (i, stage) in recipe.stages.into_iter().enumerate() {
        let key = format!("stage[{i}]");
        if stages.iter().any(|earlier| earlier.name == stage.name) {
            return Err(PipelineError::setting(
                format!("{key}.name"),
                format!("`{}` stands twice", stage.name),
            ));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        if stage.name.is_empty() || !stage.name.chars().all(plain) {
            let reason = format!(
                "is `{}`; expected letters, digits, - and _: it names a folder",
                stage.name
            );
            return Err(PipelineError::setting(format!("{key}.name"), reason));
        }
        stages.push(ready(stage, &key, (folder, &places), options)?);
    }
    Ok(ReadyRecipe {
        stages,
        expectations: recipe.expectations,
    })
}

/// What stands for a folder in a recipe's texts, and the folder.
type Places = [(&'static str, String); 2];

fn ready(
    stage: StageSection,
    key: &str,
    (folder, places): (&Path, &Places),
    options: &RecipeOptions,
) -> Result<ReadyStage> {
    let source = format!("{}, stage {}", options.path.display(), stage.name);
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
            let text =
                toml::to_string(table).map_err(|e| PipelineError::setting(format!("{key}.config"), e.to_string()))?;
            (source, text)
        }
        (Some(Settings::File(file)), _) => {
            let path = folder.join(file);
            let text = std::fs::read_to_string(&path)
                .map_err(|e| PipelineError::file(&path, format!("cannot be read: {e}")))?;
            (path.display().to_string(), text)
        }
    };
    let prefix = format!("{}.", stage.name);
    let own = options
        .set
        .iter()
        .filter_map(|text| text.strip_prefix(&prefix).map(String::from));
    let overrides = stage
        .set
        .iter()
        .cloned()
        .chain(own)
        .map(|text| {
            places
                .iter()
                .fold(text, |text, (name, place)| text.replace(name, place))
        })
        .collect();
    // In a TOML string a backslash starts an escape.
    let text = places.iter().fold(text, |text, (name, place)| {
        text.replace(name, &place.replace('\\', "/"))
    });
    let StageSection {
        name,
        kind,
        scale,
        seed,
        ..
    } = stage;
    Ok(ReadyStage {
        name,
        kind,
        source,
        text,
        overrides,
        scale,
        seed,
    })
}
