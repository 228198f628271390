//! A rollout on an engine that only counts. Responses are taken to be as long as they may be, and episodes to have as many turns as
//! there are.

use std::ops::Range;
use std::sync::Arc;

use hone_compute::{Engine, SamplingParameters};
use hone_generate::{Generator, GeneratorOptions, Request, logprobs_in, scores_of};
use hone_math::Key;
use hone_model::Transformer;
use serde_json::Map;

use super::acting::Acting;
use super::collect::Episode;
use super::held_out::HeldOut;
use super::judge::Judge;
use super::prompts::PreparedPrompt;
use super::sections::RolloutSettings;
use super::setup::{Networks, Setup};
use crate::error::Result;
use crate::language::shards_of;
use crate::sections::TrainSection;

/// How long the responses to a prompt, or the episodes of a start, may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// Tokens of the prompt, which they share.
    pub prompt: usize,
    /// Tokens of each behind it.
    pub behind: usize,
    /// Of these, sampled ones.
    pub sampled: usize,
}

/// Those of the groups of a rollout.
pub(crate) fn extents(setup: &Setup, settings: &RolloutSettings, number: u64) -> Vec<Extent> {
    match (&setup.judge, &setup.prompts) {
        (Judge::Environment(acting), _) => {
            let behind = setup.longest.saturating_sub(acting.extent.prompt);
            let extent = Extent {
                prompt: acting.extent.prompt,
                behind,
                sampled: behind.min(acting.extent.turns * settings.max_new_tokens),
            };
            vec![extent; settings.prompts()]
        }
        (_, prompts) => {
            let prompts = prompts.as_ref().map(|prompts| prompts.rollout(number, settings));
            let prompts = prompts.unwrap_or_default();
            let groups = prompts.chunks(settings.samples_per_prompt);
            let extent = |group: &[&PreparedPrompt]| Extent {
                prompt: group[0].ids.len(),
                behind: settings.max_new_tokens,
                sampled: settings.max_new_tokens,
            };
            groups.map(extent).collect()
        }
    }
}

/// Rows and sampled tokens of the micro-batches of an update, whose responses are as long as they may be.
pub(crate) fn microbatches(
    setup: &Setup,
    settings: &RolloutSettings,
    (minibatch, train): (usize, &TrainSection),
    number: u64,
) -> Vec<(usize, usize)> {
    let samples = settings.samples_per_prompt;
    // 1. Of each group the rows, and the tokens that are predicted
    let groups: Vec<(usize, usize)> = extents(setup, settings, number)
        .into_iter()
        .map(|e| (e.prompt + samples * e.behind, samples * e.sampled))
        .collect();
    // 2. Cut as the update cuts them
    let minibatches = groups.chunks(minibatch / samples);
    let cut = minibatches.flat_map(|groups| {
        shards_of(groups.to_vec(), train.shards, train.microbatch_tokens, |&(rows, _)| {
            rows
        })
    });
    cut.flatten()
        .map(|groups| {
            let of = |which: fn(&(usize, usize)) -> usize| groups.iter().map(which).sum::<usize>();
            (of(|group| group.0), of(|group| group.1))
        })
        .collect()
}

/// What was said and sampled in an episode so far.
struct Told {
    ids: Vec<u32>,
    spans: Vec<Range<usize>>,
    logprobs: Vec<f32>,
}

/// What [`Setup::rollout`] asks of the engine, in its order, and episodes of zeros.
///
/// # Errors
/// If sampling fails.
pub(crate) fn rehearse_rollout(
    engine: &Engine,
    setup: &Setup,
    networks: Networks<'_>,
    (settings, number): (&RolloutSettings, u64),
) -> Result<Vec<Episode>> {
    let told = match &setup.judge {
        Judge::Environment(acting) => played(engine, setup, networks, (acting, settings, number))?,
        _ => {
            let prompts = setup.prompts.as_ref().map(|prompts| prompts.rollout(number, settings));
            answered(engine, networks, &prompts.unwrap_or_default(), settings)?
        }
    };
    let slices: Vec<&[u32]> = told.iter().map(|told| &*told.ids).collect();
    let spans: Vec<&[Range<usize>]> = told.iter().map(|told| &*told.spans).collect();
    if networks.reference {
        let temperature = settings.temperature as f32;
        logprobs_in(engine, &setup.base.model, (&slices, &spans), temperature);
    }
    read(engine, &setup.judge, (settings, &told));
    let episode = |(index, told): (usize, Told)| {
        let zeros = vec![0.0; told.logprobs.len()];
        Episode {
            index,
            ids: told.ids.into(),
            spans: told.spans,
            logprobs: told.logprobs,
            ref_logprobs: if networks.reference { zeros } else { Vec::new() },
            score: 0.0,
            ended: false,
            unscorable: false,
            text: (String::new(), String::new()),
            extra: Map::new(),
        }
    };
    Ok(told.into_iter().enumerate().map(episode).collect())
}

/// What a look of a held-out judge at a policy asks of the engine.
///
/// # Errors
/// If sampling fails.
pub(super) fn rehearse_look(engine: &Engine, setup: &Setup, held_out: &HeldOut, policy: &Transformer) -> Result<()> {
    let settings = &held_out.settings;
    let networks = Networks {
        policy,
        reference: false,
    };
    let told = match &held_out.judge {
        Judge::Environment(acting) => played(engine, setup, networks, (acting, settings, 0))?,
        _ => answered(engine, networks, &held_out.asked(), settings)?,
    };
    read(engine, &held_out.judge, (settings, &told));
    Ok(())
}

/// What the reward models of a judge read.
fn read(engine: &Engine, judge: &Judge, (settings, told): (&RolloutSettings, &[Told])) {
    // Another tokenizer may make more of a text, but no more than its model's context, and any token stands for any other
    for reader in judge.readers() {
        let reads = reader.scorer.model().architecture();
        let behind = reader.reading.behind_cut(settings);
        let read: Vec<Vec<u32>> = told
            .iter()
            .enumerate()
            .map(|(i, told)| {
                let known = |id: &u32| id % reads.vocab_size as u32;
                let prompt = &told.ids[..told.spans.first().map_or(0, |span| span.start)];
                let mut ids: Vec<u32> = prompt.iter().map(known).collect();
                ids.resize((told.ids.len() + behind).min(reads.context), (i % 2) as u32);
                ids
            })
            .collect();
        let read: Vec<&[u32]> = read.iter().map(Vec::as_slice).collect();
        scores_of(engine, reader.scorer.model(), &read);
    }
}

/// Responses to prompts.
fn answered(
    engine: &Engine,
    networks: Networks<'_>,
    prompts: &[&PreparedPrompt],
    settings: &RolloutSettings,
) -> Result<Vec<Told>> {
    let mut told: Vec<Told> = prompts.iter().map(|prompt| Told::of(prompt.ids.to_vec())).collect();
    turn(engine, networks, (&mut told, 2), settings)?;
    Ok(told)
}

/// Episodes in which each turn takes the environment's longest observation, as far as the context goes.
fn played(
    engine: &Engine,
    setup: &Setup,
    networks: Networks<'_>,
    (acting, settings, number): (&Acting, &RolloutSettings, u64),
) -> Result<Vec<Told>> {
    let context = setup.base.model.architecture().context;
    let dialogue = setup.dialogue()?;
    let plays = acting.settings(settings);
    let mut environment = acting.setting.build()?;
    let mut told = Vec::with_capacity(settings.rollout_batch);
    for group in acting.episodes(number, settings).chunks(settings.samples_per_prompt) {
        environment.reset(plays.seed, group[0])?;
        let mut first = dialogue.first_turn(&environment.rules(), &environment.observe(), &[])?;
        first.resize(acting.extent.prompt, 0);
        told.extend(group.iter().map(|_| Told::of(first.clone())));
    }
    for number in 0..acting.extent.turns {
        if number > 0 {
            for told in &mut told {
                told.ids.resize(told.ids.len() + acting.extent.observation, 0);
            }
        }
        // All are of one length
        if told.first().is_none_or(|told| told.ids.len() >= context) {
            break;
        }
        let vocabulary = setup.base.model.architecture().vocab_size;
        turn(engine, networks, (&mut told, vocabulary), settings)?;
    }
    for told in &mut told {
        let end = told.spans.last().map_or(0, |span| span.end);
        told.ids.truncate(end);
    }
    Ok(told)
}

/// An action, or a response, of each; they begin with so many different tokens in turn, so that no more is shared than is in a run.
fn turn(
    engine: &Engine,
    networks: Networks<'_>,
    (told, different): (&mut [Told], usize),
    settings: &RolloutSettings,
) -> Result<()> {
    let none: Arc<[u32]> = Arc::new([]);
    let request = |(i, told): (usize, &Told)| Request {
        prompt: told.ids.as_slice().into(),
        sampling: SamplingParameters::default(),
        key: Key::new(0, "plan", i as u64),
        max_new_tokens: settings.max_new_tokens,
        // Nothing ends a response before its time
        stop_tokens: Arc::clone(&none),
        stop_texts: None,
    };
    let requests: Vec<Request> = told.iter().enumerate().map(request).collect();
    let completions = Generator::new(engine, networks.policy, GeneratorOptions::default()).run(&requests)?;
    for (i, (told, completion)) in told.iter_mut().zip(completions).enumerate() {
        let start = told.ids.len();
        told.ids.extend(completion.ids);
        // The answers to a prompt share nothing but the prompt
        told.ids[start] = (i % different) as u32;
        told.spans.push(start..told.ids.len());
        told.logprobs.extend(completion.logprobs);
    }
    Ok(())
}

impl Told {
    fn of(ids: Vec<u32>) -> Self {
        Self {
            ids,
            spans: Vec::new(),
            logprobs: Vec::new(),
        }
    }
}
