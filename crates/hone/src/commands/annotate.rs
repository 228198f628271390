//! `hone annotate`: pages on which people rank, compare, rate and write answers.

mod answers;

use std::collections::{BTreeMap, HashSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use hone_compute::SamplingError;
use hone_data::annotations::{
    Export, Imported, ItemFile, NewItem, Project, Role, Settings, Store, TaskKind, items_of, now,
};
use hone_data::identity_of;
use hone_run::{Configuration, Shutdown, config};
use hone_serve::{Patience, annotate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sample::SamplingArguments;
use crate::failure::Failure;
use crate::model::EngineArguments;
use crate::output::{Output, note};
use crate::reach::{link_of, say_how_others_come};
use answers::{Answers, Sampling};

/// Serve pages on which people rank, compare, rate and write answers
///
/// What they judge is kept in a store, which `hone reward`, `hone preference` and `hone sft` read as it is. Stop it with Ctrl+C; the same
/// command goes on. With --models the answers are sampled first, as `hone sample` does; those that are there already are not sampled again.
#[derive(Args)]
pub struct Arguments {
    /// The project's configuration; without one a project is made from the options below
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = ["db", "project_name", "prompts", "samples", "kind", "k", "overlap", "guideline", "models", "temperature", "top_k", "top_p", "min_p", "stop", "max_new_tokens", "seed"])]
    project: Option<PathBuf>,
    /// Set a key of the project's configuration, such as settings.overlap=3; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "project")]
    set: Vec<String>,
    /// The store; made where there is none
    #[arg(long, value_name = "FILE.db", default_value = "annotations.db")]
    db: PathBuf,
    /// Which of the store's projects; without it the only one, or a new one called `project` [default: the only one]
    #[arg(long, value_name = "NAME")]
    project_name: Option<String>,
    /// Rows of a prompt with its responses, or of prompts to write answers to; may be repeated
    #[arg(long, value_name = "FILE.jsonl")]
    prompts: Vec<PathBuf>,
    /// A model's answers as `hone sample --json` writes them; answers of several models to one prompt are shown together
    #[arg(long, value_name = "NAME=FILE.jsonl", value_parser = parse_samples)]
    samples: Vec<(String, PathBuf)>,
    /// Models that answer the prompts of --prompts which come without answers: directories, adapters or hub ids, separated by commas; NAME=DIR names one
    #[arg(long, value_name = "[NAME=]DIR", value_delimiter = ',', requires = "prompts")]
    models: Vec<String>,
    /// What is asked: rank, pair, rate, write or comment
    #[arg(long, default_value = "rank", value_parser = parse_kind)]
    kind: TaskKind,
    /// Answers shown together, of those sampled; models of --models give as many each as it takes [default: 4; of a pair 2]
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=9))]
    k: Option<u8>,
    /// How many people judge each item [default: as before; 1 in a new project]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    overlap: Option<u32>,
    /// What people are told [default: as before; nothing in a new project]
    #[arg(long, value_name = "FILE")]
    guideline: Option<PathBuf>,
    /// The address to listen on; others than this machine reach it only under another one
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The port; 0 takes a free one
    #[arg(long, default_value_t = 8008)]
    port: u16,
    /// A name by which browsers reach it, such as annotate.example.org; may be repeated
    #[arg(long = "name", value_name = "HOST")]
    names: Vec<String>,
    /// Who owns the project: the link that is printed signs them in
    #[arg(long, value_name = "NAME", default_value = "owner")]
    owner: String,
    /// Write what was judged instead of serving, and change nothing in the store: records, trl-preference, unpaired, messages, hh, open-assistant or alpaca-eval
    #[arg(long, value_name = "FORMAT", value_parser = parse_export)]
    export: Option<Export>,
    /// Where the export goes [default: stdout]
    #[arg(long, value_name = "FILE", requires = "export")]
    out: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArguments,
    #[command(flatten)]
    engine: EngineArguments,
}

fn parse_kind(text: &str) -> Result<TaskKind, String> {
    let known = || TaskKind::ALL.map(TaskKind::name).join(", ");
    TaskKind::of_name(text).ok_or_else(|| format!("expected one of {}", known()))
}

fn parse_export(text: &str) -> Result<Export, String> {
    let known = || Export::ALL.map(Export::name).join(", ");
    Export::of_name(text).ok_or_else(|| format!("expected one of {}", known()))
}

fn parse_samples(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text
        .split_once('=')
        .ok_or("expected NAME=FILE, such as sft=samples.jsonl")?;
    Ok((name.trim().into(), path.into()))
}

/// Configuration of a project for `hone annotate`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct ProjectConfig {
    /// Its name in the store.
    #[serde(default = "default_name")]
    name: String,
    /// The store; made where there is none.
    #[serde(default = "default_store")]
    store: PathBuf,
    /// What is asked: rank, pair, rate, write or comment.
    #[serde(default = "default_kind")]
    kind: TaskKind,
    /// Answers shown together, of those sampled: 2 to 9, of a pair 2. Default 4, of a pair 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answers: Option<u8>,
    /// Files of prompts with their responses, or of prompts to write answers to.
    #[serde(default)]
    prompts: Vec<PathBuf>,
    /// For each model the file of its answers, as `hone sample --json` writes them.
    #[serde(default)]
    samples: BTreeMap<String, PathBuf>,
    /// Models that answer the prompts of `prompts` which come without answers: for each name a directory, an adapter's, or a hub id.
    #[serde(default)]
    models: BTreeMap<String, String>,
    /// How their tokens are drawn.
    #[serde(default)]
    sampling: SamplingSection,
    /// How it is run.
    #[serde(default)]
    settings: Settings,
}

/// `sampling`: as the options of `hone sample`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct SamplingSection {
    /// Divides the logits; 0 takes the most probable token.
    temperature: f32,
    /// Draws from so many of the most probable tokens only.
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    /// Draws from the most probable tokens that together reach this probability.
    top_p: f32,
    /// Draws from tokens at least this probable relative to the most probable.
    min_p: f32,
    /// Texts that end an answer where they come.
    stop: Vec<String>,
    /// Most tokens of an answer.
    max_new_tokens: u32,
    /// Determines the random numbers.
    seed: u64,
}

impl Default for SamplingSection {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            stop: Vec::new(),
            max_new_tokens: 256,
            seed: 1,
        }
    }
}

impl SamplingSection {
    /// The same as options.
    fn arguments(&self) -> Result<SamplingArguments, String> {
        let arguments = SamplingArguments {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            stop: self.stop.clone(),
            max_new_tokens: self.max_new_tokens,
            seed: self.seed,
        };
        match arguments.parameters().validate() {
            Err(SamplingError::Parameter { field, got, expected }) => {
                // As it was written
                Err(format!("sampling.{field}: is {}; expected {expected}", got as f32))
            }
            Err(other) => Err(other.to_string()),
            Ok(()) if self.max_new_tokens == 0 => Err("sampling.max_new_tokens: is 0; expected at least 1".into()),
            Ok(()) => Ok(arguments),
        }
    }
}

impl Configuration for ProjectConfig {}

/// What a project is made of.
struct Sources {
    config: ProjectConfig,
    /// Answers shown together.
    most: usize,
    /// Models that answer, `DIR` or `NAME=DIR`.
    models: Vec<String>,
    how: SamplingArguments,
}

fn default_name() -> String {
    "project".into()
}

fn default_store() -> PathBuf {
    "annotations.db".into()
}

fn default_kind() -> TaskKind {
    TaskKind::Rank
}

/// Answers shown together where a task of this kind is asked for; `key` is what says how many.
fn answers_of(kind: TaskKind, key: &str, given: Option<u8>) -> Result<usize, String> {
    match (kind, given) {
        (TaskKind::Pair, None | Some(2)) => Ok(2),
        (TaskKind::Pair, Some(other)) => Err(format!("{key} is {other}; a task of kind `pair` shows 2 answers")),
        (_, given) => Ok(usize::from(given.unwrap_or(4))),
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments, shutdown: Shutdown) -> Result<()> {
    let written = match &arguments.project {
        Some(path) => Some(config::load::<ProjectConfig>(path, &arguments.set)?.config),
        None => None,
    };
    let mut how = arguments.sampling.clone();
    if let (Some(config), Some(path)) = (&written, &arguments.project) {
        let settings = config
            .settings
            .check()
            .map_err(|problem| format!("settings: {problem}"));
        let sampling = settings.and_then(|()| config.sampling.arguments());
        how = sampling.map_err(|problem| Failure::usage(format!("{}: {problem}", path.display())))?;
    }
    let most = match (&written, &arguments.project) {
        (Some(config), Some(path)) => answers_of(config.kind, "answers", config.answers)
            .map_err(|problem| format!("{}: {problem}", path.display())),
        _ => answers_of(arguments.kind, "--k", arguments.k),
    };
    let most = most.map_err(Failure::usage)?;
    if let Some(export) = arguments.export {
        let (path, name) = match &written {
            Some(config) => (&config.store, Some(config.name.as_str())),
            None => (&arguments.db, arguments.project_name.as_deref()),
        };
        let store = Store::open_to_read(path)?;
        let project = match name {
            Some(name) => store.project(name)?,
            None => store.only_project(CHOOSE)?,
        };
        return write_export(&store, &project, export, arguments.out.as_deref());
    }
    let store = Store::open(written.as_ref().map_or(&arguments.db, |config| &config.store))?;
    let sources = match written {
        Some(config) => Sources {
            models: config
                .models
                .iter()
                .map(|(name, place)| format!("{name}={place}"))
                .collect(),
            how,
            config,
            most,
        },
        None => Sources {
            most,
            config: of_arguments(arguments, &store)?,
            models: arguments.models.clone(),
            how,
        },
    };
    let config = &sources.config;
    let now = now();
    let project = store.put_project(&config.name, &config.settings, now)?;
    let found = items((&store, &project), &sources, &arguments.engine, &shutdown)?;
    add_items(&store, &project, found)?;
    let progress = store.progress(&project)?;
    if progress.items + progress.gold == 0 {
        let message = format!(
            "{}: the project `{}` has no items",
            config.store.display(),
            project.name
        );
        return Err(Failure::usage(message)
            .hint("give --prompts FILE.jsonl with answers or with --models, or --samples NAME=FILE.jsonl with the output of `hone sample --json`")
            .into());
    }
    let listener = TcpListener::bind((arguments.host.as_str(), arguments.port))
        .with_context(|| format!("{}:{} cannot be listened on", arguments.host, arguments.port))?;
    let address = listener.local_addr()?;
    let link = annotate::invite(&store, &arguments.owner, Role::Owner, now)?;
    let mut out = Output::new();
    out.line(&format!("http://{}{link}", link_of(address)))?;
    out.finish()?;
    note(&format!(
        "{}: {} at the address above signs {} in; invite others there. Ctrl+C stops it.",
        config.store.display(),
        project.name,
        arguments.owner
    ));
    say_how_others_come(address, "--name HOST");
    let options = annotate::Options {
        store,
        project,
        listener,
        names: arguments.names.iter().chain([&arguments.host]).cloned().collect(),
        patience: Patience::default(),
    };
    Ok(annotate::serve(options, move || shutdown.requested())?)
}

/// How to say which project is meant.
const CHOOSE: &str = "choose one with --project-name NAME";

/// The project of the options. What they do not say stays as the store has it.
fn of_arguments(arguments: &Arguments, store: &Store) -> Result<ProjectConfig> {
    let names = store.projects()?;
    let before = match &arguments.project_name {
        Some(name) if names.contains(name) => Some(store.project(name)?),
        None if !names.is_empty() => Some(store.only_project(CHOOSE)?),
        _ => None,
    };
    let mut samples = BTreeMap::new();
    for (name, path) in &arguments.samples {
        if samples.insert(name.clone(), path.clone()).is_some() {
            let message = format!("--samples names the model `{name}` twice");
            return Err(Failure::usage(message)
                .hint("put its answers into one file, or give the second another name")
                .into());
        }
    }
    let new_name = || arguments.project_name.clone().unwrap_or_else(default_name);
    let (name, mut settings) = match before {
        Some(project) => (project.name, project.settings),
        None => (new_name(), Settings::default()),
    };
    if let Some(path) = &arguments.guideline {
        settings.guideline = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    }
    settings.overlap = arguments.overlap.unwrap_or(settings.overlap);
    Ok(ProjectConfig {
        name,
        store: arguments.db.clone(),
        kind: arguments.kind,
        answers: arguments.k,
        prompts: arguments.prompts.clone(),
        samples,
        models: BTreeMap::new(),
        sampling: SamplingSection::default(),
        settings,
    })
}

/// The items of all files, with the answers of models to prompts that come without.
fn items(
    (store, project): (&Store, &Project),
    sources: &Sources,
    engine: &EngineArguments,
    shutdown: &Shutdown,
) -> Result<Imported> {
    let Sources {
        config,
        most,
        models,
        how,
    } = sources;
    let most = *most;
    let prompts = config.prompts.iter().map(|path| ItemFile {
        path: path.clone(),
        model: None,
    });
    let samples = config.samples.iter().map(|(name, path)| ItemFile {
        path: path.clone(),
        model: Some(name.clone()),
    });
    let mut files: Vec<ItemFile> = prompts.collect();
    if models.is_empty() {
        files.extend(samples);
        return match files.is_empty() {
            true => Ok(Imported::default()),
            false => Ok(items_of(&files, config.kind, most)?),
        };
    }
    // A task of writing may have no answers, so all prompts are among these
    let all = items_of(&files, TaskKind::Write, most)?.items;
    let alone = |item: &&NewItem| item.input.responses.is_empty();
    let bare = all.iter().filter(alone).count();
    let (mut asked, mut known) = (Vec::new(), HashSet::new());
    for item in all.iter().filter(alone) {
        if known.insert(identity_of(&item.input.prompt)) {
            asked.push(item.input.prompt.clone());
        }
    }
    if asked.is_empty() {
        let message = "there is no prompt without answers for the models to answer";
        return Err(Failure::usage(message)
            .hint("give rows of a prompt alone, by --prompts or `prompts`")
            .into());
    }
    // What the store would refuse afterwards is refused before anything is sampled
    let checked: Vec<NewItem> = all.iter().cloned().map(|item| of_kind(item, config.kind)).collect();
    store.check_items(project, &checked)?;
    let sampling = Sampling {
        models: models.clone(),
        engine: engine.clone(),
        how: how.clone(),
        n: most.div_ceil(models.len()) as u32,
        folder: beside(&config.store),
    };
    let sampled = answers::answers(&sampling, &asked, shutdown)?;
    files.extend(samples);
    files.extend(sampled.iter().map(|answers| answers.file.clone()));
    let mut found = items_of(&files, config.kind, most)?;
    if !matches!(config.kind, TaskKind::Write | TaskKind::Comment) {
        found.left_out -= bare as u64;
    }
    found.items.retain(|item| !item.input.responses.is_empty());
    found
        .items
        .retain(|item| known.contains(&identity_of(&item.input.prompt)) || !is_only_of(item, &sampled));
    Ok(found)
}

/// An item that has answers to be compared as one of this kind. One that has too few yet is of a kind for which they suffice.
fn of_kind(item: NewItem, kind: TaskKind) -> NewItem {
    let kind = match item.input.responses.len() {
        0 => TaskKind::Write,
        1 => TaskKind::Rate,
        _ => kind,
    };
    NewItem { kind, ..item }
}

/// The folder beside a store in which answers of models are kept.
fn beside(store: &Path) -> PathBuf {
    let mut name = store.file_name().unwrap_or_default().to_os_string();
    name.push(".samples");
    store.with_file_name(name)
}

/// Whether all answers of an item are of these models.
fn is_only_of(item: &NewItem, sampled: &[Answers]) -> bool {
    let mut responses = item.input.responses.iter();
    responses.all(|response| {
        sampled
            .iter()
            .any(|answers| response.model == answers.file.model && response.weights.as_ref() == Some(&answers.weights))
    })
}

fn add_items(store: &Store, project: &Project, found: Imported) -> Result<()> {
    if found.left_out > 0 {
        note(&format!(
            "{} prompts have too few different answers and are left out",
            found.left_out
        ));
    }
    if found.items.is_empty() {
        return Ok(());
    }
    let added = store.add_items(project, found.items)?;
    note(&format!("{} items added, {} known already", added.added, added.known));
    if added.other_gold > 0 {
        note(&format!(
            "{} of these come with a known judgement that the store does not have; it keeps what it has",
            added.other_gold
        ));
    }
    Ok(())
}

fn write_export(store: &Store, project: &Project, export: Export, out: Option<&Path>) -> Result<()> {
    let exported = export.rows(&store.records(project)?);
    let mut text = Vec::new();
    export.write(&exported, &mut text)?;
    match out {
        // What stood there before stays until all of it is written
        Some(path) => hone_run::write_atomic(path, &text)?,
        None => {
            let mut output = Output::new();
            output.stream(&String::from_utf8_lossy(&text))?;
            output.finish()?;
        }
    }
    if exported.left_out > 0 {
        note(&format!(
            "{} judgements cannot be said in this format and are left out",
            exported.left_out
        ));
    }
    Ok(())
}
