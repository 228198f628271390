//! A win rate with the effect of length taken out.
//!
//! Source: Dubois et al., "Length-controlled AlpacaEval: a simple way to debias automatic evaluators", 2024, section 3.
//!
//! With `y` the share won of a prompt (1, 0, or between them for ties and several answers) and `d` the system's length less its
//! opponent's on that prompt, the probability of a win is modelled as
//!
//! `P(win) = sigmoid(a + b * tanh(d / s))`, `s` the standard deviation of `d` over the prompts,
//!
//! and the win rate at equal length is `sigmoid(a)`. `a` and `b` maximise the logarithm of the likelihood less `b^2 / 2`.
//!
//! Where it differs:
//! 1. The paper's third term, how hard a prompt is for everybody, needs many systems and is left out; one model is fitted for each system.
//! 2. The penalty is the same in every fit instead of chosen by cross-validation. It keeps the fit finite where the longer answer always wins,
//!    and says next to nothing over some hundred prompts.

use hone_math::{log_sigmoid, sigmoid};

use crate::error::Error;

/// One prompt of two systems.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The share the system won, 0 to 1: a tie is a half.
    pub win: f64,
    /// Its length less its opponent's, in any unit.
    pub longer_by: f64,
}

/// What was fitted.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct LengthControlled {
    /// The win rate at equal length.
    pub win_rate: f64,
    /// `b`: above 0 where the judge prefers the longer answer.
    pub length_coefficient: f64,
}

/// Steps of Newton's method at most; it takes fewer than ten.
const STEPS: usize = 100;

/// The win rate of comparisons, one a prompt, at equal length. Where all are won, or all lost, that is the win rate at any length.
///
/// # Errors
/// No comparison; a share outside 0 to 1; a length that is not finite.
pub fn length_controlled_win_rate(comparisons: &[Comparison]) -> Result<LengthControlled, Error> {
    const METRIC: &str = "length_controlled_win_rate";
    if comparisons.is_empty() {
        return Err(Error::Empty {
            metric: METRIC,
            what: "comparison",
        });
    }
    for (item, c) in comparisons.iter().enumerate() {
        let refuse = |what, got, expected| {
            Err(Error::Value {
                metric: METRIC,
                what,
                item,
                got,
                expected,
            })
        };
        if !(0.0..=1.0).contains(&c.win) {
            return refuse("the share won", c.win, "0 to 1");
        }
        if !c.longer_by.is_finite() {
            return refuse("the difference in length", c.longer_by, "a finite number");
        }
    }
    let n = comparisons.len() as f64;
    let rate = comparisons.iter().map(|c| c.win).sum::<f64>() / n;
    let mean = comparisons.iter().map(|c| c.longer_by).sum::<f64>() / n;
    let squares = comparisons.iter().map(|c| (c.longer_by - mean) * (c.longer_by - mean));
    let deviation = (squares.sum::<f64>() / n).sqrt();
    if rate == 0.0 || rate == 1.0 || deviation == 0.0 {
        return Ok(LengthControlled {
            win_rate: rate,
            length_coefficient: 0.0,
        });
    }
    let points: Vec<Point> = comparisons
        .iter()
        .map(|c| Point {
            x: tanh(c.longer_by / deviation),
            y: c.win,
        })
        .collect();
    let (a, b) = fit(&points);
    Ok(LengthControlled {
        win_rate: sigmoid(a),
        length_coefficient: b,
    })
}

struct Point {
    x: f64,
    y: f64,
}

fn tanh(x: f64) -> f64 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

/// What is maximised.
fn objective(points: &[Point], a: f64, b: f64) -> f64 {
    let terms = points.iter().map(|point| {
        let z = a + b * point.x;
        point.y * log_sigmoid(z) + (1.0 - point.y) * log_sigmoid(-z)
    });
    terms.sum::<f64>() - 0.5 * b * b
}

/// Newton's method with halved steps; what is maximised is strictly concave.
fn fit(points: &[Point]) -> (f64, f64) {
    let (mut a, mut b) = (0.0, 0.0);
    let mut value = objective(points, a, b);
    for _ in 0..STEPS {
        // Gradient, and the negative of the Hessian
        let (mut ga, mut gb) = (0.0, -b);
        let (mut haa, mut hab, mut hbb) = (0.0, 0.0, 1.0);
        for point in points {
            let p = sigmoid(a + b * point.x);
            let weight = p * (1.0 - p);
            ga += point.y - p;
            gb += (point.y - p) * point.x;
            haa += weight;
            hab += weight * point.x;
            hbb += weight * point.x * point.x;
        }
        let determinant = haa * hbb - hab * hab;
        let (da, db) = ((ga * hbb - gb * hab) / determinant, (gb * haa - ga * hab) / determinant);
        let mut share = 1.0;
        let mut next = objective(points, a + da, b + db);
        while next < value && share > 1e-6 {
            share *= 0.5;
            next = objective(points, a + share * da, b + share * db);
        }
        if !next.is_finite() || next < value {
            break;
        }
        (a, b, value) = (a + share * da, b + share * db, next);
        if da.abs() + db.abs() < 1e-12 {
            break;
        }
    }
    (a, b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    fn of(pairs: &[(f64, f64)]) -> Vec<Comparison> {
        pairs
            .iter()
            .map(|&(win, longer_by)| Comparison { win, longer_by })
            .collect()
    }

    fn rate(pairs: &[(f64, f64)]) -> f64 {
        length_controlled_win_rate(&of(pairs)).unwrap().win_rate
    }

    #[test]
    fn a_length_that_says_nothing_changes_nothing() {
        // As many wins among the longer as among the shorter: b = 0 and sigmoid(a) = 3/4
        let pairs = [(1.0, 5.0), (0.5, 5.0), (1.0, -5.0), (0.5, -5.0)];
        let fitted = length_controlled_win_rate(&of(&pairs)).unwrap();
        assert!((fitted.win_rate - 0.75).abs() < 1e-12 && fitted.length_coefficient.abs() < 1e-12);
        // All of one length, all won, all lost
        assert_eq!(rate(&[(1.0, 3.0), (0.0, 3.0), (1.0, 3.0), (1.0, 3.0)]), 0.75);
        assert_eq!(rate(&[(1.0, 3.0), (1.0, -2.0)]), 1.0);
        assert_eq!(rate(&[(0.0, 3.0), (0.0, -2.0)]), 0.0);
    }

    #[test]
    fn a_judge_of_length_alone_finds_both_alike() {
        // The longer always wins, and the system is longer on 3 of 4 prompts: won 0.75, at equal length much less
        let pairs: Vec<(f64, f64)> = (0..400)
            .map(|i| if i % 4 == 0 { (0.0, -8.0) } else { (1.0, 8.0) })
            .collect();
        let fitted = length_controlled_win_rate(&of(&pairs)).unwrap();
        assert!(fitted.length_coefficient > 2.0, "{fitted:?}");
        assert!((fitted.win_rate - 0.5).abs() < 0.15, "{fitted:?}");
        // Longer as often as shorter: exactly a half
        let even: Vec<(f64, f64)> = (0..400)
            .map(|i| if i % 2 == 0 { (0.0, -8.0) } else { (1.0, 8.0) })
            .collect();
        assert!((rate(&even) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn the_model_is_found_again_from_its_own_probabilities() {
        let key = Key::new(1, "lengths", 0);
        let lengths: Vec<f64> = (0..3000).map(|i| 10.0 * key.normal(i) + 6.0).collect();
        let mean = lengths.iter().sum::<f64>() / 3000.0;
        let deviation = (lengths.iter().map(|l| (l - mean) * (l - mean)).sum::<f64>() / 3000.0).sqrt();
        let pairs: Vec<(f64, f64)> = lengths
            .iter()
            .map(|&l| (1.0 / (1.0 + (-(0.4 + 1.2 * (l / deviation).tanh())).exp()), l))
            .collect();
        let fitted = length_controlled_win_rate(&of(&pairs)).unwrap();
        let expected = 1.0 / (1.0 + (-0.4_f64).exp());
        assert!((fitted.win_rate - expected).abs() < 2e-3, "{fitted:?} {expected}");
        assert!((fitted.length_coefficient - 1.2).abs() < 1e-2, "{fitted:?}");
        let plain = pairs.iter().map(|(y, _)| y).sum::<f64>() / 3000.0;
        assert!(plain > fitted.win_rate + 0.05, "{plain} {fitted:?}");
    }

    #[test]
    fn the_fit_is_a_maximum() {
        let points: Vec<Point> = [
            (1.0, 0.9),
            (0.0, -0.7),
            (0.5, 0.1),
            (1.0, -0.2),
            (0.0, 0.6),
            (1.0, 0.95),
        ]
        .iter()
        .map(|&(y, x)| Point { x, y })
        .collect();
        let (a, b) = fit(&points);
        let best = objective(&points, a, b);
        for (da, db) in [(1e-3, 0.0), (-1e-3, 0.0), (0.0, 1e-3), (0.0, -1e-3)] {
            assert!(objective(&points, a + da, b + db) < best);
        }
    }

    #[test]
    fn what_is_no_share_or_no_length_is_refused() {
        assert!(matches!(length_controlled_win_rate(&[]), Err(Error::Empty { .. })));
        for (win, longer_by) in [(1.5, 0.0), (f64::NAN, 0.0), (0.5, f64::INFINITY)] {
            let refused = length_controlled_win_rate(&[Comparison { win, longer_by }]);
            assert!(matches!(refused, Err(Error::Value { item: 0, .. })), "{refused:?}");
        }
    }
}
