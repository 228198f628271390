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

/// Checks one expectation.
pub(super) fn check(expect: &Expect, stages: &[StageResult]) -> Result<Expectation> {
    let key = format!("expect `{}`", expect.that);
    let refuse = |reason: &str| PipelineError::setting(key.clone(), reason);
    let stage = find(stages, &expect.stage, &key)?;
    let value = match (&expect.value, &expect.metric) {
        (Some(path), None) => value_at(stage, path, &key)?,
        (None, Some(metric)) => metric_at(stage, metric, expect.at, &key)?,
        _ => return Err(refuse("expected either value or metric")),
    };
    let (amount, is_above) = match (&expect.above, &expect.below) {
        (Some(amount), None) => (amount, true),
        (None, Some(amount)) => (amount, false),
        _ => return Err(refuse("expected either above or below")),
    };
    let other = match amount {
        Amount::Number(number) => *number,
        Amount::Value(reference) => {
            let (name, path) = reference
                .split_once(':')
                .ok_or_else(|| refuse("another value is written STAGE:VALUE"))?;
            value_at(find(stages, name, &key)?, path, &key)?
        }
    };
    let holds = if is_above { value > other } else { value < other };
    let relation = if is_above { "above" } else { "below" };
    Ok(Expectation {
        that: expect.that.clone(),
        holds,
        found: format!("{value:.4}, expected {relation} {other:.4}"),
    })
}

fn find<'a>(stages: &'a [StageResult], name: &str, key: &str) -> Result<&'a StageResult> {
    stages.iter().find(|stage| stage.name == name).ok_or_else(|| {
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

    fn expect(text: &str) -> std::result::Result<Expect, toml::de::Error> {
        toml::from_str(&format!("that = \"t\"\n{text}"))
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
            assert_eq!(check(&expect(text)?, &stages)?.holds, holds, "{text}");
        }
        Ok(())
    }

    #[test]
    fn what_is_not_there_is_named() -> std::result::Result<(), Box<dyn std::error::Error>> {
        let stages = stages(std::path::Path::new("nowhere"));
        for (text, message) in [
            (
                "stage = \"quik\"\nvalue = \"a\"\nabove = 1",
                "no stage `quik`; expected one of quick, tuned",
            ),
            (
                "stage = \"quick\"\nvalue = \"rows.dpo.low\"\nabove = 1",
                "at `dpo` there is 2 elements",
            ),
            ("stage = \"quick\"\nvalue = \"rows\"\nabove = 1", "not a number"),
            ("stage = \"quick\"\nabove = 1", "either value or metric"),
            (
                "stage = \"tuned\"\nvalue = \"loss\"\nabove = 1\nbelow = 2",
                "either above or below",
            ),
            ("stage = \"tuned\"\nvalue = \"loss\"\nabove = \"loss\"", "STAGE:VALUE"),
        ] {
            match check(&expect(text)?, &stages) {
                Ok(found) => panic!("{text}: {found:?}"),
                Err(error) => assert!(error.to_string().contains(message), "{error}"),
            }
        }
        Ok(())
    }
}
