//! How well implicit rewards fit the held-out preferences, and how that is shown.

use hone_compute::Engine;
use hone_math::Key;
use hone_model::Transformer;
use hone_objective::statistics::{Bootstrap, Interval, bootstrap_interval, wilson_interval};
use hone_run::report::Section;
use serde_json::{Map, Value, json};

use super::batch::{Example, HeldOut, compared};
use super::reference::{Reference, token_logprobs};
use super::step::constants;
use crate::error::{Result, TrainError};
use crate::preferred::{Method, Stats};

const CONFIDENCE: f64 = 0.95;

/// What held-out preferences say of a model.
pub(super) struct Evaluation {
    pub stats: Stats,
    /// KTO's estimate of the divergence.
    pub kl: Option<f64>,
    /// Share of pairs (of KTO: responses) that the implicit rewards agree with, with Wilson's interval.
    pub accuracy: Interval,
    /// The same share of each prompt, averaged over prompts, with its bootstrap interval over prompts: judgements of a
    /// prompt are not independent, prompts are.
    pub agreement: Interval,
    prompts: usize,
}

impl Evaluation {
    /// Judges the held-out preferences; none if there are none.
    pub fn of(
        engine: &Engine,
        model: &Transformer,
        held_out: &[HeldOut],
        (reference, method, seed): (&Reference, Method, u64),
    ) -> Result<Option<Self>> {
        if held_out.is_empty() {
            return Ok(None);
        }
        let examples: Vec<&Example> = held_out.iter().map(|h| &h.example).collect();
        let constants = constants(engine, model, &examples, (reference, method))?;
        let responses: Vec<_> = examples.iter().flat_map(|e| &e.responses).collect();
        let logprobs = token_logprobs(engine, model, &responses); // [t]
        if let Some(&got) = logprobs.iter().find(|number| !number.is_finite()) {
            return Err(TrainError::Objective(hone_objective::Error::NotFinite {
                op: "preference",
                name: "log-probability of a held-out response",
                got: f64::from(got),
            }));
        }
        let (mut stats, mut shares) = (Stats::default(), Vec::with_capacity(examples.len()));
        let mut rest = logprobs.as_slice();
        for example in examples {
            let (own, others) = rest.split_at(example.response_tokens());
            rest = others;
            let one = method.judge(&compared(&[example], reference), own, constants)?.stats;
            shares.push(one.accuracy());
            stats.merge(&one);
        }
        Ok(Some(Self {
            accuracy: wilson_interval(stats.correct, stats.count, CONFIDENCE)?,
            agreement: bootstrap_interval(&shares, &Bootstrap::new(Key::new(seed, "preference bootstrap", 0)))?,
            kl: constants.kl,
            stats,
            prompts: held_out.len(),
        }))
    }

    /// Names and values for `metrics.jsonl`.
    pub fn metrics(&self) -> Vec<(&'static str, f64)> {
        let mut metrics = vec![
            ("eval/loss", self.stats.loss),
            ("eval/accuracy", self.accuracy.estimate),
            ("eval/accuracy_low", self.accuracy.low),
            ("eval/accuracy_high", self.accuracy.high),
            ("eval/agreement", self.agreement.estimate),
            ("eval/agreement_low", self.agreement.low),
            ("eval/agreement_high", self.agreement.high),
        ];
        let s = &self.stats;
        if s.chosen_rewards.count() > 0 && s.rejected_rewards.count() > 0 {
            metrics.push(("eval/margins", s.margin()));
        }
        if s.chosen_rewards.count() > 0 {
            metrics.push(("eval/rewards/chosen", s.chosen_rewards.mean()));
            metrics.push(("eval/logps/chosen", s.chosen_logprobs.mean()));
        }
        if s.rejected_rewards.count() > 0 {
            metrics.push(("eval/rewards/rejected", s.rejected_rewards.mean()));
            metrics.push(("eval/logps/rejected", s.rejected_logprobs.mean()));
        }
        metrics.extend(s.lengths.correlation().map(|r| ("eval/length_correlation", r)));
        metrics.extend(self.kl.map(|kl| ("eval/kl", kl)));
        metrics
    }

    /// The same for the run's summary.
    pub fn summary(&self) -> Value {
        let figures = self.metrics().into_iter();
        let mut summary: Map<String, Value> = figures.map(|(name, value)| (name.to_string(), json!(value))).collect();
        summary.insert("held_out_prompts".into(), self.prompts.into());
        summary.insert("held_out_judgements".into(), self.stats.count.into());
        Value::Object(summary)
    }

    /// What the result makes of the held-out preferences, as a table.
    pub fn sections(&self) -> Vec<Section> {
        let rows = self.metrics().into_iter();
        vec![Section::Table {
            title: "Held-out preferences under the result".into(),
            columns: ["figure", "value"].map(String::from).to_vec(),
            rows: rows
                .map(|(name, value)| vec![name.into(), format!("{value:.4}")])
                .collect(),
            note: format!(
                "{} judgements of {} prompts. Accuracy: the share that the implicit rewards agree with, with Wilson's \
                 interval; agreement: each prompt's share, averaged, with its bootstrap interval over prompts; both at \
                 95%. A high accuracy says that the judged answers are told apart, not that the model's own answers are \
                 better.",
                self.stats.count, self.prompts
            ),
        }]
    }
}
