//! What can stop a stage.

use hone_compute::SamplingError;
use hone_generate::PlayError;
use hone_run::{ExitStatus, Resolved};

use crate::hub;

/// A stage's result.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

/// Why a stage stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The run directory or the configuration.
    #[error(transparent)]
    Run(#[from] hone_run::Error),
    /// A model's files.
    #[error(transparent)]
    Model(#[from] hone_model::Error),
    /// A data set.
    #[error(transparent)]
    Data(#[from] hone_data::DataError),
    /// A tokenizer or a template.
    #[error(transparent)]
    Text(#[from] hone_text::TextError),
    /// An objective that its numbers do not fit.
    #[error(transparent)]
    Objective(#[from] hone_objective::Error),
    /// Sampling.
    #[error(transparent)]
    Generate(#[from] hone_generate::GenerateError),
    /// What judges responses, or an environment.
    #[error(transparent)]
    Task(#[from] hone_task::Error),
    /// `HONE_ISA`.
    #[error(transparent)]
    Isa(#[from] hone_compute::IsaError),
    /// A setting that makes no sense.
    #[error("{key}: {reason}")]
    Setting {
        /// Its dotted key.
        key: String,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// A model that is no directory and cannot be had from the hub.
    #[error("{key}: {name} is no directory here, so it is taken as a hub id; {source}")]
    Hub {
        /// The key that names it.
        key: String,
        /// What stands there.
        name: String,
        /// Why it cannot be had.
        source: hub::HubError,
    },
    /// An error over a setting, with its place.
    #[error("{origin}: {source}")]
    At {
        /// `sft.toml:12`, or the `--set` that gave it.
        origin: String,
        /// What is wrong.
        source: Box<TrainError>,
    },
    /// The process was asked to stop while models and data were read.
    #[error("stopped before the first step of this start; the same command goes on from there")]
    Stopped,
    /// A model's directory whose parts do not fit together.
    #[error("{path}: {reason}")]
    Artefact {
        /// The directory, or the file in it.
        path: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Steps whose gradients were not finite, one after another.
    #[error(
        "diverged: {count} steps in a row had a gradient that is not finite, the last at step {step}; the weights are those from before. Start a run of another --name with a lower train.learning_rate (a run's folder keeps to its configuration), or look at the data of these steps"
    )]
    Diverged {
        /// How many.
        count: u32,
        /// The last of them, counted from 1 as in `metrics.jsonl`.
        step: u64,
    },
    /// Sampled and recomputed log-probabilities differ.
    #[error(
        "an invariant is broken: at update {update}, token {token} of episode {episode} had log-probability {sampled} when it was sampled, and the training pass computes {trained}; {count} tokens differ. This is a fault of hone or of this machine: results would be wrong, so the run stops"
    )]
    Mismatch {
        /// Which update, counted from 1.
        update: u64,
        /// Which episode of its rollout.
        episode: usize,
        /// Which token of the response.
        token: usize,
        /// As stored.
        sampled: f32,
        /// As recomputed.
        trained: f32,
        /// How many tokens differ.
        count: usize,
    },
    /// A response that the reward model cannot read.
    #[error("response {index}: {reason}")]
    Unscorable {
        /// Which of those that were to be scored.
        index: usize,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// A run that does not fit into memory.
    #[error(
        "memory: {stage} needs about {needed} at most, and {available} of the {total} that {bound} are available. The biggest parts: {biggest}. To make it fit: {hints}. hone plan shows all parts; train.check_memory = false starts all the same"
    )]
    Memory {
        /// The stage.
        stage: &'static str,
        /// The peak that is planned.
        needed: String,
        /// What the process can have.
        available: String,
        /// What there is in all.
        total: String,
        /// Whose total that is, in words.
        bound: &'static str,
        /// The biggest parts with their sizes.
        biggest: String,
        /// The keys to change.
        hints: String,
    },
    /// Nothing is left to train on.
    #[error("{what}: nothing is left to train on; {hint}")]
    NoData {
        /// Which data.
        what: String,
        /// What to do.
        hint: String,
    },
}

impl TrainError {
    pub(crate) fn setting(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Setting {
            key: key.into(),
            reason: reason.into(),
        }
    }

    /// The same with the place of the setting that is at fault, where it is known.
    pub(crate) fn at<T>(self, config: &Resolved<T>) -> Self {
        let task: String;
        let key = match &self {
            Self::Setting { key, .. } | Self::Hub { key, .. } => key.as_str(),
            Self::Task(error) => match task_key(error) {
                Some(key) => {
                    task = key;
                    task.as_str()
                }
                None => return self,
            },
            Self::Model(hone_model::Error::New { .. }) => "model.new",
            Self::Model(hone_model::Error::AdapterRank { .. }) => "lora.rank",
            Self::Model(hone_model::Error::AdapterAlpha { .. }) => "lora.alpha",
            Self::Model(hone_model::Error::UnknownTarget { .. }) => "lora.targets",
            Self::Data(hone_data::DataError::Option { option: "held_out", .. }) => "data.held_out",
            _ => return self,
        };
        match config.place(key) {
            Some(origin) => Self::At {
                origin,
                source: Box::new(self),
            },
            None => self,
        }
    }

    /// The program's exit status.
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Run(error) => error.exit_status(),
            Self::At { source, .. } => source.exit_status(),
            Self::Stopped => ExitStatus::Resumable,
            Self::Setting { .. }
            | Self::Memory { .. }
            | Self::Isa(_)
            | Self::Data(hone_data::DataError::Option { .. })
            | Self::Objective(hone_objective::Error::Setting { .. }) => ExitStatus::Usage,
            Self::Task(error) if error.is_configuration() => ExitStatus::Usage,
            Self::Task(error) if error.is_full_disk() => ExitStatus::Resumable,
            Self::Model(error) if error.is_setting() => ExitStatus::Usage,
            // Weights or losses without a number are divergence, wherever they show first
            Self::Diverged { .. }
            | Self::Mismatch { .. }
            | Self::Generate(hone_generate::GenerateError::Sampling {
                source: SamplingError::NotFinite { .. } | SamplingError::NothingLeft { .. },
                ..
            })
            | Self::Objective(hone_objective::Error::NotFinite { .. }) => ExitStatus::Diverged,
            _ => ExitStatus::Failed,
        }
    }
}

/// The dotted key of a setting of `[[rewards]]` or `[environment]` that makes no sense.
fn task_key(error: &hone_task::Error) -> Option<String> {
    match error {
        // `rewards[1] (numeric)`
        hone_task::Error::Setting { entry, source } => {
            let entry = entry.split(' ').next().unwrap_or(entry);
            Some(format!("{entry}.{}", source.key))
        }
        hone_task::Error::Environment { source, .. } => Some(format!("environment.{}", source.key)),
        _ => None,
    }
}

impl From<PlayError> for TrainError {
    fn from(error: PlayError) -> Self {
        match error {
            PlayError::Generate(error) => error.into(),
            PlayError::Text(error) => error.into(),
            PlayError::Task(error) => error.into(),
        }
    }
}
