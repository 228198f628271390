//! What tells good samples from bad ones: rewards, another model's likelihood, or a vote.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hone_compute::Engine;
use hone_data::PromptInput;
use hone_generate::{logprobs_from, sample_to_judge};
use hone_model::Transformer;
use hone_run::{Configuration, Shutdown};
use hone_task::{FinalAnswer, Place, PromptRow, RewardEntry, RewardRule, RewardSetup, Rewards};
use hone_text::{AddSpecial, Chat, Message, TextError, Tokenizer, TrainedTurns};
use hone_train::{Scorer, TrainError, artefact};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::{Question, framed};
use crate::error::{PipelineError, Result};

/// A file of `[[rewards]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewardsFile {
    /// What scores, and how much each counts.
    pub rewards: Vec<RewardEntry>,
}

impl Configuration for RewardsFile {}

/// What samples are judged by.
#[derive(Clone, Debug)]
pub enum JudgeSetting {
    /// A weighted sum of rules, programs and reward models.
    Rewards(Vec<RewardEntry>),
    /// Another model's mean log-probability a token, by that model's directory.
    Likelihood(PathBuf),
    /// How many of the prompt's samples have the same final answer.
    Majority,
}

impl JudgeSetting {
    /// The score from which a sample passes where nothing is said: that of a response that every rule finds right and no penalty
    /// touches. None where other things than rules score.
    pub fn default_threshold(&self) -> Option<f64> {
        let Self::Rewards(entries) = self else { return None };
        let rules = entries.iter().all(|entry| {
            !matches!(
                entry.rule,
                RewardRule::Expression { .. } | RewardRule::Program { .. } | RewardRule::Model { .. }
            )
        });
        // In the order of the rewards' own sum, so that equal is equal
        rules.then(|| entries.iter().fold(0.0, |sum, entry| sum + entry.weight.max(0.0)))
    }

    /// Whether something of one's own is started, whose answers are kept in a journal.
    pub fn has_programs(&self) -> bool {
        let Self::Rewards(entries) = self else { return false };
        entries
            .iter()
            .any(|entry| matches!(entry.rule, RewardRule::Program { .. }))
    }

    /// The directories of models that it reads, as the settings name them.
    pub fn models(&self) -> Vec<String> {
        match self {
            Self::Rewards(entries) => entries
                .iter()
                .filter_map(|entry| match &entry.rule {
                    RewardRule::Model { path } => Some(path.clone()),
                    _ => None,
                })
                .collect(),
            Self::Likelihood(path) => vec![path.display().to_string()],
            Self::Majority => Vec::new(),
        }
    }
}

/// A judgement of one sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Judgement {
    pub score: f64,
    /// What the score is made of, before weighting.
    pub parts: Map<String, serde_json::Value>,
    /// The final answer, where there is a vote.
    pub answer: Option<String>,
    /// Whether that is the row's `answer`, where the vote judges and it can be told.
    pub right: Option<bool>,
}

/// Samples of one prompt that are to be judged together.
pub(super) struct Group<'a> {
    pub question: &'a Question,
    /// It as rules and programs see it.
    pub row: &'a PromptRow,
    /// The place of its first sample among all.
    pub first: u64,
    /// The completions with their numbers of tokens, without those that ended them.
    pub completions: Vec<(&'a str, usize)>,
}

/// A judge, ready.
pub(super) struct Judge {
    kind: Kind,
    vote: Option<FinalAnswer>,
}

enum Kind {
    Rewards {
        rewards: Box<Rewards>,
        scorers: Vec<Scorer>,
    },
    Likelihood(Box<Likelihood>),
    Majority,
}

impl Judge {
    /// Opens journals and loads models. `folder` is for programs, `resolve` finds a model's directory by its name.
    ///
    /// # Errors
    /// A setting's, a file's or a model's.
    pub fn open(
        engine: &Engine,
        setting: &JudgeSetting,
        vote: Option<FinalAnswer>,
        folder: &Path,
        resolve: &dyn Fn(&str) -> Result<PathBuf>,
    ) -> Result<Self> {
        let kind = match setting {
            JudgeSetting::Rewards(entries) => {
                let setup = RewardSetup {
                    run: "best-of",
                    folder,
                    offsets: &BTreeMap::new(),
                };
                let rewards = Box::new(Rewards::open(entries, setup)?);
                let mut scorers = Vec::new();
                for path in rewards.models() {
                    scorers.push(Scorer::load(engine, &resolve(path)?)?);
                }
                Kind::Rewards { rewards, scorers }
            }
            JudgeSetting::Likelihood(path) => {
                let directory = resolve(&path.display().to_string())?;
                Kind::Likelihood(Box::new(Likelihood::load(engine, &directory)?))
            }
            JudgeSetting::Majority => Kind::Majority,
        };
        Ok(Self { kind, vote })
    }

    /// Why samples of so many tokens at most could not be scored after this prompt; none where a judging model has another tokenizer and
    /// it depends on what they say.
    pub fn refusal(
        &self,
        (input, ids): (&PromptInput, &[u32]),
        tokenizer: &Tokenizer,
        max_new_tokens: usize,
    ) -> Option<String> {
        // With the token that ends a sample, where a cut one has none
        let longest = ids.len() + max_new_tokens + 1;
        let too_long = |context: usize, shared: bool, what: &str| {
            (shared && longest > context).then(|| {
                format!(
                    "the prompt has {} tokens, which with --max-new-tokens {max_new_tokens} and an end token makes {longest}; the context of \
                     {what} is {context}; lower --max-new-tokens, or take one of a longer context",
                    ids.len()
                )
            })
        };
        match &self.kind {
            Kind::Majority => None,
            Kind::Rewards { scorers, .. } => scorers.iter().find_map(|scorer| {
                let shared = scorer.shares_tokenizer_with(tokenizer);
                let context = scorer.model().architecture().context;
                match scorer.encode(input, "a") {
                    Err(error) => Some(format!("the reward model cannot read it: {error}")),
                    Ok(_) => too_long(context, shared, "the reward model"),
                }
            }),
            Kind::Likelihood(model) => {
                let shared = model.tokenizer.digest() == tokenizer.digest()
                    && model.tokenizer.chat_template() == tokenizer.chat_template();
                match model.tokens(input, "a") {
                    Err(error) => Some(format!("the model of --likelihood cannot read it: {error}")),
                    Ok((_, 0)) => Some("the prompt has no token for --likelihood; expected at least one".into()),
                    Ok(_) => too_long(model.model.architecture().context, shared, "--likelihood"),
                }
            }
        }
    }

    /// Judges groups of samples, `[groups][samples]`; none if it is asked to stop on the way. What programs have said is in their
    /// journals then.
    ///
    /// # Errors
    /// A sample that cannot be judged, by its row.
    pub fn judge(
        &mut self,
        engine: &Engine,
        groups: &[Group<'_>],
        shutdown: &Shutdown,
    ) -> Result<Option<Vec<Vec<Judgement>>>> {
        let mut judged: Vec<Vec<Judgement>> = groups
            .iter()
            .map(|group| vec![Judgement::default(); group.completions.len()])
            .collect();
        let by_vote = matches!(self.kind, Kind::Majority);
        if let Some(vote) = &self.vote {
            for (group, judged) in groups.iter().zip(&mut judged) {
                for ((text, _), judged) in group.completions.iter().zip(judged) {
                    judged.answer = vote.of(text);
                    if by_vote {
                        judged.right = vote.is_right(judged.answer.as_deref(), group.row, "answer");
                    }
                }
            }
        }
        match &mut self.kind {
            Kind::Majority => judged.iter_mut().for_each(|group| count_votes(group)),
            Kind::Likelihood(model) => model.score(engine, groups, &mut judged)?,
            Kind::Rewards { rewards, scorers } => {
                let mut models = Vec::new();
                for scorer in scorers.iter() {
                    models.push(score_all(engine, scorer, groups)?);
                }
                let mut from = 0;
                for (group, judged) in groups.iter().zip(&mut judged) {
                    let own = from..from + judged.len();
                    let models: Vec<Vec<f64>> = models.iter().map(|scores| scores[own.clone()].to_vec()).collect();
                    if !score_group(rewards, group, &models, (judged, shutdown))? {
                        return Ok(None);
                    }
                    from = own.end;
                }
            }
        }
        Ok(Some(judged))
    }

    /// Makes the answers of programs durable.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn sync(&self) -> Result<()> {
        if let Kind::Rewards { rewards, .. } = &self.kind {
            rewards.sync()?;
        }
        Ok(())
    }
}

/// Scores a group's samples one after another: a program may be slow, and whoever asks to stop waits for no more than one answer. Whether
/// all were scored.
fn score_group(
    rewards: &mut Rewards,
    group: &Group<'_>,
    models: &[Vec<f64>],
    (judged, shutdown): (&mut [Judgement], &Shutdown),
) -> Result<bool> {
    let names: Vec<String> = rewards.names().map(String::from).collect();
    for (i, (&completion, judged)) in group.completions.iter().zip(judged).enumerate() {
        if shutdown.requested() {
            return Ok(false);
        }
        let place = Place {
            update: 0,
            index: group.first + i as u64,
        };
        let models: Vec<Vec<f64>> = models.iter().map(|scores| vec![scores[i]]).collect();
        let scores = rewards.score(place, &[sample_to_judge(group.row, completion)], &models)?;
        judged.score = scores.total[0];
        for (name, part) in names.iter().zip(&scores.parts) {
            judged.parts.insert(name.clone(), part[0].into());
        }
    }
    Ok(true)
}

/// A reward model's scores of all samples, one group after another.
fn score_all(engine: &Engine, scorer: &Scorer, groups: &[Group<'_>]) -> Result<Vec<f64>> {
    let mut answers: Vec<(&PromptInput, &str)> = Vec::new();
    let mut rows = Vec::new();
    for group in groups {
        for (text, _) in &group.completions {
            answers.push((&group.question.input, text));
            rows.push(group.question.row);
        }
    }
    match scorer.score(engine, &answers) {
        Ok(scores) => Ok(scores.into_iter().map(f64::from).collect()),
        Err(TrainError::Unscorable { index, reason }) => Err(PipelineError::Unscorable {
            row: rows[index] + 1,
            reason: format!("a sample {reason}; lower --max-new-tokens, or take a reward model of a longer context"),
        }),
        Err(error) => Err(error.into()),
    }
}

/// The share of the group's samples that have the same answer; 0 without one.
fn count_votes(group: &mut [Judgement]) {
    let mut votes: BTreeMap<String, u32> = BTreeMap::new();
    for answer in group.iter().filter_map(|judged| judged.answer.as_ref()) {
        *votes.entry(answer.clone()).or_default() += 1;
    }
    let n = group.len() as f64;
    for judged in group {
        let count = judged
            .answer
            .as_ref()
            .and_then(|answer| votes.get(answer))
            .copied()
            .unwrap_or(0);
        judged.score = f64::from(count) / n;
        judged.parts.insert("votes".into(), count.into());
    }
}

/// A model that says how likely a completion is to it.
struct Likelihood {
    model: Transformer,
    tokenizer: Tokenizer,
    chat: Option<Chat>,
}

impl Likelihood {
    fn load(engine: &Engine, directory: &Path) -> Result<Self> {
        let loaded = artefact::load(engine, directory)?;
        let tokenizer = loaded.companion.tokenizer;
        if loaded.model.has_head() {
            let reason = format!("{} is a reward model; expected a language model", directory.display());
            return Err(PipelineError::setting("--likelihood", reason));
        }
        let chat = tokenizer
            .chat_template()
            .is_some()
            .then(|| Chat::new(&tokenizer))
            .transpose()?;
        Ok(Self {
            model: loaded.model,
            tokenizer,
            chat,
        })
    }

    /// The tokens of prompt and completion as this model reads them, and where the completion begins: through its template up to the
    /// end of the turn; without one text as it stands or a question in `Q:`/`A:` form, with its end token where it has one.
    fn tokens(&self, input: &PromptInput, completion: &str) -> Result<(Vec<u32>, usize), TextError> {
        match (&self.chat, input) {
            (Some(chat), input) => {
                let turns = input.to_messages();
                let mut messages: Vec<Message> = turns.iter().map(|m| Message::new(&m.role, &m.content)).collect();
                messages.push(Message::assistant(completion));
                let mut tokens = chat.encode(&messages, TrainedTurns::Last)?;
                let (start, end) = tokens.spans.last().map_or((0, 0), |span| (span.start, span.end));
                tokens.ids.truncate(end);
                Ok((tokens.ids, start))
            }
            (None, PromptInput::Text(text)) => self.raw(text, completion),
            (None, input) => {
                let prompt = framed(input).ok_or(TextError::NoChatTemplate)?;
                self.raw(&prompt, &format!(" {completion}"))
            }
        }
    }

    fn raw(&self, prompt: &str, completion: &str) -> Result<(Vec<u32>, usize), TextError> {
        let mut ids = self.tokenizer.encode(prompt, AddSpecial::Yes)?;
        let start = ids.len();
        ids.extend(self.tokenizer.encode_after(prompt, completion)?);
        ids.extend(self.tokenizer.eos());
        Ok((ids, start))
    }

    fn score(&self, engine: &Engine, groups: &[Group<'_>], judged: &mut [Vec<Judgement>]) -> Result<()> {
        let context = self.model.architecture().context;
        let (mut sequences, mut from) = (Vec::new(), Vec::new());
        for group in groups {
            let row = group.question.row + 1;
            for (text, _) in &group.completions {
                let (ids, start) = self.tokens(&group.question.input, text)?;
                let reason = if ids.len() > context {
                    format!(
                        "a sample has {} tokens with its prompt; the context of --likelihood is {context}; lower --max-new-tokens",
                        ids.len()
                    )
                } else if start == 0 {
                    "the prompt has no token for --likelihood; expected at least one".to_owned()
                } else {
                    sequences.push(ids);
                    from.push(start);
                    continue;
                };
                return Err(PipelineError::Unscorable { row, reason });
            }
        }
        let slices: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let scores = logprobs_from(engine, &self.model, (&slices, &from), 1.0);
        for (judged, scores) in judged.iter_mut().flatten().zip(scores) {
            let sum: f64 = scores.logprobs.iter().map(|&x| f64::from(x)).sum();
            judged.score = match scores.logprobs.len() {
                // Nothing at all counts as one token guessed at random
                0 => -hone_math::ln(self.model.architecture().vocab_size as f64),
                tokens => sum / tokens as f64,
            };
            judged.parts.insert("likelihood".into(), judged.score.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> JudgeSetting {
        let file: RewardsFile = toml::from_str(text).unwrap();
        JudgeSetting::Rewards(file.rewards)
    }

    #[test]
    fn a_response_that_every_rule_finds_right_passes() {
        let rules = entries(
            "[[rewards]]\nkind = \"numeric\"\n[[rewards]]\nkind = \"length\"\nmax = 3\nweight = 0.2\n[[rewards]]\n\
             kind = \"regex\"\npattern = \"no\"\nweight = -1.0\n",
        );
        assert_eq!(rules.default_threshold(), Some(1.2));
        assert!(!rules.has_programs());
        let others = entries("[[rewards]]\nkind = \"expression\"\nexpression = \"1\"\n");
        assert_eq!(others.default_threshold(), None);
        let model = entries("[[rewards]]\nkind = \"model\"\npath = \"m\"\n");
        assert_eq!(
            (model.default_threshold(), model.models()),
            (None, vec!["m".to_owned()])
        );
        assert_eq!(JudgeSetting::Majority.default_threshold(), None);
        assert!(entries("[[rewards]]\nkind = \"program\"\ncommand = [\"a\"]\n").has_programs());
    }

    #[test]
    fn votes_are_shares_of_all_samples() {
        let answered = |answer: Option<&str>| Judgement {
            answer: answer.map(String::from),
            ..Judgement::default()
        };
        let mut group = [Some("7"), Some("8"), None, Some("7")].map(answered);
        count_votes(&mut group);
        assert_eq!(group.each_ref().map(|judged| judged.score), [0.5, 0.25, 0.0, 0.5]);
        assert_eq!(group[3].parts["votes"], 2);
    }
}
