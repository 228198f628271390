//! What a recipe expects of its results.

use serde_json::Value;

use super::StageResult;
use super::config::{Amount, At, Expect};
use crate::error::{PipelineError, Result};
use crate::files::read_lines;

/// An expectation and what was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    /// In words.
    pub that: String,
    /// Whether it is so.
    pub holds: bool,
    /// The numbers.
    pub found: String,
}

/// Something that can be expected of: a stage by its name.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub name: String,
    /// Whether its run writes metrics.
    pub has_metrics: bool,
}

/// An expectation of stages that exist, in words that make sense.
#[derive(Clone, Debug)]
pub(crate) struct ReadyExpect {
    that: String,
    /// The recipe's file and key, for errors.
    key: String,
    /// Index of the stage.
    stage: usize,
    figure: Figure,
    side: Side,
    than: Than,
}

/// What is looked at.
#[derive(Clone, Debug)]
enum Figure {
    Value(String),
    Metric(String, At),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Above,
    Below,
}

/// What it is compared with: a number, or a value of the stage with this index.
#[derive(Clone, Debug)]
enum Than {
    Number(f64),
    Value(usize, String),
}

impl ReadyExpect {
    /// Checks an expectation against the stages there will be; `key` is the recipe's file and the expectation's key.
    pub fn new(expect: Expect, key: String, stages: &[Subject]) -> Result<Self> {
        let refuse = |name: &str, reason: &str| Err(PipelineError::setting(format!("{key}{name}"), reason));
        let stage = find(stages, &expect.stage, &format!("{key}.stage"))?;
        let figure = match (expect.value, expect.metric) {
            (Some(_), None) if expect.at.is_some() => return refuse(".at", "is of a metric; a value is one number"),
            (Some(value), None) => Figure::Value(value),
            (None, Some(_)) if !stages[stage].has_metrics => {
                let reason = format!("stage `{}` has no metrics; expected a value", expect.stage);
                return refuse(".metric", &reason);
            }
            (None, Some(metric)) => Figure::Metric(metric, expect.at.unwrap_or_default()),
            (None, None) => return refuse("", "has neither value nor metric; expected one of them"),
            (Some(_), Some(_)) => return refuse("", "has both value and metric; expected one of them"),
        };
        let (amount, side) = match (expect.above, expect.below) {
            (Some(amount), None) => (amount, Side::Above),
            (None, Some(amount)) => (amount, Side::Below),
            (None, None) => return refuse("", "has neither above nor below; expected one of them"),
            (Some(_), Some(_)) => return refuse("", "has both above and below; expected one of them"),
        };
        let name = match side {
            Side::Above => ".above",
            Side::Below => ".below",
        };
        let than = match amount {
            Amount::Number(number) if number.is_nan() => return refuse(name, "is NaN; expected a number"),
            Amount::Number(number) => Than::Number(number),
            Amount::Value(reference) => match reference.split_once(':') {
                Some((other, path)) if !path.is_empty() => {
                    Than::Value(find(stages, other, &format!("{key}{name}"))?, path.to_owned())
                }
                _ => {
                    let reason = format!("is `{reference}`; expected a number, or another value as STAGE:VALUE");
                    return refuse(name, &reason);
                }
            },
        };
        Ok(Self {
            that: expect.that,
            key,
            stage,
            figure,
            side,
            than,
        })
    }

    /// Compares; `results` are those of the recipe's stages, in order.
    pub fn check(&self, results: &[StageResult]) -> Result<Expectation> {
        let stage = &results[self.stage];
        let value = match &self.figure {
            Figure::Value(path) => value_at(stage, path, &self.key)?,
            Figure::Metric(metric, at) => metric_at(stage, metric, *at, &self.key)?,
        };
        let other = match &self.than {
            Than::Number(number) => *number,
            Than::Value(stage, path) => value_at(&results[*stage], path, &self.key)?,
        };
        let (holds, relation) = match self.side {
            Side::Above => (value > other, "above"),
            Side::Below => (value < other, "below"),
        };
        Ok(Expectation {
            that: self.that.clone(),
            holds,
            found: format!("{value:.4}, expected {relation} {other:.4}"),
        })
    }
}

fn find(stages: &[Subject], name: &str, key: &str) -> Result<usize> {
    stages.iter().position(|stage| stage.name == name).ok_or_else(|| {
        let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
        PipelineError::setting(
            key,
            format!("there is no stage `{name}`; expected one of {}", names.join(", ")),
        )
    })
}

/// A number of a stage's summary.
fn value_at(stage: &StageResult, path: &str, key: &str) -> Result<f64> {
    let mut value = &stage.summary;
    for part in path.split('.') {
        let next = match value {
            Value::Array(list) => {
                let by_index = part.parse::<usize>().ok().and_then(|i| list.get(i));
                by_index.or_else(|| list.iter().find(|element| element["name"] == part))
            }
            other => other.get(part),
        };
        value = next.ok_or_else(|| {
            let known = match value {
                Value::Object(map) => map.keys().cloned().collect::<Vec<_>>().join(", "),
                Value::Array(list) => format!("{} elements", list.len()),
                other => other.to_string(),
            };
            PipelineError::setting(
                key,
                format!("stage `{}` has no `{path}`: at `{part}` there is {known}", stage.name),
            )
        })?;
    }
    value.as_f64().ok_or_else(|| {
        PipelineError::setting(
            key,
            format!("`{path}` of stage `{}` is {value}, not a number", stage.name),
        )
    })
}

/// A metric of a stage's run.
fn metric_at(stage: &StageResult, metric: &str, at: At, key: &str) -> Result<f64> {
    let lines: Vec<Value> = read_lines(&stage.dir.join("metrics.jsonl"))?;
    let mut values = lines.iter().filter_map(|line| line[metric].as_f64());
    let value = match at {
        At::First => values.next(),
        At::Last => values.next_back(),
        At::Max => values.reduce(f64::max),
        At::Min => values.reduce(f64::min),
    };
    value.ok_or_else(|| PipelineError::setting(key, format!("stage `{}` has no metric `{metric}`", stage.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stages(dir: &std::path::Path) -> Vec<StageResult> {
        let rows = json!([{"name": "sft", "high": 0.52}, {"name": "ppo", "low": 0.6}]);
        vec![
            StageResult {
                name: "quick".into(),
                dir: dir.into(),
                summary: json!({ "rows": rows, "words": [7, 9] }),
            },
            StageResult {
                name: "tuned".into(),
                dir: dir.into(),
                summary: json!({ "loss": 0.5 }),
            },
        ]
    }

    fn subjects() -> [Subject; 2] {
        [("quick", false), ("tuned", true)].map(|(name, has_metrics)| Subject {
            name: name.into(),
            has_metrics,
        })
    }

    fn expect(text: &str) -> std::result::Result<ReadyExpect, Box<dyn std::error::Error>> {
        let expect: Expect = toml::from_str(&format!("that = \"t\"\n{text}"))?;
        Ok(ReadyExpect::new(expect, "r.toml: expect[0]".into(), &subjects())?)
    }

    #[test]
    fn values_are_found_by_name_and_compared() -> std::result::Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let lines = "{\"step\":1,\"eval/loss\":3.0}\n{\"step\":2}\n{\"step\":3,\"eval/loss\":2.5}\n";
        std::fs::write(dir.path().join("metrics.jsonl"), lines)?;
        let stages = stages(dir.path());
        for (text, holds) in [
            (
                "stage = \"quick\"\nvalue = \"rows.ppo.low\"\nabove = \"quick:rows.sft.high\"",
                true,
            ),
            (
                "stage = \"quick\"\nvalue = \"rows.ppo.low\"\nbelow = \"quick:rows.sft.high\"",
                false,
            ),
            (
                "stage = \"quick\"\nvalue = \"words.1\"\nabove = \"quick:words.0\"",
                true,
            ),
            ("stage = \"tuned\"\nvalue = \"loss\"\nbelow = 0.5", false),
            ("stage = \"tuned\"\nmetric = \"eval/loss\"\nbelow = 2.75", true),
            (
                "stage = \"tuned\"\nmetric = \"eval/loss\"\nat = \"first\"\nbelow = 2.75",
                false,
            ),
            (
                "stage = \"tuned\"\nmetric = \"eval/loss\"\nat = \"max\"\nabove = 2.75",
                true,
            ),
            (
                "stage = \"tuned\"\nmetric = \"eval/loss\"\nat = \"min\"\nabove = 2.75",
                false,
            ),
        ] {
            assert_eq!(expect(text)?.check(&stages)?.holds, holds, "{text}");
        }
        Ok(())
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_key() {
        for (text, message) in [
            (
                "stage = \"quik\"\nvalue = \"a\"\nabove = 1",
                "expect[0].stage: there is no stage `quik`; expected one of quick, tuned",
            ),
            (
                "stage = \"quick\"\nabove = 1",
                "expect[0]: has neither value nor metric",
            ),
            (
                "stage = \"tuned\"\nvalue = \"a\"\nmetric = \"b\"\nabove = 1",
                "expect[0]: has both value and metric",
            ),
            (
                "stage = \"quick\"\nmetric = \"eval/loss\"\nabove = 1",
                "expect[0].metric: stage `quick` has no metrics",
            ),
            (
                "stage = \"tuned\"\nvalue = \"a\"\nat = \"last\"\nabove = 1",
                "expect[0].at: is of a metric",
            ),
            (
                "stage = \"tuned\"\nvalue = \"loss\"",
                "expect[0]: has neither above nor below",
            ),
            (
                "stage = \"tuned\"\nvalue = \"loss\"\nabove = 1\nbelow = 2",
                "expect[0]: has both above and below",
            ),
            (
                "stage = \"tuned\"\nvalue = \"loss\"\nabove = \"loss\"",
                "expect[0].above: is `loss`; expected a number, or another value as STAGE:VALUE",
            ),
            (
                "stage = \"tuned\"\nvalue = \"loss\"\nbelow = \"quick:\"",
                "expect[0].below: is `quick:`",
            ),
            (
                "stage = \"tuned\"\nvalue = \"loss\"\nbelow = \"tunde:loss\"",
                "expect[0].below: there is no stage `tunde`",
            ),
            (
                "stage = \"tuned\"\nvalue = \"loss\"\nbelow = nan",
                "expect[0].below: is NaN",
            ),
        ] {
            match expect(text) {
                Ok(found) => panic!("{text}: {found:?}"),
                Err(error) => assert!(error.to_string().contains(message), "{error}"),
            }
        }
    }

    #[test]
    fn what_a_run_does_not_have_is_named() -> std::result::Result<(), Box<dyn std::error::Error>> {
        let stages = stages(std::path::Path::new("nowhere"));
        for (text, message) in [
            (
                "stage = \"quick\"\nvalue = \"rows.dpo.low\"\nabove = 1",
                "at `dpo` there is 2 elements",
            ),
            ("stage = \"quick\"\nvalue = \"rows\"\nabove = 1", "not a number"),
        ] {
            match expect(text)?.check(&stages) {
                Ok(found) => panic!("{text}: {found:?}"),
                Err(error) => assert!(error.to_string().contains(message), "{error}"),
            }
        }
        Ok(())
    }
}
