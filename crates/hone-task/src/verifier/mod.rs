//! Verifiers: rules that judge one response.

mod exact;
mod expression;
mod format;
mod json_schema;
mod length;
mod numeric;
mod pattern;

pub use exact::Exact;
pub use expression::Expression;
pub use format::Format;
pub use json_schema::JsonSchemaRule;
pub use length::{Length, Unit};
pub use numeric::Numeric;
pub use pattern::Pattern;
pub(crate) use pattern::compiled;

use crate::{Problem, Sample};

/// A rule's judgement of one response.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// From 0, wrong, to 1, right; of an expression any finite number.
    pub score: f64,
    /// Why, in a sentence a person can check.
    pub detail: String,
}

impl Verdict {
    /// 1 where it passes, else 0.
    pub fn pass_if(passes: bool, detail: impl Into<String>) -> Self {
        Self {
            score: f64::from(u8::from(passes)),
            detail: detail.into(),
        }
    }

    /// A score of 0.
    pub fn fail(detail: impl Into<String>) -> Self {
        Self::pass_if(false, detail)
    }

    /// Whether the score is 1.
    pub fn passes(&self) -> bool {
        self.score == 1.0
    }
}

/// A rule that judges one response. The same sample always gets the same verdict.
pub trait Verifier: Send + Sync {
    /// Judges a response to the row's prompt.
    ///
    /// # Errors
    /// A row that cannot be judged by, such as one without a reference. A bad response is a verdict of 0, not an error.
    fn verify(&self, sample: &Sample<'_>) -> Result<Verdict, Problem>;
}

/// For tests of rules that look at the response alone.
#[cfg(test)]
pub(crate) fn judged(verifier: &impl Verifier, response: &str) -> Verdict {
    verifier
        .verify(&Sample::new(&crate::PromptRow::new("?"), response))
        .unwrap()
}
