//! One update: the check of what was sampled, then passes of steps on the pairs that its scores make.

use hone_compute::{Engine, StepRate};
use hone_model::Transformer;

use super::config::OnlinePreferenceConfig;
use super::pairs::Paired;
use crate::error::Result;
use crate::language::shards_of;
use crate::learner::{Applied, Learner};
use crate::preferred::{Compared, Judged, Method, Stats};
use crate::rollout::{Episode, EpisodeBatch, check, check_others, passes, rows_of};

/// What an update is given.
pub(super) struct Update<'a> {
    /// Counted from 0.
    pub number: u64,
    /// The prompts that have a pair, in the order of the rollout.
    pub prompts: &'a [Paired<'a>],
    pub method: Method,
    pub c: &'a OnlinePreferenceConfig,
    pub rate: StepRate,
}

/// What an update saw and did.
#[derive(Default)]
pub(super) struct Report {
    /// Over the pairs of all steps, each before it; the loss is the steps' mean.
    pub stats: Stats,
    pub steps: u64,
    /// The last step; none where there was no pair.
    pub applied: Option<Applied>,
}

pub(super) fn update(engine: &Engine, learner: &mut Learner, update: &Update<'_>) -> Result<Report> {
    let (prompts, section) = (update.prompts, &update.c.online_preference);
    let mut report = Report::default();
    // 1. A new order every pass, cut into minibatches; a prompt's responses stay together
    let cut = (prompts.len(), section.prompts_a_step());
    for places in passes(cut, (update.number, section.epochs), update.c.train.seed) {
        let chosen: Vec<&Paired<'_>> = places.iter().map(|&i| &prompts[i]).collect();
        let first = report.steps == 0;
        if first {
            // 2. Before the first step: what other minibatches hold is checked by a pass of its own
            let others = (0..prompts.len()).filter(|i| places.binary_search(i).is_err());
            let others = others.flat_map(|i| prompts[i].members.iter().copied());
            let asked = (update.number, section.temperature);
            check_others(engine, &learner.model, asked, others)?;
        }
        // 3. A step on the method's loss over the minibatch's pairs
        let (stats, applied) = step(engine, learner, update, (&chosen, first))?;
        report.stats.merge(&stats);
        report.steps += 1;
        report.applied = Some(applied);
    }
    let steps = report.steps.max(1) as f64;
    report.stats.loss /= steps;
    report.stats.nll /= steps;
    Ok(report)
}

fn step(
    engine: &Engine,
    learner: &mut Learner,
    update: &Update<'_>,
    (chosen, first): (&[&Paired<'_>], bool),
) -> Result<(Stats, Applied)> {
    let (method, train) = (update.method, &update.c.train);
    let temperature = update.c.online_preference.temperature as f32;
    let all: Vec<Compared<'_>> = chosen.iter().map(|prompt| prompt.compared()).collect();
    let constants = method.constants(&all, None)?;
    let shards = shards_of(chosen.to_vec(), train.shards, train.microbatch_tokens, |prompt| {
        rows_of(&prompt.members)
    });
    let mut stats = Stats::default();
    let gradients = learner.gradients(
        engine,
        shards,
        |policy: &Transformer, prompts: Vec<&Paired<'_>>, gradients| {
            let groups: Vec<&[&Episode]> = prompts.iter().map(|prompt| prompt.members.as_slice()).collect();
            let numbers = EpisodeBatch::of(&groups).policy_numbers(engine, policy, temperature);
            if first {
                check(update.number, &groups, &numbers.logprobs)?;
            }
            let compared: Vec<Compared<'_>> = prompts.iter().map(|prompt| prompt.compared()).collect();
            let Judged { gradient, stats: own } = method.judge(&compared, &numbers.logprobs, constants)?;
            stats.merge(&own);
            let seed = engine.tensor(gradient.len(), 1, &gradient);
            numbers.tape.backward(vec![(&numbers.logprob, seed)], gradients);
            Ok(())
        },
    )?;
    let applied = learner.apply(engine, &gradients, update.rate, update.number)?;
    Ok((stats, applied))
}
