//! What can be known to be wrong with a configuration before its models and data are there, so that a recipe's last stage need not wait for
//! its first to be refused.

use hone_data::{Source, check_share};
use hone_model::LoraConfig;
use hone_run::{Configuration, Resolved};

use crate::error::{Result, TrainError};
use crate::expert_iteration::ExpertIterationConfig;
use crate::grpo::GrpoConfig;
use crate::job::check_engine;
use crate::online_preference::OnlinePreferenceConfig;
use crate::ppo::PpoConfig;
use crate::preference::PreferenceConfig;
use crate::preferred::Method;
use crate::pretrain::PretrainConfig;
use crate::reward::RewardConfig;
use crate::rollout::checked;
use crate::schedule::{Rates, adamw, total_steps};
use crate::sections::{Keep, PassesSection};
use crate::sft::SftConfig;

/// A stage's configuration, as far as it can be checked by itself.
pub trait Checked: Configuration {
    /// Refuses values out of their range, and those that cannot go together.
    ///
    /// # Errors
    /// The first that makes no sense.
    fn refuse_nonsense(&self) -> Result<()>;
}

/// Checks a configuration by itself; what its models and data have to say is told when the stage starts.
///
/// # Errors
/// The first value that makes no sense, with its place.
pub fn check<C: Checked>(config: &Resolved<C>) -> Result<()> {
    config.config.refuse_nonsense().map_err(|error| error.at(config))
}

/// `[train]` of the stages that pass over data.
fn passes(train: &PassesSection) -> Result<()> {
    check_engine(train)?;
    if train.batch == 0 {
        return Err(TrainError::setting("train.batch", "is 0; expected at least 1"));
    }
    // What is refused does not depend on how much there is
    let total = total_steps(train, (1.0, 1.0))?;
    Rates::new(train, train.learning_rate, total)?;
    adamw(train)?;
    Ok(())
}

/// Refuses a best model of evaluations that there are none of.
pub(crate) fn best_is_seen(keep: Keep, held_out: f64) -> Result<()> {
    if keep == Keep::Best && held_out == 0.0 {
        let reason =
            "is \"best\", and data.held_out is 0: no evaluation would tell which is; hold some out, or keep \"last\"";
        return Err(TrainError::setting("keep", reason));
    }
    Ok(())
}

/// Refuses data that name no file; `example` is one.
pub(crate) fn refuse_no_source(key: &str, sources: &[Source], example: &str) -> Result<()> {
    if !sources.is_empty() {
        return Ok(());
    }
    let reason = format!("is empty; expected at least one source, such as [\"{example}\"]");
    Err(TrainError::setting(key, reason))
}

/// Refuses an adapter that no model can have.
pub(crate) fn adapter_can_be(lora: Option<&LoraConfig>) -> Result<()> {
    match lora {
        Some(lora) if lora.rank == 0 => Err(TrainError::setting("lora.rank", "is 0; expected at least 1")),
        _ => Ok(()),
    }
}

/// What stages that tune a model on data have in common: its data, with an example, and the adapter.
fn tuned((train, example): (&[Source], &str), held_out: f64, lora: Option<&LoraConfig>) -> Result<()> {
    refuse_no_source("data.train", train, example)?;
    check_share(held_out)?;
    adapter_can_be(lora)
}

impl Checked for PretrainConfig {
    fn refuse_nonsense(&self) -> Result<()> {
        self.model.scratch()?;
        tuned((&self.data.train, "text.txt"), self.data.held_out, None)?;
        passes(&self.train)
    }
}

impl Checked for SftConfig {
    fn refuse_nonsense(&self) -> Result<()> {
        self.starts_from()?;
        best_is_seen(self.keep, self.data.held_out)?;
        let train = (self.data.train.as_slice(), "demonstrations.jsonl");
        tuned(train, self.data.held_out, self.lora.as_ref())?;
        passes(&self.train)
    }
}

impl Checked for RewardConfig {
    fn refuse_nonsense(&self) -> Result<()> {
        self.starts_from()?;
        let train = (self.data.train.as_slice(), "rankings.jsonl");
        tuned(train, self.data.held_out, self.lora.as_ref())?;
        passes(&self.train)
    }
}

impl Checked for PreferenceConfig {
    fn refuse_nonsense(&self) -> Result<()> {
        self.starts_from()?;
        Method::new(&self.preference)?;
        best_is_seen(self.keep, self.data.held_out)?;
        let train = (self.data.train.as_slice(), "rankings.jsonl");
        tuned(train, self.data.held_out, self.lora.as_ref())?;
        passes(&self.train)
    }
}

impl Checked for PpoConfig {
    fn refuse_nonsense(&self) -> Result<()> {
        checked(self)
    }
}

impl Checked for GrpoConfig {
    fn refuse_nonsense(&self) -> Result<()> {
        checked(self)
    }
}

impl Checked for ExpertIterationConfig {
    fn refuse_nonsense(&self) -> Result<()> {
        checked(self)
    }
}

impl Checked for OnlinePreferenceConfig {
    fn refuse_nonsense(&self) -> Result<()> {
        checked(self)
    }
}
