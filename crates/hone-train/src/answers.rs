//! A model's own answers to prompts, to look at.

use std::sync::Arc;

use hone_compute::{Engine, SamplingParameters};
use hone_data::Message;
use hone_generate::{FinishReason, Generator, GeneratorOptions, Request};
use hone_math::Key;
use hone_model::Transformer;
use hone_run::Sample;
use hone_text::{Chat, SkipSpecial};
use serde_json::{Map, Value};

use crate::error::Result;
use crate::text::messages;

/// Prompts to be answered.
pub(crate) struct Asked<'a> {
    /// Each up to the reply.
    pub prompts: &'a [Vec<Message>],
    pub seed: u64,
    pub max_new_tokens: usize,
}

impl Asked<'_> {
    /// An answer to each prompt that leaves room for one, sampled at temperature 1. `step` is that of the run.
    pub fn answers(&self, engine: &Engine, (model, chat): (&Transformer, &Chat), step: u64) -> Result<Vec<Sample>> {
        let stop: Arc<[u32]> = chat.stop_ids()?.into();
        let key = Key::new(self.seed, "eval samples", step);
        let (mut requests, mut prompts) = (Vec::new(), Vec::new());
        for (i, before) in self.prompts.iter().enumerate() {
            let prompt: Arc<[u32]> = chat.prompt_ids(&messages(before))?.into();
            if prompt.len() >= model.architecture().context {
                continue;
            }
            requests.push(Request {
                prompt,
                sampling: SamplingParameters::default(),
                key: key.child(i as u64),
                max_new_tokens: self.max_new_tokens,
                stop_tokens: Arc::clone(&stop),
                stop_texts: None,
            });
            prompts.push(before.last().map_or_else(String::new, |m| m.content.clone()));
        }
        let completions = Generator::new(engine, model, GeneratorOptions::default()).run(&requests)?;
        let mut samples = Vec::new();
        for (prompt, completion) in prompts.into_iter().zip(completions) {
            let response = chat.tokenizer().decode(&completion.ids, SkipSpecial::Yes)?;
            let mut extra = Map::new();
            extra.insert("tokens".into(), completion.ids.len().into());
            let ended = completion.finish == FinishReason::Stop;
            extra.insert("ended".into(), Value::from(f64::from(u8::from(ended))));
            samples.push(Sample {
                step,
                prompt,
                response,
                score: None,
                kl: None,
                extra,
            });
        }
        Ok(samples)
    }
}

/// Mean length of some answers in tokens, and the share that ended by themselves; at least one answer.
pub(crate) fn mean_figures(samples: &[Sample]) -> [(&'static str, f64); 2] {
    let count = samples.len() as f64;
    let field = |key: &str| samples.iter().filter_map(|s| s.extra.get(key)?.as_f64()).sum::<f64>() / count;
    [
        ("completions/mean_length", field("tokens")),
        ("completions/ended", field("ended")),
    ]
}
