//! Agreement of all annotators, question by question.

use std::collections::{BTreeMap, BTreeSet};

use hone_data::annotations::Record;
use hone_objective::agreement::{Level, fleiss_kappa, krippendorff_alpha};
use hone_objective::statistics::{Bootstrap, bootstrap_statistic};

use super::{Estimate, Question, comparisons};
use crate::error::Error;

/// The values that the judges of one item gave: one row an answer, or two a comparison.
type Item = Vec<Vec<f64>>;

pub(super) fn questions(items: &BTreeMap<i64, Vec<&Record>>, draws: &Bootstrap) -> Result<Vec<Question>, Error> {
    let mut found = Vec::new();
    let flags: BTreeSet<&String> = items
        .values()
        .flatten()
        .filter_map(|record| record.judgement.as_ref())
        .flat_map(|judgement| judgement.flags.iter().flatten())
        .collect();
    let preference = |record: &Record| -> Vec<Option<f64>> {
        let judgement = record.judgement.as_ref();
        let outcomes = judgement.map(|j| comparisons(record, j)).unwrap_or_default();
        // Each from both sides: which of the two answers is stored first means nothing, and must not become chance agreement
        let both_sides = |(_, _, outcome)| [outcome, 2 - outcome].map(|outcome: usize| Some(outcome as f64));
        outcomes.into_iter().flat_map(both_sides).collect()
    };
    let rating = |record: &Record| -> Vec<Option<f64>> {
        let ratings = record.judgement.as_ref().map(|judgement| judgement.ratings.clone());
        ratings
            .unwrap_or_default()
            .into_iter()
            .map(|rating| rating.map(f64::from))
            .collect()
    };
    let all_bad = |record: &Record| -> Vec<Option<f64>> {
        let judgement = record.judgement.as_ref().filter(|j| j.all_bad || j.ranking.is_some());
        judgement
            .map(|judgement| Some(f64::from(u8::from(judgement.all_bad))))
            .into_iter()
            .collect()
    };
    found.extend(question("preference", Level::Nominal, (items, &preference), draws)?);
    found.extend(question("rating", Level::Ordinal, (items, &rating), draws)?);
    found.extend(question("all bad", Level::Nominal, (items, &all_bad), draws)?);
    for flag in flags {
        let flagged = |record: &Record| -> Vec<Option<f64>> {
            // Whoever judged and flagged nothing said that nothing is to be flagged
            let Some(judgement) = &record.judgement else {
                return Vec::new();
            };
            let flags = |answer: usize| judgement.flags.get(answer).is_some_and(|list| list.contains(flag));
            (0..record.responses.len())
                .map(|answer| Some(f64::from(u8::from(flags(answer)))))
                .collect()
        };
        found.extend(question(
            &format!("flag: {flag}"),
            Level::Nominal,
            (items, &flagged),
            draws,
        )?);
    }
    Ok(found)
}

type Values<'a> = &'a dyn Fn(&Record) -> Vec<Option<f64>>;

/// Agreement on what `values` says of each record; nothing where no two annotators answered.
fn question(
    name: &str,
    level: Level,
    (items, values): (&BTreeMap<i64, Vec<&Record>>, Values<'_>),
    draws: &Bootstrap,
) -> Result<Option<Question>, Error> {
    let (mut judged, mut alone): (Vec<Item>, bool) = (Vec::new(), false);
    for records in items.values() {
        let answers: Vec<Vec<Option<f64>>> = records.iter().map(|record| values(record)).collect();
        let rows = answers.iter().map(Vec::len).max().unwrap_or(0);
        let item: Item = (0..rows)
            .map(|row| {
                answers
                    .iter()
                    .filter_map(|answer| answer.get(row).copied().flatten())
                    .collect()
            })
            .inspect(|row: &Vec<f64>| alone |= row.len() == 1)
            .filter(|row| row.len() > 1)
            .collect();
        if !item.is_empty() {
            judged.push(item);
        }
    }
    if judged.is_empty() {
        return Ok(None);
    }
    // Who said what does not matter to alpha, so a row needs no more places than it has values
    let width = judged.iter().flatten().map(Vec::len).max().unwrap_or(0);
    let alpha = bootstrap_statistic(judged.len(), draws, |drawn| {
        let mut table = Vec::new();
        for row in drawn.iter().flat_map(|&item| &judged[item]) {
            table.extend(row.iter().copied().map(Some));
            table.extend(std::iter::repeat_n(None, width - row.len()));
        }
        krippendorff_alpha(&table, width, level)
    })?;
    let even = !alone && judged.iter().flatten().all(|row| row.len() == width);
    Ok(Some(Question {
        name: name.into(),
        alpha: Estimate::of(alpha, (judged.len(), draws), judged.len() as u64),
        fleiss: if even { fleiss(&judged)? } else { None },
    }))
}

fn fleiss(judged: &[Item]) -> Result<Option<f64>, Error> {
    let mut known: Vec<f64> = judged.iter().flatten().flatten().copied().collect();
    known.sort_unstable_by(f64::total_cmp);
    known.dedup();
    let mut counts = Vec::new();
    for row in judged.iter().flatten() {
        counts.extend(
            known
                .iter()
                .map(|value| row.iter().filter(|v| *v == value).count() as u64),
        );
    }
    Ok(fleiss_kappa(&counts, known.len())?)
}
