//! Verifiers: rules that judge one response.

mod exact_match;
mod format;
mod length;
mod numeric;
mod regular_expression;

pub use exact_match::ExactMatch;
pub use format::Format;
pub use length::{Length, Unit};
pub use numeric::NumericAnswer;
pub use regular_expression::RegularExpression;

use crate::{Error, PromptRow};

/// A rule's judgement of one response.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// From 0, wrong, to 1, right.
    pub score: f32,
    /// Why, in a sentence a person can check.
    pub detail: String,
}

impl Verdict {
    /// 1 where it passes, else 0.
    pub fn pass_if(passes: bool, detail: impl Into<String>) -> Self {
        Self {
            score: f32::from(u8::from(passes)),
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

/// A rule that judges one response. The same row and response always get the same verdict.
pub trait Verifier: Send + Sync {
    /// Its name in metrics and messages.
    fn name(&self) -> &str;

    /// Judges a response to the row's prompt.
    ///
    /// # Errors
    /// A row that cannot be judged by, such as one without a reference. A bad response is a verdict of 0, not an error.
    fn verify(&self, row: &PromptRow, response: &str) -> Result<Verdict, Error>;
}

impl<V: Verifier + ?Sized> Verifier for Box<V> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn verify(&self, row: &PromptRow, response: &str) -> Result<Verdict, Error> {
        (**self).verify(row, response)
    }
}
