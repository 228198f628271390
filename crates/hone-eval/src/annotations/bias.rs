//! What pulls judgements besides the answers, how steady annotators are, and what judging costs.

use std::collections::{BTreeMap, BTreeSet};

use hone_data::annotations::{Judgement, Record, Status, TaskKind};
use hone_objective::statistics::{Bootstrap, bootstrap_statistic};

use super::{AnnotatorReport, Cost, Estimate, comparisons, median};
use crate::error::Error;

/// A share of parts of items (item, (hits, parts)), with an interval over items: judgements of one item are drawn together.
fn share(
    judgements: impl IntoIterator<Item = (i64, (u64, u64))>,
    draws: &Bootstrap,
) -> Result<Option<Estimate>, Error> {
    let mut sums: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
    for (item, (hits, parts)) in judgements.into_iter().filter(|(_, (_, parts))| *parts > 0) {
        let sum = sums.entry(item).or_default();
        *sum = (sum.0 + hits, sum.1 + parts);
    }
    let items: Vec<(u64, u64)> = sums.into_values().collect();
    if items.is_empty() {
        return Ok(None);
    }
    let found = bootstrap_statistic(items.len(), draws, |drawn| {
        let sums = drawn.iter().map(|&item| items[item]);
        let (hits, parts) = sums.fold((0, 0), |(hits, parts), (h, p)| (hits + h, parts + p));
        Ok(Some(hits as f64 / parts as f64))
    })?;
    let n = items.iter().map(|(_, parts)| parts).sum();
    Ok(Estimate::of(found, (items.len(), draws), n))
}

/// Decided comparisons of a record as (winner, loser).
fn decided(record: &Record) -> Vec<(usize, usize)> {
    let Some(judgement) = &record.judgement else {
        return Vec::new();
    };
    let outcomes = comparisons(record, judgement).into_iter();
    outcomes
        .filter_map(|(i, j, outcome)| match outcome {
            0 => Some((i, j)),
            2 => Some((j, i)),
            _ => None,
        })
        .collect()
}

fn side_of(record: &Record) -> (u64, u64) {
    let place = |answer: usize| record.shown.iter().position(|&shown| shown == answer);
    let decided = decided(record);
    let earlier = decided
        .iter()
        .filter(|(winner, loser)| place(*winner) < place(*loser))
        .count();
    (earlier as u64, decided.len() as u64)
}

/// How often the answer that was shown earlier won.
pub(super) fn side(records: &[&Record], draws: &Bootstrap) -> Result<Option<Estimate>, Error> {
    share(records.iter().map(|record| (record.item, side_of(record))), draws)
}

/// How often the longer answer won.
pub(super) fn length(records: &[&Record], draws: &Bootstrap) -> Result<Option<Estimate>, Error> {
    let count = |record: &&Record| {
        let lengths: Vec<usize> = record.responses.iter().map(|r| r.text.chars().count()).collect();
        let unequal: Vec<(usize, usize)> = decided(record)
            .into_iter()
            .filter(|(w, l)| lengths[*w] != lengths[*l])
            .collect();
        let longer = unequal.iter().filter(|(w, l)| lengths[*w] > lengths[*l]).count();
        (record.item, (longer as u64, unequal.len() as u64))
    };
    share(records.iter().map(count), draws)
}

/// What two judgements of one item say alike, of all that both were asked: comparisons, ratings, and whether all are bad.
fn same(record: &Record, other: &Judgement) -> (u64, u64) {
    let Some(own) = &record.judgement else {
        return (0, 0);
    };
    let mut asked: Vec<bool> = Vec::new();
    let compared = comparisons(record, own);
    asked.extend(compared.iter().zip(&comparisons(record, other)).map(|(a, b)| a == b));
    if own.all_bad || other.all_bad {
        asked.push(own.all_bad == other.all_bad);
    }
    let rated = own.ratings.iter().zip(&other.ratings);
    asked.extend(rated.filter_map(|(a, b)| Some((*a)? == (*b)?)));
    (asked.iter().filter(|same| **same).count() as u64, asked.len() as u64)
}

/// Everybody who handed in something that stands.
pub(super) fn annotators(records: &[Record], draws: &Bootstrap) -> Result<Vec<AnnotatorReport>, Error> {
    let standing: Vec<&Record> = records
        .iter()
        .filter(|r| r.live && r.status == Status::Judged && !r.surplus)
        .collect();
    let names: BTreeSet<&str> = standing.iter().map(|record| record.annotator.as_str()).collect();
    let mut reports = Vec::new();
    for name in names {
        let own: Vec<&Record> = standing
            .iter()
            .copied()
            .filter(|record| record.annotator == name)
            .collect();
        let counting: Vec<&Record> = own.iter().copied().filter(|record| record.counts()).collect();
        let first: BTreeMap<i64, &Record> = own
            .iter()
            .filter(|record| record.round == 0)
            .map(|record| (record.item, *record))
            .collect();
        let repeated = own.iter().filter(|record| record.round > 0).filter_map(|again| {
            let before = first.get(&again.item)?.judgement.as_ref()?;
            Some((again.item, same(again, before)))
        });
        let gold = own
            .iter()
            .filter_map(|record| Some((record.item, same(record, record.gold.as_ref()?))));
        reports.push(AnnotatorReport {
            name: name.into(),
            judgements: counting.len() as u64,
            seconds: median(&mut seconds(&counting)),
            consistency: share(repeated, draws)?,
            gold: share(gold, draws)?,
            side: side(&counting, draws)?,
        });
    }
    Ok(reports)
}

fn seconds(records: &[&Record]) -> Vec<f64> {
    let measured = records.iter().filter_map(|record| record.active_ms);
    measured.map(|active| active as f64 / 1000.0).collect()
}

/// Median seconds of each kind of task. What a comparison costs is of judgements in which nothing was written beside it: a written answer is
/// the alternative to weigh it against.
pub(super) fn costs(records: &[&Record]) -> Vec<Cost> {
    let mut found = Vec::new();
    for kind in TaskKind::ALL {
        let own: Vec<&Record> = records.iter().copied().filter(|record| record.kind == kind).collect();
        let Some(middle) = median(&mut seconds(&own)) else {
            continue;
        };
        let writes = |record: &&Record| {
            record
                .judgement
                .as_ref()
                .is_some_and(|judgement| judgement.rewrite.is_some())
        };
        let alone: Vec<&Record> = own.iter().copied().filter(|record| !writes(record)).collect();
        let mut gained: Vec<f64> = alone.iter().map(|record| decided(record).len() as f64).collect();
        let gained = median(&mut gained).filter(|&comparisons| comparisons > 0.0);
        let compared = gained.zip(median(&mut seconds(&alone)));
        found.push(Cost {
            kind,
            judgements: own.len() as u64,
            seconds: middle,
            seconds_a_comparison: compared.map(|(comparisons, middle)| middle / comparisons),
        });
    }
    found
}
