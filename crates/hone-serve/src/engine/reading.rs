//! Texts that are read: many short ones in one pass.

use std::collections::VecDeque;

use hone_compute::Engine;
use hone_generate::{embeddings_of, ranked_of};

use crate::engine::{Answer, Failure, Question, Reading};
use crate::models::{Served, Weights};

/// Tokens read at once where nothing is being sampled.
pub(super) const ALONE: usize = 4096;
/// Tokens read at once between two steps of sequences that are being sampled; one text may be longer.
pub(super) const BETWEEN: usize = 512;

/// Reads the next texts that go into one pass of at most so many tokens and answers them. What a text gives does not depend
/// on those beside it.
pub(super) fn read_pack(engine: &Engine, models: &[&Served], waiting: &mut VecDeque<Reading>, most: usize) {
    let Some(pack) = next_pack(waiting, most) else { return };
    let served = models[pack[0].model];
    match answer(engine, served, &pack) {
        Ok(answers) => {
            for (reading, answer) in pack.into_iter().zip(answers) {
                let _ = reading.reply.send(Ok(answer));
            }
        }
        // One that cannot be read fails alone
        Err(_) => {
            for reading in pack {
                let alone = answer(engine, served, std::slice::from_ref(&reading));
                let alone = alone.map(|mut answers| answers.pop());
                let missing = || Failure::Because("the text gave no answer".into());
                let _ = reading.reply.send(alone.and_then(|answer| answer.ok_or_else(missing)));
            }
        }
    }
}

/// Texts for one model with questions of one kind, whose clients are still there; none if there is none.
fn next_pack(waiting: &mut VecDeque<Reading>, most: usize) -> Option<Vec<Reading>> {
    // Those that nobody waits for hold no place
    waiting.retain(|reading| !reading.reply.is_closed());
    let mut pack: Vec<Reading> = Vec::new();
    let mut tokens = 0;
    while let Some(next) = waiting.front() {
        let fits = pack.first().is_none_or(|first| {
            first.model == next.model && first.question.is_like(next.question) && tokens + next.ids.len() <= most
        });
        if !fits {
            break;
        }
        tokens += next.ids.len();
        pack.extend(waiting.pop_front());
    }
    (!pack.is_empty()).then_some(pack)
}

fn answer(engine: &Engine, served: &Served, pack: &[Reading]) -> Result<Vec<Answer>, Failure> {
    let because = |reason: String| Failure::Because(reason);
    let sequences: Vec<&[u32]> = pack.iter().map(|reading| &*reading.ids).collect();
    let sequences = sequences.as_slice();
    match pack[0].question {
        Question::Ranked(_) => {
            let count = |reading: &Reading| match reading.question {
                Question::Ranked(count) => count,
                _ => 0,
            };
            let counts: Vec<usize> = pack.iter().map(count).collect();
            let ranked = ranked_of(engine, served.transformer(), (sequences, &counts));
            let ranked = ranked.map_err(|error| Failure::of(&error))?;
            Ok(ranked.into_iter().map(Answer::Ranked).collect())
        }
        Question::Score => {
            let Weights::Reward(scorer) = &served.weights else {
                return Err(because(format!("`{}` is not a reward model", served.name)));
            };
            let scores = scorer.score_tokens(engine, sequences);
            let scores = scores.map_err(|error| because(error.to_string()))?;
            Ok(scores.into_iter().map(Answer::Score).collect())
        }
        Question::Embedding => {
            let embeddings = embeddings_of(engine, served.transformer(), sequences);
            Ok(embeddings.into_iter().map(Answer::Embedding).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hone_compute::{EngineOptions, Isa, Precision};
    use hone_model::{NewModel, Transformer};
    use hone_text::{TrainOptions, train_bpe};
    use tokio::sync::{Semaphore, oneshot};

    use super::*;
    use crate::models::ServedModel;

    /// A model that knows nothing of token 7.
    fn served(engine: &Engine) -> Served {
        let options = TrainOptions {
            vocab_size: 280,
            ..TrainOptions::default()
        };
        let tokenizer = train_bpe(["the quick brown fox".repeat(3)].into_iter(), &options).expect("a tokenizer");
        let shape = NewModel {
            family: "llama".into(),
            width: 32,
            layers: 1,
            heads: 2,
            kv_heads: None,
            head_dim: None,
            intermediate: Some(32),
            context: 64,
            tied: false,
            rope_theta: 10_000.0,
        };
        let mut model = Transformer::random(engine, shape.architecture(tokenizer.vocab_size()).expect("a shape"), 1);
        let parameters = model.parameters().iter();
        let embedding = parameters
            .filter(|(_, p)| p.name().contains("embed"))
            .map(|(id, _)| id)
            .next();
        let embedding = embedding.expect("an embedding");
        let mut numbers = engine.read(model.parameters().get(embedding).value());
        numbers[7 * 32..8 * 32].fill(f32::NAN);
        model.parameters_mut().set(engine, embedding, &numbers);
        let served = Served::new(ServedModel {
            name: "m".into(),
            parent: None,
            model,
            tokenizer,
        });
        served.expect("a model")
    }

    #[test]
    fn a_text_that_cannot_be_read_fails_alone_and_frees_its_place() {
        let options = EngineOptions {
            isa: Some(Isa::Portable),
            precision: Precision::F32,
            threads: Some(1),
        };
        let engine = Engine::new(&options).expect("an engine");
        let served = served(&engine);
        let models = [&served];
        let places = Arc::new(Semaphore::new(4));
        let mut waiting = VecDeque::new();
        let mut read = |texts: &[&[u32]]| {
            let mut replies = Vec::new();
            for ids in texts {
                let (reply, answer) = oneshot::channel();
                let place = Arc::clone(&places).try_acquire_owned().expect("a place");
                waiting.push_back(Reading {
                    model: 0,
                    question: Question::Ranked(2),
                    ids: (*ids).into(),
                    reply,
                    _place: Arc::new(place),
                });
                replies.push(answer);
            }
            // One that nobody waits for is left out
            drop(replies.pop());
            read_pack(&engine, &models, &mut waiting, BETWEEN);
            assert!(
                waiting.is_empty() && places.available_permits() == 4,
                "one pack, and places are free"
            );
            let answers = replies
                .into_iter()
                .map(|mut answer| answer.try_recv().expect("an answer"));
            answers.collect::<Vec<_>>()
        };
        let alone = read(&[&[5, 6, 8], &[1]]);
        let beside = read(&[&[5, 7, 8], &[5, 6, 8], &[1]]);
        assert!(
            matches!(&beside[0], Err(Failure::Because(reason)) if reason.contains("diverged")),
            "{:?}",
            beside[0]
        );
        assert!(alone[0].is_ok() && beside[1] == alone[0]);
    }
}
