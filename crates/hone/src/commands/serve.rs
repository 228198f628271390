//! `hone serve`: models over HTTP, in OpenAI's wire format, and a page to talk to them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use hone_compute::Engine;
use hone_model::load_adapter;
use hone_run::{Shutdown, verify_dir};
use hone_serve::{AnnotationOptions, JobOptions, Options, ServedModel, Server, read_token};
use hone_text::Tokenizer;

use super::sample::Origin;
use crate::failure::Failure;
use crate::model::{EngineArguments, LoadedModel, ModelArguments, base_of, check_tokenizer, resolve_directory};
use crate::output;
use crate::reach::{link_of, say_how_others_come};

/// Serve models over HTTP: OpenAI's wire format, and a page to talk to them
///
/// Routes: /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, /score (reward models), /tokenize,
/// /detokenize, /tokenizer_info, /health, /metrics; with --jobs /v1/files and /v1/fine_tuning/jobs; the pages are at / and
/// /fine-tuning. Ends in good order at Ctrl-C or SIGTERM.
#[derive(Args)]
pub struct Arguments {
    /// A model: a directory, an adapter's directory, or a hub id; NAME=DIR names it [default: the directory's name]. May be given several times
    #[arg(long, value_name = "[NAME=]DIR", required = true)]
    model: Vec<String>,
    /// An adapter on one of the models, whose weights it shares. May be given several times
    #[arg(long, value_name = "NAME=DIR")]
    adapter: Vec<String>,
    /// The address to listen on; another than this machine's own needs a token
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The port; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// A file with a token of at least 16 characters, which clients give as their API key. May be given several times
    #[arg(long, value_name = "FILE")]
    token: Vec<PathBuf>,
    /// Another name that clients know this server by, as behind a proxy. May be given several times
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Sequences decoded together on each model; answers do not depend on it
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Sequences that run or wait; more are refused with 429
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    queue: u32,
    /// Tokens of ended conversations whose keys and values are kept on each model, so that the next turn does not read them
    /// again; answers do not depend on it
    #[arg(long, value_name = "TOKENS", default_value_t = 16_384)]
    keep: usize,
    /// Seconds that running answers may go on at the end
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3600))]
    grace: u64,
    /// Tune models on files that clients upload, and keep files and jobs in this folder
    #[arg(long, value_name = "DIR")]
    jobs: Option<PathBuf>,
    /// Threads of a job [default: as many as there are cores]
    #[arg(long, value_name = "N", requires = "jobs", value_parser = clap::value_parser!(u32).range(1..=4096))]
    job_threads: Option<u32>,
    /// Bytes of an uploaded file, at most
    #[arg(long, value_name = "BYTES", requires = "jobs", default_value_t = JobOptions::FILE_BYTES)]
    job_file_bytes: u64,
    /// Keep which of two answers on the page somebody prefers in this store of annotations; made where there is none
    #[arg(long, value_name = "FILE.db")]
    annotations: Option<PathBuf>,
    /// Which of the store's projects [default: the only one, or a new one called chat]
    #[arg(long, value_name = "NAME", requires = "annotations")]
    project_name: Option<String>,
    #[command(flatten)]
    engine: EngineArguments,
}

/// A model's name and place, as an argument gives them.
pub(super) struct Named {
    pub name: String,
    pub place: String,
}

/// Runs the command.
pub fn run(arguments: &Arguments, shutdown: &Shutdown) -> Result<()> {
    // Arguments first: models take a while
    let tokens = arguments.token.iter().map(|path| read_token(path));
    let tokens = tokens.collect::<Result<Vec<String>, _>>()?;
    let bases: Vec<Named> = arguments.model.iter().map(|text| named(text)).collect();
    let adapters = arguments.adapter.iter().map(|text| named_adapter(text));
    let adapters = adapters.collect::<Result<Vec<Named>>>()?;
    let mut options = Options {
        host: arguments.host.clone(),
        port: arguments.port,
        tokens,
        names: arguments.allow_host.clone(),
        batch: arguments.batch as usize,
        queue: arguments.queue as usize,
        kept_tokens: arguments.keep,
        grace: Duration::from_secs(arguments.grace),
        ..Options::default()
    };
    let named: Vec<&str> = bases.iter().chain(&adapters).map(|named| named.name.as_str()).collect();
    options.check(&named)?;
    let engine = arguments.engine.engine()?;
    let (models, sources) = load(&engine, &bases, &adapters, shutdown)?;
    if shutdown.requested() {
        return Ok(());
    }
    if let Some(store) = &arguments.annotations {
        options.annotations = Some(AnnotationOptions {
            store: store.clone(),
            project: arguments.project_name.clone(),
            weights: digests(&bases, &adapters)?,
        });
    }
    if let Some(directory) = &arguments.jobs {
        options.jobs = Some(JobOptions {
            directory: directory.clone(),
            program: std::env::current_exe().context("the path of this program")?,
            sources,
            threads: arguments.job_threads,
            file_bytes: arguments.job_file_bytes,
        });
    }
    let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
    let server = Server::bind(engine, models, &options)?;
    let (names, link) = (names.join(", "), link_of(server.address()));
    output::note(&format!("serving {names} on http://{link}"));
    say_how_others_come(server.address(), "--allow-host NAME");
    let gigabytes = server.cache_bytes() as f64 / 1e9;
    output::note(&format!(
        "keys and values take up to {gigabytes:.2} GB of memory; a smaller --batch takes less"
    ));
    if options.tokens.is_empty() {
        output::note("without a token: whoever can use this machine can use it");
    }
    if let Some(directory) = &arguments.jobs {
        output::note(&format!(
            "tuning on what is uploaded; files and jobs are in {}",
            directory.display()
        ));
    }
    if let Some(store) = &arguments.annotations {
        output::note(&format!("what is preferred on the page is kept in {}", store.display()));
    }
    let told = Cell::new(false);
    let stopped = || {
        let stopping = shutdown.requested();
        if stopping && !told.replace(true) {
            output::note(&format!("stopping: running answers have {} seconds", arguments.grace));
        }
        stopping
    };
    server.run(&stopped, &output::note)?;
    output::note("stopped");
    Ok(())
}

/// `NAME=DIR`, or `DIR` with a name made from it.
pub(super) fn named(text: &str) -> Named {
    if let Some((name, place)) = text.split_once('=')
        && !name.is_empty()
        && !name.contains(['/', '\\'])
        && !Path::new(text).is_dir()
    {
        return Named {
            name: name.into(),
            place: place.into(),
        };
    }
    Named {
        name: name_of(text),
        place: text.into(),
    }
}

/// The last part of a path, or the one before where a run's `model/` is named; a hub id as it is.
fn name_of(place: &str) -> String {
    let path = Path::new(place);
    if !path.is_dir() {
        return place.into();
    }
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let part = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let last = part(&path).unwrap_or_else(|| place.into());
    match path.parent().and_then(part) {
        Some(run) if last == "model" => run,
        _ => last,
    }
}

fn named_adapter(text: &str) -> Result<Named> {
    match text.split_once('=') {
        Some((name, place)) if !name.is_empty() && !place.is_empty() => Ok(Named {
            name: name.into(),
            place: place.into(),
        }),
        _ => {
            let text = format!("--adapter {text}: expected NAME=DIR");
            Err(Failure::usage(text).into())
        }
    }
}

/// The models that are served, and the directory of each by its name.
type Loaded = (Vec<ServedModel>, BTreeMap<String, PathBuf>);

/// Digests of the weights of each model by its name, as [`Origin`] writes them.
fn digests(bases: &[Named], adapters: &[Named]) -> Result<BTreeMap<String, String>> {
    let mut digests = BTreeMap::new();
    let mut of = |named: &Named, model: ModelArguments| -> Result<()> {
        digests.insert(named.name.clone(), Origin::weights_of(&model.resolve()?)?);
        Ok(())
    };
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    for base in bases {
        let (model, adapter) = (base.place.clone(), None);
        of(base, ModelArguments { model, adapter })?;
    }
    for adapter in adapters {
        let directory = resolve_directory(&adapter.place)?;
        let model = match bases {
            [only] => only.place.clone(),
            _ => whole(&base_of(&directory)?).display().to_string(),
        };
        let directory = Some(directory);
        of(
            adapter,
            ModelArguments {
                model,
                adapter: directory,
            },
        )?;
    }
    Ok(digests)
}

fn load(engine: &Engine, bases: &[Named], adapters: &[Named], shutdown: &Shutdown) -> Result<Loaded> {
    let mut sources = BTreeMap::new();
    let mut found_at = |name: &str, place: &Path| {
        let place = place.canonicalize().unwrap_or_else(|_| place.to_path_buf());
        sources.insert(name.to_owned(), place);
    };
    let mut models = Vec::with_capacity(bases.len() + adapters.len());
    let mut directories = Vec::with_capacity(bases.len());
    for base in bases {
        if shutdown.requested() {
            return Ok((models, sources));
        }
        let arguments = ModelArguments {
            model: base.place.clone(),
            adapter: None,
        };
        let loaded: LoadedModel = arguments.load(engine)?;
        let place = arguments.resolve()?;
        found_at(&base.name, place.adapter.as_deref().unwrap_or(&place.base));
        directories.push(loaded.directory);
        models.push(ServedModel {
            name: base.name.clone(),
            parent: None,
            model: loaded.model,
            tokenizer: loaded.tokenizer,
        });
    }
    for adapter in adapters {
        let directory = resolve_directory(&adapter.place)?;
        let base = base_among(adapter, &directory, (bases, &directories))?;
        verify_dir(&directory)?;
        // What the adapter does not change stays one copy
        let mut model = models[base].model.duplicate();
        load_adapter(engine, &mut model, &directory)?;
        let own = directory.join("tokenizer.json").is_file();
        let tokenizer = if own {
            Tokenizer::from_dir(&directory)?
        } else {
            models[base].tokenizer.clone()
        };
        check_tokenizer(&tokenizer, model.architecture().vocab_size, &directory)?;
        found_at(&adapter.name, &directory);
        models.push(ServedModel {
            name: adapter.name.clone(),
            parent: Some(bases[base].name.clone()),
            model,
            tokenizer,
        });
    }
    Ok((models, sources))
}

/// Which of the models an adapter stands on: the only one, or the one that its `adapter_config.json` names.
fn base_among(adapter: &Named, directory: &Path, (bases, directories): (&[Named], &[PathBuf])) -> Result<usize> {
    if bases.len() == 1 {
        return Ok(0);
    }
    let said = base_of(directory).with_context(|| format!("--adapter {}={}", adapter.name, adapter.place))?;
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let found = directories.iter().position(|base| whole(base) == whole(&said));
    found.ok_or_else(|| {
        let text = format!(
            "--adapter {}={}: its base {} is none of the models that are served",
            adapter.name,
            adapter.place,
            said.display()
        );
        Failure::usage(text).hint("give its base by --model as well").into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models() {
        let split = |text: &str| {
            let named = named(text);
            (named.name, named.place)
        };
        let pair = |name: &str, place: &str| (name.to_owned(), place.to_owned());
        assert_eq!(split("a=runs/x"), pair("a", "runs/x"));
        assert_eq!(split("org/name"), pair("org/name", "org/name"));
        assert_eq!(split("dir/a=b"), pair("dir/a=b", "dir/a=b"));
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("tuned/model");
        std::fs::create_dir_all(&model).unwrap();
        assert_eq!(named(model.to_str().unwrap()).name, "tuned");
        assert_eq!(named(model.parent().unwrap().to_str().unwrap()).name, "tuned");
    }
}
