//! Group-relative reinforcement learning against TRL's own loss code and PyTorch's formulas, and fits of over-optimisation.

use super::read::{all_close, close, flags, golden, number, single, sizes, wide};
use hone_objective::group::{
    AdvantageEstimator, GroupConfig, GroupCounts, GroupInputs, KlTerm, OverlongShaping, TokenWeight, advantages,
    group_loss,
};
use hone_objective::kl::Estimator;
use hone_objective::overoptimisation::{Form, fit};
use hone_objective::ppo::ClipRange;

#[test]
fn parity_group_advantages() {
    let file = golden("group_advantages");
    let (scores, groups) = (single(&file["scores"]), sizes(&file["groups"]));
    for (name, estimator) in [
        ("grpo", AdvantageEstimator::Grpo),
        ("dr_grpo", AdvantageEstimator::DrGrpo),
        ("rloo", AdvantageEstimator::Rloo),
        ("reinforce++", AdvantageEstimator::ReinforcePlusPlus),
        ("reinforce++ baseline", AdvantageEstimator::ReinforcePlusPlusBaseline),
    ] {
        let out = advantages(&scores, &groups, estimator).unwrap();
        all_close(name, &out.advantages, &file[name]);
        close("equal groups", out.stats.equal_share(), &file["frac_reward_zero_std"]);
    }
    let [max_length, cache] = ["max_length", "cache"].map(|key| number(&file[key]) as usize);
    let shaping = OverlongShaping::new(max_length, cache).unwrap();
    for (length, expected) in file["overlong"].as_array().unwrap().iter().enumerate() {
        close("overlong", shaping.penalty(length), expected);
    }
}

#[test]
fn parity_group_loss() {
    let file = golden("group_loss");
    let [logprobs, old_logprobs, ref_logprobs, advantages] =
        ["logprobs", "old_logprobs", "ref_logprobs", "advantages"].map(|key| single(&file[key]));
    let (mask, lengths) = (flags(&file["mask"]), sizes(&file["lengths"]));
    let counts = GroupCounts::of(&mask, &lengths);
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let kl = case["estimator"].as_str().map(|name| KlTerm {
            ref_logprobs: &ref_logprobs,
            kl_coef: number(&case["kl_coef"]),
            estimator: match name {
                "k1" => Estimator::K1,
                "k2" => Estimator::K2,
                "k3" => Estimator::K3,
                other => panic!("{other}"),
            },
        });
        let inputs = GroupInputs {
            logprobs: &logprobs,
            old_logprobs: &old_logprobs,
            mask: &mask,
            lengths: &lengths,
            advantages: &advantages,
            kl,
            entropies: None,
        };
        let config = GroupConfig {
            clip_range: ClipRange {
                low: number(&case["clip_low"]),
                high: number(&case["clip_high"]),
            },
            token_weight: match case["weight"].as_str().unwrap() {
                "response mean" => TokenWeight::ResponseMean,
                "token mean" => TokenWeight::TokenMean,
                "constant length" => TokenWeight::ConstantLength(number(&file["limit"]) as u64),
                other => panic!("{other}"),
            },
        };
        let out = group_loss(&inputs, config, counts).unwrap();
        let name = format!("{} {}", case["weight"], case["estimator"]);
        close(&name, out.loss, &case["loss"]);
        all_close(&name, &out.grad_logprobs, &case["grad"]);
        if let Some(term) = kl {
            close(&name, out.stats.ref_kl.mean(term.estimator), &case["kl"]);
        }
        if case.get("low").is_some() {
            let clipped = [out.stats.clipped_low, out.stats.clipped_high].map(|tokens| tokens as f64);
            assert_eq!(clipped, [number(&case["low"]), number(&case["high"])], "{name}");
            assert!(
                clipped[0] > 0.0 && clipped[1] > 0.0,
                "{name}: a case in which nothing is clipped shows little"
            );
        }
    }
}

#[test]
fn parity_overoptimisation() {
    let file = golden("overoptimisation");
    let (kl, gain) = (wide(&file["kl"]), wide(&file["gain"]));
    for (name, form) in [("best-of-n", Form::BestOfN), ("rl", Form::ReinforcementLearning)] {
        let expected = &file["fits"][name];
        let found = fit(form, &kl, &gain).unwrap();
        close("alpha", found.alpha, &expected["alpha"]);
        close("beta", found.beta, &expected["beta"]);
        close("rmse", found.rmse, &expected["rmse"]);
        // An exponential of alpha/beta magnifies the last digits
        let (peak, expected) = (found.peak().unwrap().kl, number(&expected["kl_at_peak"]));
        assert!((peak / expected - 1.0).abs() < 1e-11, "{name}: {peak} {expected}");
    }
}
