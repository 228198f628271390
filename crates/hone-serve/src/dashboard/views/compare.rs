//! Several runs: where their configurations differ, and their curves over each other.

use std::collections::{BTreeMap, BTreeSet};

use hone_run::report::{Chart, ChartGroup, Series, heading, prefix};
use serde_json::{Value, json};

use super::{Ask, Circumstances, HEADLINE, Refusal, View, axes, style_over, summary, thinned};
use crate::dashboard::record::Record;
use crate::dashboard::store::Store;

/// Colours that can be told apart.
const MAX_RUNS: usize = 8;
/// What is drawn beside the figures of the list unless all is asked for.
const KEY_METRICS: [&str; 4] = [
    "policy/entropy_avg",
    "objective/entropy",
    "rewards/margins",
    "completions/ended",
];

/// The runs that are to be compared, by the names that were given in several parameters or with commas.
///
/// # Errors
/// If there are fewer than two or more than [`MAX_RUNS`], or one that is not there.
pub(in crate::dashboard) fn named(store: &Store, ask: &Ask) -> Result<Vec<String>, Refusal> {
    let mut names: Vec<String> = Vec::new();
    for given in ask.all("runs") {
        // A name may have a comma in it
        let parts: Vec<&str> = if store.get(given).is_some() {
            vec![given]
        } else {
            given.split(',').collect()
        };
        for name in parts.into_iter().filter(|name| !name.is_empty()) {
            if !names.iter().any(|other| other == name) {
                names.push(name.to_owned());
            }
        }
    }
    if let Some(absent) = names.iter().find(|name| store.get(name).is_none()) {
        let shown: String = absent.chars().take(200).collect();
        return Err(Refusal::absent(format!("there is no run {shown:?}")));
    }
    if !(2..=MAX_RUNS).contains(&names.len()) {
        let text = format!(
            "expected 2 to {MAX_RUNS} runs to compare, as in /compare?runs=a,b; got {}. Choose them in the list of runs",
            names.len()
        );
        return Err(Refusal::bad(text));
    }
    Ok(names)
}

pub(in crate::dashboard) fn compare(
    store: &Store,
    names: &[String],
    (ask, at): (&Ask, Circumstances<'_>),
) -> Result<View, Refusal> {
    ask.only(&["runs", "x", "metric", "all"])?;
    let axis = ask.axis()?;
    let records: Vec<&Record> = names.iter().filter_map(|name| store.get(name)).collect();
    // 1. Configurations
    let keys: BTreeSet<&str> = records
        .iter()
        .flat_map(|record| record.settings.values.keys().map(String::as_str))
        .collect();
    let (mut differences, mut same) = (Vec::new(), 0);
    for key in keys {
        let values: Vec<Option<&String>> = records.iter().map(|record| record.settings.values.get(key)).collect();
        if values.iter().all(|value| *value == values[0]) {
            same += 1;
        } else {
            differences.push(json!({"key": key, "values": values}));
        }
    }
    // 2. Curves
    let all = ask.get("all").is_some() || ask.get("metric").is_some();
    let is_key = |name: &str| HEADLINE.contains(&name) || KEY_METRICS.contains(&name);
    let curves = records
        .iter()
        .filter_map(|record| Some((record, &record.open.as_ref()?.curves)));
    let mut groups: BTreeMap<&str, BTreeMap<&str, Vec<Series>>> = BTreeMap::new();
    for (record, curves) in curves.clone() {
        for name in curves.names().filter(|name| ask.wants(name) && (all || is_key(name))) {
            let charts = groups.entry(prefix(name)).or_default();
            let series = Series {
                name: record.name.clone(),
                points: curves.points(name, axis).map(thinned).unwrap_or_default(),
                style: style_over(axis),
            };
            charts.entry(name).or_default().push(series);
        }
    }
    let chart = |(title, series): (&str, Vec<Series>)| Chart {
        title: title.to_owned(),
        x_label: axis.label().to_owned(),
        y_label: String::new(),
        // A run has one colour in all charts, whether it has the metric or not
        series: records.iter().map(|record| series_of(&record.name, &series)).collect(),
    };
    let charts = groups.into_iter().map(|(group, charts)| ChartGroup {
        title: heading(group).to_owned(),
        charts: charts.into_iter().map(chart).collect(),
    });
    let charts: Vec<ChartGroup> = charts.collect();
    // 3. The rest
    let rows: Vec<Value> = records.iter().map(|record| summary(record, at).2).collect();
    let value = json!({
        "runs": rows,
        "differences": differences,
        "same": same,
        "axes": axes((ask, "/compare"), axis, |axis| curves.clone().any(|(_, curves)| curves.has(axis))),
        "axis_label": axis.label(),
        "lack": curves.clone().filter(|(_, curves)| !curves.has(axis)).map(|(record, _)| record.name.as_str()).collect::<Vec<_>>(),
        "shows_all": all,
        "all_href": ask.with("/compare", "all", if all { "" } else { "1" }),
        "unread": records.iter().map(|record| record.unread()).sum::<u64>(),
    });
    Ok(View {
        template: "compare.html",
        title: "Compare".to_owned(),
        value,
        charts,
    })
}

fn series_of(name: &str, series: &[Series]) -> Series {
    let found = series.iter().find(|series| series.name == name).cloned();
    found.unwrap_or_else(|| Series {
        name: name.to_owned(),
        ..Series::default()
    })
}
