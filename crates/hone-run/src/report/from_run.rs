//! The page of a run, out of its files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde_json::Value;

use super::chart::short;
use super::{ChartGroup, Downsampler, Report, Section, SeriesStyle, grouped};
use crate::error::{Error, Result};
use crate::jsonl::Sample;
use crate::manifest::read_limited;

/// Longer lines are skipped and counted.
const MAX_LINE: u64 = 16 << 20;
/// Buckets kept of each metric while reading.
const BUCKETS: usize = 1_000;
/// More metrics than anybody looks at.
const MAX_METRICS: usize = 400;
/// Samples shown of an evaluation, and evaluations shown.
const MAX_SAMPLES: usize = 16;
const MAX_EVALUATIONS: usize = 4;
const MAX_TEXT_FILE: u64 = 8 << 20;

pub(super) fn read(dir: &Path) -> Result<Report> {
    let absolute = fs::canonicalize(dir).map_err(|source| Error::io("read the run", dir, 0, source))?;
    let title = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut sections = Vec::new();
    let (metrics, bad_metrics) = read_metrics(&dir.join("metrics.jsonl"))?;
    let (samples, bad_samples) = read_samples(&dir.join("samples.jsonl"))?;
    let mut facts = facts(dir, &metrics)?;
    let bad = bad_metrics + bad_samples;
    if bad > 0 {
        facts.push(("lines that could not be read".to_owned(), bad.to_string()));
    }
    sections.push(Section::KeyValues {
        title: "Run".to_owned(),
        rows: facts,
    });
    sections.extend(charts(&metrics));
    for (step, samples) in samples {
        sections.push(Section::Samples {
            title: format!("Samples at step {step}"),
            samples,
        });
    }
    if let Some(text) = read_text(&dir.join("run.toml"))? {
        sections.push(Section::Code {
            title: "Configuration".to_owned(),
            text,
        });
    }
    Ok(Report { title, sections })
}

#[derive(Default)]
struct Metrics {
    last_step: u64,
    non_finite: u64,
    curves: BTreeMap<String, (Downsampler, f64)>,
}

fn read_metrics(path: &Path) -> Result<(Metrics, u64)> {
    let mut metrics = Metrics::default();
    let bad = for_each_line(path, |line| {
        let Ok(Value::Object(fields)) = serde_json::from_slice(line) else {
            return false;
        };
        let Some(step) = fields.get("step").and_then(Value::as_u64) else {
            return false;
        };
        metrics.last_step = metrics.last_step.max(step);
        for (name, value) in fields.iter().filter(|(name, _)| *name != "step") {
            if name == "non_finite" {
                metrics.non_finite += value.as_u64().unwrap_or(0);
                continue;
            }
            if !metrics.curves.contains_key(name) && metrics.curves.len() >= MAX_METRICS {
                continue;
            }
            let (curve, last) = metrics
                .curves
                .entry(name.clone())
                .or_insert_with(|| (Downsampler::new(BUCKETS), f64::NAN));
            *last = value.as_f64().unwrap_or(f64::NAN);
            curve.push(step as f64, *last);
        }
        true
    })?;
    Ok((metrics, bad))
}

/// Samples by step: the first evaluation and the last ones.
fn read_samples(path: &Path) -> Result<(BTreeMap<u64, Vec<Sample>>, u64)> {
    let mut evaluations: BTreeMap<u64, Vec<Sample>> = BTreeMap::new();
    let bad = for_each_line(path, |line| {
        let Ok(sample) = serde_json::from_slice::<Sample>(line) else {
            return false;
        };
        let here = evaluations.entry(sample.step).or_default();
        if here.len() < MAX_SAMPLES {
            here.push(sample);
        }
        if evaluations.len() > MAX_EVALUATIONS
            && let Some(second) = evaluations.keys().nth(1).copied()
        {
            evaluations.remove(&second);
        }
        true
    })?;
    Ok((evaluations, bad))
}

/// Facts about the run, its result first.
fn facts(dir: &Path, metrics: &Metrics) -> Result<Vec<(String, String)>> {
    let mut rows = Vec::new();
    let finished = read_text(&dir.join("finished.json"))?;
    rows.push((
        "state".to_owned(),
        if finished.is_some() { "finished" } else { "unfinished" }.to_owned(),
    ));
    rows.push(("steps".to_owned(), metrics.last_step.to_string()));
    if let Some(Ok(Value::Object(summary))) = finished.map(|text| serde_json::from_str(&text)) {
        rows.extend(summary.iter().map(|(name, value)| (name.clone(), plain(value))));
    }
    if let Some(Ok(Value::Object(environment))) =
        read_text(&dir.join("environment.json"))?.map(|text| serde_json::from_str(&text))
    {
        rows.extend(environment.iter().map(|(name, value)| (name.clone(), plain(value))));
    }
    if metrics.non_finite > 0 {
        rows.push(("values that were not finite".to_owned(), metrics.non_finite.to_string()));
    }
    Ok(rows)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => number.as_f64().map_or_else(|| number.to_string(), short),
        other => other.to_string(),
    }
}

/// One section a group of charts. Figures that never changed share a table.
fn charts(metrics: &Metrics) -> Vec<Section> {
    let (mut curves, mut constants) = (Vec::new(), Vec::new());
    for (name, (curve, last)) in &metrics.curves {
        let points = curve.points();
        if points.len() > 1 && points.iter().all(|(_, y)| y == last) {
            constants.push((name.clone(), short(*last)));
        } else {
            curves.push((name.clone(), points));
        }
    }
    let section = |ChartGroup { title, charts }| Section::Charts { title, charts };
    let groups = grouped(curves, "step", SeriesStyle::Smoothed);
    let mut sections: Vec<Section> = groups.into_iter().map(section).collect();
    if !constants.is_empty() {
        sections.push(Section::KeyValues {
            title: "Metrics that never changed".to_owned(),
            rows: constants,
        });
    }
    sections
}

/// Calls `each` for every line; gives the number of lines that `each` refused or that were too long. A file that is
/// not there has no lines, and a last line without its end was cut by a crash.
fn for_each_line(path: &Path, mut each: impl FnMut(&[u8]) -> bool) -> Result<u64> {
    let fail = |source| Error::io("read it", path, 0, source);
    let mut reader = match File::open(path) {
        Ok(file) => BufReader::with_capacity(1 << 18, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(fail(error)),
    };
    let (mut bad, mut line) = (0, Vec::new());
    loop {
        line.clear();
        if reader
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .map_err(fail)?
            == 0
        {
            return Ok(bad);
        }
        if line.last() != Some(&b'\n') {
            bad += 1;
            reader.skip_until(b'\n').map_err(fail)?;
        } else if !each(&line) {
            bad += 1;
        }
    }
}

fn read_text(path: &Path) -> Result<Option<String>> {
    match read_limited(path, MAX_TEXT_FILE) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read it", path, 0, error)),
    }
}
