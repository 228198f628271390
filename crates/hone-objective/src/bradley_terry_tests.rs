use super::*;
use hone_math::Key;

fn ranked(groups: &[&[usize]]) -> Comparison {
    let groups: Vec<Vec<usize>> = groups.iter().map(|group| group.to_vec()).collect();
    let answers = groups.iter().map(Vec::len).sum();
    Comparison {
        ranking: Ranking::from_groups(&groups, answers).unwrap(),
        margins: None,
    }
}

#[test]
fn two_answers_are_the_pairwise_loss() {
    let pair = Comparison {
        ranking: Ranking::chosen_rejected(),
        margins: None,
    };
    assert_eq!(pair, ranked(&[&[0], &[1]]));
    for (chosen, rejected) in [(1.0_f32, -0.5_f32), (0.25, 3.0), (0.0, 0.0)] {
        let out = bradley_terry(&[chosen, rejected], std::slice::from_ref(&pair), Ties::Drop, 1).unwrap();
        let d = f64::from(chosen - rejected);
        assert!((out.loss - (1.0 + (-d).exp()).ln()).abs() < 1e-14);
        let slope = -1.0 / (1.0 + d.exp());
        assert!((f64::from(out.grad_scores[0]) - slope).abs() < 1e-7);
        assert_eq!(out.grad_scores[0], -out.grad_scores[1]);
    }
}

#[test]
fn three_answers_by_hand() {
    // Best is answer 2, then 0, then 1; scores a, b, c
    let (a, b, c) = (0.5_f32, -1.0, 0.25);
    let out = bradley_terry(&[a, b, c], &[ranked(&[&[2], &[0], &[1]])], Ties::Drop, 2).unwrap();
    let nll = |d: f32| (1.0 + (-f64::from(d)).exp()).ln();
    let expected = (nll(a - b) + nll(c - a) + nll(c - b)) / 3.0 / 2.0;
    assert!((out.loss - expected).abs() < 1e-14);
    assert_eq!(out.stats.pairs, 3);
    // c < a is the one mistake
    assert!((out.stats.accuracy() - 2.0 / 3.0).abs() < 1e-15);
    assert!((out.stats.margin() - (1.5 - 0.25 + 1.25) / 3.0).abs() < 1e-12);
    assert!((out.stats.mean_loss() - 2.0 * expected).abs() < 1e-14);
    assert!(out.grad_scores.iter().sum::<f32>().abs() < 1e-7);
}

#[test]
fn a_margin_is_subtracted_inside_the_sigmoid() {
    let pair = Comparison {
        ranking: Ranking::chosen_rejected(),
        margins: Some(vec![0.75]),
    };
    let with = bradley_terry(&[2.0, 1.0], &[pair], Ties::Drop, 1).unwrap();
    let without = bradley_terry(&[0.25, 0.0], &[ranked(&[&[0], &[1]])], Ties::Drop, 1).unwrap();
    assert_eq!(with.loss, without.loss);
    assert_eq!(with.grad_scores, without.grad_scores);
    // The margin reported is the scores' difference, not the setting
    assert_eq!(with.stats.margin(), 1.0);
    let wrong = Comparison {
        ranking: Ranking::chosen_rejected(),
        margins: Some(vec![]),
    };
    assert!(matches!(
        bradley_terry(&[2.0, 1.0], &[wrong], Ties::Drop, 1),
        Err(Error::ShapeMismatch { what: "margins", .. })
    ));
}

#[test]
fn ties_are_dropped_or_count_half() {
    let scores = [1.0, 0.0, -1.0];
    let tied = ranked(&[&[0, 1], &[2]]);
    let nll = |d: f64| (1.0 + (-d).exp()).ln();
    let dropped = bradley_terry(&scores, std::slice::from_ref(&tied), Ties::Drop, 1).unwrap();
    assert!((dropped.loss - (nll(2.0) + nll(1.0)) / 2.0).abs() < 1e-14);
    let half = bradley_terry(&scores, std::slice::from_ref(&tied), Ties::Half, 1).unwrap();
    assert!((half.loss - (nll(2.0) + nll(1.0) + 0.5 * (nll(1.0) + nll(-1.0))) / 3.0).abs() < 1e-14);
    assert_eq!(half.stats.pairs, 2);
    // A tie pulls equal scores nowhere
    let equal = bradley_terry(&[0.5, 0.5], &[ranked(&[&[0, 1]])], Ties::Half, 1).unwrap();
    assert_eq!(equal.grad_scores, [0.0, 0.0]);
    assert!((equal.loss - std::f64::consts::LN_2).abs() < 1e-15);
}

#[test]
fn a_prompt_of_ties_alone_counts_nowhere_when_they_are_dropped() {
    let comparisons = [ranked(&[&[0, 1, 2]]), ranked(&[&[1], &[0]])];
    assert_eq!(prepare(&comparisons, Ties::Drop), 1);
    assert_eq!(prepare(&comparisons, Ties::Half), 2);
    let out = bradley_terry(&[1.0, 2.0, 3.0, 0.0, 1.0], &comparisons, Ties::Drop, 1).unwrap();
    assert_eq!(out.grad_scores[..3], [0.0; 3]);
    assert_eq!((out.stats.prompts, out.stats.pairs), (1, 1));
    assert_eq!(out.stats.agreement(), 1.0);
}

#[test]
fn gradients_agree_with_finite_differences() {
    let key = Key::new(11, "ranking", 0);
    for case in 0..40_u64 {
        let key = key.child(case);
        let k = 2 + key.below(0, 6) as usize;
        let ranks: Vec<usize> = (0..k).map(|i| key.below(10 + i as u64, 4) as usize).collect();
        let ranking = Ranking::from_ranks(&ranks).unwrap();
        let margins = ranking
            .strict_pairs()
            .enumerate()
            .map(|(i, _)| key.uniform(100 + i as u64) as f32)
            .collect();
        let comparison = Comparison {
            ranking,
            margins: Some(margins),
        };
        let scores: Vec<f64> = (0..k).map(|i| f64::from(key.normal(50 + i as u64) as f32)).collect();
        for ties in [Ties::Drop, Ties::Half] {
            let loss = |scores: &[f64]| naive(scores, &ranks, comparison.margins.as_ref().unwrap(), ties);
            let single: Vec<f32> = scores.iter().map(|&s| s as f32).collect();
            let out = bradley_terry(&single, std::slice::from_ref(&comparison), ties, 1);
            if prepare(std::slice::from_ref(&comparison), ties) == 0 {
                continue;
            }
            let out = out.unwrap();
            assert!((out.loss - loss(&scores)).abs() < 1e-12);
            for i in 0..k {
                let h = 1e-5;
                let (mut up, mut down) = (scores.clone(), scores.clone());
                up[i] += h;
                down[i] -= h;
                let numeric = (loss(&up) - loss(&down)) / (2.0 * h);
                assert!(
                    (f64::from(out.grad_scores[i]) - numeric).abs() < 1e-7,
                    "case {case} answer {i}"
                );
            }
        }
    }
}

/// The definition, with the standard library's mathematics.
fn naive(scores: &[f64], ranks: &[usize], margins: &[f32], ties: Ties) -> f64 {
    let nll = |d: f64| (1.0 + (-d).exp()).ln();
    let (mut sum, mut pairs, mut strict) = (0.0, 0, 0);
    for i in 0..scores.len() {
        for j in i + 1..scores.len() {
            if ranks[i] == ranks[j] {
                if ties == Ties::Half {
                    sum += 0.5 * (nll(scores[i] - scores[j]) + nll(scores[j] - scores[i]));
                    pairs += 1;
                }
                continue;
            }
            let d = if ranks[i] < ranks[j] {
                scores[i] - scores[j]
            } else {
                scores[j] - scores[i]
            };
            sum += nll(d - f64::from(margins[strict]));
            strict += 1;
            pairs += 1;
        }
    }
    sum / f64::from(pairs)
}

#[test]
fn any_split_between_prompts_gives_the_same_gradients() {
    let comparisons = [
        ranked(&[&[0], &[1]]),
        ranked(&[&[2, 0], &[1]]),
        ranked(&[&[1, 0]]),
        ranked(&[&[3], &[1], &[0], &[2]]),
    ];
    let key = Key::new(12, "ranking", 0);
    let scores: Vec<f32> = (0..11).map(|i| key.normal(i) as f32).collect();
    let global = prepare(&comparisons, Ties::Drop);
    let whole = bradley_terry(&scores, &comparisons, Ties::Drop, global).unwrap();
    for cut in 0..=4 {
        let at: usize = comparisons[..cut].iter().map(|c| c.ranking.answers()).sum();
        let mut a = bradley_terry(&scores[..at], &comparisons[..cut], Ties::Drop, global).unwrap();
        let b = bradley_terry(&scores[at..], &comparisons[cut..], Ties::Drop, global).unwrap();
        a.grad_scores.extend(b.grad_scores);
        a.stats.merge(&b.stats);
        assert_eq!(a.grad_scores, whole.grad_scores);
        assert!((a.loss + b.loss - whole.loss).abs() < 1e-15);
        assert!((a.stats.accuracy() - whole.stats.accuracy()).abs() < 1e-15);
        assert!((a.stats.agreement() - whole.stats.agreement()).abs() < 1e-15);
    }
}

#[test]
fn large_scores_neither_overflow_nor_vanish() {
    let out = bradley_terry(&[-1e5, 1e5], &[ranked(&[&[0], &[1]])], Ties::Drop, 1).unwrap();
    assert_eq!(out.loss, 2e5);
    assert_eq!(out.grad_scores, [-1.0, 1.0]);
    let nan = bradley_terry(&[f32::NAN, 1.0], &[ranked(&[&[0], &[1]])], Ties::Drop, 1).unwrap();
    assert!(nan.loss.is_nan() && nan.grad_scores[0].is_nan());
}

#[test]
fn rankings_are_checked() {
    let refused = |groups: &[&[usize]], answers| {
        let groups: Vec<Vec<usize>> = groups.iter().map(|group| group.to_vec()).collect();
        match Ranking::from_groups(&groups, answers) {
            Err(Error::Ranking { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&[&[0]], 1), RankingProblem::TooFewAnswers);
    assert_eq!(refused(&[&[0], &[], &[1]], 2), RankingProblem::EmptyGroup(1));
    assert_eq!(refused(&[&[0], &[2]], 2), RankingProblem::UnknownAnswer(2));
    assert_eq!(refused(&[&[0], &[1, 0]], 2), RankingProblem::RankedTwice(0));
    assert_eq!(refused(&[&[0], &[2]], 3), RankingProblem::NotRanked(1));
    // A lying count costs no memory
    assert_eq!(refused(&[&[0], &[1]], usize::MAX), RankingProblem::NotRanked(2));
    assert!(Ranking::from_ranks(&[3]).is_err());
    assert_eq!(
        Ranking::from_ranks(&[7, 2]).unwrap().pairs().next(),
        Some(Pair {
            better: 1,
            worse: 0,
            tie: false
        })
    );
    let message = Ranking::from_groups(&[vec![0], vec![2]], 3).unwrap_err().to_string();
    assert_eq!(
        message,
        "ranking of 3 answers: answer 1 is not ranked; list each answer's index exactly once, the best group first"
    );
}

#[test]
fn scores_that_do_not_fit_are_refused() {
    let comparisons = [ranked(&[&[0], &[1]])];
    assert!(bradley_terry(&[1.0], &comparisons, Ties::Drop, 1).is_err());
    assert!(bradley_terry(&[1.0, 2.0], &comparisons, Ties::Drop, 0).is_err());
    assert!(predictions(&[1.0], &comparisons).is_err());
}

#[test]
fn predictions_are_confidence_and_correctness() {
    let comparisons = [ranked(&[&[0], &[1]]), ranked(&[&[1], &[0]]), ranked(&[&[0, 1]])];
    let out = predictions(&[2.0, 1.0, 3.0, 3.0, 0.0, 0.0], &comparisons).unwrap();
    assert_eq!(out.len(), 2);
    assert!(out[0].outcome == 1.0 && (out[0].probability - 1.0 / (1.0 + (-1.0_f64).exp())).abs() < 1e-15);
    // Equal scores prefer neither, whichever answer stands first
    assert_eq!(
        out[1],
        Prediction {
            probability: 0.5,
            outcome: 0.5
        }
    );
    assert_eq!(predictions(&[3.0, 3.0], &comparisons[..1]).unwrap(), out[1..]);
    assert_eq!(predictions(&[1.0, 2.0], &comparisons[..1]).unwrap()[0].outcome, 0.0);
}
