//! What runs with rollouts write down and say.

use hone_run::{Run, Sample};

use super::collect::Episode;
use crate::error::Result;
use crate::job::Job;

/// The mean of some numbers; 0 of none.
pub(crate) fn mean(numbers: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0_u64);
    for number in numbers {
        sum += number;
        count += 1;
    }
    sum / count.max(1) as f64
}

/// Said of the first response that the reward model cannot read; the metric counts all of them.
pub(crate) fn tell_unscorable(job: &Job, section: &str, reason: &str, score: f64) {
    job.message(format!(
        "a response cannot be scored, and gets {section}.missing_eos_score = {score}: {reason}; the metric \
         completions/unscorable counts such responses"
    ));
}

/// Writes the first episodes of an update into `samples.jsonl`.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn record_samples<'a>(
    run: &mut Run,
    step: u64,
    episodes: impl IntoIterator<Item = &'a Episode>,
    count: usize,
) -> Result<()> {
    let sample = |e: &Episode| {
        let mut extra = serde_json::Map::new();
        extra.insert("tokens".into(), e.length().into());
        extra.insert("ended".into(), e.ended.into());
        extra.extend(e.extra.clone());
        let (prompt, response) = e.text.clone();
        Sample {
            step,
            prompt,
            response,
            score: Some(f64::from(e.score)),
            kl: (!e.ref_logprobs.is_empty()).then(|| e.kl()),
            extra,
        }
    };
    let samples: Vec<Sample> = episodes.into_iter().take(count).map(sample).collect();
    run.record_samples(&samples)?;
    Ok(())
}
