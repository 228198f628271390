use super::{Verdict, Verifier};
use crate::{Error, PromptRow};

/// What a length counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Unicode scalar values.
    Characters,
    /// Runs of what is not white space.
    Words,
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
    pub fn new(unit: Unit, least: usize, most: usize) -> Result<Self, Error> {
        if least > most {
            return Err(Error::Setting {
                of: "verifier length",
                name: "least",
                got: least.to_string(),
                expected: "at most the upper end of the range",
            });
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
    fn name(&self) -> &str {
        "length"
    }

    fn verify(&self, _row: &PromptRow, response: &str) -> Result<Verdict, Error> {
        let (length, unit) = match self.unit {
            Unit::Characters => (response.chars().count(), "characters"),
            Unit::Words => (response.split_whitespace().count(), "words"),
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
        Ok(Verdict {
            score: score as f32,
            detail: format!("{length} {unit}, expected {} to {}", self.least, self.most),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(length: &Length, response: &str) -> f32 {
        length.verify(&PromptRow::new("?"), response).unwrap().score
    }

    #[test]
    fn a_range_with_hard_ends() {
        let length = Length::new(Unit::Words, 2, 3).unwrap();
        let scores = ["", "a", "a b", " a  b\nc ", "a b c d"].map(|response| score(&length, response));
        assert_eq!(scores, [0.0, 0.0, 1.0, 1.0, 0.0]);
        assert_eq!(
            length.verify(&PromptRow::new("?"), "a").unwrap().detail,
            "1 words, expected 2 to 3"
        );
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
}
