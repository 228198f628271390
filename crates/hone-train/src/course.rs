//! The loop of a run: one step after another, and what is told, looked at and saved on the way.

use std::time::Instant;

use hone_run::{Event, Run};

use crate::error::Result;
use crate::job::{Cadence, Job, Occasion, Outcome};

/// What a stage does at each of a run's steps; of stages that practise, at each update.
pub(crate) trait Work {
    /// What is to be seen to where `done` steps are behind it, before the next one and after the last.
    fn arrive(&mut self, done: u64) -> Result<Arrival> {
        let _ = done;
        Ok(Arrival::Further)
    }

    /// Whether the arrival after `done` steps may end the run before its last one.
    fn may_end(&self, done: u64) -> bool {
        let _ = done;
        false
    }

    /// The step that comes after `done` others. None if the run is asked to stop on the way; nothing has changed then.
    fn step(&mut self, done: u64) -> Result<Option<Told>>;

    /// What is looked at every now and then, after `done` steps.
    fn look(&mut self, run: &mut Run, done: u64) -> Result<()>;

    /// Saves everything that steps change, after `done` of them.
    fn save(&self, run: &mut Run, done: u64, occasion: Occasion) -> Result<()>;
}

/// How a run goes on from a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// With the next step, if there is one.
    Further,
    /// It ends here.
    Over,
    /// It is asked to stop; nothing has changed.
    Interrupted,
}

/// What is told of a step.
pub(crate) struct Told {
    /// Names and values for `metrics.jsonl`.
    pub metrics: Vec<(&'static str, f64)>,
    /// The same whose names the configuration gives.
    pub named: Vec<(String, f64)>,
    /// The few that are shown on the way.
    pub headline: Vec<(&'static str, f64)>,
    /// Tokens that it read or sampled.
    pub tokens: u64,
    /// Seconds of its parts, for `timings.jsonl`.
    pub seconds: Vec<(&'static str, f64)>,
}

/// Works from step `done` to the last. Gives the outcome if the run is asked to stop before; it is saved then.
///
/// # Errors
/// The stage's, and those of the run's files.
pub(crate) fn follow(
    job: &Job,
    (run, mut done): (&mut Run, u64),
    (stage, cadence): (&str, &Cadence),
    work: &mut impl Work,
) -> Result<Option<Outcome>> {
    let total = cadence.total;
    job.observer.event(&Event::Started {
        stage: stage.into(),
        step: done,
        total,
    });
    loop {
        let started = Instant::now();
        let arrival = match done < total && job.shutdown.requested() {
            true => Arrival::Interrupted,
            false => work.arrive(done)?,
        };
        let told = match arrival {
            Arrival::Over => {
                work.save(run, done, Occasion::Due)?;
                break;
            }
            Arrival::Further if done >= total => break,
            Arrival::Further => work.step(done)?,
            Arrival::Interrupted => None,
        };
        let Some(told) = told else {
            work.save(run, done, Occasion::Interruption)?;
            job.observer.event(&Event::Finished {
                step: done,
                stopped: true,
            });
            return Ok(Some(Outcome::Stopped { step: done }));
        };
        done += 1;
        record(job, (run, done, total), told, started)?;
        // Where the run may end, too, since a run that goes on from here no longer has what its last step made
        if cadence.evaluates(done) || work.may_end(done) {
            work.look(run, done)?;
        }
        if cadence.saves(done) {
            work.save(run, done, Occasion::Due)?;
        }
    }
    Ok(None)
}

fn record(job: &Job, (run, done, total): (&mut Run, u64, u64), told: Told, started: Instant) -> Result<()> {
    let named = told.named.iter().map(|(name, value)| (name.as_str(), *value));
    let metrics: Vec<(&str, f64)> = told.metrics.into_iter().chain(named).collect();
    run.record(done, &metrics)?;
    let seconds = started.elapsed().as_secs_f64();
    let mut timings = told.seconds;
    timings.push(("seconds", seconds));
    timings.push(("tokens_per_second", told.tokens as f64 / seconds));
    timings.push(("steps_in_all", total as f64));
    run.record_timings(done, &timings)?;
    let headline = told.headline.into_iter();
    job.observer.event(&Event::Step {
        step: done,
        total,
        tokens: told.tokens,
        headline: headline.map(|(name, value)| (name.to_string(), value)).collect(),
    });
    Ok(())
}
