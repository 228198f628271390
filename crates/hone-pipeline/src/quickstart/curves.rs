//! What a PPO run did update by update: its own metrics, and what the labeler thinks of its samples.

use std::collections::BTreeMap;

use hone_run::Sample;
use hone_world::{Labeler, Preferences, Question};
use serde_json::{Value, json};

use super::Steps;
use super::judge::mean;
use super::world::questions;
use crate::error::Result;
use crate::files::read_lines;

/// Metrics whose curves are kept, if the run has them.
const METRICS: [&str; 5] = [
    "objective/kl",
    "objective/scores",
    "objective/entropy",
    "completions/mean_length",
    "completions/ended",
];

/// `{ "metrics": {NAME: [[step, value]..]}, "samples": [{step, utility, score, kl, count}..], "first": .., "last": .. }`.
pub(super) fn of_run(steps: &Steps, stage: &str) -> Result<Value> {
    let dir = steps.out.join(stage);
    let mut curves: BTreeMap<&str, Vec<(u64, f64)>> = BTreeMap::new();
    for line in read_lines::<Value>(&dir.join("metrics.jsonl"))? {
        let Some(step) = line["step"].as_u64() else {
            continue;
        };
        for name in METRICS {
            if let Some(value) = line[name].as_f64() {
                curves.entry(name).or_default().push((step, value));
            }
        }
    }
    let samples = samples(steps, stage)?;
    let mut change = serde_json::Map::new();
    for (at, sample) in [("first", samples.first()), ("last", samples.last())] {
        if let Some(sample) = sample {
            change.insert(at.into(), sample.clone());
        }
    }
    Ok(json!({ "metrics": curves, "samples": samples, "change": change }))
}

/// The labeler's and the reward model's opinion of the samples of each evaluation.
fn samples(steps: &Steps, stage: &str) -> Result<Vec<Value>> {
    let asked: BTreeMap<String, Question> = questions(steps, "prompts.jsonl")?
        .into_iter()
        .map(|question| (question.text.clone(), question))
        .collect();
    let labeler = Labeler::new(Preferences::standard(), 0);
    let mut by_step: BTreeMap<u64, Vec<(f64, Sample)>> = BTreeMap::new();
    for sample in read_lines::<Sample>(&steps.out.join(stage).join("samples.jsonl"))? {
        if let Some(question) = asked.get(&sample.prompt) {
            let utility = labeler.utility(question, &sample.response);
            by_step.entry(sample.step).or_default().push((utility, sample));
        }
    }
    let point = |(step, samples): (u64, Vec<(f64, Sample)>)| {
        json!({
            "step": step,
            "count": samples.len(),
            "utility": mean(samples.iter().map(|(utility, _)| *utility)),
            "score": mean(samples.iter().filter_map(|(_, sample)| sample.score)),
            "kl": mean(samples.iter().filter_map(|(_, sample)| sample.kl)),
            "words": mean(samples.iter().map(|(_, s)| s.response.split_whitespace().count() as f64)),
        })
    };
    Ok(by_step.into_iter().map(point).collect())
}
