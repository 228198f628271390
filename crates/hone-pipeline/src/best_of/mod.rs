//! Best-of-N, and validate and filter: several samples a prompt, a judge, and what of them is kept.
//!
//! Source: Nakano et al., "WebGPT", 2021 (best-of-N against a reward model); Cobbe et al., "Training verifiers to solve math word
//! problems", 2021; Wang et al., "Self-consistency", 2023 (the vote); Zelikman et al., "STaR", 2022 (what passes is imitated).
//!
//! 1. `sample`: n completions of each prompt at each temperature, in the order of the prompts; the same random numbers at every
//!    temperature, so that one temperature's samples do not depend on which others there are.
//! 2. `judge`: a score each, by rewards, another model's likelihood, or a vote.
//! 3. Both are kept, line by line, so that nothing is sampled twice; the table and the rows to imitate are made from what was kept.

mod judge;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_compute::{Engine, SamplingParameters};
use hone_data::PromptInput;
use hone_generate::prompting::PromptError;
use hone_generate::{FinishReason, Generator, GeneratorOptions, Request, completion_text, raw_stop_tokens, stop_text};
use hone_math::Key;
use hone_model::Transformer;
use hone_run::BulkFile;
use hone_task::FinalAnswer;
use hone_text::{AddSpecial, Chat, GenerationPrompt, Message, QaFraming, TextError, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use judge::{JudgeSetting, RewardsFile};
pub use table::{Keep, Kept, Report, Sweep, Threshold};

use crate::error::{PipelineError, Result};
use judge::{Group, Judge};

/// Completions that are judged together.
const JUDGED: usize = 64;
/// Completions that are asked for at once; what they are does not depend on it.
const BLOCK: usize = 4096;

/// A prompt of the input.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Its row, from 0.
    pub row: u64,
    /// What is asked: through the chat template where the model has one, text as the user's turn. Without a template text is taken
    /// as it stands, and a question of one turn in `Q:`/`A:` form.
    pub input: PromptInput,
    /// The row's other columns.
    pub extra: Map<String, Value>,
}

/// How samples are drawn.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// Samples a prompt and temperature.
    pub n: usize,
    /// Temperatures; at least one.
    pub temperatures: Vec<f32>,
    /// Truncation; its temperature is replaced.
    pub parameters: SamplingParameters,
    /// Texts that end a completion.
    pub stop: Vec<String>,
    /// Most tokens of a completion.
    pub max_new_tokens: usize,
    /// Determines the random numbers.
    pub seed: u64,
    /// Sequences decoded together.
    pub batch: usize,
}

impl Drawing {
    /// Samples a prompt, over all temperatures.
    pub fn per_prompt(&self) -> usize {
        self.n * self.temperatures.len()
    }
}

/// One sample with its judgement: a line of what is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The prompt's row, from 0.
    pub row: u64,
    /// The temperature it was drawn at.
    pub temperature: f32,
    /// Which of those of its temperature, from 0.
    pub sample: usize,
    /// Its text.
    pub completion: String,
    /// Its tokens.
    pub tokens: usize,
    /// Whether it ended by itself.
    pub ended: bool,
    /// Its summed log-probability under its temperature, nats.
    pub logprob: f64,
    /// The judge's score.
    pub score: f64,
    /// What the score is made of.
    pub parts: Map<String, Value>,
    /// Its final answer, where there is a vote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Whether that is the row's `answer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right: Option<bool>,
}

/// Where judged samples are kept, the prompts' in order.
pub enum Store {
    /// In a file that can be gone on with.
    File(Box<BulkFile>),
    /// In memory.
    Memory(Vec<Candidate>),
}

impl Store {
    fn add(&mut self, candidates: Vec<Candidate>) -> Result<()> {
        match self {
            Self::Memory(kept) => kept.extend(candidates),
            Self::File(file) => {
                for candidate in candidates {
                    let line = serde_json::to_string(&candidate);
                    let line = line.map_err(|error| PipelineError::file(file.path(), error.to_string()))?;
                    file.append(&line)?;
                }
            }
        }
        Ok(())
    }

    /// Every judged sample, in order.
    ///
    /// # Errors
    /// A file that cannot be read or was changed, and what `each` returns.
    pub fn for_each(&self, each: &mut dyn FnMut(Candidate) -> Result<()>) -> Result<()> {
        let file = match self {
            Self::Memory(kept) => return kept.iter().cloned().try_for_each(each),
            Self::File(file) => file,
        };
        hone_run::for_each_line(file.path(), &mut |number, line| {
            let read = serde_json::from_str(line);
            each(read.map_err(|error| PipelineError::file(file.path(), format!("line {number}: {error}")))?)
        })
    }
}

/// The model that is sampled, with what it needs.
pub struct Policy<'a> {
    /// The engine.
    pub engine: &'a Engine,
    /// The model.
    pub model: &'a Transformer,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Its template, where it has one.
    pub chat: Option<&'a Chat>,
}

/// What judges, before it is loaded.
pub struct JudgePlan<'a> {
    /// By what.
    pub setting: &'a JudgeSetting,
    /// How final answers are found, where there is a vote.
    pub vote: Option<FinalAnswer>,
    /// Where programs have their folders and journals.
    pub folder: &'a Path,
    /// Finds a model's directory by its name.
    pub resolve: &'a dyn Fn(&str) -> Result<PathBuf>,
}

/// A prompt in tokens.
struct Prepared {
    text: String,
    ids: Arc<[u32]>,
    /// Whether it is in `Q:`/`A:` form.
    framed: bool,
}

/// The `Q:`/`A:` form of a question of one turn.
fn framed(input: &PromptInput) -> Option<String> {
    match input {
        PromptInput::Messages(turns) => match turns.as_slice() {
            [only] if only.role == "user" => Some(QaFraming::zero_shot().prompt(&only.content)),
            _ => None,
        },
        PromptInput::Text(_) => None,
    }
}

impl Policy<'_> {
    /// Samples and judges these prompts, and keeps what came out; what is kept of earlier prompts stays. Whether all were done, rather
    /// than stopped by `on_progress`, which is told of completions and tokens so far.
    ///
    /// # Errors
    /// A prompt that is too long or has no place in the template; a sample that cannot be judged; a file that cannot be written.
    pub fn best_of(
        &self,
        questions: &[Question],
        drawing: &Drawing,
        plan: JudgePlan<'_>,
        store: &mut Store,
        on_progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<bool> {
        let mut judge = Judge::open(self.engine, plan.setting, plan.vote, plan.folder, plan.resolve)?;
        let stop_tokens: Arc<[u32]> = match self.chat {
            Some(chat) => chat.stop_ids()?.into(),
            None => raw_stop_tokens(self.tokenizer).into(),
        };
        let of_frame = QaFraming::zero_shot().stop_strings().map(String::from);
        let framed_stop: Vec<String> = of_frame.into_iter().chain(drawing.stop.iter().cloned()).collect();
        let framed_stop_texts = stop_text(self.tokenizer, &framed_stop);
        let stop_texts = stop_text(self.tokenizer, &drawing.stop);
        let options = GeneratorOptions {
            max_batch: drawing.batch,
            ..GeneratorOptions::default()
        };
        let generator = Generator::new(self.engine, self.model, options);
        let key = Key::new(drawing.seed, "sample", 0);
        let per_prompt = drawing.per_prompt();
        let (mut done, mut tokens) = (0, 0);
        for block in questions.chunks((BLOCK / per_prompt).max(1)) {
            let prepared: Vec<Prepared> = block
                .iter()
                .map(|question| self.prepare(question))
                .collect::<Result<_>>()?;
            let mut requests = Vec::with_capacity(block.len() * per_prompt);
            for (question, prompt) in block.iter().zip(&prepared) {
                for &temperature in &drawing.temperatures {
                    requests.extend((0..drawing.n).map(|sample| Request {
                        prompt: Arc::clone(&prompt.ids),
                        sampling: SamplingParameters {
                            temperature,
                            ..drawing.parameters
                        },
                        key: key.child(question.row).child(sample as u64),
                        max_new_tokens: drawing.max_new_tokens,
                        stop_tokens: Arc::clone(&stop_tokens),
                        stop_texts: if prompt.framed { &framed_stop_texts } else { &stop_texts }.clone(),
                    }));
                }
            }
            let mut waiting: Vec<Candidate> = Vec::new();
            let all = generator.run_in_order(
                &requests,
                &mut |event| {
                    tokens += 1;
                    done += u64::from(event.finish.is_some());
                    on_progress(done, tokens)
                },
                &mut |i, completion| {
                    let prompt = &prepared[i / per_prompt];
                    let raw = self.chat.is_none().then_some(&*prompt.ids);
                    let stop = if prompt.framed { &framed_stop } else { &drawing.stop };
                    let mut text = completion_text(self.tokenizer, raw, &completion, stop)?;
                    if prompt.framed {
                        text = text.trim().to_owned();
                    }
                    waiting.push(Candidate {
                        row: block[i / per_prompt].row,
                        temperature: requests[i].sampling.temperature,
                        sample: i % drawing.n,
                        completion: text,
                        tokens: completion.ids.len(),
                        ended: completion.finish == FinishReason::Stop,
                        logprob: completion.logprob(),
                        score: 0.0,
                        parts: Map::new(),
                        answer: None,
                        right: None,
                    });
                    let whole = waiting.len().is_multiple_of(per_prompt);
                    if whole && (waiting.len() >= JUDGED || i + 1 == requests.len()) {
                        let judged = std::mem::take(&mut waiting);
                        let first = i / per_prompt + 1 - judged.len() / per_prompt;
                        let asked = &block[first..=i / per_prompt];
                        let prompts = &prepared[first..=i / per_prompt];
                        let judged = self.judged(&mut judge, (asked, prompts), judged, drawing)?;
                        judge.sync()?;
                        store.add(judged)?;
                    }
                    Ok::<(), PipelineError>(())
                },
            )?;
            if let Store::File(file) = store {
                file.sync()?;
            }
            if !all {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn prepare(&self, question: &Question) -> Result<Prepared> {
        let row = question.row + 1;
        let at = |source: TextError| PipelineError::Prompt {
            row,
            source: source.into(),
        };
        let raw = |text: String, framed: bool| {
            let ids = self.tokenizer.encode(&text, AddSpecial::Yes).map_err(at)?;
            Ok::<_, PipelineError>((text, ids, framed))
        };
        let (text, ids, framed) = match (&question.input, self.chat) {
            (input, Some(chat)) => {
                let turns = input.to_messages();
                let messages: Vec<Message> = turns.iter().map(|m| Message::new(&m.role, &m.content)).collect();
                let text = chat.render(&messages, GenerationPrompt::Add).map_err(at)?;
                (text, chat.prompt_ids(&messages).map_err(at)?, false)
            }
            (PromptInput::Text(text), None) => raw(text.clone(), false)?,
            (input @ PromptInput::Messages(_), None) => {
                raw(framed(input).ok_or_else(|| at(TextError::NoChatTemplate))?, true)?
            }
        };
        let context = self.model.architecture().context;
        let problem = if ids.is_empty() {
            PromptError::Empty
        } else if ids.len() >= context {
            let tokens = ids.len() + 1;
            PromptError::TooLong { tokens, context }
        } else {
            let ids = ids.into();
            return Ok(Prepared { text, ids, framed });
        };
        Err(PipelineError::Prompt { row, source: problem })
    }

    /// The candidates of whole prompts with their judgements. A vote counts the samples of one temperature.
    fn judged(
        &self,
        judge: &mut Judge,
        (questions, prompts): (&[Question], &[Prepared]),
        mut candidates: Vec<Candidate>,
        drawing: &Drawing,
    ) -> Result<Vec<Candidate>> {
        let temperatures = drawing.temperatures.len();
        let groups: Vec<Group<'_>> = candidates
            .chunks(drawing.n)
            .enumerate()
            .map(|(g, candidates)| Group {
                question: &questions[g / temperatures],
                prompt: &prompts[g / temperatures].text,
                first: questions[g / temperatures].row * drawing.per_prompt() as u64
                    + ((g % temperatures) * drawing.n) as u64,
                completions: candidates.iter().map(|c| (c.completion.as_str(), c.tokens)).collect(),
            })
            .collect();
        let judgements = judge.judge(self.engine, &groups)?;
        for (candidate, judgement) in candidates.iter_mut().zip(judgements.into_iter().flatten()) {
            candidate.score = judgement.score;
            candidate.parts = judgement.parts;
            candidate.answer = judgement.answer;
            candidate.right = judgement.right;
        }
        Ok(candidates)
    }
}

/// Writes the rows that are kept to `out`, in the form of demonstrations: `{"prompt","completion","score","parts",...}`, complete or
/// not at all.
///
/// # Errors
/// A store that cannot be read, a file that cannot be written.
pub fn write_kept(
    out: &Path,
    (store, questions): (&Store, &[Question]),
    drawing: &Drawing,
    rule: (Keep, Threshold),
) -> Result<Kept> {
    table::write(out, (store, questions), drawing.per_prompt(), rule)
}
