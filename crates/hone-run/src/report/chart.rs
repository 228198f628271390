//! Line and scatter charts as SVG.

use std::fmt::Write as _;

use super::downsample::Downsampler;
use super::html::escape;
use super::{Chart, Series, SeriesStyle};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
/// Room under a chart for its ticks and label.
pub(super) const BOTTOM: f64 = 42.0;
/// Buckets of a drawn series: about one a pixel.
const BUCKETS: usize = 400;
/// Fewer points are not smoothed.
const LEAST_SMOOTHED: usize = 60;
/// Smaller differences are rounding.
const LEAST_SPAN: f64 = 1e-280;
/// Colours the style sheet knows.
pub(super) const COLOURS: usize = 8;

/// A span of data and the pixels it is drawn over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) from: f64,
    pub(super) to: f64,
    /// Whether places are by the square root, below 0 by that of the size; `low` and `high` are roots then.
    pub(super) by_root: bool,
}

impl Axis {
    pub(super) fn pixel(&self, value: f64) -> f64 {
        let value = if self.by_root { root(value) } else { value };
        // Divided first: the span of extreme data may not be representable.
        self.from + (value / 2.0 - self.low / 2.0) / (self.high / 2.0 - self.low / 2.0) * (self.to - self.from)
    }

    /// Round values with their labels, about `count`. By the root they are the squares of round roots, none of them below 0.
    fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        let found = ticks(self.low, self.high, count);
        if !self.by_root {
            return found;
        }
        let squares = found.into_iter().filter(|(root, _)| *root >= 0.0);
        squares.map(|(root, _)| (root * root, short(root * root))).collect()
    }
}

/// The root of the size, with the sign.
pub(super) fn root(value: f64) -> f64 {
    value.abs().sqrt().copysign(value)
}

/// The chart as a `<figure>`.
pub(super) fn figure(chart: &Chart) -> String {
    let series: Vec<Series> = chart.series.iter().map(thin).collect();
    let mut out = String::from("<figure class=\"chart\"><figcaption>");
    let _ = write!(
        out,
        "<strong>{}</strong>{}</figcaption>",
        escape(&chart.title),
        legend(&series)
    );
    let finite = || {
        series
            .iter()
            .flat_map(|series| &series.points)
            .filter(|(x, y)| x.is_finite() && y.is_finite())
    };
    if finite().next().is_none() {
        out.push_str("<p class=\"empty\">no data</p></figure>\n");
        return out;
    }
    let labelled = series.iter().any(|series| series.style == SeriesStyle::Points);
    let x_pad = if labelled { 0.08 } else { 0.0 };
    let (x_low, x_high) = padded(finite().map(|point| point.0), x_pad);
    let (y_low, y_high) = padded(finite().map(|point| point.1), 0.06);
    let x = Axis {
        low: x_low,
        high: x_high,
        from: LEFT,
        to: WIDTH - RIGHT,
        by_root: false,
    };
    let y = Axis {
        low: y_low,
        high: y_high,
        from: HEIGHT - BOTTOM,
        to: TOP,
        by_root: false,
    };
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\" data-x=\"{x_low:e} {x_high:e} {} {}\" \
         data-y=\"{y_low:e} {y_high:e} {} {}\">",
        escape(&chart.title),
        x.from,
        x.to,
        y.from,
        y.to
    );
    axes(&mut out, (&chart.x_label, &chart.y_label), &x, &y);
    for (index, series) in series.iter().enumerate() {
        draw(&mut out, series, index % COLOURS, &x, &y);
    }
    out.push_str("</svg></figure>\n");
    out
}

/// At most a few points a pixel.
fn thin(series: &Series) -> Series {
    if series.style == SeriesStyle::Points || series.points.len() <= 2 * BUCKETS {
        return series.clone();
    }
    let mut sampler = Downsampler::new(BUCKETS);
    series.points.iter().for_each(|(x, y)| sampler.push(*x, *y));
    Series {
        points: sampler.points(),
        ..series.clone()
    }
}

fn legend(series: &[Series]) -> String {
    let mut out = String::from("<span class=\"legend\">");
    for (index, series) in series.iter().enumerate() {
        let last = series
            .points
            .iter()
            .rev()
            .find(|(_, y)| y.is_finite())
            .map(|(_, y)| short(*y));
        // Dots carry their names; a single curve carries the chart's.
        let (name, colour) = (escape(&series.name), index % COLOURS);
        match (series.style, last) {
            (SeriesStyle::Points, _) | (_, None) => {}
            (_, Some(last)) => {
                let _ = write!(out, "<span><i class=\"k{colour}\"></i>{name} <b>{last}</b></span>");
            }
        }
    }
    out.push_str("</span>");
    out
}

/// Lines, ticks and labels of both axes. The room under the chart is [`BOTTOM`].
pub(super) fn axes(out: &mut String, (x_label, y_label): (&str, &str), x: &Axis, y: &Axis) {
    for (value, label) in y.ticks(5) {
        let at = y.pixel(value);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            x.from,
            x.to,
            x.from - 7.0,
            at + 3.5
        );
    }
    for (value, label) in x.ticks(6) {
        let at = x.pixel(value);
        let _ = write!(
            out,
            "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{}\" y2=\"{}\"/>\
             <text class=\"tick\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            y.from,
            y.from + 4.0,
            y.from + 16.0
        );
    }
    let _ = write!(
        out,
        "<line class=\"axis\" x1=\"{}\" x2=\"{}\" y1=\"{2}\" y2=\"{2}\"/>\
         <text class=\"label\" x=\"{3}\" y=\"{4}\" text-anchor=\"middle\">{5}</text>",
        x.from,
        x.to,
        y.from,
        (x.from + x.to) / 2.0,
        y.from + BOTTOM - 7.0,
        escape(x_label)
    );
    if !y_label.is_empty() {
        let middle = (y.from + y.to) / 2.0;
        let _ = write!(
            out,
            "<text class=\"label\" transform=\"translate(12 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escape(y_label)
        );
    }
}

fn draw(out: &mut String, series: &Series, colour: usize, x: &Axis, y: &Axis) {
    let name = escape(&series.name);
    let smooth = series.style == SeriesStyle::Smoothed && series.points.len() >= LEAST_SMOOTHED;
    if smooth {
        let _ = write!(
            out,
            "<path class=\"raw c{colour}\" d=\"{}\"/>",
            path(&series.points, x, y)
        );
    }
    if series.style != SeriesStyle::Points {
        let line = if smooth {
            path(&moving_average(&series.points), x, y)
        } else {
            path(&series.points, x, y)
        };
        let _ = write!(
            out,
            "<path class=\"line c{colour}\" data-name=\"{name}\" d=\"{line}\"/>"
        );
    }
    let lonely = series.points.iter().filter(|(_, y)| y.is_finite()).count() == 1;
    if matches!(series.style, SeriesStyle::Points | SeriesStyle::LineAndPoints) || lonely {
        for (px, py) in series.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()) {
            let (cx, cy) = (x.pixel(*px), y.pixel(*py));
            let tip = format!("{name}: {}, {}", short(*px), short(*py));
            let _ = write!(
                out,
                "<circle class=\"f{colour}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"4\"><title>{tip}</title></circle>"
            );
            if series.style == SeriesStyle::Points {
                let right = cx < x.from + 0.75 * (x.to - x.from);
                let (at, anchor) = if right { (cx + 8.0, "start") } else { (cx - 8.0, "end") };
                let _ = write!(
                    out,
                    "<text class=\"dot\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{name}</text>",
                    cy + 4.0
                );
            }
        }
    }
}

/// An SVG path; a point that is not finite interrupts it.
fn path(points: &[(f64, f64)], x: &Axis, y: &Axis) -> String {
    let mut out = String::new();
    let mut command = 'M';
    for (px, py) in points {
        if !px.is_finite() || !py.is_finite() {
            command = 'M';
            continue;
        }
        let _ = write!(out, "{command}{:.1} {:.1}", x.pixel(*px), y.pixel(*py));
        command = 'L';
    }
    out
}

/// An exponentially weighted mean over about a twenty-fifth of the points, corrected for the start.
fn moving_average(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 2.0 / (1.0 + (points.len() as f64 / 25.0).max(2.0));
    let (mut mean, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|(x, y)| {
            if !y.is_finite() {
                return (*x, f64::NAN);
            }
            mean = keep * mean + (1.0 - keep) * y;
            weight = keep * weight + (1.0 - keep);
            (*x, mean / weight)
        })
        .collect()
}

/// The span of the values, widened by a share of itself; never empty.
pub(super) fn padded(values: impl Iterator<Item = f64>, share: f64) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if !low.is_finite() || !high.is_finite() {
        return (0.0, 1.0);
    }
    let span = high - low;
    if !span.is_finite() {
        return (low, high);
    }
    // A constant gets room around it, and so does a span below what the numbers resolve.
    let size = low.abs().max(high.abs());
    if span <= (size * 1e-9).max(LEAST_SPAN) {
        let room = if size <= LEAST_SPAN { 1.0 } else { size * 0.1 };
        return (low - room, high + room);
    }
    (low - share * span, high + share * span)
}

/// Round values inside a span, about `count` of them, with their labels.
pub(super) fn ticks(low: f64, high: f64, count: usize) -> Vec<(f64, String)> {
    let rough = (high / 2.0 - low / 2.0) / count as f64 * 2.0;
    if !(rough.is_finite() && rough > LEAST_SPAN) {
        return Vec::new();
    }
    let mut power = 0_i32;
    while scale(power + 1) <= rough {
        power += 1;
    }
    while scale(power) > rough {
        power -= 1;
    }
    let unit = scale(power);
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|factor| factor * unit >= rough)
        .unwrap_or(10.0);
    let step = factor * unit;
    if !step.is_finite() {
        return Vec::new();
    }
    let digits = if factor == 10.0 { power + 1 } else { power };
    let first = (low / step).ceil();
    let mut found = Vec::new();
    for index in 0..=2 * count {
        let value = (first + index as f64) * step;
        if value > high {
            break;
        }
        let label = label(value, digits);
        if found.last().is_some_and(|(_, last): &(f64, String)| *last == label) {
            continue;
        }
        found.push((value, label));
    }
    found
}

#[allow(clippy::disallowed_methods, reason = "places of ticks: a picture, not a result")]
fn scale(power: i32) -> f64 {
    10_f64.powi(power)
}

/// A tick whose step is `10^power` times 1, 2 or 5.
fn label(value: f64, power: i32) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let size = value.abs();
    for (unit, suffix) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if size >= unit && size < unit * 1e3 && (size >= 10.0 * unit || unit > 1e3 || power >= 3) {
            let exponent = if unit == 1e9 {
                9
            } else if unit == 1e6 {
                6
            } else {
                3
            };
            return format!(
                "{:.*}{suffix}",
                usize::try_from(exponent - power).unwrap_or(0).min(6),
                value / unit
            );
        }
    }
    if size >= 1e12 || power < -5 {
        return format!("{value:.1e}");
    }
    let text = format!("{:.*}", usize::try_from(-power).unwrap_or(0), value);
    text.strip_prefix('-')
        .filter(|rest| rest.bytes().all(|byte| matches!(byte, b'0' | b'.')))
        .map_or(text.clone(), str::to_owned)
}

/// Four significant digits.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return format!("{value}");
    }
    if size != 0.0 && !(1e-4..1e7).contains(&size) {
        return format!("{value:.3e}");
    }
    let mut digits = 4;
    let mut limit = 1.0;
    while size >= limit && digits > 0 {
        limit *= 10.0;
        digits -= 1;
    }
    while size < limit / 10.0 && size != 0.0 && digits < 7 {
        limit /= 10.0;
        digits += 1;
    }
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64) -> Vec<String> {
        ticks(low, high, 5).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(0.0, 10.0), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(
            labels(-0.13, 0.31),
            ["-0.1", "0.0", "0.1", "0.2", "0.3"].map(|text| if text == "0.0" { "0" } else { text })
        );
        assert_eq!(labels(0.0, 52_000.0), ["0", "20k", "40k"]);
        assert_eq!(labels(0.0, 4_900.0), ["0", "1k", "2k", "3k", "4k"]);
        assert_eq!(labels(1.0e6, 2.0e6), ["1.0M", "1.2M", "1.4M", "1.6M", "1.8M", "2.0M"]);
        assert_eq!(labels(0.0, 0.0031), ["0", "0.001", "0.002", "0.003"]);
        assert_eq!(labels(5.0, 5.0), Vec::<String>::new());
        assert!(ticks(-f64::MAX, f64::MAX, 5).len() < 12);
    }

    #[test]
    fn ticks_by_the_root_are_squares() {
        let axis = Axis {
            low: -0.3,
            high: 4.8,
            from: 0.0,
            to: 510.0,
            by_root: true,
        };
        let found = axis.ticks(6);
        let labels: Vec<&str> = found.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["0", "1", "4", "9", "16"]);
        // As far apart as their roots, with what is below 0 on the other side
        let at: Vec<f64> = found.iter().map(|(value, _)| axis.pixel(*value).round()).collect();
        assert_eq!(at, [30.0, 130.0, 230.0, 330.0, 430.0]);
        assert_eq!(axis.pixel(-0.04).round(), 10.0);
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.123_456, "0.1235"),
            (12.3456, "12.35"),
            (-1234.56, "-1235"),
            (0.000_123_46, "0.0001235"),
            (1e-9, "1.000e-9"),
            (123_456.0, "123456"),
            (100.0, "100"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn points_land_where_the_axes_say() {
        let chart = Chart {
            title: "t".into(),
            series: vec![Series {
                name: "a".into(),
                points: vec![(0.0, 0.0), (10.0, f64::NAN), (20.0, 1.0)],
                ..Series::default()
            }],
            ..Chart::default()
        };
        let svg = figure(&chart);
        // x: 0 at 58, 20 at 546. y: 0..1 padded by 6% over 228..12, so 1 is at 228 - 216 * 1.06 / 1.12 = 23.57.
        assert!(svg.contains("d=\"M58.0 216.4M546.0 23.6\""), "{svg}");
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn a_moving_average_of_a_constant_is_the_constant() {
        let points: Vec<(f64, f64)> = (0..100).map(|x| (f64::from(x), 3.0)).collect();
        assert!(moving_average(&points).iter().all(|(_, y)| (y - 3.0).abs() < 1e-12));
    }

    #[test]
    fn extreme_data_draws_finite_pixels() {
        for points in [
            vec![(0.0, -1e308), (1.0, 1e308)],
            vec![(5.0, 7.0)],
            vec![(0.0, 1e-310), (1.0, 2e-310)],
            vec![],
        ] {
            let chart = Chart {
                series: vec![Series {
                    points,
                    ..Series::default()
                }],
                ..Chart::default()
            };
            let svg = figure(&chart);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
