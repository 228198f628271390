//! The stage on tiny models: what must be exact is, the score rises, and a fault stops the run.

use std::sync::Arc;

use hone_compute::{Engine, Isa, Precision};
use hone_math::Key;
use hone_model::Transformer;
use hone_run::{Resolved, Shutdown};

use super::config::{PpoConfig, PpoSection, PtxSection};
use super::rewards::RolloutRewards;
use super::run;
use super::run::load_ptx;
use super::step::{Learners, Update, update};
use crate::Outcome;
use crate::artefact::{Artefact, Companion, token_fields};
use crate::error::{Result, TrainError};
use crate::learner::Learner;
use crate::rollout::trials::{
    assert_going_on_changes_no_byte, assert_refused, assert_threads_change_no_byte, engine, engine_of, job, metrics,
    model, number, reward_model, save, scale, start, tokenizer, world,
};
use crate::rollout::{Episode, Judge, Maximised, MissingEos, Models, PreparedPrompt, PromptData, Reader, collect};
use crate::schedule::{Rates, adamw};
use crate::scorer::Scorer;
use crate::sections::{ModelSection, ShownSection, TrainSection};

pub(super) fn config(updates: u64) -> PpoConfig {
    PpoConfig {
        model: ModelSection::at("policy"),
        maximised: Maximised::model("reward"),
        data: PromptData {
            prompts: vec![hone_data::Source::new("prompts.jsonl")],
            held_out: 0.0,
            max_prompt_length: Some(32),
        },
        ppo: PpoSection {
            updates,
            rollout_batch: 32,
            minibatch: 16,
            ppo_epochs: 2,
            max_new_tokens: 8,
            kl_coef: 0.01,
            missing_eos: MissingEos::Keep,
            ..PpoSection::default()
        },
        train: TrainSection {
            learning_rate: 3e-3,
            checkpoint_every: 3,
            ..PpoConfig::default().train
        },
        eval: ShownSection { every: 2, samples: 4 },
        ..PpoConfig::default()
    }
}

#[test]
fn the_first_update_starts_at_the_reference_and_the_score_rises() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let resolved = Resolved::from_config(config(24)).unwrap();
    let outcome = run(&job(dir.path(), "run", Shutdown::default()), &resolved).unwrap();
    assert!(matches!(outcome, Outcome::Done { before: false, .. }));
    let lines = metrics(&dir.path().join("run"));
    let number = |line: usize, key: &str| lines[line][key].as_f64().unwrap();
    assert_eq!(number(0, "objective/kl"), 0.0);
    assert_eq!(number(0, "policy/first_ratio"), 1.0);
    assert_eq!(number(0, "policy/first_ratio_var"), 0.0);
    assert_eq!(number(0, "policy/first_clipfrac"), 0.0);
    assert!(number(23, "objective/kl") > 0.01);
    let early: f64 = (0..3).map(|i| number(i, "objective/scores")).sum();
    let late: f64 = (21..24).map(|i| number(i, "objective/scores")).sum();
    assert!(late > early + 0.3, "scores went from {early} to {late} (sums of three)");
    assert!(dir.path().join("run/model/config.json").is_file());
    // The pass over other minibatches than the first is told apart from the steps
    let timings = std::fs::read_to_string(dir.path().join("run/timings.jsonl")).unwrap();
    for line in timings.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let (values, optimisation) = (&line["time/values"], &line["time/optimisation"]);
        assert!(
            values.as_f64() > Some(0.0) && optimisation.as_f64() > Some(0.0),
            "{line}"
        );
    }
}

#[test]
fn stopping_and_going_on_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let mut c = config(6);
    c.ppo = PpoSection {
        samples_per_prompt: 4,
        kl_target: Some(0.5),
        ema_decay: Some(0.9),
        ..c.ppo
    };
    // A run that is stopped before its first update
    let asked = Shutdown::default();
    asked.request();
    let stopped = run(
        &job(dir.path(), "early", asked),
        &Resolved::from_config(c.clone()).unwrap(),
    );
    assert!(matches!(stopped, Err(TrainError::Stopped)), "{stopped:?}");
    let early = dir.path().join("early");
    assert!(!early.exists(), "a run that was not prepared leaves nothing behind");
    assert_going_on_changes_no_byte(dir.path(), "ppo", &c, (3, 6));
}

/// Collects a rollout, lets `fault` change something, and gives what the update says.
fn update_after(
    (isa, precision): (Isa, Precision),
    fault: impl Fn(&Engine, &mut Transformer, &mut Vec<Episode>),
) -> Result<()> {
    let (engine, tokenizer) = (engine_of(isa, precision), tokenizer());
    let mut policy = model(&engine, &tokenizer, 1);
    // One column carries most of every logit, so that its last place is seen in them.
    let norm = policy.parameters().find("norm.weight").unwrap();
    let mut numbers = engine.read(policy.parameters().get(norm).value());
    numbers[3] = 50.0;
    policy.parameters_mut().set(&engine, norm, &numbers);
    let reward = reward_model(&engine, &tokenizer);
    let c = config(1);
    let scorer = Scorer::new(reward.duplicate(), tokenizer.clone()).unwrap();
    let judge = Judge::Model(Box::new(Reader::new(scorer, &tokenizer).unwrap()));
    let prompts: Vec<_> = (0..32_u32)
        .map(|i| PreparedPrompt {
            prompt: hone_data::Prompt {
                input: hone_data::PromptInput::Text("the cat".into()),
                extra: serde_json::Map::new(),
            },
            ids: Arc::from([5 + i % 7, 9, 30 + i]),
        })
        .collect();
    let stop: Arc<[u32]> = tokenizer.eos_ids().into();
    let going = Shutdown::default();
    let models = Models {
        policy: &policy,
        reference: Some(&policy),
        judge: &judge,
        tokenizer: &tokenizer,
        chat: None,
        stop: &stop,
        shutdown: &going,
    };
    let chosen: Vec<_> = prompts.iter().collect();
    // Asked to stop, a rollout is given up
    let asked = Shutdown::default();
    asked.request();
    let stopped = Models {
        shutdown: &asked,
        ..models
    };
    let key = Key::new(1, "rollout", 0);
    let nothing = collect(&engine, &stopped, &chosen, &c.ppo.rollout(), (0, key)).unwrap();
    assert!(nothing.is_none());
    let mut episodes = collect(&engine, &models, &chosen, &c.ppo.rollout(), (0, key))
        .unwrap()
        .unwrap()
        .episodes;
    let mut learner = policy.duplicate();
    fault(&engine, &mut learner, &mut episodes);
    let rewards = RolloutRewards::of(&episodes, 0.01, &c.ppo).unwrap();
    let rates = || Rates::new(&c.train, 1e-3, 1).unwrap().at(0);
    let step = Update {
        number: 0,
        episodes: &episodes,
        rewards: &rewards,
        ppo: &c.ppo,
        train: &c.train,
        rates: (rates(), rates()),
        ptx: None,
    };
    let adam = adamw(&c.train).unwrap();
    let mut learners = Learners {
        policy: Learner::new(&engine, learner, adam),
        value: Learner::new(&engine, reward, adam),
        ema: None,
    };
    update(&engine, &mut learners, &step).map(|_| ())
}

#[test]
fn an_untouched_rollout_passes_the_check() {
    for isa in Isa::all_here() {
        for precision in [Precision::Bf16, Precision::F32] {
            update_after((isa, precision), |_, _, _| {}).unwrap();
        }
    }
}

#[test]
fn one_bit_of_one_stored_number_stops_the_run() {
    for episode in [0, 17, 31] {
        let error = update_after((Isa::detect(), Precision::Bf16), |_, _, episodes| {
            let number = &mut episodes[episode].logprobs[0];
            *number = f32::from_bits(number.to_bits() + 1);
        });
        let error = error.unwrap_err();
        assert!(
            matches!(error, TrainError::Mismatch { token: 0, count: 1, .. }),
            "{error}"
        );
        assert_eq!(error.exit_status().code(), 4);
    }
}

#[test]
fn one_unit_in_the_last_place_of_one_weight_stops_the_run() {
    for isa in Isa::all_here() {
        // In bf16 one unit of an f32 weight may vanish in rounding; in f32 none does.
        let result = update_after((isa, Precision::F32), |engine, policy, _| {
            let id = policy.parameters().find("norm.weight").unwrap();
            let mut numbers = engine.read(policy.parameters().get(id).value());
            numbers[3] = f32::from_bits(numbers[3].to_bits() + 1);
            policy.parameters_mut().set(engine, id, &numbers);
        });
        assert!(matches!(result, Err(TrainError::Mismatch { .. })), "{isa}");
    }
}

#[test]
fn with_an_adapter_both_networks_train_no_more_than_that_and_the_head() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let mut c = config(4);
    c.lora = Some(hone_model::LoraConfig {
        rank: 2,
        ..hone_model::LoraConfig::default()
    });
    c.train.checkpoint_every = 2;
    run(
        &job(dir.path(), "run", Shutdown::default()),
        &Resolved::from_config(c).unwrap(),
    )
    .unwrap();
    let read = |step: u64, network: &str| {
        let file = format!("run/checkpoints/step-{step:06}/{network}.weights.safetensors");
        hone_model::TensorFile::open(&dir.path().join(file)).unwrap()
    };
    let layers: Vec<String> = (0..2)
        .flat_map(|i| ["q", "v"].map(|which| format!("layers.{i}.self_attn.{which}_proj")))
        .flat_map(|place| ["lora_A", "lora_B"].map(|part| format!("{place}.{part}.weight")))
        .collect();
    for network in ["policy", "value"] {
        let mut expected = layers.clone();
        expected.extend((network == "value").then(|| "score.weight".to_string()));
        let (mut before, mut after) = (read(2, network), read(4, network));
        let mut names: Vec<String> = after.names().map(str::to_string).collect();
        names.sort();
        expected.sort();
        assert_eq!(names, expected, "{network}");
        for name in names {
            assert_ne!(
                before.read(&name).unwrap(),
                after.read(&name).unwrap(),
                "{network}: {name}"
            );
        }
    }
    assert_eq!(metrics(&dir.path().join("run"))[0]["policy/first_ratio_var"], 0.0);
}

#[test]
fn each_prompt_is_answered_as_often_as_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let mut c = config(2);
    (c.ppo.samples_per_prompt, c.eval.samples) = (8, 32);
    run(
        &job(dir.path(), "run", Shutdown::default()),
        &Resolved::from_config(c).unwrap(),
    )
    .unwrap();
    let text = std::fs::read_to_string(dir.path().join("run/samples.jsonl")).unwrap();
    let samples: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(samples.len(), 32);
    for group in samples.chunks(8) {
        assert!(group.iter().all(|sample| sample["prompt"] == group[0]["prompt"]));
        assert!(group.iter().any(|sample| sample["response"] != group[0]["response"]));
    }
    assert_ne!(samples[0]["prompt"], samples[8]["prompt"]);
    assert_eq!(metrics(&dir.path().join("run"))[0]["policy/first_ratio_var"], 0.0);
}

#[test]
fn threads_change_no_byte_and_micro_batches_only_rounding() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let mut c = config(2);
    c.ppo.samples_per_prompt = 4;
    let keys = ["objective/scores", "loss/policy_avg", "loss/value_avg", "grad_norm"];
    let cut = |c: &mut PpoConfig| c.train.microbatch_tokens = 1;
    assert_threads_change_no_byte(dir.path(), (&c, cut), 3, (&keys, 1e-5));
}

#[test]
fn a_policy_without_numbers_ends_the_run_as_diverged() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let (engine, tokenizer) = (engine(Isa::detect()), tokenizer());
    let mut policy = model(&engine, &tokenizer, 1);
    // Finite, as files must be, and too large for logits that are
    scale(&engine, &mut policy, "norm.weight", 3e38);
    save(&engine, &dir.path().join("policy"), &tokenizer, &policy);
    let resolved = Resolved::from_config(config(2)).unwrap();
    let error = run(&job(dir.path(), "run", Shutdown::default()), &resolved).unwrap_err();
    assert_eq!(error.exit_status().code(), 4, "{error}");
    let objective = hone_objective::kl::AdaptiveKl {
        kl_coef: 1.0,
        target: 1.0,
        horizon: 100.0,
    };
    let mut controller = hone_objective::kl::KlController::Adaptive(objective);
    let error: TrainError = controller.update(f64::NAN, 1).unwrap_err().into();
    assert_eq!(error.exit_status().code(), 4, "{error}");
}

#[test]
fn the_pre_training_term_leaves_out_what_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let lines: String = (0..40).map(|i| format!("the cat sees bird {i}\n")).collect();
    std::fs::write(dir.path().join("text.txt"), lines).unwrap();
    let (engine, tokenizer) = (engine(Isa::detect()), tokenizer());
    let base = Artefact {
        model: model(&engine, &tokenizer, 1),
        companion: Companion {
            tokens: token_fields(&tokenizer),
            tokenizer,
            base: None,
        },
    };
    let documents = |held_out: f64| {
        let ptx = PtxSection {
            train: vec![hone_data::Source {
                split: hone_data::DocumentSplit::Lines,
                ..hone_data::Source::new("text.txt")
            }],
            held_out,
            max_length: 16,
            ..PtxSection::default()
        };
        let job = job(dir.path(), "run", Shutdown::default());
        let (corpus, _) = load_ptx(&job, &ptx, &base, 1).unwrap();
        corpus.sources[0].train.documents()
    };
    assert_eq!(documents(0.0), 40);
    assert_eq!(documents(0.5), 20);
}

#[test]
fn the_policys_schedule_and_penalty_start_when_it_learns() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let start = |name: &str, updates: u64, value_warmup_updates: u64| {
        let mut c = config(updates);
        c.ppo.value_warmup_updates = value_warmup_updates;
        c.ppo.kl_target = Some(5.0);
        c.ppo.kl_horizon = 40.0;
        c.train.warmup_steps = 2;
        c.train.schedule = crate::sections::ScheduleSetting::Linear;
        run(
            &job(dir.path(), name, Shutdown::default()),
            &Resolved::from_config(c).unwrap(),
        )
        .unwrap();
        let column = |key: &str| -> Vec<f64> {
            let lines = metrics(&dir.path().join(name));
            lines.iter().map(|line| line[key].as_f64().unwrap()).collect()
        };
        (
            column("learning_rate"),
            column("objective/kl_coef"),
            column("objective/kl"),
        )
    };
    let (rates, ..) = start("at-once", 4, 0);
    let (later, penalties, kl) = start("later", 6, 2);
    assert_eq!(later[..2], [0.0, 0.0]);
    assert_eq!(later[2..], rates);
    // The policy is the reference until then, and a KL of 0 would have lowered the penalty
    assert_eq!(kl[..3], [0.0; 3]);
    assert_eq!(penalties[..3], [0.01; 3]);
    assert!(penalties[3] < 0.01, "{penalties:?}");
}

/// Prompts that begin alike are computed as one beginning: every number of the rollout is the same to the bit, and the step
/// differs from the one without it by rounding.
#[test]
fn shared_beginnings_change_only_rounding() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let rows: String = (0..40)
        .map(|i| format!("{{\"prompt\":\"the cat sees the dog {i}\"}}\n"))
        .collect();
    std::fs::write(dir.path().join("prompts.jsonl"), rows).unwrap();
    let of = |share_beginnings: bool| {
        let mut c = config(2);
        c.ppo.share_beginnings = share_beginnings;
        c.data.max_prompt_length = Some(48);
        // The policy's second update is then still the first one's, to rounding
        c.train.learning_rate = 1e-9;
        c
    };
    let lines = |name: &str, c: PpoConfig| {
        start(dir.path(), name, c).unwrap();
        metrics(&dir.path().join(name))
    };
    let (apart, together) = (lines("apart", of(false)), lines("together", of(true)));
    for key in [
        "objective/scores",
        "objective/entropy",
        "rollout/tokens",
        "train/target_tokens",
    ] {
        assert_eq!(number(&apart[0], key), number(&together[0], key), "{key}");
    }
    let mut differs = false;
    for (a, b) in apart.iter().zip(&together) {
        assert_eq!(number(b, "policy/first_ratio_var"), 0.0);
        for key in ["grad_norm", "value/grad_norm", "loss/policy_avg", "loss/value_avg"] {
            let (a, b) = (number(a, key), number(b, key));
            assert!((a - b).abs() <= 1e-3 * (1e-3 + a.abs()), "{key}: {a} and {b}");
            differs |= a != b;
        }
    }
    assert!(differs, "nothing was shared");
    let keys = ["objective/scores", "loss/policy_avg", "loss/value_avg", "grad_norm"];
    let cut = |c: &mut PpoConfig| c.train.microbatch_tokens = 1;
    assert_threads_change_no_byte(dir.path(), (&of(true), cut), 3, (&keys, 1e-3));
    let several = |c: &mut PpoConfig| c.ppo.samples_per_prompt = 4;
    assert_refused(&of(true), &[("ppo.share_beginnings: is true, and with", several)]);
}
