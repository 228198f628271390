//! Demonstrations as tokens with their targets.

use hone_data::{Demonstration, Source, TokenExample, for_each_demonstration};
use hone_text::{Chat, TrainedTurns};

use super::config::{SftConfig, SftData, Turns};
use crate::error::Result;
use crate::job::Job;
use crate::mixture::{Encoded, Mixture, SourceItems, encoding, load_split, tell_split};
use crate::text::conversation;

/// All sources, and what is held out of them.
pub(super) struct Examples {
    pub train: Mixture<TokenExample>,
    pub held_out: Vec<TokenExample>,
    /// Held-out conversations as they are, for samples.
    pub held_out_demonstrations: Vec<Demonstration>,
}

impl Examples {
    /// Reads and tokenises the demonstrations.
    pub fn load(job: &Job, c: &SftConfig, chat: &Chat) -> Result<Self> {
        let data = &c.data;
        let (mut sources, mut held_out, mut held_out_demonstrations) = (Vec::new(), Vec::new(), Vec::new());
        let turns = match data.turns {
            Turns::All => TrainedTurns::All,
            Turns::Last => TrainedTurns::Last,
        };
        let load = |source: &Source| {
            encoding(source, for_each_demonstration, |row| {
                conversation(chat, &row.messages, turns)
            })
        };
        for split in load_split(job, (&data.train, data.held_out), "demonstrations.jsonl", load)? {
            let (name, source) = (split.name, split.source);
            let mut too_long = 0;
            let (mut train, before) = (Vec::new(), held_out.len());
            for Encoded { encoded, .. } in split.train {
                keep(encoded, data, &mut train, &mut too_long);
            }
            for Encoded { row, encoded } in split.held_out {
                keep(encoded, data, &mut held_out, &mut too_long);
                held_out_demonstrations.push(row);
            }
            if too_long > 0 {
                let limit = data.max_length;
                job.message(format!(
                    "{name}: {too_long} conversations longer than {limit} tokens dropped"
                ));
            }
            let counts = (train.len(), held_out.len() - before);
            tell_split(job, &name, counts, "conversations");
            sources.push(SourceItems::new(name, &source, train)?);
        }
        Ok(Self {
            train: Mixture::new(sources, c.train.seed)?,
            held_out,
            held_out_demonstrations,
        })
    }
}

fn keep(example: TokenExample, data: &SftData, kept: &mut Vec<TokenExample>, too_long: &mut usize) {
    if example.ids.len() > data.max_length {
        *too_long += 1;
    } else {
        kept.push(example);
    }
}
