//! Matrices of f64, and the rounding of operands.

/// What is done to the operands of a product before they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Nothing.
    None,
    /// Rounded to bf16, halves to even.
    Bf16,
}

impl Rounding {
    /// The operand as it is multiplied.
    pub fn of(self, x: f64) -> f64 {
        match self {
            Self::None => x,
            Self::Bf16 => round_to_bf16(x),
        }
    }
}

/// The nearest number with 8 significant bits, halves to even; for numbers that are normal in bf16.
fn round_to_bf16(x: f64) -> f64 {
    let x = f64::from(x as f32);
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let mut step = 1.0;
    while x.abs() / step >= 256.0 {
        step *= 2.0;
    }
    while x.abs() / step < 128.0 {
        step /= 2.0;
    }
    (x / step).round_ties_even() * step
}

/// Numbers row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// How many rows.
    pub rows: usize,
    /// Numbers in each.
    pub cols: usize,
    /// All of them.
    pub data: Vec<f64>,
}

impl Matrix {
    /// Element `(r, c)` is `f(r, c)`.
    pub fn from_fn(rows: usize, cols: usize, mut f: impl FnMut(usize, usize) -> f64) -> Self {
        let data = (0..rows * cols).map(|i| f(i / cols, i % cols)).collect();
        Self { rows, cols, data }
    }

    /// From single precision.
    ///
    /// # Panics
    /// If there are not `rows * cols` of them.
    pub fn from_f32(rows: usize, cols: usize, values: &[f32]) -> Self {
        assert_eq!(values.len(), rows * cols);
        Self {
            rows,
            cols,
            data: values.iter().map(|&x| f64::from(x)).collect(),
        }
    }

    /// In single precision.
    pub fn to_f32(&self) -> Vec<f32> {
        self.data.iter().map(|&x| x as f32).collect()
    }

    /// One row.
    pub fn row(&self, r: usize) -> &[f64] {
        &self.data[r * self.cols..(r + 1) * self.cols]
    }

    /// One number.
    pub fn at(&self, r: usize, c: usize) -> f64 {
        self.data[r * self.cols + c]
    }

    /// These rows, in this order.
    pub fn select(&self, rows: &[u32]) -> Self {
        Self::from_fn(rows.len(), self.cols, |r, c| self.at(rows[r] as usize, c))
    }

    /// `self + factor * other`.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn plus(&self, other: &Self, factor: f64) -> Self {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols));
        Self::from_fn(self.rows, self.cols, |r, c| self.at(r, c) + factor * other.at(r, c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_eight_bits() {
        let cases = [
            (1.0, 1.0),
            (1.00390625, 1.0),      // 1 + 2^-8: half way, to the even 1
            (1.01171875, 1.015625), // 1 + 3 * 2^-8: half way, to the even 1 + 2^-6
            (1.0039064, 1.0078125), // above half way
            (-5.321, -5.3125),
            (0.0, 0.0),
        ];
        for (x, expected) in cases {
            assert_eq!(round_to_bf16(x), expected, "{x}");
        }
    }
}
