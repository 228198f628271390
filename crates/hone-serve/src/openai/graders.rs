//! Graders of the reinforcement method as hone's rewards.
//!
//! | grader | reward |
//! |---|---|
//! | `string_check` | an expression that compares the response with the text of `reference` |
//! | `text_similarity` | `similarity` with that text |
//! | `score_model` | `model`, of a reward model that is served |
//! | `verifier` (hone's own) | the rule of `[[rewards]]` that its `kind` names, but for programs |
//! | `multi` | several of these, weighted |

use hone_task::{RewardEntry, Rewards};
use serde_json::{Value, json};

use crate::jobs::judging::{Judging, Template, is_response};
use crate::openai::ApiError;
use crate::openai::fields::{Fields, wrong};
use crate::openai::linear;

/// Graders of one job.
const MOST: usize = 16;
const KINDS: &str = "string_check, text_similarity, score_model, verifier or multi";

/// Finds the directory of a reward model that is served.
pub(super) type FindJudge<'a> = &'a dyn Fn(&str) -> Result<String, ApiError>;

/// Reads a grader.
///
/// # Errors
/// What is no grader, or asks for what hone does not judge by, naming the field.
pub(super) fn judging(grader: Value, find: FindJudge<'_>) -> Result<Judging, ApiError> {
    let mut making = Making {
        find,
        judging: Judging {
            entries: Vec::new(),
            columns: Vec::new(),
        },
    };
    making.add(grader, None).map_err(|error| error.within("grader"))?;
    let judging = making.judging;
    Rewards::check(&judging.entries).map_err(|error| ApiError::bad("grader", error.to_string()))?;
    Ok(judging)
}

struct Making<'a> {
    find: FindJudge<'a>,
    judging: Judging,
}

impl Making<'_> {
    /// Adds a grader; within `multi` with its name there and its weight.
    fn add(&mut self, grader: Value, part: Option<(&str, f64)>) -> Result<(), ApiError> {
        let Value::Object(grader) = grader else {
            return Err(ApiError::of(
                axum::http::StatusCode::BAD_REQUEST,
                "`grader` is no object; expected one with `type`",
            ));
        };
        let mut fields = Fields::of(grader);
        let kind = fields.text("type")?.unwrap_or_default();
        let name = fields.text("name")?;
        let name = part
            .map(|(name, _)| name.to_owned())
            .or(name)
            .unwrap_or_else(|| kind.clone());
        let rule = match kind.as_str() {
            "string_check" => self.string_check(&mut fields)?,
            "text_similarity" => self.text_similarity(&mut fields)?,
            "score_model" => self.score_model(&mut fields)?,
            "verifier" => return self.verifier(fields, (&name, part)),
            "multi" if part.is_none() => return self.multi(fields),
            "python" => {
                let what =
                    "a client's program does not run here; see the verifiers, and `hone grpo` for programs of your own";
                return Err(ApiError::unsupported("type", what));
            }
            other => return Err(wrong("type", &other.into(), KINDS)),
        };
        fields.finish()?;
        self.push(rule, (&name, part))
    }

    fn push(&mut self, mut rule: Value, (name, part): (&str, Option<(&str, f64)>)) -> Result<(), ApiError> {
        if self.judging.entries.len() == MOST {
            return Err(ApiError::bad("graders", format!("there are more than {MOST} graders")));
        }
        rule["name"] = self.free_name(name).into();
        rule["weight"] = part.map_or(1.0, |(_, weight)| weight).into();
        let entry: RewardEntry =
            serde_json::from_value(rule).map_err(|error| ApiError::bad("kind", error.to_string()))?;
        self.judging.entries.push(entry);
        Ok(())
    }

    /// The name as hone's rewards may have one, and no other has.
    fn free_name(&self, name: &str) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        let name: String = name.chars().take(40).map(plain).collect();
        let taken = |name: &str| {
            self.judging
                .entries
                .iter()
                .any(|entry| entry.name.as_deref() == Some(name))
        };
        match taken(&name) || name.is_empty() {
            true => format!("{name}-{}", self.judging.entries.len() + 1),
            false => name,
        }
    }

    /// A column that is made for each row from a template.
    fn column(&mut self, fields: &mut Fields) -> Result<String, ApiError> {
        let Some(text) = fields.text("reference")? else {
            return Err(ApiError::bad(
                "reference",
                "`reference` is missing; expected a text such as {{ item.answer }}",
            ));
        };
        let template = Template::parse(&text);
        let template = template.map_err(|reason| ApiError::bad("reference", format!("`reference` {reason}")))?;
        let name = format!("grader_{}_reference", self.judging.columns.len());
        self.judging.columns.push((name.clone(), template));
        Ok(name)
    }

    fn string_check(&mut self, fields: &mut Fields) -> Result<Value, ApiError> {
        response(fields)?;
        let column = self.column(fields)?;
        let operation = fields.text("operation")?.unwrap_or_default();
        let expression = match operation.as_str() {
            "eq" => format!("response == column(\"{column}\")"),
            "ne" => format!("response != column(\"{column}\")"),
            "like" => format!("contains(response, column(\"{column}\"))"),
            "ilike" => format!("contains(lower(response), lower(column(\"{column}\")))"),
            other => return Err(wrong("operation", &other.into(), "eq, ne, like or ilike")),
        };
        Ok(json!({"kind": "expression", "expression": expression}))
    }

    fn text_similarity(&mut self, fields: &mut Fields) -> Result<Value, ApiError> {
        response(fields)?;
        let column = self.column(fields)?;
        let metric = fields.text("evaluation_metric")?.unwrap_or_default();
        let own = match metric.as_str() {
            "fuzzy_match" => "fuzzy",
            "gleu" => "gleu",
            "rouge_1" => "rouge-1",
            "rouge_2" => "rouge-2",
            "rouge_3" => "rouge-3",
            "rouge_4" => "rouge-4",
            "rouge_5" => "rouge-5",
            "rouge_l" => "rouge-l",
            other => {
                return Err(wrong(
                    "evaluation_metric",
                    &other.into(),
                    "fuzzy_match, gleu, rouge_1 to rouge_5 or rouge_l",
                ));
            }
        };
        Ok(json!({"kind": "similarity", "column": column, "metric": own}))
    }

    fn score_model(&mut self, fields: &mut Fields) -> Result<Value, ApiError> {
        let Some(model) = fields.text("model")? else {
            return Err(ApiError::bad(
                "model",
                "`model` is missing; expected a reward model that is served",
            ));
        };
        let reads =
            "a reward model reads the row's messages and the response, and gives a number as it is; leave it out";
        for name in ["input", "range", "sampling_params"] {
            fields.only(name, |_| false, reads)?;
        }
        Ok(json!({"kind": "model", "path": (self.find)(&model)?}))
    }

    /// A rule of hone's own, with the keys that it has in `[[rewards]]`.
    fn verifier(&mut self, mut fields: Fields, named: (&str, Option<(&str, f64)>)) -> Result<(), ApiError> {
        const RULES: [&str; 8] = [
            "exact",
            "numeric",
            "regex",
            "format",
            "length",
            "json-schema",
            "expression",
            "similarity",
        ];
        let kind = fields.text("kind")?.unwrap_or_default();
        if !RULES.contains(&kind.as_str()) {
            return Err(wrong("kind", &kind.into(), format!("one of {}", RULES.join(", "))));
        }
        let mut rule = fields.rest();
        for name in ["weight", "name"] {
            rule.shift_remove(name);
        }
        rule.insert("kind".into(), kind.into());
        self.push(Value::Object(rule), named)
    }

    fn multi(&mut self, mut fields: Fields) -> Result<(), ApiError> {
        let graders = match fields.take("graders") {
            Some(Value::Object(graders)) if !graders.is_empty() => graders,
            Some(other) => return Err(wrong("graders", &other, "an object of graders by name")),
            None => {
                return Err(ApiError::bad(
                    "graders",
                    "`graders` is missing; expected an object of graders by name",
                ));
            }
        };
        let Some(formula) = fields.text("calculate_output")? else {
            let message = "`calculate_output` is missing; expected a weighted sum such as `0.7 * a + 0.3 * b`";
            return Err(ApiError::bad("calculate_output", message));
        };
        fields.finish()?;
        let refuse = |reason: String| ApiError::bad("calculate_output", format!("`calculate_output` {reason}"));
        let weights = linear::weights(&formula).map_err(refuse)?;
        if let Some(name) = weights.keys().find(|name| !graders.contains_key(*name)) {
            let names: Vec<&str> = graders.keys().map(String::as_str).collect();
            return Err(refuse(format!("names {name:?}; the graders are {}", names.join(", "))));
        }
        for (name, grader) in graders {
            // One that does not count is not asked
            if let Some(weight) = weights.get(&name) {
                let added = self.add(grader, Some((&name, *weight)));
                added.map_err(|error| error.within(&format!("graders.{name}")))?;
            }
        }
        Ok(())
    }
}

/// Checks that what is judged is the response.
fn response(fields: &mut Fields) -> Result<(), ApiError> {
    match fields.text("input")? {
        Some(text) if is_response(&text) => Ok(()),
        Some(text) => Err(wrong(
            "input",
            &text.into(),
            "the whole response, {{ sample.output_text }}",
        )),
        None => Err(ApiError::bad(
            "input",
            "`input` is missing; expected {{ sample.output_text }}",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(grader: Value) -> Result<Judging, (String, String)> {
        let find = |name: &str| match name {
            "judge" => Ok("/models/judge".to_owned()),
            other => Err(ApiError::not_found("model", format!("no {other}"), "model_not_found")),
        };
        judging(grader, &find).map_err(|error| (error.param.unwrap_or_default(), error.message))
    }

    fn check(name: &str, operation: &str) -> Value {
        json!({"type": "string_check", "name": name, "input": "{{sample.output_text}}",
            "reference": "{{item.answer}}", "operation": operation})
    }

    #[test]
    fn every_grader_has_its_reward() {
        let made = read(check("same answer", "eq")).unwrap();
        assert_eq!(made.columns.len(), 1);
        let entry = serde_json::to_value(&made.entries[0]).unwrap();
        assert_eq!(entry["kind"], "expression");
        assert_eq!(entry["expression"], "response == column(\"grader_0_reference\")");
        assert_eq!(entry["name"], "same-answer");
        for operation in ["ne", "like", "ilike"] {
            read(check("a", operation)).unwrap();
        }
        let similar = json!({"type": "text_similarity", "input": "{{ sample.output_text }}",
            "reference": "{{item.answer}}", "evaluation_metric": "rouge_l"});
        let entry = serde_json::to_value(&read(similar).unwrap().entries[0]).unwrap();
        assert_eq!(
            (&entry["kind"], &entry["metric"]),
            (&json!("similarity"), &json!("rouge-l"))
        );
        let model = json!({"type": "score_model", "name": "m", "model": "judge"});
        let entry = serde_json::to_value(&read(model).unwrap().entries[0]).unwrap();
        assert_eq!(
            (&entry["kind"], &entry["path"]),
            (&json!("model"), &json!("/models/judge"))
        );
        let own = json!({"type": "verifier", "kind": "numeric", "column": "answer", "fallback": true});
        let entry = serde_json::to_value(&read(own).unwrap().entries[0]).unwrap();
        assert_eq!((&entry["kind"], &entry["fallback"]), (&json!("numeric"), &json!(true)));
    }

    #[test]
    fn several_are_weighted() {
        let multi = json!({"type": "multi", "calculate_output": "2 * a - b / 4",
            "graders": {"a": check("x", "eq"), "b": check("x", "like"), "unused": check("x", "ne")}});
        let made = read(multi).unwrap();
        let weights: Vec<(Option<&str>, f64)> = made.entries.iter().map(|e| (e.name.as_deref(), e.weight)).collect();
        assert_eq!(weights, [(Some("a"), 2.0), (Some("b"), -0.25)]);
        assert_eq!(made.columns.len(), 2);
    }

    #[test]
    fn what_hone_does_not_judge_by_is_refused_by_name() {
        let cases = [
            (json!(3), "grader", "no object"),
            (
                json!({"type": "python", "source": "..."}),
                "grader.type",
                "program does not run here",
            ),
            (json!({"type": "vibes"}), "grader.type", "expected string_check"),
            (
                json!({"type": "verifier", "kind": "program", "command": ["rm"]}),
                "grader.kind",
                "expected one of exact",
            ),
            (
                json!({"type": "verifier", "kind": "model", "path": "/x"}),
                "grader.kind",
                "expected one of exact",
            ),
            (
                json!({"type": "verifier", "kind": "or"}),
                "grader.kind",
                "expected one of exact",
            ),
            (
                json!({"type": "verifier", "kind": "exact", "colum": "x"}),
                "grader.kind",
                "colum",
            ),
            (
                json!({"type": "verifier", "kind": "regex", "pattern": "("}),
                "grader",
                "pattern",
            ),
            (
                json!({"type": "score_model", "model": "absent"}),
                "grader.model",
                "no absent",
            ),
            (
                json!({"type": "score_model", "model": "judge", "input": []}),
                "grader.input",
                "not supported",
            ),
            (check("a", "equals"), "grader.operation", "expected eq"),
            (
                json!({"type": "multi", "graders": {"a": check("a", "eq")}, "calculate_output": "a*b"}),
                "grader.calculate_output",
                "multiplies",
            ),
            (
                json!({"type": "multi", "graders": {"a": check("a", "eq")}, "calculate_output": "b"}),
                "grader.calculate_output",
                "the graders are a",
            ),
            (
                json!({"type": "multi", "graders": {"a": check("a", "eqq")}, "calculate_output": "a"}),
                "grader.graders.a.operation",
                "expected eq",
            ),
            (
                json!({"type": "multi", "graders": {"a": {"type": "multi"}}, "calculate_output": "a"}),
                "grader.graders.a.type",
                "expected",
            ),
        ];
        for (grader, param, said) in cases {
            let (got, message) = read(grader.clone()).unwrap_err();
            assert!(got == param && message.contains(said), "{grader}\n{got}: {message}");
        }
        let mut reads = check("a", "eq");
        reads["input"] = "{{item.answer}}".into();
        assert_eq!(read(reads).unwrap_err().0, "grader.input");
        let mut open = check("a", "eq");
        open["reference"] = "{{item.answer".into();
        assert_eq!(read(open).unwrap_err().0, "grader.reference");
    }
}
