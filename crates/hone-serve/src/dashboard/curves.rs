//! Curves of a run, thinned while they are read, over the step or over what a step stands for.

use std::collections::BTreeMap;

use hone_run::report::Downsampler;
use serde_json::{Map, Value};

use super::figures::is_metric;

/// Buckets of a curve; each keeps its lowest and its highest point.
const BUCKETS: usize = 400;
/// Curves of a run.
const MAX_CURVES: usize = 400;
/// Steps of which tokens, time or KL are kept; between them it is interpolated.
const TRACKED: usize = 8_192;

/// What stands on the horizontal axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    Step,
    Tokens,
    Time,
    Kl,
}

impl Axis {
    pub const ALL: [Self; 4] = [Self::Step, Self::Tokens, Self::Time, Self::Kl];

    /// As addresses name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Tokens => "tokens",
            Self::Time => "time",
            Self::Kl => "kl",
        }
    }

    /// As charts name it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Tokens => "tokens read or sampled",
            Self::Time => "seconds of training",
            Self::Kl => "KL to the starting policy, nats a response",
        }
    }
}

/// Something that has a value at each step, kept at some of them.
#[derive(Clone, Debug, Default)]
struct Track(Vec<(u64, f64)>);

impl Track {
    /// What is known from this step on is replaced: a resumed run does some steps again.
    fn push(&mut self, step: u64, value: f64) {
        while self.0.last().is_some_and(|last| last.0 >= step) {
            self.0.pop();
        }
        self.0.push((step, value));
        if self.0.len() > TRACKED {
            let mut index = 0;
            let last = self.0.len() - 1;
            self.0.retain(|_| {
                index += 1;
                (index - 1) % 2 == 0 || index - 1 == last
            });
        }
    }

    /// The value at a step, between two that are kept by interpolation.
    fn at(&self, step: f64) -> Option<f64> {
        let after = self.0.partition_point(|(known, _)| (*known as f64) < step);
        let right = self.0.get(after).or(self.0.last())?;
        let left = if after > 0 { self.0[after - 1] } else { *right };
        let span = right.0.saturating_sub(left.0) as f64;
        if span == 0.0 {
            return Some(right.1);
        }
        let share = ((step - left.0 as f64) / span).clamp(0.0, 1.0);
        Some(left.1 + share * (right.1 - left.1))
    }
}

/// The curves of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Curves {
    by_name: BTreeMap<String, Downsampler>,
    tokens: Track,
    seconds: Track,
    kl: Track,
    tokens_so_far: f64,
    seconds_so_far: f64,
}

impl Curves {
    /// Takes the fields of a line of `metrics.jsonl`.
    pub fn take(&mut self, step: u64, fields: &Map<String, Value>) {
        for (name, value) in fields.iter().filter(|(name, _)| is_metric(name)) {
            if !self.by_name.contains_key(name) {
                if self.by_name.len() >= MAX_CURVES {
                    continue;
                }
                self.by_name.insert(name.clone(), Downsampler::new(BUCKETS));
            }
            if let Some(curve) = self.by_name.get_mut(name) {
                curve.push(step as f64, value.as_f64().unwrap_or(f64::NAN));
            }
        }
        let number = |name: &str| fields.get(name).and_then(Value::as_f64);
        if let Some(tokens) = number("rollout/tokens").or_else(|| number("train/tokens")) {
            self.tokens_so_far += tokens;
            self.tokens.push(step, self.tokens_so_far);
        }
        if let Some(kl) = number("objective/kl").or_else(|| number("eval/kl")) {
            self.kl.push(step, kl);
        }
    }

    /// Takes the seconds that a step took.
    pub fn took(&mut self, step: u64, seconds: f64) {
        self.seconds_so_far += seconds;
        self.seconds.push(step, self.seconds_so_far);
    }

    /// Takes over the times of other curves: the metrics begin anew, the times do not.
    pub fn keep_times(&mut self, other: &Self) {
        (self.seconds, self.seconds_so_far) = (other.seconds.clone(), other.seconds_so_far);
    }

    /// Forgets the times: their file begins anew.
    pub fn forget_times(&mut self) {
        (self.seconds, self.seconds_so_far) = (Track::default(), 0.0);
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Whether the run says what stands on this axis.
    pub fn has(&self, axis: Axis) -> bool {
        match axis {
            Axis::Step => true,
            Axis::Tokens => !self.tokens.0.is_empty(),
            Axis::Time => !self.seconds.0.is_empty(),
            Axis::Kl => !self.kl.0.is_empty(),
        }
    }

    /// A metric's points over an axis, in the order of steps; none where there is no such metric or axis.
    pub fn points(&self, name: &str, axis: Axis) -> Option<Vec<(f64, f64)>> {
        let points = self.by_name.get(name)?.points();
        let track = match axis {
            Axis::Step => return Some(points),
            Axis::Tokens => &self.tokens,
            Axis::Time => &self.seconds,
            Axis::Kl => &self.kl,
        };
        points.into_iter().map(|(step, y)| Some((track.at(step)?, y))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_curve_over_each_axis() {
        let mut curves = Curves::default();
        for step in 1..=4_u64 {
            let line =
                json!({"step": step, "score": step * step, "objective/kl": 0.5 * step as f64, "rollout/tokens": 100});
            curves.take(step, &fields(line));
            curves.took(step, 2.0);
        }
        let y = [1.0, 4.0, 9.0, 16.0];
        for (axis, x) in [
            (Axis::Step, [1.0, 2.0, 3.0, 4.0]),
            (Axis::Tokens, [100.0, 200.0, 300.0, 400.0]),
            (Axis::Time, [2.0, 4.0, 6.0, 8.0]),
            (Axis::Kl, [0.5, 1.0, 1.5, 2.0]),
        ] {
            let expected: Vec<(f64, f64)> = x.into_iter().zip(y).collect();
            assert_eq!(curves.points("score", axis), Some(expected), "{axis:?}");
        }
        assert_eq!(curves.points("absent", Axis::Step), None);
        assert!(!Curves::default().has(Axis::Kl) && Curves::default().has(Axis::Step));
    }

    #[test]
    fn steps_that_are_done_again_replace_their_times() {
        let mut curves = Curves::default();
        for step in [1, 2, 3, 4, 3, 4, 5_u64] {
            curves.took(step, 1.0);
        }
        assert_eq!(curves.seconds.0, [(1, 1.0), (2, 2.0), (3, 5.0), (4, 6.0), (5, 7.0)]);
    }

    #[test]
    fn long_tracks_are_thinned_and_interpolated() {
        let mut track = Track::default();
        for step in 1..=100_000_u64 {
            track.push(step, 3.0 * step as f64);
        }
        assert!(track.0.len() <= TRACKED);
        for step in [1.0, 2.0, 777.0, 50_001.0, 99_999.0, 100_000.0] {
            assert!((track.at(step).unwrap() - 3.0 * step).abs() < 1e-6, "{step}");
        }
        assert_eq!(track.at(0.0), Some(3.0));
        assert_eq!(track.at(1e9), Some(300_000.0));
        assert_eq!(Track::default().at(1.0), None);
    }
}
