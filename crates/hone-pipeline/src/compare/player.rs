//! A model that answers what is asked: prompts through its template or as text, episodes of an environment turn by turn.
//!
//! 1. Episodes are played by [`hone_generate::play()`], as in practice; prompts are answered once.
//! 2. An answer that was cut off by the limit of tokens counts as it stands.
//! 3. Examples of few-shot prompting are earlier turns of the same conversation.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use hone_compute::{Engine, SamplingParameters};
use hone_data::PromptInput;
use hone_generate::{
    Dialogue, FinishReason, Generator, GeneratorOptions, PlaySettings, Played, Request, logprobs_from, play,
    raw_stop_tokens, row_to_judge, text_after, without_stop,
};
use hone_math::Key;
use hone_model::Transformer;
use hone_run::Shutdown;
use hone_task::PromptRow;
use hone_text::{AddSpecial, Chat, Message, TextError, Tokenizer};
use hone_train::artefact;

use super::tasks::{Asked, Played as Plays, Task, Tasks};
use crate::error::Result;

/// Sequences decoded together.
const BATCH: usize = 128;
/// Requests between two looks at the clock of whoever watches.
const CHUNK: usize = 1024;

/// A model that answers, with its tokenizer.
pub(super) struct Player {
    pub model: Transformer,
    pub tokenizer: Tokenizer,
    chat: Option<Chat>,
}

/// Something that was asked and answered, to be shown before what is asked.
#[derive(Clone, Debug)]
pub(super) struct Example {
    pub asked: Asked,
    pub response: String,
    /// Of an episode: what was observed and done, turn by turn.
    pub turns: Vec<(String, String)>,
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

    /// What is asked, as rules and programs see it.
    pub fn row(&self, task: &Task) -> Result<PromptRow> {
        let input = task.input();
        let ids = match &input {
            PromptInput::Messages(_) => self.prompt(&[], &input)?,
            PromptInput::Text(_) => Vec::new(),
        };
        Ok(row_to_judge(&self.tokenizer, (&input, &ids), &task.columns)?)
    }

    /// The tokens after which an answer to a prompt is sampled.
    fn prompt(&self, examples: &[Example], input: &PromptInput) -> Result<Vec<u32>> {
        let shown = examples.iter().filter_map(|example| match &example.asked {
            Asked::Prompt(input) => Some((input, Some(example.response.as_str()))),
            Asked::Episode { .. } => None,
        });
        let all: Vec<(&PromptInput, Option<&str>)> = shown.chain([(input, None)]).collect();
        Ok(match &self.chat {
            Some(chat) => chat.prompt_ids(&messages(&all))?,
            None => self.tokenizer.encode(&plain(&all)?, AddSpecial::Yes)?,
        })
    }

    /// As many of the last examples as leave room for an answer, with what `tokens` makes of them.
    fn fitted<'e>(
        &self,
        examples: &'e [Example],
        max_new_tokens: usize,
        tokens: &mut dyn FnMut(&[Example]) -> Result<Vec<u32>>,
    ) -> Result<(&'e [Example], Vec<u32>)> {
        let room = self.model.architecture().context.saturating_sub(max_new_tokens);
        let mut shown = examples;
        let mut ids = tokens(shown)?;
        while let (true, Some((_, rest))) = (ids.len() > room, shown.split_first()) {
            shown = rest;
            ids = tokens(shown)?;
        }
        Ok((shown, ids))
    }
}

fn messages(all: &[(&PromptInput, Option<&str>)]) -> Vec<Message> {
    let mut messages = Vec::new();
    for (input, response) in all {
        let turns = input.to_messages().into_iter();
        messages.extend(turns.map(|m| Message::new(m.role, m.content)));
        messages.extend(response.map(Message::assistant));
    }
    messages
}

/// The same as text, for a model without a template.
fn plain(all: &[(&PromptInput, Option<&str>)]) -> Result<String> {
    let mut text = String::new();
    for (input, response) in all {
        match input {
            PromptInput::Text(prompt) => {
                text += prompt;
                text += &response.map_or(String::new(), |response| format!("{response}\n\n"));
            }
            PromptInput::Messages(_) => return Err(TextError::NoChatTemplate.into()),
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

impl Sampling<'_> {
    fn parameters(&self) -> SamplingParameters {
        SamplingParameters {
            temperature: self.temperature as f32,
            ..SamplingParameters::default()
        }
    }

    fn key_of(&self, task: usize, sample: usize) -> Key {
        self.key.child(task as u64).child(sample as u64)
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// Which task.
    pub task: usize,
    /// All tokens: the prompt's, the model's and the environment's, `[n]`.
    pub ids: Arc<[u32]>,
    /// Where those lie that the model sampled.
    pub spans: Vec<Range<usize>>,
    /// The response as text; of several turns one a line.
    pub response: String,
    /// Its tokens without the one that ended it, as whoever judges it is told; of several turns all that were sampled.
    pub judged_tokens: usize,
    /// Summed log-probability of the response, nats.
    pub logprob: f64,
    /// Whether it ended by itself.
    pub ended: bool,
    /// What it earned, where it was acted.
    pub earned: Option<f64>,
    /// Of an episode: what was observed and done.
    pub turns: Vec<(String, String)>,
}

impl Answer {
    /// Tokens that were sampled, those that ended it included.
    pub fn tokens(&self) -> usize {
        self.spans.iter().map(ExactSizeIterator::len).sum()
    }
}

/// Told while answers are sampled.
pub(super) struct Told<'a> {
    /// To how many tasks fewer examples were shown, for want of room.
    pub short: &'a mut dyn FnMut(usize),
    /// How many answers are there, and how many tokens the last ones took.
    pub step: &'a mut dyn FnMut(usize, usize),
}

/// Answers of a model to all tasks, task by task; none if it is asked to stop on the way. Examples for which the context has no room are
/// left out, the first ones first.
pub(super) fn answers(
    (engine, player): (&Engine, &Player),
    (tasks, examples): (&Tasks, &[Example]),
    sampling: &Sampling<'_>,
    told: &mut Told<'_>,
) -> Result<Option<Vec<Answer>>> {
    match &tasks.environment {
        Some(plays) => episodes((engine, player), (tasks, plays, examples), sampling, told),
        None => replies((engine, player), (tasks, examples), sampling, told),
    }
}

fn replies(
    (engine, player): (&Engine, &Player),
    (tasks, examples): (&Tasks, &[Example]),
    sampling: &Sampling<'_>,
    told: &mut Told<'_>,
) -> Result<Option<Vec<Answer>>> {
    let stop: Arc<[u32]> = match &player.chat {
        Some(chat) => chat.stop_ids()?.into(),
        None => raw_stop_tokens(&player.tokenizer).into(),
    };
    let (mut requests, mut shortened) = (Vec::new(), 0);
    for (i, task) in tasks.tasks.iter().enumerate() {
        let input = task.input();
        let mut tokens = |shown: &[Example]| player.prompt(shown, &input);
        let (shown, ids) = player.fitted(examples, sampling.max_new_tokens, &mut tokens)?;
        shortened += usize::from(shown.len() < examples.len());
        let prompt: Arc<[u32]> = ids.into();
        requests.extend((0..sampling.samples).map(|j| Request {
            prompt: Arc::clone(&prompt),
            sampling: sampling.parameters(),
            key: sampling.key_of(i, j),
            max_new_tokens: sampling.max_new_tokens,
            stop_tokens: Arc::clone(&stop),
            stop_texts: None,
        }));
    }
    if shortened > 0 {
        (told.short)(shortened);
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
            let own = without_stop(&completion, &stop);
            let raw = player.chat.is_none().then_some(&*request.prompt);
            let ids: Arc<[u32]> = request.prompt.iter().chain(&completion.ids).copied().collect();
            tokens += completion.ids.len();
            answers.push(Answer {
                task: answers.len() / sampling.samples,
                spans: std::iter::once(request.prompt.len()..ids.len()).collect(),
                ids,
                response: text_after(&player.tokenizer, raw, own)?,
                judged_tokens: own.len(),
                logprob: completion.logprob(),
                ended: completion.finish == FinishReason::Stop,
                earned: None,
                turns: Vec::new(),
            });
        }
        (told.step)(answers.len(), tokens);
    }
    Ok(Some(answers))
}

fn episodes(
    (engine, player): (&Engine, &Player),
    (tasks, plays, examples): (&Tasks, &Plays, &[Example]),
    sampling: &Sampling<'_>,
    told: &mut Told<'_>,
) -> Result<Option<Vec<Answer>>> {
    let dialogue = Dialogue::new(&player.tokenizer, player.chat.as_ref())?;
    // 1. How many examples there is room for, task by task
    let (mut room, mut shortened) = (Vec::with_capacity(tasks.tasks.len()), 0);
    for task in &tasks.tasks {
        let mut tokens = |shown: &[Example]| match &task.asked {
            Asked::Episode { rules, observation } => Ok(dialogue.first_turn(rules, observation, &turns_of(shown))?),
            Asked::Prompt(input) => player.prompt(shown, input),
        };
        let (shown, _) = player.fitted(examples, sampling.max_new_tokens, &mut tokens)?;
        shortened += usize::from(shown.len() < examples.len());
        room.push(shown.len());
    }
    if shortened > 0 {
        (told.short)(shortened);
    }
    // 2. Those with as many of them are played together
    let mut answers: Vec<Option<Answer>> = vec![None; tasks.tasks.len() * sampling.samples];
    let mut done = 0;
    for shown in (0..=examples.len()).rev() {
        let places: Vec<usize> = (0..answers.len())
            .filter(|place| room[place / sampling.samples] == shown)
            .collect();
        let settings = PlaySettings {
            seed: plays.seed,
            max_turns: plays.max_turns,
            max_new_tokens: sampling.max_new_tokens,
            sampling: sampling.parameters(),
            examples: turns_of(&examples[examples.len() - shown..]),
        };
        for chunk in places.chunks(CHUNK) {
            let episode = |place: &usize| {
                let (task, sample) = (place / sampling.samples, place % sampling.samples);
                let index = tasks.tasks[task].episode.map_or(0, |(index, _)| index);
                (index, sampling.key_of(task, sample))
            };
            let asked: Vec<(u64, Key)> = chunk.iter().map(episode).collect();
            let played = play(
                (engine, &player.model),
                &dialogue,
                &plays.setting,
                (&asked, &settings),
                &mut || !sampling.shutdown.requested(),
            )?;
            let Some(played) = played else { return Ok(None) };
            let mut tokens = 0;
            for (&place, played) in chunk.iter().zip(played) {
                let answer = acted(place / sampling.samples, played);
                tokens += answer.tokens();
                answers[place] = Some(answer);
            }
            done += chunk.len();
            (told.step)(done, tokens);
        }
    }
    Ok(Some(answers.into_iter().flatten().collect()))
}

fn turns_of(examples: &[Example]) -> Vec<(String, String)> {
    examples.iter().flat_map(|example| example.turns.clone()).collect()
}

fn acted(task: usize, played: Played) -> Answer {
    let turns: Vec<(String, String)> = played
        .turns
        .into_iter()
        .map(|turn| (turn.observation, turn.action))
        .collect();
    let actions: Vec<&str> = turns.iter().map(|(_, action)| action.as_str()).collect();
    Answer {
        task,
        response: actions.join("\n"),
        judged_tokens: played.logprobs.len(),
        logprob: played.logprobs.iter().map(|&l| f64::from(l)).sum(),
        ids: played.ids,
        spans: played.spans,
        ended: played.ended,
        earned: Some(played.reward),
        turns,
    }
}

/// Summed log-ratios of answers to another model of the same tokenizer, nats.
pub(super) fn log_ratios(engine: &Engine, other: &Player, answers: &[Answer], temperature: f64) -> Vec<f64> {
    let sequences: Vec<&[u32]> = answers.iter().map(|answer| &*answer.ids).collect();
    let first = |answer: &Answer| answer.spans.first().map_or(answer.ids.len(), |span| span.start);
    let from: Vec<usize> = answers.iter().map(first).collect();
    let scores = logprobs_from(engine, &other.model, (&sequences, &from), temperature as f32);
    let ratio = |(answer, scores): (&Answer, hone_generate::TokenScores)| {
        let start = first(answer);
        let own = answer
            .spans
            .iter()
            .flat_map(|span| &scores.logprobs[span.start - start..span.end - start]);
        answer.logprob - own.map(|&l| f64::from(l)).sum::<f64>()
    };
    answers.iter().zip(scores).map(ratio).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_of_text_need_no_template_and_messages_do() {
        let text = PromptInput::Text("Two and two?".into());
        let turns = PromptInput::Messages(vec![hone_data::Message::user("Two?")]);
        assert_eq!(
            plain(&[(&text, Some("4")), (&text, None)]).unwrap(),
            "Two and two?4\n\nTwo and two?"
        );
        assert!(plain(&[(&turns, None)]).is_err());
        assert_eq!(messages(&[(&turns, Some("2")), (&text, None)]).len(), 3);
    }
}
