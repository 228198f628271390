//! Weighted sums as `calculate_output` of a grader writes them: `0.7 * exact + 0.3 * (close - 0.5 * long) / 2`.

use std::collections::BTreeMap;

/// Characters of a formula.
const LONGEST: usize = 1000;
/// Brackets and signs within each other.
const DEEPEST: usize = 50;

/// A number plus a weighted sum of names.
#[derive(Clone, Debug, Default, PartialEq)]
struct Linear {
    constant: f64,
    weights: BTreeMap<String, f64>,
}

/// The weight of every name in a formula.
///
/// # Errors
/// What is no formula, and one that is no weighted sum.
pub(super) fn weights(formula: &str) -> Result<BTreeMap<String, f64>, String> {
    if formula.len() > LONGEST {
        return Err(format!("has {} bytes; expected at most {LONGEST}", formula.len()));
    }
    let mut reader = Reader {
        rest: formula.trim_start(),
        depth: 0,
    };
    let linear = reader.sum()?;
    if !reader.rest.is_empty() {
        return Err(format!(
            "cannot be read at {:?}; expected a weighted sum such as `0.7 * a + 0.3 * b`",
            reader.rest
        ));
    }
    if linear.constant != 0.0 {
        return Err(format!(
            "adds {}; expected a weighted sum of graders alone",
            linear.constant
        ));
    }
    match linear.weights.values().find(|weight| !weight.is_finite()) {
        Some(weight) => Err(format!("has the weight {weight}; expected finite numbers")),
        None => Ok(linear.weights),
    }
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl Reader<'_> {
    fn take(&mut self, sign: char) -> bool {
        match self.rest.strip_prefix(sign) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn sum(&mut self) -> Result<Linear, String> {
        let mut sum = self.product()?;
        loop {
            let sign = if self.take('+') {
                1.0
            } else if self.take('-') {
                -1.0
            } else {
                return Ok(sum);
            };
            let next = self.product()?;
            sum.constant += sign * next.constant;
            for (name, weight) in next.weights {
                *sum.weights.entry(name).or_default() += sign * weight;
            }
        }
    }

    fn product(&mut self) -> Result<Linear, String> {
        let mut product = self.factor()?;
        loop {
            if self.take('*') {
                let next = self.factor()?;
                product = match (product.weights.is_empty(), next.weights.is_empty()) {
                    (_, true) => product.times(next.constant),
                    (true, false) => next.times(product.constant),
                    (false, false) => return Err("multiplies graders; expected a weighted sum of them".into()),
                };
            } else if self.take('/') {
                let next = self.factor()?;
                if !next.weights.is_empty() || next.constant == 0.0 {
                    return Err("divides by what is no number above or below 0; expected a weighted sum".into());
                }
                product = product.times(1.0 / next.constant);
            } else {
                return Ok(product);
            }
        }
    }

    fn factor(&mut self) -> Result<Linear, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("has more than {DEEPEST} brackets and signs within each other"));
        }
        let found = if self.take('-') {
            self.factor()?.times(-1.0)
        } else if self.take('(') {
            let inner = self.sum()?;
            if !self.take(')') {
                return Err("has a bracket that does not close".into());
            }
            inner
        } else {
            self.word()?
        };
        self.depth -= 1;
        Ok(found)
    }

    fn word(&mut self) -> Result<Linear, String> {
        let end = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        let first = word.chars().next();
        self.rest = rest.trim_start();
        match first {
            Some(c) if c.is_ascii_digit() || c == '.' => {
                let number = word.parse().ok().filter(|number: &f64| number.is_finite());
                let number = number.ok_or_else(|| format!("has {word:?}, which is no number"))?;
                Ok(Linear {
                    constant: number,
                    ..Linear::default()
                })
            }
            Some(_) if self.rest.starts_with('(') => {
                Err(format!("calls {word:?}; expected a weighted sum, without functions"))
            }
            Some(_) => Ok(Linear {
                constant: 0.0,
                weights: [(word.to_owned(), 1.0)].into(),
            }),
            None => Err("ends, or has a sign where a grader's name or a number is expected".into()),
        }
    }
}

impl Linear {
    fn times(mut self, factor: f64) -> Self {
        self.constant *= factor;
        self.weights.values_mut().for_each(|weight| *weight *= factor);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weighted_sums_are_read() {
        let read = |formula: &str| weights(formula).unwrap().into_iter().collect::<Vec<_>>();
        let pair = |name: &str, weight: f64| (name.to_owned(), weight);
        assert_eq!(read("a"), [pair("a", 1.0)]);
        assert_eq!(read(" 0.5*a + b * .25 - a "), [pair("a", -0.5), pair("b", 0.25)]);
        assert_eq!(read("(a - -2 * (b + a)) / 4"), [pair("a", 0.75), pair("b", 0.5)]);
        assert_eq!(read("1 - 1 + a"), [pair("a", 1.0)]);
    }

    #[test]
    fn what_is_no_weighted_sum_is_refused() {
        for (formula, said) in [
            ("a * b", "multiplies graders"),
            ("1 / a", "divides by"),
            ("a / 0", "divides by"),
            ("a + 1", "adds 1"),
            ("max(a, b)", "calls \"max\""),
            ("(a", "does not close"),
            ("a b", "cannot be read at \"b\""),
            ("a +", "ends"),
            ("", "ends"),
            ("1e400 * a", "which is no number"),
            (
                "a / 0.0000000000000000000000000000000000000000000000000000000000000000000001 / 0.000000000000000000000000000000000000000000000000000000000000000000000001 / 0.00000000000000000000000000000000000000000000000000000000000000000000001 / 0.00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000001",
                "finite",
            ),
        ] {
            let error = weights(formula).unwrap_err();
            assert!(error.contains(said), "{formula}: {error}");
        }
        assert!(weights(&"(".repeat(60)).unwrap_err().contains("within each other"));
        assert!(weights(&"a".repeat(1001)).is_err());
    }
}
