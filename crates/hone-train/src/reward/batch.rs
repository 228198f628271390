//! Rankings as tokens, and the batches of them.

use std::sync::Arc;

use hone_data::{Message, Ranking, Source, for_each_demonstration, for_each_ranking};
use hone_model::SharedPrefixes;
use hone_objective::bradley_terry::Comparison;
use hone_text::Chat;

use super::config::{RewardConfig, RewardData};
use crate::error::{Result, TrainError};
use crate::job::Job;
use crate::mixture::{Mixture, SourceItems, encoding, load_items, load_split, tell_split};
use crate::rankings::{Fitting, TooLong};
use crate::sections::resolved;
use crate::text::{Answered, answered};

/// One prompt's responses, and how they were ranked.
#[derive(Clone, Debug)]
pub(super) struct RankedExample {
    pub responses: Vec<Answered>,
    pub comparison: Comparison,
}

/// A held-out ranking, also as text.
pub(super) struct HeldOutRanking {
    pub example: RankedExample,
    pub ranking: Ranking,
}

/// All sources, and what is held out of them.
pub(super) struct Rankings {
    pub train: Mixture<RankedExample>,
    pub held_out: Vec<HeldOutRanking>,
}

impl RankedExample {
    /// Tokens of all responses with their prompts.
    pub fn tokens(&self) -> usize {
        self.responses.iter().map(|r| r.ids.len()).sum()
    }

    /// Rows that they take: what they begin with is there once.
    pub fn rows(&self) -> usize {
        SharedPrefixes::rows_of(&self.sequences())
    }

    fn sequences(&self) -> Vec<&[u32]> {
        self.responses.iter().map(|response| &*response.ids).collect()
    }

    /// The responses that none is preferred to.
    pub fn best(&self) -> impl Iterator<Item = &Answered> {
        let mut beaten = vec![false; self.responses.len()];
        for pair in self.comparison.ranking.strict_pairs() {
            beaten[pair.worse] = true;
        }
        self.responses
            .iter()
            .zip(beaten)
            .filter(|(_, beaten)| !beaten)
            .map(|(response, _)| response)
    }
}

fn ranked(fits: Fitting) -> Result<HeldOutRanking> {
    let comparison = comparison(&fits.ranking)?;
    let Fitting { responses, ranking, .. } = fits;
    Ok(HeldOutRanking {
        example: RankedExample { responses, comparison },
        ranking,
    })
}

/// The ranking as the loss takes it. A margin between two groups that are not neighbours is the sum of those between.
fn comparison(ranking: &Ranking) -> Result<Comparison> {
    let order = hone_objective::bradley_terry::Ranking::from_groups(&ranking.groups, ranking.responses.len())?;
    let margins = ranking.margins.as_ref().map(|steps| {
        let mut rank = vec![0; ranking.responses.len()];
        for (r, group) in ranking.groups.iter().enumerate() {
            for &response in group {
                rank[response] = r;
            }
        }
        order
            .strict_pairs()
            .map(|pair| steps[rank[pair.better]..rank[pair.worse]].iter().sum::<f64>() as f32)
            .collect()
    });
    Ok(Comparison {
        ranking: order,
        margins,
    })
}

impl Rankings {
    /// Reads and tokenises the rankings.
    pub fn load(job: &Job, c: &RewardConfig, chat: &Chat) -> Result<Self> {
        let data = &c.data;
        let (mut sources, mut held_out) = (Vec::new(), Vec::new());
        let load = |source: &Source| encoding(source, for_each_ranking, |row| Fitting::new(chat, row, data.max_length));
        for split in load_split(job, (&data.train, data.held_out), "rankings.jsonl", load)? {
            let mut too_long = TooLong::default();
            let left_out = |fits: &Fitting| fits.left_out;
            let train = too_long.keep(split.train, left_out).into_iter();
            let train = train.map(|(_, fits)| Ok(ranked(fits)?.example));
            let train = train.collect::<Result<Vec<_>>>()?;
            let before = held_out.len();
            for (_, fits) in too_long.keep(split.held_out, left_out) {
                held_out.push(ranked(fits)?);
            }
            too_long.tell(job, &split.name, (data.max_length, "rankings"));
            let counts = (train.len(), held_out.len() - before);
            tell_split(job, &split.name, counts, "rankings");
            sources.push(SourceItems::new(split.name, &split.source, train)?);
        }
        Ok(Self {
            train: Mixture::new(sources, c.train.seed)?,
            held_out,
        })
    }
}

/// The conversations whose mean score becomes 0.
pub(super) fn centre(job: &Job, c: &RewardConfig, rankings: &Rankings, chat: &Chat) -> Result<Vec<Vec<u32>>> {
    let Some(sources) = &c.reward.centre_on else {
        return Ok(rankings
            .train
            .items()
            .flat_map(RankedExample::best)
            .map(|r| r.ids.clone())
            .collect());
    };
    let mut conversations = Vec::new();
    for source in resolved(sources, &job.base) {
        if source.weight != 1.0 {
            let reason = format!(
                "has a source of weight {}; every demonstration counts once here, so leave weight out",
                source.weight
            );
            return Err(TrainError::setting("reward.centre_on", reason));
        }
        let load = |source: &Source| {
            encoding(source, for_each_demonstration, |row| {
                demonstration(chat, &row.messages, &c.data)
            })
        };
        let (name, rows) = load_items(job, &source, load)?;
        let (before, count) = (conversations.len(), rows.len());
        conversations.extend(rows.into_iter().filter_map(|row| row.encoded));
        let too_long = count - (conversations.len() - before);
        if too_long > 0 {
            let limit = c.data.max_length;
            job.message(format!(
                "{name}: {too_long} of {count} demonstrations to centre on are longer than {limit} tokens and dropped"
            ));
        }
    }
    if conversations.is_empty() {
        let reason = format!(
            "has no demonstration of at most data.max_length = {} tokens",
            c.data.max_length
        );
        return Err(TrainError::setting("reward.centre_on", reason));
    }
    Ok(conversations)
}

fn demonstration(chat: &Chat, turns: &[Message], data: &RewardData) -> Result<Option<Vec<u32>>> {
    let Some((reply, before)) = turns.split_last() else {
        return Ok(None);
    };
    let encoded = answered(chat, before, &reply.content)?;
    Ok((encoded.ids.len() <= data.max_length).then_some(encoded.ids))
}

/// Rankings side by side: every response with its prompt is a sequence, and the score is read at its last token. What the
/// responses of a ranking begin with, as a rule the prompt, is there once.
pub(super) struct RankingBatch {
    pub sequences: SharedPrefixes,
    /// The last row of each response.
    pub ends: Arc<[u32]>,
    pub comparisons: Vec<Comparison>,
}

impl RankingBatch {
    pub fn new(examples: &[&RankedExample]) -> Self {
        let groups: Vec<Vec<&[u32]>> = examples.iter().map(|example| example.sequences()).collect();
        let sequences = SharedPrefixes::of_groups(groups.iter().map(Vec::as_slice));
        let ends = groups.iter().flatten().enumerate();
        let ends = ends.map(|(i, ids)| sequences.row(i, ids.len() - 1)).collect();
        Self {
            sequences,
            ends,
            comparisons: examples.iter().map(|e| e.comparison.clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_between_groups_add_up() {
        let ranking = Ranking {
            prompt: vec![Message::user("q")],
            responses: ["a", "b", "c", "d"].map(String::from).to_vec(),
            groups: vec![vec![2], vec![0, 3], vec![1]],
            margins: Some(vec![1.5, 0.25]),
        };
        let comparison = comparison(&ranking).unwrap();
        // pairs by index: 0-1 (0 better), 0-2 (2 better), 0-3 tied, 1-2 (2 better), 1-3 (3 better), 2-3 (2 better)
        assert_eq!(comparison.margins, Some(vec![0.25, 1.5, 1.75, 0.25, 1.5]));
        assert_eq!(comparison.ranking.strict_pairs().count(), 5);
    }

    #[test]
    fn the_best_are_those_of_the_first_group() {
        let response = |id| Answered {
            ids: vec![id; 2],
            response_tokens: 1,
        };
        let order = hone_objective::bradley_terry::Ranking::from_groups(&[vec![1, 2], vec![0]], 3).unwrap();
        let example = RankedExample {
            responses: vec![response(5), response(6), response(7)],
            comparison: Comparison {
                ranking: order,
                margins: None,
            },
        };
        assert_eq!(example.best().map(|r| r.ids[0]).collect::<Vec<_>>(), [6, 7]);
        let batch = RankingBatch::new(&[&example, &example]);
        assert_eq!(&*batch.ends, &[1, 3, 5, 7, 9, 11]);
        assert_eq!(example.tokens(), 6);
    }
}
