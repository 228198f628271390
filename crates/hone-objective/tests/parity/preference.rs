//! Preference tuning against TRL's own loss code.

use super::read::{all_close, close, flags, golden, number, single, sizes};
use hone_objective::preference::kto::prepare as kto_prepare;
use hone_objective::preference::{
    self, DpoConfig, IpoConfig, IpoForm, KtoConfig, KtoInputs, OrpoConfig, PairInputs, PairStats, SftMean, SimpoConfig,
    dpo, ipo, kto, orpo, response_logprobs, simpo,
};
use serde_json::Value;

fn compare(method: &str, loss: f64, grad: &[f32], case: &Value) {
    close(&format!("{method} loss"), loss, &case["loss"]);
    all_close(&format!("{method} grad"), grad, &case["grad"]);
}

/// `same_rewards` is false where TRL reports sums as rewards and the loss compares means.
fn compare_stats(method: &str, stats: &PairStats, case: &Value, same_rewards: bool) {
    close(
        &format!("{method} accuracy"),
        stats.accuracy(),
        &case["rewards/accuracies"],
    );
    if same_rewards {
        close(method, stats.chosen_rewards.mean(), &case["rewards/chosen"]);
        close(method, stats.rejected_rewards.mean(), &case["rewards/rejected"]);
        close(method, stats.margins.mean(), &case["rewards/margins"]);
    }
    if case.get("logps/chosen").is_some() {
        close(method, stats.chosen_logprobs.mean(), &case["logps/chosen"]);
        close(method, stats.rejected_logprobs.mean(), &case["logps/rejected"]);
    }
}

#[test]
fn parity_preference() {
    let file = golden("preference");
    let (logprobs, mask, lengths) = (single(&file["logprobs"]), flags(&file["mask"]), sizes(&file["lengths"]));
    let reference = response_logprobs(&single(&file["ref_logprobs"]), &mask, &lengths).unwrap();
    let inputs = PairInputs {
        logprobs: &logprobs,
        mask: &mask,
        lengths: &lengths,
    };
    let counts = preference::prepare(&mask, &lengths).unwrap();
    let cases = file["cases"].as_array().unwrap();
    let mut seen = Vec::new();
    for case in cases {
        let method = case["method"].as_str().unwrap();
        let beta = number(&case["beta"]);
        seen.push(method);
        if method == "orpo" {
            let config = OrpoConfig {
                odds_ratio_coef: beta,
                sft_mean: match case["sft"].as_str().unwrap() {
                    "responses" => SftMean::Responses,
                    "tokens" => SftMean::Tokens,
                    other => panic!("{other}"),
                },
            };
            let out = orpo(&inputs, config, counts).unwrap();
            compare(method, out.loss, &out.grad_logprobs, case);
            compare_stats(method, &out.stats.pairs, case, true);
            close("nll", out.stats.nll.mean(), &case["nll_loss"]);
            close("log odds", out.stats.log_odds.mean(), &case["log_odds_chosen"]);
            close(
                "log odds ratio",
                out.stats.log_odds_ratio.mean(),
                &case["log_odds_ratio"],
            );
            continue;
        }
        let (out, same_rewards) = match method {
            "dpo" => {
                let config = DpoConfig {
                    beta,
                    label_smoothing: number(&case["label_smoothing"]),
                };
                (dpo(&inputs, &reference, config, counts), true)
            }
            "ipo" => {
                let form = match case["form"].as_str().unwrap() {
                    "summed" => IpoForm::Summed,
                    "per token" => IpoForm::PerToken,
                    other => panic!("{other}"),
                };
                (
                    ipo(&inputs, &reference, IpoConfig { beta, form }, counts),
                    form == IpoForm::Summed,
                )
            }
            "simpo" => {
                let gamma = number(&case["gamma"]);
                (simpo(&inputs, SimpoConfig { beta, gamma }, counts), true)
            }
            other => panic!("{other}"),
        };
        let out = out.unwrap();
        compare(method, out.loss, &out.grad_logprobs, case);
        compare_stats(method, &out.stats, case, same_rewards);
    }
    assert_eq!(seen, ["dpo", "dpo", "ipo", "ipo", "orpo", "orpo", "simpo"]);
}

#[test]
fn parity_kto() {
    let file = golden("kto");
    let (logprobs, mask, lengths) = (single(&file["logprobs"]), flags(&file["mask"]), sizes(&file["lengths"]));
    let sums = |value: &Value| response_logprobs(&single(value), &mask, &lengths).unwrap();
    let inputs = KtoInputs {
        logprobs: &logprobs,
        mask: &mask,
        lengths: &lengths,
        ref_logprobs: &sums(&file["ref_logprobs"]),
        desirable: &flags(&file["desirable"]),
    };
    let cases = file["cases"].as_array().unwrap();
    let mut clamped = 0;
    for case in cases {
        let (mismatched, ref_mismatched) = (sums(&case["mismatched"]), sums(&case["ref_mismatched"]));
        let constants = kto_prepare(&mismatched, &ref_mismatched, lengths.len() as u64).unwrap();
        close("kl", constants.kl, &case["kl"]);
        clamped += usize::from(constants.kl == 0.0);
        let config = KtoConfig {
            beta: number(&case["beta"]),
            desirable_weight: number(&case["desirable_weight"]),
            undesirable_weight: number(&case["undesirable_weight"]),
        };
        let out = kto(&inputs, config, constants).unwrap();
        compare("kto", out.loss, &out.grad_logprobs, case);
        close("rewards", out.stats.chosen_rewards.mean(), &case["rewards/chosen"]);
        close("rewards", out.stats.rejected_rewards.mean(), &case["rewards/rejected"]);
        close("margin", out.stats.margin(), &case["rewards/margins"]);
        close("logps", out.stats.chosen_logprobs.mean(), &case["logps/chosen"]);
        close("logps", out.stats.rejected_logprobs.mean(), &case["logps/rejected"]);
    }
    assert_eq!((cases.len(), clamped), (3, 1));
}
