//! `report.html` of the quickstart: one page on which the whole arc can be seen.

use hone_run::Sample;
use hone_run::report::{Chart, Interval, Report, Section, Series, SeriesStyle};
use serde_json::{Map, Value};

use super::Steps;
use super::config::folder;
use super::judge::Verdict;
use super::results::{QuickstartResult, TIMINGS};
use crate::error::Result;
use crate::files::read_lines;

/// Prompts whose answers are shown side by side.
const SHOWN: usize = 12;

/// Writes the page.
pub(super) fn write(steps: &Steps, result: &QuickstartResult) -> Result<()> {
    let mut sections = vec![opening(result), table(result), win_rates(result), checks(result)];
    sections.push(curves(result));
    sections.push(shares(result));
    sections.push(breakdown(result, "by_kind", "Win rate by kind of question"));
    sections.push(breakdown(
        result,
        "by_group",
        "Win rate by distance from the training prompts",
    ));
    sections.extend(side_by_side(steps, result)?);
    sections.push(timings(steps)?);
    let settings = steps.out.join("quickstart.toml");
    sections.push(Section::Code {
        title: "Settings".into(),
        text: std::fs::read_to_string(&settings).unwrap_or_default(),
    });
    let report = Report {
        title: "hone quickstart".into(),
        sections,
    };
    Ok(report.write(&steps.out.join("report.html"))?)
}

fn opening(result: &QuickstartResult) -> Section {
    let chat = format!("{}/{}/model", result.out, folder::PPO_PTX);
    Section::Text {
        title: String::new(),
        text: format!(
            "A model was pre-trained on the text of a small generated world, tuned on experts' demonstrations, judged by a \
             simulated labeler whose rankings became a reward model, and practised against that model with PPO, without and \
             with the pre-training term. The judge below is the labeler without its noise; its preferences are known and \
             were never shown to any model.\n\nTalk to it: hone chat --model {chat}"
        ),
    }
}

fn table(result: &QuickstartResult) -> Section {
    let head = [
        "",
        "win rate",
        "low",
        "high",
        "less sft's",
        "low",
        "high",
        "KL",
        "bits per byte",
    ];
    let rows = result.rows.iter().map(|row| {
        let kl = row.kl.map_or("-".to_string(), |kl| format!("{kl:.2}"));
        let rate = [row.win_rate, row.low, row.high].map(|x| format!("{x:.3}"));
        let difference = [row.difference, row.difference_low, row.difference_high].map(|x| format!("{x:+.3}"));
        std::iter::once(row.name.clone())
            .chain(rate)
            .chain(difference)
            .chain([kl, format!("{:.4}", row.bits_per_byte)])
            .collect()
    });
    Section::Table {
        title: "Results on held-out prompts".into(),
        columns: head.map(String::from).to_vec(),
        rows: rows.collect(),
        note:
            "Win rate against the tuned model's first sample, ties a half, with a 95% bootstrap interval over prompts. \
               Less sft's: the win rate less that of the sft row, prompt by prompt, with the interval of that difference; \
               a row beats sft where it lies above 0. KL in nats a response from the tuned model; best-of-N gives its bound. Bits per byte of held-out text."
                .into(),
    }
}

fn win_rates(result: &QuickstartResult) -> Section {
    let row = |row: &super::Row| Interval {
        name: row.name.clone(),
        value: row.win_rate,
        low: row.low,
        high: row.high,
    };
    Section::Intervals {
        title: "Win rates".into(),
        label: "win rate against sft".into(),
        reference: Some(0.5),
        rows: result.rows.iter().map(row).collect(),
    }
}

fn checks(result: &QuickstartResult) -> Section {
    let row = |c: &super::Check| {
        vec![
            c.expected.clone(),
            if c.holds { "yes" } else { "no" }.into(),
            c.found.clone(),
        ]
    };
    Section::Table {
        title: "What is expected".into(),
        columns: ["expectation", "holds", "found"].map(String::from).to_vec(),
        rows: result.checks.iter().map(row).collect(),
        note: if result.order_promised {
            ""
        } else {
            "Promised only at the default scale and settings."
        }
        .into(),
    }
}

/// `[[x, y]..]` of a metric of a run.
fn points(run: &Value, metric: &str) -> Vec<(f64, f64)> {
    let pairs = run["metrics"][metric].as_array().into_iter().flatten();
    pairs
        .filter_map(|pair| Some((pair[0].as_f64()?, pair[1].as_f64()?)))
        .collect()
}

fn sampled(run: &Value, figure: &str) -> Vec<(f64, f64)> {
    let samples = run["samples"].as_array().into_iter().flatten();
    samples
        .filter_map(|sample| Some((sample["step"].as_f64()?, sample[figure].as_f64()?)))
        .collect()
}

fn curves(result: &QuickstartResult) -> Section {
    let series = |make: &dyn Fn(&Value) -> Vec<(f64, f64)>, style| -> Vec<Series> {
        let one = |(name, run): (&String, &Value)| Series {
            name: name.clone(),
            points: make(run),
            style,
        };
        result.curves.iter().map(one).collect()
    };
    let chart = |title: &str, (x, y): (&str, &str), series| Chart {
        title: title.into(),
        x_label: x.into(),
        y_label: y.into(),
        series,
    };
    let against_kl = |run: &Value| -> Vec<(f64, f64)> {
        let kl = points(run, "objective/kl");
        kl.iter()
            .zip(points(run, "objective/scores"))
            .map(|(kl, score)| (kl.1, score.1))
            .collect()
    };
    let over_updates = |metric: &'static str| move |run: &Value| points(run, metric);
    let of_samples = |figure: &'static str| move |run: &Value| sampled(run, figure);
    let charts = vec![
        chart(
            "Reward model's score against KL",
            ("KL, nats a response", "score"),
            series(&against_kl, SeriesStyle::Line),
        ),
        chart(
            "KL",
            ("update", "nats"),
            series(&over_updates("objective/kl"), SeriesStyle::Smoothed),
        ),
        chart(
            "What the reward model thinks of samples (proxy)",
            ("update", "score"),
            series(&of_samples("score"), SeriesStyle::LineAndPoints),
        ),
        chart(
            "What the labeler thinks of them (truth)",
            ("update", "worth"),
            series(&of_samples("utility"), SeriesStyle::LineAndPoints),
        ),
    ];
    Section::Charts {
        title: "Practice".into(),
        charts,
    }
}

/// A figure of `details`, at a path.
fn figure(details: &Map<String, Value>, row: &str, path: &[&str]) -> Option<f64> {
    path.iter()
        .try_fold(details.get(row)?, |value, key| value.get(key))?
        .as_f64()
}

fn cell(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.2}"))
}

fn shares(result: &QuickstartResult) -> Section {
    let figures = [
        "utility",
        "right",
        "asked_form",
        "polite",
        "rude",
        "unfinished",
        "repeats",
        "words",
        "ended",
        "score",
    ];
    let row = |name: &String| {
        let cells = figures.iter().map(|f| cell(figure(&result.details, name, &[f])));
        std::iter::once(name.clone()).chain(cells).collect()
    };
    Section::Table {
        title: "What the answers are like".into(),
        columns: std::iter::once("")
            .chain(figures)
            .map(|f| f.replace('_', " "))
            .collect(),
        rows: result.details.keys().map(row).collect(),
        note: "Utility is what the judge finds an answer worth; score is the reward model's.".into(),
    }
}

fn breakdown(result: &QuickstartResult, by: &str, title: &str) -> Section {
    let parts: Vec<String> = result
        .details
        .values()
        .next()
        .and_then(|row| row[by].as_object())
        .map(|parts| parts.keys().cloned().collect())
        .unwrap_or_default();
    let row = |row: &super::Row| {
        let cells = parts.iter().map(|part| {
            let of = |name| cell(figure(&result.details, &row.name, &[by, part, name]));
            format!("{} ({})", of("win_rate"), of("right"))
        });
        std::iter::once(row.name.clone()).chain(cells).collect()
    };
    Section::Table {
        title: title.into(),
        columns: std::iter::once(String::new())
            .chain(parts.iter().map(|p| p.replace('_', " ")))
            .collect(),
        rows: result.rows.iter().map(row).collect(),
        note: "In brackets: the share of right answers.".into(),
    }
}

/// The answers of all rows to the first prompts.
fn side_by_side(steps: &Steps, result: &QuickstartResult) -> Result<Vec<Section>> {
    let dir = steps.out.join(folder::JUDGE);
    let mut prompts: Vec<Vec<(String, Verdict)>> = vec![Vec::new(); SHOWN];
    for row in &result.rows {
        let verdicts: Vec<Verdict> = read_lines(&dir.join(format!("{}.jsonl", row.name)))?;
        for (answers, verdict) in prompts.iter_mut().zip(verdicts) {
            answers.push((row.name.clone(), verdict));
        }
    }
    let section = |(i, answers): (usize, Vec<(String, Verdict)>)| {
        let samples = answers.into_iter().map(|(name, verdict)| {
            let mut extra = Map::new();
            extra.insert("row".into(), name.into());
            extra.insert("right answer".into(), verdict.answer.into());
            extra.insert("worth".into(), verdict.utility.into());
            let (prompt, response) = (verdict.prompt, verdict.response);
            Sample {
                step: 0,
                prompt,
                response,
                score: verdict.score,
                kl: verdict.kl,
                extra,
            }
        });
        Section::Samples {
            title: format!("Answers side by side: prompt {}", i + 1),
            samples: samples.collect(),
        }
    };
    Ok(prompts
        .into_iter()
        .filter(|p| !p.is_empty())
        .enumerate()
        .map(section)
        .collect())
}

fn timings(steps: &Steps) -> Result<Section> {
    let lines: Vec<Value> = read_lines(&steps.out.join(TIMINGS))?;
    let row = |line: &Value| {
        let name = line["step"].as_str().unwrap_or_default().to_string();
        (name, format!("{:.1} s", line["seconds"].as_f64().unwrap_or(f64::NAN)))
    };
    Ok(Section::KeyValues {
        title: "Time".into(),
        rows: lines.iter().map(row).collect(),
    })
}
