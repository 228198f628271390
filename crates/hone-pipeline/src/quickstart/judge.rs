//! Step 8: every way to answer, on the held-out prompts, under the labeler without its noise.
//!
//! Definitions:
//! 1. Win rate: the share of held-out prompts on which the judge prefers the row's answer to the tuned model's first
//!    sample, ties a half. The `sft` row is a second, independent sample.
//! 2. KL: the mean over own samples of the summed log-probability less that under the tuned model, nats a response.
//!    Best-of-N gives its bound; rows that are not answered through the template give none.
//! 3. Bits per byte: minus the base-2 log-likelihood of the held-out documents of every corpus over their UTF-8 bytes,
//!    `<|endoftext|>` as first context of a window, consecutive windows inside each document, no template; ends of documents
//!    are not predicted.
//! 4. All rows sample at temperature 1 with the same maximum length. Base and few-shot answers end at the line's end.

use hone_data::{PromptInput, TokenStream, hold_out_documents, load_documents};
use hone_eval::{BitsPerByte, bits_per_byte, kl_of_samples};
use hone_generate::{best_of, logprobs_of};
use hone_math::Key;
use hone_objective::best_of_n::kl_bound;
use hone_run::Event;
use hone_text::AddSpecial;
use hone_train::Scorer;
use hone_world::{Group, Kind, Labeler, Preferences, Question, WorkedForm, World, few_shot_prompt};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Steps;
use super::answer::{Answered, Answerer};
use super::config::folder;
use super::world::questions;
use crate::error::{PipelineError, Result};
use crate::files::{read_json, read_lines, write_json, write_lines};

/// One answer to a held-out prompt: a line of `judge/NAME.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub prompt: String,
    pub answer: String,
    pub kind: Kind,
    pub group: Group,
    pub response: String,
    /// Tokens sampled.
    pub tokens: usize,
    /// Whether it ended by itself.
    pub ended: bool,
    /// What it is worth to the judge.
    pub utility: f64,
    /// Summed log-ratio to the tuned model, nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// The reward model's score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

/// One way to answer, with what it answered.
pub(super) struct JudgedRow {
    pub name: String,
    pub verdicts: Vec<Verdict>,
    pub kl: Option<f64>,
    /// Of the mean over samples; a bound has none.
    pub kl_standard_error: Option<f64>,
    pub bits_per_byte: f64,
}

/// All of it.
pub(super) struct Judged {
    pub questions: Vec<Question>,
    /// The tuned model's first samples, to which all rows are compared.
    pub reference: Vec<Verdict>,
    pub rows: Vec<JudgedRow>,
}

/// A way to answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Bare,
    FewShot,
    Chat,
    BestOf,
}

/// Answers, judges and measures whatever is not there yet.
pub(super) fn judge(steps: &Steps) -> Result<Judged> {
    let questions = questions(steps, "held-out.jsonl")?;
    let best = format!("best-of-{}", steps.config.judge.best_of);
    let plan = [
        ("sft-first", folder::SFT, Way::Chat),
        ("base", folder::PRETRAIN, Way::Bare),
        ("few-shot", folder::PRETRAIN, Way::FewShot),
        ("sft", folder::SFT, Way::Chat),
        (best.as_str(), folder::SFT, Way::BestOf),
        (folder::PPO, folder::PPO, Way::Chat),
        (folder::PPO_PTX, folder::PPO_PTX, Way::Chat),
    ];
    let total = plan.len() as u64;
    steps.event(&Event::Started {
        stage: folder::JUDGE.into(),
        step: 0,
        total,
    });
    let mut bench = Bench {
        steps,
        questions: &questions,
        tuned: None,
        scorer: None,
    };
    let mut rows = Vec::new();
    for (i, (name, stage, way)) in plan.into_iter().enumerate() {
        steps.check_stop(folder::JUDGE, i as u64)?;
        let verdicts = bench.verdicts(name, stage, way)?;
        let bits_per_byte = stage_bits_per_byte(steps, stage)?;
        let (kl, kl_standard_error) = match way {
            Way::Bare | Way::FewShot => (None, None),
            Way::Chat => {
                let log_ratios: Vec<f64> = verdicts.iter().filter_map(|v| v.kl).collect();
                let measured = kl_of_samples(&log_ratios)?;
                (Some(measured.kl), Some(measured.standard_error))
            }
            Way::BestOf => (Some(kl_bound(steps.config.judge.best_of as u64)?), None),
        };
        let tokens = verdicts.iter().map(|v| v.tokens as u64).sum();
        let utility = mean(verdicts.iter().map(|v| v.utility));
        let headline = utility
            .map(|utility| ("utility".to_string(), utility))
            .into_iter()
            .collect();
        steps.event(&Event::Step {
            step: i as u64 + 1,
            total,
            tokens,
            headline,
        });
        rows.push(JudgedRow {
            name: name.into(),
            verdicts,
            kl,
            kl_standard_error,
            bits_per_byte,
        });
    }
    steps.event(&Event::Finished {
        step: total,
        stopped: false,
    });
    let reference = rows.remove(0).verdicts;
    Ok(Judged {
        questions,
        reference,
        rows,
    })
}

/// What answering needs, loaded when it is first needed.
struct Bench<'a> {
    steps: &'a Steps,
    questions: &'a [Question],
    tuned: Option<Answerer>,
    scorer: Option<Scorer>,
}

impl Bench<'_> {
    /// The verdicts of a file that is there, or new ones.
    fn verdicts(&mut self, name: &str, stage: &str, way: Way) -> Result<Vec<Verdict>> {
        let dir = self.steps.out.join(folder::JUDGE);
        let path = dir.join(format!("{name}.jsonl"));
        if !path.exists() {
            std::fs::create_dir_all(&dir).map_err(|e| PipelineError::file(&dir, format!("cannot be created: {e}")))?;
            write_lines(&path, &self.answer(name, stage, way)?)?;
        }
        // Read back in any case, so that a resumed run has the same numbers
        let verdicts: Vec<Verdict> = read_lines(&path)?;
        let same = |(verdict, question): (&Verdict, &Question)| verdict.prompt == question.text;
        if verdicts.len() != self.questions.len() || !verdicts.iter().zip(self.questions).all(same) {
            return Err(PipelineError::file(
                &path,
                "has other prompts than world/held-out.jsonl; delete it to answer anew",
            ));
        }
        Ok(verdicts)
    }

    fn answer(&mut self, name: &str, stage: &str, way: Way) -> Result<Vec<Verdict>> {
        let (steps, engine) = (self.steps, &self.steps.engine);
        let key = Key::new(steps.config.seed, &format!("quickstart/judge/{name}"), 0);
        let model = Answerer::load(engine, &stage_dir(steps, stage))?;
        let most = steps.config.judge.max_new_tokens;
        let n = steps.config.judge.best_of;
        let mut answers = match way {
            Way::Bare => {
                let prompts: Vec<String> = self.questions.iter().map(Question::bare_prompt).collect();
                model.complete(engine, &prompts, most, key)?
            }
            Way::FewShot => model.complete(engine, &self.few_shot_prompts(&model, most)?, most, key)?,
            Way::Chat => model.chat(engine, self.questions, (1, most), key)?,
            Way::BestOf => model.chat(engine, self.questions, (n, most), key)?,
        };
        let mut scores = Vec::new();
        if matches!(way, Way::Chat | Way::BestOf) {
            scores = self.scores(&answers, answers.len() / self.questions.len())?;
        }
        if way == Way::BestOf {
            let picked: Vec<usize> = scores
                .chunks(n)
                .enumerate()
                .map(|(i, s)| i * n + best_of(s).unwrap_or_default())
                .collect();
            scores = picked.iter().map(|&i| scores[i]).collect();
            let mut all: Vec<Option<Answered>> = answers.into_iter().map(Some).collect();
            answers = picked.into_iter().filter_map(|i| all[i].take()).collect();
        }
        let kl = match way {
            Way::Chat => self.kl(&answers)?,
            _ => vec![None; answers.len()],
        };
        let judge = Labeler::new(Preferences::standard(), 0);
        let verdict = |(i, answer): (usize, Answered)| {
            let question = &self.questions[i];
            Verdict {
                prompt: question.text.clone(),
                answer: question.answer.clone(),
                kind: question.kind,
                group: question.group,
                utility: judge.utility(question, &answer.text),
                tokens: answer.ids.len() - answer.prompt_length,
                ended: answer.ended,
                response: answer.text,
                kl: kl[i],
                score: scores.get(i).map(|&s| f64::from(s)),
            }
        };
        Ok(answers.into_iter().enumerate().map(verdict).collect())
    }

    /// Worked examples of the question's kind before it; as many as leave room for the answer.
    fn few_shot_prompts(&self, model: &Answerer, most: usize) -> Result<Vec<String>> {
        let world = World::new(self.steps.config.seed);
        let wanted = self.steps.config.judge.worked_examples;
        let room = model.model.architecture().context.saturating_sub(most + 1);
        let (mut prompts, mut shortened) = (Vec::new(), 0);
        for (question, index) in self.questions.iter().zip(0_u64..) {
            let mut examples = world.worked_examples(question.kind, wanted, WorkedForm::Expert, index);
            let mut prompt = few_shot_prompt(&examples, question);
            shortened += usize::from(model.tokenizer.encode(&prompt, AddSpecial::No)?.len() > room);
            while !examples.is_empty() && model.tokenizer.encode(&prompt, AddSpecial::No)?.len() > room {
                examples.remove(0);
                prompt = few_shot_prompt(&examples, question);
            }
            prompts.push(prompt);
        }
        if shortened > 0 {
            let text =
                format!("few-shot: {shortened} prompts have fewer than {wanted} worked examples, to fit the context");
            self.steps.say(text);
        }
        Ok(prompts)
    }

    /// The reward model's scores of `n` answers a question.
    fn scores(&mut self, answers: &[Answered], n: usize) -> Result<Vec<f32>> {
        let engine = &self.steps.engine;
        if self.scorer.is_none() {
            self.scorer = Some(Scorer::load(
                engine,
                &self.steps.out.join(folder::REWARD).join("model"),
            )?);
        }
        let Some(scorer) = &self.scorer else {
            return Ok(Vec::new());
        };
        let message = |q: &Question| hone_data::Message {
            role: "user".into(),
            content: q.text.clone(),
        };
        let prompts: Vec<PromptInput> = self
            .questions
            .iter()
            .map(|q| PromptInput::Messages(vec![message(q)]))
            .collect();
        let pairs: Vec<(&PromptInput, &str)> = answers
            .iter()
            .enumerate()
            .map(|(i, a)| (&prompts[i / n], a.text.as_str()))
            .collect();
        Ok(scorer.score(engine, &pairs)?)
    }

    /// Summed log-ratio of each answer to the tuned model.
    fn kl(&mut self, answers: &[Answered]) -> Result<Vec<Option<f64>>> {
        let engine = &self.steps.engine;
        if self.tuned.is_none() {
            self.tuned = Some(Answerer::load(engine, &stage_dir(self.steps, folder::SFT))?);
        }
        let Some(tuned) = &self.tuned else {
            return Ok(Vec::new());
        };
        let sequences: Vec<&[u32]> = answers.iter().map(|a| a.ids.as_slice()).collect();
        let reference = logprobs_of(engine, &tuned.model, &sequences, 1.0);
        let ratio = |(answer, scores): (&Answered, hone_generate::TokenScores)| {
            let of_response = &scores.logprobs[answer.prompt_length - 1..];
            Some(answer.logprob - of_response.iter().map(|&l| f64::from(l)).sum::<f64>())
        };
        Ok(answers.iter().zip(reference).map(ratio).collect())
    }
}

fn stage_dir(steps: &Steps, stage: &str) -> std::path::PathBuf {
    match stage {
        folder::PPO | folder::PPO_PTX | folder::REWARD => steps.out.join(stage),
        _ => steps.shared(stage),
    }
}

/// Bits per byte of the held-out text under a stage's model.
fn stage_bits_per_byte(steps: &Steps, stage: &str) -> Result<f64> {
    let path = steps
        .out
        .join(folder::JUDGE)
        .join(format!("bits-per-byte-{stage}.json"));
    if !path.exists() {
        let model = Answerer::load(&steps.engine, &stage_dir(steps, stage))?;
        let value = measure_bits_per_byte(steps, &model)?;
        write_json(&path, &json!({ "bits_per_byte": value }))?;
    }
    read_json(&path)?["bits_per_byte"]
        .as_f64()
        .ok_or_else(|| PipelineError::file(&path, "has no number `bits_per_byte`; delete it to measure anew"))
}

fn measure_bits_per_byte(steps: &Steps, model: &Answerer) -> Result<f64> {
    let separator = model.tokenizer.document_separator().unwrap_or_default();
    let data = &steps.config.pretrain.data;
    let mut all = BitsPerByte::default();
    for source in &data.train {
        let mut source = source.clone();
        if source.path.is_relative() {
            let base = steps.reused.as_ref().unwrap_or(&steps.out);
            source.path = base.join(&source.path);
        }
        let held_out = hold_out_documents(load_documents(&source)?.items, data.held_out)?.held_out;
        let mut stream = TokenStream::new(separator, data.token_cap);
        for document in &held_out {
            stream.push_ids(
                &model.tokenizer.encode_ordinary(&document.text)?,
                document.text.len() as u64,
            )?;
        }
        if stream.documents() == 0 {
            continue;
        }
        let measured = bits_per_byte(&steps.engine, &model.model, &stream, data.max_length, &mut |_| {})?;
        all = all.joined(&measured);
    }
    Ok(all.bits_per_byte)
}

/// The mean, if there is any value.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0_u64);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}
