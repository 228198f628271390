//! An environment that a policy acts in, and how long its episodes may become.

use hone_compute::SamplingParameters;
use hone_generate::{Dialogue, PlaySettings};
use hone_task::EnvironmentSetting;
use hone_task::environment::Status;

use super::sections::{EnvironmentSection, RolloutSettings};
use crate::error::{Result, TrainError};
use crate::job::Job;

/// Episodes that are looked at for their sizes.
const LOOKED_AT: u64 = 16;

/// An environment that a policy acts in.
pub(crate) struct Acting {
    pub setting: EnvironmentSetting,
    /// The environment's own name.
    pub name: &'static str,
    pub extent: Extent,
    max_turns: usize,
    seed: u64,
}

/// The most that was seen of episodes in which nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Tokens of the first turn.
    pub prompt: usize,
    /// Turns. Whoever says nothing has as many as there are.
    pub turns: usize,
    /// Tokens between two actions.
    pub observation: usize,
}

impl Extent {
    /// Tokens of an episode with actions of so many tokens each, if there is room for them.
    pub fn longest(self, max_new_tokens: usize) -> usize {
        self.prompt + self.turns * max_new_tokens + self.turns.saturating_sub(1) * self.observation
    }

    fn of(section: &EnvironmentSection, dialogue: &Dialogue<'_>, seed: u64) -> Result<(&'static str, Self)> {
        let mut environment = section.setting.build()?;
        let mut extent = Self::default();
        for index in 0..LOOKED_AT {
            environment.reset(seed, index)?;
            let first = dialogue.first_turn(&environment.rules(), &environment.observe(), &[])?;
            extent.prompt = extent.prompt.max(first.len());
            let mut turns = 0;
            while environment.status() == Status::Running && turns < section.max_turns {
                environment.step("")?;
                turns += 1;
                let next = dialogue.next_turn(&[], &environment.observe())?;
                extent.observation = extent.observation.max(next.len());
            }
            extent.turns = extent.turns.max(turns);
        }
        Ok((environment.name(), extent))
    }
}

impl Acting {
    /// The environment of a configuration, whose first turn and first action fit into the policy's context.
    ///
    /// # Errors
    /// A setting's; a template that cannot go on after a reply.
    pub fn load(
        job: &Job,
        section: &EnvironmentSection,
        (dialogue, seed): (&Dialogue<'_>, u64),
        (settings, context): (&RolloutSettings, usize),
    ) -> Result<Self> {
        let new = settings.max_new_tokens;
        let (name, extent) = Extent::of(section, dialogue, seed)?;
        let least = extent.prompt + new;
        if least > context {
            let reason = format!(
                "is {new}, which with the {} tokens of the rules and the first observation makes {least}; the model's \
                 context is {context}",
                extent.prompt
            );
            return Err(TrainError::setting(
                format!("{}.max_new_tokens", settings.section),
                reason,
            ));
        }
        let longest = extent.longest(new);
        if longest > context {
            job.message(format!(
                "{name}: an episode may take up to {} turns and {longest} tokens; the model's context is {context}, and \
                 episodes are cut off there",
                extent.turns
            ));
        }
        Ok(Self {
            setting: section.setting.clone(),
            name,
            extent,
            max_turns: section.max_turns,
            seed,
        })
    }

    /// How its episodes are played.
    pub fn settings(&self, settings: &RolloutSettings) -> PlaySettings {
        PlaySettings {
            seed: self.seed,
            max_turns: self.max_turns,
            max_new_tokens: settings.max_new_tokens,
            sampling: SamplingParameters {
                temperature: settings.temperature as f32,
                ..SamplingParameters::default()
            },
            examples: Vec::new(),
        }
    }

    /// The index of each episode of a rollout. The samples of a group play the same one.
    pub fn episodes(&self, rollout: u64, settings: &RolloutSettings) -> Vec<u64> {
        let prompts = settings.prompts() as u64;
        let indices = rollout * prompts..(rollout + 1) * prompts;
        indices
            .flat_map(|index| std::iter::repeat_n(index, settings.samples_per_prompt))
            .collect()
    }

    /// What a plan takes for granted.
    pub fn assumed(&self, settings: &RolloutSettings, context: usize) -> String {
        let Extent {
            prompt,
            turns,
            observation,
        } = self.extent;
        let new = settings.max_new_tokens;
        let longest = self.extent.longest(new).min(context);
        format!(
            "{}: every episode has {turns} turns, {prompt} tokens before the first action, {new} in each, {observation} \
             between two; {longest} in all",
            self.name
        )
    }
}
