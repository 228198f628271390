//! Comparing numbers, and derivatives by differences.

/// Asserts equality to the bit.
///
/// # Panics
/// If a number differs, saying which.
#[track_caller]
pub fn assert_bits(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}: how many numbers");
    let differ = got
        .iter()
        .zip(expected)
        .filter(|(g, e)| g.to_bits() != e.to_bits())
        .count();
    if let Some(i) = (0..got.len()).find(|&i| got[i].to_bits() != expected[i].to_bits()) {
        panic!(
            "{what}: {differ} of {} differ, first number {i}: {:e}, expected {:e}",
            got.len(),
            got[i],
            expected[i]
        );
    }
}

/// The largest distance of two arrays, relative to the largest expected number (but at least 1e-6).
///
/// # Panics
/// If the lengths differ.
#[track_caller]
pub fn relative_error(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len(), "how many numbers");
    let size = expected.iter().fold(1e-6_f64, |m, e| m.max(e.abs()));
    let distances = got.iter().zip(expected).map(|(&g, e)| (f64::from(g) - e).abs());
    distances.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) }) / size
}

/// Asserts that the [`relative_error`] is at most `tolerance`.
///
/// # Panics
/// If it is larger.
#[track_caller]
pub fn assert_near(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    let error = relative_error(got, expected);
    assert!(
        error <= tolerance,
        "{what}: relative error {error:e} above {tolerance:e}"
    );
}

/// Derivatives at some places of an array.
pub struct Differences {
    /// Which elements.
    pub places: Vec<usize>,
    /// The derivative at each.
    pub values: Vec<f64>,
}

impl Differences {
    /// The numbers of `all` at the places.
    pub fn of(&self, all: &[f32]) -> Vec<f32> {
        self.places.iter().map(|&i| all[i]).collect()
    }
}

/// Central differences of `loss`, a function of `numbers`, at about `count` elements spread over the array (all, if
/// there are no more).
pub fn differences(numbers: &mut [f64], count: usize, mut loss: impl FnMut(&[f64]) -> f64) -> Differences {
    const STEP: f64 = 1e-5;
    // A stride without a common factor with the usual widths visits all columns.
    let mut stride = numbers.len().div_ceil(count.max(1)).max(1);
    while stride > 1 && (stride.is_multiple_of(2) || stride.is_multiple_of(5)) {
        stride += 1;
    }
    let places: Vec<usize> = (0..numbers.len()).step_by(stride).collect();
    let mut values = Vec::with_capacity(places.len());
    for &i in &places {
        let at = numbers[i];
        numbers[i] = at + STEP;
        let up = loss(numbers);
        numbers[i] = at - STEP;
        let down = loss(numbers);
        numbers[i] = at;
        values.push((up - down) / (2.0 * STEP));
    }
    Differences { places, values }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_of_a_cubic() {
        let mut x = vec![1.0, -2.0, 0.5];
        let found = differences(&mut x, 10, |x| x[0].powi(3) + x[0] * x[1] + 4.0 * x[2]);
        for (got, expected) in found.values.iter().zip([1.0, 1.0, 4.0]) {
            assert!((got - expected).abs() < 1e-8, "{got} {expected}");
        }
        assert_eq!(x, [1.0, -2.0, 0.5]);
    }

    #[test]
    fn errors_are_relative_to_the_largest() {
        assert_eq!(relative_error(&[1.0, 10.0], &[1.5, 10.0]), 0.05);
        assert_eq!(relative_error(&[f32::NAN], &[1.0]), f64::INFINITY);
    }
}
