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
use hone_run::Checkpoint;
use hone_text::Chat;
use serde_json::{Map, Value, json};

use super::acting::Acting;
use super::collect::{Collected, Models, collect, collect_episodes};
use super::judge::{HELD_OUT, Judge, Reader, Sum};
use super::looks::{Look, Looks, SEEN};
use super::practice::Course;
use super::prompts::{PreparedPrompt, Prompts};
use super::rehearse::rehearse_look;
use super::sections::{Chosen, JudgeSection, MissingEos, PromptData, RolloutSettings};
use super::setup::{Setup, fitting, keep_offsets, offsets_of};
use crate::artefact::Artefact;
use crate::course::Arrival;
use crate::error::{Result, TrainError};
use crate::job::Job;
use crate::learner::{Ema, Learner};
use crate::plan::Notes;
use crate::sections::Keep;

/// Where the journals of its programs stand.
const OFFSETS: &str = "judge_rewards";

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
            Chosen::Environment(environment) => {
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
            Chosen::Model(path) => {
                let reader = Reader::load((job, engine), "judge.reward", path, tokenizer)?;
                (Judge::Model(Box::new(reader)), Some(()))
            }
            Chosen::Rewards(entries) => {
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
                fitting(&data, &settings, base.model.architecture().context)?;
                let prompts = Prompts::load(job, ("judge.prompts", &data), (tokenizer, chat), course.train.seed)?;
                let prompts = prompts.first(section.limit)?;
                tell_sources(job, &prompts);
                settings.rollout_batch = prompts.all().count() * section.samples;
                judge.check(&prompts, &settings)?;
                refuse_practised(&prompts, practised.0)?;
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
        let all = self.prompts.iter().flat_map(Prompts::all);
        all.flat_map(|(_, prompt)| std::iter::repeat_n(prompt, self.section.samples))
            .collect()
    }

    /// Whether a policy with so many updates behind it is looked at.
    fn is_due(&self, done: u64) -> bool {
        let (total, still) = self.updates;
        done == 0 || done == total || (done.is_multiple_of(self.section.every) && done > still)
    }

    /// Whether a look that comes after so many updates may end the run before its last.
    pub fn may_end(&self, looks: &Looks, done: u64) -> bool {
        let patience = self.section.patience;
        self.is_due(done) && patience.is_some_and(|patience| looks.since_best + 1 >= patience)
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
            let Some(lowest) = looks.lowest(&collected.episodes) else {
                return Err(unreadable(&collected));
            };
            if let Some(reason) = collected.first_refusal.as_ref().filter(|_| !looks.told_of_unscorable) {
                looks.told_of_unscorable = true;
                at.1.message(format!(
                    "the held-out judge cannot score an answer, which counts as the worst that it has seen: {reason}; the metric \
                     judge/unscorable counts such answers"
                ));
            }
            let mut look = Look::of(done, &collected.episodes, self.section.samples, lowest)?;
            look.seconds = started.elapsed().as_secs_f64();
            let kept = (self.section.keep == Keep::Best).then_some((at.0, policy));
            looks.offer((look, lowest), kept);
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
        let since = last.since(best);
        since
            .warning((best.step, last.step))
            .into_iter()
            .for_each(|said| job.message(said));
        json!({
            "looks": looks.count,
            "questions": best.questions(),
            "start": start,
            "best": best.mean,
            "best_step": best.step,
            "last": last.mean,
            "last_step": last.step,
            "since_best": since.described(),
            "unscorable": { "best": best.unscorable, "last": last.unscorable },
            "kept": if keeps_best { "best" } else { "last" },
            "stopped_early": done < wanted,
        })
    }
}

/// Of a first look at which nothing could be scored.
fn unreadable(collected: &Collected) -> TrainError {
    let reason = format!(
        "can score none of the {} answers of its first look: {}; expected a judge that can read what the policy answers",
        collected.episodes.len(),
        collected.first_refusal.as_deref().unwrap_or_default()
    );
    TrainError::setting("judge", reason)
}

/// Says how many prompts of each source are asked, where there are several.
fn tell_sources(job: &Job, prompts: &Prompts) {
    let counts: Vec<String> = prompts
        .counts()
        .map(|(name, count)| format!("{count} of {name}"))
        .collect();
    if counts.len() > 1 {
        job.message(format!("{}: a look asks {}", prompts.key(), counts.join(", ")));
    }
}

/// Refuses prompts that are practised on.
fn refuse_practised(prompts: &Prompts, practised: Option<&Prompts>) -> Result<()> {
    let practised: HashSet<&[u32]> = practised
        .iter()
        .flat_map(|practised| practised.all())
        .map(|(_, prompt)| &*prompt.ids)
        .collect();
    let mut both = prompts.all().filter(|(_, prompt)| practised.contains(&*prompt.ids));
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
    let looks = (0..=updates).filter(|&done| held_out.is_due(done)).count() as u64;
    notes.besides(looks, || rehearse_look(engine, setup, held_out, &policy.model))
}
