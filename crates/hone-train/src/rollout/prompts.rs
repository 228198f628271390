//! Prompts of a run, in the order of their use.

use std::sync::Arc;

use hone_data::{MixtureOrder, Prompt, Source, for_each_prompt, hold_out};
use hone_text::{Chat, Tokenizer};

use super::sections::{PromptData, RolloutSettings};
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
    order: MixtureOrder,
}

impl Prompts {
    /// Reads and tokenises the prompts.
    pub fn load(
        job: &Job,
        (key, data): (&'static str, &PromptData),
        (tokenizer, chat): (&Tokenizer, Option<&Chat>),
        seed: u64,
    ) -> Result<Self> {
        Self::refuse_none(key, data)?;
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
        })
    }

    /// Refuses data that name no prompts.
    ///
    /// # Errors
    /// The setting's.
    pub fn refuse_none(key: &str, data: &PromptData) -> Result<()> {
        if !data.prompts.is_empty() {
            return Ok(());
        }
        let reason = "is empty; expected at least one source, such as [\"prompts.jsonl\"]";
        Err(TrainError::setting(key, reason))
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
