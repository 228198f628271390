//! `hone annotate`: pages on which people rank, compare, rate and write answers.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;
use hone_data::annotations::{Export, ItemFile, Project, Role, Settings, Store, TaskKind, items_of};
use hone_run::{Configuration, Shutdown, config};
use hone_serve::{Patience, annotate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::output::{Output, note};

/// Serve pages on which people rank, compare, rate and write answers
///
/// What they judge is kept in a store, which `hone reward`, `hone preference` and `hone sft` read as it is. Stop it with Ctrl+C; the same
/// command goes on.
#[derive(Args)]
pub struct Arguments {
    /// The project's configuration; without one a project is made from the options below
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = ["db", "project_name", "prompts", "samples", "kind", "k", "overlap", "guideline"])]
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
    /// What is asked: rank, pair, rate, write or comment
    #[arg(long, default_value = "rank", value_parser = parse_kind)]
    kind: TaskKind,
    /// Answers shown together, of those sampled
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=9))]
    k: u8,
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
    /// Answers shown together, of those sampled: 2 to 9.
    #[serde(default = "default_answers")]
    answers: u8,
    /// Files of prompts with their responses, or of prompts to write answers to.
    #[serde(default)]
    prompts: Vec<PathBuf>,
    /// For each model the file of its answers, as `hone sample --json` writes them.
    #[serde(default)]
    samples: BTreeMap<String, PathBuf>,
    /// How it is run.
    #[serde(default)]
    settings: Settings,
}

impl Configuration for ProjectConfig {}

fn default_name() -> String {
    "project".into()
}

fn default_store() -> PathBuf {
    "annotations.db".into()
}

fn default_kind() -> TaskKind {
    TaskKind::Rank
}

fn default_answers() -> u8 {
    4
}

/// Runs the command.
pub fn run(arguments: &Arguments, shutdown: Shutdown) -> Result<()> {
    let written = match &arguments.project {
        Some(path) => Some(config::load::<ProjectConfig>(path, &arguments.set)?.config),
        None => None,
    };
    if let (Some(config), Some(path)) = (&written, &arguments.project)
        && let Err(problem) = config.settings.check()
    {
        return Err(Failure::usage(format!("{}: settings: {problem}", path.display())).into());
    }
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
    let config = match written {
        Some(config) => config,
        None => of_arguments(arguments, &store)?,
    };
    let now = now();
    let project = store.put_project(&config.name, &config.settings, now)?;
    add_items(&store, &project, &config)?;
    let progress = store.progress(&project)?;
    if progress.items + progress.gold == 0 {
        let message = format!(
            "{}: the project `{}` has no items",
            config.store.display(),
            project.name
        );
        return Err(Failure::usage(message)
            .hint("give --prompts FILE.jsonl, or --samples NAME=FILE.jsonl with the output of `hone sample --json`")
            .into());
    }
    let listener = TcpListener::bind((arguments.host.as_str(), arguments.port))
        .with_context(|| format!("{}:{} cannot be listened on", arguments.host, arguments.port))?;
    let address = listener.local_addr()?;
    let link = annotate::invite(&store, &arguments.owner, Role::Owner, now)?;
    let mut out = Output::new();
    out.line(&format!("http://{address}{link}"))?;
    out.finish()?;
    note(&format!(
        "{}: {} at the address above signs {} in; invite others there. Ctrl+C stops it.",
        config.store.display(),
        project.name,
        arguments.owner
    ));
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
        settings,
    })
}

fn add_items(store: &Store, project: &Project, config: &ProjectConfig) -> Result<()> {
    let prompts = config.prompts.iter().map(|path| ItemFile {
        path: path.clone(),
        model: None,
    });
    let samples = config.samples.iter().map(|(name, path)| ItemFile {
        path: path.clone(),
        model: Some(name.clone()),
    });
    let files: Vec<ItemFile> = prompts.chain(samples).collect();
    if files.is_empty() {
        return Ok(());
    }
    let found = items_of(&files, config.kind, usize::from(config.answers))?;
    if found.left_out > 0 {
        note(&format!(
            "{} prompts have too few different answers and are left out",
            found.left_out
        ));
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

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
