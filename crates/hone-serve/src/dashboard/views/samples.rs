//! Samples of a run: the newest first, searched, each with what changed since the same prompt was answered before.

use std::cmp::Reverse;
use std::path::PathBuf;

use hone_run::Sample;
use hone_run::report::short;
use serde_json::{Value, json};

use super::{Ask, Circumstances, Refusal, View, href, paging, summary};
use crate::dashboard::diff;
use crate::dashboard::record::Record;
use crate::dashboard::samples::{Place, Samples, matches};

/// Samples on a page.
const PER_PAGE: usize = 20;
/// Samples that one search reads, the newest.
const MAX_SEARCHED: usize = 200_000;
/// Evaluations to choose from.
const MAX_STEPS: usize = 500;
/// Longer answers are not compared.
const MAX_COMPARED: usize = 200_000;

/// Samples that are to be read, which takes a while and needs nothing but their file.
pub(in crate::dashboard) struct Wanted {
    path: PathBuf,
    places: Vec<Place>,
    /// Which of the places, in the order in which they are shown.
    order: Vec<u32>,
    words: Vec<String>,
    /// Which of those that match.
    range: (usize, usize),
}

/// What was read.
pub(in crate::dashboard) struct Found {
    pub samples: Vec<Value>,
    /// How many match.
    pub count: usize,
    /// How many were looked at.
    pub searched: usize,
}

impl Wanted {
    fn new(record: &Record, step: Option<u64>, words: Vec<String>, range: (usize, usize)) -> Self {
        let places = record
            .open
            .as_ref()
            .map_or_else(Vec::new, |open| open.index.places.clone());
        // Both fit: there are at most a million
        let mut order: Vec<u32> = (0..places.len() as u32).collect();
        order.retain(|i| step.is_none_or(|step| places[*i as usize].step == step));
        order.sort_by_key(|i| Reverse(places[*i as usize].step));
        Self {
            path: record.samples_path().to_path_buf(),
            places,
            order,
            words,
            range,
        }
    }

    /// The first of the newest evaluation.
    pub fn newest(record: &Record, count: usize) -> Self {
        Self::new(record, None, Vec::new(), (0, count))
    }

    /// Samples before any search.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// Reads them. A file that was changed meanwhile has fewer.
    pub fn read(&self) -> Found {
        let mut found = Found {
            samples: Vec::new(),
            count: 0,
            searched: self.order.len(),
        };
        let Ok(mut file) = Samples::open(&self.path) else {
            return found;
        };
        let (from, to) = self.range;
        if self.words.is_empty() {
            found.count = self.order.len();
            let shown = self.order.iter().skip(from).take(to - from);
            found.samples = shown
                .filter_map(|i| self.shown(&mut file, &self.places[*i as usize]))
                .collect();
            return found;
        }
        found.searched = self.order.len().min(MAX_SEARCHED);
        for i in &self.order[..found.searched] {
            let place = &self.places[*i as usize];
            if file.read(place).is_some_and(|sample| matches(&sample, &self.words)) {
                if (from..to).contains(&found.count) {
                    found.samples.extend(self.shown(&mut file, place));
                }
                found.count += 1;
            }
        }
        found
    }

    fn shown(&self, file: &mut Samples, place: &Place) -> Option<Value> {
        let sample = file.read(place)?;
        let before = place.previous.and_then(|i| file.read(&self.places[i as usize]));
        // A prompt is known by a digest; a file may have been changed meanwhile
        let before = before.filter(|before| before.prompt == sample.prompt);
        Some(to_json(&sample, before.as_ref()))
    }
}

fn to_json(sample: &Sample, before: Option<&Sample>) -> Value {
    let comparable = |before: &&Sample| before.response.len().max(sample.response.len()) <= MAX_COMPARED;
    let changes = before
        .filter(comparable)
        .map(|before| diff::words(&before.response, &sample.response));
    let extra = |(name, value): (&String, &Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        json!({"name": name, "text": text})
    };
    json!({
        "step": sample.step,
        "prompt": sample.prompt,
        "response": sample.response,
        "score": sample.score,
        "score_text": sample.score.map(short),
        "kl": sample.kl,
        "kl_text": sample.kl.map(short),
        "extra": sample.extra.iter().map(extra).collect::<Vec<_>>(),
        "before": before.map(|before| json!({
            "step": before.step,
            "response": before.response,
            "score": before.score,
            "score_text": before.score.map(short),
            "unchanged": before.response == sample.response,
        })),
        "changes": changes.map(|parts| parts.iter().map(diff::Part::to_json).collect::<Vec<_>>()),
    })
}

/// The page without its samples, and those that are to be put into it by [`Wanted::read`] and `finish`.
pub(in crate::dashboard) fn samples(
    record: &Record,
    ask: &Ask,
    at: Circumstances<'_>,
) -> Result<(Wanted, impl FnOnce(Found) -> View + use<>), Refusal> {
    ask.only(&["q", "step", "page"])?;
    let (page, step) = (ask.page()?, ask.number("step")?);
    let q = ask.get("q").unwrap_or_default().to_owned();
    let words = q.to_lowercase().split_whitespace().map(str::to_owned).collect();
    let from = (page - 1).saturating_mul(PER_PAGE);
    let wanted = Wanted::new(record, step, words, (from, from.saturating_add(PER_PAGE)));
    let mut steps: Vec<u64> = wanted.places.iter().map(|place| place.step).collect();
    steps.sort_unstable_by_key(|step| Reverse(*step));
    steps.dedup();
    steps.truncate(MAX_STEPS);
    let (_, _, summary) = summary(record, at);
    let path = format!("{}/samples", href(&record.name));
    let left_out = record.open.as_ref().map_or(0, |open| open.index.left_out);
    let (all, unread, title) = (wanted.count(), record.unread(), format!("{}: samples", record.name));
    let ask = Ask::new(ask.parameters.clone());
    let finish = move |found: Found| {
        let pages = found.count.div_ceil(PER_PAGE).max(1);
        let value = json!({
            "run": summary,
            "path": path,
            "q": q,
            "step": step,
            "steps": steps.iter().map(|other| json!({"step": other, "current": Some(*other) == step})).collect::<Vec<_>>(),
            "samples": found.samples,
            "count": found.count,
            "searched": found.searched,
            "all": all,
            "left_out": left_out,
            "unread": unread,
            "paging": paging((&ask, &path), page, pages),
        });
        View {
            template: "samples.html",
            title,
            value,
            charts: Vec::new(),
        }
    };
    Ok((wanted, finish))
}
