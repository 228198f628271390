//! The stage on tiny models: what must be exact is, the score rises, and a fault stops the run.

use std::path::Path;
use std::sync::Arc;

use hone_compute::{Engine, EngineOptions, Isa, Precision};
use hone_math::Key;
use hone_model::{NewModel, Transformer};
use hone_run::{Resolved, Shutdown, Silent};
use hone_text::{Tokenizer, TrainOptions, train_bpe};

use super::run::{constants, load_ptx};
use super::step::{Learners, Update, update};
use super::*;
use crate::artefact::{Companion, publish_at, token_fields};
use crate::learner::Learner;
use crate::rollout::{Episode, Judge, MissingEos, Models, PreparedPrompt, PromptData, Reader, RewardSection, collect};
use crate::schedule::{Rates, adamw};
use crate::scorer::Scorer;
use crate::sections::{ModelSection, ShownSection, TrainSection};
use crate::{Job, Outcome, TrainError};

const WORDS: &str = "one two three four five six seven eight nine ten red green blue cat dog bird sees likes the a";

pub(crate) fn tokenizer() -> Tokenizer {
    let options = TrainOptions {
        vocab_size: 300,
        ..TrainOptions::default()
    };
    let mut tokenizer = train_bpe(std::iter::once(WORDS.repeat(20)), &options).unwrap();
    tokenizer.add_chat_tokens().unwrap();
    tokenizer
}

pub(crate) fn engine(isa: Isa) -> Engine {
    engine_of(isa, Precision::Bf16)
}

fn engine_of(isa: Isa, precision: Precision) -> Engine {
    Engine::new(&EngineOptions {
        isa: Some(isa),
        precision,
        threads: Some(2),
    })
    .unwrap()
}

pub(crate) fn model(engine: &Engine, tokenizer: &Tokenizer, seed: u64) -> Transformer {
    model_of(engine, tokenizer, (64, seed))
}

pub(crate) fn model_of(engine: &Engine, tokenizer: &Tokenizer, (context, seed): (usize, u64)) -> Transformer {
    let new = NewModel {
        family: "llama".into(),
        width: 32,
        layers: 2,
        heads: 4,
        kv_heads: Some(2),
        head_dim: None,
        intermediate: Some(64),
        context,
        tied: true,
        rope_theta: 10_000.0,
    };
    Transformer::random(engine, new.architecture(tokenizer.vocab_size()).unwrap(), seed)
}

fn scale(engine: &Engine, model: &mut Transformer, part: &str, factor: f32) {
    let ids: Vec<_> = model
        .parameters()
        .iter()
        .filter(|(_, p)| p.name().contains(part))
        .map(|(id, _)| id)
        .collect();
    for id in ids {
        let numbers = engine
            .read(model.parameters().get(id).value())
            .iter()
            .map(|x| x * factor)
            .collect::<Vec<_>>();
        model.parameters_mut().set(engine, id, &numbers);
    }
}

/// A random reward model whose score depends on the tokens of the response, through a strong attention.
pub(crate) fn reward_model(engine: &Engine, tokenizer: &Tokenizer) -> Transformer {
    let mut reward = model(engine, tokenizer, 2);
    scale(engine, &mut reward, "v_proj", 20.0);
    scale(engine, &mut reward, "o_proj", 20.0);
    reward.add_reward_head(engine, 2);
    reward
}

/// A policy, a reward model and prompts on disk.
pub(crate) fn world(dir: &Path) {
    let (engine, tokenizer) = (engine(Isa::detect()), tokenizer());
    save(&engine, &dir.join("policy"), &tokenizer, &model(&engine, &tokenizer, 1));
    save(
        &engine,
        &dir.join("reward"),
        &tokenizer,
        &reward_model(&engine, &tokenizer),
    );
    let words: Vec<&str> = WORDS.split(' ').collect();
    let rows: Vec<String> = (0..40)
        .map(|i| format!("{{\"prompt\":\"{} {}\"}}\n", words[i % 20], words[(i * 7 + 3) % 20]))
        .collect();
    std::fs::write(dir.join("prompts.jsonl"), rows.concat()).unwrap();
}

pub(crate) fn save(engine: &Engine, path: &Path, tokenizer: &Tokenizer, model: &Transformer) {
    let companion = Companion {
        tokenizer: tokenizer.clone(),
        tokens: token_fields(tokenizer),
        base: None,
    };
    publish_at(engine, path, &companion, model).unwrap();
}

pub(crate) fn config(updates: u64) -> PpoConfig {
    PpoConfig {
        model: ModelSection::at("policy"),
        reward: RewardSection { path: "reward".into() },
        data: PromptData {
            prompts: vec![hone_data::Source::new("prompts.jsonl")],
            held_out: 0.0,
            max_prompt_length: 32,
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

pub(crate) fn job(base: &Path, run: &str, shutdown: Shutdown) -> Job {
    Job {
        dir: base.join(run),
        base: base.into(),
        observer: Arc::new(Silent),
        shutdown,
        allow_isa_change: false,
        threads: Some(2),
    }
}

pub(crate) fn metrics(dir: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
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
}

#[test]
fn stopping_and_going_on_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let resolved = Resolved::from_config(PpoConfig {
        ppo: PpoSection {
            samples_per_prompt: 4,
            kl_target: Some(0.5),
            ema_decay: Some(0.9),
            ..config(6).ppo
        },
        ..config(6)
    })
    .unwrap();
    run(&job(dir.path(), "whole", Shutdown::default()), &resolved).unwrap();
    // The second run is stopped before its first update, and goes on from a checkpoint of the first
    let cut = dir.path().join("cut");
    let asked = Shutdown::default();
    asked.request();
    let stopped = run(&job(dir.path(), "cut", asked), &resolved);
    assert!(matches!(stopped, Err(TrainError::Stopped)), "{stopped:?}");
    assert!(!cut.exists(), "a run that was not prepared leaves nothing behind");
    copy(
        &dir.path().join("whole/checkpoints/step-000003"),
        &cut.join("checkpoints/step-000003"),
    );
    for file in ["run.toml", "metrics.jsonl", "samples.jsonl"] {
        std::fs::copy(dir.path().join("whole").join(file), cut.join(file)).unwrap();
    }
    run(&job(dir.path(), "cut", Shutdown::default()), &resolved).unwrap();
    for file in [
        "metrics.jsonl",
        "samples.jsonl",
        "model/model.safetensors",
        "checkpoints/step-000006/value.moments.safetensors",
    ] {
        let read = |run: &str| std::fs::read(dir.path().join(run).join(file)).unwrap();
        assert_eq!(read("whole"), read("cut"), "{file}");
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Collects a rollout, lets `fault` change something, and gives what the update says.
fn update_after(
    (isa, precision): (Isa, Precision),
    fault: impl Fn(&Engine, &mut Transformer, &mut Vec<Episode>),
) -> crate::Result<()> {
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
        value: Some(&reward),
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
    let constants = constants(&episodes, 0.01, &c.ppo).unwrap();
    let rates = || Rates::new(&c.train, 1e-3, 1).unwrap().at(0);
    let step = Update {
        number: 0,
        episodes: &episodes,
        constants: &constants,
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
    let start = |name: &str, threads: usize, microbatch_tokens: usize| {
        let mut c = config(2);
        c.ppo.samples_per_prompt = 4;
        c.train.microbatch_tokens = microbatch_tokens;
        let job = Job {
            threads: Some(threads),
            ..job(dir.path(), name, Shutdown::default())
        };
        run(&job, &Resolved::from_config(c).unwrap()).unwrap();
        let model = std::fs::read(dir.path().join(name).join("model/model.safetensors")).unwrap();
        (model, metrics(&dir.path().join(name)))
    };
    let (one, lines) = start("one", 1, 1024);
    assert!(one == start("three", 3, 1024).0, "threads change the result");
    // The answers to a prompt fit no micro-batch of one token, and stay together
    let (_, cut) = start("cut", 2, 1);
    for key in ["objective/scores", "loss/policy_avg", "loss/value_avg", "grad_norm"] {
        let number = |line: &serde_json::Value| line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"));
        let (a, b) = (number(&lines[0]), number(&cut[0]));
        assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{key}: {a} and {b}");
    }
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
    let base = crate::artefact::Artefact {
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
