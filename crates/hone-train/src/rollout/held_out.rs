//! A held-out judge: it looks at a policy on its way, on prompts or episodes that are not practised on, so that a run can give the
//! model that was best by it, and end when none is better. After the early stopping of supervised learning (Prechelt, *Early stopping -
//! but when?*, 1998, with a patience counted in looks); what is maximised and what judges may part (Gao et al., *Scaling laws for reward
//! model overoptimization*, 2023).
//!
//! Every look asks the same with the same random numbers, so that two looks differ by the policy alone.

use std::collections::HashSet;
use std::time::Instant;

use hone_compute::Engine;
use hone_generate::Dialogue;
use hone_math::Key;
use hone_model::Transformer;
use hone_run::{Checkpoint, CheckpointWriter};
use hone_text::Chat;
use serde_json::{Map, Value, json};

use super::acting::Acting;
use super::collect::{Collected, Episode, Models, collect, collect_episodes};
use super::judge::{HELD_OUT, Judge, Reader, Sum};
use super::practice::Course;
use super::prompts::{PreparedPrompt, Prompts};
use super::record::{mean, tell_unscorable};
use super::rehearse::rehearse_look;
use super::sections::{Chosen, JudgeSection, Judging, MissingEos, PromptData, RolloutSettings};
use super::setup::{Setup, keep_offsets, offsets_of};
use crate::artefact::Artefact;
use crate::course::Arrival;
use crate::error::{Result, TrainError};
use crate::job::Job;
use crate::learner::{Ema, Learner};
use crate::plan::{Notes, evaluations};
use crate::sections::Keep;

/// Under this name a checkpoint's state holds what was seen, and its files the best weights.
const SEEN: &str = "judge";
/// Where the journals of its programs stand.
const OFFSETS: &str = "judge_rewards";
/// Half of a normal distribution's central 95%, in standard errors.
const NORMAL_95: f64 = 1.96;

/// What looks at a policy, and what it asks.
pub(crate) struct HeldOut {
    pub judge: Judge,
    /// None in an environment.
    prompts: Option<Prompts>,
    /// Of what is asked at a look.
    pub settings: RolloutSettings,
    section: JudgeSection,
    /// Of the random numbers.
    seed: u64,
    /// Updates in all, and those at the beginning in which the policy stays as it is.
    updates: (u64, u64),
}

/// What is practised on: prompts, or what an environment shows.
type Practised<'a> = (Option<&'a Prompts>, Chosen<'a>);

impl HeldOut {
    /// Loads what judges and what is asked, and refuses what is practised on, too.
    ///
    /// # Errors
    /// A setting's, a model's or the data's.
    pub fn load(
        (job, engine): (&Job, &Engine),
        (section, course): (&JudgeSection, &Course<'_>),
        (base, longest): (&Artefact, usize),
        (chat, practised): (Option<&Chat>, Practised<'_>),
    ) -> Result<Self> {
        let judging = section.judging()?;
        let tokenizer = &base.companion.tokenizer;
        let mut settings = RolloutSettings {
            rollout_batch: section.limit * section.samples,
            samples_per_prompt: section.samples,
            // An answer counts as it stands
            missing_eos: MissingEos::Keep,
            ..course.settings
        };
        let (judge, prompts) = match judging {
            Judging::Environment(environment) => {
                if let Chosen::Environment(practice) = practised.1
                    && practice.setting == environment.setting
                    && section.seed == course.train.seed
                {
                    let reason = format!(
                        "is {}, as train.seed is: these episodes are practised on; expected another",
                        section.seed
                    );
                    return Err(TrainError::setting("judge.seed", reason));
                }
                let dialogue = Dialogue::new(tokenizer, chat)?;
                let context = base.model.architecture().context;
                let acting = Acting::load(job, environment, (&dialogue, section.seed), (&settings, context))?;
                (Judge::Environment(Box::new(acting)), None)
            }
            Judging::Model(path) => {
                let reader = Reader::load((job, engine), "judge.reward", path, tokenizer)?;
                (Judge::Model(Box::new(reader)), Some(()))
            }
            Judging::Rewards(entries) => {
                let sum = Sum::load((job, engine), (HELD_OUT, entries), tokenizer)?;
                (Judge::Sum(Box::new(sum)), Some(()))
            }
        };
        let prompts = match prompts {
            None => None,
            Some(()) => {
                let data = PromptData {
                    prompts: section.prompts.clone(),
                    held_out: 0.0,
                    max_prompt_length: Some(longest),
                };
                let prompts = Prompts::load(job, ("judge.prompts", &data), (tokenizer, chat), course.train.seed)?;
                settings.rollout_batch = prompts.all().take(section.limit).count() * section.samples;
                judge.check(&prompts, &settings)?;
                refuse_practised(&prompts, section.limit, practised.0)?;
                Some(prompts)
            }
        };
        Ok(Self {
            judge,
            prompts,
            settings,
            section: section.clone(),
            seed: course.train.seed,
            updates: (course.total, course.still),
        })
    }

    /// Loads weights in the place of those of a rehearsal, and opens journals from where the run goes on.
    ///
    /// # Errors
    /// If a file is at fault.
    pub fn begin(&mut self, job: &Job, engine: &Engine, checkpoint: Option<&Checkpoint>) -> Result<()> {
        self.judge.begin(job, engine, &offsets_of(checkpoint, OFFSETS))
    }

    /// The prompts of a look, each as often as it is answered.
    pub fn asked(&self) -> Vec<&PreparedPrompt> {
        let all = self.prompts.iter().flat_map(Prompts::all).take(self.section.limit);
        all.flat_map(|(_, prompt)| std::iter::repeat_n(prompt, self.section.samples))
            .collect()
    }

    /// Whether a policy with so many updates behind it is looked at.
    fn is_due(&self, done: u64) -> bool {
        let (total, still) = self.updates;
        done == 0 || done == total || (done.is_multiple_of(self.section.every) && done > still)
    }

    /// Looks at the policy, if it is time to, and says whether the run goes on.
    ///
    /// # Errors
    /// If sampling or judging fails.
    pub fn arrive(
        &self,
        at: (&Engine, &Job),
        (setup, policy): (&Setup, &Transformer),
        looks: &mut Looks,
        done: u64,
    ) -> Result<Arrival> {
        if self.is_due(done) && looks.last_step() != Some(done) {
            let started = Instant::now();
            let Some(collected) = self.ask(at, setup, (policy, looks.count))? else {
                return Ok(Arrival::Interrupted);
            };
            if let Some(reason) = collected.first_refusal.as_ref().filter(|_| looks.count == 0) {
                tell_unscorable(at.1, self.settings.section, reason, self.settings.missing_eos_score);
            }
            let mut look = Look::of(done, &collected.episodes, self.section.samples);
            look.seconds = started.elapsed().as_secs_f64();
            let kept = (self.section.keep == Keep::Best).then_some((at.0, policy));
            looks.offer(look, kept);
        }
        let over = self
            .section
            .patience
            .is_some_and(|patience| looks.since_best >= patience);
        Ok(if over { Arrival::Over } else { Arrival::Further })
    }

    /// What the policy answers; none if the run is asked to stop on the way.
    fn ask(
        &self,
        (engine, job): (&Engine, &Job),
        setup: &Setup,
        (policy, number): (&Transformer, u64),
    ) -> Result<Option<Collected>> {
        let models = Models {
            policy,
            reference: None,
            value: None,
            judge: &self.judge,
            tokenizer: &setup.base.companion.tokenizer,
            chat: setup.chat.as_ref(),
            stop: &setup.stop,
            shutdown: &job.shutdown,
        };
        let key = Key::new(self.seed, "judge", 0);
        match &self.judge {
            // The same episodes at each look
            Judge::Environment(acting) => collect_episodes(engine, &models, acting, &self.settings, (0, key)),
            _ => collect(engine, &models, &self.asked(), &self.settings, (number, key)),
        }
    }

    /// Adds to a checkpoint's state what was seen, and where the journals stand.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn keep(&self, state: &mut Map<String, Value>, looks: &Looks) -> Result<()> {
        state.insert(SEEN.into(), looks.state());
        keep_offsets(state, OFFSETS, self.judge.offsets_before(looks.count + 1)?);
        Ok(())
    }

    /// What a run of so many updates came to, of as many as were wanted: said, and for its summary.
    pub fn conclude(&self, job: &Job, looks: &Looks, (done, wanted): (u64, u64)) -> Value {
        let (Some(start), Some(best), Some(last)) = (looks.start, &looks.best, &looks.last) else {
            return Value::Null;
        };
        let keeps_best = self.section.keep == Keep::Best;
        if done < wanted {
            job.message(format!(
                "ended after {done} of {wanted} updates: at {} looks in a row the held-out judge found none better than after {}",
                looks.since_best, best.step
            ));
        }
        let given = match (keeps_best, best.step) {
            (true, 0) => "the result is the model as it was at the start: no update helped by this judge",
            (true, _) => "the result is the best one",
            (false, _) => "the result is the last one (judge.keep = \"best\" gives the best one)",
        };
        job.message(format!(
            "held-out judge: {start:.4} at the start, best after {} updates with {:.4}, at the end {:.4}; {given}",
            best.step, best.mean, last.mean
        ));
        let (difference, error) = last.less(best);
        let reach = NORMAL_95 * error;
        if difference + reach < 0.0 {
            job.message(format!(
                "look here: from update {} to {} the held-out judge fell by {:.4} +- {:.4} on the same questions; compare \
                 objective/scores and judge/scores",
                best.step,
                last.step,
                -difference,
                reach
            ));
        }
        json!({
            "looks": looks.count,
            "questions": best.by_question.len(),
            "start": start,
            "best": best.mean,
            "best_step": best.step,
            "last": last.mean,
            "last_step": last.step,
            "since_best": {
                "mean": difference,
                "low": difference - reach,
                "high": difference + reach,
            },
            "kept": if keeps_best { "best" } else { "last" },
            "stopped_early": done < wanted,
        })
    }
}

/// Refuses prompts that are practised on.
fn refuse_practised(prompts: &Prompts, limit: usize, practised: Option<&Prompts>) -> Result<()> {
    let practised: HashSet<&[u32]> = practised
        .iter()
        .flat_map(|practised| practised.all())
        .map(|(_, prompt)| &*prompt.ids)
        .collect();
    let mut both = prompts
        .all()
        .take(limit)
        .filter(|(_, prompt)| practised.contains(&*prompt.ids));
    let Some((source, first)) = both.next() else {
        return Ok(());
    };
    let asked = super::judge::prompt_text(&first.prompt.input);
    let reason = format!(
        "{} of the prompts that it looks at are in data.prompts, too, such as {asked:?} of {source}; expected prompts that are not practised \
         on (`hone data split` holds some out)",
        1 + both.count()
    );
    Err(TrainError::setting("judge.prompts", reason))
}

/// What was seen of a policy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Look {
    /// Updates that it had behind it.
    pub step: u64,
    /// Mean of the answers' scores, by what was asked.
    by_question: Vec<f64>,
    /// The mean of these.
    pub mean: f64,
    /// Tokens of an answer, and the share that ended.
    answers: (f64, f64),
    /// What it took.
    pub seconds: f64,
}

impl Look {
    fn of(step: u64, episodes: &[Episode], samples: usize) -> Self {
        let of_group = |group: &[Episode]| mean(group.iter().map(|episode| f64::from(episode.score)));
        let by_question: Vec<f64> = episodes.chunks(samples).map(of_group).collect();
        Self {
            step,
            mean: mean(by_question.iter().copied()),
            by_question,
            answers: (
                mean(episodes.iter().map(|episode| episode.length() as f64)),
                mean(episodes.iter().map(|episode| f64::from(u8::from(episode.ended)))),
            ),
            seconds: 0.0,
        }
    }

    /// Names and values for `metrics.jsonl`.
    pub fn metrics(&self) -> [(&'static str, f64); 4] {
        [
            ("judge/scores", self.mean),
            ("judge/standard_error", standard_error(&self.by_question)),
            ("judge/mean_length", self.answers.0),
            ("judge/ended", self.answers.1),
        ]
    }

    /// How much more it found than another one: the mean difference, and its standard error over questions.
    fn less(&self, other: &Self) -> (f64, f64) {
        let pairs = self.by_question.iter().zip(&other.by_question);
        let differences: Vec<f64> = pairs.map(|(a, b)| a - b).collect();
        (mean(differences.iter().copied()), standard_error(&differences))
    }

    /// As bits, which are read back as they are.
    fn state(&self) -> Value {
        json!({
            "step": self.step,
            "by_question": self.by_question.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            "length": self.answers.0.to_bits(),
            "ended": self.answers.1.to_bits(),
        })
    }

    fn from_state(state: &Value) -> Option<Self> {
        let number = |value: &Value| value.as_u64().map(f64::from_bits);
        let by_question: Vec<f64> = state["by_question"].as_array()?.iter().filter_map(number).collect();
        Some(Self {
            step: state["step"].as_u64()?,
            mean: mean(by_question.iter().copied()),
            by_question,
            answers: (number(&state["length"])?, number(&state["ended"])?),
            seconds: 0.0,
        })
    }
}

/// Of a mean: the root of the variance, with n - 1, over n; 0 of fewer than two.
fn standard_error(numbers: &[f64]) -> f64 {
    let count = numbers.len() as f64;
    if numbers.len() < 2 {
        return 0.0;
    }
    let centre = mean(numbers.iter().copied());
    let squares: f64 = numbers.iter().map(|x| (x - centre) * (x - centre)).sum();
    (squares / (count - 1.0) / count).sqrt()
}

/// What a judge saw on the way.
#[derive(Default)]
pub(crate) struct Looks {
    /// So many.
    count: u64,
    /// The mean of the first.
    start: Option<f64>,
    last: Option<Look>,
    /// The first of the highest mean.
    best: Option<Look>,
    /// Looks behind the best one.
    since_best: u64,
    weights: Option<Ema>,
}

impl Looks {
    /// Takes up what was saved; nothing at the start of a run.
    ///
    /// # Errors
    /// If the saved weights do not fit the model.
    pub fn load(engine: &Engine, model: &Transformer, checkpoint: Option<&Checkpoint>) -> Result<Self> {
        let Some(checkpoint) = checkpoint else {
            return Ok(Self::default());
        };
        let state = &checkpoint.state()[SEEN];
        let number = |key: &str| state[key].as_u64();
        let weights = match checkpoint.path_of(&format!("{SEEN}.weights.safetensors")) {
            Ok(_) => {
                let mut weights = Ema::new(engine, model, 0.0);
                weights.load(engine, SEEN, checkpoint)?;
                Some(weights)
            }
            Err(_) => None,
        };
        Ok(Self {
            count: number("count").unwrap_or(0),
            start: number("start").map(f64::from_bits),
            last: Look::from_state(&state["last"]),
            best: Look::from_state(&state["best"]),
            since_best: number("since_best").unwrap_or(0),
            weights,
        })
    }

    /// The look at the policy with so many updates behind it, if there was one.
    pub fn at(&self, done: u64) -> Option<&Look> {
        self.last.as_ref().filter(|look| look.step == done)
    }

    /// Updates that the last one had behind it.
    pub fn last_step(&self) -> Option<u64> {
        self.last.as_ref().map(|look| look.step)
    }

    /// The model of the best look, where it is kept.
    pub fn best_model(&self) -> Option<&Transformer> {
        self.weights.as_ref().map(|weights| &weights.model)
    }

    fn offer(&mut self, look: Look, model: Option<(&Engine, &Transformer)>) {
        self.count += 1;
        self.start.get_or_insert(look.mean);
        if self.best.as_ref().is_none_or(|best| look.mean > best.mean) {
            self.best = Some(look.clone());
            self.since_best = 0;
            self.weights = model.map(|(engine, model)| Ema::new(engine, model, 0.0));
        } else {
            self.since_best += 1;
        }
        self.last = Some(look);
    }

    fn state(&self) -> Value {
        json!({
            "count": self.count,
            "start": self.start.map(f64::to_bits),
            "last": self.last.as_ref().map(Look::state),
            "best": self.best.as_ref().map(Look::state),
            "since_best": self.since_best,
        })
    }

    /// Writes the best weights into a checkpoint.
    ///
    /// # Errors
    /// If writing fails.
    pub fn write(&self, engine: &Engine, writer: &mut CheckpointWriter) -> Result<(), hone_run::Error> {
        let weights = self.weights.as_ref();
        weights.map_or(Ok(()), |weights| weights.save(engine, SEEN, writer))
    }
}

/// The copy of weights that a plan counts, where the best are kept.
pub(crate) fn best_weights(notes: &mut Notes<'_>, setup: &Setup, policy: &Learner) -> Option<Ema> {
    let keeps = |held_out: &&HeldOut| held_out.section.keep == Keep::Best;
    setup.held_out.as_ref().filter(keeps)?;
    let best = Ema::new(notes.engine(), &policy.model, 0.0);
    notes.tensors("the weights that the judge found best, f32");
    Some(best)
}

/// The looks of a run, on an engine that only counts.
///
/// # Errors
/// If sampling fails.
pub(crate) fn rehearse_looks(notes: &mut Notes<'_>, setup: &Setup, policy: &Learner, updates: u64) -> Result<()> {
    let Some(held_out) = &setup.held_out else {
        return Ok(());
    };
    let engine = notes.engine();
    let looks = 1 + evaluations(held_out.section.every, updates);
    notes.besides(looks, || rehearse_look(engine, setup, held_out, &policy.model))
}

#[cfg(test)]
mod tests {
    use super::super::practice::made;
    use super::*;

    fn look(step: u64, scores: &[f32]) -> Look {
        let episodes: Vec<Episode> = scores
            .iter()
            .enumerate()
            .map(|(i, &score)| made(i, (&[1], &[2, 3]), (-1.0, -1.0), score))
            .collect();
        Look::of(step, &episodes, 2)
    }

    #[test]
    fn the_first_of_the_highest_means_is_best() {
        let mut looks = Looks::default();
        for (step, scores) in [
            (0, [0.0, 1.0, 0.0, 1.0]),
            (4, [1.0, 1.0, 0.0, 1.0]),
            (8, [0.0, 1.0, 1.0, 1.0]),
            (9, [0.0, 0.0, 0.0, 1.0]),
        ] {
            looks.offer(look(step, &scores), None);
        }
        let best = looks.best.as_ref().unwrap();
        assert_eq!((best.step, best.mean, looks.since_best, looks.count), (4, 0.75, 2, 4));
        assert_eq!((looks.start, looks.last_step()), (Some(0.5), Some(9)));
        assert!(looks.at(8).is_none() && looks.at(9).is_some());
        // What is saved is what was seen
        let state = looks.state();
        assert_eq!(Look::from_state(&state["best"]).unwrap(), *best);
        assert_eq!(Look::from_state(&state["last"]), looks.last);
    }

    #[test]
    fn differences_are_those_of_the_same_questions() {
        // Means by question 1, 0 against 0.5, 0.5: differences 0.5 and -0.5
        let (a, b) = (look(3, &[1.0, 1.0, 0.0, 0.0]), look(1, &[0.5; 4]));
        assert_eq!(a.less(&b), (0.0, 0.5));
        assert_eq!(a.metrics()[..2], [("judge/scores", 0.5), ("judge/standard_error", 0.5)]);
        assert_eq!(a.metrics()[2..], [("judge/mean_length", 2.0), ("judge/ended", 1.0)]);
        assert_eq!(standard_error(&[3.0]), 0.0);
    }
}
