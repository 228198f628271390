//! Texts that are read: many short ones in one pass.

use std::collections::VecDeque;
use std::sync::Arc;

use hone_compute::Engine;
use hone_generate::{embeddings_of, ranked_of};

use crate::engine::{Answer, Failure, Question, Reading};
use crate::models::{Served, Weights};

/// Tokens read at once, between two steps of the sequences that are being sampled.
const PACK: usize = 4096;

/// Reads the next texts that go into one pass and answers them. What a text gives does not depend on those beside it.
pub(super) fn read_pack(engine: &Engine, models: &[Arc<Served>], waiting: &mut VecDeque<Reading>) {
    let Some(pack) = next_pack(waiting) else { return };
    let sequences: Vec<&[u32]> = pack.iter().map(|reading| &*reading.ids).collect();
    let answers = answer(engine, &models[pack[0].model], &sequences, &pack);
    match answers {
        Ok(answers) => {
            for (reading, answer) in pack.into_iter().zip(answers) {
                let _ = reading.reply.send(Ok(answer));
            }
        }
        Err(failure) => {
            for reading in pack {
                let _ = reading.reply.send(Err(failure.clone()));
            }
        }
    }
}

/// Texts for one model with questions of one kind, whose clients are still there; none if there is none.
fn next_pack(waiting: &mut VecDeque<Reading>) -> Option<Vec<Reading>> {
    let mut pack: Vec<Reading> = Vec::new();
    let mut tokens = 0;
    while let Some(next) = waiting.front() {
        if next.reply.is_closed() {
            waiting.pop_front();
            continue;
        }
        let fits = pack.first().is_none_or(|first| {
            first.model == next.model && first.question.is_like(next.question) && tokens + next.ids.len() <= PACK
        });
        if !fits {
            break;
        }
        tokens += next.ids.len();
        pack.extend(waiting.pop_front());
    }
    (!pack.is_empty()).then_some(pack)
}

fn answer(engine: &Engine, served: &Served, sequences: &[&[u32]], pack: &[Reading]) -> Result<Vec<Answer>, Failure> {
    let because = |reason: String| Failure::Because(reason);
    match pack[0].question {
        Question::Ranked(_) => {
            let count = |reading: &Reading| match reading.question {
                Question::Ranked(count) => count,
                _ => 0,
            };
            let counts: Vec<usize> = pack.iter().map(count).collect();
            let ranked = ranked_of(engine, served.transformer(), (sequences, &counts));
            let ranked = ranked.map_err(|error| because(error.to_string()))?;
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
