//! Step 9: rows with intervals, the order that is expected of them, `results.json`.

use std::path::Path;

use hone_math::Key;
use hone_objective::statistics::{Bootstrap, bootstrap_interval};
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
    /// Time of all steps, those of earlier calls included.
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
        serde_json::from_value(read_json(path)?).map_err(|e| PipelineError::file(path, format!("is not a result: {e}")))
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let value = serde_json::to_value(self).map_err(|e| PipelineError::file(path, e.to_string()))?;
        write_json(path, &value)
    }

    /// Whether the program should end with 3: the order is promised and does not hold.
    pub fn expectation_missed(&self) -> bool {
        self.order_promised && !self.order_holds
    }

    /// The table as lines of text.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<12} {:>8}  {:^15} {:>7} {:>10}\n",
            "", "win rate", "95% interval", "KL", "bits/byte"
        );
        for row in &self.rows {
            let kl = row.kl.map_or("-".to_string(), |kl| format!("{kl:.2}"));
            let interval = format!("{:.3} - {:.3}", row.low, row.high);
            text += &format!(
                "{:<12} {:>8.3}  {interval:^15} {kl:>7} {:>10.4}\n",
                row.name, row.win_rate, row.bits_per_byte
            );
        }
        text
    }

    /// What a person reads at the end: the table, the checks, the report's path and how to go on.
    pub fn closing(&self) -> String {
        let out = Path::new(&self.out);
        let mut text = self.table();
        text.push('\n');
        for check in &self.checks {
            text += &format!(
                "{} {} ({})\n",
                if check.holds { "yes" } else { "NO " },
                check.expected,
                check.found
            );
        }
        text += &format!("\n{:.0} seconds\n", self.seconds);
        text += &format!("report: {}\n", out.join("report.html").display());
        text + &format!(
            "talk to it: hone chat --model {}\n",
            out.join(folder::PPO_PTX).join("model").display()
        )
    }
}

pub(super) fn collect(steps: &Steps, judged: Judged) -> Result<QuickstartResult> {
    let judge = Labeler::new(Preferences::standard(), 0);
    let wins: Vec<Vec<f64>> = judged.rows.iter().map(|row| wins(&judge, &judged, row)).collect();
    let mut rows = Vec::new();
    for (i, (row, wins)) in judged.rows.iter().zip(&wins).enumerate() {
        let key = Key::new(steps.config.seed, "quickstart/bootstrap", i as u64);
        let draws = Bootstrap {
            resamples: steps.config.judge.resamples,
            ..Bootstrap::new(key)
        };
        let rate = bootstrap_interval(wins, &draws)?;
        let (win_rate, low, high) = (rate.estimate, rate.low, rate.high);
        rows.push(Row {
            name: row.name.clone(),
            win_rate,
            low,
            high,
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
    for (row, wins) in judged.rows.iter().zip(&wins) {
        details.insert(
            row.name.clone(),
            described(&judged.questions, &row.verdicts, Some(wins)),
        );
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

/// 1, a half or 0 a prompt: the row's answer against the tuned model's first.
fn wins(judge: &Labeler, judged: &Judged, row: &JudgedRow) -> Vec<f64> {
    let triples = judged.questions.iter().zip(&row.verdicts).zip(&judged.reference);
    triples
        .map(|((question, own), reference)| judge.prefers(question, &own.response, &reference.response))
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
fn described(questions: &[Question], verdicts: &[Verdict], wins: Option<&[f64]>) -> Value {
    let features: Vec<Features> = questions
        .iter()
        .zip(verdicts)
        .map(|(question, v)| Features::of(question, &v.response))
        .collect();
    let share = |of: fn(&Features) -> bool| mean(features.iter().map(|f| f64::from(u8::from(of(f)))));
    let mut map = Map::new();
    let mut put = |name: &str, value: f64| map.insert(name.into(), json!(value));
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
        let win_rate = wins.map(|wins| mean(chosen.iter().map(|&i| wins[i])));
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

    #[test]
    fn the_table_shows_what_is_absent_as_a_dash() {
        let mut rows = good();
        rows[4].kl = Some(2.34567);
        let result = QuickstartResult {
            rows,
            seconds: 1.0,
            order_holds: true,
            order_promised: true,
            checks: Vec::new(),
            out: "q".into(),
            details: Map::new(),
            curves: Map::new(),
            stages: Map::new(),
        };
        let table = result.table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 7);
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["base", "0.100", "0.000", "-", "0.200", "-", "1.0000"]
        );
        assert!(lines[5].contains("2.35"), "{}", lines[5]);
        assert!(
            result
                .closing()
                .ends_with("talk to it: hone chat --model q/ppo-ptx/model\n")
        );
    }
}
