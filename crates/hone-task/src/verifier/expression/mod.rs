//! Rules written in the configuration, such as `if(contains(response, "please"), 1, 0) - 0.01 * words(response)`.
//!
//! Values are numbers and texts; comparisons give 1 and 0. There are no loops, no variables to set and no calls of anything outside, so
//! a rule takes time bounded by its own length times that of the texts. Names: `prompt`, `response`, `tokens`, and every other name is a
//! column of the prompt's row. `if`, `and` and `or` look only at what they need.

mod parse;
mod syntax;

use regex::Regex;
use serde_json::Value as Json;

use self::syntax::{Function, Kind, Node, Operator};
use super::numeric::numbers;
use super::{Verdict, Verifier};
use crate::sample::shortened;
use crate::{BadSetting, Problem, Sample};

/// A rule that was read and whose types were checked as far as they are known before a row is seen.
#[derive(Clone, Debug)]
pub struct Expression {
    source: String,
    root: Node,
    otherwise: f64,
}

/// Why a rule gives no number.
enum Failure {
    /// The row is at fault, or the rule: an error for whoever wrote them.
    Problem(Problem),
    /// This response has none, and a sentence that says why: a verdict like any other, since a policy that is free to write
    /// anything must not be able to end a run.
    Undefined(String),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

type Computed<T> = Result<T, Failure>;

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(f64),
    Text(String),
}

impl Expression {
    /// Reads a rule.
    ///
    /// # Errors
    /// What is not a rule, with the place in it: unknown functions, wrong arguments, open brackets, a text as the result.
    pub fn new(source: &str) -> Result<Self, BadSetting> {
        let refuse = |error: syntax::Refusal| {
            let before = source.get(..error.at).unwrap_or(source).chars().count();
            BadSetting {
                key: "expression",
                got: format!("{:?}", shortened(source)),
                expected: format!("{}, at character {}", error.expected, before + 1),
            }
        };
        let root = parse::parse(source).map_err(refuse)?;
        if root.kind() == Kind::Text {
            return Err(refuse(syntax::Refusal::new(0, "a number as the result, not a text")));
        }
        Ok(Self {
            source: source.to_owned(),
            root,
            otherwise: 0.0,
        })
    }

    /// The same rule with another score than 0 for responses for which it gives no number.
    #[must_use]
    pub fn otherwise(self, otherwise: f64) -> Self {
        Self { otherwise, ..self }
    }

    fn at(&self, node: &Node) -> String {
        shortened(self.source.get(node.from..node.to).unwrap_or(&self.source))
    }

    fn problem<T>(&self, node: &Node, message: impl Into<String>) -> Computed<T> {
        let (at, message) = (self.at(node), message.into());
        Err(Problem::Expression { at, message }.into())
    }

    fn undefined<T>(&self, node: &Node, message: impl std::fmt::Display) -> Computed<T> {
        Err(Failure::Undefined(format!("no number at {}: {message}", self.at(node))))
    }

    fn number(&self, node: &Node, sample: &Sample<'_>) -> Computed<f64> {
        match self.value(node, sample)? {
            Value::Number(number) if number.is_finite() => Ok(number),
            Value::Number(number) => self.undefined(node, format!("it is {number}")),
            Value::Text(text) => self.problem(
                node,
                format!("is the text {:?}, expected a number; see number()", shortened(&text)),
            ),
        }
    }

    fn text(&self, node: &Node, sample: &Sample<'_>) -> Computed<String> {
        match self.value(node, sample)? {
            Value::Text(text) => Ok(text),
            Value::Number(number) => self.problem(node, format!("is the number {number}, expected a text; see text()")),
        }
    }

    fn truth(&self, node: &Node, sample: &Sample<'_>) -> Computed<bool> {
        Ok(self.number(node, sample)? != 0.0)
    }

    fn value(&self, node: &Node, sample: &Sample<'_>) -> Computed<Value> {
        let of = |truth: bool| Value::Number(f64::from(u8::from(truth)));
        Ok(match &node.what {
            syntax::What::Number(number) => Value::Number(*number),
            syntax::What::Text(text) => Value::Text(text.clone()),
            syntax::What::Prompt => Value::Text(sample.row.prompt.clone()),
            syntax::What::Response => Value::Text(sample.response.to_owned()),
            syntax::What::Tokens => Value::Number(sample.tokens.ok_or(Problem::NoTokens)? as f64),
            syntax::What::Column(name) => match sample.row.column(name)? {
                Json::String(text) => Value::Text(text.clone()),
                Json::Bool(truth) => of(*truth),
                Json::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
                other => {
                    return Err(Problem::BadColumn {
                        column: name.clone(),
                        got: shortened(&other.to_string()),
                        expected: "a text, a number, true or false",
                    }
                    .into());
                }
            },
            syntax::What::Negative(inside) => Value::Number(-self.number(inside, sample)?),
            syntax::What::Not(inside) => of(!self.truth(inside, sample)?),
            syntax::What::Two(operator, left, right) => self.two(node, *operator, (left, right), sample)?,
            syntax::What::Matches(text, regex) => of(regex.is_match(&self.text(text, sample)?)),
            syntax::What::CountMatches(text, regex) => {
                Value::Number(occurrences(regex, &self.text(text, sample)?) as f64)
            }
            syntax::What::Call(function, arguments) => self.call(node, *function, arguments, sample)?,
        })
    }

    fn two(
        &self,
        node: &Node,
        operator: Operator,
        (left, right): (&Node, &Node),
        sample: &Sample<'_>,
    ) -> Computed<Value> {
        let of = |truth: bool| Value::Number(f64::from(u8::from(truth)));
        if operator == Operator::And {
            return Ok(of(self.truth(left, sample)? && self.truth(right, sample)?));
        }
        if operator == Operator::Or {
            return Ok(of(self.truth(left, sample)? || self.truth(right, sample)?));
        }
        if let Operator::Equal | Operator::Unequal = operator {
            let same = match (self.value(left, sample)?, self.value(right, sample)?) {
                (Value::Number(a), Value::Number(b)) => a == b,
                (Value::Text(a), Value::Text(b)) => a == b,
                _ => return self.problem(node, "compares a number with a text; see number() and text()"),
            };
            return Ok(of(same == (operator == Operator::Equal)));
        }
        let (a, b) = (self.number(left, sample)?, self.number(right, sample)?);
        if let (Operator::Divide | Operator::Remainder, 0.0) = (operator, b) {
            return self.undefined(node, "divides by 0; divide by max(..., 1)");
        }
        Ok(match operator {
            Operator::Add => Value::Number(a + b),
            Operator::Subtract => Value::Number(a - b),
            Operator::Multiply => Value::Number(a * b),
            Operator::Divide => Value::Number(a / b),
            Operator::Remainder => Value::Number(a % b),
            Operator::Less => of(a < b),
            Operator::AtMost => of(a <= b),
            Operator::Greater => of(a > b),
            Operator::AtLeast => of(a >= b),
            Operator::And | Operator::Or | Operator::Equal | Operator::Unequal => unreachable!("handled above"),
        })
    }

    fn call(&self, node: &Node, function: Function, arguments: &[Node], sample: &Sample<'_>) -> Computed<Value> {
        let text = |i: usize| self.text(&arguments[i], sample);
        let number = |i: usize| self.number(&arguments[i], sample);
        let of = |truth: bool| Value::Number(f64::from(u8::from(truth)));
        let count = |count: usize| Value::Number(count as f64);
        Ok(match function {
            Function::If => {
                let chosen = if self.truth(&arguments[0], sample)? { 1 } else { 2 };
                self.value(&arguments[chosen], sample)?
            }
            Function::Contains => of(text(0)?.contains(&text(1)?)),
            Function::StartsWith => of(text(0)?.starts_with(&text(1)?)),
            Function::EndsWith => of(text(0)?.ends_with(&text(1)?)),
            Function::Count => {
                let part = text(1)?;
                if part.is_empty() {
                    return self.undefined(node, "counts the empty text, which is everywhere");
                }
                count(text(0)?.matches(&part).count())
            }
            Function::Words => count(text(0)?.split_whitespace().count()),
            Function::Characters => count(text(0)?.chars().count()),
            Function::Lines => count(text(0)?.lines().filter(|line| !line.trim().is_empty()).count()),
            Function::Lower => Value::Text(text(0)?.to_lowercase()),
            Function::Upper => Value::Text(text(0)?.to_uppercase()),
            Function::Trim => Value::Text(text(0)?.trim().to_owned()),
            Function::Text => Value::Text(match self.value(&arguments[0], sample)? {
                Value::Text(text) => text,
                Value::Number(number) => number.to_string(),
            }),
            Function::Number => Value::Number(match self.value(&arguments[0], sample)? {
                Value::Number(number) => number,
                Value::Text(text) => match last_number(&text) {
                    Some(number) => number,
                    None if arguments.len() == 2 => number(1)?,
                    None => return self.undefined(node, "holds no number; give number() what to take instead"),
                },
            }),
            Function::Min | Function::Max => {
                let mut best = number(0)?;
                for i in 1..arguments.len() {
                    let other = number(i)?;
                    best = if function == Function::Min {
                        best.min(other)
                    } else {
                        best.max(other)
                    };
                }
                Value::Number(best)
            }
            Function::Clamp => {
                let (low, high) = (number(1)?, number(2)?);
                if low > high {
                    return self.undefined(node, format!("clamps between {low} and {high}, which is nothing"));
                }
                Value::Number(number(0)?.max(low).min(high))
            }
            Function::Abs => Value::Number(number(0)?.abs()),
            Function::Floor => Value::Number(number(0)?.floor()),
            Function::Ceil => Value::Number(number(0)?.ceil()),
            Function::Round => Value::Number(number(0)?.round()),
            Function::Sqrt => Value::Number(number(0)?.sqrt()),
            Function::Exp => Value::Number(hone_math::exp(number(0)?)),
            Function::Ln => match number(0)? {
                positive if positive > 0.0 => Value::Number(hone_math::ln(positive)),
                other => return self.undefined(node, format!("takes the logarithm of {other}")),
            },
        })
    }
}

fn occurrences(regex: &Regex, text: &str) -> usize {
    regex.find_iter(text).count()
}

/// The last number in a text that a number can hold.
fn last_number(text: &str) -> Option<f64> {
    let digits = numbers(text).last()?.parse::<f64>().ok()?;
    digits.is_finite().then_some(digits)
}

impl Verifier for Expression {
    fn verify(&self, sample: &Sample<'_>) -> Result<Verdict, Problem> {
        match self.number(&self.root, sample) {
            // Stages keep scores in single precision
            Ok(score) if !(score as f32).is_finite() => Ok(Verdict {
                score: self.otherwise,
                detail: format!("no number: {score} is too large for a score"),
            }),
            Ok(score) => Ok(Verdict {
                score,
                detail: format!("the expression gives {score}"),
            }),
            Err(Failure::Undefined(detail)) => Ok(Verdict {
                score: self.otherwise,
                detail,
            }),
            Err(Failure::Problem(problem)) => Err(problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PromptRow;
    use crate::verifier::judged;

    fn score(source: &str, response: &str) -> f64 {
        judged(&Expression::new(source).unwrap(), response).score
    }

    fn problem(source: &str, row: &PromptRow) -> String {
        let expression = Expression::new(source).unwrap();
        expression.verify(&Sample::new(row, "a b")).unwrap_err().to_string()
    }

    #[test]
    fn arithmetic_and_its_order() {
        let by_hand = [
            ("1 + 2 * 3 - 4 / 8", 6.5),
            ("-(1 - 3) * -2", -4.0),
            ("2 - 1 - 1", 0.0),
            ("8 / 4 / 2", 1.0),
            ("7 % 4 + .5e1", 8.0),
            ("1 < 2 and 2 <= 2 and not (3 > 4)", 1.0),
            ("1 >= 2 || 1 != 1 or !1", 0.0),
            ("0 and 1 or 1", 1.0),
            ("1 + 1 == 2", 1.0),
            ("- 3 < -2", 1.0),
            ("not 0 == 1", 1.0),
            ("if(0, 1 / 0, 5)", 5.0),
            ("1 or 1 / 0", 1.0),
            ("0 and 1 / 0", 0.0),
            ("min(3, 1, 2) + max(1, 4) + clamp(9, 0, 2) + abs(-1)", 8.0),
            ("floor(1.5) + ceil(1.5) + round(2.5) + sqrt(16)", 10.0),
            ("exp(0) + ln(1)", 1.0),
        ];
        for (source, expected) in by_hand {
            assert_eq!(score(source, ""), expected, "{source}");
        }
    }

    #[test]
    fn texts() {
        let polite = "if(contains(response, \"please\"), 1, 0) - 0.01 * words(response)";
        assert_eq!(score(polite, "please come in"), 1.0 - 0.01 * 3.0);
        assert_eq!(score(polite, "come in"), -(0.01 * 2.0));
        assert_eq!(score("characters(response) + lines(response)", "é\n\nb"), 6.0);
        assert_eq!(
            score("count(lower(response), 'a') + starts_with(response, 'A')", "A a\\"),
            3.0
        );
        assert_eq!(
            score("ends_with(trim(response), '!') and upper(response) == 'AH! '", "ah! "),
            1.0
        );
        assert_eq!(
            score("matches(response, '^\\\\d+$') + matches(response, 'b')", "12"),
            1.0
        );
        assert_eq!(score("count_matches(response, '[aeiou]')", "education"), 5.0);
        assert_eq!(score("number(response)", "from 3 to 1,200.5"), 1200.5);
        assert_eq!(score("number(response, -1)", "none"), -1.0);
        assert_eq!(score("text(1.5) == '1.5'", ""), 1.0);
        assert_eq!(score("characters(\"\\\"\\n\") == 2", ""), 1.0);
    }

    #[test]
    fn columns_and_tokens() {
        let row = PromptRow::new("How many?")
            .with("answer", "It is 7")
            .with("level", 2)
            .with("odd name", true);
        let expression =
            Expression::new("(number(answer) == number(response)) * level + column('odd name') + tokens").unwrap();
        let sample = Sample::new(&row, "so 7").with_tokens(3);
        assert_eq!(expression.verify(&sample).unwrap().score, 6.0);
        let sample = Sample::new(&row, "so 8").with_tokens(3);
        assert_eq!(expression.verify(&sample).unwrap().score, 4.0);
        assert_eq!(problem("tokens", &row), Problem::NoTokens.to_string());
        assert!(problem("gold", &row).contains("has no column `gold`, it has [\"answer\", \"level\", \"odd name\"]"));
    }

    #[test]
    fn what_a_row_makes_impossible_is_a_problem_with_its_place() {
        let row = PromptRow::new("?")
            .with("answer", "x")
            .with("level", 2)
            .with("list", serde_json::json!([1]));
        assert_eq!(
            problem("answer * 2", &row),
            "the expression, at answer: is the text \"x\", expected a number; see number()"
        );
        assert!(problem("words(level)", &row).contains("at level: is the number 2, expected a text"));
        assert!(problem("answer == level", &row).contains("compares a number with a text"));
        assert!(problem("list + 1", &row).contains("column `list` is [1]"));
    }

    #[test]
    fn no_response_ends_a_run() {
        let judged_as = |source: &str, response: &str| {
            let expression = Expression::new(source).unwrap().otherwise(-0.5);
            let verdict = judged(&expression, response);
            assert_eq!(verdict.score, -0.5, "{source} of {response}: {}", verdict.detail);
            verdict.detail
        };
        assert_eq!(
            judged_as("1 + 2 / (words(response) - 2)", "a b"),
            "no number at 2 / (words(response) - 2): divides by 0; divide by max(..., 1)"
        );
        assert!(judged_as("number(response)", "I don't know").contains("holds no number"));
        assert!(judged_as("number(response)", &"9".repeat(400)).contains("holds no number"));
        assert!(judged_as("-abs(number(response, 0) - 3)", "1e39").contains("too large for a score"));
        assert!(judged_as("ln(words(response))", "").contains("the logarithm of 0"));
        assert!(judged_as("exp(words(response) * 1000)", "x").contains("it is inf"));
        assert!(judged_as("clamp(1, words(response), 1)", "a b").contains("between 2 and 1"));
        assert!(judged_as("count(prompt, response)", "").contains("the empty text"));
        // What is no number does not become one on the way
        assert!(judged_as("max(sqrt(number(response)), 0)", "-4").contains("sqrt(number(response)): it is NaN"));
        assert!(judged_as("if(sqrt(number(response)), 1, 0)", "-4").contains("NaN"));
        assert!(judged_as("min(exp(number(response)), 1)", "1000").contains("it is inf"));
        assert_eq!(score("number(response, 3)", &"9".repeat(400)), 3.0);
    }

    #[test]
    fn what_is_no_rule_is_refused_with_its_place() {
        let refused = |source: &str| Expression::new(source).unwrap_err().to_string();
        assert_eq!(
            refused("1 + "),
            "`expression` is \"1 + \"; expected a number, a text, a name or `(`, at character 5"
        );
        for (source, expected) in [
            ("", "a number, a text, a name or `(`, at character 1"),
            ("(1", "`)`, at character 3"),
            ("1 2", "an operator or the end, at character 3"),
            ("1 < 2 < 3", "an operator or the end, at character 7"),
            (
                "wrods(response)",
                "a function; `wrods` is none, did you mean `words`?, at character 1",
            ),
            ("words()", "1 argument of words, not 0, at character 1"),
            ("if(1, 2)", "3 arguments of if, not 2, at character 1"),
            ("words(1)", "a text, not a number, at character 7"),
            ("'a' * 2", "a number, not a text, at character 1"),
            ("response", "a number as the result, not a text, at character 1"),
            ("'a' == 1", "two numbers or two texts, at character 1"),
            ("'open", "the quote that ends this text, at character 1"),
            ("é ~ 1", "an operator or the end, at character 3"),
            (
                "matches(response, '(')",
                "a regular expression (unclosed group), at character 19",
            ),
            (
                "matches(response, prompt)",
                "the pattern as a text in quotes, at character 19",
            ),
            (
                "column(response)",
                "the column's name as a text in quotes, at character 8",
            ),
            ("1e999", "a finite number, at character 1"),
        ] {
            let message = refused(source);
            assert!(
                message.ends_with(&format!("expected {expected}")),
                "{source}: {message}"
            );
        }
        assert!(refused(&"(".repeat(1000)).contains("at most 50 levels"));
        assert!(refused(&"-".repeat(1000)).contains("at most 50 levels"));
        assert!(refused(&"1 + ".repeat(3000)).contains("at most 4096 bytes"));
        // The longest sum there is room for does not overflow the stack
        let sum = format!("{}1", "1+".repeat(2000));
        assert_eq!(score(&sum, ""), 2001.0);
    }
}
