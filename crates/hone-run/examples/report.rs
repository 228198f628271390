//! Draws a report of an invented run, to look at the page: `cargo run -p hone-run --example report -- report.html`

use std::path::PathBuf;

use hone_run::report::{Interval, Mark, Report, Scatter, Section};
use hone_run::{Environment, OpenOptions, Opened, Resolved, Run, Sample};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, JsonSchema)]
struct Config {
    learning_rate: f64,
    kl_coef: f64,
    steps: u64,
}

impl hone_run::Configuration for Config {}

/// Noise in -1 to 1 that is the same each time.
fn noise(index: u64) -> f64 {
    let bits = index
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(23)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (bits >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "report.html".to_owned()));
    let dir = tempfile::tempdir()?;
    let dir = dir.path().join("ppo-small-world");
    let config = Resolved::from_config(Config {
        learning_rate: 1e-4,
        kl_coef: 0.05,
        steps: 600,
    })?;
    let environment = Environment::from([
        ("isa".to_owned(), "avx512".to_owned()),
        ("hone".to_owned(), "0.1.0".to_owned()),
    ]);
    let Opened::Fresh(mut run) = Run::open(
        &dir,
        &config,
        OpenOptions {
            environment,
            ..OpenOptions::default()
        },
    )?
    else {
        return Err("the folder is new".into());
    };
    for step in 1..=600_u64 {
        let t = step as f64 / 600.0;
        let gold = 2.2 * t - 1.9 * t * t + 0.1 * noise(step + 7);
        run.record(
            step,
            &[
                ("loss", 4.0 / (1.0 + 6.0 * t) + 0.25 * noise(step)),
                (
                    "grad_norm",
                    if step == 300 {
                        f64::NAN
                    } else {
                        1.0 + 0.4 * noise(step + 1)
                    },
                ),
                ("learning_rate", 1e-4 * (1.0 - t)),
                ("objective/kl", 12.0 * t * t + 0.8 * noise(step + 2)),
                ("objective/entropy", 60.0 - 22.0 * t + 3.0 * noise(step + 3)),
                ("objective/scores/proxy", 1.8 * t - 0.5 * t * t + 0.12 * noise(step + 4)),
                ("objective/scores/gold", gold),
                ("policy/clipfrac_avg", 0.05 + 0.02 * noise(step + 5)),
                ("policy/approxkl_avg", 0.004 + 0.001 * noise(step + 6)),
                ("val/ratio", 1.0),
            ],
        )?;
    }
    for step in [1, 300, 600] {
        let samples: Vec<Sample> = (0..4)
            .map(|index| Sample {
                step,
                prompt: format!("<|im_start|>user\nWhat is {index} + {step}?<|im_end|>\n<|im_start|>assistant\n"),
                response: format!(
                    "Adding {index} and {step} gives {}. <b>Ask me another</b> & I will answer.",
                    index + step
                ),
                score: Some(0.37 * index as f64 - 0.2),
                kl: Some(3.25 + index as f64),
                ..Sample::default()
            })
            .collect();
        run.record_samples(&samples)?;
    }
    let dir = run.finish(serde_json::json!({ "win_rate": 0.6421, "kl": 11.93 }))?;
    let mut report = Report::from_run(&dir)?;
    let text = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
    report.sections.insert(
        1,
        Section::Table {
            title: "Results".to_owned(),
            columns: text(["method", "win rate", "KL", "bits per byte"]),
            rows: vec![
                text(["base", "0.081", "\u{2013}", "1.212"]),
                text(["few-shot", "0.214", "\u{2013}", "1.212"]),
                text(["sft", "0.500", "0.00", "1.248"]),
                text(["best-of-4", "0.611", "0.64", "1.248"]),
                text(["ppo", "0.742", "11.93", "1.391"]),
                text(["ppo-ptx", "0.735", "10.80", "1.251"]),
            ],
            note: "Win rate against an independent sample of sft on 1,000 held-out prompts.".to_owned(),
        },
    );
    let rows = [
        ("base", 0.081),
        ("few-shot", 0.214),
        ("sft", 0.5),
        ("best-of-4", 0.611),
        ("ppo", 0.742),
        ("ppo-ptx", 0.735),
    ];
    report.sections.insert(
        2,
        Section::Intervals {
            title: "Win rate".to_owned(),
            label: "win rate against sft, 95% interval".to_owned(),
            reference: Some(0.5),
            rows: rows
                .iter()
                .map(|(name, value)| Interval {
                    name: (*name).to_owned(),
                    value: *value,
                    low: value - 0.03,
                    high: value + 0.03,
                })
                .collect(),
        },
    );
    let method = |name: &str, (colour, x, y): (usize, f64, f64)| Mark {
        colour,
        name: name.to_owned(),
        at: (x, y),
        x_interval: Some((x - 0.3, x + 0.3)),
        y_interval: Some((y - 0.05, y + 0.05)),
        parts: vec![(x - 0.2, y + 0.03), (x + 0.1, y - 0.04), (x + 0.1, y + 0.01)],
        hollow: name == "best-of-4",
    };
    report.sections.insert(
        3,
        Section::Scatters {
            title: "Reward against KL".to_owned(),
            charts: vec![Scatter {
                x_by_root: true,
                title: "All methods".to_owned(),
                x_label: "KL to sft, nats a response".to_owned(),
                y_label: "gold score".to_owned(),
                marks: vec![
                    method("sft", (0, 0.0, 0.1)),
                    method("best-of-4", (1, 0.64, 0.41)),
                    method("ppo", (2, 11.9, 0.8)),
                    method("ppo-ptx", (3, 10.8, 0.74)),
                ],
            }],
            note: "Best-of-4's KL is a bound.".to_owned(),
        },
    );
    report.sections.insert(
        4,
        Section::HeatMap {
            title: "How alike the weights moved".to_owned(),
            names: ["sft", "ppo", "ppo-ptx"].map(str::to_owned).to_vec(),
            cells: vec![
                vec![Some(1.0), Some(-0.12), Some(0.34)],
                vec![Some(-0.12), Some(1.0), Some(0.81)],
                vec![Some(0.34), Some(0.81), None],
            ],
            note: String::new(),
        },
    );
    report.write(&out)?;
    Ok(())
}
