//! Agreement of each two annotators.

use std::collections::BTreeMap;

use hone_data::annotations::{Judgement, Record};
use hone_objective::agreement::{Weights, cohen_kappa, kendall_tau_b, weighted_kappa};
use hone_objective::statistics::{Bootstrap, bootstrap_interval, bootstrap_statistic};

use super::{Estimate, Pair, comparisons, places};
use crate::error::Error;

/// The judgements of two people on one item.
type Both<'a> = (&'a Record, &'a Judgement, &'a Judgement);

pub(super) fn pairs(items: &BTreeMap<i64, Vec<&Record>>, draws: &Bootstrap) -> Result<Vec<Pair>, Error> {
    let mut shared: BTreeMap<[&str; 2], Vec<Both<'_>>> = BTreeMap::new();
    for records in items.values() {
        for one in records {
            for other in records.iter().filter(|other| one.annotator < other.annotator) {
                if let (Some(first), Some(second)) = (&one.judgement, &other.judgement) {
                    let names = [one.annotator.as_str(), other.annotator.as_str()];
                    shared.entry(names).or_default().push((one, first, second));
                }
            }
        }
    }
    shared
        .into_iter()
        .map(|(names, both)| pair(names, &both, draws))
        .collect()
}

fn pair(names: [&str; 2], both: &[Both<'_>], draws: &Bootstrap) -> Result<Pair, Error> {
    let compared = both.iter().map(|(record, first, second)| {
        let outcome = |(_, _, outcome): (usize, usize, usize)| outcome;
        let first = comparisons(record, first).into_iter().map(outcome);
        // From both sides, as in the agreement of all
        first
            .zip(comparisons(record, second).into_iter().map(outcome))
            .flat_map(|(one, other)| [(one, other), (2 - one, 2 - other)])
            .collect::<Vec<_>>()
    });
    let rated = both.iter().map(|(_, first, second)| {
        let ratings = first.ratings.iter().zip(&second.ratings);
        // From 1 to 7, as categories from 0 to 6
        let category = |rating: u8| usize::from(rating.saturating_sub(1));
        ratings
            .filter_map(|(a, b)| Some((category((*a)?), category((*b)?))))
            .collect::<Vec<_>>()
    });
    let mut taus = Vec::new();
    for (record, first, second) in both {
        let answers = record.responses.len();
        if let (true, Some(x), Some(y)) = (answers > 1, places(first, answers), places(second, answers)) {
            let wide = |places: Vec<usize>| places.into_iter().map(|place| place as f64).collect::<Vec<_>>();
            taus.extend(kendall_tau_b(&wide(x), &wide(y))?);
        }
    }
    let tau = match taus.len() {
        0 | 1 => None,
        _ => Some(Estimate::new(bootstrap_interval(&taus, draws)?, taus.len() as u64)),
    };
    Ok(Pair {
        annotators: names.map(String::from),
        items: both.len() as u64,
        kappa: kappa(compared.collect(), draws, |first, second| cohen_kappa(first, second, 3))?.map(|found| Estimate {
            n: found.n / 2,
            ..found
        }),
        rating_kappa: kappa(rated.collect(), draws, |first, second| {
            weighted_kappa(first, second, 7, Weights::Quadratic)
        })?,
        tau,
    })
}

type Statistic = fn(&[usize], &[usize]) -> Result<Option<f64>, hone_objective::Error>;

/// A kappa of what two people said of the parts of each item, with an interval over items.
fn kappa(
    mut items: Vec<Vec<(usize, usize)>>,
    draws: &Bootstrap,
    statistic: Statistic,
) -> Result<Option<Estimate>, Error> {
    items.retain(|item| !item.is_empty());
    if items.is_empty() {
        return Ok(None);
    }
    let found = bootstrap_statistic(items.len(), draws, |drawn| {
        let (first, second): (Vec<usize>, Vec<usize>) =
            drawn.iter().flat_map(|&item| items[item].iter().copied()).unzip();
        statistic(&first, &second)
    })?;
    let n = items.iter().map(Vec::len).sum::<usize>() as u64;
    Ok(Estimate::of(found, (items.len(), draws), n))
}
