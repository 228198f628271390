//! What judged samples say, and which of them are kept to be imitated.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufWriter, Write};
use std::path::Path;

use hone_eval::{BestOfRow, Bootstrap, PromptSamples, best_of_table};
use hone_math::Key;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Candidate, Drawing, Question, Store};
use crate::error::{PipelineError, Result};
use crate::rows::carried;

/// Names that rows to imitate have for themselves.
const OWN: [&str; 9] = [
    "prompt",
    "completion",
    "messages",
    "conversations",
    "score",
    "parts",
    "temperature",
    "sample",
    "tokens",
];

/// Which samples are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The best of each prompt, of equals the first; with a stated threshold only where it passes.
    Best,
    /// Those that pass, equal completions of a prompt once.
    Passing,
    /// All.
    All,
}

/// From which score a sample passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// As the user says.
    Stated(f64),
    /// As follows from the judge; none where nothing does. Under a vote a right answer passes.
    Implied(Option<f64>),
}

/// The estimates at one temperature.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sweep {
    /// The temperature.
    pub temperature: f32,
    /// For k = 1, 2, 4 .. n.
    pub rows: Vec<BestOfRow>,
    /// Mean tokens of a sample.
    pub mean_tokens: f64,
    /// Share of samples that ended by themselves.
    pub ended: f64,
}

/// What all samples say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Prompts.
    pub prompts: usize,
    /// Samples a prompt and temperature.
    pub n: usize,
    /// One entry a temperature.
    pub temperatures: Vec<Sweep>,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Rows.
    pub rows: usize,
    /// Prompts with at least one row.
    pub prompts: usize,
}

impl Threshold {
    /// Whether a sample passes; none where nobody can tell.
    fn passes(self, candidate: &Candidate) -> Option<bool> {
        match self {
            Self::Stated(threshold) | Self::Implied(Some(threshold)) => Some(candidate.score >= threshold),
            Self::Implied(None) => candidate.right,
        }
    }
}

#[derive(Default)]
struct Tally {
    prompts: Vec<PromptSamples>,
    tokens: u64,
    ended: u64,
    samples: u64,
}

impl Report {
    /// Estimates from what a store holds. Under a vote, `pass` and `majority` are of answers that equal the row's, or, where the rows
    /// have none, of samples that reach the threshold.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn of(store: &Store, drawing: &Drawing, threshold: Threshold, voted: bool) -> Result<Self> {
        let mut tallies: Vec<Tally> = drawing.temperatures.iter().map(|_| Tally::default()).collect();
        let mut group: Vec<Candidate> = Vec::with_capacity(drawing.n);
        let mut groups = 0;
        store.for_each(&mut |candidate| {
            group.push(candidate);
            if group.len() == drawing.n {
                tallies[groups % drawing.temperatures.len()].add(&group, threshold, voted);
                groups += 1;
                group.clear();
            }
            Ok(())
        })?;
        let draws = Bootstrap::new(Key::new(drawing.seed, "best-of/bootstrap", 0));
        let mut temperatures = Vec::with_capacity(tallies.len());
        for (&temperature, tally) in drawing.temperatures.iter().zip(&tallies) {
            let samples = tally.samples.max(1) as f64;
            temperatures.push(Sweep {
                temperature,
                rows: best_of_table(&tally.prompts, &draws)?,
                mean_tokens: tally.tokens as f64 / samples,
                ended: tally.ended as f64 / samples,
            });
        }
        Ok(Self {
            prompts: groups / drawing.temperatures.len(),
            n: drawing.n,
            temperatures,
        })
    }
}

impl Tally {
    fn add(&mut self, group: &[Candidate], threshold: Threshold, voted: bool) {
        let right: Option<Vec<bool>> = group.iter().map(|candidate| candidate.right).collect();
        let passes = || group.iter().map(|candidate| threshold.passes(candidate)).collect();
        let mut numbers: BTreeMap<&str, u64> = BTreeMap::new();
        let mut texts = Vec::with_capacity(group.len());
        for candidate in group {
            let next = numbers.len() as u64;
            texts.push(*numbers.entry(&candidate.completion).or_insert(next));
        }
        self.prompts.push(PromptSamples {
            scores: group.iter().map(|candidate| candidate.score).collect(),
            passes: right.or_else(passes),
            answers: voted.then(|| group.iter().map(|candidate| candidate.answer.clone()).collect()),
            texts,
        });
        self.samples += group.len() as u64;
        self.tokens += group.iter().map(|candidate| candidate.tokens as u64).sum::<u64>();
        self.ended += group.iter().filter(|candidate| candidate.ended).count() as u64;
    }
}

/// Writes the rows to imitate, `{"prompt","completion","score","parts",...}` with the input's other columns, complete or not at all.
///
/// # Errors
/// A store that cannot be read, a file that cannot be written.
pub(super) fn write(
    out: &Path,
    (store, questions): (&Store, &[Question]),
    per_prompt: usize,
    (keep, threshold): (Keep, Threshold),
) -> Result<Kept> {
    let temporary = hone_run::side_folder(out).join("rows.jsonl");
    let io = |error: std::io::Error| PipelineError::file(&temporary, format!("cannot be written: {error}"));
    let mut file = BufWriter::new(std::fs::File::create(&temporary).map_err(io)?);
    let mut kept = Kept::default();
    let mut group: Vec<Candidate> = Vec::with_capacity(per_prompt);
    let mut place = 0;
    store.for_each(&mut |candidate| {
        group.push(candidate);
        if group.len() < per_prompt {
            return Ok(());
        }
        let chosen = chosen(&group, keep, threshold);
        kept.rows += chosen.len();
        kept.prompts += usize::from(!chosen.is_empty());
        for candidate in chosen {
            let mut line = serde_json::to_vec(&row(&questions[place], candidate)).unwrap_or_default();
            line.push(b'\n');
            file.write_all(&line).map_err(io)?;
        }
        place += 1;
        group.clear();
        Ok(())
    })?;
    let file = file.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    drop(file);
    hone_run::put_in_place(&temporary, out)?;
    Ok(kept)
}

/// The samples of one prompt that are kept, in their order.
fn chosen(group: &[Candidate], keep: Keep, threshold: Threshold) -> Vec<&Candidate> {
    let passes = |candidate: &&Candidate| threshold.passes(candidate) == Some(true);
    match keep {
        Keep::All => group.iter().collect(),
        Keep::Passing => {
            let mut seen = BTreeSet::new();
            let passing = group.iter().filter(passes);
            passing
                .filter(|candidate| seen.insert(candidate.completion.as_str()))
                .collect()
        }
        Keep::Best => {
            let mut best: Option<&Candidate> = None;
            for candidate in group {
                if best.is_none_or(|b| candidate.score > b.score) {
                    best = Some(candidate);
                }
            }
            let wanted = |best: &&Candidate| !matches!(threshold, Threshold::Stated(_)) || passes(best);
            best.filter(wanted).into_iter().collect()
        }
    }
}

fn row(question: &Question, candidate: &Candidate) -> Map<String, Value> {
    let mut row = Map::new();
    row.insert("prompt".into(), json!(question.input));
    row.insert("completion".into(), candidate.completion.clone().into());
    row.insert("score".into(), candidate.score.into());
    row.insert("parts".into(), candidate.parts.clone().into());
    // As it was written, not as the next double
    let temperature = candidate.temperature.to_string().parse::<f64>();
    row.insert("temperature".into(), json!(temperature.unwrap_or_default()));
    row.insert("sample".into(), candidate.sample.into());
    row.insert("tokens".into(), candidate.tokens.into());
    row.extend(carried(&question.extra, &OWN));
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_data::PromptInput;

    fn candidate(row: u64, sample: usize, completion: &str, score: f64) -> Candidate {
        Candidate {
            row,
            temperature: 1.0,
            sample,
            completion: completion.into(),
            tokens: 2,
            ended: true,
            logprob: -1.0,
            score,
            parts: Map::new(),
            answer: None,
            right: None,
        }
    }

    fn texts(chosen: &[&Candidate]) -> Vec<String> {
        chosen.iter().map(|candidate| candidate.completion.clone()).collect()
    }

    #[test]
    fn what_is_kept() {
        let group = [
            candidate(0, 0, "a", 0.5),
            candidate(0, 1, "b", 1.0),
            candidate(0, 2, "b", 1.0),
            candidate(0, 3, "c", 1.0),
        ];
        let of = |keep, threshold| texts(&chosen(&group, keep, threshold));
        assert_eq!(of(Keep::All, Threshold::Implied(None)), ["a", "b", "b", "c"]);
        assert_eq!(of(Keep::Best, Threshold::Implied(None)), ["b"]);
        assert_eq!(of(Keep::Best, Threshold::Implied(Some(2.0))), ["b"]);
        assert!(of(Keep::Best, Threshold::Stated(2.0)).is_empty());
        assert_eq!(of(Keep::Passing, Threshold::Stated(1.0)), ["b", "c"]);
        assert_eq!(of(Keep::Passing, Threshold::Implied(Some(0.5))), ["a", "b", "c"]);
        assert!(of(Keep::Passing, Threshold::Implied(None)).is_empty());
    }

    #[test]
    fn rows_to_imitate_lose_no_column() {
        let extra = json!({"answer": "7", "completion": "old", "score": 3});
        let question = Question {
            row: 0,
            input: PromptInput::Text("q".into()),
            extra: extra.as_object().unwrap().clone(),
        };
        let expected = json!({
            "prompt": "q", "completion": "a", "score": 0.5, "parts": {}, "temperature": 1.0, "sample": 0, "tokens": 2,
            "answer": "7", "input_completion": "old", "input_score": 3,
        });
        assert_eq!(Value::Object(row(&question, &candidate(0, 0, "a", 0.5))), expected);
    }

    #[test]
    fn each_temperature_has_its_table() {
        let drawing = Drawing {
            n: 2,
            temperatures: vec![0.5, 1.0],
            parameters: hone_compute::SamplingParameters::default(),
            stop: Vec::new(),
            max_new_tokens: 4,
            seed: 1,
            batch: 1,
        };
        let mut all = Vec::new();
        for row in 0..3 {
            all.extend([candidate(row, 0, "a", 0.0), candidate(row, 1, "a", 0.0)]);
            all.extend([candidate(row, 0, "a", 1.0), candidate(row, 1, "b", 0.0)]);
        }
        let report = Report::of(&Store::Memory(all), &drawing, Threshold::Implied(Some(1.0)), false).unwrap();
        assert_eq!((report.prompts, report.n, report.temperatures.len()), (3, 2, 2));
        let pass = |t: usize, k: usize| report.temperatures[t].rows[k].pass.unwrap().mean;
        assert_eq!([pass(0, 0), pass(0, 1), pass(1, 0), pass(1, 1)], [0.0, 0.0, 0.5, 1.0]);
        assert_eq!(report.temperatures[0].rows[1].distinct, 0.5);
        assert_eq!(report.temperatures[1].rows[1].distinct, 1.0);
        assert_eq!(report.temperatures[1].rows[0].majority, None);
    }
}
