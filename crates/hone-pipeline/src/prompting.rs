//! Questions answered by prompting, row by row: completions, or the likeliest of given options.
//!
//! What a row gives is a function of the model, the files, the settings and the row's number, so rows can be done in any number of
//! runs and end with the same bytes.

use std::sync::Arc;

use hone_compute::{Engine, SamplingParameters};
use hone_generate::prompting::{ExamplePool, Framed, Framer, PromptError, Question};
use hone_generate::{
    FinishReason, GenerateError, Generator, GeneratorOptions, OptionMeasure, OptionQuery, Request, choice,
    completion_text, option_scores, stop_text,
};
use hone_math::Key;
use hone_model::Transformer;
use hone_task::{Problem, PromptRow, Sample, Verifier};
use hone_text::{QaExample, Tokenizer};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::PipelineError;
use crate::rows::carried;

/// Names that answers have for themselves.
const ANSWERED: [&str; 9] = [
    "question",
    "prompt",
    "completion",
    "completion_ids",
    "logprobs",
    "finish_reason",
    "right",
    "shots",
    "left_out",
];
/// Names that choices have for themselves.
const CHOSEN: [&str; 10] = [
    "question", "prompt", "options", "choice", "right", "scores", "logprobs", "tokens", "shots", "left_out",
];
/// Completions that are asked for at once; what they are does not depend on it.
const BLOCK: usize = 2048;
/// Rows whose options are computed together; the same holds.
const OPTION_ROWS: usize = 16;

/// What answers questions, and how they are put.
pub struct Prompting<'a> {
    /// The engine.
    pub engine: &'a Engine,
    /// The model.
    pub model: &'a Transformer,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How questions are framed.
    pub framer: Framer<'a>,
    /// Worked examples.
    pub pool: &'a ExamplePool,
    /// How many of them a question gets.
    pub shots: usize,
    /// What tells right answers from wrong ones, by the row's other columns; none where nobody asks.
    pub verifier: Option<&'a dyn Verifier>,
}

/// How completions are drawn.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// Temperature and truncation.
    pub parameters: SamplingParameters,
    /// Texts that end a completion, beside the frame's.
    pub stop: Vec<String>,
    /// Most tokens of a completion.
    pub max_new_tokens: usize,
    /// Determines the random numbers.
    pub seed: u64,
    /// Sequences decoded together.
    pub batch: usize,
}

/// Where the options of a row stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Options {
    /// The same for every row.
    Same(Vec<String>),
    /// In a column, a list of texts or numbers.
    Column(String),
}

/// What is wrong with a row's options or its reference.
#[derive(Debug, thiserror::Error)]
pub enum OptionProblem {
    /// No usable column.
    #[error("column `{column}` is {got}; expected a list of two or more texts or numbers")]
    Column {
        /// The column.
        column: String,
        /// What it holds.
        got: String,
    },
    /// A reference that is no option.
    #[error("`answer` is {got}, which is none of the options {options:?}; expected one of them, or its place from 0")]
    Answer {
        /// What the column holds.
        got: String,
        /// The row's options.
        options: Vec<String>,
    },
    /// A model that gives no number.
    #[error("the model gives an option no log-probability; has its training diverged?")]
    Diverged,
}

/// A question with its completion.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answered {
    /// What was asked.
    pub question: String,
    /// The prompt as the model got it.
    pub prompt: String,
    /// The answer, without what ended it.
    pub completion: String,
    /// The tokens sampled.
    pub completion_ids: Vec<u32>,
    /// Their log-probabilities.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Whether it is right; absent where nobody asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<bool>,
    /// Worked examples in the prompt.
    pub shots: usize,
    /// Worked examples for which the context had no room.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: usize,
    /// The row's other columns.
    #[serde(flatten)]
    pub columns: Map<String, Value>,
}

/// A question with the option that was chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Chosen {
    /// What was asked.
    pub question: String,
    /// The prompt as the model got it.
    pub prompt: String,
    /// The options.
    pub options: Vec<String>,
    /// The one with the highest score, of equals the first.
    pub choice: String,
    /// Whether it is the row's `answer`; absent where the row has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<bool>,
    /// What was compared, an option each.
    pub scores: Vec<f64>,
    /// Summed log-probabilities, nats.
    pub logprobs: Vec<f64>,
    /// Tokens of each option.
    pub tokens: Vec<usize>,
    /// Worked examples in the prompt.
    pub shots: usize,
    /// Worked examples for which the context had no room.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: usize,
    /// The row's other columns.
    #[serde(flatten)]
    pub columns: Map<String, Value>,
}

/// How far the work is: rows done, and tokens sampled or scored. False stops it.
pub type OnProgress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Prompting<'_> {
    fn examples(&self, question: &Question, row: u64) -> Vec<&QaExample> {
        self.pool.pick(question.text(), self.shots, row)
    }

    /// The prompt of a row, with as many examples as leave room for `new_tokens` more; the number of those that were left out.
    ///
    /// # Errors
    /// The row, if it cannot be framed or has no room for one token.
    pub fn prompt(&self, question: &Question, row: u64, new_tokens: usize) -> Result<(Framed, usize), PipelineError> {
        let at = |source| PipelineError::Prompt { row: row + 1, source };
        let context = self.model.architecture().context;
        let examples = self.examples(question, row);
        let room = context.saturating_sub(new_tokens);
        let framed = self.framer.fitted(question, &examples, room).map_err(at)?;
        if framed.ids.len() >= context {
            let tokens = framed.ids.len() + 1;
            return Err(at(PromptError::TooLong { tokens, context }));
        }
        let left_out = examples.len() - framed.shots;
        Ok((framed, left_out))
    }

    /// Answers questions, the first of which is row `first`, and gives each answer in order. Whether all were answered, rather than
    /// stopped by `on_progress`.
    ///
    /// # Errors
    /// A row that cannot be framed or verified; a model that diverged; what `sink` returns.
    pub fn answer<E>(
        &self,
        (questions, first): (&[Question], u64),
        drawing: &Drawing,
        on_progress: OnProgress<'_>,
        sink: &mut dyn FnMut(Answered) -> Result<(), E>,
    ) -> Result<bool, E>
    where
        E: From<PipelineError> + From<GenerateError>,
    {
        let of_frame = self.framer.stop_texts().iter().map(|text| (*text).to_owned());
        let stop: Vec<String> = of_frame.chain(drawing.stop.iter().cloned()).collect();
        let stop_tokens = self.framer.stop_tokens();
        let stop_tokens: Arc<[u32]> = stop_tokens
            .map_err(|source| PipelineError::Prompt { row: first + 1, source })?
            .into();
        let stop_texts = stop_text(self.tokenizer, &stop);
        let options = GeneratorOptions {
            max_batch: drawing.batch,
            ..GeneratorOptions::default()
        };
        let generator = Generator::new(self.engine, self.model, options);
        // The same numbers as `hone sample` gives a prompt of this place
        let key = Key::new(drawing.seed, "sample", 0);
        let (mut done, mut tokens) = (0, 0);
        for (b, block) in questions.chunks(BLOCK).enumerate() {
            let begin = first + (b * BLOCK) as u64;
            let mut framed = Vec::with_capacity(block.len());
            let mut requests = Vec::with_capacity(block.len());
            for (question, row) in block.iter().zip(begin..) {
                let (prompt, left_out) = self.prompt(question, row, drawing.max_new_tokens)?;
                requests.push(Request {
                    prompt: prompt.ids.as_slice().into(),
                    sampling: drawing.parameters,
                    key: key.child(row).child(0),
                    max_new_tokens: drawing.max_new_tokens,
                    stop_tokens: Arc::clone(&stop_tokens),
                    stop_texts: stop_texts.clone(),
                });
                framed.push((prompt, left_out));
            }
            let all = generator.run_in_order(
                &requests,
                &mut |event| {
                    tokens += 1;
                    done += u64::from(event.finish.is_some());
                    on_progress(done, tokens)
                },
                &mut |i, completion| {
                    let (prompt, left_out) = &framed[i];
                    let raw = self.framer.is_raw().then_some(prompt.ids.as_slice());
                    let text = completion_text(self.tokenizer, raw, &completion, &stop).map_err(PipelineError::from)?;
                    let trimmed = !self.framer.stop_texts().is_empty();
                    let text = if trimmed { text.trim().to_owned() } else { text };
                    let wrong = |source| PipelineError::Verify {
                        row: begin + i as u64 + 1,
                        source,
                    };
                    let right = self.is_right(&block[i], &text).map_err(wrong)?;
                    sink(Answered {
                        question: block[i].text().to_owned(),
                        prompt: prompt.text.clone(),
                        completion: text,
                        completion_ids: completion.ids,
                        logprobs: completion.logprobs,
                        finish_reason: completion.finish,
                        right,
                        shots: prompt.shots,
                        left_out: *left_out,
                        columns: carried(&block[i].columns, &ANSWERED),
                    })
                },
            )?;
            if !all {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_right(&self, question: &Question, answer: &str) -> Result<Option<bool>, Problem> {
        let Some(verifier) = self.verifier else { return Ok(None) };
        let row = PromptRow {
            prompt: question.text().to_owned(),
            columns: question.columns.clone(),
        };
        Ok(Some(verifier.verify(&Sample::new(&row, answer))?.passes()))
    }

    /// Chooses among options for questions, the first of which is row `first`, and gives each choice in order. Whether all were
    /// chosen for.
    ///
    /// # Errors
    /// A row that cannot be framed, has no options or another answer than these; a model that diverged; what `sink` returns.
    pub fn choose<E>(
        &self,
        (questions, first): (&[Question], u64),
        (options, measure): (&Options, OptionMeasure),
        on_progress: OnProgress<'_>,
        sink: &mut dyn FnMut(Chosen) -> Result<(), E>,
    ) -> Result<bool, E>
    where
        E: From<PipelineError>,
    {
        let context = self.model.architecture().context;
        let (mut done, mut tokens) = (0, 0);
        for (b, block) in questions.chunks(OPTION_ROWS).enumerate() {
            let begin = first + (b * OPTION_ROWS) as u64;
            let mut framed = Vec::with_capacity(block.len());
            let mut queries = Vec::with_capacity(block.len());
            for (question, row) in block.iter().zip(begin..) {
                let wrong = |source| PipelineError::Options { row: row + 1, source };
                let texts = options.of(&question.columns).map_err(wrong)?;
                let right = reference(&question.columns, &texts).map_err(wrong)?;
                let examples = self.examples(question, row);
                let found = self.framer.with_options(question, &examples, &texts, context);
                let (prompt, ids) = found.map_err(|source| PipelineError::Prompt { row: row + 1, source })?;
                let left_out = examples.len() - prompt.shots;
                tokens += (prompt.ids.len() + ids.iter().map(Vec::len).sum::<usize>()) as u64;
                queries.push(OptionQuery {
                    prompt: prompt.ids,
                    options: ids.into_iter().zip(texts.iter().map(String::len)).collect(),
                });
                framed.push((prompt.text, prompt.shots, left_out, texts, right));
            }
            let scored = option_scores(self.engine, self.model, &queries);
            for (i, (scores, (prompt, shots, left_out, texts, right))) in scored.into_iter().zip(framed).enumerate() {
                let diverged = PipelineError::Options {
                    row: begin + i as u64 + 1,
                    source: OptionProblem::Diverged,
                };
                let place = choice(&scores, measure).ok_or(diverged)?;
                sink(Chosen {
                    question: block[i].text().to_owned(),
                    prompt,
                    choice: texts[place].clone(),
                    right: right.map(|right| right == place),
                    options: texts,
                    scores: scores.iter().map(|score| score.by(measure)).collect(),
                    logprobs: scores.iter().map(|score| score.logprob).collect(),
                    tokens: scores.iter().map(|score| score.tokens).collect(),
                    shots,
                    left_out,
                    columns: carried(&options.others(&block[i].columns), &CHOSEN),
                })?;
                done += 1;
            }
            if !on_progress(done, tokens) {
                return Ok(done == questions.len() as u64);
            }
        }
        Ok(true)
    }
}

impl Options {
    /// The columns without that of the options.
    fn others(&self, columns: &Map<String, Value>) -> Map<String, Value> {
        let mut others = columns.clone();
        if let Self::Column(column) = self {
            others.shift_remove(column);
        }
        others
    }

    /// The options of a row.
    fn of(&self, columns: &Map<String, Value>) -> Result<Vec<String>, OptionProblem> {
        let column = match self {
            Self::Same(options) => return Ok(options.clone()),
            Self::Column(column) => column,
        };
        let bad = || OptionProblem::Column {
            column: column.clone(),
            got: columns
                .get(column)
                .map_or_else(|| "missing".to_owned(), Value::to_string),
        };
        let list = columns.get(column).and_then(Value::as_array).ok_or_else(bad)?;
        let texts: Option<Vec<String>> = list.iter().map(text_of).collect();
        texts.filter(|texts| texts.len() >= 2).ok_or_else(bad)
    }
}

/// The place of the row's `answer` among its options; none where the row has none.
fn reference(columns: &Map<String, Value>, options: &[String]) -> Result<Option<usize>, OptionProblem> {
    let Some(answer) = columns.get("answer").filter(|answer| !answer.is_null()) else {
        return Ok(None);
    };
    let text = text_of(answer);
    let same = |option: &String| text.as_ref().is_some_and(|text| text.trim() == option.trim());
    let place = options.iter().position(same).or_else(|| {
        let place = usize::try_from(answer.as_u64()?).ok()?;
        (place < options.len()).then_some(place)
    });
    let problem = || OptionProblem::Answer {
        got: answer.to_string(),
        options: options.to_vec(),
    };
    place.map(Some).ok_or_else(problem)
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn columns(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn options_stand_in_a_list() {
        let column = Options::Column("options".into());
        let row = columns(json!({"options": ["yes", 3, true]}));
        assert_eq!(column.of(&row).unwrap(), ["yes", "3", "true"]);
        for bad in [
            json!({}),
            json!({"options": "a,b"}),
            json!({"options": ["a"]}),
            json!({"options": [[], "a"]}),
        ] {
            let said = column.of(&columns(bad)).unwrap_err().to_string();
            assert!(
                said.starts_with("column `options` is ") && said.contains("expected a list"),
                "{said}"
            );
        }
        assert_eq!(Options::Same(vec!["a".into()]).of(&row).unwrap(), ["a"]);
    }

    #[test]
    fn a_reference_is_an_option_or_its_place() {
        let options = ["yes".to_owned(), "no".to_owned(), "0".to_owned()];
        let place = |answer: Value| reference(&columns(json!({ "answer": answer })), &options).unwrap();
        assert_eq!(place(json!(" no\n")), Some(1));
        assert_eq!(place(json!(1)), Some(1));
        // A text that is an option comes before a place
        assert_eq!(place(json!(0)), Some(2));
        assert_eq!(place(json!(null)), None);
        assert_eq!(reference(&Map::new(), &options).unwrap(), None);
        for answer in [json!("maybe"), json!(3), json!(-1), json!(["yes"])] {
            let said = reference(&columns(json!({ "answer": answer })), &options)
                .unwrap_err()
                .to_string();
            assert!(said.contains("none of the options"), "{said}");
        }
    }
}
