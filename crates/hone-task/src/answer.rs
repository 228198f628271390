//! The final answer in a response, so that answers can be counted: the vote of self-consistency.

use regex::Regex;

use crate::verifier::{Numeric, compiled};
use crate::{BadSetting, Normalization, PromptRow};

/// How the final answer of a response is found.
///
/// Source: Wang et al., "Self-consistency improves chain of thought reasoning in language models", 2023.
#[derive(Clone, Debug)]
pub enum FinalAnswer {
    /// The number after the last marker, else the last number; compared as a decimal, as [`Numeric`] does.
    Number(Numeric),
    /// What a pattern's last match holds, compared under [`Normalization::Squad`].
    Pattern(Regex),
}

impl FinalAnswer {
    /// The number after the last `####`, else the last number.
    pub fn number() -> Self {
        Self::Number(Numeric {
            column: "answer".to_owned(),
            marker: "####".to_owned(),
            fallback: true,
        })
    }

    /// What the last match of a pattern holds in its group `answer`; without such a group in its first one, without any
    /// group as a whole.
    ///
    /// # Errors
    /// A pattern that does not compile or is too large.
    pub fn pattern(pattern: &str) -> Result<Self, BadSetting> {
        if pattern.is_empty() {
            return Err(BadSetting::new("pattern", "\"\"", "a regular expression"));
        }
        Ok(Self::Pattern(compiled(pattern)?))
    }

    /// The answer in its normal form: equal answers give equal texts. None where there is none.
    pub fn of(&self, text: &str) -> Option<String> {
        match self {
            Self::Number(rule) => rule.of(text, rule.fallback),
            Self::Pattern(regex) => {
                let last = regex.captures_iter(text).last()?;
                let found = last.name("answer").or_else(|| last.get(1)).or_else(|| last.get(0))?;
                Some(Normalization::Squad.apply(found.as_str())).filter(|answer| !answer.is_empty())
            }
        }
    }

    /// Whether an answer that [`Self::of`] gave is that of the row's column, or one of those in it. A reference that the rule finds no
    /// answer in is compared as a whole. None where the row has no such column, or nothing to compare with in it.
    pub fn is_right(&self, answer: Option<&str>, row: &PromptRow, column: &str) -> Option<bool> {
        let references = row.references(column).ok()?;
        let normal = |reference: &String| {
            let found = self.of(reference);
            found.unwrap_or_else(|| Normalization::Squad.apply(reference))
        };
        Some(answer.is_some_and(|answer| references.iter().any(|reference| normal(reference) == answer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_equal_count_as_one_answer() {
        let rule = FinalAnswer::number();
        for text in ["so $1,026.00", "10 then #### 1026", "#### 1026.0 of 7"] {
            assert_eq!(rule.of(text).as_deref(), Some("1026"), "{text}");
        }
        assert_eq!(rule.of("none at all"), None);
        let row = PromptRow::new("?").with("answer", "13 * 2 = 26\n#### 26");
        assert_eq!(rule.is_right(Some("26"), &row, "answer"), Some(true));
        assert_eq!(rule.is_right(Some("13"), &row, "answer"), Some(false));
        assert_eq!(rule.is_right(None, &row, "answer"), Some(false));
        assert_eq!(rule.is_right(Some("26"), &row, "gold"), None);
    }

    #[test]
    fn a_pattern_gives_its_last_match() {
        let rule = FinalAnswer::pattern(r"(?i)answer is (?P<answer>\w+)").unwrap();
        assert_eq!(
            rule.of("The answer is red. No, the answer is Blue.").as_deref(),
            Some("blue")
        );
        let row = PromptRow::new("?").with("answer", "Blue.");
        assert_eq!(rule.is_right(Some("blue"), &row, "answer"), Some(true));
        assert_eq!(
            FinalAnswer::pattern("^(a|b)[.]").unwrap().of("b. c").as_deref(),
            Some("b")
        );
        assert_eq!(FinalAnswer::pattern("[cd]").unwrap().of("b. c").as_deref(), Some("c"));
        assert!(FinalAnswer::pattern("(").is_err() && FinalAnswer::pattern("").is_err());
    }
}
