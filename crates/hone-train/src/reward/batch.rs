//! Rankings as tokens, and the batches of them.

use std::sync::Arc;

use hone_compute::Layout;
use hone_data::{Message, Ranking, Source, for_each_demonstration, for_each_ranking};
use hone_objective::bradley_terry::Comparison;
use hone_text::Chat;

use super::config::{RewardConfig, RewardData};
use crate::error::{Result, TrainError};
use crate::job::Job;
use crate::mixture::{Encoded, Mixture, SourceItems, encoding, load_items, load_split};
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
    /// Encodes a ranking; none if a response with its prompt is longer than `max_length`.
    pub fn new(chat: &Chat, ranking: &Ranking, max_length: usize) -> Result<Option<Self>> {
        let mut responses = Vec::with_capacity(ranking.responses.len());
        for response in &ranking.responses {
            let encoded = answered(chat, &ranking.prompt, response)?;
            if encoded.ids.len() > max_length {
                return Ok(None);
            }
            responses.push(encoded);
        }
        Ok(Some(Self {
            responses,
            comparison: comparison(ranking)?,
        }))
    }

    /// Tokens of all responses with their prompts.
    pub fn tokens(&self) -> usize {
        self.responses.iter().map(|r| r.ids.len()).sum()
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
        let load = |source: &Source| {
            encoding(source, for_each_ranking, |row| {
                RankedExample::new(chat, row, data.max_length)
            })
        };
        for split in load_split(job, (&data.train, data.held_out), "rankings.jsonl", load)? {
            let (name, source) = (split.name, split.source);
            let mut too_long = 0;
            let mut train = Vec::new();
            for Encoded { encoded, .. } in split.train {
                match encoded {
                    Some(example) => train.push(example),
                    None => too_long += 1,
                }
            }
            for Encoded { row: ranking, encoded } in split.held_out {
                match encoded {
                    Some(example) => held_out.push(HeldOutRanking { example, ranking }),
                    None => too_long += 1,
                }
            }
            if too_long > 0 {
                let limit = data.max_length;
                job.message(format!(
                    "{name}: {too_long} rankings longer than {limit} tokens dropped"
                ));
            }
            sources.push(SourceItems::new(name, &source, train)?);
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
        conversations.extend(
            load_items(job, &source, load)?
                .1
                .into_iter()
                .filter_map(|row| row.encoded),
        );
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

/// Rankings side by side: every response with its prompt is a sequence, and the score is read at its last token.
pub(super) struct RankingBatch {
    pub ids: Arc<[u32]>,
    pub layout: Layout,
    /// The last row of each response.
    pub ends: Arc<[u32]>,
    pub comparisons: Vec<Comparison>,
}

impl RankingBatch {
    pub fn new(examples: &[&RankedExample]) -> Self {
        let responses = || examples.iter().flat_map(|e| &e.responses);
        let layout = Layout::whole(&responses().map(|r| r.ids.len()).collect::<Vec<_>>());
        let ends = layout.spans().iter().map(|s| (s.row + s.length - 1) as u32).collect();
        let ids = responses().flat_map(|r| r.ids.iter().copied()).collect();
        Self {
            ids,
            layout,
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
