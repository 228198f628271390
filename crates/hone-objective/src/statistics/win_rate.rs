//! Win rate: the share of prompts on which a judge prefers one system's answer to another's, ties a half.
//!
//! Source: Ouyang et al. (InstructGPT), 2022, section 4.1.
//!
//! Where it differs from other implementations:
//! 1. Ties count as half a win. AlpacaEval and others do the same; some leave ties out, which moves the rate away from a half.
//! 2. The interval is a bootstrap over prompts.

use super::{Bootstrap, Interval, bootstrap_interval};
use crate::Error;

/// A judge's verdict on one prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The system's answer is preferred.
    Win,
    /// Neither is.
    Tie,
    /// The other's is.
    Loss,
}

impl Outcome {
    /// The verdict of a judge that scores both answers; `None` where a score is NaN.
    pub fn of_scores(own: f64, other: f64) -> Option<Self> {
        own.partial_cmp(&other).map(|order| match order {
            std::cmp::Ordering::Greater => Self::Win,
            std::cmp::Ordering::Equal => Self::Tie,
            std::cmp::Ordering::Less => Self::Loss,
        })
    }

    /// 1, a half or 0.
    pub fn value(self) -> f64 {
        match self {
            Self::Win => 1.0,
            Self::Tie => 0.5,
            Self::Loss => 0.0,
        }
    }
}

/// Verdicts counted, and the rate with its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WinRate {
    /// Wins.
    pub wins: u64,
    /// Ties.
    pub ties: u64,
    /// Losses.
    pub losses: u64,
    /// Wins and half the ties over all, with a bootstrap interval.
    pub rate: Interval,
}

/// The win rate over prompts.
///
/// # Errors
/// No outcome; what [`bootstrap_interval`] refuses.
pub fn win_rate(outcomes: &[Outcome], bootstrap: &Bootstrap) -> Result<WinRate, Error> {
    let values: Vec<f64> = outcomes.iter().map(|outcome| outcome.value()).collect();
    let rate = bootstrap_interval(&values, bootstrap)?;
    let number = |which| outcomes.iter().filter(|&&outcome| outcome == which).count() as u64;
    Ok(WinRate {
        wins: number(Outcome::Win),
        ties: number(Outcome::Tie),
        losses: number(Outcome::Loss),
        rate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    #[test]
    fn ties_count_a_half() {
        let outcomes = [Outcome::Win, Outcome::Tie, Outcome::Tie, Outcome::Loss, Outcome::Loss];
        let out = win_rate(&outcomes, &Bootstrap::new(Key::new(1, "win", 0))).unwrap();
        assert_eq!((out.wins, out.ties, out.losses), (1, 2, 2));
        assert_eq!(out.rate.estimate, 0.4);
        assert!(out.rate.low < 0.4 && 0.4 < out.rate.high);
        assert!(win_rate(&[], &Bootstrap::new(Key::new(1, "win", 0))).is_err());
    }

    #[test]
    fn verdicts_of_scores() {
        assert_eq!(Outcome::of_scores(2.0, 1.0), Some(Outcome::Win));
        assert_eq!(Outcome::of_scores(1.0, 1.0), Some(Outcome::Tie));
        assert_eq!(Outcome::of_scores(0.0, 1.0), Some(Outcome::Loss));
        assert_eq!(Outcome::of_scores(f64::NAN, 1.0), None);
    }
}
