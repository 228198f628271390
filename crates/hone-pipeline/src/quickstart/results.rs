//! Step 9: rows with intervals, the order that is expected of them, `results.json`.

use std::path::Path;

use hone_eval::{Bootstrap, Outcome, win_rate, win_rate_difference};
use hone_math::Key;
use hone_world::{Features, Group, Kind, Labeler, Preferences, Question};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Steps;
use super::config::folder;
use super::curves;
use super::judge::{Judged, JudgedRow, Verdict, mean};
use super::world::summary;
use crate::error::{PipelineError, Result};
use crate::files::{read_json, read_lines, write_json};

pub(super) const FILE: &str = "results.json";
pub(super) const TIMINGS: &str = "timings.jsonl";

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `base`, `few-shot`, `sft`, `best-of-4`, `ppo` or `ppo-ptx`.
    pub name: String,
    /// Share of held-out prompts on which the judge prefers it to the tuned model's first sample, ties a half.
    pub win_rate: f64,
    /// Lower end of the 95% interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Its win rate less that of the `sft` row, taken prompt by prompt.
    pub difference: f64,
    /// Lower end of the difference's 95% interval.
    pub difference_low: f64,
    /// Upper end.
    pub difference_high: f64,
    /// Nats a response from the tuned model; best-of-N: its bound.
    pub kl: Option<f64>,
    /// Of the held-out text under the row's model.
    pub bits_per_byte: f64,
}

/// Something that is expected of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What is expected.
    pub expected: String,
    /// Whether it is so.
    pub holds: bool,
    /// The numbers.
    pub found: String,
}

/// How a quickstart ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuickstartResult {
    /// The table.
    pub rows: Vec<Row>,
    /// Time of all steps, of earlier calls too where these ended or were asked to stop. What a killed call had done of the step
    /// it was killed in is not known and not included.
    pub seconds: f64,
    /// Whether every check holds.
    pub order_holds: bool,
    /// Whether the order is promised: at the default scale and settings.
    pub order_promised: bool,
    /// The checks one by one.
    pub checks: Vec<Check>,
    /// Where everything is.
    pub out: String,
    /// Shares of right, polite, short, ... answers a row, and win rates by kind and group.
    pub details: Map<String, Value>,
    /// Curves of both PPO runs.
    pub curves: Map<String, Value>,
    /// What each stage's run came to.
    pub stages: Map<String, Value>,
}

impl QuickstartResult {
    pub(super) fn read(path: &Path) -> Result<Self> {
        serde_json::from_value(read_json(path)?).map_err(|e| {
            PipelineError::file(
                path,
                format!("is not a result: {e}; delete it, and the same command makes it anew from what was judged"),
            )
        })
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let value = serde_json::to_value(self).map_err(|e| PipelineError::file(path, e.to_string()))?;
        write_json(path, &value)
    }

    /// Whether the program should end with 3: the order is promised and does not hold.
    pub fn expectation_missed(&self) -> bool {
        self.order_promised && !self.order_holds
    }
}

pub(super) fn collect(steps: &Steps, judged: Judged) -> Result<QuickstartResult> {
    let judge = Labeler::new(Preferences::standard(), 0);
    let outcomes: Vec<Vec<Outcome>> = judged.rows.iter().map(|row| outcomes(&judge, &judged, row)).collect();
    let tuned = judged.rows.iter().position(|row| row.name == folder::SFT);
    let draws = |purpose: &str, row: usize| Bootstrap {
        resamples: steps.config.judge.resamples,
        ..Bootstrap::new(Key::new(steps.config.seed, purpose, row as u64))
    };
    let mut rows = Vec::new();
    for (i, (row, own)) in judged.rows.iter().zip(&outcomes).enumerate() {
        let rate = win_rate(own, &draws("quickstart/bootstrap", i))?;
        let tuned = &outcomes[tuned.unwrap_or(i)];
        let paired = win_rate_difference(own, tuned, &draws("quickstart/paired bootstrap", i))?;
        rows.push(Row {
            name: row.name.clone(),
            win_rate: rate.win_rate,
            low: rate.low,
            high: rate.high,
            difference: paired.difference,
            difference_low: paired.low,
            difference_high: paired.high,
            kl: row.kl,
            bits_per_byte: row.bits_per_byte,
        });
    }
    let checks = checks(&rows, &format!("best-of-{}", steps.config.judge.best_of));
    let mut details = Map::new();
    details.insert(
        "sft-first".into(),
        described(&judged.questions, &judged.reference, None),
    );
    for (row, outcomes) in judged.rows.iter().zip(&outcomes) {
        let mut described = described(&judged.questions, &row.verdicts, Some(outcomes));
        if let Some(error) = row.kl_standard_error {
            described["kl_standard_error"] = json!(error);
        }
        details.insert(row.name.clone(), described);
    }
    let mut stages = Map::new();
    let own = [folder::REWARD, folder::PPO, folder::PPO_PTX].map(|name| (name, steps.out.join(name)));
    for (name, dir) in [folder::PRETRAIN, folder::SFT]
        .map(|name| (name, steps.shared(name)))
        .into_iter()
        .chain(own)
    {
        stages.insert(name.into(), summary(&dir)?);
    }
    let mut curve = Map::new();
    for name in [folder::PPO, folder::PPO_PTX] {
        curve.insert(name.into(), curves::of_run(steps, name)?);
    }
    Ok(QuickstartResult {
        rows,
        seconds: seconds(steps)?,
        order_holds: checks.iter().all(|check| check.holds),
        order_promised: steps.as_given && steps.config.world.held_out_prompts >= 1000,
        checks,
        out: steps.out.display().to_string(),
        details,
        curves: curve,
        stages,
    })
}

/// Who won each prompt: the row's answer or the tuned model's first.
fn outcomes(judge: &Labeler, judged: &Judged, row: &JudgedRow) -> Vec<Outcome> {
    let triples = judged.questions.iter().zip(&row.verdicts).zip(&judged.reference);
    triples
        .map(|((question, own), reference)| {
            let preference = judge.prefers(question, &own.response, &reference.response);
            Outcome::of_scores(preference, 0.5).unwrap_or(Outcome::Tie)
        })
        .collect()
}

/// The order that the arc promises.
fn checks(rows: &[Row], best: &str) -> Vec<Check> {
    let find = |name: &str| rows.iter().find(|row| row.name == name);
    let mut checks = Vec::new();
    let mut check =
        |expected: &str, (a, b): (&str, &str), holds: &dyn Fn(&Row, &Row) -> bool, show: fn(&Row) -> String| {
            if let (Some(a), Some(b)) = (find(a), find(b)) {
                let found = format!("{} {}, {} {}", a.name, show(a), b.name, show(b));
                checks.push(Check {
                    expected: expected.into(),
                    holds: holds(a, b),
                    found,
                });
            }
        };
    let rate = |row: &Row| format!("{:.3}", row.win_rate);
    let interval = |row: &Row| format!("{:.3} - {:.3}", row.low, row.high);
    let bits = |row: &Row| format!("{:.4}", row.bits_per_byte);
    let less = |a: &Row, b: &Row| a.win_rate < b.win_rate;
    check("base is below few-shot", ("base", "few-shot"), &less, rate);
    check("few-shot is below sft", ("few-shot", "sft"), &less, rate);
    check(
        "the interval of ppo lies above that of sft",
        ("sft", "ppo"),
        &|a, b| a.high < b.low,
        interval,
    );
    check(&format!("{best} is above sft"), ("sft", best), &less, rate);
    check(
        "bits per byte are worse after ppo than before",
        ("sft", "ppo"),
        &|a, b| a.bits_per_byte < b.bits_per_byte,
        bits,
    );
    check(
        "and less so after ppo-ptx",
        ("ppo-ptx", "ppo"),
        &|a, b| a.bits_per_byte < b.bits_per_byte,
        bits,
    );
    checks
}

/// What the answers of a row look like.
fn described(questions: &[Question], verdicts: &[Verdict], outcomes: Option<&[Outcome]>) -> Value {
    let features: Vec<Features> = questions
        .iter()
        .zip(verdicts)
        .map(|(question, v)| Features::of(question, &v.response))
        .collect();
    let share = |of: fn(&Features) -> bool| mean(features.iter().map(|f| f64::from(u8::from(of(f)))));
    let mut map = Map::new();
    let mut put = |name: &str, value: Option<f64>| map.insert(name.into(), json!(value));
    put("utility", mean(verdicts.iter().map(|v| v.utility)));
    put("right", share(|f| f.right));
    put("asked_form", share(|f| f.asked_form));
    put("polite", share(|f| f.polite));
    put("rude", share(|f| f.rude));
    put("unfinished", share(|f| f.unfinished));
    put("repeats", mean(features.iter().map(|f| f.repeats as f64)));
    put(
        "words",
        mean(verdicts.iter().map(|v| v.response.split_whitespace().count() as f64)),
    );
    put("tokens", mean(verdicts.iter().map(|v| v.tokens as f64)));
    put("ended", mean(verdicts.iter().map(|v| f64::from(u8::from(v.ended)))));
    if verdicts.iter().any(|v| v.score.is_some()) {
        put("score", mean(verdicts.iter().filter_map(|v| v.score)));
    }
    let part = |belongs: &dyn Fn(&Verdict) -> bool| {
        let chosen: Vec<usize> = (0..verdicts.len()).filter(|&i| belongs(&verdicts[i])).collect();
        let right = mean(chosen.iter().map(|&i| f64::from(u8::from(features[i].right))));
        let win_rate = outcomes.and_then(|outcomes| mean(chosen.iter().map(|&i| outcomes[i].value())));
        json!({ "prompts": chosen.len(), "right": right, "win_rate": win_rate })
    };
    let kinds: Map<String, Value> = Kind::ALL
        .iter()
        .map(|kind| (kind.name().to_string(), part(&|v| v.kind == *kind)))
        .collect();
    let groups: Map<String, Value> = Group::ALL
        .iter()
        .map(|group| (group_name(*group).to_string(), part(&|v| v.group == *group)))
        .collect();
    map.insert("by_kind".into(), kinds.into());
    map.insert("by_group".into(), groups.into());
    map.into()
}

fn group_name(group: Group) -> &'static str {
    match group {
        Group::Familiar => "familiar",
        Group::NewPhrasing => "new_phrasing",
        Group::NewContent => "new_content",
    }
}

/// Seconds of all steps so far.
fn seconds(steps: &Steps) -> Result<f64> {
    let lines: Vec<Value> = read_lines(&steps.out.join(TIMINGS))?;
    Ok(lines.iter().filter_map(|line| line["seconds"].as_f64()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, (low, win_rate, high): (f64, f64, f64), bits_per_byte: f64) -> Row {
        Row {
            name: name.into(),
            win_rate,
            low,
            high,
            difference: win_rate - 0.5,
            difference_low: low - 0.5,
            difference_high: high - 0.5,
            kl: None,
            bits_per_byte,
        }
    }

    fn good() -> Vec<Row> {
        vec![
            row("base", (0.0, 0.1, 0.2), 1.0),
            row("few-shot", (0.2, 0.3, 0.4), 1.0),
            row("sft", (0.48, 0.5, 0.52), 1.1),
            row("best-of-4", (0.6, 0.7, 0.8), 1.1),
            row("ppo", (0.6, 0.7, 0.8), 1.3),
            row("ppo-ptx", (0.6, 0.7, 0.8), 1.15),
        ]
    }

    #[test]
    fn the_order_is_checked_row_by_row() {
        let failing = |change: &dyn Fn(&mut Vec<Row>)| -> Vec<String> {
            let mut rows = good();
            change(&mut rows);
            checks(&rows, "best-of-4")
                .into_iter()
                .filter(|c| !c.holds)
                .map(|c| c.expected)
                .collect()
        };
        assert!(failing(&|_| ()).is_empty());
        assert_eq!(failing(&|rows| rows[0].win_rate = 0.35), ["base is below few-shot"]);
        assert_eq!(failing(&|rows| rows[1].win_rate = 0.5), ["few-shot is below sft"]);
        assert_eq!(
            failing(&|rows| rows[4].low = 0.51),
            ["the interval of ppo lies above that of sft"]
        );
        assert_eq!(failing(&|rows| rows[3].win_rate = 0.5), ["best-of-4 is above sft"]);
        assert_eq!(
            failing(&|rows| rows[4].bits_per_byte = 1.05),
            [
                "bits per byte are worse after ppo than before",
                "and less so after ppo-ptx"
            ]
        );
    }
}
