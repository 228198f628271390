//! What can stop a pipeline.

use hone_run::ExitStatus;

/// A pipeline's result.
pub type Result<T, E = PipelineError> = std::result::Result<T, E>;

/// Why a pipeline stopped.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A stage.
    #[error("{stage}: {source}")]
    Stage {
        /// Its name.
        stage: String,
        /// What stopped it.
        source: Box<hone_train::TrainError>,
    },
    /// Settings of a recipe's stage.
    #[error("{recipe}, stage {stage}: {source}")]
    Settings {
        /// The recipe's file.
        recipe: String,
        /// The stage's name.
        stage: String,
        /// What is wrong with them.
        source: Box<PipelineError>,
    },
    /// The small world.
    #[error(transparent)]
    World(#[from] hone_world::Error),
    /// A tokenizer or a template.
    #[error(transparent)]
    Text(#[from] hone_text::TextError),
    /// Loading a model, scoring or evaluating.
    #[error(transparent)]
    Train(Box<hone_train::TrainError>),
    /// Sampling.
    #[error(transparent)]
    Generate(#[from] hone_generate::GenerateError),
    /// Statistics.
    #[error(transparent)]
    Objective(#[from] hone_objective::Error),
    /// A row that cannot be put into a prompt.
    #[error("row {row}: {source}")]
    Prompt {
        /// Which, from 1.
        row: u64,
        /// Why.
        source: hone_generate::prompting::PromptError,
    },
    /// A row whose options or reference cannot be used.
    #[error("row {row}: {source}")]
    Options {
        /// Which, from 1.
        row: u64,
        /// Why.
        source: crate::prompting::OptionProblem,
    },
    /// A row by which no answer can be verified.
    #[error("row {row}: {source}")]
    Verify {
        /// Which, from 1.
        row: u64,
        /// Why.
        source: hone_task::Problem,
    },
    /// A row whose answer cannot be scored.
    #[error("row {row}: {reason}")]
    Unscorable {
        /// Which, from 1.
        row: u64,
        /// Why, with a hint.
        reason: String,
    },
    /// A verifier, a program that judges, or their configuration.
    #[error(transparent)]
    Task(#[from] hone_task::Error),
    /// Metrics, bits per byte among them.
    #[error(transparent)]
    Evaluation(#[from] hone_eval::Error),
    /// A data set.
    #[error(transparent)]
    Data(#[from] hone_data::DataError),
    /// Configuration, run directory or report.
    #[error(transparent)]
    Run(#[from] hone_run::Error),
    /// `HONE_ISA`.
    #[error(transparent)]
    Isa(#[from] hone_compute::IsaError),
    /// A file that is not what was written there.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A setting that makes no sense.
    #[error("{key}: {reason}")]
    Setting {
        /// Its dotted key.
        key: String,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// The process was asked to stop; the same command goes on.
    #[error("stopped in {stage} after step {step}; the same command goes on from there")]
    Stopped {
        /// The stage that was under way.
        stage: String,
        /// Steps of it that are done.
        step: u64,
    },
}

impl From<hone_train::TrainError> for PipelineError {
    fn from(error: hone_train::TrainError) -> Self {
        Self::Train(Box::new(error))
    }
}

impl PipelineError {
    pub(crate) fn file(path: &std::path::Path, reason: impl Into<String>) -> Self {
        Self::File {
            path: path.display().to_string(),
            reason: reason.into(),
        }
    }

    pub(crate) fn setting(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Setting {
            key: key.into(),
            reason: reason.into(),
        }
    }

    /// The program's exit status.
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Stage { source, .. } => source.exit_status(),
            Self::Settings { source, .. } => source.exit_status(),
            Self::Train(error) => error.exit_status(),
            Self::Run(error) => error.exit_status(),
            Self::Setting { .. } | Self::Isa(_) => ExitStatus::Usage,
            Self::Task(error) if error.is_configuration() => ExitStatus::Usage,
            Self::Task(error) if error.is_full_disk() => ExitStatus::Resumable,
            Self::Stopped { .. } => ExitStatus::Resumable,
            Self::Options {
                source: crate::prompting::OptionProblem::Diverged,
                ..
            }
            | Self::Evaluation(hone_eval::Error::NotFinite { .. } | hone_eval::Error::LogRatio { .. })
            | Self::Generate(hone_generate::GenerateError::Sampling { .. }) => ExitStatus::Diverged,
            _ => ExitStatus::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_diverged_says_so_wherever_it_was_found() {
        let ratio = hone_eval::kl_of_samples(&[0.5, f64::INFINITY]).map(drop);
        let status = |error: PipelineError| error.exit_status();
        assert_eq!(ratio.map_err(|e| status(e.into())), Err(ExitStatus::Diverged));
        let empty = hone_eval::kl_of_samples(&[]).map(drop);
        assert_eq!(empty.map_err(|e| status(e.into())), Err(ExitStatus::Failed));
        let wrapped = PipelineError::Settings {
            recipe: "r.toml".into(),
            stage: "a".into(),
            source: Box::new(PipelineError::setting("k", "is 0")),
        };
        assert_eq!(wrapped.exit_status(), ExitStatus::Usage);
    }
}
