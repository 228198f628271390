//! A rollout on an engine that only counts. Responses are taken to be as long as they may be.

use std::sync::Arc;

use hone_compute::{Engine, SamplingParameters};
use hone_generate::{Generator, GeneratorOptions, Request, heads_before, logprobs_from, scores_of};
use hone_math::Key;

use super::collect::Episode;
use super::sections::RolloutSettings;
use super::setup::{Networks, Setup};
use crate::error::Result;
use crate::language::shards_of;
use crate::sections::TrainSection;

/// Rows and response tokens of the micro-batches of an update, whose responses are as long as they may be.
pub(crate) fn microbatches(
    setup: &Setup,
    settings: &RolloutSettings,
    (minibatch, train): (usize, &TrainSection),
    number: u64,
) -> Vec<(usize, usize)> {
    let (samples, new) = (settings.samples_per_prompt, settings.max_new_tokens);
    let prompts = setup.prompts.rollout(number, settings);
    let groups: Vec<usize> = prompts
        .chunks(samples)
        .map(|group| group[0].ids.len() + samples * new)
        .collect();
    let minibatches = groups.chunks(minibatch / samples);
    let cut =
        minibatches.flat_map(|groups| shards_of(groups.to_vec(), train.shards, train.microbatch_tokens, |&rows| rows));
    cut.flatten()
        .map(|groups| (groups.iter().sum(), groups.len() * samples * new))
        .collect()
}

/// What [`collect`](super::collect::collect) asks of the engine, in its order, and episodes of zeros.
///
/// # Errors
/// If sampling fails.
pub(crate) fn rehearse_rollout(
    engine: &Engine,
    setup: &Setup,
    networks: Networks<'_>,
    (settings, number): (&RolloutSettings, u64),
) -> Result<Vec<Episode>> {
    let prompts = setup.prompts.rollout(number, settings);
    let none: Arc<[u32]> = Arc::new([]);
    let request = |(i, ids): (usize, &Arc<[u32]>)| Request {
        prompt: Arc::clone(ids),
        sampling: SamplingParameters::default(),
        key: Key::new(0, "plan", i as u64),
        max_new_tokens: settings.max_new_tokens,
        // Nothing ends a response before its time
        stop_tokens: Arc::clone(&none),
        stop_texts: None,
    };
    let requests: Vec<Request> = prompts.iter().map(|p| &p.ids).enumerate().map(request).collect();
    let completions = Generator::new(engine, networks.policy, GeneratorOptions::default()).run(&requests)?;
    // The answers to a prompt share nothing but the prompt
    let both = prompts.iter().zip(&completions).enumerate();
    let sequences: Vec<Arc<[u32]>> = both
        .map(|(i, (p, completion))| {
            let mut ids: Vec<u32> = p.ids.iter().chain(&completion.ids).copied().collect();
            ids[p.ids.len()] = (i % 2) as u32;
            ids.into()
        })
        .collect();
    let slices: Vec<&[u32]> = sequences.iter().map(|s| &**s).collect();
    let from: Vec<usize> = prompts.iter().map(|p| p.ids.len()).collect();
    if networks.reference {
        let temperature = settings.temperature as f32;
        logprobs_from(engine, &setup.base.model, (&slices, &from), temperature);
    }
    if let Some(value) = networks.value {
        heads_before(engine, value, &slices, &from);
    }
    // Another tokenizer may make more of a text, but no more than its model's context, and any token stands for any other
    let reader = setup.scorer.model().architecture();
    let behind = setup.reading.behind_cut(settings);
    let read: Vec<Vec<u32>> = prompts
        .iter()
        .zip(&slices)
        .enumerate()
        .map(|(i, (prompt, s))| {
            let known = |id: &u32| id % reader.vocab_size as u32;
            let mut ids: Vec<u32> = prompt.ids.iter().map(known).collect();
            ids.resize((s.len() + behind).min(reader.context), (i % 2) as u32);
            ids
        })
        .collect();
    scores_of(
        engine,
        setup.scorer.model(),
        &read.iter().map(Vec::as_slice).collect::<Vec<_>>(),
    );
    let episodes = prompts.iter().zip(sequences).zip(completions);
    Ok(episodes
        .enumerate()
        .map(|(index, ((prompt, ids), completion))| {
            let zeros = vec![0.0; completion.ids.len()];
            Episode {
                index,
                ids,
                prompt_length: prompt.ids.len(),
                logprobs: completion.logprobs,
                ref_logprobs: if networks.reference { zeros.clone() } else { Vec::new() },
                values: networks.value.map(|_| zeros).unwrap_or_default(),
                score: 0.0,
                ended: false,
                unscorable: false,
                text: (String::new(), String::new()),
            }
        })
        .collect())
}
