//! Preference tuning at smoke scale.

mod common;

use std::fs;
use std::sync::Arc;

use common::{Listening, PREFERENCE, Place, Stage, StopAfter, assert_same_results, parsed, with, with_train, without};
use hone_run::ExitStatus;
use hone_train::preference::PreferenceConfig;
use hone_train::{Outcome, TrainError};
use serde_json::{Value, json};

const METHODS: [&str; 5] = ["dpo", "ipo", "kto", "orpo", "simpo"];

/// The configuration of a method with settings of its own.
fn of(method: &str, settings: &str) -> String {
    let toml = with(PREFERENCE, "method", &format!("\"{method}\""));
    toml.replacen("[preference]", &format!("[preference]\n{settings}"), 1)
}

/// One step on everything, in f32, so that a loss has its closed form.
fn one_step(toml: &str) -> String {
    let toml = with(&with(toml, "steps", "1"), "batch", "1000");
    with_train(&with(&toml, "held_out", "0.0"), "precision = \"f32\"")
}

fn done(outcome: Result<Outcome, TrainError>) -> Value {
    match outcome {
        Ok(Outcome::Done { summary, .. }) => summary,
        other => panic!("{other:?}"),
    }
}

/// The loss of the first step of a run.
fn first_loss(place: &Place, run: &str, toml: &str) -> f64 {
    done(place.preference(run, toml));
    place.metrics(run)["train/loss"][0].1
}

fn near(got: f64, expected: f64, within: f64) {
    assert!((got - expected).abs() <= within, "{got}, expected {expected}");
}

/// A word that decides every comparison is found by every method.
#[test]
fn a_planted_preference_is_learned() {
    let place = Place::with_base();
    for method in METHODS {
        let toml = with(&with(&of(method, ""), "steps", "60"), "learning_rate", "3e-3");
        let summary = done(place.preference(method, &toml));
        // A prompt has one desirable response and two that are not
        let weights = json!({ "desirable": 2.0, "undesirable": 1.0 });
        assert_eq!(summary["weights"], if method == "kto" { weights } else { Value::Null });
        let held_out = &summary["held_out"];
        let accuracy = held_out["eval/accuracy"].as_f64().unwrap();
        assert!(accuracy > 0.9, "{method}: {summary}");
        assert!(held_out["eval/accuracy_low"].as_f64().unwrap() < accuracy);
        assert_eq!(held_out["held_out_prompts"], 30);
        let judgements = if method == "kto" { 90 } else { 60 };
        assert_eq!(held_out["held_out_judgements"], judgements);
        let metrics = place.metrics(method);
        let (margins, accuracies) = (&metrics["rewards/margins"], &metrics["rewards/accuracies"]);
        assert!(margins.last().unwrap().1 > margins[0].1 + 0.02, "{method}: {margins:?}");
        assert!(accuracies.last().unwrap().1 > 0.9, "{method}: {accuracies:?}");
        for key in [
            "rewards/chosen",
            "rewards/rejected",
            "logps/chosen",
            "logps/rejected",
            "eval/loss",
            "eval/margins",
            "completions/mean_length",
        ] {
            assert!(metrics.contains_key(key), "{method}: {key}");
        }
        assert_eq!(metrics.contains_key("kl"), method == "kto");
        assert_eq!(metrics.contains_key("nll_loss"), method == "orpo");
        let report = fs::read_to_string(place.path(method).join("report.html")).unwrap();
        assert!(report.contains("Held-out preferences under the result"));
    }
}

/// Where the longer response is preferred, and longer still by more of what decides, margins grow with lengths. Where all pairs differ by one
/// word there is nothing to say.
#[test]
fn lengths_are_seen_to_go_with_margins() {
    let place = Place::with_base();
    let pairs = (0..90).map(|i| {
        let words = " gladly".repeat(1 + i % 4);
        let rejected = common::sentence(i);
        json!({ "prompt": format!("What is this, {i}?"), "chosen": format!("{rejected}{words}"), "rejected": rejected })
    });
    place.write_rows("pairs.jsonl", pairs);
    for method in METHODS {
        let toml = with(&with(&of(method, ""), "steps", "40"), "learning_rate", "3e-3");
        done(place.preference(method, &with(&toml, "train", "[\"pairs.jsonl\"]")));
        let metrics = place.metrics(method);
        assert!(metrics.contains_key("rewards/length_correlation"), "{method}");
        let last = metrics["eval/length_correlation"].last().unwrap().1;
        // Summed rewards grow with length; of means per token this test knows nothing
        assert!(last > 0.3 || ["orpo", "simpo"].contains(&method), "{method}: {last}");
    }
    done(place.preference("equal", PREFERENCE));
    assert!(!place.metrics("equal").contains_key("eval/length_correlation"));
}

/// A policy that is its reference has implicit rewards of exactly 0, in bf16 too, with an adapter and without.
#[test]
fn the_first_loss_has_its_closed_form() {
    let place = Place::with_base();
    let cases = [
        ("dpo", "", 2f64.ln()),
        ("dpo", "beta = 0.7\nlabel_smoothing = 0.2", 2f64.ln()),
        ("ipo", "beta = 0.1", 25.0),
        ("ipo", "beta = 0.25\nform = \"per-token\"", 4.0),
        ("kto", "balance = false", 0.5),
        // One desirable response a prompt and two that are not: the former weigh twice as much
        ("kto", "", (2.0 + 2.0) / 6.0),
        // One desirable response a prompt and two that are not
        (
            "kto",
            "desirable_weight = 1.5\nundesirable_weight = 0.6",
            (1.5 + 2.0 * 0.6) / 6.0,
        ),
        // Nothing is left of the log-probabilities
        ("simpo", "beta = 1e-9\ngamma = 1.5", (1.0 + 1.5f64.exp()).ln()),
    ];
    for (i, (method, settings, expected)) in cases.into_iter().enumerate() {
        let toml = one_step(&of(method, settings));
        for (kind, toml) in [
            ("all", toml.clone()),
            ("bf16", with(&toml, "precision", "\"bf16\"")),
            ("lora", format!("{toml}\n[lora]\nrank = 2")),
        ] {
            let run = format!("{kind}-{i}");
            near(first_loss(&place, &run, &toml), expected, 1e-6);
            if method != "simpo" {
                let metrics = place.metrics(&run);
                for key in ["rewards/chosen", "rewards/rejected", "rewards/margins"] {
                    assert_eq!(metrics[key][0].1, 0.0, "{run} {key}");
                }
                assert_eq!(metrics["rewards/accuracies"][0].1, 0.5);
            }
        }
    }
}

/// ORPO without its second term is supervised tuning on the chosen responses; prompts weigh the same, or pairs do.
#[test]
fn prompts_or_pairs_weigh_the_same() {
    let place = Place::with_base();
    let ranked = json!({ "prompt": "What is red?", "responses": ["The cup.", "The red door is red.", "No"], "ranking": [[0], [1], [2]] });
    let pair = json!({ "prompt": "What is blue?", "chosen": "The boat and the hat are blue.", "rejected": "No" });
    place.write_rows("a.jsonl", [ranked].into_iter());
    place.write_rows("b.jsonl", [pair].into_iter());
    let loss = |run: &str, settings: &str, files: &str| {
        let toml = one_step(&of("orpo", &format!("odds_ratio_coef = 0.0\n{settings}")));
        let toml = with(&toml, "train", files);
        let loss = first_loss(&place, run, &toml);
        near(place.metrics(run)["nll_loss"][0].1, loss, 1e-9);
        loss
    };
    let both = "[\"a.jsonl\", \"b.jsonl\"]";
    let (a, b) = (loss("a", "", "[\"a.jsonl\"]"), loss("b", "", "[\"b.jsonl\"]"));
    assert!((a - b).abs() > 1e-3, "{a} {b}");
    near(loss("prompts", "", both), (a + b) / 2.0, 1e-9);
    near(loss("pairs", "weigh = \"pairs\"", both), (3.0 * a + b) / 4.0, 1e-9);
    // Over tokens, a response counts by its length
    let tokens = loss("tokens", "sft_mean = \"tokens\"", both);
    assert!((tokens - (a + b) / 2.0).abs() > 1e-4, "{tokens}");
    let logps = place.metrics("tokens");
    let chosen = logps["logps/chosen"][0].1;
    assert!(chosen < -tokens, "sums of a response's tokens: {chosen}");
}

/// Single responses with labels serve KTO, beside rankings or alone, and nothing else.
#[test]
fn labels_serve_kto_alone() {
    let place = Place::with_base();
    let text = fs::read_to_string(place.path("rankings.jsonl")).unwrap();
    let rows = text.lines().enumerate().map(|(i, line)| {
        let row: Value = serde_json::from_str(line).unwrap();
        let response = row["responses"][i % 3].clone();
        let label = response.as_str().unwrap().contains("gladly");
        json!({ "prompt": row["prompt"], "completion": response, "label": label })
    });
    place.write_rows("labels.jsonl", rows);
    let toml = with(&of("kto", ""), "train", "[\"labels.jsonl\", \"rankings.jsonl\"]");
    let summary = done(place.preference("both", &toml));
    assert_eq!(summary["sources"][0]["prompts"], 90);
    let alone = with(&of("kto", ""), "train", "[\"labels.jsonl\"]");
    done(place.preference("alone", &alone));
    let metrics = place.metrics("alone");
    // Every label is good: nothing is said of what there is none of
    assert!(metrics.contains_key("rewards/chosen") && !metrics.contains_key("rewards/rejected"));
    assert!(metrics["kl"].iter().all(|&(_, kl)| kl >= 0.0));
    let refused = place
        .preference("dpo", &with(PREFERENCE, "train", "[\"labels.jsonl\"]"))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("comparisons are needed here"), "{refused}");
}

/// A label that is rare gets a large weight, and the run says what that means.
#[test]
fn a_large_weight_of_kto_is_told() {
    let place = Place::with_base();
    let told = |run: &str, good: usize| {
        let rows = (0..46).map(|i| {
            json!({ "prompt": format!("What is this, {i}?"), "completion": common::sentence(i), "label": i < good })
        });
        place.write_rows("labels.jsonl", rows);
        let toml = with(&with(&of("kto", ""), "train", "[\"labels.jsonl\"]"), "held_out", "0.0");
        let heard = Arc::new(Listening::default());
        let mut job = place.job(run);
        job.observer = heard.clone();
        let summary = done(hone_train::preference::run(
            &job,
            &parsed::<PreferenceConfig>(&with(&toml, "steps", "1")),
        ));
        let said = heard.0.lock().unwrap();
        let told = said.iter().filter(|said| said.contains("pulls as hard as"));
        let weight = summary["weights"]["desirable"].as_f64().unwrap();
        (weight, told.cloned().collect::<Vec<String>>())
    };
    let (weight, said) = told("rare", 4);
    assert_eq!(weight, 10.5);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains("one desirable response pulls as hard as 10.5 undesirable ones"),
        "{said:?}"
    );
    let (weight, said) = told("less-rare", 5);
    assert_eq!((weight, said.len()), (8.2, 0));
}

/// KTO's divergence is above 0 once the policy has moved, and a run that goes on knows its reference.
#[test]
fn an_interrupted_run_of_kto_gives_the_same_bytes() {
    let place = Place::with_base();
    let toml = of("kto", "");
    done(place.preference("whole", &toml));
    let mut job = place.job("stopped");
    job.observer = Arc::new(StopAfter {
        step: 6,
        shutdown: job.shutdown.clone(),
    });
    let stopped = Stage::Preference.start(&job, &toml).unwrap();
    assert!(matches!(stopped, Outcome::Stopped { step: 6 }), "{stopped:?}");
    done(place.preference("stopped", &toml));
    assert_same_results(&place.path("whole"), &place.path("stopped"));
    let kl = &place.metrics("whole")["kl"];
    assert_eq!(kl[0].1, 0.0);
    assert!(kl.iter().all(|&(_, kl)| kl >= 0.0));
}

/// The model of the best evaluation is the result where it is asked for.
#[test]
fn the_best_model_can_be_kept() {
    let place = Place::with_base();
    let toml = with(&with(PREFERENCE, "learning_rate", "3e-2"), "every", "1");
    let last = done(place.preference("last", &toml));
    let best = done(place.preference("best", &format!("keep = \"best\"\n{toml}")));
    let losses = &place.metrics("best")["eval/loss"];
    let lowest = losses.iter().map(|l| l.1).fold(f64::INFINITY, f64::min);
    assert_eq!(best["best"]["eval/loss"].as_f64(), Some(lowest));
    assert_eq!(best["held_out"]["eval/loss"].as_f64(), Some(lowest));
    assert_eq!(last["held_out"]["eval/loss"].as_f64(), losses.last().map(|l| l.1));
}

/// Keys of other methods, and values that make no sense, are named with their place.
#[test]
fn keys_of_other_methods_are_refused() {
    let place = Place::new();
    let keys = [
        ("beta", "0.1", "dpo, ipo, kto, simpo"),
        ("label_smoothing", "0.1", "dpo"),
        ("form", "\"summed\"", "ipo"),
        ("balance", "true", "kto"),
        ("desirable_weight", "1.0", "kto"),
        ("undesirable_weight", "1.0", "kto"),
        ("odds_ratio_coef", "0.1", "orpo"),
        ("sft_mean", "\"tokens\"", "orpo"),
        ("gamma", "1.0", "simpo"),
    ];
    let refusal = |toml: &str| {
        let error = place.preference("refused", toml).unwrap_err();
        assert_eq!(error.exit_status(), ExitStatus::Usage, "{error}");
        error.to_string()
    };
    for (key, value, owners) in keys {
        for method in METHODS.into_iter().filter(|m| !owners.split(", ").any(|o| o == *m)) {
            let said = refusal(&of(method, &format!("{key} = {value}")));
            let expected = format!("preference.{key}: has no effect: preference.method is {method}");
            assert!(said.contains(&expected) && said.contains(owners), "{said}");
            assert!(said.starts_with("test.toml:"), "{said}");
        }
    }
    for (method, setting, expected) in [
        ("dpo", "beta = 0.0", "preference.beta: is 0; expected a number above 0"),
        (
            "dpo",
            "label_smoothing = 0.6",
            "preference.label_smoothing: is 0.6; expected 0 to 0.5",
        ),
        (
            "kto",
            "desirable_weight = -1.0",
            "preference.desirable_weight: is -1; expected 0 or a number above",
        ),
        (
            "kto",
            "balance = true\nundesirable_weight = 0.5",
            "preference.undesirable_weight: is 0.5, and preference.balance chooses the weights",
        ),
        (
            "kto",
            "undesirable_weight = inf",
            "preference.undesirable_weight: is inf",
        ),
        ("orpo", "odds_ratio_coef = -0.1", "preference.odds_ratio_coef: is -0.1"),
        ("simpo", "gamma = nan", "preference.gamma: is NaN"),
    ] {
        let said = refusal(&of(method, setting));
        assert!(said.contains(expected), "{said}");
    }
    let said = refusal(&format!("keep = \"best\"\n{}", with(PREFERENCE, "held_out", "0.0")));
    assert!(said.contains("keep: is \"best\", and data.held_out is 0"), "{said}");
    assert!(!place.path("refused").exists());
}

/// A record states what was used, and resolves to itself.
#[test]
fn a_method_brings_its_own_values() {
    for (method, stated) in [
        ("dpo", "beta = 0.1"),
        ("ipo", "form = \"summed\""),
        ("kto", "balance = true"),
        ("orpo", "sft_mean = \"responses\""),
        ("simpo", "gamma = 1.0"),
    ] {
        let resolved = parsed::<PreferenceConfig>(&of(method, ""));
        assert!(resolved.text().contains(stated), "{}", resolved.text());
        let again = parsed::<PreferenceConfig>(resolved.text());
        assert_eq!(again.config, resolved.config);
    }
    assert_eq!(
        parsed::<PreferenceConfig>(&of("simpo", "")).config.preference.beta,
        Some(2.0)
    );
    let epochs = parsed::<PreferenceConfig>(&without(PREFERENCE, "steps"))
        .config
        .train
        .epochs;
    assert_eq!(epochs, Some(1.0));
}
