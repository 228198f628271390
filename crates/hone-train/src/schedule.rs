//! Learning rates and clipping of a stage, from its `[train]` section.

use hone_compute::{AdamW, StepRate};
use hone_objective::schedule::{Decay, Schedule};

use crate::error::{Result, TrainError};
use crate::sections::{FINAL_FRACTION, PassesSection, ScheduleSetting, TrainSection};

/// What an optimiser step needs to know of the configuration.
pub(crate) struct Rates {
    schedule: Schedule,
    learning_rate: f64,
    clip: Option<f64>,
}

impl Rates {
    /// The rates of a run of `total` steps.
    pub fn new(train: &TrainSection, learning_rate: f64, total: u64) -> Result<Self> {
        if !(learning_rate > 0.0 && learning_rate.is_finite()) {
            return Err(TrainError::setting(
                "train.learning_rate",
                format!("is {learning_rate}; expected a number above 0"),
            ));
        }
        if !(train.clip_norm >= 0.0 && train.clip_norm.is_finite()) {
            return Err(TrainError::setting(
                "train.clip_norm",
                format!("is {}; expected 0 or a number above", train.clip_norm),
            ));
        }
        if !(0.0..=1.0).contains(&train.final_fraction) {
            let reason = format!("is {}; expected 0 to 1", train.final_fraction);
            return Err(TrainError::setting("train.final_fraction", reason));
        }
        if train.schedule == ScheduleSetting::Constant && train.final_fraction != FINAL_FRACTION {
            let reason = format!(
                "is {}, and train.schedule is constant; leave it out, or choose linear or cosine",
                train.final_fraction
            );
            return Err(TrainError::setting("train.final_fraction", reason));
        }
        let decay = match train.schedule {
            ScheduleSetting::Constant => Decay::Constant,
            ScheduleSetting::Linear => Decay::Linear,
            ScheduleSetting::Cosine => Decay::Cosine,
        };
        let warmup = train.warmup_steps.min(total / 2);
        let schedule = Schedule::new(decay, warmup, total.max(1), train.final_fraction)?;
        let clip = (train.clip_norm > 0.0).then_some(train.clip_norm);
        Ok(Self {
            schedule,
            learning_rate,
            clip,
        })
    }

    /// The rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> StepRate {
        StepRate {
            learning_rate: self.learning_rate * self.schedule.fraction(step),
            clip: self.clip,
        }
    }
}

/// Optimiser steps: as configured, or as so many epochs over `items` take at `items_per_step` a step.
pub(crate) fn total_steps(train: &PassesSection, (items, items_per_step): (f64, f64)) -> Result<u64> {
    match (train.steps, train.epochs) {
        (Some(0), _) => Err(TrainError::setting("train.steps", "is 0; expected at least 1")),
        (Some(_), Some(_)) => Err(TrainError::setting(
            "train.steps",
            "stands beside train.epochs; give one of them (--set train.steps= or --set train.epochs= takes one away)",
        )),
        (Some(steps), None) => Ok(steps),
        (None, None) => Err(TrainError::setting("train.epochs", "is missing, as is train.steps")),
        (None, Some(epochs)) => {
            if !(epochs > 0.0 && epochs.is_finite()) {
                return Err(TrainError::setting(
                    "train.epochs",
                    format!("is {epochs}; expected a number above 0"),
                ));
            }
            Ok((items * epochs / items_per_step).ceil().max(1.0) as u64)
        }
    }
}

/// AdamW's constants.
pub(crate) fn adamw(train: &TrainSection) -> Result<AdamW> {
    let check = |key: &str, value: f64, holds: bool, expected: &str| {
        if holds {
            Ok(())
        } else {
            Err(TrainError::setting(
                format!("train.{key}"),
                format!("is {value}; expected {expected}"),
            ))
        }
    };
    let share = |value: f64| (0.0..1.0).contains(&value);
    check("beta1", train.beta1, share(train.beta1), "at least 0 and below 1")?;
    check("beta2", train.beta2, share(train.beta2), "at least 0 and below 1")?;
    let eps = train.eps;
    check("eps", eps, eps > 0.0 && eps.is_finite(), "a number above 0")?;
    check(
        "weight_decay",
        train.weight_decay,
        train.weight_decay >= 0.0 && train.weight_decay.is_finite(),
        "0 or a number above",
    )?;
    Ok(AdamW {
        beta1: train.beta1,
        beta2: train.beta2,
        eps,
        weight_decay: train.weight_decay,
    })
}
