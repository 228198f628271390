//! Accuracy: the share of rows answered rightly, with Wilson's interval (Wilson, 1927).

use hone_objective::statistics::wilson_interval;

use crate::error::Error;

/// A share of right answers with its 95% interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Accuracy {
    /// Right rows over all.
    pub accuracy: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Rows answered rightly.
    pub right: u64,
    /// Rows with a reference.
    pub rows: u64,
}

/// The accuracy of `right` of `rows` independent rows.
///
/// # Errors
/// No row; more right ones than rows.
pub fn accuracy(right: u64, rows: u64) -> Result<Accuracy, Error> {
    if rows == 0 {
        return Err(Error::Empty {
            metric: "accuracy",
            what: "row with a reference",
        });
    }
    let share = wilson_interval(right as f64, rows, 0.95)?;
    Ok(Accuracy {
        accuracy: share.estimate,
        low: share.low,
        high: share.high,
        right,
        rows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_interval() {
        // Newcombe, 1998, table I
        let found = accuracy(81, 263).unwrap();
        assert!(
            (found.low - 0.2553).abs() < 5e-5 && (found.high - 0.3662).abs() < 5e-5,
            "{found:?}"
        );
        assert!((found.accuracy - 81.0 / 263.0).abs() < 1e-15);
        assert!(accuracy(0, 0).is_err() && accuracy(2, 1).is_err());
    }
}
