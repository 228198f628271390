//! Models by hub id: resolved through the `hf-hub` crate, whose cache other programs share.
//!
//! `HF_ENDPOINT`, `HF_HOME` and `HF_TOKEN` mean what they mean elsewhere; with `HF_HUB_OFFLINE=1` only the cache is
//! looked at.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

/// A model that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{message}; {hint}")]
pub struct HubError {
    /// What is wrong, beginning with the model's id.
    pub message: String,
    /// What to do.
    pub hint: String,
}

type Result<T, E = HubError> = std::result::Result<T, E>;

fn fail(message: impl Into<String>, hint: impl Into<String>) -> HubError {
    HubError {
        message: message.into(),
        hint: hint.into(),
    }
}

/// Files beside the weights that a model is read from.
const SMALL: [&str; 13] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "encoder.json",
    "vocab.bpe",
    "adapter_config.json",
];

/// A model on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    name: String,
    revision: String,
}

impl Id {
    /// `org/name` or `org/name@revision`; nothing for what looks like a path.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (owner, model) = name.split_once('/')?;
        let fits = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && part.len() <= 96 && part.chars().all(known) && !part.starts_with('.')
        };
        let revision_fits = revision.split('/').all(fits);
        (fits(owner) && fits(model) && revision_fits).then(|| Self {
            name: name.into(),
            revision: revision.into(),
        })
    }

    /// The same model at a commit.
    #[must_use]
    pub fn at(&self, commit: &str) -> Self {
        Self {
            name: self.name.clone(),
            revision: commit.into(),
        }
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.name.clone(), RepoType::Model, self.revision.clone())
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.revision)
    }
}

/// The local copy of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its files.
    pub directory: PathBuf,
    /// What somebody should know of how it was found.
    pub note: Option<String>,
}

impl Fetched {
    fn quietly(directory: PathBuf) -> Self {
        Self { directory, note: None }
    }
}

/// The commit that a directory given by [`fetch`] is of.
pub fn commit_of(directory: &Path) -> Option<&str> {
    directory.file_name()?.to_str()
}

/// A model's files, downloaded where they are not in the cache.
///
/// # Errors
/// A model that is neither in the cache nor reachable, or whose weights are pickles.
pub fn fetch(id: &Id) -> Result<Fetched> {
    let cache = Cache::from_env();
    // A commit never changes: what is here of it is all that can be had
    let pinned = cache.repo(id.repo()).pointer_path(&id.revision);
    if has_weights(&pinned) {
        return Ok(Fetched::quietly(pinned));
    }
    if is_offline() {
        return cached(&cache, id).map(Fetched::quietly).ok_or_else(|| {
            let place = cache.path().display();
            fail(
                format!("{id}: not in the cache at {place}, and HF_HUB_OFFLINE is set"),
                "unset HF_HUB_OFFLINE to download it, or name a local directory",
            )
        });
    }
    let mut builder = ApiBuilder::from_env().with_progress(false).with_retries(3);
    if let Ok(token) = env::var("HF_TOKEN")
        && !token.is_empty()
    {
        builder = builder.with_token(Some(token));
    }
    let api = builder.build().map_err(|error| unreachable(id, &error))?;
    match api.repo(id.repo()).info() {
        Ok(info) => {
            let names: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
            // All files of one commit, even if the branch moves meanwhile
            let commit = Repo::with_revision(id.name.clone(), RepoType::Model, info.sha.clone());
            let directory = download(id, &api.repo(commit), &names)?;
            let noted = cache.repo(id.repo()).create_ref(&info.sha);
            noted.map_err(|error| fail(format!("{id}: {}: {error}", cache.path().display()), "make it writable"))?;
            Ok(Fetched::quietly(directory))
        }
        // Without a network, what was downloaded before will do
        Err(error) => match cached(&cache, id) {
            Some(directory) => Ok(Fetched {
                directory,
                note: Some(format!(
                    "{id}: the hub cannot be asked ({error}); taking the copy in the cache"
                )),
            }),
            None => Err(unreachable(id, &error)),
        },
    }
}

fn is_offline() -> bool {
    env::var("HF_HUB_OFFLINE")
        .is_ok_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
}

fn unreachable(id: &Id, error: &ApiError) -> HubError {
    let endpoint = env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".into());
    fail(
        format!("{id}: {endpoint} did not answer with this model: {error}"),
        "check the name and the network; private models need HF_TOKEN; a local directory needs neither",
    )
}

/// The snapshot in the cache, if there is one with a configuration and weights.
fn cached(cache: &Cache, id: &Id) -> Option<PathBuf> {
    let files = cache.repo(id.repo());
    let config = files.get("config.json").or_else(|| files.get("adapter_config.json"))?;
    let directory = config.parent()?;
    has_weights(directory).then(|| directory.to_path_buf())
}

fn has_weights(directory: &Path) -> bool {
    let weights = [
        "model.safetensors",
        "model.safetensors.index.json",
        "adapter_model.safetensors",
    ];
    weights.iter().any(|name| directory.join(name).exists())
}

fn download(id: &Id, repo: &ApiRepo, names: &[String]) -> Result<PathBuf> {
    let wanted = wanted(names);
    if !wanted.iter().any(|name| name.ends_with(".safetensors")) {
        let pickle = names
            .iter()
            .find(|name| name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth"));
        return Err(match pickle {
            Some(name) => fail(
                format!("{id}: its weights are the pickle {name}, which is never read, since loading it can run code"),
                "convert it once with transformers: AutoModelForCausalLM.from_pretrained(ID).save_pretrained(DIR)",
            ),
            None => fail(
                format!("{id}: no safetensors file in it"),
                "expected a model in Hugging Face layout",
            ),
        });
    }
    let mut directory = None;
    for name in wanted {
        let path = match repo.get(name) {
            Ok(path) => path,
            Err(error) => return Err(unreachable(id, &error)),
        };
        if name == "config.json" || directory.is_none() {
            directory = path.parent().map(Path::to_path_buf);
        }
    }
    directory.ok_or_else(|| {
        fail(
            format!("{id}: no file in it"),
            "expected a model in Hugging Face layout",
        )
    })
}

/// Those of a repository's files that hone reads, none of them in folders: one weight file or its shards.
fn wanted(names: &[String]) -> Vec<&str> {
    let top = || {
        names
            .iter()
            .map(String::as_str)
            .filter(|name| !name.contains(['/', '\\']))
    };
    let single = top().any(|name| name == "model.safetensors");
    let is_shard = |name: &str| {
        name.starts_with("model-") && name.ends_with(".safetensors") || name == "model.safetensors.index.json"
    };
    let keep = |name: &&str| {
        SMALL.contains(name)
            || *name == "model.safetensors"
            || *name == "adapter_model.safetensors"
            || (!single && is_shard(name))
    };
    top().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        let id = Id::parse("org/name").unwrap();
        assert_eq!(id.to_string(), "org/name@main");
        assert_eq!(Id::parse("org/na.me-1@v2").unwrap().to_string(), "org/na.me-1@v2");
        for path in [
            "name",
            "./a/b",
            "a/b/c",
            "/a/b",
            "../x",
            "a b/c",
            "org/",
            "org/..",
            "org/name@",
        ] {
            assert_eq!(Id::parse(path), None, "{path}");
        }
    }

    #[test]
    fn only_what_is_read_is_fetched() {
        let names = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let all = names(&[
            "config.json",
            "model.safetensors",
            "model-1-of-2.safetensors",
            "pytorch_model.bin",
            "onnx/model.safetensors",
            "README.md",
        ]);
        assert_eq!(wanted(&all), ["config.json", "model.safetensors"]);
        let shards = names(&[
            "model.safetensors.index.json",
            "model-1-of-2.safetensors",
            "../model-x.safetensors",
        ]);
        assert_eq!(
            wanted(&shards),
            ["model.safetensors.index.json", "model-1-of-2.safetensors"]
        );
    }
}
