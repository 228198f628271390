//! The reward model's ranking loss (Bradley and Terry's model of paired comparisons), for pairs and for rankings of K answers.
//!
//! loss of a prompt = mean over its pairs (i better than j) of -ln sigmoid(s_i - s_j - margin_ij)
//! loss             = mean over prompts
//!
//! Sources: Bradley and Terry, "Rank analysis of incomplete block designs", 1952; Ouyang et al. (InstructGPT), 2022, equation 1 (all
//! C(K,2) pairs of a prompt in one batch element); Touvron et al. (Llama 2), 2023, equation 2 (the margin).
//!
//! Where it differs from other implementations:
//! 1. Rankings of any K, not only pairs. Each prompt weighs the same whatever its K; trainers that flatten rankings into pairs give a
//!    prompt with nine answers 36 times the weight of one with two.
//! 2. Ties are dropped: the mean is over the pairs that are left, and a prompt with none left counts nowhere. `Ties::Half` keeps them as
//!    half a preference in either direction: (-ln sigmoid(d) - ln sigmoid(-d)) / 2.
//! 3. The margin is subtracted inside the sigmoid for strict pairs only.
//! 4. In the accuracy, a pair whose scores are equal counts as half right. TRL counts it as wrong.

use crate::error::RankingProblem;
use crate::statistics::Prediction;
use crate::{Error, check_count, check_length};
use hone_math::{log_sigmoid, sigmoid};

/// K answers in order of preference, with ties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranking {
    ranks: Vec<usize>,
}

/// Two answers of a prompt, by index, one of which is better or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The better one; of a tie, the one with the lower index.
    pub better: usize,
    /// The other.
    pub worse: usize,
    /// Neither is better.
    pub tie: bool,
}

impl Ranking {
    /// Groups of answer indices, the best group first; the answers of a group are tied.
    ///
    /// # Errors
    /// Fewer than two answers; an answer named twice, not named, or beyond `answers`; an empty group.
    pub fn from_groups(groups: &[Vec<usize>], answers: usize) -> Result<Self, Error> {
        let refuse = |problem| Err(Error::Ranking { answers, problem });
        // More answers than the groups name cannot be ranked: found here, before anything of that size is allocated
        let named = groups.iter().map(Vec::len).sum::<usize>();
        if answers < 2 {
            return refuse(RankingProblem::TooFewAnswers);
        }
        let mut ranks = vec![usize::MAX; answers.min(named + 1)];
        for (rank, group) in groups.iter().enumerate() {
            if group.is_empty() {
                return refuse(RankingProblem::EmptyGroup(rank));
            }
            for &answer in group {
                if answer >= answers {
                    return refuse(RankingProblem::UnknownAnswer(answer));
                }
                match ranks.get_mut(answer) {
                    Some(place) if *place == usize::MAX => *place = rank,
                    Some(_) => return refuse(RankingProblem::RankedTwice(answer)),
                    // Beyond what can be complete; the gap is reported below
                    None => {}
                }
            }
        }
        match ranks.iter().position(|&rank| rank == usize::MAX) {
            Some(answer) => refuse(RankingProblem::NotRanked(answer)),
            None => Ok(Self { ranks }),
        }
    }

    /// One rank an answer, lower is better, equal is a tie; gaps don't matter.
    ///
    /// # Errors
    /// Fewer than two answers.
    pub fn from_ranks(ranks: &[usize]) -> Result<Self, Error> {
        if ranks.len() < 2 {
            return Err(Error::Ranking {
                answers: ranks.len(),
                problem: RankingProblem::TooFewAnswers,
            });
        }
        Ok(Self { ranks: ranks.to_vec() })
    }

    /// The pair in which answer 0 was chosen and answer 1 rejected.
    pub fn chosen_rejected() -> Self {
        Self { ranks: vec![0, 1] }
    }

    /// K.
    pub fn answers(&self) -> usize {
        self.ranks.len()
    }

    /// All C(K,2) pairs, by the lower index and then by the higher.
    pub fn pairs(&self) -> impl Iterator<Item = Pair> + '_ {
        let k = self.ranks.len();
        (0..k).flat_map(move |i| (i + 1..k).map(move |j| (i, j))).map(|(i, j)| {
            let (a, b) = (self.ranks[i], self.ranks[j]);
            let (better, worse) = if b < a { (j, i) } else { (i, j) };
            Pair {
                better,
                worse,
                tie: a == b,
            }
        })
    }

    /// The pairs of which one answer is better, in the order of [`Ranking::pairs`].
    pub fn strict_pairs(&self) -> impl Iterator<Item = Pair> + '_ {
        self.pairs().filter(|pair| !pair.tie)
    }
}

/// What becomes of tied pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ties {
    /// They are left out.
    #[default]
    Drop,
    /// They count as half a preference in either direction.
    Half,
}

/// One prompt: how its answers were ranked, and optionally by how much.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The preference.
    pub ranking: Ranking,
    /// Degree of preference of each strict pair, in the order of [`Ranking::strict_pairs`].
    pub margins: Option<Vec<f32>>,
}

impl Comparison {
    /// Whether the prompt has a pair that counts.
    fn counts(&self, ties: Ties) -> bool {
        ties == Ties::Half || self.ranking.strict_pairs().next().is_some()
    }
}

/// Number of prompts with a pair that counts: the constant that the loss of every part is normalised by.
pub fn prepare(comparisons: &[Comparison], ties: Ties) -> u64 {
    comparisons.iter().filter(|comparison| comparison.counts(ties)).count() as u64
}

/// Loss, gradient and statistics of [`bradley_terry`].
#[derive(Clone, Debug, PartialEq)]
pub struct BradleyTerry {
    /// This part's share of the batch's mean loss, nats a pair.
    pub loss: f64,
    /// Gradient of the loss with respect to `scores`.
    pub grad_scores: Vec<f32>,
    /// Sums for accuracy and margin.
    pub stats: PreferenceStats,
}

/// The ranking loss of some prompts of a batch.
///
/// `scores` is `[sum of K]`, the answers of all prompts one after another; `global_prompts` is [`prepare`] of the whole batch.
///
/// # Errors
/// Scores that do not fit the rankings, or margins their strict pairs; a global count that is 0 or below this part's own.
pub fn bradley_terry(
    scores: &[f32],
    comparisons: &[Comparison],
    ties: Ties,
    global_prompts: u64,
) -> Result<BradleyTerry, Error> {
    check_scores("bradley_terry", scores, comparisons)?;
    check_count(
        "bradley_terry",
        "prompts with a preference",
        global_prompts,
        prepare(comparisons, ties),
    )?;
    let global = global_prompts as f64;
    let mut out = BradleyTerry {
        loss: 0.0,
        grad_scores: Vec::with_capacity(scores.len()),
        stats: PreferenceStats::default(),
    };
    let mut start = 0;
    for comparison in comparisons {
        let k = comparison.ranking.answers();
        let group = group_loss(&scores[start..start + k], comparison, ties)?;
        start += k;
        out.loss += group.loss / global;
        out.grad_scores
            .extend(group.grad.iter().map(|grad| (grad / global) as f32));
        out.stats.merge(&group.stats);
    }
    Ok(out)
}

struct Group {
    loss: f64,
    grad: Vec<f64>,
    stats: PreferenceStats,
}

/// One prompt's mean over its pairs.
fn group_loss(scores: &[f32], comparison: &Comparison, ties: Ties) -> Result<Group, Error> {
    let ranking = &comparison.ranking;
    let strict = ranking.strict_pairs().count();
    let all = scores.len() * (scores.len() - 1) / 2;
    let counted = if ties == Ties::Half { all } else { strict };
    if let Some(margins) = &comparison.margins {
        check_length("bradley_terry", "margins", margins.len(), strict)?;
    }
    let mut group = Group {
        loss: 0.0,
        grad: vec![0.0; scores.len()],
        stats: PreferenceStats::default(),
    };
    if counted == 0 {
        return Ok(group);
    }
    let share = 1.0 / counted as f64;
    let mut margins = comparison.margins.iter().flatten();
    let mut correct = 0.0;
    for Pair { better, worse, tie } in ranking.pairs() {
        let difference = f64::from(scores[better]) - f64::from(scores[worse]);
        let slope = if tie {
            if ties == Ties::Drop {
                continue;
            }
            group.loss -= 0.5 * share * (log_sigmoid(difference) + log_sigmoid(-difference));
            // (sigmoid(d) - sigmoid(-d)) / 2
            sigmoid(difference) - 0.5
        } else {
            let margin = margins.next().map_or(0.0, |&margin| f64::from(margin));
            group.loss -= share * log_sigmoid(difference - margin);
            correct += half_or_whole(difference);
            group.stats.margin_sum += difference;
            -sigmoid(margin - difference)
        };
        group.grad[better] += share * slope;
        group.grad[worse] -= share * slope;
    }
    group.stats.loss_sum = group.loss;
    group.stats.prompts = 1;
    group.stats.pairs = strict as u64;
    group.stats.correct_sum = correct;
    if strict > 0 {
        group.stats.ranked_prompts = 1;
        group.stats.agreement_sum = correct / strict as f64;
    }
    Ok(group)
}

/// 1 where the better answer scores higher, a half where the scores are equal, 0 where it scores lower; NaN of NaN.
pub(crate) fn half_or_whole(difference: f64) -> f64 {
    if difference.is_nan() {
        f64::NAN
    } else if difference > 0.0 {
        1.0
    } else if difference == 0.0 {
        0.5
    } else {
        0.0
    }
}

fn check_scores(op: &'static str, scores: &[f32], comparisons: &[Comparison]) -> Result<(), Error> {
    check_length(
        op,
        "scores",
        scores.len(),
        comparisons.iter().map(|comparison| comparison.ranking.answers()).sum(),
    )
}

/// Sums over prompts and pairs; parts add up with [`PreferenceStats::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PreferenceStats {
    /// Sum of the prompts' losses.
    pub loss_sum: f64,
    /// Prompts with a pair that counts.
    pub prompts: u64,
    /// Prompts with a strict pair.
    pub ranked_prompts: u64,
    /// Strict pairs.
    pub pairs: u64,
    /// Strict pairs ordered as ranked, equal scores as a half.
    pub correct_sum: f64,
    /// Sum over prompts of the share of their strict pairs that are ordered as ranked.
    pub agreement_sum: f64,
    /// Sum over strict pairs of the better answer's score less the worse one's.
    pub margin_sum: f64,
}

impl PreferenceStats {
    /// Adds another part's sums.
    pub fn merge(&mut self, other: &Self) {
        self.loss_sum += other.loss_sum;
        self.prompts += other.prompts;
        self.ranked_prompts += other.ranked_prompts;
        self.pairs += other.pairs;
        self.correct_sum += other.correct_sum;
        self.agreement_sum += other.agreement_sum;
        self.margin_sum += other.margin_sum;
    }

    /// Mean loss over prompts; NaN without prompts.
    pub fn mean_loss(&self) -> f64 {
        self.loss_sum / self.prompts as f64
    }

    /// Share of strict pairs ordered as ranked (`rewards/accuracies`); NaN without pairs.
    pub fn accuracy(&self) -> f64 {
        self.correct_sum / self.pairs as f64
    }

    /// As [`PreferenceStats::accuracy`], but each prompt weighs the same; NaN without pairs.
    pub fn agreement(&self) -> f64 {
        self.agreement_sum / self.ranked_prompts as f64
    }

    /// Mean difference of scores between the better and the worse answer (`rewards/margins`); NaN without pairs.
    pub fn margin(&self) -> f64 {
        self.margin_sum / self.pairs as f64
    }
}

/// For each strict pair, the probability the scores give to the answer they prefer (a half or more), and whether it is the better one:
/// what [`crate::statistics::calibration`] reads. Equal scores prefer neither: probability and outcome are a half.
///
/// # Errors
/// Scores that do not fit the rankings.
pub fn predictions(scores: &[f32], comparisons: &[Comparison]) -> Result<Vec<Prediction>, Error> {
    check_scores("predictions", scores, comparisons)?;
    let mut out = Vec::new();
    let mut start = 0;
    for comparison in comparisons {
        for Pair { better, worse, .. } in comparison.ranking.strict_pairs() {
            let difference = f64::from(scores[start + better]) - f64::from(scores[start + worse]);
            let outcome = if difference > 0.0 {
                1.0
            } else if difference == 0.0 {
                0.5
            } else {
                0.0
            };
            out.push(Prediction {
                probability: sigmoid(difference.abs()),
                outcome,
            });
        }
        start += comparison.ranking.answers();
    }
    Ok(out)
}

#[cfg(test)]
#[path = "bradley_terry_tests.rs"]
mod tests;
