use super::{Verdict, Verifier};
use crate::sample::shortened;
use crate::{Error, Normalization, PromptRow};
use regex::{Regex, RegexBuilder};

/// The response matches a pattern somewhere; or, where the pattern has a group named `answer`, what that group holds in the last match
/// equals the reference.
///
/// Matching takes time linear in the response (the `regex` crate); compiled patterns are limited to 1 MiB.
#[derive(Clone, Debug)]
pub struct RegularExpression {
    regex: Regex,
    captures: bool,
    column: String,
    normalization: Normalization,
}

impl RegularExpression {
    /// Compiles a pattern. A group `(?P<answer>...)` is compared with column `answer`.
    ///
    /// # Errors
    /// A pattern that does not compile or is too large.
    pub fn new(pattern: &str) -> Result<Self, Error> {
        let regex = RegexBuilder::new(pattern)
            .size_limit(1 << 20)
            .build()
            .map_err(Box::new)?;
        let captures = regex.capture_names().flatten().any(|name| name == "answer");
        Ok(Self {
            regex,
            captures,
            column: "answer".to_owned(),
            normalization: Normalization::default(),
        })
    }

    /// The same pattern compared with another column.
    #[must_use]
    pub fn compared_with(mut self, column: impl Into<String>, normalization: Normalization) -> Self {
        self.column = column.into();
        self.normalization = normalization;
        self
    }
}

impl Verifier for RegularExpression {
    fn name(&self) -> &str {
        "regular_expression"
    }

    fn verify(&self, row: &PromptRow, response: &str) -> Result<Verdict, Error> {
        if !self.captures {
            let found = self.regex.is_match(response);
            return Ok(Verdict::pass_if(
                found,
                if found {
                    "the pattern matches"
                } else {
                    "the pattern does not match"
                },
            ));
        }
        let references = row.references("regular_expression", &self.column)?;
        let last = self
            .regex
            .captures_iter(response)
            .filter_map(|found| found.name("answer"))
            .last();
        let Some(answer) = last else {
            return Ok(Verdict::fail("the pattern does not match"));
        };
        let got = self.normalization.apply(answer.as_str());
        let right = references
            .iter()
            .any(|reference| self.normalization.apply(reference) == got);
        let detail = format!(
            "{:?}, expected {:?}",
            shortened(&got),
            shortened(&references.join(" or "))
        );
        Ok(Verdict::pass_if(right, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_without_a_group_only_has_to_match() {
        let verifier = RegularExpression::new(r"^\d{4}-\d{2}$").unwrap();
        let row = PromptRow::new("When?");
        assert!(verifier.verify(&row, "2024-05").unwrap().passes());
        assert!(!verifier.verify(&row, "in 2024-05").unwrap().passes());
    }

    #[test]
    fn the_last_match_of_the_group_is_compared() {
        let verifier = RegularExpression::new(r"(?i)answer is (?P<answer>[^.]+)").unwrap();
        let row = PromptRow::new("?").with("answer", "blue");
        assert!(
            verifier
                .verify(&row, "The answer is red. No: the answer is Blue.")
                .unwrap()
                .passes()
        );
        let verdict = verifier.verify(&row, "The answer is red.").unwrap();
        assert_eq!(
            (verdict.score, &verdict.detail[..]),
            (0.0, "\"red\", expected \"blue\"")
        );
        assert!(!verifier.verify(&row, "blue").unwrap().passes());
        assert!(verifier.verify(&PromptRow::new("?"), "the answer is 1").is_err());
        let strict = verifier.compared_with("gold", Normalization::Verbatim);
        let row = PromptRow::new("?").with("gold", "Blue");
        assert!(!strict.verify(&row, "the answer is blue").unwrap().passes());
        assert!(strict.verify(&row, "the answer is Blue").unwrap().passes());
    }

    #[test]
    fn patterns_that_do_not_compile_or_explode_are_refused() {
        assert!(matches!(RegularExpression::new("("), Err(Error::Pattern(_))));
        assert!(RegularExpression::new("(a{1000}){1000}").is_err());
    }
}
