//! How well scores fit the held-out preferences, and how that is shown.

use hone_compute::Engine;
use hone_generate::scores_of;
use hone_math::Key;
use hone_model::Transformer;
use hone_objective::bradley_terry::{Comparison, PreferenceStats, Ties, bradley_terry, predictions, prepare};
use hone_objective::statistics::{
    Bootstrap, Calibration, Interval, bootstrap_interval, calibration, pearson, wilson_interval,
};
use hone_run::Sample;
use hone_run::report::{Chart, Section, Series, SeriesStyle};
use serde_json::{Map, Value, json};

use super::batch::{HeldOutRanking, RankedExample};
use crate::error::Result;

/// Bins over all probabilities. The probability given to the preferred response is at least a half: half of them fill.
const BINS: usize = 20;
const CONFIDENCE: f64 = 0.95;

/// What held-out rankings say of a model.
pub(super) struct Evaluation {
    pub stats: PreferenceStats,
    /// Share of pairs ordered as ranked, with Wilson's interval over pairs.
    pub accuracy: Interval,
    /// The same share of each prompt's pairs, averaged over prompts, with its bootstrap interval over prompts: pairs of
    /// a prompt are not independent, prompts are.
    pub agreement: Interval,
    /// The probability sigmoid(s_i - s_j) against what was preferred.
    pub calibration: Calibration,
    /// Correlation of scores with response lengths in tokens; none where one of them is constant.
    pub length_correlation: Option<f64>,
    /// The score of each response of each ranking.
    pub scores: Vec<Vec<f32>>,
}

impl Evaluation {
    /// Scores the held-out rankings; none if there are none.
    pub fn of(
        engine: &Engine,
        model: &Transformer,
        held_out: &[HeldOutRanking],
        (ties, seed): (Ties, u64),
    ) -> Result<Option<Self>> {
        if held_out.is_empty() {
            return Ok(None);
        }
        let examples = || held_out.iter().map(|h| &h.example);
        let responses = || examples().flat_map(|e| &e.responses);
        let sequences: Vec<&[u32]> = responses().map(|r| r.ids.as_slice()).collect();
        let flat: Vec<f32> = scores_of(engine, model, &sequences).into_iter().map(|s| s.0).collect(); // [sum of k]
        let comparisons: Vec<Comparison> = examples().map(|e| e.comparison.clone()).collect();

        let stats = bradley_terry(&flat, &comparisons, ties, prepare(&comparisons, ties))?.stats;
        let scores = by_prompt(&flat, examples());
        let mut agreements = Vec::with_capacity(comparisons.len());
        for (scores, comparison) in scores.iter().zip(&comparisons) {
            agreements.push(bradley_terry(scores, std::slice::from_ref(comparison), ties, 1)?.stats.agreement());
        }
        let lengths: Vec<f64> = responses().map(|r| r.response_tokens as f64).collect();
        Ok(Some(Self {
            accuracy: wilson_interval(stats.correct_sum, stats.pairs, CONFIDENCE)?,
            agreement: bootstrap_interval(&agreements, &Bootstrap::new(Key::new(seed, "reward bootstrap", 0)))?,
            calibration: calibration(&predictions(&flat, &comparisons)?, BINS)?,
            length_correlation: pearson(&flat.iter().map(|&s| f64::from(s)).collect::<Vec<_>>(), &lengths)?,
            stats,
            scores,
        }))
    }

    /// Names and values for `metrics.jsonl`.
    pub fn metrics(&self) -> Vec<(&'static str, f64)> {
        let mut metrics = vec![
            ("eval/loss", self.stats.mean_loss()),
            ("eval/accuracy", self.accuracy.estimate),
            ("eval/accuracy_low", self.accuracy.low),
            ("eval/accuracy_high", self.accuracy.high),
            ("eval/agreement", self.agreement.estimate),
            ("eval/agreement_low", self.agreement.low),
            ("eval/agreement_high", self.agreement.high),
            ("eval/margins", self.stats.margin()),
            ("eval/calibration_error", self.calibration.expected_error),
            ("eval/brier", self.calibration.brier),
        ];
        metrics.extend(self.length_correlation.map(|r| ("eval/length_correlation", r)));
        metrics
    }

    /// The same for the run's summary.
    pub fn summary(&self) -> Value {
        let mut summary: Map<String, Value> =
            self.metrics().into_iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
        summary.insert("held_out_prompts".into(), self.scores.len().into());
        summary.insert("held_out_pairs".into(), self.stats.pairs.into());
        Value::Object(summary)
    }

    /// The best and the worst response of the first held-out prompts, with their scores and ranks (from 1).
    pub fn samples(&self, held_out: &[HeldOutRanking], prompts: usize, step: u64) -> Vec<Sample> {
        let mut samples = Vec::new();
        for (HeldOutRanking { ranking, .. }, scores) in held_out.iter().zip(&self.scores).take(prompts) {
            let prompt = ranking.prompt.last().map_or_else(String::new, |m| m.content.clone());
            let last = ranking.groups.len() - 1;
            for rank in [0, last] {
                let response = ranking.groups[rank][0];
                let extra = [("rank".to_string(), json!(rank + 1)), ("ranks".to_string(), json!(last + 1))];
                samples.push(Sample {
                    step,
                    prompt: prompt.clone(),
                    response: ranking.responses[response].clone(),
                    score: Some(f64::from(scores[response])),
                    kl: None,
                    extra: extra.into_iter().collect(),
                });
            }
        }
        samples
    }

    /// Calibration as a chart and a table.
    pub fn sections(&self) -> Vec<Section> {
        let filled = || self.calibration.bins.iter().enumerate().filter(|(_, bin)| bin.count > 0);
        let series = |name: &str, points, style| Series { name: name.into(), points, style };
        let observed = filled().map(|(_, bin)| (bin.predicted, bin.observed)).collect();
        let chart = Chart {
            title: "Predicted and observed preference, held out".into(),
            x_label: "predicted probability of the preferred response".into(),
            y_label: "share that was preferred".into(),
            series: vec![
                series("observed", observed, SeriesStyle::LineAndPoints),
                series("perfect", vec![(0.5, 0.5), (1.0, 1.0)], SeriesStyle::Line),
            ],
        };
        let rows = filled().map(|(i, bin)| {
            let (low, high) = (i as f64 / BINS as f64, (i + 1) as f64 / BINS as f64);
            vec![
                format!("{low:.2} to {high:.2}"),
                bin.count.to_string(),
                format!("{:.3}", bin.predicted),
                format!("{:.3}", bin.observed),
            ]
        });
        let table = Section::Table {
            title: "Calibration".into(),
            columns: ["probability", "pairs", "predicted", "observed"].map(String::from).to_vec(),
            rows: rows.collect(),
            note: format!(
                "Expected calibration error {:.4}, Brier score {:.4}. Accuracy {:.3} ({:.3} to {:.3}, Wilson, over \
                 pairs); a prompt's pairs on average {:.3} ({:.3} to {:.3}, bootstrap over prompts); both at 95%.",
                self.calibration.expected_error,
                self.calibration.brier,
                self.accuracy.estimate,
                self.accuracy.low,
                self.accuracy.high,
                self.agreement.estimate,
                self.agreement.low,
                self.agreement.high,
            ),
        };
        vec![Section::Charts { title: "Calibration of scores".into(), charts: vec![chart] }, table]
    }
}

/// Flat scores, one list a prompt.
fn by_prompt<'a>(flat: &[f32], examples: impl Iterator<Item = &'a RankedExample>) -> Vec<Vec<f32>> {
    let mut rest = flat;
    let mut scores = Vec::new();
    for example in examples {
        let (own, others) = rest.split_at(example.responses.len());
        scores.push(own.to_vec());
        rest = others;
    }
    scores
}
