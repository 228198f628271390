//! The result of a job becomes a model that is served.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_compute::Engine;
use hone_model::{Transformer, load, load_adapter};
use hone_run::verify_dir;
use hone_text::Tokenizer;

use crate::models::{Served, ServedModel};

/// A model that a job left.
pub(crate) struct Tuned {
    /// The name it is served under.
    pub name: String,
    /// Where it stands.
    pub directory: PathBuf,
    /// The model that was tuned.
    pub parent: Arc<Served>,
    /// All models that are served, among which is the one whose weights it shares.
    pub models: Arc<[Arc<Served>]>,
}

impl Tuned {
    /// Loads it. What an adapter does not change stays one copy.
    ///
    /// # Errors
    /// Files that are missing, damaged, or do not fit the base.
    pub fn load(self, engine: &Engine) -> Result<Served, String> {
        verify_dir(&self.directory).map_err(|error| error.to_string())?;
        let model = self.weights(engine)?;
        let tokenizer = match self.directory.join("tokenizer.json").is_file() {
            true => Tokenizer::from_dir(&self.directory).map_err(|error| error.to_string())?,
            false => self.parent.tokenizer.clone(),
        };
        let served = ServedModel {
            name: self.name,
            parent: Some(self.parent.name.clone()),
            model,
            tokenizer,
        };
        Served::new(served).map_err(|error| error.to_string())
    }

    fn weights(&self, engine: &Engine) -> Result<Transformer, String> {
        let whole = |directory: &Path| {
            load(engine, directory)
                .map(|(model, _)| model)
                .map_err(|error| error.to_string())
        };
        if self.directory.join("config.json").is_file() {
            return whole(&self.directory);
        }
        let mut model = match self.base() {
            Some(base) => base.transformer().duplicate(),
            None => whole(&self.base_directory()?)?,
        };
        load_adapter(engine, &mut model, &self.directory).map_err(|error| error.to_string())?;
        Ok(model)
    }

    /// The model on which the adapter stands: the tuned one, or what that one stands on.
    fn base(&self) -> Option<&Served> {
        let mut at: &Arc<Served> = &self.parent;
        loop {
            if at.transformer().adapter().is_none() {
                return Some(at);
            }
            let parent = at.parent.as_ref()?;
            at = self.models.iter().find(|served| served.name == *parent)?;
        }
    }

    /// Where the adapter says that its base is.
    fn base_directory(&self) -> Result<PathBuf, String> {
        let path = self.directory.join("adapter_config.json");
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let config: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let base = config["base_model_name_or_path"].as_str();
        base.map(|base| self.directory.join(base))
            .ok_or_else(|| format!("{}: `base_model_name_or_path` is missing", path.display()))
    }
}
