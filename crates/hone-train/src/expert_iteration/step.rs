//! One round: the check of what was sampled, then passes of supervised steps over what was kept.

use hone_compute::{Engine, Gradients, StepRate};
use hone_model::Transformer;
use hone_objective::cross_entropy::{TokenStats, cross_entropy};

use super::config::ExpertIterationSection;
use crate::error::Result;
use crate::language::shards_of;
use crate::learner::{Applied, Learner};
use crate::rollout::{Episode, EpisodeBatch, check, check_others, passes, rows_of, tokens_of};
use crate::schedule::Rates;
use crate::sections::TrainSection;

/// What a round is given.
pub(super) struct Round<'a> {
    /// Counted from 0.
    pub number: u64,
    /// What is tuned on, in the order of the rollout.
    pub kept: &'a [&'a Episode],
    pub section: &'a ExpertIterationSection,
    pub train: &'a TrainSection,
}

/// What a round saw and did.
#[derive(Default)]
pub(super) struct Report {
    /// Over the steps of all passes, each before it.
    pub stats: TokenStats,
    pub steps: u64,
    /// The last step; none where nothing was kept.
    pub applied: Option<Applied>,
}

/// Tunes the model that answered, or with `start` the one that is there.
pub(super) fn tune(
    engine: &Engine,
    learner: &mut Learner,
    start: Option<&Transformer>,
    round: &Round<'_>,
) -> Result<Report> {
    let (section, kept) = (round.section, round.kept);
    let asked = (round.number, section.temperature);
    // 1. A model that does not learn from its own answers is checked before it is put aside
    if start.is_some() {
        check_others(engine, &learner.model, asked, kept.iter().copied())?;
    }
    // 2. A tuning of its own: no moments, and the schedule from its start
    learner.begin_again(engine, start);
    let cut = (kept.len(), section.minibatch);
    let passes = passes(cut, (round.number, section.epochs), round.train.seed);
    let rates = Rates::new(round.train, round.train.learning_rate, passes.len() as u64)?;
    let mut report = Report::default();
    for places in &passes {
        let chosen: Vec<&Episode> = places.iter().map(|&i| kept[i]).collect();
        let checked = report.steps == 0 && start.is_none();
        if checked {
            // 3. Before the first step: what other minibatches hold is checked by a pass of its own
            let others = (0..kept.len())
                .filter(|i| places.binary_search(i).is_err())
                .map(|i| kept[i]);
            check_others(engine, &learner.model, asked, others)?;
        }
        // 4. A step on the mean of -log p over the minibatch's tokens
        let rate = rates.at(report.steps);
        let (stats, applied) = step(engine, learner, round, (&chosen, checked), rate)?;
        report.stats.merge(&stats);
        report.steps += 1;
        report.applied = Some(applied);
    }
    Ok(report)
}

fn step(
    engine: &Engine,
    learner: &mut Learner,
    round: &Round<'_>,
    of: (&[&Episode], bool),
    rate: StepRate,
) -> Result<(TokenStats, Applied)> {
    let (stats, gradients) = gradients(engine, learner, round, of)?;
    let applied = learner.apply(engine, &gradients, rate, round.number)?;
    Ok((stats, applied))
}

/// The gradients of the mean of -log p over the tokens of `chosen`, in the order of the rollout, which are `checked` against
/// what was sampled or not.
pub(super) fn gradients(
    engine: &Engine,
    learner: &mut Learner,
    round: &Round<'_>,
    (chosen, checked): (&[&Episode], bool),
) -> Result<(TokenStats, Gradients)> {
    let (section, train) = (round.section, round.train);
    let prompt = |episode: &Episode| episode.index / section.samples_per_prompt;
    let groups: Vec<&[&Episode]> = chosen.chunk_by(|a, b| prompt(a) == prompt(b)).collect();
    let tokens = tokens_of(&groups);
    let shards = shards_of(groups, train.shards, train.microbatch_tokens, |group| rows_of(group));
    let mut stats = TokenStats::default();
    let gradients = learner.gradients(
        engine,
        shards,
        |policy: &Transformer, groups: Vec<&[&Episode]>, gradients| {
            let batch = EpisodeBatch::of(&groups);
            let numbers = batch.policy_numbers(engine, policy, section.temperature as f32);
            if checked {
                check(round.number, &groups, &numbers.logprobs)?;
            }
            let loss = cross_entropy(&numbers.logprobs, &batch.mask, tokens)?;
            stats.merge(&loss.stats);
            let seed = engine.tensor(loss.grad_logprobs.len(), 1, &loss.grad_logprobs);
            numbers.tape.backward(vec![(&numbers.logprob, seed)], gradients);
            Ok(())
        },
    )?;
    Ok((stats, gradients))
}
