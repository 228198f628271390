//! The reference: what the model that a run starts from gives to every response, computed once.

use std::time::{Duration, Instant};

use hone_compute::Engine;
use hone_generate::logprobs_from;
use hone_model::Transformer;
use hone_objective::preference::response_logprobs;

use super::batch::Example;
use crate::error::Result;
use crate::job::Job;
use crate::learner::Learner;
use crate::text::Answered;

/// Log-probabilities of responses under the reference, summed over each response.
#[derive(Default)]
pub(super) struct Reference {
    /// Of the responses of each example, by its number; empty for methods without a reference.
    responses: Vec<Vec<f64>>,
    /// Of its mismatched ones likewise.
    mismatched: Vec<Vec<f64>>,
}

/// Examples between two looks at the clock; sums do not depend on it.
const BLOCK: usize = 32;
/// Time between two messages.
const NEWS: Duration = Duration::from_secs(5);

impl Reference {
    /// Of `examples` in the order of their numbers, from the model that a learner has before its first step: a model that
    /// learns decides whether its weights stay in packed form. `news` hears how many are done after every block.
    pub fn new(
        engine: &Engine,
        learner: &Learner,
        examples: &[&Example],
        mut news: impl FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let mut reference = Self::default();
        for block in examples.chunks(BLOCK) {
            news(reference.responses.len())?;
            let all = block.iter().flat_map(|e| e.responses.iter().chain(&e.mismatched));
            let mut sums = summed(engine, &learner.model, &all.collect::<Vec<_>>())?.into_iter();
            for example in block {
                reference
                    .responses
                    .push(sums.by_ref().take(example.responses.len()).collect());
                reference
                    .mismatched
                    .push(sums.by_ref().take(example.mismatched.len()).collect());
            }
        }
        Ok(reference)
    }

    /// The same for a run, which tells how far it is and can be stopped.
    pub fn computed(job: &Job, engine: &Engine, learner: &Learner, examples: &[&Example]) -> Result<Self> {
        let (started, mut told) = (Instant::now(), Instant::now());
        Self::new(engine, learner, examples, |done| {
            job.check_stop()?;
            if told.elapsed() >= NEWS && done > 0 {
                told = Instant::now();
                let (all, spent) = (examples.len(), started.elapsed().as_secs_f64());
                let left = spent * (all - done) as f64 / done as f64;
                job.message(format!(
                    "reference: {done} of {all} prompts done, about {left:.0} s left"
                ));
            }
            Ok(())
        })
    }

    /// Of an example's responses, `[k]`; empty for methods without a reference.
    pub fn of(&self, example: &Example) -> &[f64] {
        self.responses.get(example.number).map_or(&[], Vec::as_slice)
    }

    /// Of its mismatched responses.
    pub fn of_mismatched(&self, example: &Example) -> &[f64] {
        self.mismatched.get(example.number).map_or(&[], Vec::as_slice)
    }
}

/// The log-probability of each response after its prompt, in nats.
pub(super) fn summed(engine: &Engine, model: &Transformer, responses: &[&Answered]) -> Result<Vec<f64>> {
    let logprobs = token_logprobs(engine, model, responses);
    let lengths: Vec<usize> = responses.iter().map(|r| r.response_tokens).collect();
    Ok(response_logprobs(&logprobs, &vec![true; logprobs.len()], &lengths)?)
}

/// The log-probability of each token of each response, one after another, `[t]`.
pub(super) fn token_logprobs(engine: &Engine, model: &Transformer, responses: &[&Answered]) -> Vec<f32> {
    let sequences: Vec<&[u32]> = responses.iter().map(|r| r.ids.as_slice()).collect();
    let from: Vec<usize> = responses.iter().map(|r| r.ids.len() - r.response_tokens).collect();
    let scores = logprobs_from(engine, model, (&sequences, &from), 1.0);
    scores.into_iter().flat_map(|scores| scores.logprobs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::tests::{Kind, learner, packed_bytes, rehearsal};
    use crate::preferred::Judgement;

    #[test]
    fn the_reference_of_a_learner_leaves_no_packed_form() {
        for kind in [Kind::Tied, Kind::Untied, Kind::Lora] {
            let engine = rehearsal();
            let learner = learner(&engine, kind);
            let answer = |first: u32| Answered {
                ids: (first..first + 12).collect(),
                response_tokens: 5,
            };
            let example = Example {
                number: 0,
                responses: vec![answer(1), answer(7)],
                judgement: Judgement::Pairs(vec![(0, 1)]),
                mismatched: vec![answer(20)],
            };
            let reference = Reference::new(&engine, &learner, &[&example], |_| Ok(())).unwrap();
            let counts = (reference.of(&example).len(), reference.of_mismatched(&example).len());
            assert_eq!(counts, (2, 1), "{kind:?}");
            assert_eq!(packed_bytes(&engine), 0, "{kind:?}");
        }
    }
}
