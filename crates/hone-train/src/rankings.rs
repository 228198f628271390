//! Rankings as tokens, without the responses that are too long.

use hone_data::Ranking;
use hone_text::Chat;

use crate::error::Result;
use crate::job::Job;
use crate::mixture::Encoded;
use crate::text::{Answered, answered};

/// A ranking without the responses that are too long.
pub(crate) struct Fitting {
    pub responses: Vec<Answered>,
    pub ranking: Ranking,
    pub left_out: usize,
}

impl Fitting {
    /// Encodes a ranking. Responses that are longer than `max_length` with their prompt are left out; none if the others
    /// are fewer than two, or all tied.
    pub fn new(chat: &Chat, ranking: &Ranking, max_length: usize) -> Result<Option<Self>> {
        let (mut responses, mut fits) = (Vec::with_capacity(ranking.responses.len()), Vec::new());
        for response in &ranking.responses {
            let encoded = answered(chat, &ranking.prompt, response)?;
            fits.push(encoded.ids.len() <= max_length);
            if encoded.ids.len() <= max_length {
                responses.push(encoded);
            }
        }
        let left_out = ranking.responses.len() - responses.len();
        let ranking = if left_out == 0 {
            ranking.clone()
        } else {
            match reduced(ranking, &fits) {
                Some(ranking) => ranking,
                None => return Ok(None),
            }
        };
        Ok(Some(Self {
            responses,
            ranking,
            left_out,
        }))
    }
}

/// The ranking of the responses that are kept; none if no two of them differ in rank. Margins between groups that become
/// neighbours add up.
fn reduced(ranking: &Ranking, kept: &[bool]) -> Option<Ranking> {
    let mut index = vec![None; kept.len()];
    for (new, old) in (0..kept.len()).filter(|&old| kept[old]).enumerate() {
        index[old] = Some(new);
    }
    let groups: Vec<(usize, Vec<usize>)> = ranking
        .groups
        .iter()
        .map(|group| group.iter().filter_map(|&old| index[old]).collect())
        .enumerate()
        .filter(|(_, group): &(usize, Vec<usize>)| !group.is_empty())
        .collect();
    if groups.len() < 2 {
        return None;
    }
    let margins = ranking.margins.as_ref().map(|steps| {
        let neighbours = groups.windows(2);
        neighbours
            .map(|pair| steps[pair[0].0..pair[1].0].iter().sum())
            .collect()
    });
    let responses = ranking.responses.iter().zip(kept).filter(|(_, kept)| **kept);
    Some(Ranking {
        prompt: ranking.prompt.clone(),
        responses: responses.map(|(response, _)| response.clone()).collect(),
        groups: groups.into_iter().map(|(_, group)| group).collect(),
        margins,
    })
}

/// What was too long.
#[derive(Default)]
pub(crate) struct TooLong {
    rows: usize,
    responses: usize,
}

impl TooLong {
    /// The rows that fit, of which `left_out` says how many responses were too long; the others are counted.
    pub fn keep<E>(
        &mut self,
        rows: Vec<Encoded<Ranking, Option<E>>>,
        left_out: impl Fn(&E) -> usize,
    ) -> Vec<(Ranking, E)> {
        let mut kept = Vec::with_capacity(rows.len());
        for Encoded { row, encoded } in rows {
            match encoded {
                Some(fits) => {
                    self.responses += left_out(&fits);
                    kept.push((row, fits));
                }
                None => self.rows += 1,
            }
        }
        kept
    }

    /// Says what was left out; `rows` is what the rows are.
    pub fn tell(&self, job: &Job, name: &str, (limit, rows): (usize, &str)) {
        if self.responses > 0 {
            let count = self.responses;
            job.message(format!(
                "{name}: {count} responses longer than {limit} tokens left out of their rankings"
            ));
        }
        if self.rows > 0 {
            let count = self.rows;
            job.message(format!("{name}: {count} {rows} longer than {limit} tokens dropped"));
        }
    }
}

#[cfg(test)]
mod tests {
    use hone_data::Message;

    use super::*;

    #[test]
    fn only_the_responses_that_are_too_long_are_left_out() {
        let ranking = Ranking {
            prompt: vec![Message::user("q")],
            responses: ["a", "b", "c", "d"].map(String::from).to_vec(),
            groups: vec![vec![2], vec![0, 3], vec![1]],
            margins: Some(vec![1.5, 0.25]),
        };
        // Without the middle group, and without one of a tie
        let kept = reduced(&ranking, &[false, true, true, false]).unwrap();
        assert_eq!(kept.responses, ["b", "c"]);
        assert_eq!(kept.groups, [[1], [0]]);
        assert_eq!(kept.margins, Some(vec![1.75]));
        let kept = reduced(&ranking, &[true, true, true, false]).unwrap();
        assert_eq!(kept.groups, [[2], [0], [1]]);
        assert_eq!(kept.margins, ranking.margins);
        // What is left is tied, or alone
        assert_eq!(reduced(&ranking, &[true, false, false, true]), None);
        assert_eq!(reduced(&ranking, &[true, false, false, false]), None);
        assert_eq!(reduced(&ranking, &[false; 4]), None);

        let options = hone_text::TrainOptions {
            vocab_size: 270,
            ..hone_text::TrainOptions::default()
        };
        let tokenizer = hone_text::train_bpe(std::iter::once("some text".repeat(9)), &options).unwrap();
        let chat = Chat::new(&tokenizer).unwrap();
        let long = Ranking {
            responses: vec!["a".into(), "b".repeat(99), "c".into(), "d".into()],
            ..ranking
        };
        let mut too_long = TooLong::default();
        let mut fitting = |ranking: &Ranking| {
            let encoded = Fitting::new(&chat, ranking, 60).unwrap();
            let row = Encoded {
                row: ranking.clone(),
                encoded,
            };
            let fitting = too_long.keep(vec![row], |fits| fits.left_out);
            let fitting: Vec<Fitting> = fitting.into_iter().map(|(_, fits)| fits).collect();
            (fitting, (too_long.responses, too_long.rows))
        };
        let (fits, counts) = fitting(&long);
        assert_eq!(counts, (1, 0));
        assert_eq!(fits[0].responses.len(), 3);
        assert_eq!(fits[0].ranking.pairs().len(), 2);
        let pair = Ranking::pair(long.prompt, "a", "b".repeat(99));
        let (fits, counts) = fitting(&pair);
        assert!(fits.is_empty());
        assert_eq!(counts, (1, 1));
    }
}
