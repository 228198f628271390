//! Prompts of a run, in the order of their use.

use std::sync::Arc;

use hone_data::{MixtureOrder, Prompt, Source, for_each_prompt, hold_out};
use hone_text::{Chat, Tokenizer};

use super::sections::{PromptData, RolloutSettings};
use crate::checked::refuse_no_source;
use crate::error::{Result, TrainError};
use crate::job::Job;
use crate::mixture::{Encoded, encoding, load_items, tell_split};
use crate::plan::SourcePlan;
use crate::sections::resolved;
use crate::text::prompt_ids;

/// A prompt with its tokens.
#[derive(Clone)]
pub(crate) struct PreparedPrompt {
    pub prompt: Prompt,
    pub ids: Arc<[u32]>,
}

/// All prompts of all sources.
pub(crate) struct Prompts {
    /// The configuration's.
    key: &'static str,
    sources: Vec<Vec<PreparedPrompt>>,
    names: Vec<String>,
    /// Of each source in the mixture.
    weights: Vec<f64>,
    order: MixtureOrder,
    seed: u64,
}

impl Prompts {
    /// Reads and tokenises the prompts.
    pub fn load(
        job: &Job,
        (key, data): (&'static str, &PromptData),
        (tokenizer, chat): (&Tokenizer, Option<&Chat>),
        seed: u64,
    ) -> Result<Self> {
        refuse_no_source(key, &data.prompts, "prompts.jsonl")?;
        let (mut sources, mut names, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for source in resolved(&data.prompts, &job.base) {
            let load = |source: &Source| {
                encoding(source, for_each_prompt, |prompt| {
                    prompt_ids(tokenizer, chat, &prompt.input)
                })
            };
            let (name, items) = load_items(job, &source, load)?;
            let split = hold_out(items, data.held_out)?;
            let (mut prepared, mut too_long) = (Vec::new(), 0);
            for Encoded {
                row: prompt,
                encoded: ids,
            } in split.train
            {
                if ids.len() > data.longest_prompt() {
                    too_long += 1;
                } else {
                    prepared.push(PreparedPrompt {
                        prompt,
                        ids: ids.into(),
                    });
                }
            }
            if too_long > 0 {
                let path = source.path.display();
                job.message(format!(
                    "{path}: {too_long} prompts longer than {} tokens dropped",
                    data.longest_prompt()
                ));
            }
            tell_split(job, &name, (prepared.len(), split.held_out.len()), "prompts");
            if prepared.is_empty() {
                let hint = "raise data.max_prompt_length, or lower data.held_out".into();
                return Err(TrainError::NoData {
                    what: format!("{key}: {}", source.path.display()),
                    hint,
                });
            }
            weights.push(source.weight * prepared.len() as f64);
            sources.push(prepared);
            names.push(name);
        }
        let counts: Vec<usize> = sources.iter().map(Vec::len).collect();
        Ok(Self {
            key,
            order: MixtureOrder::new(&counts, &weights, seed)?,
            sources,
            names,
            weights,
            seed,
        })
    }

    /// At most so many of them: the first of each source, as many as its share of the mixture is, where it has them.
    ///
    /// # Errors
    /// As [`MixtureOrder::new`].
    pub fn first(self, limit: usize) -> Result<Self> {
        let counts: Vec<usize> = self.sources.iter().map(Vec::len).collect();
        let taken = shared(&counts, &self.weights, limit);
        let (mut sources, mut names, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let all = self.sources.into_iter().zip(self.names).zip(self.weights);
        for (((mut prompts, name), weight), &count) in all.zip(&taken).filter(|(_, count)| **count > 0) {
            prompts.truncate(count);
            sources.push(prompts);
            names.push(name);
            weights.push(weight);
        }
        let counts: Vec<usize> = sources.iter().map(Vec::len).collect();
        Ok(Self {
            key: self.key,
            order: MixtureOrder::new(&counts, &weights, self.seed)?,
            sources,
            names,
            weights,
            seed: self.seed,
        })
    }

    /// The sources, and how many prompts each has.
    pub fn counts(&self) -> impl Iterator<Item = (&str, usize)> {
        let sources = self.names.iter().zip(&self.sources);
        sources.map(|(name, prompts)| (name.as_str(), prompts.len()))
    }

    /// The key of the configuration that names them.
    pub fn key(&self) -> &'static str {
        self.key
    }

    /// Tokens of the longest prompt.
    pub fn longest(&self) -> usize {
        let lengths = self.sources.iter().flatten().map(|prompt| prompt.ids.len());
        lengths.max().unwrap_or(0)
    }

    /// All prompts, each with the name of its source.
    pub fn all(&self) -> impl Iterator<Item = (&str, &PreparedPrompt)> {
        let sources = self.names.iter().zip(&self.sources);
        sources.flat_map(|(name, prompts)| prompts.iter().map(move |prompt| (name.as_str(), prompt)))
    }

    /// The first prompt of each source.
    pub fn first_of_each_source(&self) -> impl Iterator<Item = &PreparedPrompt> {
        self.sources.iter().filter_map(|prompts| prompts.first())
    }

    /// The sources, and how often `draws` prompts pass over each.
    pub fn planned(&self, draws: u64) -> Vec<SourcePlan> {
        let progress = self.order.progress(draws);
        let sources = self.names.iter().zip(&self.sources).zip(progress);
        sources
            .map(|((name, prompts), progress)| SourcePlan {
                name: name.clone(),
                items: prompts.len() as u64,
                unit: "prompts",
                epochs: progress.epochs,
            })
            .collect()
    }

    /// The prompts of a rollout, each as often as it is answered.
    pub fn rollout(&self, update: u64, settings: &RolloutSettings) -> Vec<&PreparedPrompt> {
        let draws = self.order.batch(update, settings.prompts());
        let prompts = draws.into_iter().map(|draw| &self.sources[draw.source][draw.item]);
        prompts
            .flat_map(|prompt| std::iter::repeat_n(prompt, settings.samples_per_prompt))
            .collect()
    }
}

/// So many things shared out among sources of so many, by weights, after Sainte-Laguë: the next is of the source whose quotient of weight
/// and 2 x taken + 1 is greatest, of equal ones the first.
pub fn shared(counts: &[usize], weights: &[f64], limit: usize) -> Vec<usize> {
    let mut taken = vec![0; counts.len()];
    for _ in 0..limit {
        let open = (0..counts.len()).filter(|&source| taken[source] < counts[source] && weights[source] > 0.0);
        let behind = |&source: &usize| (2 * taken[source] + 1) as f64 / weights[source];
        let Some(next) = open.min_by(|a, b| behind(a).total_cmp(&behind(b))) else {
            break;
        };
        taken[next] += 1;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_give_their_shares() {
        assert_eq!(shared(&[100], &[1.0], 7), [7]);
        assert_eq!(shared(&[100, 100], &[1.0, 1.0], 7), [4, 3]);
        assert_eq!(shared(&[100, 100], &[3.0, 1.0], 8), [6, 2]);
        // What one has no more of, another gives; what has no weight is not asked
        assert_eq!(shared(&[2, 100, 100], &[3.0, 1.0, 0.0], 8), [2, 6, 0]);
        assert_eq!(shared(&[2, 3], &[1.0, 9.0], 8), [2, 3]);
    }
}
