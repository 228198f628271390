//! Golden numbers of PyTorch in double precision; `parity/PROVENANCE.md` says how they were made.

mod agreement;
mod group;
mod preference;
mod read;

use hone_objective::bradley_terry::{Comparison, Ranking, Ties, bradley_terry, prepare};
use hone_objective::cross_entropy::cross_entropy;
use hone_objective::gae::GaeConfig;
use hone_objective::kl::{AdaptiveKl, Estimator, KlController, KlInputs, kl_loss};
use hone_objective::ppo::{self, ClipRange, PolicyInputs, PrepareConfig, Rollout, ValueConfig, ValueInputs};
use hone_objective::statistics::{normal_quantile, pearson};
use hone_objective::whiten::{whiten, whiten_keep_mean};
use read::{all_close, close, count, flags, golden, number, single, sizes, wide};
use serde_json::Value;

#[test]
fn parity_cross_entropy() {
    let file = golden("cross_entropy");
    let mask = flags(&file["mask"]);
    let out = cross_entropy(&single(&file["logprobs"]), &mask, count(&mask)).unwrap();
    close("loss", out.loss, &file["loss"]);
    close("perplexity", out.stats.perplexity(), &file["perplexity"]);
    all_close("grad", &out.grad_logprobs, &file["grad"]);
}

#[test]
fn parity_bradley_terry() {
    let file = golden("bradley_terry");
    let prompts = file["prompts"].as_array().unwrap();
    let (mut scores, mut comparisons) = (Vec::new(), Vec::new());
    for prompt in prompts {
        let ranking = Ranking::from_ranks(&sizes(&prompt["ranks"])).unwrap();
        let margins = prompt["margins"].is_array().then(|| single(&prompt["margins"]));
        let comparison = Comparison { ranking, margins };
        let own = single(&prompt["scores"]);
        let alone = bradley_terry(&own, std::slice::from_ref(&comparison), Ties::Drop, 1).unwrap();
        close("loss of a prompt", alone.loss, &prompt["loss"]);
        close("accuracy", alone.stats.accuracy(), &prompt["accuracy"]);
        scores.extend(own);
        comparisons.push(comparison);
    }
    let out = bradley_terry(&scores, &comparisons, Ties::Drop, prepare(&comparisons, Ties::Drop)).unwrap();
    close("loss", out.loss, &file["loss"]);
    let mut start = 0;
    for prompt in prompts {
        let end = start + prompt["ranks"].as_array().unwrap().len();
        all_close("grad", &out.grad_scores[start..end], &prompt["grad"]);
        start = end;
    }
    assert_eq!(start, out.grad_scores.len());
}

#[test]
fn parity_ppo() {
    let file = golden("ppo");
    let mask = flags(&file["mask"]);
    let n = count(&mask);
    let [logprobs, old_logprobs, advantages] = ["logprobs", "old_logprobs", "advantages"].map(|key| single(&file[key]));
    let [values, old_values, returns] = ["values", "old_values", "returns"].map(|key| single(&file[key]));
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let inputs = PolicyInputs {
            logprobs: &logprobs,
            old_logprobs: &old_logprobs,
            advantages: &advantages,
            mask: &mask,
            entropies: None,
        };
        let clip = ClipRange {
            low: number(&case["low"]),
            high: number(&case["high"]),
        };
        let out = ppo::policy_loss(&inputs, clip, n).unwrap();
        close("policy loss", out.loss, &case["policy_loss"]);
        all_close("policy grad", &out.grad_logprobs, &case["policy_grad"]);
        close("clipfrac", out.stats.clipfrac(), &case["policy_clipfrac"]);
        assert!(out.stats.clipped > 0);
        close("approxkl", out.stats.approxkl(Estimator::K2), &case["approxkl"]);
        close("ratio", out.stats.ratio.mean(), &case["ratio"]);
        close("ratio variance", out.stats.ratio.variance(), &case["ratio_var"]);

        let inputs = ValueInputs {
            values: &values,
            old_values: &old_values,
            returns: &returns,
            mask: &mask,
        };
        let config = ValueConfig {
            value_clip_range: number(&case["value_clip_range"]),
            value_coef: 1.0,
        };
        let out = ppo::value_loss(&inputs, config, n).unwrap();
        close("value loss", out.loss, &case["value_loss"]);
        all_close("value grad", &out.grad_values, &case["value_grad"]);
        close("value clipfrac", out.stats.clipfrac(), &case["value_clipfrac"]);
        assert!(out.stats.clipped > 0);
        close(
            "explained variance",
            out.stats.explained_variance(),
            &case["explained_variance"],
        );
    }
}

#[test]
fn parity_rollout() {
    let file = golden("rollout");
    let mask = flags(&file["mask"]);
    let [logprobs, ref_logprobs, values, scores] =
        ["logprobs", "ref_logprobs", "values", "scores"].map(|key| single(&file[key]));
    let lengths = sizes(&file["lengths"]);
    let rollout = Rollout {
        logprobs: &logprobs,
        ref_logprobs: &ref_logprobs,
        values: &values,
        mask: &mask,
        lengths: &lengths,
        scores: &scores,
    };
    let config = PrepareConfig {
        kl_coef: number(&file["kl_coef"]),
        gae: GaeConfig {
            gamma: number(&file["gamma"]),
            gae_lambda: number(&file["gae_lambda"]),
        },
        whiten_advantages: false,
        whiten_rewards: false,
    };
    let plain = ppo::prepare(&rollout, &config).unwrap();
    all_close("rewards", &plain.rewards, &file["rewards"]);
    all_close("advantages", &plain.advantages, &file["advantages"]);
    all_close("returns", &plain.returns, &file["returns"]);
    close("kl", plain.stats.kl.mean(), &file["kl"]);
    let whitened = ppo::prepare(
        &rollout,
        &PrepareConfig {
            whiten_advantages: true,
            ..config
        },
    )
    .unwrap();
    assert_eq!(whitened.advantages, whiten(&plain.advantages, &mask).unwrap());
    assert_eq!(whitened.returns, plain.returns);
    // Differences of numbers of size 1 that were rounded to f32: absolute, not relative, closeness
    let near = |got: &[f32], expected: &Value, factor: f64| {
        for (&got, expected) in got.iter().zip(wide(expected)) {
            assert!((f64::from(got) - factor * expected).abs() < 5e-7, "{got} {expected}");
        }
    };
    near(&whitened.advantages, &file["whiten"], 1.0);
    near(
        &whiten_keep_mean(&plain.advantages, &mask).unwrap(),
        &file["whiten_keep_mean"],
        1.0,
    );
    let n = count(&mask) as f64;
    near(&whitened.advantages, &file["trl_whiten"], (n / (n - 1.0)).sqrt());
}

#[test]
fn parity_kl() {
    let file = golden("kl");
    let (logprobs, ref_logprobs) = (single(&file["logprobs"]), single(&file["ref_logprobs"]));
    let mask = flags(&file["mask"]);
    for (name, estimator) in [("k1", Estimator::K1), ("k2", Estimator::K2), ("k3", Estimator::K3)] {
        let inputs = KlInputs {
            logprobs: &logprobs,
            ref_logprobs: &ref_logprobs,
            mask: &mask,
        };
        let out = kl_loss(&inputs, estimator, count(&mask)).unwrap();
        close(name, out.loss, &file["estimators"][name]["loss"]);
        close(name, out.stats.mean(estimator), &file["estimators"][name]["loss"]);
        all_close(name, &out.grad_logprobs, &file["estimators"][name]["grad"]);
    }
    let mut controller = KlController::Adaptive(AdaptiveKl::default());
    let episodes = file["controller"]["episodes"].as_u64().unwrap();
    let updates = wide(&file["controller"]["kl"]);
    for (kl, expected) in updates
        .into_iter()
        .zip(file["controller"]["kl_coef"].as_array().unwrap())
    {
        controller.update(kl, episodes).unwrap();
        close("kl_coef", controller.kl_coef(), expected);
    }
}

#[test]
fn parity_statistics() {
    let file = golden("statistics");
    close(
        "pearson",
        pearson(&wide(&file["x"]), &wide(&file["y"])).unwrap().unwrap(),
        &file["pearson"],
    );
    for (p, expected) in wide(&file["points"])
        .into_iter()
        .zip(file["normal_quantiles"].as_array().unwrap())
    {
        close("normal quantile", normal_quantile(p), expected);
    }
}
