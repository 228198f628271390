//! What is kept of a metric while its values pass by: enough for the list of runs and for the rules that say where to look.

use std::collections::{BTreeMap, VecDeque};

use hone_run::Piece;
use serde_json::{Map, Value};

/// Values over which a mean is taken before it is compared.
pub(super) const WINDOW: usize = 10;
/// More metrics than anybody looks at.
const MAX_METRICS: usize = 400;

/// A value and its step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    pub step: u64,
    pub value: f64,
}

/// A metric so far. Values that are not finite are left out and counted by [`Figures`].
#[derive(Clone, Debug, Default)]
pub(super) struct Figure {
    /// How many values there were.
    pub count: u64,
    pub last: Option<Place>,
    /// The first value of all.
    pub first: Option<f64>,
    /// The first value that was not zero.
    pub first_nonzero: Option<Place>,
    pub least: Option<Place>,
    pub greatest: Option<Place>,
    /// Values that came after the least one, and after the greatest.
    pub since_least: u64,
    pub since_greatest: u64,
    /// The lowest mean of [`WINDOW`] values in a row, at the step of its last.
    pub lowest_mean: Option<Place>,
    /// The mean of the first [`WINDOW`] values.
    pub first_mean: Option<f64>,
    recent: VecDeque<f64>,
}

impl Figure {
    fn push(&mut self, step: u64, value: f64) {
        let place = Place { step, value };
        self.count += 1;
        self.last = Some(place);
        self.first.get_or_insert(value);
        if value != 0.0 {
            self.first_nonzero.get_or_insert(place);
        }
        self.since_least += 1;
        if self.least.is_none_or(|least| value < least.value) {
            (self.least, self.since_least) = (Some(place), 0);
        }
        self.since_greatest += 1;
        if self.greatest.is_none_or(|greatest| value > greatest.value) {
            (self.greatest, self.since_greatest) = (Some(place), 0);
        }
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(value);
        if self.recent.len() == WINDOW {
            let mean = self.recent.iter().sum::<f64>() / WINDOW as f64;
            self.first_mean.get_or_insert(mean);
            if self.lowest_mean.is_none_or(|lowest| mean < lowest.value) {
                self.lowest_mean = Some(Place { step, value: mean });
            }
        }
    }

    /// The mean of the last values, [`WINDOW`] at most; none without any.
    pub fn recent_mean(&self) -> Option<f64> {
        let count = self.recent.len();
        (count > 0).then(|| self.recent.iter().sum::<f64>() / count as f64)
    }

    /// The same of the last `count` values at most.
    pub fn mean_of_last(&self, count: usize) -> Option<f64> {
        let taken = self.recent.len().min(count);
        (taken > 0).then(|| self.recent.iter().rev().take(taken).sum::<f64>() / taken as f64)
    }
}

/// All metrics of a run so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub last_step: u64,
    /// Values that were not finite, and the last of them with its step.
    pub not_finite: u64,
    pub not_finite_last: Option<(String, u64)>,
    /// Lines that are no metrics.
    pub bad_lines: u64,
    by_name: BTreeMap<String, Figure>,
}

impl Figures {
    /// Takes a line of `metrics.jsonl`, and gives the step and the fields where it is one.
    pub fn take(&mut self, line: &[u8]) -> Option<(u64, Map<String, Value>)> {
        let Some((step, fields)) = fields_of(line) else {
            self.bad_lines += 1;
            return None;
        };
        self.last_step = self.last_step.max(step);
        for (name, value) in fields.iter().filter(|(name, _)| is_metric(name)) {
            if !self.by_name.contains_key(name) {
                if self.by_name.len() >= MAX_METRICS {
                    continue;
                }
                self.by_name.insert(name.clone(), Figure::default());
            }
            match (value.as_f64(), self.by_name.get_mut(name)) {
                (Some(value), Some(figure)) => figure.push(step, value),
                _ => {
                    self.not_finite += 1;
                    self.not_finite_last = Some((name.clone(), step));
                }
            }
        }
        Some((step, fields))
    }

    pub fn get(&self, name: &str) -> Option<&Figure> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Figure)> {
        self.by_name.iter().map(|(name, figure)| (name.as_str(), figure))
    }
}

/// Whether a field of a line is a metric.
pub(super) fn is_metric(name: &str) -> bool {
    name != "step" && name != "non_finite"
}

/// A line's step and fields; none if it is not of that form.
pub(super) fn fields_of(line: &[u8]) -> Option<(u64, Map<String, Value>)> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(line) else {
        return None;
    };
    let step = fields.get("step")?.as_u64()?;
    Some((step, fields))
}

/// A line, where the piece is one; `restart` and `bad` are called for the others.
pub(super) fn line_of<'a>(piece: Piece<'a>, restart: impl FnOnce(), bad: impl FnOnce()) -> Option<(u64, &'a [u8])> {
    match piece {
        Piece::Line { offset, bytes } => return Some((offset, bytes)),
        Piece::Restart => restart(),
        Piece::TooLong => bad(),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_pass_by_and_leave_their_marks() {
        let mut figures = Figures::default();
        for step in 1..=40_u64 {
            // Falls to 0 at step 20 and rises again
            let line = format!("{{\"step\":{step},\"loss\":{}}}", step.abs_diff(20));
            assert!(figures.take(line.as_bytes()).is_some());
        }
        let loss = figures.get("loss").unwrap();
        assert_eq!((loss.count, loss.first), (40, Some(19.0)));
        assert_eq!(loss.least, Some(Place { step: 20, value: 0.0 }));
        assert_eq!((loss.since_least, loss.since_greatest), (20, 0));
        // Of steps 1 to 10: 19 + ... + 10 = 145; of 16 to 25: 4 + 3 + 2 + 1 + 0 + 1 + 2 + 3 + 4 + 5 = 25
        assert_eq!(loss.first_mean, Some(14.5));
        assert_eq!(loss.lowest_mean.map(|place| place.value), Some(2.5));
        // 11 + ... + 20 = 155, and 18 + 19 + 20 = 57
        assert_eq!((loss.recent_mean(), loss.mean_of_last(3)), (Some(15.5), Some(19.0)));
        assert_eq!(figures.last_step, 40);
    }

    #[test]
    fn what_is_no_number_is_counted() {
        let mut figures = Figures::default();
        for line in ["", "{", "[]", "{\"loss\":1}", "{\"step\":-1}"] {
            assert!(figures.take(line.as_bytes()).is_none(), "{line}");
        }
        figures.take(b"{\"step\":3,\"loss\":null,\"kl\":1,\"non_finite\":1}");
        assert_eq!((figures.bad_lines, figures.not_finite), (5, 1));
        assert_eq!(figures.not_finite_last, Some(("loss".to_owned(), 3)));
        assert_eq!(
            figures
                .iter()
                .map(|(name, figure)| (name, figure.count))
                .collect::<Vec<_>>(),
            [("kl", 1), ("loss", 0)]
        );
    }

    #[test]
    fn metrics_are_bounded() {
        let mut figures = Figures::default();
        for i in 0..2 * MAX_METRICS {
            figures.take(format!("{{\"step\":1,\"m{i}\":1}}").as_bytes());
        }
        assert_eq!(figures.iter().count(), MAX_METRICS);
    }
}
