//! What PPO will need. Responses are taken to be as long as they may be.

use std::sync::Arc;

use hone_compute::{Engine, SamplingParameters};
use hone_generate::{Generator, GeneratorOptions, Request, heads_before, logprobs_from, scores_of};
use hone_math::Key;
use hone_run::Resolved;

use super::config::PpoConfig;
use super::run::{Stage, State, check, constants, rates};
use super::step::{Update, update};
use crate::error::Result;
use crate::job::Job;
use crate::plan::{Notes, Plan, Planned, telling_steps};
use crate::rollout::Episode;

/// Plans a run without starting it. If it is to be `timed`, the machine's speed is measured.
///
/// # Errors
/// If the configuration, the data or a model is at fault.
pub fn plan(job: &Job, config: &Resolved<PpoConfig>, timed: bool) -> Result<Plan> {
    rehearsed(job, &config.config, timed).map_err(|error| error.at(config))
}

fn rehearsed(job: &Job, c: &PpoConfig, timed: bool) -> Result<Plan> {
    check(c)?;
    rates(c)?;
    let rehearsal = job.rehearsal(&c.train)?;
    let stage = Stage::load(job, &rehearsal, c)?;
    let notes = Notes::timed_if(timed, &rehearsal, (job, &c.train))?;
    rehearse(notes, &stage, c)
}

/// Goes through updates on an engine that only counts.
pub(super) fn rehearse(mut notes: Notes<'_>, stage: &Stage, c: &PpoConfig) -> Result<Plan> {
    let (train, ppo) = (&c.train, &c.ppo);
    let engine = notes.engine();
    notes.tensors("weights of the reference and the reward model, f32");
    // 1. What stays
    let mut state = State::new(engine, stage, c)?;
    let (policy, value) = (&state.learners.policy.model, &state.learners.value.model);
    notes.model("policy", policy);
    notes.model("value network", value);
    notes.read_model("reference", &stage.setup.base.model);
    notes.read_model("reward model", stage.setup.scorer.model());
    let trained = policy.parameters().count().1 + value.parameters().count().1;
    let average = if ppo.ema_decay.is_some() {
        " and the moving average"
    } else {
        ""
    };
    notes.tensors_with(
        format!("weights of the policy, the value network{average}, f32"),
        (2 * 4 * trained, "moments of both optimisers, f32"),
    );
    notes.gradients(&state.learners.policy, train.shards, "")?;
    notes.gradients(&state.learners.value, train.shards, "the value network's ")?;
    // 2. Updates
    let mut predictions = 0;
    let (timed, telling) = telling_steps(ppo.updates, |number| {
        let prompts = stage.setup.prompts.rollout(number, &ppo.rollout());
        let groups = prompts.chunks(ppo.samples_per_prompt);
        let tokens: usize = groups
            .map(|group| group[0].ids.len() + group.len() * ppo.max_new_tokens)
            .sum();
        let tokens = tokens * ppo.minibatch / ppo.rollout_batch / train.shards;
        predictions = predictions.max(ppo.minibatch * ppo.max_new_tokens / train.shards);
        Ok(vec![(tokens.min(train.microbatch_tokens), 0)])
    })?;
    // Updates differ in their prompts alone
    let timed: Vec<u64> = timed.into_iter().take(2).collect();
    let count = timed.len().max(1) as f64;
    let mut one = |number: u64| -> Result<()> {
        let episodes = rollout(engine, (stage, &state), c, number)?;
        let constants = constants(&episodes, ppo.kl_coef, ppo)?;
        let rates = rates(c)?;
        let step = Update {
            number,
            episodes: &episodes,
            constants: &constants,
            ppo,
            train,
            rates: (rates.0.at(number), rates.1.at(number)),
            ptx: stage.ptx_windows(number, c)?,
        };
        update(engine, &mut state.learners, &step)?;
        Ok(())
    };
    let ((seconds, operations), ()) = notes.timed(|| timed.into_iter().try_for_each(&mut one))?;
    // Of a run that warms up its value network, one in which the policy learns, too
    let learns = Some(ppo.value_warmup_updates).filter(|&number| (1..ppo.updates).contains(&number));
    telling.into_iter().take(MOST).chain(learns).try_for_each(&mut one)?;
    notes.logits(predictions.min(train.microbatch_tokens), &state.learners.policy.model);
    let episodes = ppo.updates * ppo.rollout_batch as u64;
    let prompts = stage.setup.prompts.rollout(0, &ppo.rollout());
    let read: u64 = prompts.iter().map(|p| (p.ids.len() + ppo.max_new_tokens) as u64).sum();
    let planned = Planned {
        stage: "ppo",
        steps: ppo.updates,
        tokens: ppo.updates * read,
        sources: stage.setup.prompts.planned(episodes / ppo.samples_per_prompt as u64),
        step: (seconds / count, operations / count),
    };
    Ok(notes.finish(planned, (c.model.recompute, train)))
}

/// Updates that are rehearsed for their sizes.
const MOST: usize = 6;

/// What `rollout::collect` asks of the engine, in its order, and episodes of zeros.
fn rollout(engine: &Engine, (stage, state): (&Stage, &State), c: &PpoConfig, number: u64) -> Result<Vec<Episode>> {
    let prompts = stage.setup.prompts.rollout(number, &c.ppo.rollout());
    let none: Arc<[u32]> = Arc::new([]);
    let request = |(i, ids): (usize, &Arc<[u32]>)| Request {
        prompt: Arc::clone(ids),
        sampling: SamplingParameters::default(),
        key: Key::new(0, "plan", i as u64),
        max_new_tokens: c.ppo.max_new_tokens,
        // Nothing ends a response before its time
        stop_tokens: Arc::clone(&none),
        stop_texts: None,
    };
    let requests: Vec<Request> = prompts.iter().map(|p| &p.ids).enumerate().map(request).collect();
    let (policy, value) = (&state.learners.policy.model, &state.learners.value.model);
    let completions = Generator::new(engine, policy, GeneratorOptions::default()).run(&requests)?;
    let both = prompts.iter().zip(&completions);
    let sequences: Vec<Arc<[u32]>> = both
        .map(|(p, completion)| p.ids.iter().chain(&completion.ids).copied().collect())
        .collect();
    let slices: Vec<&[u32]> = sequences.iter().map(|s| &**s).collect();
    let from: Vec<usize> = prompts.iter().map(|p| p.ids.len()).collect();
    logprobs_from(
        engine,
        &stage.setup.base.model,
        (&slices, &from),
        c.ppo.temperature as f32,
    );
    heads_before(engine, value, &slices, &from);
    // Another tokenizer may make more of a text, but no more than its model's context, and any token stands for any other;
    // responses differ
    let reader = stage.setup.scorer.model().architecture();
    let behind = stage.setup.reading.behind_cut(&c.ppo.rollout());
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
        stage.setup.scorer.model(),
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
                ref_logprobs: zeros.clone(),
                values: zeros,
                score: 0.0,
                ended: false,
                unscorable: false,
                text: (String::new(), String::new()),
            }
        })
        .collect())
}
