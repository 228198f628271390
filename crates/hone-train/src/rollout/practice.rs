//! The loop of updates that stages with rollouts share: the policy answers prompts, learns from its answers, and all of it
//! is written down. What it learns, and by which steps, is the stage's.

use std::time::Instant;

use hone_compute::Engine;
use hone_math::Key;
use hone_model::{LoraConfig, Transformer};
use hone_run::{Checkpoint, CheckpointWriter, Run};
use serde_json::{Map, Value};

use super::collect::{Collected, Episode};
use super::figures::Figures;
use super::looks::Looks;
use super::record::{mean, record_samples, tell_unscorable};
use super::sections::{JudgeSection, Maximised, PromptData, RolloutSettings};
use super::setup::Setup;
use crate::course::{Arrival, Told, Work, follow};
use crate::error::{Result, TrainError};
use crate::job::{Cadence, Job, Occasion, Outcome, save};
use crate::sections::{ModelSection, ShownSection, TrainSection};

/// What a stage does at each update, counted from 0.
pub(crate) trait Practice {
    /// The policy's answers; none if the run is asked to stop on the way. Nothing has changed then.
    fn sample(&self, update: u64) -> Result<Option<Sampled>>;

    /// Learns from them.
    fn learn(&mut self, update: u64, sampled: &Sampled) -> Result<Learned>;

    /// The answers of an update that are worth a look, the first of which are written down.
    fn shown<'s>(&self, sampled: &'s Sampled) -> Vec<&'s Episode> {
        sampled.episodes.iter().collect()
    }

    /// Of everything that updates change, after `done` of them, what goes into a checkpoint's manifest.
    fn state(&self, done: u64) -> Result<Map<String, Value>>;

    /// And what goes into its files.
    fn write(&self, writer: &mut CheckpointWriter) -> Result<(), hone_run::Error>;

    /// Takes up what was saved.
    fn load(&mut self, checkpoint: &Checkpoint) -> Result<()>;

    /// The model that a run gives.
    fn result(&self) -> &Transformer;

    /// What a run of `done` updates came to.
    fn summary(&self, done: u64) -> Map<String, Value>;
}

/// What a run is made from, how far it goes, and how often it writes down what.
pub(crate) struct Course<'a> {
    /// The stage, as its command is called.
    pub stage: &'static str,
    /// The policy's start, which is also the reference.
    pub model: &'a ModelSection,
    pub lora: Option<&'a LoraConfig>,
    pub maximised: &'a Maximised,
    pub data: &'a PromptData,
    pub settings: RolloutSettings,
    /// Updates in all.
    pub total: u64,
    pub train: &'a TrainSection,
    pub eval: &'a ShownSection,
    /// What looks at the policy on its way.
    pub judge: Option<&'a JudgeSection>,
    /// Updates at the beginning in which the policy stays as it is.
    pub still: u64,
}

/// The episodes of an update, and how they came about.
pub(crate) struct Sampled {
    pub episodes: Vec<Episode>,
    /// Scores of all responses that were sampled for it.
    pub scores: Vec<f32>,
    pub first_refusal: Option<String>,
    /// Sums over all responses that were sampled for it.
    pub figures: Figures,
    pub seconds: Vec<(&'static str, f64)>,
}

impl Sampled {
    /// A rollout as it is.
    pub fn of(collected: Collected) -> Self {
        Self {
            scores: collected.episodes.iter().map(|episode| episode.score).collect(),
            episodes: collected.episodes,
            first_refusal: collected.first_refusal,
            figures: collected.figures,
            seconds: collected.seconds,
        }
    }

    /// Refuses scores that are no numbers, which would pass for good ones; `stage` is told of.
    pub fn check_scores(&self, stage: &'static str) -> Result<()> {
        match self.scores.iter().find(|score| !score.is_finite()) {
            None => Ok(()),
            Some(&score) => Err(TrainError::Objective(hone_objective::Error::NotFinite {
                op: stage,
                name: "score",
                got: f64::from(score),
            })),
        }
    }

    /// Mean of all scores.
    pub fn mean_score(&self) -> f64 {
        mean(self.scores.iter().map(|&score| f64::from(score)))
    }

    /// Mean divergence from the reference, in nats a response; none without a reference.
    pub fn kl(&self) -> Option<f64> {
        let known = self.episodes.iter().any(|e| !e.ref_logprobs.is_empty());
        known.then(|| mean(self.episodes.iter().map(Episode::kl)))
    }

    /// Sampled tokens of the episodes.
    pub fn tokens(&self) -> u64 {
        self.episodes.iter().map(|e| e.length() as u64).sum()
    }

    /// Lengths and ends of the responses, for `metrics.jsonl`.
    pub fn completions(&self) -> [(&'static str, f64); 3] {
        let count = self.episodes.len().max(1) as f64;
        let ended = mean(self.episodes.iter().map(|e| f64::from(u8::from(e.ended))));
        let unscorable = self.episodes.iter().filter(|e| e.unscorable).count();
        [
            ("completions/mean_length", self.tokens() as f64 / count),
            ("completions/ended", ended),
            ("completions/unscorable", unscorable as f64),
        ]
    }
}

impl AsRef<Episode> for Episode {
    fn as_ref(&self) -> &Episode {
        self
    }
}

/// What an update came to.
pub(crate) struct Learned {
    /// Names and values for `metrics.jsonl`.
    pub metrics: Vec<(&'static str, f64)>,
    /// The few that are shown on the way.
    pub headline: Vec<(&'static str, f64)>,
    /// Tokens that its steps were trained on, those of every pass counted.
    pub target_tokens: u64,
    /// Seconds of those of its parts that are no optimisation, by their key in `timings.jsonl`.
    pub seconds: Vec<(&'static str, f64)>,
}

/// The policy where a run begins: the model that it starts from, with the adapter that is asked for.
///
/// # Errors
/// If the adapter does not fit the model.
pub(crate) fn policy(
    engine: &Engine,
    base: &Transformer,
    (model, lora): (&ModelSection, &Option<LoraConfig>),
    seed: u64,
) -> Result<Transformer> {
    let mut policy = base.duplicate();
    if let Some(lora) = lora {
        policy.add_adapter(engine, lora, seed)?;
    }
    policy.set_recompute(model.recompute);
    Ok(policy)
}

/// The minibatches of all passes of an update over `count` things: their places, in a new order every pass, `size` of them a
/// minibatch but in the last. Within a minibatch places ascend, so that neighbours stay neighbours.
pub(crate) fn passes((count, size): (usize, usize), (update, epochs): (u64, usize), seed: u64) -> Vec<Vec<usize>> {
    let epochs = epochs as u64;
    let pass = |number: u64| {
        let order = Key::new(seed, "minibatches", number).permutation(count);
        let minibatches = order.chunks(size).map(|places| {
            let mut places = places.to_vec();
            places.sort_unstable();
            places
        });
        minibatches.collect::<Vec<_>>()
    };
    (update * epochs..(update + 1) * epochs).flat_map(pass).collect()
}

/// Practises from update `done` to the last. Gives the outcome if the run is asked to stop before; it is saved then.
///
/// # Errors
/// The stage's, and those of the run's files.
pub(crate) fn practise(
    (engine, job): (&Engine, &Job),
    at: (&mut Run, u64),
    (course, setup): (&Course<'_>, &Setup),
    (stage, looks): (&mut impl Practice, &mut Looks),
) -> Result<Option<Outcome>> {
    let cadence = Cadence {
        total: course.total,
        checkpoint_every: course.train.checkpoint_every,
        eval_every: course.eval.every,
    };
    let mut updates = Updates {
        at: (engine, job),
        course,
        setup,
        stage,
        looks,
        sampled: None,
        told_of_unscorable: false,
    };
    follow(job, at, (course.stage, &cadence), &mut updates)
}

/// Updates as the steps of a run.
struct Updates<'a, P> {
    at: (&'a Engine, &'a Job),
    course: &'a Course<'a>,
    setup: &'a Setup,
    stage: &'a mut P,
    /// Of the held-out judge.
    looks: &'a mut Looks,
    /// Of the last update.
    sampled: Option<Sampled>,
    told_of_unscorable: bool,
}

impl<P: Practice> Work for Updates<'_, P> {
    fn arrive(&mut self, done: u64) -> Result<Arrival> {
        let Some(held_out) = &self.setup.held_out else {
            return Ok(Arrival::Further);
        };
        held_out.arrive(self.at, (self.setup, self.stage.result()), self.looks, done)
    }

    fn may_end(&self, done: u64) -> bool {
        let held_out = self.setup.held_out.as_ref();
        held_out.is_some_and(|held_out| held_out.may_end(self.looks, done))
    }

    fn step(&mut self, done: u64) -> Result<Option<Told>> {
        // 1. The policy answers prompts
        self.sampled = None;
        let Some(mut sampled) = self.stage.sample(done)? else {
            return Ok(None);
        };
        let new = !self.told_of_unscorable;
        if let Some(reason) = sampled.first_refusal.take().filter(|_| new) {
            self.told_of_unscorable = true;
            let settings = &self.course.settings;
            tell_unscorable(self.at.1, settings.section, &reason, settings.missing_eos_score);
        }
        // 2. It learns from its answers
        let learning = Instant::now();
        let learned = self.stage.learn(done, &sampled)?;
        let besides: f64 = learned.seconds.iter().map(|part| part.1).sum();
        let optimisation = (learning.elapsed().as_secs_f64() - besides).max(0.0);
        let mut metrics = learned.metrics;
        metrics.push(("train/target_tokens", learned.target_tokens as f64));
        let mut seconds = std::mem::take(&mut sampled.seconds);
        seconds.extend(learned.seconds);
        if let Some(look) = self.looks.at(done) {
            metrics.extend(look.metrics());
            seconds.push(("time/judge", look.seconds));
        }
        seconds.push(("time/optimisation", optimisation));
        let told = Told {
            metrics,
            named: sampled.figures.metrics(),
            headline: learned.headline,
            tokens: sampled.tokens(),
            seconds,
        };
        self.sampled = Some(sampled);
        Ok(Some(told))
    }

    fn look(&mut self, run: &mut Run, done: u64) -> Result<()> {
        match &self.sampled {
            Some(sampled) => record_samples(run, done, self.stage.shown(sampled), self.course.eval.samples),
            None => Ok(()),
        }
    }

    fn save(&self, run: &mut Run, done: u64, occasion: Occasion) -> Result<()> {
        let mut state = self.stage.state(done)?;
        if let Some(held_out) = &self.setup.held_out {
            held_out.keep(&mut state, self.looks)?;
        }
        save(run, (done, occasion), state.into(), |writer| {
            self.stage.write(writer)?;
            self.looks.write(self.at.0, writer)
        })
    }
}

/// An episode of a test: its prompt and response, the log-probabilities of each of the response's tokens under policy and
/// reference, and its score.
#[cfg(test)]
pub(crate) fn made(
    index: usize,
    (prompt, response): (&[u32], &[u32]),
    (logprob, ref_logprob): (f32, f32),
    score: f32,
) -> Episode {
    Episode {
        index,
        ids: [prompt, response].concat().into(),
        spans: std::iter::once(prompt.len()..prompt.len() + response.len()).collect(),
        logprobs: vec![logprob; response.len()],
        ref_logprobs: vec![ref_logprob; response.len()],
        score,
        ended: true,
        unscorable: false,
        text: (String::new(), String::new()),
        extra: Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_takes_everything_once() {
        let minibatches = passes((10, 4), (3, 2), 7);
        let sizes: Vec<usize> = minibatches.iter().map(Vec::len).collect();
        assert_eq!(sizes, [4, 4, 2, 4, 4, 2]);
        assert!(minibatches.iter().all(|places| places.is_sorted()));
        for pass in minibatches.chunks(3) {
            let mut all = pass.concat();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..10));
        }
        // Orders differ between passes and updates, and are those of the update
        assert_ne!(minibatches[..3], minibatches[3..]);
        assert_eq!(passes((10, 4), (6, 1), 7), minibatches[..3]);
        assert!(passes((0, 4), (0, 2), 7).is_empty());
    }

    #[test]
    fn scores_that_are_no_numbers_end_the_run() {
        let episodes = || {
            vec![
                made(0, (&[1], &[2]), (-1.0, -1.0), 1.0),
                made(1, (&[1], &[3]), (-1.0, -1.5), 3.0),
            ]
        };
        let mut sampled = Sampled::of(Collected {
            episodes: episodes(),
            first_refusal: None,
            figures: Figures::default(),
            seconds: Vec::new(),
        });
        sampled.check_scores("a stage").unwrap();
        assert_eq!(
            (sampled.mean_score(), sampled.kl(), sampled.tokens()),
            (2.0, Some(0.25), 2)
        );
        sampled.scores[1] = f32::NAN;
        let error = sampled.check_scores("a stage").unwrap_err();
        assert_eq!(error.exit_status().code(), 4, "{error}");
    }
}
