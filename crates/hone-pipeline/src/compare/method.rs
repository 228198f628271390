//! What is compared: ways to a model, or to better answers of the one that there is.

use std::path::Path;

use hone_data::Source;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as KindError, StrDeserializer};

use super::config::{Check, Comparison, MethodSection};
use crate::error::Result;
use crate::recipe::{Frame, ReadyStage, StageKind, StageSection};

/// A method whose settings are resolved.
pub(super) struct Method {
    pub name: String,
    /// As in the recipe.
    pub kind: String,
    pub control: bool,
    pub minutes: Option<f64>,
    pub way: Way,
}

/// How it answers.
pub(super) enum Way {
    /// The starting model as it is.
    Start,
    /// The best of `n` of its samples.
    BestOf { n: usize },
    /// The starting model after the best of its own samples.
    FewShot {
        shots: usize,
        samples: usize,
        prompts: Vec<Source>,
    },
    /// A model that a stage makes of it, one a seed.
    Stage(Vec<ReadyStage>),
}

impl Method {
    /// Whether it changes weights.
    pub fn trains(&self) -> bool {
        matches!(self.way, Way::Stage(_))
    }

    /// Whether it answers with, or shows, samples that something chose.
    pub fn picks(&self) -> bool {
        matches!(self.way, Way::BestOf { .. } | Way::FewShot { .. })
    }
}

/// Keys that one kind of method has, with the kind.
fn own_keys(section: &MethodSection) -> [(&'static str, &'static str, bool); 4] {
    [
        ("n", "best-of", section.n.is_some()),
        ("shots", "few-shot", section.shots.is_some()),
        ("samples", "few-shot", section.samples.is_some()),
        ("prompts", "few-shot", !section.prompts.is_empty()),
    ]
}

/// Checks a method and resolves its settings for every seed; `key` is the method's, as `method[2]`.
pub(super) fn check_method(
    check: &Check<'_>,
    (frame, key): (&Frame, &str),
    section: &MethodSection,
    config: &Comparison,
) -> Result<Method> {
    let refused = |name: &str, reason: String| check.error(&format!("{key}.{name}"), reason);
    let samples_only = ["start", "best-of", "few-shot"].contains(&section.kind.as_str());
    if !samples_only {
        stage_kind(check, &section.kind, key)?;
    }
    for (name, kind, given) in own_keys(section) {
        if given && section.kind != kind {
            return Err(refused(name, format!("is a {kind} method's; this is {}", section.kind)));
        }
    }
    if samples_only && (section.config.is_some() || !section.set.is_empty()) {
        let reason = format!("is a stage's; a {} method trains nothing", section.kind);
        return Err(refused("config", reason));
    }
    if let Some(minutes) = section
        .minutes
        .filter(|minutes| !minutes.is_finite() || *minutes <= 0.0)
    {
        return Err(refused("minutes", format!("is {minutes}; expected a number above 0")));
    }
    let at_least = |name: &str, value: Option<usize>, least: usize| match value {
        Some(value) if value >= least => Ok(value),
        Some(value) => Err(refused(name, format!("is {value}; expected at least {least}"))),
        None => Err(refused(name, "is missing".into())),
    };
    let way = match section.kind.as_str() {
        "start" => Way::Start,
        "best-of" => Way::BestOf {
            n: at_least("n", section.n, 2)?,
        },
        "few-shot" => {
            let shots = at_least("shots", section.shots, 1)?;
            let samples = at_least("samples", section.samples, shots)?;
            let wrong = match (&config.judge.environment, section.prompts.is_empty()) {
                (Some(_), false) => Some("the judge is an environment, whose episodes are played; leave it out"),
                (None, true) => Some("is empty; expected prompts to practise on, other than the judge's"),
                _ => None,
            };
            if let Some(reason) = wrong {
                return Err(refused("prompts", reason.into()));
            }
            check.sources(&format!("{key}.prompts"), &section.prompts)?;
            Way::FewShot {
                shots,
                samples,
                prompts: section.prompts.clone(),
            }
        }
        kind => Way::Stage(stages(check, (frame, key), (section, kind), config)?),
    };
    Ok(Method {
        name: section.name.clone(),
        kind: section.kind.clone(),
        control: section.control,
        minutes: section.minutes,
        way,
    })
}

/// The kind of stage that a method's kind names.
fn stage_kind(check: &Check<'_>, kind: &str, key: &str) -> Result<StageKind> {
    let known = "expected start, best-of, few-shot, or a stage that tunes a model";
    let deserializer: StrDeserializer<'_, KindError> = kind.into_deserializer();
    match StageKind::deserialize(deserializer) {
        Ok(stage) if stage.tunes_a_model() => Ok(stage),
        Ok(_) => Err(check.error(
            &format!("{key}.kind"),
            format!("is `{kind}`, a stage that tunes no model; {known}. What it prepares is made by a [[stage]]"),
        )),
        Err(error) => Err(check.error(&format!("{key}.kind"), format!("is `{kind}`; {known}: {error}"))),
    }
}

/// Keys of a stage's settings that are the comparison's.
const OURS: [(&str, &str); 2] = [("model", "path"), ("train", "seed")];

/// The settings of a method's stage, one a seed.
fn stages(
    check: &Check<'_>,
    (frame, key): (&Frame, &str),
    (section, kind): (&MethodSection, &str),
    config: &Comparison,
) -> Result<Vec<ReadyStage>> {
    let stage = StageSection {
        name: section.name.clone(),
        kind: stage_kind(check, kind, key)?,
        config: section.config.clone(),
        set: section.set.clone(),
        scale: None,
        seed: None,
    };
    let full = format!("{}: {key}", check.source);
    let (_, text) = frame.settings(&stage, &full)?;
    // What is no TOML is told by those who read it below, with its place
    let table: toml::Table = toml::from_str(&text).unwrap_or_default();
    for (section, name) in OURS {
        let stated = table.get(section).and_then(|inner| inner.get(name)).is_some();
        let own = format!("{section}.{name}");
        let set = frame
            .overrides(&stage)
            .any(|text| text.split('=').next().is_some_and(|key| key.trim() == own));
        if stated || set {
            let reason = "is the comparison's, so that all methods begin alike: leave it out";
            return Err(check.error(&format!("{key}.config.{own}"), reason));
        }
    }
    files_are_there(check, key, &table)?;
    let path = toml::Value::String(config.compare.start.clone());
    let of_seed = |seed: &u64| {
        let last = [format!("model.path={path}"), format!("train.seed={seed}")];
        frame.ready(stage.clone(), &full, &last)
    };
    config.compare.seeds.iter().map(of_seed).collect()
}

/// Where settings name files of data, by section and key.
const FILES: [(&str, &str); 4] = [
    ("data", "train"),
    ("data", "prompts"),
    ("ptx", "train"),
    ("judge", "prompts"),
];
/// Where they name reward models.
const MODELS: [(&str, &str); 2] = [("reward", "path"), ("judge", "reward")];

/// What settings name, as far as that can be told without knowing the stage.
fn files_are_there(check: &Check<'_>, key: &str, table: &toml::Table) -> Result<()> {
    let value = |section: &str, name: &str| table.get(section)?.get(name);
    for (section, name) in FILES {
        let sources = value(section, name).and_then(toml::Value::as_array);
        for source in sources.into_iter().flatten() {
            let path = source.as_str().or_else(|| source.get("path")?.as_str());
            if let Some(path) = path {
                check.file(&format!("{key}.config.{section}.{name}"), Path::new(path))?;
            }
        }
    }
    for (section, name) in MODELS {
        if let Some(path) = value(section, name).and_then(toml::Value::as_str) {
            check.model(&format!("{key}.config.{section}.{name}"), path)?;
        }
    }
    for (name, entries) in [
        ("rewards", table.get("rewards")),
        ("judge.rewards", value("judge", "rewards")),
    ] {
        let entries = entries.and_then(toml::Value::as_array);
        for (i, entry) in entries.into_iter().flatten().enumerate() {
            let text = |key: &str| entry.get(key).and_then(toml::Value::as_str);
            if let (Some("model"), Some(path)) = (text("kind"), text("path")) {
                check.model(&format!("{key}.config.{name}[{i}].path"), path)?;
            }
        }
    }
    Ok(())
}
