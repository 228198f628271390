//! The stage on tiny models: every method learns, resumes to the byte, and says what it will need.

use std::path::Path;

use hone_run::{Resolved, Shutdown};
use serde_json::Value;

use super::*;
use crate::ppo::tests::{copy, job, metrics, world};
use crate::rollout::{MissingEos, PromptData, RewardSection};
use crate::sections::{ModelSection, ShownSection, TrainSection};
use crate::{Outcome, TrainError};

const METHODS: [GroupMethod; 6] = [
    GroupMethod::Grpo,
    GroupMethod::DrGrpo,
    GroupMethod::Dapo,
    GroupMethod::Rloo,
    GroupMethod::ReinforcePlusPlus,
    GroupMethod::ReinforcePlusPlusBaseline,
];

fn config(method: GroupMethod, updates: u64) -> GrpoConfig {
    GrpoConfig {
        model: ModelSection::at("policy"),
        reward: RewardSection { path: "reward".into() },
        data: PromptData {
            prompts: vec![hone_data::Source::new("prompts.jsonl")],
            held_out: 0.0,
            max_prompt_length: 32,
        },
        grpo: GrpoSection {
            method,
            updates,
            rollout_batch: 32,
            samples_per_prompt: 4,
            minibatch: 16,
            max_new_tokens: 8,
            missing_eos: MissingEos::Keep,
            ..GrpoSection::default()
        },
        train: TrainSection {
            learning_rate: 3e-3,
            checkpoint_every: 3,
            ..GrpoConfig::default().train
        },
        eval: ShownSection { every: 2, samples: 4 },
        ..GrpoConfig::default()
    }
}

fn start(dir: &Path, name: &str, c: GrpoConfig) -> crate::Result<Outcome> {
    run(&job(dir, name, Shutdown::default()), &Resolved::from_config(c)?)
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"))
}

#[test]
fn the_score_rises_by_every_method() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    for method in METHODS {
        let name = format!("{method:?}");
        start(dir.path(), &name, config(method, 24)).unwrap();
        let lines = metrics(&dir.path().join(&name));
        assert_eq!(number(&lines[0], "policy/first_ratio"), 1.0, "{name}");
        assert_eq!(number(&lines[0], "policy/first_ratio_var"), 0.0, "{name}");
        assert_eq!(number(&lines[0], "policy/first_clipfrac"), 0.0, "{name}");
        // Without a weight of the divergence there is no reference
        let has_kl = !matches!(method, GroupMethod::DrGrpo | GroupMethod::Dapo);
        assert_eq!(lines[0].get("objective/kl").is_some(), has_kl, "{name}");
        if has_kl {
            assert_eq!(number(&lines[0], "objective/kl"), 0.0, "{name}");
            assert!(number(&lines[23], "objective/kl") > 0.01, "{name}");
        }
        let sum =
            |range: std::ops::Range<usize>| -> f64 { lines[range].iter().map(|l| number(l, "objective/scores")).sum() };
        let (early, late) = (sum(0..3), sum(21..24));
        assert!(
            late > early + 0.3,
            "{name}: scores went from {early} to {late} (sums of three)"
        );
    }
}

#[test]
fn stopping_and_going_on_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    for method in [GroupMethod::Grpo, GroupMethod::Dapo] {
        let mut c = config(method, 6);
        (c.grpo.epochs, c.grpo.ema_decay) = (2, Some(0.9));
        let (whole, cut) = (format!("whole-{method:?}"), format!("cut-{method:?}"));
        start(dir.path(), &whole, c.clone()).unwrap();
        let (from, to) = (dir.path().join(&whole), dir.path().join(&cut));
        copy(
            &from.join("checkpoints/step-000003"),
            &to.join("checkpoints/step-000003"),
        );
        for file in ["run.toml", "metrics.jsonl", "samples.jsonl"] {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
        start(dir.path(), &cut, c).unwrap();
        for file in [
            "metrics.jsonl",
            "samples.jsonl",
            "model/model.safetensors",
            "checkpoints/step-000006/policy.moments.safetensors",
        ] {
            let read = |run: &Path| std::fs::read(run.join(file)).unwrap();
            assert_eq!(read(&from), read(&to), "{file} of {method:?}");
        }
    }
}

#[test]
fn threads_change_no_byte_and_micro_batches_only_rounding() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let start = |name: &str, threads: usize, microbatch_tokens: usize| {
        let mut c = config(GroupMethod::Grpo, 2);
        c.train.microbatch_tokens = microbatch_tokens;
        let job = crate::Job {
            threads: Some(threads),
            ..job(dir.path(), name, Shutdown::default())
        };
        run(&job, &Resolved::from_config(c).unwrap()).unwrap();
        let model = std::fs::read(dir.path().join(name).join("model/model.safetensors")).unwrap();
        (model, metrics(&dir.path().join(name)))
    };
    let (one, lines) = start("one", 1, 1024);
    assert!(one == start("three", 3, 1024).0, "threads change the result");
    // A group of answers fits no micro-batch of one token, and stays whole
    let (_, cut) = start("cut", 2, 1);
    for key in ["objective/scores", "loss/policy_avg", "grad_norm"] {
        let (a, b) = (number(&lines[0], key), number(&cut[0], key));
        assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{key}: {a} and {b}");
    }
}

#[test]
fn groups_that_teach_nothing_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    // With one token of response, groups of two are often equal
    let few = |dynamic: bool| {
        let mut c = config(GroupMethod::Grpo, 3);
        (c.grpo.samples_per_prompt, c.grpo.max_new_tokens) = (2, 1);
        // Of a random model's logits, which differ little
        c.grpo.temperature = 0.05;
        c.grpo.dynamic_sampling = Some(dynamic);
        let name = format!("dynamic-{dynamic}");
        start(dir.path(), &name, c).unwrap();
        metrics(&dir.path().join(&name))
    };
    let (usual, dynamic) = (few(false), few(true));
    assert!(usual.iter().any(|line| number(line, "objective/equal_groups") > 0.0));
    for line in &dynamic {
        assert_eq!(number(line, "objective/equal_groups"), 0.0);
        assert!(number(line, "objective/left_out") > 0.0);
    }
}

#[test]
fn settings_that_make_no_sense_are_named() {
    type Change = fn(&mut GrpoConfig);
    let refusals: [(&str, Change); 9] = [
        ("grpo.samples_per_prompt: is 1", |c| c.grpo.samples_per_prompt = 1),
        ("grpo.samples_per_prompt: is 3", |c| c.grpo.samples_per_prompt = 3),
        ("grpo.minibatch: is 5", |c| c.grpo.minibatch = 5),
        ("grpo.kl_coef: is -1", |c| c.grpo.kl_coef = Some(-1.0)),
        ("grpo.clip_range: is 0", |c| c.grpo.clip_range = Some(0.0)),
        ("grpo.overlong_cache: is 9", |c| c.grpo.overlong_cache = Some(9)),
        ("grpo.sampling_attempts: is 7", |c| c.grpo.sampling_attempts = 7),
        ("grpo.dynamic_sampling: is true, and scores are whitened", |c| {
            c.grpo.method = GroupMethod::ReinforcePlusPlus;
            c.grpo.dynamic_sampling = Some(true);
        }),
        ("grpo.dynamic_sampling: is true, and the divergence", |c| {
            c.grpo.method = GroupMethod::Rloo;
            c.grpo.dynamic_sampling = Some(true);
        }),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (expected, change) in refusals {
        let mut c = config(GroupMethod::Grpo, 1);
        change(&mut c);
        let error: TrainError = start(dir.path(), "run", c).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.exit_status().code(), 2);
    }
}

#[test]
fn what_follows_from_a_method_is_written_down() {
    use hone_run::Configuration;
    let resolved = |method: GroupMethod, clip_range: Option<f64>| {
        let mut c = config(method, 1);
        c.grpo.clip_range = clip_range;
        c.resolve();
        c.grpo
    };
    let dapo = resolved(GroupMethod::Dapo, None);
    assert_eq!(
        (
            dapo.clip_range,
            dapo.clip_range_high,
            dapo.kl_coef,
            dapo.dynamic_sampling,
            dapo.overlong_cache
        ),
        (Some(0.2), Some(0.28), Some(0.0), Some(true), Some(1))
    );
    // A range that is given holds on both sides, though it be the usual one
    assert_eq!(resolved(GroupMethod::Dapo, Some(0.2)).clip_range_high, Some(0.2));
    let narrow = resolved(GroupMethod::Grpo, Some(0.1));
    assert_eq!(
        (
            narrow.clip_range,
            narrow.clip_range_high,
            narrow.kl_coef,
            narrow.overlong_cache
        ),
        (Some(0.1), Some(0.1), Some(0.04), None)
    );
}
