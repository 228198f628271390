use crate::{Error, Sample, Verifier};

/// Scores responses. Any finite number will do; only differences and scale matter to training.
///
/// It takes `&mut self` so that an implementation can keep buffers or a connection. What it returns must depend on the samples alone.
pub trait Reward: Send {
    /// Its name in metrics and messages.
    fn name(&self) -> &str;

    /// One score a sample, in order.
    ///
    /// # Errors
    /// A sample that cannot be scored, or a failure of what scores it.
    fn score(&mut self, samples: &[Sample<'_>]) -> Result<Vec<f32>, Error>;
}

impl<R: Reward + ?Sized> Reward for Box<R> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn score(&mut self, samples: &[Sample<'_>]) -> Result<Vec<f32>, Error> {
        (**self).score(samples)
    }
}

/// A verifier's score as a reward.
#[derive(Clone, Debug)]
pub struct VerifierReward<V>(pub V);

impl<V: Verifier> Reward for VerifierReward<V> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn score(&mut self, samples: &[Sample<'_>]) -> Result<Vec<f32>, Error> {
        let one = |(index, sample): (usize, &Sample<'_>)| {
            let got = self.0.verify(sample.row, sample.response)?.score;
            if (0.0..=1.0).contains(&got) {
                Ok(got)
            } else {
                Err(Error::BadScore {
                    reward: self.0.name().to_owned(),
                    index,
                    got,
                    expected: "0 to 1",
                })
            }
        };
        samples.iter().enumerate().map(one).collect()
    }
}

/// One term of a [`WeightedSum`].
pub struct Part {
    /// What it is multiplied by.
    pub weight: f32,
    /// What scores.
    pub reward: Box<dyn Reward>,
}

/// The sum of other rewards, each times its weight.
pub struct WeightedSum {
    parts: Vec<Part>,
}

/// Scores with the terms they are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// The weighted sum, `[samples]`.
    pub total: Vec<f32>,
    /// Each term's scores before weighting, `[parts][samples]`.
    pub parts: Vec<Vec<f32>>,
}

impl WeightedSum {
    /// A sum of one or more terms.
    ///
    /// # Errors
    /// No term; a weight that is not finite.
    pub fn new(parts: Vec<Part>) -> Result<Self, Error> {
        let refuse = |got: String, expected| {
            Err(Error::Setting {
                of: "weighted sum of rewards",
                name: "weight",
                got,
                expected,
            })
        };
        if parts.is_empty() {
            return refuse("absent".to_owned(), "one weight or more");
        }
        if let Some(part) = parts.iter().find(|part| !part.weight.is_finite()) {
            return refuse(part.weight.to_string(), "a finite number");
        }
        Ok(Self { parts })
    }

    /// The names of the terms, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|part| part.reward.name())
    }

    /// The sum and its terms, which metrics show one by one. Terms are added in order, in double precision.
    ///
    /// # Errors
    /// What a term refuses; a term with another number of scores than samples, or a score that is not finite.
    pub fn score_parts(&mut self, samples: &[Sample<'_>]) -> Result<Scores, Error> {
        let mut sums = vec![0.0_f64; samples.len()];
        let mut parts = Vec::with_capacity(self.parts.len());
        for Part { weight, reward } in &mut self.parts {
            let scores = reward.score(samples)?;
            let name = || reward.name().to_owned();
            if scores.len() != samples.len() {
                return Err(Error::ScoreCount {
                    reward: name(),
                    expected: samples.len(),
                    got: scores.len(),
                });
            }
            for (index, (sum, &got)) in sums.iter_mut().zip(&scores).enumerate() {
                if !got.is_finite() {
                    return Err(Error::BadScore {
                        reward: name(),
                        index,
                        got,
                        expected: "a finite number",
                    });
                }
                *sum += f64::from(*weight) * f64::from(got);
            }
            parts.push(scores);
        }
        Ok(Scores {
            total: sums.into_iter().map(|sum| sum as f32).collect(),
            parts,
        })
    }
}

impl Reward for WeightedSum {
    fn name(&self) -> &str {
        "weighted_sum"
    }

    fn score(&mut self, samples: &[Sample<'_>]) -> Result<Vec<f32>, Error> {
        self.score_parts(samples).map(|scores| scores.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verifier::{ExactMatch, Length, Unit};
    use crate::{PromptRow, Verdict};

    /// Returns the numbers it was made with.
    struct Fixed(Vec<f32>);

    impl Reward for Fixed {
        fn name(&self) -> &str {
            "fixed"
        }

        fn score(&mut self, _: &[Sample<'_>]) -> Result<Vec<f32>, Error> {
            Ok(self.0.clone())
        }
    }

    fn part(weight: f32, reward: impl Reward + 'static) -> Part {
        Part {
            weight,
            reward: Box::new(reward),
        }
    }

    #[test]
    fn a_weighted_sum_by_hand() {
        let row = PromptRow::new("?").with("answer", "yes");
        let samples = ["yes", "yes yes yes", "no"].map(|response| Sample { row: &row, response });
        let mut sum = WeightedSum::new(vec![
            part(2.0, VerifierReward(ExactMatch::default())),
            part(0.5, VerifierReward(Length::new(Unit::Words, 1, 2).unwrap())),
            part(-1.0, Fixed(vec![0.0, 0.25, 3.0])),
        ])
        .unwrap();
        assert_eq!(sum.names().collect::<Vec<_>>(), ["exact_match", "length", "fixed"]);
        let scores = sum.score_parts(&samples).unwrap();
        assert_eq!(
            scores.parts,
            [vec![1.0, 0.0, 0.0], vec![1.0, 0.0, 1.0], vec![0.0, 0.25, 3.0]]
        );
        assert_eq!(scores.total, [2.5, -0.25, -2.5]);
        assert_eq!(sum.score(&samples).unwrap(), scores.total);
        // Sums nest, and no samples have no scores
        let mut nested = WeightedSum::new(vec![part(2.0, sum)]).unwrap();
        assert_eq!(nested.score(&samples).unwrap(), [5.0, -0.5, -5.0]);
        let mut plain = VerifierReward(ExactMatch::default());
        assert!(plain.score(&[]).unwrap().is_empty());
    }

    #[test]
    fn rewards_that_misbehave_are_named() {
        let row = PromptRow::new("?");
        let samples = [
            Sample {
                row: &row,
                response: "a",
            },
            Sample {
                row: &row,
                response: "b",
            },
        ];
        let of = |scores: Vec<f32>| {
            WeightedSum::new(vec![part(1.0, Fixed(scores))])
                .unwrap()
                .score(&samples)
                .unwrap_err()
        };
        assert_eq!(
            of(vec![1.0]).to_string(),
            "reward fixed: 1 scores for 2 samples; a reward scores each sample once, in order"
        );
        assert_eq!(
            of(vec![1.0, f32::NAN]).to_string(),
            "reward fixed: sample 1 scored NaN, expected a finite number"
        );
        assert!(WeightedSum::new(vec![]).is_err());
        assert!(WeightedSum::new(vec![part(f32::INFINITY, Fixed(vec![]))]).is_err());
    }

    struct Generous;

    impl Verifier for Generous {
        fn name(&self) -> &str {
            "generous"
        }

        fn verify(&self, _: &PromptRow, _: &str) -> Result<Verdict, Error> {
            Ok(Verdict {
                score: 2.0,
                detail: String::new(),
            })
        }
    }

    #[test]
    fn a_verdict_above_1_is_refused() {
        let row = PromptRow::new("?");
        let boxed: Box<dyn Verifier> = Box::new(Generous);
        let refused = VerifierReward(boxed).score(&[Sample {
            row: &row,
            response: "",
        }]);
        assert!(matches!(refused, Err(Error::BadScore { index: 0, got: 2.0, .. })));
    }
}
