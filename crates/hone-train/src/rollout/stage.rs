//! The run of a stage with rollouts, from its configuration to its result.

use hone_compute::Engine;
use hone_data::{Source, check_share};
use hone_run::{Checkpoint, Configuration, Inputs, Resolved};

use super::judge::{HELD_OUT, PRACTICE};
use super::looks::Looks;
use super::practice::{Course, Practice, practise};
use super::sections::{Chosen, JudgeSection};
use super::setup::Setup;
use crate::artefact;
use crate::checked::{adapter_can_be, refuse_no_source};
use crate::error::{Result, TrainError};
use crate::job::{Begun, Job, Outcome, Started, check_engine};
use crate::plan::{Notes, Plan};

/// The configuration of a stage with rollouts.
pub(crate) trait Practised: Configuration {
    /// What is loaded besides what all such stages have.
    type Besides: Besides<Self>;
    /// The stage at work.
    type Stage<'a>: Practice
    where
        Self: 'a;

    /// What the stage is made from, and how far it goes.
    fn course(&self) -> Course<'_>;

    /// Refuses what makes no sense.
    fn check(&self) -> Result<()>;

    /// Data besides prompts.
    fn further_data(&self) -> &[Source] {
        &[]
    }

    /// Goes through updates on an engine that only counts.
    fn rehearse(&self, notes: Notes<'_>, of: (&Setup, &Self::Besides)) -> Result<Plan>;

    /// The stage where a run begins.
    fn stage<'a>(&'a self, at: (&'a Engine, &'a Job), of: (&'a Setup, &'a Self::Besides)) -> Result<Self::Stage<'a>>;
}

/// What a stage has besides what all stages with rollouts have; of most of them nothing.
pub(crate) trait Besides<C>: Sized {
    /// Loads it.
    fn load(job: &Job, setup: &Setup, config: &C) -> Result<Self>;
}

impl<C> Besides<C> for () {
    fn load(_: &Job, _: &Setup, _: &C) -> Result<Self> {
        Ok(())
    }
}

/// Practises as configured, or goes on where it was interrupted.
///
/// # Errors
/// If the configuration, the data or a model is at fault, the memory does not suffice, training diverges, or an invariant
/// breaks.
pub(crate) fn run<C: Practised>(job: &Job, config: &Resolved<C>) -> Result<Outcome> {
    train(job, config).map_err(|error| error.at(config))
}

/// Checks a configuration by itself, without models and data.
///
/// # Errors
/// The first value that makes no sense.
pub(crate) fn checked<C: Practised>(c: &C) -> Result<()> {
    c.check()?;
    let course = c.course();
    let section = course.settings.section;
    check_engine(course.train)?;
    course.model.needed(&format!("{section} starts from a model"))?;
    adapter_can_be(course.lora)?;
    check_share(course.data.held_out)?;
    if let Some(Chosen::Rewards(entries)) = course.judge.map(JudgeSection::judging).transpose()? {
        HELD_OUT.check(entries)?;
    }
    let prompts = &course.data.prompts;
    match course.maximised.chosen(section)? {
        Chosen::Environment(environment) => {
            environment.check("environment")?;
            if !prompts.is_empty() {
                let reason =
                    "stands beside [environment], which shows the policy what it makes itself; leave one of them out";
                return Err(TrainError::setting("data.prompts", reason));
            }
            Ok(())
        }
        Chosen::Rewards(entries) => {
            PRACTICE.check(entries)?;
            refuse_no_source("data.prompts", prompts, "prompts.jsonl")
        }
        Chosen::Model(_) => refuse_no_source("data.prompts", prompts, "prompts.jsonl"),
    }
}

/// Plans a run without starting it. If it is to be `timed`, the machine's speed is measured.
///
/// # Errors
/// If the configuration, the data or a model is at fault.
pub(crate) fn plan<C: Practised>(job: &Job, config: &Resolved<C>, timed: bool) -> Result<Plan> {
    rehearsed(job, &config.config, timed).map_err(|error| error.at(config))
}

fn train<C: Practised>(job: &Job, config: &Resolved<C>) -> Result<Outcome> {
    let c = &config.config;
    checked(c)?;
    let course = c.course();
    let engine = job.engine(course.train)?;
    // 1. What does not exist yet is rehearsed first, so that what cannot start leaves nothing behind
    let begun = job.begin(&engine, (config, course.train, inputs(job, c)), || {
        let rehearsal = job.rehearsal(course.train)?;
        let (setup, besides) = load(job, &rehearsal, c)?;
        let plan = c.rehearse(Notes::new(&rehearsal), (&setup, &besides))?;
        plan.check(job, course.train)?;
        Ok((setup, besides))
    })?;
    let (started, (mut setup, besides)) = match begun {
        Begun::Before(outcome) => return Ok(outcome),
        Begun::Go(begun) => *begun,
    };
    // 2. Weights, and what a checkpoint holds
    let Started { mut run, checkpoint } = started;
    setup.load_weights(job, &engine, checkpoint.as_ref())?;
    let mut stage = c.stage((&engine, job), (&setup, &besides))?;
    if let Some(checkpoint) = &checkpoint {
        stage.load(checkpoint)?;
    }
    let mut looks = Looks::load(&engine, stage.result(), checkpoint.as_ref())?;
    // 3. Updates
    let done = checkpoint.as_ref().map_or(0, Checkpoint::step);
    let (at, of) = ((&engine, job), (&course, &setup));
    if let Some(stopped) = practise(at, (&mut run, done), of, (&mut stage, &mut looks))? {
        return Ok(stopped);
    }
    // 4. The result
    let done = looks.last_step().unwrap_or(course.total);
    let mut summary = stage.summary(done);
    if let Some(longest) = setup.longest_prompt {
        summary.insert("max_prompt_length".into(), longest.into());
    }
    if let Some(held_out) = &setup.held_out {
        summary.insert("judge".into(), held_out.conclude(job, &looks, (done, course.total)));
    }
    let result = looks.best_model().unwrap_or_else(|| stage.result());
    let model = artefact::publish(&engine, &run, &setup.base.companion, result)?;
    job.finish(run, (model, summary.into()), Vec::new(), done)
}

fn rehearsed<C: Practised>(job: &Job, c: &C, timed: bool) -> Result<Plan> {
    checked(c)?;
    let train = c.course().train;
    let rehearsal = job.rehearsal(train)?;
    let (setup, besides) = load(job, &rehearsal, c)?;
    let notes = Notes::timed_if(timed, &rehearsal, (job, train))?;
    c.rehearse(notes, (&setup, &besides))
}

fn load<C: Practised>(job: &Job, engine: &Engine, c: &C) -> Result<(Setup, C::Besides)> {
    let setup = Setup::load(job, engine, &c.course())?;
    let besides = C::Besides::load(job, &setup, c)?;
    Ok((setup, besides))
}

fn inputs<C: Practised>(job: &Job, c: &C) -> Inputs {
    let course = c.course();
    let judges = course.judge.map(JudgeSection::models).unwrap_or_default();
    let rewards = [course.maximised.models(), judges].concat();
    let models = std::iter::once(&course.model.path).chain(&rewards);
    let judged = course.judge.map_or(&[][..], |judge| &judge.prompts);
    let sources = course.data.prompts.iter().chain(judged).chain(c.further_data());
    job.inputs(models, sources)
}
