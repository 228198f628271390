//! What a stage with rollouts is made from: the policy's start, the reward model, the prompts.

use std::path::PathBuf;
use std::sync::Arc;

use hone_compute::Engine;
use hone_math::Key;
use hone_model::Transformer;
use hone_text::Chat;

use super::collect::{Collected, Models, collect};
use super::prompts::Prompts;
use super::score::Reading;
use super::sections::{PromptData, RewardSection, RolloutSettings};
use crate::artefact::{self, Artefact};
use crate::error::{Result, TrainError};
use crate::job::Job;
use crate::scorer::Scorer;
use crate::sections::ModelSection;

/// What does not change during a run.
pub(crate) struct Setup {
    /// The policy's start, which is also the reference.
    pub base: Artefact,
    pub scorer: Scorer,
    pub prompts: Prompts,
    /// How responses reach the reward model.
    pub reading: Reading,
    /// Tokens of the longest sequence that may come.
    pub longest: usize,
    /// Names of the policy and of the reward model in the configuration, and where they lie.
    models: [(String, PathBuf); 2],
    stop: Arc<[u32]>,
}

/// The sections that say what a run is made from, and its seed.
pub(crate) struct Made<'a> {
    pub model: &'a ModelSection,
    pub reward: &'a RewardSection,
    pub data: &'a PromptData,
    pub seed: u64,
}

/// The networks of an update.
#[derive(Clone, Copy)]
pub(crate) struct Networks<'a> {
    pub policy: &'a Transformer,
    pub value: Option<&'a Transformer>,
    /// Whether the reference's log-probabilities are wanted.
    pub reference: bool,
}

impl Setup {
    /// Loads it all, and refuses what cannot go together.
    ///
    /// # Errors
    /// A setting's, a model's or the data's.
    pub fn load(job: &Job, engine: &Engine, made: &Made<'_>, settings: &RolloutSettings) -> Result<Self> {
        let (section, new) = (settings.section, settings.max_new_tokens);
        let Some(name) = &made.model.path else {
            let reason = format!("is missing; {section} starts from a model");
            return Err(TrainError::setting("model.path", reason));
        };
        if made.reward.path.is_empty() {
            let reason = format!("is missing; {section} needs a reward model");
            return Err(TrainError::setting("reward.path", reason));
        }
        let path = job.model("model.path", name)?;
        let base = artefact::load_language_model(engine, &path)?;
        job.check_stop()?;
        let reward_path = job.model("reward.path", &made.reward.path)?;
        let scorer = Scorer::load(engine, &reward_path)?;
        let chat = match base.companion.tokenizer.chat_template() {
            Some(_) => Some(Chat::new(&base.companion.tokenizer)?),
            None => None,
        };
        let prompts = Prompts::load(job, made.data, (&base.companion.tokenizer, chat.as_ref()), made.seed)?;
        let stop = match &chat {
            Some(chat) => chat.stop_ids()?,
            None => base.companion.tokenizer.eos_ids().to_vec(),
        };
        let (longest, context) = (made.data.max_prompt_length + new, base.model.architecture().context);
        if longest > context {
            let reason = format!(
                "is {new}, which with data.max_prompt_length = {} makes {longest} tokens; the model's context is {context}",
                made.data.max_prompt_length
            );
            return Err(TrainError::setting(format!("{section}.max_new_tokens"), reason));
        }
        let reading = Reading::of(&scorer, &base.companion.tokenizer)?;
        reading.check(&scorer, &prompts, settings)?;
        Ok(Self {
            base,
            scorer,
            prompts,
            reading,
            longest,
            models: [(name.clone(), path), (made.reward.path.clone(), reward_path)],
            stop: stop.into(),
        })
    }

    /// Puts the weights of the reference and of the reward model in the place of those of a rehearsal.
    ///
    /// # Errors
    /// If a file is at fault.
    pub fn load_weights(&mut self, job: &Job, engine: &Engine) -> Result<()> {
        for (name, path) in &self.models {
            job.keep_commit(name, path)?;
        }
        let [(_, path), (_, reward_path)] = &self.models;
        self.base.model = artefact::load_language_model(engine, path)?.model;
        self.scorer = Scorer::load(engine, reward_path)?;
        Ok(())
    }

    /// The rollout whose prompts are those of `place` in their order and whose samples follow `key`; none if the run is
    /// asked to stop on the way.
    ///
    /// # Errors
    /// If sampling or scoring fails.
    pub fn rollout(
        &self,
        (engine, job): (&Engine, &Job),
        networks: Networks<'_>,
        settings: &RolloutSettings,
        (place, key): (u64, Key),
    ) -> Result<Option<Collected>> {
        let models = Models {
            policy: networks.policy,
            reference: networks.reference.then_some(&self.base.model),
            value: networks.value,
            scorer: &self.scorer,
            reading: self.reading,
            tokenizer: &self.base.companion.tokenizer,
            stop: &self.stop,
            shutdown: &job.shutdown,
        };
        let prompts = self.prompts.rollout(place, settings);
        collect(engine, &models, &prompts, settings, key)
    }
}
