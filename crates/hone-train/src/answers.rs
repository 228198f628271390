//! A model's own answers to prompts, to look at.

use std::sync::Arc;

use hone_compute::{Engine, Packing, SamplingParameters};
use hone_data::Message;
use hone_generate::{Completion, FinishReason, Generator, GeneratorOptions, Request};
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
    pub fn answers(&self, engine: &Engine, (model, chat): (&mut Transformer, &Chat), step: u64) -> Result<Vec<Sample>> {
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
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let completions = sampled(engine, model, &requests)?;
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

/// Samples from a model between its training steps. Where those leave no weight in packed form, this neither does, and idle
/// memory goes back before and after, so that a run needs no more for it than for its steps.
fn sampled(engine: &Engine, model: &mut Transformer, requests: &[Request]) -> Result<Vec<Completion>> {
    let for_a_while = model.parameters().packing() == Packing::ForAWhile;
    if for_a_while {
        engine.release_idle_memory();
    }
    let completions = Generator::new(engine, model, GeneratorOptions::default()).run(requests);
    if for_a_while {
        model.parameters_mut().drop_packed();
        engine.release_idle_memory();
    }
    Ok(completions?)
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

#[cfg(test)]
mod tests {
    use hone_compute::EngineOptions;

    use super::*;
    use crate::learner::Learner;
    use crate::learner::tests::{Kind, learner, packed_bytes, rehearsal, step};

    fn sample(engine: &Engine, learner: &mut Learner) -> usize {
        let request = |i: u32| Request {
            prompt: (i..i + 9).collect(),
            sampling: SamplingParameters::default(),
            key: Key::new(1, "answers", u64::from(i)),
            max_new_tokens: 5,
            stop_tokens: Arc::from([]),
            stop_texts: None,
        };
        let requests: Vec<Request> = (1..4).map(request).collect();
        sampled(engine, &mut learner.model, &requests).unwrap().len()
    }

    #[test]
    fn samples_between_steps_leave_no_packed_form() {
        for kind in [Kind::Tied, Kind::Untied, Kind::Lora] {
            let engine = rehearsal();
            let mut learner = learner(&engine, kind);
            // Frozen weights are this one's, too
            let _best = learner.model.duplicate();
            step(&engine, &mut learner, 2);
            assert!(engine.idle_bytes() > 0);
            assert_eq!(sample(&engine, &mut learner), 3);
            let after = engine.account().unwrap();
            assert_eq!((after.now.packed, after.now.pages, engine.idle_bytes()), (0, 0, 0));
            // Where steps keep forms, these stay
            step(&engine, &mut learner, 3);
            let kept = packed_bytes(&engine);
            sample(&engine, &mut learner);
            assert!(kept > 0);
            assert_eq!(packed_bytes(&engine), kept);
        }
    }

    #[test]
    fn a_look_changes_no_number_of_the_next_step() {
        let engine = Engine::new(&EngineOptions::default()).unwrap();
        let run = |looks: bool| {
            let mut learner = learner(&engine, Kind::Untied);
            let first = step(&engine, &mut learner, 1);
            if looks {
                sample(&engine, &mut learner);
            }
            (first, step(&engine, &mut learner, 2), step(&engine, &mut learner, 3))
        };
        assert!(run(true) == run(false));
    }
}
