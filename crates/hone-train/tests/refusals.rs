//! What a stage refuses, and how it says so.

mod common;

use std::fs;
use std::sync::Arc;

use common::{Listening, Place, REWARD, Stage, pretrain_toml, with, with_train, without};
use hone_run::ExitStatus;
use hone_train::Outcome;
use serde_json::json;

fn refusal(stage: Stage, place: &Place, run: &str, toml: &str) -> String {
    match stage.start(&place.job(run), toml) {
        Ok(outcome) => panic!("{stage:?} took it: {outcome:?}\n{toml}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let place = Place::with_base();
    for stage in Stage::ALL {
        let toml = stage.toml();
        let cases = [
            (with(&toml, "steps", "0"), "train.steps: is 0; expected at least 1"),
            (
                with_train(&toml, "epochs = 1.0"),
                "train.steps: stands beside train.epochs",
            ),
            (
                with_train(&without(&toml, "steps"), "epochs = -1.0"),
                "train.epochs: is -1; expected a number above 0",
            ),
            (with(&toml, "batch", "0"), "train.batch: is 0; expected at least 1"),
            (with(&toml, "microbatch_tokens", "0"), "train.microbatch_tokens: is 0"),
            (with(&toml, "checkpoint_every", "0"), "train.checkpoint_every: is 0"),
            (with_train(&toml, "shards = 0"), "train.shards: is 0"),
            (
                with(&toml, "learning_rate", "-1e-3"),
                "train.learning_rate: is -0.001; expected a number above 0",
            ),
            (
                with_train(&toml, "beta1 = 1.0"),
                "train.beta1: is 1; expected at least 0 and below 1",
            ),
            (
                with_train(&toml, "eps = 0.0"),
                "train.eps: is 0; expected a number above 0",
            ),
            (with_train(&toml, "weight_decay = -0.1"), "train.weight_decay: is -0.1"),
            (with_train(&toml, "clip_norm = -1.0"), "train.clip_norm: is -1"),
            (
                with(&toml, "max_length", "97"),
                "data.max_length: is 97; the model's context is 96",
            ),
            (
                with(&toml, "train", "[]"),
                "data.train: is empty; expected at least one source",
            ),
            (with(&toml, "train", "[\"nothing.jsonl\"]"), "nothing.jsonl"),
            (
                without(&toml, "held_out").replace("[data]", "[data]\nheld_out = 1.0"),
                "held_out",
            ),
        ];
        for (i, (toml, expected)) in cases.iter().enumerate() {
            let said = refusal(stage, &place, &format!("{stage:?}-{i}"), toml);
            assert!(
                said.contains(expected),
                "{stage:?}: expected `{expected}`, got `{said}`"
            );
        }
    }
}

#[test]
fn models_that_are_not_there_are_named() {
    let place = Place::with_base();
    for stage in [Stage::Sft, Stage::Reward, Stage::Preference] {
        let said = refusal(stage, &place, "a", &without(&stage.toml(), "path"));
        assert!(said.contains("model.path: is missing"), "{said}");
        let said = refusal(stage, &place, "b", &with(&stage.toml(), "path", "\"nowhere\""));
        assert!(said.contains("nowhere"), "{said}");
        assert!(
            !place.path("a").exists() && !place.path("b").exists(),
            "nothing is left behind"
        );
    }
    let said = refusal(Stage::Pretrain, &place, "a", &without(&pretrain_toml(1), "tokenizer"));
    assert!(
        said.contains("model.tokenizer: is missing") && said.contains("hone tokenizer train"),
        "{said}"
    );
    let lora = format!("{REWARD}\n[lora]\ntargets = [\"w\"]");
    let said = refusal(Stage::Reward, &place, "c", &lora);
    assert!(said.contains('w') && said.contains("q, k, v, o"), "{said}");
    // A base model's tokenizer has no template
    let config = place.path("base/model/tokenizer_config.json");
    let text = fs::read_to_string(&config).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value.as_object_mut().unwrap().remove("chat_template");
    fs::write(&config, value.to_string()).unwrap();
    let _ = fs::remove_file(place.path("base/model/chat_template.jinja"));
    let said = refusal(Stage::Reward, &place, "damaged", &Stage::Reward.toml());
    assert!(
        said.contains("tokenizer_config.json") && said.contains("MANIFEST.json"),
        "{said}"
    );
    fs::remove_file(place.path("base/model/MANIFEST.json")).unwrap();
    let said = refusal(Stage::Reward, &place, "no-template", &Stage::Reward.toml());
    assert!(said.contains("chat template"), "{said}");
    // Tuning gives it one
    Stage::Sft.start(&place.job("tuned"), &Stage::Sft.toml()).unwrap();
    let tuned = fs::read_to_string(place.path("tuned/model/tokenizer_config.json")).unwrap();
    assert!(tuned.contains("<|im_start|>"), "{tuned}");
}

#[test]
fn data_that_does_not_fit_is_told() {
    let place = Place::with_base();
    // Everything is too long
    for stage in [Stage::Sft, Stage::Reward, Stage::Preference] {
        let said = refusal(
            stage,
            &place,
            &format!("{stage:?}"),
            &with(&stage.toml(), "max_length", "4"),
        );
        assert!(
            said.contains("nothing is left to train on") && said.contains("raise data.max_length"),
            "{said}"
        );
    }
    // Some is too long, or cannot be used
    let long = "red ".repeat(120);
    let rows = (0..60).map(|i| match i {
        3 => json!({ "prompt": "q", "chosen": long, "rejected": "no" }),
        7 => json!({ "prompt": "q", "chosen": "same", "rejected": "same" }),
        _ => json!({ "prompt": format!("q {i}"), "chosen": "yes", "rejected": "no" }),
    });
    place.write_rows("rankings.jsonl", rows);
    let source = r#"[{ path = "rankings.jsonl", max_bad_share = 0.1 }]"#;
    let toml = with(&with(REWARD, "train", source), "steps", "1");
    let heard = Arc::new(Listening::default());
    let mut job = place.job("some");
    job.observer = heard.clone();
    let Outcome::Done { summary, .. } = Stage::Reward.start(&job, &toml).unwrap() else {
        panic!("stopped")
    };
    let messages = heard.0.lock().unwrap().join("\n");
    assert!(
        messages.contains("rankings.jsonl: 1 of 60 rows could not be used"),
        "{messages}"
    );
    assert!(
        messages.contains("rankings.jsonl: 1 rankings longer than 96 tokens dropped"),
        "{messages}"
    );
    assert!(
        messages.contains("rankings.jsonl: 43 rankings to train on, 15 held out"),
        "{messages}"
    );
    assert_eq!(
        summary["sources"][0]["rankings"], 43,
        "59 rows, a quarter held out, one too long"
    );
    // Demonstrations to centre on of which some are too long, then all
    let shown = |reply: &str| {
        let turns = [
            json!({"role": "user", "content": "q"}),
            json!({"role": "assistant", "content": reply}),
        ];
        json!({ "messages": turns })
    };
    place.write_rows("some.jsonl", [shown(&long), shown("yes")].into_iter());
    let heard = Arc::new(Listening::default());
    let mut job = place.job("centre-some");
    job.observer = heard.clone();
    let some = format!("{toml}\n[reward]\ncentre_on = [\"some.jsonl\"]");
    Stage::Reward.start(&job, &some).unwrap();
    let messages = heard.0.lock().unwrap().join("\n");
    assert!(
        messages.contains("some.jsonl: 1 of 2 demonstrations to centre on are longer than 96 tokens"),
        "{messages}"
    );
    place.write_rows("long.jsonl", std::iter::once(shown(&long)));
    let toml = format!("{toml}\n[reward]\ncentre_on = [\"long.jsonl\"]");
    let said = refusal(Stage::Reward, &place, "centre", &toml);
    assert!(
        said.contains("reward.centre_on: has no demonstration of at most data.max_length = 96 tokens"),
        "{said}"
    );
}

#[test]
fn a_changed_configuration_is_refused_with_its_keys() {
    let place = Place::with_base();
    for stage in Stage::ALL {
        let run = format!("{stage:?}");
        let mut job = place.job(&run);
        job.observer = Arc::new(common::StopAfter {
            step: 2,
            shutdown: job.shutdown.clone(),
        });
        stage.start(&job, &stage.toml()).unwrap();
        let changed = with(&with(&stage.toml(), "learning_rate", "1e-4"), "batch", "4");
        let error = stage.start(&place.job(&run), &changed).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("train.learning_rate") && said.contains("train.batch"),
            "{said}"
        );
        assert_eq!(error.exit_status(), ExitStatus::Usage);
        // What changes no result may change
        let outcome = stage.start(&place.job(&run), &with_train(&stage.toml(), "keep_checkpoints = 3"));
        assert!(
            matches!(outcome, Ok(Outcome::Done { before: false, .. })),
            "{outcome:?}"
        );
    }
}

/// A first start that failed over a setting leaves nothing to protect: the corrected configuration goes on in its place.
#[test]
fn a_setting_can_be_corrected_after_a_failed_start() {
    let place = Place::with_base();
    for stage in Stage::ALL {
        let run = format!("{stage:?}");
        refusal(stage, &place, &run, &with(&stage.toml(), "max_length", "97"));
        let outcome = stage.start(&place.job(&run), &stage.toml());
        assert!(
            matches!(outcome, Ok(Outcome::Done { before: false, .. })),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_finished_run_says_so_and_is_left_alone() {
    let place = Place::with_base();
    for stage in Stage::ALL {
        let run = format!("{stage:?}");
        let first = stage.start(&place.job(&run), &stage.toml()).unwrap();
        let before = common::results(&place.path(&run));
        let second = stage.start(&place.job(&run), &stage.toml()).unwrap();
        let (
            Outcome::Done {
                model,
                summary,
                before: false,
            },
            Outcome::Done {
                model: again,
                summary: same,
                before: true,
            },
        ) = (&first, &second)
        else {
            panic!("{first:?} {second:?}")
        };
        assert_eq!((model, summary), (again, same));
        assert_eq!(before, common::results(&place.path(&run)));
    }
}
