//! Win rate: the share of prompts on which a judge prefers one system's answer, ties a half, with a bootstrap interval
//! over prompts (Ouyang et al., 2022, section 4.1).

use hone_math::Key;
use hone_objective::statistics::{self, Bootstrap, Outcome};

use crate::error::Error;

/// What a judge says of two answers to one prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The system's answer is better.
    Own,
    /// Neither is.
    Tie,
    /// The other's is.
    Other,
}

impl Verdict {
    /// From the judge's preference for the system's answer: 1, a half or 0, and what lies between by the nearer side.
    pub fn of_preference(preference: f64) -> Self {
        if preference > 0.5 {
            Self::Own
        } else if preference < 0.5 {
            Self::Other
        } else {
            Self::Tie
        }
    }
}

/// A win rate with its interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct WinRate {
    /// Wins and half the ties over all.
    pub win_rate: f64,
    /// Lower end of the 95% interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Prompts the system won.
    pub wins: u64,
    /// Prompts on which neither did.
    pub ties: u64,
    /// Prompts the other won.
    pub losses: u64,
}

/// The win rate of verdicts, one a prompt; the interval is drawn from `seed`.
///
/// # Errors
/// No verdict.
pub fn win_rate(verdicts: &[Verdict], seed: u64) -> Result<WinRate, Error> {
    if verdicts.is_empty() {
        return Err(Error::Empty {
            metric: "win_rate",
            what: "verdict",
        });
    }
    let outcome = |verdict: &Verdict| match verdict {
        Verdict::Own => Outcome::Win,
        Verdict::Tie => Outcome::Tie,
        Verdict::Other => Outcome::Loss,
    };
    let outcomes: Vec<Outcome> = verdicts.iter().map(outcome).collect();
    let counted = statistics::win_rate(&outcomes, &Bootstrap::new(Key::new(seed, "win rate", 0)))?;
    Ok(WinRate {
        win_rate: counted.rate.estimate,
        low: counted.rate.low,
        high: counted.rate.high,
        wins: counted.wins,
        ties: counted.ties,
        losses: counted.losses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_share_has_the_normal_interval() {
        // 600 wins, 200 ties, 200 losses: 0.7; deviation sqrt((600 * 0.09 + 200 * 0.04 + 200 * 0.49) / 1000) = 0.4
        let mut verdicts = vec![Verdict::Own; 600];
        verdicts.extend(vec![Verdict::Tie; 200]);
        verdicts.extend(vec![Verdict::Other; 200]);
        let rate = win_rate(&verdicts, 1).unwrap();
        assert_eq!((rate.wins, rate.ties, rate.losses), (600, 200, 200));
        assert!((rate.win_rate - 0.7).abs() < 1e-12);
        let half = 1.96 * 0.4 / 1000f64.sqrt();
        assert!((rate.low - (0.7 - half)).abs() < 0.004, "{}", rate.low);
        assert!((rate.high - (0.7 + half)).abs() < 0.004, "{}", rate.high);
        assert_eq!(win_rate(&verdicts, 1).unwrap(), rate);
    }

    #[test]
    fn preferences_become_verdicts() {
        assert_eq!(Verdict::of_preference(1.0), Verdict::Own);
        assert_eq!(Verdict::of_preference(0.5), Verdict::Tie);
        assert_eq!(Verdict::of_preference(0.0), Verdict::Other);
        assert!(matches!(win_rate(&[], 1), Err(Error::Empty { .. })));
    }
}
