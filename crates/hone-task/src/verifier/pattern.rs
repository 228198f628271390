use super::{Verdict, Verifier};
use crate::sample::shortened;
use crate::{BadSetting, Normalization, Problem, Sample};
use regex::{Regex, RegexBuilder};

/// The response matches a pattern somewhere; or, where the pattern has a group named `answer`, what that group holds in the last match
/// equals the reference.
///
/// Matching takes time linear in the response (the `regex` crate); compiled patterns are limited to 1 MiB.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    captures: bool,
    column: String,
    normalization: Normalization,
}

impl Pattern {
    /// Compiles a pattern. A group `(?P<answer>...)` is compared with this column.
    ///
    /// # Errors
    /// A pattern that does not compile or is too large.
    pub fn new(pattern: &str, column: &str, normalization: Normalization) -> Result<Self, BadSetting> {
        let regex = compiled(pattern)?;
        let captures = regex.capture_names().flatten().any(|name| name == "answer");
        Ok(Self {
            regex,
            captures,
            column: column.to_owned(),
            normalization,
        })
    }
}

/// A pattern of the `regex` crate, of limited size.
pub(crate) fn compiled(pattern: &str) -> Result<Regex, BadSetting> {
    RegexBuilder::new(pattern).size_limit(1 << 20).build().map_err(|error| {
        // The crate draws a picture of several lines; its last line says what is wrong
        let said = error.to_string();
        let reason = said.lines().last().unwrap_or_default().trim_start_matches("error: ");
        BadSetting::new(
            "pattern",
            format!("{pattern:?}"),
            format!("a regular expression ({reason})"),
        )
    })
}

impl Verifier for Pattern {
    fn verify(&self, sample: &Sample<'_>) -> Result<Verdict, Problem> {
        let response = sample.response;
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
        let references = sample.row.references(&self.column)?;
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
    use crate::PromptRow;

    fn new(pattern: &str) -> Result<Pattern, BadSetting> {
        Pattern::new(pattern, "answer", Normalization::default())
    }

    #[test]
    fn a_pattern_without_a_group_only_has_to_match() {
        let verifier = new(r"^\d{4}-\d{2}$").unwrap();
        let row = PromptRow::new("When?");
        assert!(verifier.verify(&Sample::new(&row, "2024-05")).unwrap().passes());
        assert!(!verifier.verify(&Sample::new(&row, "in 2024-05")).unwrap().passes());
    }

    #[test]
    fn the_last_match_of_the_group_is_compared() {
        let verifier = new(r"(?i)answer is (?P<answer>[^.]+)").unwrap();
        let row = PromptRow::new("?").with("answer", "blue");
        assert!(
            verifier
                .verify(&Sample::new(&row, "The answer is red. No: the answer is Blue."))
                .unwrap()
                .passes()
        );
        let verdict = verifier.verify(&Sample::new(&row, "The answer is red.")).unwrap();
        assert_eq!(
            (verdict.score, &verdict.detail[..]),
            (0.0, "\"red\", expected \"blue\"")
        );
        assert!(!verifier.verify(&Sample::new(&row, "blue")).unwrap().passes());
        assert!(
            verifier
                .verify(&Sample::new(&PromptRow::new("?"), "the answer is 1"))
                .is_err()
        );
        let strict = Pattern::new(r"(?i)answer is (?P<answer>[^.]+)", "gold", Normalization::Verbatim).unwrap();
        let row = PromptRow::new("?").with("gold", "Blue");
        assert!(
            !strict
                .verify(&Sample::new(&row, "the answer is blue"))
                .unwrap()
                .passes()
        );
        assert!(
            strict
                .verify(&Sample::new(&row, "the answer is Blue"))
                .unwrap()
                .passes()
        );
    }

    #[test]
    fn patterns_that_do_not_compile_or_explode_are_refused() {
        assert_eq!(
            new("(").unwrap_err().to_string(),
            "`pattern` is \"(\"; expected a regular expression (unclosed group)"
        );
        assert!(new("(a{1000}){1000}").is_err());
    }
}
