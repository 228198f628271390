//! Mean and variance in one pass, and of parts put together.
//!
//! Sources: Welford, "Note on a method for calculating corrected sums of squares and products", 1962; Chan, Golub and LeVeque, "Updating
//! formulae and a pairwise algorithm for computing sample variances", 1979.
//!
//! Where it differs from other implementations:
//! 1. The variance divides by n; the one that divides by n - 1 has a name of its own.

/// Count, mean and squared deviations of a set of numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Adds one number.
    pub fn push(&mut self, x: f64) {
        self.count += 1;
        let before = x - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (x - self.mean);
    }

    /// Adds another set.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *other;
            return;
        }
        let (a, b) = (self.count as f64, other.count as f64);
        let difference = other.mean - self.mean;
        self.count += other.count;
        self.mean += difference * (b / (a + b));
        self.squares += other.squares + difference * difference * (a * b / (a + b));
    }

    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean; NaN of none.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { f64::NAN } else { self.mean }
    }

    /// Their variance, with divisor n; NaN of none.
    pub fn variance(&self) -> f64 {
        if self.count == 0 {
            f64::NAN
        } else {
            self.squares / self.count as f64
        }
    }

    /// The variance of what they are a sample of, with divisor n - 1; NaN of fewer than two.
    pub fn sample_variance(&self) -> f64 {
        if self.count < 2 {
            f64::NAN
        } else {
            self.squares / (self.count - 1) as f64
        }
    }
}

impl FromIterator<f64> for Moments {
    fn from_iter<I: IntoIterator<Item = f64>>(numbers: I) -> Self {
        let mut moments = Self::default();
        numbers.into_iter().for_each(|x| moments.push(x));
        moments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand_far_from_0() {
        // 4, 7, 13, 16 about a billion: mean 10, squares 90
        let moments: Moments = [4.0, 7.0, 13.0, 16.0].iter().map(|x| x + 1e9).collect();
        assert_eq!(moments.mean(), 1e9 + 10.0);
        assert_eq!(moments.variance(), 22.5);
        assert_eq!(moments.sample_variance(), 30.0);
    }

    #[test]
    fn parts_put_together_equal_the_whole() {
        let numbers: Vec<f64> = (0..50).map(|i| f64::from(i * i % 37)).collect();
        let whole: Moments = numbers.iter().copied().collect();
        for cut in [0, 1, 17, 50] {
            let mut moments: Moments = numbers[..cut].iter().copied().collect();
            moments.merge(&numbers[cut..].iter().copied().collect());
            assert_eq!(moments.count(), 50);
            assert!((moments.mean() - whole.mean()).abs() < 1e-12);
            assert!((moments.variance() - whole.variance()).abs() < 1e-10);
        }
    }

    #[test]
    fn of_none_and_of_one() {
        let none = Moments::default();
        assert!(none.mean().is_nan() && none.variance().is_nan());
        let one: Moments = [3.0].into_iter().collect();
        assert_eq!((one.mean(), one.variance()), (3.0, 0.0));
        assert!(one.sample_variance().is_nan());
    }
}
