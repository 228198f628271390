//! The stage on tiny models: every method learns, starts where it should, resumes to the byte, and a fault stops the run.

use std::path::Path;
use std::sync::Arc;

use hone_compute::{AdamW, Engine, EngineOptions, Isa, Precision};
use hone_generate::logprobs_from;
use hone_model::Transformer;
use hone_run::{Event, Observer, Resolved, Shutdown};
use serde_json::Value;

use super::pairs::Paired;
use super::step::{Report, Update, update};
use super::*;
use crate::learner::Learner;
use crate::ppo::tests::{copy, job, metrics, model, tokenizer, world};
use crate::preferred::{Method, MethodSetting};
use crate::rollout::{Episode, MissingEos, PromptData, RewardSection, made};
use crate::schedule::Rates;
use crate::sections::{ModelSection, ShownSection, TrainSection};
use crate::{Job, Outcome, TrainError};

const METHODS: [MethodSetting; 4] = [
    MethodSetting::Dpo,
    MethodSetting::Ipo,
    MethodSetting::Orpo,
    MethodSetting::Simpo,
];

fn config(method: MethodSetting, updates: u64) -> OnlinePreferenceConfig {
    let mut c = OnlinePreferenceConfig {
        model: ModelSection::at("policy"),
        reward: RewardSection { path: "reward".into() },
        data: PromptData {
            prompts: vec![hone_data::Source::new("prompts.jsonl")],
            held_out: 0.0,
            max_prompt_length: 32,
        },
        online_preference: OnlinePreferenceSection {
            updates,
            rollout_batch: 32,
            samples_per_prompt: 4,
            minibatch: 32,
            max_new_tokens: 8,
            missing_eos: MissingEos::Keep,
            ..OnlinePreferenceSection::default()
        },
        train: TrainSection {
            learning_rate: 3e-3,
            checkpoint_every: 3,
            ..OnlinePreferenceConfig::default().train
        },
        eval: ShownSection { every: 2, samples: 4 },
        ..OnlinePreferenceConfig::default()
    };
    c.preference.method = method;
    c
}

fn start(dir: &Path, name: &str, c: OnlinePreferenceConfig) -> crate::Result<Outcome> {
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
        for pairs in [PairRule::Extremes, PairRule::All] {
            let name = format!("{}-{pairs:?}", method.name());
            let mut c = config(method, 24);
            c.online_preference.pairs = pairs;
            start(dir.path(), &name, c).unwrap();
            let lines = metrics(&dir.path().join(&name));
            let first = &lines[0];
            assert_eq!(number(first, "policy/logprob_mismatch_max"), 0.0, "{name}");
            assert_eq!(first.get("objective/kl").is_some(), method.has_reference(), "{name}");
            if method.has_reference() {
                // The policy is the reference
                for key in ["objective/kl", "rewards/chosen", "rewards/rejected", "rewards/margins"] {
                    assert_eq!(number(first, key), 0.0, "{name}: {key}");
                }
                assert_eq!(number(first, "rewards/accuracies"), 0.5, "{name}");
                let expected = match method {
                    MethodSetting::Ipo => 25.0,
                    _ => std::f64::consts::LN_2,
                };
                assert!((number(first, "train/loss") - expected).abs() < 1e-6, "{name}: {first}");
                assert!(number(&lines[23], "objective/kl") > 0.01, "{name}");
            }
            // Eight prompts with four responses each
            let most = if pairs == PairRule::All { 48.0 } else { 8.0 };
            let least = if pairs == PairRule::All { 24.0 } else { 1.0 };
            assert!(
                (least..=most).contains(&number(first, "objective/pairs")),
                "{name}: {first}"
            );
            assert!(number(first, "objective/score_margins") > 0.0);
            let sum = |range: std::ops::Range<usize>| -> f64 {
                lines[range].iter().map(|line| number(line, "objective/scores")).sum()
            };
            let (early, late) = (sum(0..3), sum(21..24));
            assert!(
                late > early + 0.3,
                "{name}: scores went from {early} to {late} (sums of three)"
            );
        }
    }
}

#[test]
fn stopping_and_going_on_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    for method in [MethodSetting::Dpo, MethodSetting::Simpo] {
        let mut c = config(method, 6);
        (c.online_preference.epochs, c.online_preference.minibatch) = (2, 16);
        let (whole, cut) = (format!("whole-{}", method.name()), format!("cut-{}", method.name()));
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
            assert_eq!(read(&from), read(&to), "{file} of {}", method.name());
        }
    }
}

/// Asks for a stop after an update.
struct StopAfter(u64, Shutdown);

impl Observer for StopAfter {
    fn event(&self, event: &Event) {
        if matches!(event, Event::Step { step, .. } if *step == self.0) {
            self.1.request();
        }
    }
}

#[test]
fn a_run_that_is_asked_to_stop_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let c = config(MethodSetting::Dpo, 4);
    start(dir.path(), "whole", c.clone()).unwrap();
    let shutdown = Shutdown::default();
    let stopping = Job {
        observer: Arc::new(StopAfter(1, shutdown.clone())),
        ..job(dir.path(), "cut", shutdown)
    };
    let outcome = run(&stopping, &Resolved::from_config(c.clone()).unwrap()).unwrap();
    assert!(matches!(outcome, Outcome::Stopped { step: 1 }), "{outcome:?}");
    let outcome = start(dir.path(), "cut", c).unwrap();
    assert!(matches!(outcome, Outcome::Done { before: false, .. }), "{outcome:?}");
    for file in ["metrics.jsonl", "samples.jsonl", "model/model.safetensors"] {
        let read = |run: &str| std::fs::read(dir.path().join(run).join(file)).unwrap();
        assert!(read("whole") == read("cut"), "{file}");
    }
}

#[test]
fn threads_change_no_byte_and_micro_batches_only_rounding() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let start = |name: &str, threads: usize, microbatch_tokens: usize| {
        let mut c = config(MethodSetting::Dpo, 2);
        c.online_preference.pairs = PairRule::All;
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
    assert!(one == start("two", 2, 1024).0, "threads change the result");
    let (_, cut) = start("cut", 2, 1);
    for key in ["objective/scores", "train/loss", "grad_norm", "logps/chosen"] {
        let (a, b) = (number(&lines[0], key), number(&cut[0], key));
        assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{key}: {a} and {b}");
    }
    assert_eq!(number(&lines[0], "objective/pairs"), number(&cut[0], "objective/pairs"));
}

/// Keeps what a run says.
#[derive(Default)]
struct Listening(std::sync::Mutex<Vec<String>>);

impl Observer for Listening {
    fn event(&self, event: &Event) {
        if let Event::Message(text) = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}

#[test]
fn an_update_without_a_pair_is_told_once_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let heard = Arc::new(Listening::default());
    let mut c = config(MethodSetting::Dpo, 3);
    // No response of one token ends, and all get one score
    c.online_preference.max_new_tokens = 1;
    c.online_preference.missing_eos = MissingEos::Replace;
    (c.online_preference.rollout_batch, c.online_preference.minibatch) = (4, 4);
    let job = Job {
        observer: heard.clone(),
        ..job(dir.path(), "run", Shutdown::default())
    };
    run(&job, &Resolved::from_config(c).unwrap()).unwrap();
    let lines = metrics(&dir.path().join("run"));
    assert_eq!(lines.len(), 3);
    for line in &lines {
        assert_eq!(number(line, "objective/pairs"), 0.0, "{line}");
        assert_eq!(number(line, "objective/kl"), 0.0, "the policy has not moved");
        assert!(
            line.get("train/loss").is_none() && line.get("grad_norm").is_none(),
            "{line}"
        );
    }
    let said = heard.0.lock().unwrap();
    let told = said.iter().filter(|text| text.contains("nothing is learned from it"));
    assert_eq!(told.count(), 1, "{said:?}");
}

fn f32_engine() -> Engine {
    Engine::new(&EngineOptions {
        isa: Some(Isa::detect()),
        precision: Precision::F32,
        threads: Some(2),
    })
    .unwrap()
}

/// Two responses to each of four prompts, with the log-probabilities that a model gives them.
fn episodes(engine: &Engine, model: &Transformer) -> Vec<Episode> {
    let mut episodes: Vec<Episode> = (0..8_u32)
        .map(|i| {
            let prompt = [5 + i / 2, 9, 30 + i / 2];
            let response: Vec<u32> = (0..2 + i % 3).map(|t| 40 + 3 * i + t).collect();
            made(i as usize, (&prompt, &response), (0.0, 0.0), (i % 3) as f32)
        })
        .collect();
    let sequences: Vec<&[u32]> = episodes.iter().map(|e| &*e.ids).collect();
    let scores = logprobs_from(engine, model, (&sequences, &[3; 8]), 1.0);
    for (episode, scores) in episodes.iter_mut().zip(scores) {
        episode.ref_logprobs.clone_from(&scores.logprobs);
        episode.logprobs = scores.logprobs;
    }
    episodes
}

/// One update on such episodes, in two steps of two prompts each, after `fault` changed something.
fn update_after(fault: impl Fn(&mut Vec<Episode>)) -> crate::Result<Report> {
    let (engine, tokenizer) = (f32_engine(), tokenizer());
    let policy = model(&engine, &tokenizer, 1);
    let mut episodes = episodes(&engine, &policy);
    fault(&mut episodes);
    let mut learner = Learner::new(&engine, policy, AdamW::default());
    let mut c = config(MethodSetting::Dpo, 1);
    hone_run::Configuration::resolve(&mut c);
    (c.online_preference.samples_per_prompt, c.online_preference.minibatch) = (2, 4);
    let groups = episodes.chunks(2);
    let prompts: Vec<Option<Paired<'_>>> = groups
        .map(|group| Paired::of(group, PairRule::Extremes))
        .collect::<crate::Result<_>>()?;
    let prompts: Vec<Paired<'_>> = prompts.into_iter().flatten().collect();
    let step = Update {
        number: 6,
        prompts: &prompts,
        method: Method::new(&c.preference)?,
        c: &c,
        rate: Rates::new(&c.train, 1e-3, 1)?.at(0),
    };
    update(&engine, &mut learner, &step)
}

#[test]
fn an_untouched_rollout_passes_the_check() {
    let report = update_after(|_| {}).unwrap();
    assert_eq!(report.steps, 2);
    assert_eq!(report.stats.count, 4);
    // The first step's loss is ln 2, the second's is that of a policy that has moved on other prompts
    assert!(
        (report.stats.loss - std::f64::consts::LN_2).abs() < 0.1,
        "{}",
        report.stats.loss
    );
}

#[test]
fn one_bit_of_one_stored_number_stops_the_run() {
    for wrong in 0..8 {
        let result = update_after(|episodes| {
            let number = &mut episodes[wrong].logprobs[1];
            *number = f32::from_bits(number.to_bits() + 1);
        });
        let error = result.map(|_| ()).unwrap_err();
        let TrainError::Mismatch {
            update, episode, token, ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!((*update, *episode, *token), (7, wrong, 1));
        assert_eq!(error.exit_status().code(), 4);
    }
}

#[test]
fn settings_that_make_no_sense_are_named() {
    type Change = fn(&mut OnlinePreferenceConfig);
    let refusals: [(&str, Change); 10] = [
        ("preference.method: is kto", |c| {
            c.preference.method = MethodSetting::Kto
        }),
        ("preference.gamma: has no effect", |c| c.preference.gamma = Some(1.0)),
        ("preference.beta: is 0; expected a number above 0", |c| {
            c.preference.beta = Some(0.0)
        }),
        ("online_preference.updates: is 0", |c| c.online_preference.updates = 0),
        ("online_preference.samples_per_prompt: is 1", |c| {
            c.online_preference.samples_per_prompt = 1
        }),
        (
            "online_preference.samples_per_prompt: is 3, which does not divide",
            |c| c.online_preference.samples_per_prompt = 3,
        ),
        ("online_preference.minibatch: is 5, which does not divide", |c| {
            c.online_preference.minibatch = 5
        }),
        ("online_preference.epochs: is 0", |c| c.online_preference.epochs = 0),
        ("online_preference.temperature: is -1", |c| {
            c.online_preference.temperature = -1.0
        }),
        ("model.path: is missing", |c| c.model.path = None),
    ];
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    for (expected, change) in refusals {
        let mut c = config(MethodSetting::Dpo, 1);
        change(&mut c);
        let error: TrainError = start(dir.path(), "run", c).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.exit_status().code(), 2);
        assert!(!dir.path().join("run").exists(), "nothing is left behind");
    }
}

#[test]
fn a_plan_is_of_the_updates() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let plan_of = |change: fn(&mut OnlinePreferenceConfig)| {
        let mut c = config(MethodSetting::Dpo, 5);
        change(&mut c);
        let job = job(dir.path(), "run", Shutdown::default());
        plan(&job, &Resolved::from_config(c).unwrap(), false).unwrap()
    };
    let plan = plan_of(|_| {});
    assert_eq!((plan.stage, plan.steps), ("online-preference", 5));
    let names: Vec<&str> = plan.models.iter().map(|model| model.name).collect();
    assert_eq!(names, ["policy", "reference", "reward model"]);
    assert_eq!(plan.sources[0].epochs, 1.0, "5 updates of 8 prompts of 40");
    assert!(!dir.path().join("run").exists(), "a plan leaves nothing behind");
    // With all pairs, four responses to a prompt are trained on, and with the extremes two
    let activations = |change| {
        let plan = plan_of(change);
        let part = plan.memory.iter().find(|part| part.what.starts_with("activations"));
        part.unwrap().bytes
    };
    let few = activations(|c| c.train.microbatch_tokens = 1);
    let many = activations(|c| {
        c.train.microbatch_tokens = 1;
        c.online_preference.pairs = PairRule::All;
    });
    assert!(many > few, "{many} and {few}");
}
