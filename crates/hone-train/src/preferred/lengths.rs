//! How lengths and implicit rewards go together, in one pass and of parts put together.
//!
//! Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979, whose formula holds for
//! products of two deviations, too.

/// Count, means, squared deviations and their products, of pairs of numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lengths {
    count: f64,
    means: (f64, f64),
    squares: (f64, f64),
    products: f64,
}

impl Lengths {
    /// Of one length, or difference of lengths, and one implicit reward, or margin.
    pub fn of(length: f64, reward: f64) -> Self {
        Self {
            count: 1.0,
            means: (length, reward),
            ..Self::default()
        }
    }

    /// Adds another set.
    pub fn merge(&mut self, other: &Self) {
        let all = self.count + other.count;
        if other.count == 0.0 {
            return;
        }
        let apart = (other.means.0 - self.means.0, other.means.1 - self.means.1);
        let weight = self.count * other.count / all;
        self.squares.0 += other.squares.0 + apart.0 * apart.0 * weight;
        self.squares.1 += other.squares.1 + apart.1 * apart.1 * weight;
        self.products += other.products + apart.0 * apart.1 * weight;
        self.means.0 += apart.0 * other.count / all;
        self.means.1 += apart.1 * other.count / all;
        self.count = all;
    }

    /// Pearson's correlation; none where one side is constant, or a number is not finite.
    pub fn correlation(&self) -> Option<f64> {
        let r = self.products / (self.squares.0 * self.squares.1).sqrt();
        r.is_finite().then(|| r.clamp(-1.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use hone_objective::statistics::pearson;

    use super::*;

    #[test]
    fn parts_put_together_are_the_whole() {
        let lengths = [3.0, -5.0, 0.0, 12.0, 4.0, -1.0];
        let margins = [0.5, -0.25, 0.125, 0.75, -0.5, 0.0];
        let of = |range: std::ops::Range<usize>| {
            let mut sums = Lengths::default();
            range.for_each(|i| sums.merge(&Lengths::of(lengths[i], margins[i])));
            sums
        };
        let expected = pearson(&lengths, &margins).unwrap().unwrap();
        let mut parts = of(0..2);
        parts.merge(&of(2..6));
        parts.merge(&Lengths::default());
        for sums in [of(0..6), parts] {
            assert!((sums.correlation().unwrap() - expected).abs() < 1e-12);
        }
        // Nothing can be said of one pair, of equal lengths, or of what is no number
        assert_eq!(of(1..2).correlation(), None);
        let mut equal = Lengths::of(2.0, 1.0);
        equal.merge(&Lengths::of(2.0, 3.0));
        assert_eq!(equal.correlation(), None);
        equal.merge(&Lengths::of(4.0, f64::NAN));
        assert_eq!(equal.correlation(), None);
    }
}
