//! Answers to what is asked, and what they are worth.
//!
//! 1. An episode of an environment is told as a user's message, its rules with the first observation; one answer is the action. A model
//!    without a chat template reads plain text, and its action ends with the line. (This is a single turn: [`answers`] is the one place that plays.)
//! 2. An answer that was cut off by the limit of tokens counts as it stands.
//! 3. Examples of few-shot prompting are earlier turns of the same conversation.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hone_compute::{Engine, SamplingParameters};
use hone_data::PromptInput;
use hone_generate::{Completion, FinishReason, Generator, GeneratorOptions, Request, StopText, logprobs_from};
use hone_math::Key;
use hone_model::Transformer;
use hone_run::Shutdown;
use hone_task::{Place, RewardEntry, RewardSetup, Rewards, Sample};
use hone_text::{AddSpecial, Chat, Message, SkipSpecial, TextError, Tokenizer};
use hone_train::{Scorer, artefact};

use super::config::directory;
use super::tasks::{Asked, Tasks};
use crate::error::Result;
use crate::recipe::{line, opening};

/// Sequences decoded together.
const BATCH: usize = 128;
/// Requests between two looks at the clock of whoever watches.
const CHUNK: usize = 1024;

/// A model that answers, with its tokenizer.
pub(super) struct Player {
    pub model: Transformer,
    tokenizer: Tokenizer,
    chat: Option<Chat>,
}

/// Something that was asked and answered, to be shown before what is asked.
#[derive(Clone, Debug)]
pub(super) struct Example {
    pub asked: Asked,
    pub response: String,
}

impl Player {
    /// Loads a model's directory, or an adapter's onto its base.
    pub fn load(engine: &Engine, dir: &Path) -> Result<Self> {
        let loaded = artefact::load(engine, dir)?;
        let tokenizer = loaded.companion.tokenizer;
        let chat = match tokenizer.chat_template() {
            Some(_) => Some(Chat::new(&tokenizer)?),
            None => None,
        };
        Ok(Self {
            model: loaded.model,
            tokenizer,
            chat,
        })
    }

    /// Whether tokens and templates are the same, so that log-probabilities can be compared.
    pub fn speaks_like(&self, other: &Self) -> bool {
        self.tokenizer.digest() == other.tokenizer.digest()
            && self.tokenizer.chat_template() == other.tokenizer.chat_template()
    }

    /// The tokens after which an answer is sampled.
    fn prompt(&self, examples: &[Example], asked: &Asked) -> Result<Vec<u32>> {
        let shown = examples.iter().map(|e| (&e.asked, Some(e.response.as_str())));
        let all: Vec<(&Asked, Option<&str>)> = shown.chain([(asked, None)]).collect();
        Ok(match &self.chat {
            Some(chat) => chat.prompt_ids(&messages(&all))?,
            None => self.tokenizer.encode(&plain(&all)?, AddSpecial::Yes)?,
        })
    }

    /// Tokens and texts that end an answer.
    fn stops(&self, tasks: &Tasks) -> Result<(Arc<[u32]>, Option<StopText>)> {
        if let Some(chat) = &self.chat {
            return Ok((chat.stop_ids()?.into(), None));
        }
        let plays = tasks.tasks.iter().any(|task| task.episode.is_some());
        let texts = plays.then(|| {
            let tokenizer = self.tokenizer.clone();
            StopText {
                texts: ["\n".to_owned()].into(),
                bytes: Arc::new(move |id| tokenizer.token_bytes(id).unwrap_or_default().to_vec()),
            }
        });
        Ok((self.tokenizer.eos_ids().into(), texts))
    }

    /// The text of an answer without the token that ended it; special tokens inside it are text like any other. An action without a
    /// template is one line.
    fn text(&self, (completion, stop, episode): (&Completion, &[u32], bool)) -> Result<String> {
        let ids = match (completion.finish, completion.ids.split_last()) {
            (FinishReason::Stop, Some((last, before))) if stop.contains(last) => before,
            _ => &completion.ids,
        };
        // Rows of the embedding that the tokenizer lacks have no text
        let known = ids.split(|&id| self.tokenizer.token_bytes(id).is_none());
        let pieces: Vec<String> = known
            .map(|ids| self.tokenizer.decode(ids, SkipSpecial::No))
            .collect::<Result<_, TextError>>()?;
        let mut text = pieces.join("\u{FFFD}");
        if let (None, true, Some(end)) = (&self.chat, episode, text.find('\n')) {
            text.truncate(end);
        }
        Ok(text)
    }
}

/// A conversation in which the rules of an environment are told once.
fn messages(all: &[(&Asked, Option<&str>)]) -> Vec<Message> {
    let mut messages = Vec::new();
    for (i, (asked, response)) in all.iter().enumerate() {
        match asked {
            Asked::Episode { rules, observation } if i == 0 => {
                messages.push(Message::user(opening(rules, observation)))
            }
            Asked::Episode { observation, .. } => messages.push(Message::user(observation)),
            Asked::Prompt(input) => {
                let turns = input.to_messages().into_iter();
                messages.extend(turns.map(|m| Message::new(m.role, m.content)));
            }
        }
        messages.extend(response.map(Message::assistant));
    }
    messages
}

/// The same as text, for a model without a template.
fn plain(all: &[(&Asked, Option<&str>)]) -> Result<String> {
    let mut text = String::new();
    for (i, (asked, response)) in all.iter().enumerate() {
        match asked {
            Asked::Episode { rules, observation } => {
                if i == 0 {
                    text += &line(rules);
                }
                text += &line(observation);
                text += &response.map_or(String::new(), line);
            }
            Asked::Prompt(PromptInput::Text(prompt)) => {
                text += prompt;
                text += &response.map_or(String::new(), |response| format!("{response}\n\n"));
            }
            Asked::Prompt(PromptInput::Messages(_)) => return Err(TextError::NoChatTemplate.into()),
        }
    }
    Ok(text)
}

/// How answers are sampled.
pub(super) struct Sampling<'a> {
    /// Answers to each task.
    pub samples: usize,
    pub temperature: f64,
    pub max_new_tokens: usize,
    /// Task and sample take its children.
    pub key: Key,
    pub shutdown: &'a Shutdown,
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// Which task.
    pub task: usize,
    /// Prompt and response, `[p + t]`.
    pub ids: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_length: usize,
    /// The response as text.
    pub response: String,
    /// Summed log-probability of the response, nats.
    pub logprob: f64,
    /// Whether it ended by itself.
    pub ended: bool,
    /// What it earned, where it was an action.
    pub earned: Option<f64>,
}

impl Answer {
    /// Tokens of the response, its end included.
    pub fn tokens(&self) -> usize {
        self.ids.len() - self.prompt_length
    }
}

/// Answers of a model to all tasks, task by task; none if it is asked to stop on the way. Examples for which the context has no room are left out,
/// the first ones first; `short` is told to how many tasks that happened. `step` is told how many requests are done and how many tokens that took.
pub(super) fn answers(
    (engine, player): (&Engine, &Player),
    (tasks, examples): (&Tasks, &[Example]),
    sampling: &Sampling<'_>,
    short: &mut dyn FnMut(usize),
    step: &mut dyn FnMut(usize, usize),
) -> Result<Option<Vec<Answer>>> {
    let (stop, stop_texts) = player.stops(tasks)?;
    let room = player
        .model
        .architecture()
        .context
        .saturating_sub(sampling.max_new_tokens);
    let (mut requests, mut shortened) = (Vec::new(), 0);
    for (i, task) in tasks.tasks.iter().enumerate() {
        let mut shown = examples;
        let mut ids = player.prompt(shown, &task.asked)?;
        shortened += usize::from(ids.len() > room && !shown.is_empty());
        while let (true, Some((_, rest))) = (ids.len() > room, shown.split_first()) {
            shown = rest;
            ids = player.prompt(shown, &task.asked)?;
        }
        let prompt: Arc<[u32]> = ids.into();
        for j in 0..sampling.samples {
            requests.push(Request {
                prompt: Arc::clone(&prompt),
                sampling: SamplingParameters {
                    temperature: sampling.temperature as f32,
                    ..SamplingParameters::default()
                },
                key: sampling.key.child(i as u64).child(j as u64),
                max_new_tokens: sampling.max_new_tokens,
                stop_tokens: Arc::clone(&stop),
                stop_texts: stop_texts.clone(),
            });
        }
    }
    if shortened > 0 {
        short(shortened);
    }
    let options = GeneratorOptions {
        max_batch: BATCH,
        ..GeneratorOptions::default()
    };
    let generator = Generator::new(engine, &player.model, options);
    let mut answers = Vec::with_capacity(requests.len());
    for chunk in requests.chunks(CHUNK) {
        let stops = || sampling.shutdown.requested();
        let completions = generator.run_with(chunk, &mut |_| !stops())?;
        if stops() {
            return Ok(None);
        }
        let mut tokens = 0;
        for (request, completion) in chunk.iter().zip(completions) {
            let task = answers.len() / sampling.samples;
            let episode = tasks.tasks[task].episode.is_some();
            let response = player.text((&completion, &stop, episode))?;
            tokens += completion.ids.len();
            answers.push(Answer {
                task,
                ids: request.prompt.iter().chain(&completion.ids).copied().collect(),
                prompt_length: request.prompt.len(),
                logprob: completion.logprob(),
                ended: completion.finish == FinishReason::Stop,
                earned: tasks.played(task, &response)?,
                response,
            });
        }
        step(answers.len(), tokens);
    }
    Ok(Some(answers))
}

/// Summed log-ratios of answers to another model of the same tokenizer, nats.
pub(super) fn log_ratios(engine: &Engine, other: &Player, answers: &[Answer], temperature: f64) -> Vec<f64> {
    let sequences: Vec<&[u32]> = answers.iter().map(|answer| answer.ids.as_slice()).collect();
    let from: Vec<usize> = answers.iter().map(|answer| answer.prompt_length).collect();
    let scores = logprobs_from(engine, &other.model, (&sequences, &from), temperature as f32);
    let ratio = |(answer, scores): (&Answer, hone_generate::TokenScores)| {
        answer.logprob - scores.logprobs.iter().map(|&l| f64::from(l)).sum::<f64>()
    };
    answers.iter().zip(scores).map(ratio).collect()
}

/// What says what answers are worth.
pub(super) enum Scale {
    /// What the actions earned.
    Environment,
    /// A reward model.
    Model(Box<Scorer>),
    /// A weighted sum, with the reward models in it.
    Rewards(Box<Rewards>, Vec<Scorer>),
}

impl Scale {
    /// Opens `rewards`, or else the reward model, or else takes what is earned. Programs have their journals in `folder`.
    pub fn open(
        engine: &Engine,
        (rewards, reward): (&[RewardEntry], Option<&str>),
        (base, folder, run): (&Path, &Path, &str),
    ) -> Result<Self> {
        let scorer = |name: &str| -> Result<Scorer> { Ok(Scorer::load(engine, &directory(base, "reward", name)?)?) };
        if let Some(name) = reward {
            return Ok(Self::Model(Box::new(scorer(name)?)));
        }
        if rewards.is_empty() {
            return Ok(Self::Environment);
        }
        let setup = RewardSetup {
            run,
            folder,
            offsets: &BTreeMap::new(),
        };
        let rewards = Rewards::open(rewards, setup)?;
        let scorers: Vec<Scorer> = rewards.models().map(scorer).collect::<Result<_>>()?;
        Ok(Self::Rewards(Box::new(rewards), scorers))
    }

    /// What each answer is worth. `update` tells calls of one folder apart, for programs that are asked again after a stop.
    pub fn score(&mut self, engine: &Engine, tasks: &Tasks, answers: &[Answer], update: u64) -> Result<Vec<f64>> {
        match self {
            Self::Environment => Ok(answers.iter().map(|answer| answer.earned.unwrap_or(0.0)).collect()),
            Self::Model(scorer) => scores_of(engine, scorer, tasks, answers),
            Self::Rewards(rewards, scorers) => {
                let models: Vec<Vec<f64>> = scorers
                    .iter()
                    .map(|scorer| scores_of(engine, scorer, tasks, answers))
                    .collect::<Result<_>>()?;
                let samples: Vec<Sample<'_>> = answers
                    .iter()
                    .map(|answer| {
                        Sample::new(&tasks.tasks[answer.task].row, &answer.response).with_tokens(answer.tokens())
                    })
                    .collect();
                Ok(rewards.score(Place { update, index: 0 }, &samples, &models)?.total)
            }
        }
    }
}

fn scores_of(engine: &Engine, scorer: &Scorer, tasks: &Tasks, answers: &[Answer]) -> Result<Vec<f64>> {
    let prompts: Vec<PromptInput> = tasks.tasks.iter().map(super::tasks::Task::input).collect();
    let pairs: Vec<(&PromptInput, &str)> = answers
        .iter()
        .map(|answer| (&prompts[answer.task], answer.response.as_str()))
        .collect();
    Ok(scorer.score(engine, &pairs)?.into_iter().map(f64::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn episode(observation: &str) -> Asked {
        Asked::Episode {
            rules: "Rules.".into(),
            observation: observation.into(),
        }
    }

    #[test]
    fn rules_are_told_once_and_examples_are_earlier_turns() {
        let (first, second) = (episode("@o\n"), episode("o@\n"));
        let all = [(&first, Some("right")), (&second, None)];
        let turns = messages(&all);
        let turns: Vec<(&str, &str)> = turns.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        assert_eq!(
            turns,
            [("user", "Rules.\n\n@o\n"), ("assistant", "right"), ("user", "o@\n")]
        );
        assert_eq!(plain(&all).unwrap(), "Rules.\n@o\nright\no@\n");
    }

    #[test]
    fn prompts_of_text_need_no_template_and_messages_do() {
        let text = Asked::Prompt(PromptInput::Text("Two and two?".into()));
        let turns = Asked::Prompt(PromptInput::Messages(vec![hone_data::Message::user("Two?")]));
        assert_eq!(
            plain(&[(&text, Some("4")), (&text, None)]).unwrap(),
            "Two and two?4\n\nTwo and two?"
        );
        assert!(plain(&[(&turns, None)]).is_err());
        assert_eq!(messages(&[(&turns, Some("2")), (&text, None)]).len(), 3);
    }
}
