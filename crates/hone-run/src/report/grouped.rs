//! Metrics as charts, in groups.

use std::collections::BTreeMap;

use super::{Chart, Series, SeriesStyle};

/// A group of charts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ChartGroup {
    /// Heading.
    pub title: String,
    /// The charts.
    pub charts: Vec<Chart>,
}

/// One group a prefix (`objective/kl` belongs to `objective`), metrics without one first. Metrics named
/// `group/chart/series` share a chart.
#[must_use]
pub fn grouped(curves: Vec<(String, Vec<(f64, f64)>)>, x_label: &str, style: SeriesStyle) -> Vec<ChartGroup> {
    let mut groups: BTreeMap<String, BTreeMap<String, Vec<Series>>> = BTreeMap::new();
    for (name, points) in curves {
        let group = prefix(&name);
        let (chart, series) = match name.rsplit_once('/') {
            Some((chart, series)) if chart != group => (chart, series),
            _ => (name.as_str(), name.rsplit('/').next().unwrap_or(&name)),
        };
        let series = Series {
            name: series.to_owned(),
            points,
            style,
        };
        let charts = groups.entry(group.to_owned()).or_default();
        charts.entry(chart.to_owned()).or_default().push(series);
    }
    let chart = |(title, series): (String, Vec<Series>)| Chart {
        title,
        x_label: x_label.to_owned(),
        y_label: String::new(),
        series,
    };
    let group = |(group, charts): (String, BTreeMap<String, Vec<Series>>)| ChartGroup {
        title: heading(&group).to_owned(),
        charts: charts.into_iter().map(chart).collect(),
    };
    groups.into_iter().map(group).collect()
}

/// The group that a metric belongs to; empty for one without.
#[must_use]
pub fn prefix(name: &str) -> &str {
    name.split_once('/').map_or("", |(group, _)| group)
}

/// What a group is called.
#[must_use]
pub fn heading(group: &str) -> &str {
    if group.is_empty() { "Training" } else { group }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_curves_belong_together() {
        let names = ["loss", "eval/loss/a", "eval/loss/b", "eval/accuracy", "grad_norm"];
        let curves = names.map(|name| (name.to_owned(), vec![(1.0, 2.0)])).to_vec();
        let groups = grouped(curves, "step", SeriesStyle::Line);
        let mut shown = Vec::new();
        for group in &groups {
            for chart in &group.charts {
                let series: Vec<&str> = chart.series.iter().map(|series| series.name.as_str()).collect();
                shown.push((group.title.as_str(), chart.title.as_str(), series));
            }
        }
        let expected = [
            ("Training", "grad_norm", vec!["grad_norm"]),
            ("Training", "loss", vec!["loss"]),
            ("eval", "eval/accuracy", vec!["accuracy"]),
            ("eval", "eval/loss", vec!["a", "b"]),
        ];
        assert_eq!(shown, expected);
    }
}
