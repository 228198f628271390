//! One run: what it does, what deserves a look, its curves, configuration and newest samples.

use hone_run::report::{Chart, grouped, short};
use serde_json::{Value, json};

use super::{Ask, Circumstances, HEADLINE, Refusal, View, Wanted, axes, href, style_over, summary, thinned};
use crate::dashboard::curves::Curves;
use crate::dashboard::record::Record;

/// Samples on a run's own page.
const SAMPLES: usize = 4;

/// The page, and the samples that are still to be put into it as `samples`.
pub(in crate::dashboard) fn run(record: &Record, ask: &Ask, at: Circumstances<'_>) -> Result<(View, Wanted), Refusal> {
    ask.only(&["x", "metric"])?;
    let axis = ask.axis()?;
    let path = href(&record.name);
    let nothing = Curves::default();
    let curves = record.open.as_ref().map_or(&nothing, |open| &open.curves);
    // 1. Curves, and what never changed
    let (mut drawn, mut constants) = (Vec::new(), Vec::new());
    for name in curves.names().filter(|name| ask.wants(name)) {
        let Some(points) = curves.points(name, axis) else {
            continue;
        };
        match (points.first(), record.figures.get(name).and_then(|figure| figure.last)) {
            (Some(first), Some(last)) if points.len() > 1 && points.iter().all(|point| point.1 == first.1) => {
                constants.push(json!({"name": name, "value": last.value, "text": short(last.value)}));
            }
            _ => drawn.push((name.to_owned(), thinned(points))),
        }
    }
    // 2. The rest
    let (_, _, summary) = summary(record, at);
    let wanted = Wanted::newest(record, SAMPLES);
    let value = json!({
        "run": summary,
        "axes": axes((ask, &path), axis, |axis| curves.has(axis)),
        "has_axis": curves.has(axis),
        "axis_label": axis.label(),
        "constants": constants,
        "facts": facts(record),
        "settings": record.settings.text,
        "samples_href": format!("{path}/samples"),
        "samples_count": wanted.count(),
        "samples": [],
        "unread": record.unread(),
    });
    let mut charts = grouped(drawn, axis.label(), style_over(axis));
    // The figures of the list come first, and their groups
    for group in &mut charts {
        group.charts.sort_by_key(place);
    }
    charts.sort_by_key(|group| group.charts.first().map(place));
    let view = View {
        template: "run.html",
        title: record.name.clone(),
        value,
        charts,
    };
    Ok((view, wanted))
}

/// Where a chart stands: as its figure does in the list, and behind those where the list has none of it.
fn place(chart: &Chart) -> usize {
    let known = HEADLINE.iter().position(|known| *known == chart.title);
    known.unwrap_or(HEADLINE.len())
}

/// What the run ended with, and what made it.
fn facts(record: &Record) -> Vec<Value> {
    let finished = record.finished.iter().flatten().filter(|(name, _)| *name != "inputs");
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => number.as_f64().map_or_else(|| number.to_string(), short),
        other => other.to_string(),
    };
    let seconds = record
        .clock
        .seconds_per_step()
        .map(|seconds| ("seconds a step".to_owned(), short(seconds)));
    let rows = seconds.into_iter().chain(
        finished
            .chain(&record.environment)
            .map(|(name, value)| (name.clone(), plain(value))),
    );
    rows.map(|(name, value)| json!({"name": name, "value": value}))
        .collect()
}
