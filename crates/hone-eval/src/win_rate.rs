//! Win rate: the share of prompts on which a judge prefers one system's answer, ties a half, with a bootstrap interval
//! over prompts (Ouyang et al., 2022, section 4.1); and the difference of two win rates on the same prompts.

use hone_objective::statistics::{self, Bootstrap, Outcome};

use crate::error::Error;

/// A win rate with its interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct WinRate {
    /// Wins and half the ties over all.
    pub win_rate: f64,
    /// Lower end of the interval.
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

/// The win rate of outcomes, one a prompt.
///
/// # Errors
/// No outcome.
pub fn win_rate(outcomes: &[Outcome], draws: &Bootstrap) -> Result<WinRate, Error> {
    if outcomes.is_empty() {
        return Err(Error::Empty {
            metric: "win_rate",
            what: "outcome",
        });
    }
    let counted = statistics::win_rate(outcomes, draws)?;
    Ok(WinRate {
        win_rate: counted.rate.estimate,
        low: counted.rate.low,
        high: counted.rate.high,
        wins: counted.wins,
        ties: counted.ties,
        losses: counted.losses,
    })
}

/// By how much one system's win rate is above another's, with the interval of that difference.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Difference {
    /// The first's win rate less the second's.
    pub difference: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Compares two systems that were judged against one opponent on the same prompts. What is drawn again is the prompt with both
/// its outcomes, so what makes it hard for both cancels: whether one system beats the other is a question to this interval,
/// not to whether the intervals of the two win rates overlap.
///
/// # Errors
/// No outcome; lists of different lengths.
pub fn win_rate_difference(first: &[Outcome], second: &[Outcome], draws: &Bootstrap) -> Result<Difference, Error> {
    if first.is_empty() {
        return Err(Error::Empty {
            metric: "win_rate_difference",
            what: "outcome",
        });
    }
    let values = |outcomes: &[Outcome]| -> Vec<f64> { outcomes.iter().map(|outcome| outcome.value()).collect() };
    let paired = statistics::paired_bootstrap(&values(first), &values(second), draws)?.difference;
    Ok(Difference {
        difference: paired.estimate,
        low: paired.low,
        high: paired.high,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    fn draws() -> Bootstrap {
        Bootstrap::new(Key::new(1, "test", 0))
    }

    #[test]
    fn a_known_share_has_the_normal_interval() {
        // 600 wins, 200 ties, 200 losses: 0.7; deviation sqrt((600 * 0.09 + 200 * 0.04 + 200 * 0.49) / 1000) = 0.4
        let mut outcomes = vec![Outcome::Win; 600];
        outcomes.extend(vec![Outcome::Tie; 200]);
        outcomes.extend(vec![Outcome::Loss; 200]);
        let rate = win_rate(&outcomes, &draws()).unwrap();
        assert_eq!((rate.wins, rate.ties, rate.losses), (600, 200, 200));
        assert!((rate.win_rate - 0.7).abs() < 1e-12);
        let half = 1.96 * 0.4 / 1000f64.sqrt();
        assert!((rate.low - (0.7 - half)).abs() < 0.004, "{}", rate.low);
        assert!((rate.high - (0.7 + half)).abs() < 0.004, "{}", rate.high);
        assert_eq!(win_rate(&outcomes, &draws()).unwrap(), rate);
        assert!(matches!(win_rate(&[], &draws()), Err(Error::Empty { .. })));
    }

    #[test]
    fn a_difference_is_taken_prompt_by_prompt() {
        // The first is ahead by a win on 100 of 1000 prompts and alike on the rest: 0.1, deviation sqrt(0.1 * 0.9) = 0.3,
        // however the rest went. Taken as independent, 500 wins of 1000 alone would have an interval of 0.5 +- 0.031 each.
        let second: Vec<Outcome> = (0..1000)
            .map(|i| if i % 2 == 0 { Outcome::Win } else { Outcome::Loss })
            .collect();
        let mut first = second.clone();
        (0..200).filter(|i| i % 2 == 1).for_each(|i| first[i] = Outcome::Win);
        let found = win_rate_difference(&first, &second, &draws()).unwrap();
        assert!((found.difference - 0.1).abs() < 1e-12);
        let half = 1.96 * 0.3 / 1000f64.sqrt();
        assert!((found.low - (0.1 - half)).abs() < 0.003, "{}", found.low);
        assert!((found.high - (0.1 + half)).abs() < 0.003, "{}", found.high);
        // One draw of prompts serves both, so a system is at no distance from itself
        let same = win_rate_difference(&first, &first, &draws()).unwrap();
        assert_eq!((same.difference, same.low, same.high), (0.0, 0.0, 0.0));
        assert!(win_rate_difference(&[], &[], &draws()).is_err());
        assert!(win_rate_difference(&first, &second[1..], &draws()).is_err());
    }
}
