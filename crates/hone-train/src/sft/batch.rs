//! Demonstrations as tokens with their targets.

use hone_data::{Demonstration, MixtureOrder, TokenExample, hold_out, load_demonstrations};
use hone_text::{Chat, TrainedTurns};

use super::config::{SftData, Turns};
use crate::error::{Result, TrainError};
use crate::job::Job;
use crate::mixture::tell_bad_rows;
use crate::sections::resolved;
use crate::text::conversation;

/// One source's examples.
pub(super) struct SourceExamples {
    pub name: String,
    pub weight: f64,
    pub train: Vec<TokenExample>,
}

/// All sources, and what is held out of them.
pub(super) struct Examples {
    pub sources: Vec<SourceExamples>,
    pub held_out: Vec<TokenExample>,
    /// Held-out conversations as they are, for samples.
    pub held_out_demonstrations: Vec<Demonstration>,
}

impl Examples {
    /// Reads and tokenises the demonstrations.
    pub fn load(job: &Job, data: &SftData, chat: &Chat) -> Result<Self> {
        if data.train.is_empty() {
            return Err(TrainError::setting(
                "data.train",
                "is empty; expected at least one source, such as [\"demonstrations.jsonl\"]",
            ));
        }
        let mut all = Self {
            sources: Vec::new(),
            held_out: Vec::new(),
            held_out_demonstrations: Vec::new(),
        };
        for source in resolved(&data.train, &job.base) {
            let name = source
                .path
                .file_name()
                .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
            let loaded = load_demonstrations(&source)?;
            tell_bad_rows(job, &name, &loaded.report);
            let split = hold_out(loaded.items, data.held_out)?;
            let mut too_long = 0;
            let train = encode(chat, &split.train, data, &mut too_long)?;
            all.held_out.extend(encode(chat, &split.held_out, data, &mut too_long)?);
            all.held_out_demonstrations.extend(split.held_out);
            if too_long > 0 {
                job.message(format!(
                    "{name}: {too_long} conversations longer than {} tokens dropped",
                    data.max_length
                ));
            }
            if train.is_empty() {
                let hint = "raise data.max_length, or lower data.held_out".into();
                return Err(TrainError::NoData {
                    what: format!("data.train: {}", source.path.display()),
                    hint,
                });
            }
            all.sources.push(SourceExamples {
                name,
                weight: source.weight,
                train,
            });
        }
        Ok(all)
    }

    /// The order of examples.
    pub fn order(&self, seed: u64) -> Result<MixtureOrder> {
        let counts: Vec<usize> = self.sources.iter().map(|s| s.train.len()).collect();
        // A weight counts an example as often as it says: equal weights pass over all sources equally fast.
        let weights: Vec<f64> = self.sources.iter().map(|s| s.weight * s.train.len() as f64).collect();
        Ok(MixtureOrder::new(&counts, &weights, seed)?)
    }

    /// Examples to train on in all sources.
    pub fn count(&self) -> usize {
        self.sources.iter().map(|s| s.train.len()).sum()
    }

    /// The examples of a step.
    pub fn batch(&self, order: &MixtureOrder, step: u64, batch: usize) -> Vec<&TokenExample> {
        order
            .batch(step, batch)
            .into_iter()
            .map(|draw| &self.sources[draw.source].train[draw.item])
            .collect()
    }
}

fn encode(chat: &Chat, rows: &[Demonstration], data: &SftData, too_long: &mut usize) -> Result<Vec<TokenExample>> {
    let turns = match data.turns {
        Turns::All => TrainedTurns::All,
        Turns::Last => TrainedTurns::Last,
    };
    let mut examples = Vec::with_capacity(rows.len());
    for row in rows {
        let example = conversation(chat, &row.messages, turns)?;
        if example.ids.len() > data.max_length {
            *too_long += 1;
        } else {
            examples.push(example);
        }
    }
    Ok(examples)
}
