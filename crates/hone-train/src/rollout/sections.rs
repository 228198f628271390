//! Sections of configurations that stages with rollouts share.

use hone_data::Source;
use hone_task::{EnvironmentSetting, RewardEntry, RewardRule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks::at_least_one;
use crate::error::{Result, TrainError};
use crate::sections::Keep;

/// `[reward]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardSection {
    /// A reward model's directory, or a hub id. Its tokenizer may be another than the policy's: it is scored from text.
    #[schemars(example = &"runs/reward/model")]
    pub path: String,
}

impl RewardSection {
    /// Whether it names nothing.
    pub fn is_empty(&self) -> bool {
        self.path.is_empty()
    }
}

/// `[environment]` of a stage: which one, and how long its episodes may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnvironmentSection {
    /// The environment, with its own keys.
    #[serde(flatten)]
    pub setting: EnvironmentSetting,
    /// Turns after which an episode is cut off.
    #[serde(default = "max_turns")]
    pub max_turns: usize,
}

fn max_turns() -> usize {
    16
}

impl EnvironmentSection {
    /// This environment, with the usual number of turns.
    pub fn new(setting: EnvironmentSetting) -> Self {
        Self {
            setting,
            max_turns: max_turns(),
        }
    }

    /// Refuses episodes without turns; `key` is the section's.
    pub(crate) fn check(&self, key: &str) -> Result<()> {
        at_least_one(key, &[("max_turns", self.max_turns)])
    }
}

/// `rewards`, as an example.
fn example_rewards() -> serde_json::Value {
    serde_json::json!([{ "kind": "numeric", "column": "answer" }, { "kind": "length", "max": 60, "weight": 0.1 }])
}

/// `[environment]`, as an example.
fn example_environment() -> serde_json::Value {
    serde_json::json!({ "kind": "maze", "size": 5, "difficulty": "medium", "max_turns": 16 })
}

/// The sections of which exactly one says what a stage maximises. They stand at the top of its configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Maximised {
    /// What is maximised: a reward model's score. Exactly one of this, `[[rewards]]` and `[environment]` is given.
    #[serde(skip_serializing_if = "RewardSection::is_empty")]
    pub reward: RewardSection,
    /// Or a weighted sum: verifiers, programs and reward models, each with a `kind` and its keys (see `docs/rewards.md`).
    #[schemars(example = example_rewards())]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<RewardEntry>,
    /// Or what an environment gives in which the policy acts: `maze` or `word-game` (see `docs/environments.md`).
    #[schemars(example = example_environment())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentSection>,
}

/// What answers are worth by, where exactly one thing has to be named: what a stage maximises, or what its held-out judge goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Chosen<'a> {
    /// The score of the reward model at a path.
    Model(&'a str),
    /// A sum of scores.
    Rewards(&'a [RewardEntry]),
    /// What an environment gives.
    Environment(&'a EnvironmentSection),
}

/// The sections among which one is to be chosen, and what messages call them.
struct Choices<'a> {
    model: (&'static str, Option<&'a str>),
    rewards: (&'static str, &'a [RewardEntry]),
    environment: (&'static str, Option<&'a EnvironmentSection>),
}

impl<'a> Choices<'a> {
    /// The one that is given.
    ///
    /// # Errors
    /// None, as `nothing` has it, or more than one, with `all` for what is expected.
    fn only(self, nothing: impl FnOnce() -> TrainError, all: &str) -> Result<Chosen<'a>> {
        let (model, rewards, environment) = (self.model, self.rewards, self.environment);
        let model = model.1.map(|path| (model.0, Chosen::Model(path)));
        let sum = (!rewards.1.is_empty()).then_some((rewards.0, Chosen::Rewards(rewards.1)));
        let acted = environment
            .1
            .map(|section| (environment.0, Chosen::Environment(section)));
        let mut given = model.into_iter().chain(sum).chain(acted);
        match (given.next(), given.next()) {
            (Some((_, chosen)), None) => Ok(chosen),
            (None, _) => Err(nothing()),
            (Some((first, _)), Some((second, _))) => {
                Err(TrainError::setting(second, format!("stands beside {first}; {all}")))
            }
        }
    }
}

impl Maximised {
    /// The score of the reward model at a path.
    pub fn model(path: impl Into<String>) -> Self {
        Self {
            reward: RewardSection { path: path.into() },
            ..Self::default()
        }
    }

    /// The one that is given.
    ///
    /// # Errors
    /// If none is, or more than one.
    pub(crate) fn chosen(&self, section: &str) -> Result<Chosen<'_>> {
        let all = format!("{section} maximises exactly one of [reward] with a path, [[rewards]] and [environment]");
        let choices = Choices {
            model: ("reward.path", (!self.reward.is_empty()).then_some(&*self.reward.path)),
            rewards: ("rewards", &self.rewards),
            environment: ("environment", self.environment.as_ref()),
        };
        choices.only(
            || TrainError::setting("reward.path", format!("is missing; {all}")),
            &all,
        )
    }

    /// The reward models that are named, for the inputs of a run.
    pub(crate) fn models(&self) -> Vec<Option<String>> {
        let own = std::iter::once(Some(self.reward.path.clone()));
        own.chain(models_of(&self.rewards)).collect()
    }
}

/// `[data]` of a stage that samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PromptData {
    /// Prompts with their weights in the mixture. Needed, but in an environment, which has its own.
    #[schemars(example = vec!["prompts.jsonl"])]
    pub prompts: Vec<Source>,
    /// The share at the end of each source that is not practised on, so that it can be judged on later. The run measures
    /// nothing on it.
    pub held_out: f64,
    /// Longer prompts are dropped, and counted; absent: 256, or what the longest response leaves of the model's context, if that is less.
    #[schemars(example = 256)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prompt_length: Option<usize>,
}

impl Default for PromptData {
    fn default() -> Self {
        Self {
            prompts: Vec::new(),
            held_out: 0.05,
            max_prompt_length: None,
        }
    }
}

/// Tokens of the longest prompt where nothing is said and the model has room for it.
const LONGEST_PROMPT: usize = 256;

impl PromptData {
    /// Tokens of the longest prompt.
    pub(crate) fn longest_prompt(&self) -> usize {
        self.max_prompt_length.unwrap_or(LONGEST_PROMPT)
    }

    /// The same with the limit that a model's context has room for beside a response, where none is given; and whether that is less than usual.
    pub(crate) fn fitting(&self, context: usize, max_new_tokens: usize) -> (Self, bool) {
        let room = context.saturating_sub(max_new_tokens);
        let lowered = self.max_prompt_length.is_none() && (1..LONGEST_PROMPT).contains(&room);
        let data = Self {
            max_prompt_length: Some(if lowered { room } else { self.longest_prompt() }),
            ..self.clone()
        };
        (data, lowered)
    }
}

/// `[judge]` of a stage that practises: what looks at the policy on its way, on what it does not practise on. Exactly one of `reward`,
/// `rewards` and `environment` says what answers are worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeSection {
    /// Updates between two looks; the first is at the start, the last at the end.
    pub every: u64,
    /// Prompts that are not practised on. Needed, but of an environment.
    #[schemars(example = vec!["held-out.jsonl"])]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<Source>,
    /// So many of the first prompts are answered at each look, of an environment so many episodes played.
    pub limit: usize,
    /// Answers to each.
    pub samples: usize,
    /// A reward model's directory, or a hub id.
    #[schemars(example = &"runs/judge/model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward: Option<String>,
    /// Or a weighted sum, as `[[rewards]]`.
    #[schemars(example = example_rewards())]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<RewardEntry>,
    /// Or an environment, as `[environment]`.
    #[schemars(example = example_environment())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentSection>,
    /// Of an environment: the seed of its episodes, which is not the one of practice.
    pub seed: u64,
    /// `best`: the run gives the model that the judge found best; `last`: the last one.
    pub keep: Keep,
    /// So many looks in a row at which none was better end the run; absent: it goes on to its last update.
    #[schemars(example = 3)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
}

impl Default for JudgeSection {
    fn default() -> Self {
        Self {
            every: 10,
            prompts: Vec::new(),
            limit: 64,
            samples: 1,
            reward: None,
            rewards: Vec::new(),
            environment: None,
            seed: 2_000_003,
            keep: Keep::Best,
            patience: None,
        }
    }
}

impl JudgeSection {
    /// The one that is given.
    ///
    /// # Errors
    /// If none is, or more than one; counts of 0.
    pub(crate) fn judging(&self) -> Result<Chosen<'_>> {
        at_least_one("judge", &[("every", self.every as usize), ("limit", self.limit)])?;
        at_least_one("judge", &[("samples", self.samples)])?;
        if self.patience == Some(0) {
            let reason = "is 0; expected at least 1, or nothing for a run that goes on to its last update";
            return Err(TrainError::setting("judge.patience", reason));
        }
        const ALL: &str = "expected exactly one of judge.reward, [[judge.rewards]] and judge.environment";
        let choices = Choices {
            model: ("judge.reward", self.reward.as_deref()),
            rewards: ("judge.rewards", &self.rewards),
            environment: ("judge.environment", self.environment.as_ref()),
        };
        let judging = choices.only(
            || TrainError::setting("judge", format!("judges by nothing; {ALL}")),
            ALL,
        )?;
        match (judging, self.prompts.is_empty()) {
            (Chosen::Environment(_), false) => {
                let reason = "stands beside judge.environment, which shows what it makes itself; leave one of them out";
                Err(TrainError::setting("judge.prompts", reason))
            }
            (Chosen::Environment(environment), true) => {
                environment.check("judge.environment")?;
                Ok(judging)
            }
            (Chosen::Model(_) | Chosen::Rewards(_), true) => {
                let reason = "is empty; expected prompts that are not practised on, such as [\"held-out.jsonl\"]";
                Err(TrainError::setting("judge.prompts", reason))
            }
            _ => Ok(judging),
        }
    }

    /// The reward models that are named, for the inputs of a run.
    pub(crate) fn models(&self) -> Vec<Option<String>> {
        let own = self.reward.clone().map(Some);
        own.into_iter().chain(models_of(&self.rewards)).collect()
    }
}

/// The reward models among entries.
fn models_of(entries: &[RewardEntry]) -> impl Iterator<Item = Option<String>> {
    entries.iter().filter_map(|entry| match &entry.rule {
        RewardRule::Model { path } => Some(Some(path.clone())),
        _ => None,
    })
}

/// What becomes of the score of a response that did not end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MissingEos {
    /// It is replaced by `missing_eos_score`.
    #[default]
    Replace,
    /// It stays what the reward model says.
    Keep,
}

/// What a rollout is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RolloutSettings {
    /// The section of the configuration that says so, for messages.
    pub section: &'static str,
    /// Episodes.
    pub rollout_batch: usize,
    /// Responses to each prompt.
    pub samples_per_prompt: usize,
    /// Most tokens of a response; in an environment of one action.
    pub max_new_tokens: usize,
    /// Divides the logits.
    pub temperature: f64,
    /// What becomes of the score of a response that did not end. In an environment it has no part.
    pub missing_eos: MissingEos,
    /// What replaces it.
    pub missing_eos_score: f64,
}

impl RolloutSettings {
    /// Prompts of a rollout.
    pub fn prompts(&self) -> usize {
        self.rollout_batch / self.samples_per_prompt
    }
}

#[cfg(test)]
mod tests {
    use hone_run::Configuration;
    use hone_run::config::{parse, schema};

    use crate::expert_iteration::ExpertIterationConfig;
    use crate::grpo::GrpoConfig;
    use crate::online_preference::OnlinePreferenceConfig;
    use crate::ppo::PpoConfig;

    fn refused<C: Configuration>(text: &str) -> String {
        match parse::<C>("a.toml", text, &[]) {
            Ok(_) => panic!("{text} is read"),
            Err(error) => error.to_string(),
        }
    }

    /// What is maximised stands at the top of a configuration, whose other keys are as strict as ever.
    #[test]
    fn keys_that_nothing_reads_are_refused_with_their_line() {
        for (text, expected) in [
            ("[reward]\npath = \"r\"\n[rewardz]\n", "a.toml:3: unknown key `rewardz`"),
            ("[reward]\npaht = \"r\"\n", "a.toml:2: unknown key `reward.paht`"),
            (
                "[environment]\nkind = \"maze\"\nsizes = 3\n",
                "a.toml:3: unknown key `environment.sizes`",
            ),
            (
                "[[rewards]]\nkind = \"length\"\nmaxi = 3\n",
                "a.toml:3: unknown key `rewards[0].maxi`",
            ),
        ] {
            for said in [
                refused::<PpoConfig>(text),
                refused::<GrpoConfig>(text),
                refused::<ExpertIterationConfig>(text),
                refused::<OnlinePreferenceConfig>(text),
            ] {
                assert!(said.contains(expected), "{said}");
            }
        }
        let said = refused::<GrpoConfig>("[environment]\nkind = \"maze\"\nsize = \"three\"\n");
        assert!(said.starts_with("a.toml:3: environment.size: "), "{said}");
    }

    #[test]
    fn a_record_resolves_to_itself() {
        let text = "[environment]\nkind = \"maze\"\nsize = 3\n";
        let read = parse::<GrpoConfig>("a.toml", text, &[]).unwrap();
        let again = parse::<GrpoConfig>("run.toml", read.text(), &[]).unwrap();
        assert_eq!(again.config, read.config);
        assert_eq!(again.text(), read.text());
        // An editor, too, is told of keys that nothing reads
        assert_eq!(schema::<GrpoConfig>()["additionalProperties"], false);
        // The other two ways are left out of it
        assert!(
            !read.text().contains("[reward]") && !read.text().contains("[[rewards]]"),
            "{}",
            read.text()
        );
    }
}
