use super::{Verdict, Verifier};
use crate::{BadSetting, Problem, Sample};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a length counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Unicode scalar values.
    Characters,
    /// Runs of what is not white space.
    #[default]
    Words,
    /// Tokens of the policy that sampled the response.
    Tokens,
    /// Lines that hold more than white space.
    Lines,
}

/// The response's length lies in a range; outside it the score falls along a straight line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Length {
    unit: Unit,
    least: usize,
    most: usize,
    slope: usize,
}

impl Length {
    /// From `least` to `most`, both included; anything else scores 0.
    ///
    /// # Errors
    /// A least above the most.
    pub fn new(unit: Unit, least: usize, most: usize) -> Result<Self, BadSetting> {
        if least > most {
            return Err(BadSetting::new("min", least, format!("at most `max`, which is {most}")));
        }
        Ok(Self {
            unit,
            least,
            most,
            slope: 0,
        })
    }

    /// The same range; outside it the score falls evenly, and is 0 from `slope + 1` units away on.
    #[must_use]
    pub fn with_slope(self, slope: usize) -> Self {
        Self { slope, ..self }
    }
}

impl Verifier for Length {
    fn verify(&self, sample: &Sample<'_>) -> Result<Verdict, Problem> {
        let response = sample.response;
        let (length, unit) = match self.unit {
            Unit::Characters => (response.chars().count(), "characters"),
            Unit::Words => (response.split_whitespace().count(), "words"),
            Unit::Tokens => (sample.tokens.ok_or(Problem::NoTokens)?, "tokens"),
            Unit::Lines => (response.lines().filter(|line| !line.trim().is_empty()).count(), "lines"),
        };
        let away = if length < self.least {
            self.least - length
        } else {
            length.saturating_sub(self.most)
        };
        let zero = self.slope.saturating_add(1);
        let score = if away >= zero {
            0.0
        } else {
            1.0 - away as f64 / zero as f64
        };
        let most = if self.most == usize::MAX {
            "or more".to_owned()
        } else {
            format!("to {}", self.most)
        };
        Ok(Verdict {
            score,
            detail: format!("{length} {unit}, expected {} {most}", self.least),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PromptRow;
    use crate::verifier::judged;

    fn score(length: &Length, response: &str) -> f64 {
        judged(length, response).score
    }

    #[test]
    fn a_range_with_hard_ends() {
        let length = Length::new(Unit::Words, 2, 3).unwrap();
        let scores = ["", "a", "a b", " a  b\nc ", "a b c d"].map(|response| score(&length, response));
        assert_eq!(scores, [0.0, 0.0, 1.0, 1.0, 0.0]);
        assert_eq!(judged(&length, "a").detail, "1 words, expected 2 to 3");
    }

    #[test]
    fn a_slope_on_either_side() {
        let length = Length::new(Unit::Characters, 4, 4).unwrap().with_slope(3);
        let scores = ["", "é", "éé", "ééé", "éééé", "ééééé", "éééééééé"].map(|response| score(&length, response));
        assert_eq!(scores, [0.0, 0.25, 0.5, 0.75, 1.0, 0.75, 0.0]);
        assert_eq!(score(&Length::new(Unit::Lines, 2, 2).unwrap(), "a\n\n b\n"), 1.0);
        let endless = Length::new(Unit::Characters, 1, 1).unwrap().with_slope(usize::MAX);
        assert!(score(&endless, "aaa") > 0.99);
        assert!(Length::new(Unit::Words, 3, 2).is_err());
    }

    #[test]
    fn tokens_are_counted_by_who_sampled() {
        let length = Length::new(Unit::Tokens, 1, 2).unwrap();
        let row = PromptRow::new("?");
        let sample = Sample::new(&row, "one two three");
        assert_eq!(length.verify(&sample), Err(Problem::NoTokens));
        assert!(length.verify(&sample.with_tokens(2)).unwrap().passes());
        assert!(!length.verify(&sample.with_tokens(3)).unwrap().passes());
        let open = Length::new(Unit::Words, 2, usize::MAX).unwrap();
        assert_eq!(judged(&open, "a").detail, "1 words, expected 2 or more");
    }
}
