//! What is known of a file and of a job, as the store keeps it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::jobs::rows::Shape;

/// An uploaded file, or a job's table of results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub id: String,
    /// Its place among all files and jobs.
    pub serial: u64,
    pub filename: String,
    pub bytes: u64,
    /// Seconds since 1970.
    pub created_at: u64,
    pub purpose: Purpose,
    /// Rows of an uploaded file, and what they are.
    pub rows: Option<(Shape, u64)>,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Purpose {
    /// To be learned from.
    FineTune,
    /// What a job came to.
    FineTuneResults,
}

impl Purpose {
    pub fn name(self) -> &'static str {
        match self {
            Self::FineTune => "fine-tune",
            Self::FineTuneResults => "fine-tune-results",
        }
    }
}

/// How a model is tuned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Method {
    /// Imitation.
    Supervised,
    /// Direct preference optimisation.
    Dpo,
    /// Group-relative reinforcement learning under graders.
    Reinforcement,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Self::Supervised => "supervised",
            Self::Dpo => "dpo",
            Self::Reinforcement => "reinforcement",
        }
    }

    /// The command that does it.
    pub fn stage(self) -> &'static str {
        match self {
            Self::Supervised => "sft",
            Self::Dpo => "preference",
            Self::Reinforcement => "grpo",
        }
    }

    /// What the lines of its files are.
    pub fn shape(self) -> Shape {
        match self {
            Self::Dpo => Shape::Preferences,
            Self::Supervised | Self::Reinforcement => Shape::Messages,
        }
    }
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// Its configuration is being checked, and its memory counted.
    ValidatingFiles,
    /// It waits for those before it.
    Queued,
    /// It trains, or goes on as soon as the server is up again.
    Running,
    /// It was stopped on request, and goes on from there on request.
    Paused,
    /// Its model is served.
    Succeeded,
    /// It ended with an error.
    Failed,
    /// It was given up on request.
    Cancelled,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::ValidatingFiles => "validating_files",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more happens.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobError {
    pub code: String,
    pub message: String,
    pub param: Option<String>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub id: String,
    /// Its place among all files and jobs.
    pub serial: u64,
    pub status: Status,
    /// The name of the model that is tuned.
    pub model: String,
    pub method: Method,
    /// The method with its hyperparameters, as the wire format has it.
    pub asked: Value,
    pub suffix: Option<String>,
    pub seed: u64,
    pub training_file: String,
    pub validation_file: Option<String>,
    pub metadata: Value,
    /// Seconds since 1970.
    pub created_at: u64,
    pub finished_at: Option<u64>,
    pub fine_tuned_model: Option<String>,
    /// That model was deleted.
    #[serde(default)]
    pub deleted: bool,
    pub trained_tokens: Option<u64>,
    pub result_files: Vec<String>,
    pub error: Option<JobError>,
}

impl Job {
    /// The model that it made, unless it was deleted.
    pub fn result(&self) -> Option<&str> {
        self.fine_tuned_model.as_deref().filter(|_| !self.deleted)
    }

    /// The name under which its result is served: `ft:BASE:SUFFIX:ID`.
    pub fn result_name(&self) -> String {
        // A model that was tuned here already is named by what it stands on
        let base = match self.model.strip_prefix("ft:") {
            Some(rest) => rest.rsplitn(3, ':').nth(2).unwrap_or(rest),
            None => &self.model,
        };
        let id = self.id.strip_prefix("ftjob-").unwrap_or(&self.id);
        format!("ft:{base}:{}:{id}", self.suffix.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
pub(crate) fn job(id: &str, serial: u64) -> Job {
    Job {
        id: id.into(),
        serial,
        status: Status::Queued,
        model: "chat".into(),
        method: Method::Supervised,
        asked: Value::Null,
        suffix: None,
        seed: 1,
        training_file: "file-1".into(),
        validation_file: None,
        metadata: Value::Null,
        created_at: 0,
        finished_at: None,
        fine_tuned_model: None,
        deleted: false,
        trained_tokens: None,
        result_files: Vec::new(),
        error: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_named_by_base_suffix_and_job() {
        let mut tuned = job("ftjob-0a1b", 0);
        assert_eq!(tuned.result_name(), "ft:chat::0a1b");
        tuned.suffix = Some("polite".into());
        assert_eq!(tuned.result_name(), "ft:chat:polite:0a1b");
        tuned.model = "ft:org/name:kind:77".into();
        assert_eq!(tuned.result_name(), "ft:org/name:polite:0a1b");
    }

    #[test]
    fn names_are_those_of_the_store_and_of_the_wire() {
        for status in [
            Status::ValidatingFiles,
            Status::Queued,
            Status::Running,
            Status::Paused,
            Status::Succeeded,
            Status::Failed,
            Status::Cancelled,
        ] {
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
        }
        for method in [Method::Supervised, Method::Dpo, Method::Reinforcement] {
            assert_eq!(serde_json::to_value(method).unwrap(), method.name());
        }
        for purpose in [Purpose::FineTune, Purpose::FineTuneResults] {
            assert_eq!(serde_json::to_value(purpose).unwrap(), purpose.name());
        }
    }
}
