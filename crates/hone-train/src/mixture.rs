//! Items of several sources, drawn as a weighted mixture in a fixed order.

use hone_data::{DataError, Limits, LoadReport, Loaded, MixtureOrder, Opening, Source, hold_out};
use serde_json::{Value, json};

use crate::checked::refuse_no_source;
use crate::error::{Result, TrainError};
use crate::job::Job;
use crate::plan::SourcePlan;
use crate::sections::resolved;

/// What one source gives.
pub(crate) struct SourceItems<T> {
    pub name: String,
    pub weight: f64,
    pub items: Vec<T>,
}

/// Several sources with the order of their items.
pub(crate) struct Mixture<T> {
    sources: Vec<SourceItems<T>>,
    order: MixtureOrder,
}

impl<T> Mixture<T> {
    /// The order follows from `seed`.
    pub fn new(sources: Vec<SourceItems<T>>, seed: u64) -> Result<Self> {
        let counts: Vec<usize> = sources.iter().map(|s| s.items.len()).collect();
        // A weight counts an item as often as it says: equal weights pass over all sources equally fast.
        let weights: Vec<f64> = sources.iter().map(|s| s.weight * s.items.len() as f64).collect();
        let order = MixtureOrder::new(&counts, &weights, seed)?;
        Ok(Self { sources, order })
    }

    /// Items in all sources.
    pub fn count(&self) -> usize {
        self.sources.iter().map(|s| s.items.len()).sum()
    }

    /// All items, source by source.
    pub fn items(&self) -> impl Iterator<Item = &T> {
        self.sources.iter().flat_map(|s| &s.items)
    }

    /// The same, each with how often it is drawn beside the others.
    pub fn weighted_items(&self) -> impl Iterator<Item = (f64, &T)> {
        let sources = self.sources.iter();
        sources.flat_map(|source| source.items.iter().map(|item| (source.weight, item)))
    }

    /// The items of step `step` at `batch` a step.
    pub fn batch(&self, step: u64, batch: usize) -> Vec<&T> {
        self.order
            .batch(step, batch)
            .into_iter()
            .map(|draw| &self.sources[draw.source].items[draw.item])
            .collect()
    }

    /// The sources, and how often `draws` draws pass over each.
    pub fn planned(&self, unit: &'static str, draws: u64) -> Vec<SourcePlan> {
        let progress = self.order.progress(draws);
        let sources = self.sources.iter().zip(progress);
        sources
            .map(|(source, progress)| SourcePlan {
                name: source.name.clone(),
                items: source.items.len() as u64,
                unit,
                epochs: progress.epochs,
            })
            .collect()
    }

    /// The sources and how many items each has, for a summary.
    pub fn described(&self, items: &str) -> Value {
        self.sources
            .iter()
            .map(|s| json!({ "source": s.name, items: s.items.len() }))
            .collect()
    }
}

/// A source as it was read, split.
pub(crate) struct Split<T> {
    pub name: String,
    pub source: Source,
    pub train: Vec<T>,
    pub held_out: Vec<T>,
}

impl<T> SourceItems<T> {
    /// A source with its items encoded; it must have some.
    pub fn new(name: String, source: &Source, items: Vec<T>) -> Result<Self> {
        if items.is_empty() {
            let what = format!("data.train: {}", source.path.display());
            return Err(TrainError::NoData {
                what,
                hint: "raise data.max_length, or lower data.held_out".into(),
            });
        }
        Ok(Self {
            name,
            weight: source.weight,
            items,
        })
    }
}

/// Reads the sources of `data.train` and holds out a share of each.
pub(crate) fn load_split<T: Opening>(
    job: &Job,
    (sources, held_out): (&[Source], f64),
    example: &str,
    load: impl Fn(&Source) -> Result<Loaded<T>, DataError>,
) -> Result<Vec<Split<T>>> {
    refuse_no_source("data.train", sources, example)?;
    let mut splits = Vec::new();
    for source in resolved(sources, &job.base) {
        let (name, items) = load_items(job, &source, &load)?;
        let split = hold_out(items, held_out)?;
        splits.push(Split {
            name,
            source,
            train: split.train,
            held_out: split.held_out,
        });
    }
    Ok(splits)
}

/// A row with what it was encoded to. Encoding happens while rows are read, so that one that a template or the tokenizer
/// refuses counts as bad, with its line.
pub(crate) struct Encoded<T, E> {
    pub row: T,
    pub encoded: E,
}

impl<T: Opening, E> Opening for Encoded<T, E> {
    fn opening(&self) -> String {
        self.row.opening()
    }
}

/// A function of `hone-data` that hands rows on one by one.
type ForEach<T> = fn(&Source, &Limits, &mut dyn FnMut(T) -> Result<(), DataError>) -> Result<LoadReport, DataError>;

/// Reads the rows of a source and encodes each.
pub(crate) fn encoding<T, E>(
    source: &Source,
    for_each: ForEach<T>,
    encode: impl Fn(&T) -> Result<E>,
) -> Result<Loaded<Encoded<T, E>>, DataError> {
    let mut items = Vec::new();
    let report = for_each(source, &Limits::default(), &mut |row| match encode(&row) {
        Ok(encoded) => {
            items.push(Encoded { row, encoded });
            Ok(())
        }
        Err(error) => Err(DataError::Row {
            reason: error.to_string(),
        }),
    })?;
    Ok(Loaded { items, report })
}

/// Reads one source and tells of rows that could not be used. Gives its file's name too.
pub(crate) fn load_items<T>(
    job: &Job,
    source: &Source,
    load: impl Fn(&Source) -> Result<Loaded<T>, DataError>,
) -> Result<(String, Vec<T>)> {
    let name = source
        .path
        .file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    job.check_stop()?;
    tell_large(job, &name, &source.path);
    let loaded = load(source)?;
    for note in &loaded.report.notes {
        job.message(format!("{name}: {note}"));
    }
    tell_bad_rows(job, &name, &loaded.report);
    Ok((name, loaded.items))
}

/// Says that a file is read, where that takes a while.
pub(crate) fn tell_large(job: &Job, name: &str, path: &std::path::Path) {
    const LARGE: u64 = 64 << 20;
    let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
    if bytes >= LARGE {
        job.message(format!("{name}: reading {} MB", bytes / 1_000_000));
    }
}

/// Says what a source gives, after everything that was dropped.
pub(crate) fn tell_split(job: &Job, name: &str, (train, held_out): (usize, usize), items: &str) {
    job.message(format!("{name}: {train} {items} to train on, {held_out} held out"));
}

/// Says how many rows of a source could not be used, and why the first of them.
pub(crate) fn tell_bad_rows(job: &Job, name: &str, report: &LoadReport) {
    if report.bad == 0 {
        return;
    }
    let first = report
        .samples_of_bad
        .first()
        .map(|row| format!("; line {}: {}", row.line, row.reason))
        .unwrap_or_default();
    job.message(format!(
        "{name}: {} of {} rows could not be used{first}",
        report.bad, report.rows
    ));
}
