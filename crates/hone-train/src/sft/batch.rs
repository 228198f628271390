//! Demonstrations as tokens with their targets.

use hone_data::{Demonstration, TokenExample, load_demonstrations};
use hone_text::{Chat, TrainedTurns};

use super::config::{SftConfig, SftData, Turns};
use crate::encode::encode_all;
use crate::error::Result;
use crate::job::Job;
use crate::mixture::{Mixture, load_split, tell_split};
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
        for split in load_split(
            job,
            (&data.train, data.held_out),
            "demonstrations.jsonl",
            load_demonstrations,
        )? {
            let mut too_long = 0;
            let mut encode = |rows: &[Demonstration]| encode(job, &split.name, rows, (chat, data, &mut too_long));
            let (train, held) = (encode(&split.train)?, encode(&split.held_out)?);
            if too_long > 0 {
                let limit = data.max_length;
                job.message(format!(
                    "{}: {too_long} conversations longer than {limit} tokens dropped",
                    split.name
                ));
            }
            tell_split(job, &split.name, (train.len(), held.len()), "conversations");
            held_out.extend(held);
            sources.push(split.with_items(train)?);
            held_out_demonstrations.extend(split.held_out);
        }
        Ok(Self {
            train: Mixture::new(sources, c.train.seed)?,
            held_out,
            held_out_demonstrations,
        })
    }
}

fn encode(
    job: &Job,
    name: &str,
    rows: &[Demonstration],
    (chat, data, too_long): (&Chat, &SftData, &mut usize),
) -> Result<Vec<TokenExample>> {
    let turns = match data.turns {
        Turns::All => TrainedTurns::All,
        Turns::Last => TrainedTurns::Last,
    };
    let mut examples = Vec::with_capacity(rows.len());
    let take = |_: &Demonstration, example: TokenExample| {
        if example.ids.len() > data.max_length {
            *too_long += 1;
        } else {
            examples.push(example);
        }
        Ok(())
    };
    encode_all(job, name, rows, |row| conversation(chat, &row.messages, turns), take)?;
    Ok(examples)
}
