//! `[[rewards]]` of a stage's configuration.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::verifier::{Exact, Expression, Format, JsonSchemaRule, Length, Numeric, Pattern, Unit};
use crate::{BadSetting, Normalization, Verifier};

/// One term of the reward: what scores, and how much that counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RewardEntry {
    /// What its score is multiplied by; negative: a penalty.
    #[serde(default = "one")]
    pub weight: f64,
    /// Its name in metrics, messages and files: letters, digits, `-` and `_`. The kind, where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What scores.
    #[serde(flatten)]
    pub rule: RewardRule,
}

/// What scores a response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RewardRule {
    /// The response equals the reference: 1 or 0.
    Exact {
        /// The column of the reference, or of an array of them.
        #[serde(default = "answer")]
        column: String,
        /// What is ignored in comparing.
        #[serde(default)]
        normalization: Normalization,
    },
    /// The response's final number equals the reference's: 1 or 0.
    Numeric {
        /// The column of the reference: a number, or a text that ends in one.
        #[serde(default = "answer")]
        column: String,
        /// What announces the final number, as GSM8K's `####`.
        #[serde(default = "marker")]
        marker: String,
        /// Whether the last number counts where the marker is absent.
        #[serde(default)]
        fallback: bool,
    },
    /// The response matches a pattern; or what its group `answer` matched last equals the reference: 1 or 0.
    Regex {
        /// The pattern, in the `regex` crate's syntax; it is looked for anywhere in the response. Needed.
        #[serde(default)]
        pattern: String,
        /// The column of the reference, where the pattern has a group `(?P<answer>...)`.
        #[serde(default = "answer")]
        column: String,
        /// What is ignored in comparing.
        #[serde(default)]
        normalization: Normalization,
    },
    /// The response consists of tagged sections in order, `<name>...</name>`: 1 or 0.
    Format {
        /// The sections' names. Needed.
        #[serde(default)]
        sections: Vec<String>,
        /// Whether other text may stand outside them.
        #[serde(default)]
        text_outside: bool,
    },
    /// The response's length lies in a range: 1, falling to 0 along a straight line outside.
    Length {
        /// What is counted.
        #[serde(default)]
        unit: Unit,
        /// The least length.
        #[serde(default)]
        min: usize,
        /// The greatest length; absent: none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<usize>,
        /// So many units outside the range still score something; 0: a hard end.
        #[serde(default)]
        slope: usize,
    },
    /// The response is JSON that fits a schema: 1 or 0.
    JsonSchema {
        /// The schema as a table, or as a text that holds it as JSON. Needed.
        #[serde(default)]
        schema: Value,
    },
    /// A number computed by a rule that is written here.
    Expression {
        /// The rule, such as `if(contains(response, "please"), 1, 0) - 0.01 * words(response)`. Needed.
        #[serde(default)]
        expression: String,
        /// The score of a response for which the rule gives no number: it divides by 0, or the text holds none.
        #[serde(default)]
        otherwise: f64,
    },
    /// A program of one's own, which reads samples and writes rewards as JSON lines.
    Program {
        /// The program and its arguments. Arguments that name files or folders are passed with their full paths. Needed.
        #[serde(default)]
        command: Vec<String>,
        /// Seconds for one sample.
        #[serde(default = "time_limit")]
        time_limit: f64,
        /// Seconds that the program may take to start, beside the first sample's time.
        #[serde(default = "start_limit")]
        start_limit: f64,
        /// Memory of the program in MiB (its data segment, on Unix); absent: no limit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory_limit_mib: Option<u64>,
        /// How often it is started again for one sample when it crashes.
        #[serde(default = "restarts")]
        restarts: u32,
    },
    /// A reward model's score.
    Model {
        /// Its directory, or a hub id. Needed.
        #[serde(default)]
        path: String,
    },
}

fn one() -> f64 {
    1.0
}

fn answer() -> String {
    "answer".to_owned()
}

fn marker() -> String {
    "####".to_owned()
}

fn time_limit() -> f64 {
    10.0
}

fn start_limit() -> f64 {
    60.0
}

fn restarts() -> u32 {
    1
}

impl RewardRule {
    /// The kind as it is written in a configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exact { .. } => "exact",
            Self::Numeric { .. } => "numeric",
            Self::Regex { .. } => "regex",
            Self::Format { .. } => "format",
            Self::Length { .. } => "length",
            Self::JsonSchema { .. } => "json-schema",
            Self::Expression { .. } => "expression",
            Self::Program { .. } => "program",
            Self::Model { .. } => "model",
        }
    }

    /// The rule as a verifier; nothing for programs and models, which are no pure functions.
    pub(crate) fn verifier(&self) -> Result<Option<Box<dyn Verifier>>, BadSetting> {
        Ok(Some(match self.clone() {
            Self::Exact { column, normalization } => Box::new(Exact { column, normalization }),
            Self::Numeric {
                column,
                marker,
                fallback,
            } => {
                if marker.is_empty() && !fallback {
                    return Err(BadSetting::new("marker", "\"\"", "a text, or `fallback = true`"));
                }
                Box::new(Numeric {
                    column,
                    marker,
                    fallback,
                })
            }
            Self::Regex { pattern, .. } if pattern.is_empty() => {
                return Err(BadSetting::new("pattern", "\"\"", "a regular expression"));
            }
            Self::Regex {
                pattern,
                column,
                normalization,
            } => Box::new(Pattern::new(&pattern, &column, normalization)?),
            Self::Format { sections, text_outside } => Box::new(Format::new(&sections, text_outside)?),
            Self::Length { unit, min, max, slope } => {
                Box::new(Length::new(unit, min, max.unwrap_or(usize::MAX))?.with_slope(slope))
            }
            Self::JsonSchema { schema } => Box::new(JsonSchemaRule::new(&schema)?),
            Self::Expression { otherwise, .. } if !(otherwise as f32).is_finite() => {
                return Err(BadSetting::new("otherwise", otherwise, "a finite number"));
            }
            Self::Expression { expression, otherwise } => Box::new(Expression::new(&expression)?.otherwise(otherwise)),
            Self::Program { .. } | Self::Model { .. } => return Ok(None),
        }))
    }
}
