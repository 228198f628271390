//! The stage on tiny models: every method learns, resumes to the byte, and says what it will need.

use super::config::{GroupMethod, GrpoConfig, GrpoSection};
use crate::rollout::trials::{
    assert_going_on_changes_no_byte, assert_refused, assert_threads_change_no_byte, metrics, number, start, world,
};
use crate::rollout::{Maximised, MissingEos, PromptData};
use crate::sections::{ModelSection, ShownSection, TrainSection};

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
        maximised: Maximised::model("reward"),
        data: PromptData {
            prompts: vec![hone_data::Source::new("prompts.jsonl")],
            held_out: 0.0,
            max_prompt_length: Some(32),
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
fn measuring_the_divergence_changes_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let measured = |name: &str, measure_kl: bool| {
        let mut c = config(GroupMethod::DrGrpo, 4);
        (c.grpo.measure_kl, c.eval.every) = (measure_kl, 1);
        start(dir.path(), name, c).unwrap();
        let run = dir.path().join(name);
        let samples = std::fs::read_to_string(run.join("samples.jsonl")).unwrap();
        let told = samples.lines().filter(|line| line.contains("\"kl\":")).count();
        (
            std::fs::read(run.join("model/model.safetensors")).unwrap(),
            metrics(&run),
            told,
        )
    };
    let (without, plain, told) = measured("without", false);
    assert!(told == 0 && plain.iter().all(|line| line.get("objective/kl").is_none()));
    let (with, mut lines, told) = measured("with", true);
    assert_eq!(told, 16, "four answers at each of four updates");
    assert!(with == without, "measuring changed the result");
    assert_eq!(number(&lines[0], "objective/kl"), 0.0);
    assert!(number(&lines[3], "objective/kl") != 0.0);
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        line.remove("objective/kl");
        assert_eq!(line.remove("loss/kl_avg").and_then(|kl| kl.as_f64()), Some(0.0));
    }
    assert_eq!(lines, plain);
}

#[test]
fn stopping_and_going_on_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    for method in METHODS {
        let mut c = config(method, 6);
        (c.grpo.epochs, c.grpo.ema_decay) = (2, Some(0.9));
        assert_going_on_changes_no_byte(dir.path(), &format!("{method:?}"), &c, (3, 6));
    }
}

#[test]
fn threads_change_no_byte_and_micro_batches_only_rounding() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let keys = ["objective/scores", "loss/policy_avg", "grad_norm"];
    let cut = |c: &mut GrpoConfig| c.train.microbatch_tokens = 1;
    assert_threads_change_no_byte(dir.path(), (&config(GroupMethod::Grpo, 2), cut), 3, (&keys, 1e-5));
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
    assert!(usual.iter().any(|line| number(line, "frac_reward_zero_std") > 0.0));
    for line in &dynamic {
        assert_eq!(number(line, "frac_reward_zero_std"), 0.0);
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
    assert_refused(&config(GroupMethod::Grpo, 1), &refusals);
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

/// An update of two steps that change next to nothing tells the loss of one over both minibatches.
#[test]
fn a_loss_is_the_mean_of_the_steps() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let line = |name: &str, minibatch: usize, epochs: usize| {
        // Advantages weigh each token of their response, so that the loss is not 0 where the policy has not moved
        let mut c = config(GroupMethod::Rloo, 1);
        (c.grpo.minibatch, c.grpo.epochs, c.train.learning_rate) = (minibatch, epochs, 1e-30);
        start(dir.path(), name, c).unwrap();
        metrics(&dir.path().join(name)).remove(0)
    };
    let one = line("one", 32, 1);
    let loss = number(&one, "loss/policy_avg");
    assert!(loss.abs() > 0.01, "{one}");
    for (name, minibatch, epochs) in [("two", 16, 1), ("four", 16, 2)] {
        let line = line(name, minibatch, epochs);
        let own = number(&line, "loss/policy_avg");
        assert!((own - loss).abs() < 1e-4 * loss.abs(), "{name}: {own} and {loss}");
        // Of every pass
        let tokens = number(&one, "train/target_tokens") * epochs as f64;
        assert_eq!(number(&line, "train/target_tokens"), tokens, "{name}");
    }
    assert_eq!(number(&one, "train/target_tokens"), number(&one, "rollout/tokens"));
}
