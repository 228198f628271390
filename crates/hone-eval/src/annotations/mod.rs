//! What a project's annotations are worth: agreement per question and per pair of annotators, bias, and what judging costs.
//!
//! Sources: Krippendorff, "Content analysis", 2018, chapters 11 and 12; Ouyang et al. (InstructGPT), 2022, appendix C (agreement of
//! labelers); Singhal et al., "A long way to go", 2023 (preference for length).
//!
//! Where it differs from other tools:
//! 1. A ranking of K answers is K(K - 1)/2 comparisons, each with one of three outcomes: so rankings of any length and pairs are one question.
//!    Each is counted from both sides, so that nothing depends on the order in which answers are stored: the table of outcomes is symmetric.
//! 2. Intervals draw items, with all their comparisons and judges, since the comparisons of one item are not independent.

mod agreement;
mod bias;
mod pairs;

use std::collections::BTreeMap;

use hone_data::annotations::{Judgement, Record, TaskKind};
use hone_objective::statistics::{Bootstrap, Interval, Resampled};

use crate::error::Error;

/// Share of resamples, as one in so many, that may leave a number undefined: beyond that an interval would be of the rest.
const MOST_UNDEFINED: u32 = 20;

/// A number with the ends of its interval, and what it was computed from.
///
/// There is none of one unit, which has no spread, and none where more than one resample in 20 leaves the number undefined, as agreement
/// on what hardly anybody ever said.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Items, comparisons or judgements behind it, as its place says.
    pub n: u64,
}

impl Estimate {
    /// What was found by drawing this many units again; `n` is what is said to stand behind it.
    fn of(found: Option<Resampled>, (units, draws): (usize, &Bootstrap), n: u64) -> Option<Self> {
        let found = found.filter(|found| units > 1 && found.undefined <= draws.resamples / MOST_UNDEFINED)?;
        Some(Self::new(found.interval, n))
    }

    fn new(interval: Interval, n: u64) -> Self {
        Self {
            value: interval.estimate,
            low: interval.low,
            high: interval.high,
            n,
        }
    }
}

/// How far all annotators agree on one question.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Question {
    /// Such as `preference`, `rating`, `flag: hallucination`.
    pub name: String,
    /// Krippendorff's alpha, ordinal for ratings and nominal for all else; `n` counts items that two or more judged. Nothing where it is
    /// undefined.
    pub alpha: Option<Estimate>,
    /// Fleiss' kappa, where every item has the same number of judgements.
    pub fleiss: Option<f64>,
}

/// How far two annotators agree.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Pair {
    /// Their names, in the order of the alphabet.
    pub annotators: [String; 2],
    /// Items that both judged.
    pub items: u64,
    /// Cohen's kappa of the comparisons (better, tied, worse); `n` counts comparisons.
    pub kappa: Option<Estimate>,
    /// Cohen's kappa of the ratings with quadratic weights; `n` counts rated answers.
    pub rating_kappa: Option<Estimate>,
    /// Kendall's tau-b of the orders, the mean over items in which neither tied all answers; `n` counts these.
    pub tau: Option<Estimate>,
}

/// What one annotator did and how.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct AnnotatorReport {
    /// Who.
    pub name: String,
    /// Judgements that count.
    pub judgements: u64,
    /// Median seconds of attention.
    pub seconds: Option<f64>,
    /// Share of comparisons, findings of "all bad" and ratings that came out the same the second time. `n` counts them.
    pub consistency: Option<Estimate>,
    /// Share of comparisons, findings of "all bad" and ratings of gold items that came out as they should. `n` counts them.
    pub gold: Option<Estimate>,
    /// Share of decided comparisons in which the answer that was shown earlier won. One half is no bias.
    pub side: Option<Estimate>,
}

/// What judging one kind of task costs.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Cost {
    /// The kind.
    pub kind: TaskKind,
    /// Judgements of it.
    pub judgements: u64,
    /// Median seconds of attention.
    pub seconds: f64,
    /// Of rankings and pairs: median seconds divided by the median number of comparisons that one gives.
    pub seconds_a_comparison: Option<f64>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct AnnotationReport {
    /// Judgements that count.
    pub judgements: u64,
    /// Items with at least one.
    pub items: u64,
    /// Agreement on each question that two or more annotators answered.
    pub questions: Vec<Question>,
    /// Agreement of each two who judged an item in common.
    pub pairs: Vec<Pair>,
    /// Everybody, by name.
    pub annotators: Vec<AnnotatorReport>,
    /// Share of decided comparisons in which the answer that was shown earlier won; `n` counts comparisons.
    pub side: Option<Estimate>,
    /// Share of decided comparisons of answers of unequal length in which the longer one won.
    pub length: Option<Estimate>,
    /// What each kind of task costs.
    pub costs: Vec<Cost>,
}

/// The report on a project's records.
///
/// # Errors
/// A `draws` that makes no sense.
pub fn annotation_report(records: &[Record], draws: &Bootstrap) -> Result<AnnotationReport, Error> {
    let counting: Vec<&Record> = records.iter().filter(|record| record.counts()).collect();
    let mut items: BTreeMap<i64, Vec<&Record>> = BTreeMap::new();
    for record in &counting {
        items.entry(record.item).or_default().push(record);
    }
    Ok(AnnotationReport {
        judgements: counting.len() as u64,
        items: items.len() as u64,
        questions: agreement::questions(&items, draws)?,
        pairs: pairs::pairs(&items, draws)?,
        annotators: bias::annotators(records, draws)?,
        side: bias::side(&counting, draws)?,
        length: bias::length(&counting, draws)?,
        costs: bias::costs(&counting),
    })
}

/// The place of each answer from 0, tied ones with the same; nothing where no order was given.
fn places(judgement: &Judgement, answers: usize) -> Option<Vec<usize>> {
    let groups = judgement.ranking.as_ref()?;
    let mut places = vec![0; answers];
    for (place, group) in groups.iter().enumerate() {
        for &answer in group {
            *places.get_mut(answer)? = place;
        }
    }
    Some(places)
}

/// Every comparison of an order as (one answer, a later one, outcome): 0 where the first is better, 1 where they are tied, 2 where the second
/// is better.
fn comparisons(record: &Record, judgement: &Judgement) -> Vec<(usize, usize, usize)> {
    let Some(places) = places(judgement, record.responses.len()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for i in 0..places.len() {
        for j in i + 1..places.len() {
            found.push((
                i,
                j,
                1 + usize::from(places[i] > places[j]) - usize::from(places[i] < places[j]),
            ));
        }
    }
    found
}

fn median(numbers: &mut [f64]) -> Option<f64> {
    numbers.sort_unstable_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => None,
        n if n % 2 == 1 => Some(numbers[middle]),
        _ => Some(0.5 * (numbers[middle - 1] + numbers[middle])),
    }
}
