//! What a stage with rollouts is made from: the policy's start, what judges, the prompts or the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use hone_compute::Engine;
use hone_generate::Dialogue;
use hone_math::Key;
use hone_model::Transformer;
use hone_run::Checkpoint;
use hone_text::Chat;
use serde_json::{Map, Value};

use super::acting::Acting;
use super::collect::{Collected, Models, collect, collect_episodes};
use super::held_out::HeldOut;
use super::judge::{Judge, PRACTICE, Reader, Sum};
use super::practice::Course;
use super::prompts::Prompts;
use super::sections::{Chosen, JudgeSection, PromptData, RolloutSettings};
use crate::artefact::{self, Artefact};
use crate::error::{Result, TrainError};
use crate::job::Job;
use crate::plan::{Notes, SourcePlan};

/// What does not change during a run.
pub(crate) struct Setup {
    /// The policy's start, which is also the reference.
    pub base: Artefact,
    /// What judges.
    pub judge: Judge,
    /// None in an environment.
    pub prompts: Option<Prompts>,
    /// What looks at the policy on its way.
    pub held_out: Option<HeldOut>,
    /// Tokens of the longest sequence that may come.
    pub longest: usize,
    /// Tokens of the longest prompt that is taken, of practice and of a held-out judge; none where there are no prompts.
    pub longest_prompt: Option<usize>,
    /// The policy's name in the configuration, and where it lies.
    model: (String, PathBuf),
    pub(super) chat: Option<Chat>,
    pub(super) stop: Arc<[u32]>,
}

/// The networks of an update.
#[derive(Clone, Copy)]
pub(crate) struct Networks<'a> {
    pub policy: &'a Transformer,
    /// Whether the reference's log-probabilities are wanted.
    pub reference: bool,
}

/// Under this name a checkpoint's state holds where the journals stand.
const OFFSETS: &str = "rewards";

impl Setup {
    /// Loads it all, and refuses what cannot go together.
    ///
    /// # Errors
    /// A setting's, a model's or the data's.
    pub fn load(job: &Job, engine: &Engine, course: &Course<'_>) -> Result<Self> {
        let (settings, seed) = (&course.settings, course.train.seed);
        let section = settings.section;
        let name = course.model.needed(&format!("{section} starts from a model"))?;
        let chosen = course.maximised.chosen(section)?;
        let path = job.model("model.path", name)?;
        let base = artefact::load_language_model(engine, &path)?;
        job.check_stop()?;
        let tokenizer = &base.companion.tokenizer;
        let judge = match chosen {
            Chosen::Model(path) => {
                let reader = Reader::load((job, engine), "reward.path", path, tokenizer)?;
                Some(Judge::Model(Box::new(reader)))
            }
            Chosen::Rewards(entries) => {
                let sum = Sum::load((job, engine), (PRACTICE.of(section), entries), tokenizer)?;
                Some(Judge::Sum(Box::new(sum)))
            }
            Chosen::Environment(_) => None,
        };
        let chat = match tokenizer.chat_template() {
            Some(_) => Some(Chat::new(tokenizer)?),
            None => None,
        };
        let context = base.model.architecture().context;
        let (data, lowered) = course.data.fitting(context, settings.max_new_tokens);
        let asks = |judge: &JudgeSection| judge.environment.is_none();
        let has_prompts = judge.is_some() || course.judge.is_some_and(asks);
        if lowered && has_prompts {
            job.message(format!(
                "data.max_prompt_length: {}, which is what {section}.max_new_tokens = {} leaves of the model's context of {context}",
                data.longest_prompt(),
                settings.max_new_tokens
            ));
        }
        let (judge, prompts, longest) = match (judge, chosen) {
            (None, Chosen::Environment(environment)) => {
                let dialogue = Dialogue::new(tokenizer, chat.as_ref())?;
                let acting = Acting::load(job, environment, (&dialogue, seed), (settings, context))?;
                let longest = acting.extent.longest(settings.max_new_tokens).min(context);
                (Judge::Environment(Box::new(acting)), None, longest)
            }
            (judge, _) => {
                let prompts = Prompts::load(job, ("data.prompts", &data), (tokenizer, chat.as_ref()), seed)?;
                let longest = fitting(&data, settings, context)?;
                let Some(judge) = judge else {
                    return Err(TrainError::setting(section, "maximises nothing"));
                };
                judge.check(&prompts, settings)?;
                (judge, Some(prompts), longest)
            }
        };
        let held_out = match course.judge {
            Some(judge) => {
                let practised = (prompts.as_ref(), chosen);
                Some(HeldOut::load(
                    (job, engine),
                    (judge, course),
                    (&base, data.longest_prompt()),
                    (chat.as_ref(), practised),
                )?)
            }
            None => None,
        };
        let stop = match &chat {
            Some(chat) => chat.stop_ids()?,
            None => tokenizer.eos_ids().to_vec(),
        };
        Ok(Self {
            judge,
            prompts,
            held_out,
            longest,
            longest_prompt: has_prompts.then(|| data.longest_prompt()),
            model: (name.to_owned(), path),
            chat,
            stop: stop.into(),
            base,
        })
    }

    /// Puts weights in the place of those of a rehearsal, and opens the journals of programs that judge where the checkpoint
    /// left them, or at their start.
    ///
    /// # Errors
    /// If a file is at fault.
    pub fn load_weights(&mut self, job: &Job, engine: &Engine, checkpoint: Option<&Checkpoint>) -> Result<()> {
        let (name, path) = &self.model;
        job.keep_commit(name, path)?;
        self.base.model = artefact::load_language_model(engine, path)?.model;
        self.judge.begin(job, engine, &offsets_of(checkpoint, OFFSETS))?;
        if let Some(held_out) = &mut self.held_out {
            held_out.begin(job, engine, checkpoint)?;
        }
        Ok(())
    }

    /// Adds to a checkpoint's state what judges need to go on from before this rollout.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn keep(&self, state: &mut Map<String, Value>, rollout: u64) -> Result<()> {
        keep_offsets(state, OFFSETS, self.judge.offsets_before(rollout + 1)?);
        Ok(())
    }

    /// Rollout `place`, whose prompts or episodes follow from that, and whose samples follow `key`; none if the run is asked
    /// to stop on the way.
    ///
    /// # Errors
    /// If sampling or judging fails.
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
            judge: &self.judge,
            tokenizer: &self.base.companion.tokenizer,
            chat: self.chat.as_ref(),
            stop: &self.stop,
            shutdown: &job.shutdown,
        };
        match (&self.judge, &self.prompts) {
            (Judge::Environment(acting), _) => collect_episodes(engine, &models, acting, settings, (place, key)),
            (_, prompts) => {
                let prompts = prompts.as_ref().map(|prompts| prompts.rollout(place, settings));
                collect(engine, &models, &prompts.unwrap_or_default(), settings, (place, key))
            }
        }
    }

    /// What the policy is shown, as the turns of a dialogue.
    ///
    /// # Errors
    /// A template that ends no turn.
    pub fn dialogue(&self) -> Result<Dialogue<'_>> {
        Ok(Dialogue::new(&self.base.companion.tokenizer, self.chat.as_ref())?)
    }

    /// The sources of the prompts, or the episodes, that so many rollouts need.
    pub fn sources(&self, rollouts: u64, settings: &RolloutSettings) -> Vec<SourcePlan> {
        let draws = rollouts * settings.prompts() as u64;
        match (&self.judge, &self.prompts) {
            (Judge::Environment(acting), _) => vec![SourcePlan {
                name: acting.name.to_owned(),
                items: draws,
                unit: "episodes",
                epochs: 1.0,
            }],
            (_, Some(prompts)) => prompts.planned(draws),
            (_, None) => Vec::new(),
        }
    }

    /// Tokens of a rollout whose responses are as long as they may be.
    pub fn most_tokens(&self, settings: &RolloutSettings) -> u64 {
        match &self.prompts {
            Some(prompts) => {
                let prompts = prompts.rollout(0, settings);
                prompts
                    .iter()
                    .map(|p| (p.ids.len() + settings.max_new_tokens) as u64)
                    .sum()
            }
            None => (settings.rollout_batch * self.longest) as u64,
        }
    }

    /// What a plan takes for granted.
    fn assumed(&self, settings: &RolloutSettings) -> Option<String> {
        match &self.judge {
            Judge::Environment(acting) => Some(acting.assumed(settings, self.base.model.architecture().context)),
            _ => None,
        }
    }

    /// The reward models: of what is maximised, and of what looks at the policy.
    fn readers(&self) -> impl Iterator<Item = &Reader> {
        let held_out = self.held_out.iter().flat_map(|held_out| held_out.judge.readers());
        self.judge.readers().iter().chain(held_out)
    }

    /// Notes down for a plan which models are only read, and what is taken for granted.
    pub fn note(&self, notes: &mut Notes<'_>, settings: &RolloutSettings) {
        notes.read_model("reference", &self.base.model);
        for reader in self.readers() {
            notes.read_model("reward model", reader.scorer.model());
        }
        self.assumed(settings).into_iter().for_each(|what| notes.assume(what));
    }

    /// The frozen models, in words.
    pub fn frozen(&self) -> &'static str {
        match self.readers().count() {
            0 => "weights of the reference, f32",
            1 => "weights of the reference and the reward model, f32",
            _ => "weights of the reference and the reward models, f32",
        }
    }
}

/// Where journals stood, by a checkpoint's state.
pub(super) fn offsets_of(checkpoint: Option<&Checkpoint>, name: &str) -> BTreeMap<String, u64> {
    let state = checkpoint.map(|checkpoint| &checkpoint.state()[name]);
    let all = state.and_then(Value::as_object).into_iter().flatten();
    all.filter_map(|(name, bytes)| Some((name.clone(), bytes.as_u64()?)))
        .collect()
}

/// Puts it into a checkpoint's state, where there are journals.
pub(super) fn keep_offsets(state: &mut Map<String, Value>, name: &str, offsets: Option<BTreeMap<String, u64>>) {
    if let Some(offsets) = offsets {
        let offsets: Map<String, Value> = offsets.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
        state.insert(name.into(), offsets.into());
    }
}

/// Tokens of the longest prompt that is taken with the longest response.
pub(super) fn fitting(data: &PromptData, settings: &RolloutSettings, context: usize) -> Result<usize> {
    let new = settings.max_new_tokens;
    let longest = data.longest_prompt() + new;
    if longest > context {
        let reason = format!(
            "is {new}, which with data.max_prompt_length = {} makes {longest} tokens; the model's context is {context}: \
             lower one of the two",
            data.longest_prompt()
        );
        return Err(TrainError::setting(
            format!("{}.max_new_tokens", settings.section),
            reason,
        ));
    }
    Ok(longest)
}
