//! Preferences as tokens, and the batches of them.

use std::sync::Arc;

use hone_compute::{Engine, Tape, Var};
use hone_data::{DataError, Format, Loaded, Message, Ranking, Source, Unpaired, for_each_ranking, for_each_unpaired};
use hone_model::{SharedPrefixes, Transformer};
use hone_text::Chat;

use super::config::PreferenceConfig;
use super::reference::Reference;
use crate::error::{Result, TrainError};
use crate::job::Job;
use crate::mixture::{Encoded, Mixture, SourceItems, encoding, load_split, tell_split};
use crate::preferred::{Compared, Judgement, Method, MethodSetting, warning};
use crate::rankings::{Fitting, TooLong};
use crate::text::{Answered, answered};

/// One prompt's responses with what was judged of them.
#[derive(Clone, Debug)]
pub(super) struct Example {
    /// Its place among all examples, held-out ones included.
    pub number: usize,
    pub responses: Vec<Answered>,
    pub judgement: Judgement,
    /// Of KTO: the prompt with the responses to another one.
    pub mismatched: Vec<Answered>,
}

impl Example {
    /// Tokens of all responses with their prompts.
    pub fn tokens(&self) -> usize {
        self.responses.iter().map(|r| r.ids.len()).sum()
    }

    /// Tokens of the responses alone.
    pub fn response_tokens(&self) -> usize {
        self.responses.iter().map(|r| r.response_tokens).sum()
    }

    /// Rows that they take: what they begin with is there once.
    pub fn rows(&self) -> usize {
        SharedPrefixes::rows_of(&self.sequences())
    }

    /// The responses without their last tokens, whose own rows nothing is asked of.
    fn sequences(&self) -> Vec<&[u32]> {
        self.responses.iter().map(|r| &r.ids[..r.ids.len() - 1]).collect()
    }

    /// The prompt's tokens.
    fn prompt(&self) -> &[u32] {
        self.responses.first().map_or(&[], prompt_of)
    }
}

/// Examples as a loss compares them.
pub(super) fn compared<'a>(examples: &[&'a Example], reference: &'a Reference) -> Vec<Compared<'a>> {
    let one = |example: &&'a Example| Compared {
        lengths: example.responses.iter().map(|r| r.response_tokens).collect(),
        judgement: &example.judgement,
        reference: reference.of(example),
    };
    examples.iter().map(one).collect()
}

fn prompt_of(answered: &Answered) -> &[u32] {
    &answered.ids[..answered.ids.len() - answered.response_tokens]
}

/// A held-out example with its prompt as text.
pub(super) struct HeldOut {
    pub example: Example,
    pub prompt: Vec<Message>,
}

/// All sources, and what is held out of them.
pub(super) struct Preferences {
    pub train: Mixture<Example>,
    pub held_out: Vec<HeldOut>,
}

impl Preferences {
    /// Reads and tokenises the preferences.
    pub fn load(job: &Job, c: &PreferenceConfig, chat: &Chat) -> Result<Self> {
        let data = &c.data;
        let reader = Reader {
            chat,
            labels: c.preference.method == MethodSetting::Kto,
            max_length: data.max_length,
        };
        let (mut sources, mut held_out) = (Vec::new(), Vec::new());
        let mut number = 0;
        for split in load_split(job, (&data.train, data.held_out), "rankings.jsonl", |source| {
            reader.read(source)
        })? {
            let mut too_long = TooLong::default();
            let train = too_long.keep(split.train, |fits| fits.left_out);
            let mut train: Vec<Example> = train.into_iter().map(|(_, fits)| fits.numbered(&mut number)).collect();
            let apart = too_long.keep(split.held_out, |fits| fits.left_out);
            let (prompts, mut apart): (Vec<_>, Vec<_>) = apart
                .into_iter()
                .map(|(row, fits)| (row.prompt, fits.numbered(&mut number)))
                .unzip();
            if reader.labels {
                mismatch(&mut train, data.max_length);
                mismatch(&mut apart, data.max_length);
            }
            let rows = if reader.labels { "rows" } else { "rankings" };
            too_long.tell(job, &split.name, (data.max_length, rows));
            tell_split(job, &split.name, (train.len(), apart.len()), rows);
            let with_prompt = apart.into_iter().zip(prompts);
            held_out.extend(with_prompt.map(|(example, prompt)| HeldOut { example, prompt }));
            sources.push(SourceItems::new(split.name, &split.source, train)?);
        }
        Ok(Self {
            train: Mixture::new(sources, c.train.seed)?,
            held_out,
        })
    }

    /// A method with the weights that fit the responses that are trained on, told; KTO's.
    pub fn balanced(&self, job: &Job, method: Method) -> (Method, Option<(f64, f64)>) {
        let (mut desirable, mut undesirable) = (0.0, 0.0);
        for (weight, example) in self.train.weighted_items() {
            let share = method.share_of_labels(&example.judgement);
            desirable += weight * share.0;
            undesirable += weight * share.1;
        }
        let (method, weights) = method.balanced((desirable, undesirable));
        if let Some(weights) = weights {
            let share = 100.0 * desirable / (desirable + undesirable);
            job.message(format!(
                "{share:.1}% of what is judged is desirable: such responses weigh {:.4}, undesirable ones {:.4} \
                 (preference.balance)",
                weights.0, weights.1
            ));
            warning(weights).into_iter().for_each(|said| job.message(said));
        }
        (method, weights)
    }

    /// All examples in the order of their numbers.
    pub fn all(&self) -> Vec<&Example> {
        let held_out = self.held_out.iter().map(|h| &h.example);
        let mut all: Vec<&Example> = self.train.items().chain(held_out).collect();
        all.sort_unstable_by_key(|example| example.number);
        all
    }
}

/// A row that fits.
struct Fits {
    responses: Vec<Answered>,
    judgement: Judgement,
    left_out: usize,
}

impl Fits {
    fn numbered(self, number: &mut usize) -> Example {
        *number += 1;
        Example {
            number: *number - 1,
            responses: self.responses,
            judgement: self.judgement,
            mismatched: Vec::new(),
        }
    }

    /// Every pair of a ranking that differs in rank.
    fn of_pairs(fitting: Fitting) -> Self {
        Self {
            judgement: Judgement::Pairs(fitting.ranking.pairs()),
            responses: fitting.responses,
            left_out: fitting.left_out,
        }
    }

    /// The best responses of a ranking as desirable and the worst as undesirable; those between are left out.
    fn of_extremes(fitting: Fitting) -> Self {
        let last = fitting.ranking.groups.len() - 1;
        let mut labels = vec![None; fitting.responses.len()];
        for (group, label) in [(0, true), (last, false)] {
            for &response in &fitting.ranking.groups[group] {
                labels[response] = Some(label);
            }
        }
        let labelled = fitting.responses.into_iter().zip(labels);
        let labelled = labelled.filter_map(|(response, label)| Some((response, label?)));
        let (responses, labels) = labelled.unzip();
        Self {
            responses,
            judgement: Judgement::Labels(labels),
            left_out: fitting.left_out,
        }
    }
}

/// How rows become examples.
struct Reader<'a> {
    chat: &'a Chat,
    /// For KTO: responses with labels.
    labels: bool,
    max_length: usize,
}

type Rows = Loaded<Encoded<Ranking, Option<Fits>>>;

impl Reader<'_> {
    /// Rankings; for KTO also single responses with labels.
    fn read(&self, source: &Source) -> Result<Rows, DataError> {
        match encoding(source, for_each_ranking, |row| self.ranking(row)) {
            Err(DataError::WrongKind {
                format: Format::Unpaired,
                ..
            }) if self.labels => {
                let loaded = encoding(source, for_each_unpaired, |row| self.single(row))?;
                let items = loaded.items.into_iter().map(|Encoded { row, encoded }| Encoded {
                    row: Ranking {
                        prompt: row.prompt,
                        ..Ranking::default()
                    },
                    encoded,
                });
                Ok(Loaded {
                    items: items.collect(),
                    report: loaded.report,
                })
            }
            loaded => loaded,
        }
    }

    fn ranking(&self, row: &Ranking) -> Result<Option<Fits>> {
        let Some(fitting) = Fitting::new(self.chat, row, self.max_length)? else {
            return Ok(None);
        };
        fitting.responses.iter().try_for_each(has_tokens)?;
        Ok(Some(if self.labels {
            Fits::of_extremes(fitting)
        } else {
            Fits::of_pairs(fitting)
        }))
    }

    fn single(&self, row: &Unpaired) -> Result<Option<Fits>> {
        let response = answered(self.chat, &row.prompt, &row.completion)?;
        has_tokens(&response)?;
        Ok((response.ids.len() <= self.max_length).then(|| Fits {
            responses: vec![response],
            judgement: Judgement::Labels(vec![row.label]),
            left_out: 0,
        }))
    }
}

/// A loss on a response needs tokens of it, and something before them.
fn has_tokens(response: &Answered) -> Result<()> {
    if response.response_tokens == 0 || prompt_of(response).is_empty() {
        return Err(TrainError::setting(
            "a response",
            "has no token, or none before it, under the model's chat template",
        ));
    }
    Ok(())
}

/// Gives each example its prompt with the responses to the next prompt that differs, in the order of the source, the first
/// again after the last. One that is alone keeps its own responses.
fn mismatch(examples: &mut [Example], max_length: usize) {
    let count = examples.len();
    if count == 0 {
        return;
    }
    // Twice around, so that the last example that begins alike knows of the first that does not
    let mut next = vec![0; count];
    for i in (0..2 * count).rev() {
        let (here, after) = (i % count, (i + 1) % count);
        next[here] = if examples[here].prompt() == examples[after].prompt() && i + 1 < 2 * count {
            next[after]
        } else {
            after
        };
    }
    let mismatched: Vec<Vec<Answered>> = (0..count)
        .map(|i| {
            let prompt = examples[i].prompt();
            let others = examples[next[i]].responses.iter();
            others
                .map(|other| {
                    let response = &other.ids[other.ids.len() - other.response_tokens..];
                    let response = &response[..response.len().min(max_length - prompt.len())];
                    Answered {
                        ids: [prompt, response].concat(),
                        response_tokens: response.len(),
                    }
                })
                .collect()
        })
        .collect();
    for (example, mismatched) in examples.iter_mut().zip(mismatched) {
        example.mismatched = mismatched;
    }
}

/// Examples side by side: the responses to a prompt share the rows of what they begin with.
pub(super) struct Batch {
    sequences: SharedPrefixes,
    /// The row before each response token.
    rows: Arc<[u32]>,
    /// Each response token.
    targets: Arc<[u32]>,
}

/// Log-probabilities of a batch's response tokens, with a tape to go back on.
pub(super) struct Numbers<'p> {
    pub tape: Tape<'p>,
    pub logprob: Var,
    /// `[t]`.
    pub logprobs: Vec<f32>,
}

impl Batch {
    pub fn new(examples: &[&Example]) -> Self {
        let groups: Vec<Vec<&[u32]>> = examples.iter().map(|example| example.sequences()).collect();
        let sequences = SharedPrefixes::of_groups(groups.iter().map(Vec::as_slice));
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for (i, response) in examples.iter().flat_map(|e| &e.responses).enumerate() {
            let start = prompt_of(response).len();
            rows.extend((start - 1..response.ids.len() - 1).map(|position| sequences.row(i, position)));
            targets.extend_from_slice(&response.ids[start..]);
        }
        Self {
            sequences,
            rows: rows.into(),
            targets: targets.into(),
        }
    }

    pub fn numbers<'p>(&self, engine: &'p Engine, policy: &'p Transformer) -> Numbers<'p> {
        let mut tape = Tape::training(engine, policy.parameters());
        let chosen = policy.hidden_of(&mut tape, &self.sequences.tokens(), &self.rows); // [t, d]
        let logprob = policy.logprobs(&mut tape, &chosen, &self.targets, 1.0).logprob;
        let logprobs = engine.read(logprob.value());
        Numbers {
            tape,
            logprob,
            logprobs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(prompt: u32, own: &[u32]) -> Answered {
        Answered {
            ids: [&[prompt, 1, 2], own].concat(),
            response_tokens: own.len(),
        }
    }

    fn single(number: usize, prompt: u32, own: &[u32]) -> Example {
        Example {
            number,
            responses: vec![response(prompt, own)],
            judgement: Judgement::Labels(vec![true]),
            mismatched: Vec::new(),
        }
    }

    #[test]
    fn a_prompt_meets_the_responses_to_the_next_one() {
        let mut examples = vec![
            single(0, 50, &[7, 3]),
            single(1, 50, &[8, 3]),
            single(2, 51, &[9, 9, 9, 3]),
            single(3, 50, &[6, 3]),
        ];
        mismatch(&mut examples, 6);
        let ids: Vec<&[u32]> = examples.iter().map(|e| e.mismatched[0].ids.as_slice()).collect();
        // The third's response is cut at the limit; the last goes on with the first that differs
        assert_eq!(ids[0], [50, 1, 2, 9, 9, 9]);
        assert_eq!(ids[1], ids[0]);
        assert_eq!(ids[2], [51, 1, 2, 6, 3]);
        assert_eq!(ids[3], ids[0]);
        assert_eq!(examples[0].mismatched[0].response_tokens, 3);
        let mut alone = vec![single(0, 50, &[7, 3])];
        mismatch(&mut alone, 6);
        assert_eq!(alone[0].mismatched, alone[0].responses);
    }

    #[test]
    fn a_ranking_becomes_pairs_or_labels() {
        let fitting = || Fitting {
            responses: (5..9).map(|own| response(50, &[own, 3])).collect(),
            ranking: Ranking {
                groups: vec![vec![2], vec![0], vec![1, 3]],
                ..Ranking::default()
            },
            left_out: 0,
        };
        let pairs = Fits::of_pairs(fitting());
        let expected = vec![(2, 0), (2, 1), (2, 3), (0, 1), (0, 3)];
        assert_eq!(pairs.judgement, Judgement::Pairs(expected));
        let labels = Fits::of_extremes(fitting());
        assert_eq!(labels.judgement, Judgement::Labels(vec![false, true, false]));
        let own: Vec<u32> = labels.responses.iter().map(|r| r.ids[3]).collect();
        assert_eq!(own, [6, 7, 8]);
        let example = pairs.numbered(&mut 4);
        let tokens = compared(&[&example], &Reference::default())[0].chosen_tokens();
        assert_eq!((example.number, tokens, example.judgement.count()), (4, 10, 5));
    }
}
