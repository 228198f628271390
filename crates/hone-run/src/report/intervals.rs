//! Values with intervals, one a line, as SVG.

use std::fmt::Write as _;

use super::Interval;
use super::chart::{Axis, padded, short, ticks};
use super::html::escape;

const WIDTH: f64 = 760.0;
const LINE: f64 = 30.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 176.0;

/// The chart as a `<figure>`.
pub(super) fn figure(label: &str, reference: Option<f64>, rows: &[Interval]) -> String {
    let values = rows
        .iter()
        .flat_map(|row| [row.value, row.low, row.high])
        .chain(reference);
    let (low, high) = padded(values.filter(|value| value.is_finite()), 0.05);
    let x = Axis {
        low,
        high,
        from: LEFT,
        to: WIDTH - RIGHT,
        by_root: false,
    };
    let bottom = LINE * rows.len() as f64 + 8.0;
    let height = bottom + 40.0;
    let mut out = format!(
        "<figure class=\"chart wide\"><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
        escape(label)
    );
    for (value, text) in ticks(low, high, 6) {
        let at = x.pixel(value);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"4\" y2=\"{bottom}\"/>\
             <text class=\"tick\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
            bottom + 15.0
        );
    }
    let _ = write!(
        out,
        "<text class=\"label\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        (x.from + x.to) / 2.0,
        bottom + 33.0,
        escape(label)
    );
    if let Some(at) = reference.map(|value| x.pixel(value)) {
        let _ = write!(
            out,
            "<line class=\"reference\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"4\" y2=\"{bottom}\"/>"
        );
    }
    for (index, row) in rows.iter().enumerate() {
        let middle = LINE * (index as f64 + 0.5) + 4.0;
        let _ = write!(
            out,
            "<text class=\"name\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 12.0,
            middle + 4.0,
            escape(&row.name)
        );
        if !row.value.is_finite() {
            continue;
        }
        let (low, high) = (
            x.pixel(finite_or(row.low, row.value)),
            x.pixel(finite_or(row.high, row.value)),
        );
        let _ = write!(
            out,
            "<line class=\"interval\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>\
             <circle class=\"f0\" cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"5\"/>\
             <text class=\"tick\" x=\"{}\" y=\"{:.1}\"><tspan class=\"value\">{}</tspan> [{}, {}]</text>",
            x.pixel(row.value),
            WIDTH - RIGHT + 14.0,
            middle + 4.0,
            short(row.value),
            short(row.low),
            short(row.high)
        );
    }
    out.push_str("</svg></figure>\n");
    out
}

fn finite_or(value: f64, other: f64) -> f64 {
    if value.is_finite() { value } else { other }
}
