//! A model that acts in an environment: episodes of several turns, as tokens.
//!
//! All episodes of a call take their turns together, each turn as one batch. What the policy sampled is never tokenized anew: an
//! episode's tokens are those of its first turn, what was sampled, what the environment says next, and so on. So the log-probabilities
//! that were stored are those of exactly these tokens, and the rest is never taken for the policy's.

use std::ops::Range;
use std::sync::Arc;

use hone_compute::{Engine, SamplingParameters};
use hone_math::Key;
use hone_model::Transformer;
use hone_task::environment::{EnvironmentSetting, Status, Turn};
use hone_task::{Environment, Problem};
use hone_text::{AddSpecial, Chat, Message, TextError, Tokenizer};

use crate::batch::{Generator, GeneratorOptions};
use crate::judging::without_stop;
use crate::request::{Completion, FinishReason, GenerateError, Request, StopText};
use crate::text::text_after;

/// What an action ends with where there is no template.
const LINE_END: &str = "\n";

/// What the policy sees of an environment, as tokens: through the chat template where there is one, else as plain text.
///
/// With a template the user says the rules and the first observation, with an empty line between them, the assistant acts, the user says
/// the next observation, and so on; an action ends with the assistant's turn. Without one the rules stand in the first line, each
/// observation is followed by the action in a line of its own, and an action ends with that line or with an end token.
pub struct Dialogue<'a> {
    tokenizer: &'a Tokenizer,
    chat: Option<&'a Chat>,
    stop_tokens: Arc<[u32]>,
    stop_texts: Option<StopText>,
    /// The token that ends the assistant's turn, with a template.
    end_of_turn: Option<u32>,
}

impl<'a> Dialogue<'a> {
    /// A dialogue with a policy that has this tokenizer, and its template if it has one.
    ///
    /// # Errors
    /// A template that ends no turn, or that fails.
    pub fn new(tokenizer: &'a Tokenizer, chat: Option<&'a Chat>) -> Result<Self, TextError> {
        let end_of_turn = chat.map(Chat::end_of_turn_id).transpose()?;
        let stop_tokens = match chat {
            Some(chat) => chat.stop_ids()?,
            None => tokenizer.eos_ids().to_vec(),
        };
        let stop_texts = chat.is_none().then(|| {
            let tokenizer = tokenizer.clone();
            StopText {
                texts: [LINE_END.to_owned()].into(),
                bytes: Arc::new(move |id| tokenizer.token_bytes(id).unwrap_or_default().to_vec()),
            }
        });
        Ok(Self {
            tokenizer,
            chat,
            stop_tokens: stop_tokens.into(),
            stop_texts,
            end_of_turn,
        })
    }

    /// The tokens after which the first action is sampled. `examples` are observations with the actions that were taken: earlier turns of
    /// the same conversation, after the rules.
    ///
    /// # Errors
    /// A template that fails, and text that cannot be encoded.
    pub fn first_turn(
        &self,
        rules: &str,
        observation: &str,
        examples: &[(String, String)],
    ) -> Result<Vec<u32>, TextError> {
        let Some(chat) = self.chat else {
            let mut text = match rules {
                "" => String::new(),
                rules => line(rules),
            };
            for (observation, action) in examples {
                text += &line(observation);
                text += &line(action);
            }
            text += &line(observation);
            return self.tokenizer.encode(&text, AddSpecial::Yes);
        };
        let mut rules = Some(rules).filter(|rules| !rules.is_empty());
        let mut said = |observation: &str| match rules.take() {
            Some(rules) => Message::user(opening(rules, observation)),
            None => Message::user(observation),
        };
        let mut messages = Vec::with_capacity(2 * examples.len() + 1);
        for (observation, action) in examples {
            messages.push(said(observation));
            messages.push(Message::assistant(action.as_str()));
        }
        messages.push(said(observation));
        chat.prompt_ids(&messages)
    }

    /// The tokens that come between the last action of `ids` and the next one: the end of the assistant's turn where it is missing, the
    /// observation, and what comes before a reply.
    ///
    /// # Errors
    /// A template that fails or rewrites earlier turns, and text that cannot be encoded.
    pub fn next_turn(&self, ids: &[u32], observation: &str) -> Result<Vec<u32>, TextError> {
        let Some(chat) = self.chat else {
            let last = ids.last().and_then(|&id| self.tokenizer.token_bytes(id));
            let ended = last.is_some_and(|bytes| bytes.ends_with(LINE_END.as_bytes()));
            let before = if ended { "" } else { LINE_END };
            // What an environment says may quote the policy, and makes no control token
            return self
                .tokenizer
                .encode_after(LINE_END, &format!("{before}{}", line(observation)));
        };
        let missing = self.end_of_turn.filter(|end| ids.last() != Some(end));
        let mut next: Vec<u32> = missing.into_iter().collect();
        next.extend(chat.continuation_ids(observation)?);
        Ok(next)
    }

    /// The text of an action after these tokens: without the token that ended it, and without a template up to the end of its line, its
    /// first space kept. Special tokens inside it are text like any other.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn action(&self, before: &[u32], completion: &Completion) -> Result<String, TextError> {
        let raw = self.chat.is_none().then_some(before);
        let mut text = text_after(self.tokenizer, raw, without_stop(completion, &self.stop_tokens))?;
        if self.chat.is_none()
            && let Some(end) = text.find(LINE_END)
        {
            text.truncate(end);
        }
        Ok(text)
    }
}

/// What a policy with a template is first told of an episode.
pub fn opening(rules: &str, observation: &str) -> String {
    match rules {
        "" => observation.to_owned(),
        rules => format!("{rules}\n\n{observation}"),
    }
}

/// The text with a line's end: what a policy without a template is told.
pub fn line(text: &str) -> String {
    let end = if text.ends_with(LINE_END) { "" } else { LINE_END };
    format!("{text}{end}")
}

/// How episodes are played.
#[derive(Clone, Debug)]
pub struct PlaySettings {
    /// The environment's seed.
    pub seed: u64,
    /// Turns after which an episode is cut off.
    pub max_turns: usize,
    /// Most tokens of one action.
    pub max_new_tokens: usize,
    /// How actions are sampled.
    pub sampling: SamplingParameters,
    /// Observations with the actions that were taken, shown before the first turn.
    pub examples: Vec<(String, String)>,
}

/// An episode that was played.
#[derive(Clone, Debug)]
pub struct Played {
    /// All of its tokens, `[n]`: the policy's and the environment's.
    pub ids: Arc<[u32]>,
    /// Where those lie that the policy sampled, stop tokens included, one span a turn.
    pub spans: Vec<Range<usize>>,
    /// Their log-probabilities, one span after another, `[sum of spans]`.
    pub logprobs: Vec<f32>,
    /// Observations, actions and rewards.
    pub turns: Vec<Turn>,
    /// How it stopped. An episode that is out of turns, or has no room left in the model's context, is cut off.
    pub status: Status,
    /// The sum of its rewards.
    pub reward: f64,
    /// The most that could be earned, where the environment knows it.
    pub optimum: Option<f64>,
    /// Whether every action ended by itself, rather than at the limit of tokens.
    pub ended: bool,
}

/// Why episodes cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// A turn that cannot be sampled.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// What is said cannot be written as tokens, or the other way round.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The environment's settings, or a fault of its own.
    #[error(transparent)]
    Task(#[from] hone_task::Error),
}

/// An episode under way.
struct Running {
    environment: Box<dyn Environment>,
    key: Key,
    ids: Vec<u32>,
    spans: Vec<Range<usize>>,
    logprobs: Vec<f32>,
    turns: Vec<Turn>,
    reward: f64,
    ended: bool,
}

/// Plays episodes of an environment, each given by its index and its own random numbers, all of them turn by turn together. An episode
/// does not depend on those beside it. Gives none if `go_on`, which is asked at every token, ever says no.
///
/// # Errors
/// An environment that cannot be set up or gives a reward that is not finite; a first turn that is longer than the model's context; a
/// model that diverged; text that cannot be encoded.
pub fn play(
    (engine, model): (&Engine, &Transformer),
    dialogue: &Dialogue<'_>,
    environment: &EnvironmentSetting,
    (episodes, settings): (&[(u64, Key)], &PlaySettings),
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Option<Vec<Played>>, PlayError> {
    let mut all = Vec::with_capacity(episodes.len());
    for &(index, key) in episodes {
        let mut environment = environment.build()?;
        environment.reset(settings.seed, index)?;
        let ids = dialogue.first_turn(&environment.rules(), &environment.observe(), &settings.examples)?;
        all.push(Running {
            environment,
            key,
            ids,
            spans: Vec::new(),
            logprobs: Vec::new(),
            turns: Vec::new(),
            reward: 0.0,
            ended: true,
        });
    }
    let generator = Generator::new(engine, model, GeneratorOptions::default());
    let context = model.architecture().context;
    for turn in 0..settings.max_turns {
        // 1. Those that go on and have room
        let room = |episode: &Running| turn == 0 || episode.ids.len() < context;
        let mut acting: Vec<&mut Running> = all
            .iter_mut()
            .filter(|episode| episode.environment.status() == Status::Running && room(episode))
            .collect();
        if acting.is_empty() {
            break;
        }
        // 2. An action of each
        let request = |episode: &&mut Running| Request {
            prompt: episode.ids.as_slice().into(),
            sampling: settings.sampling,
            key: episode.key.child(turn as u64),
            max_new_tokens: settings.max_new_tokens,
            stop_tokens: Arc::clone(&dialogue.stop_tokens),
            stop_texts: dialogue.stop_texts.clone(),
        };
        let requests: Vec<Request> = acting.iter().map(request).collect();
        let mut stopped = !go_on();
        let completions = generator.run_with(&requests, &mut |_| {
            stopped = stopped || !go_on();
            !stopped
        })?;
        if stopped {
            return Ok(None);
        }
        // 3. What comes of it
        for (episode, completion) in acting.iter_mut().zip(completions) {
            episode.act(dialogue, &completion)?;
            if episode.environment.status() == Status::Running && turn + 1 < settings.max_turns {
                let next = dialogue.next_turn(&episode.ids, &episode.environment.observe())?;
                episode.ids.extend(next);
            }
        }
    }
    Ok(Some(all.into_iter().map(Running::end).collect()))
}

impl Running {
    /// Takes an action.
    fn act(&mut self, dialogue: &Dialogue<'_>, completion: &Completion) -> Result<(), PlayError> {
        let start = self.ids.len();
        self.ended &= completion.finish == FinishReason::Stop;
        self.ids.extend_from_slice(&completion.ids);
        self.spans.push(start..self.ids.len());
        self.logprobs.extend_from_slice(&completion.logprobs);
        let observation = self.environment.observe();
        let action = dialogue.action(&self.ids[..start], completion)?;
        self.environment.step(&action)?;
        let reward = self.environment.reward();
        if !reward.is_finite() {
            return Err(PlayError::Task(hone_task::Error::Sample {
                entry: format!("environment {}", self.environment.name()),
                place: format!("episode {}, turn {}", self.environment.save().index, self.turns.len()),
                source: Problem::NotFinite { got: reward },
            }));
        }
        self.reward += reward;
        self.turns.push(Turn {
            observation,
            action,
            reward,
        });
        Ok(())
    }

    fn end(self) -> Played {
        // What was said last is no part of it where nobody answered
        let end = self.spans.last().map_or(self.ids.len(), |span| span.end);
        Played {
            ids: self.ids[..end].into(),
            spans: self.spans,
            logprobs: self.logprobs,
            turns: self.turns,
            status: match self.environment.status() {
                Status::Running => Status::CutOff,
                other => other,
            },
            reward: self.reward,
            optimum: self.environment.optimum(),
            ended: self.ended,
        }
    }
}
