//! The stage on tiny models: every method learns, starts where it should, resumes to the byte, and a fault stops the run.

use std::sync::Arc;

use hone_compute::{AdamW, Engine, Isa, Precision};
use hone_generate::logprobs_from;
use hone_model::Transformer;
use hone_run::{Resolved, Shutdown};

use super::config::{OnlinePreferenceConfig, OnlinePreferenceSection, PairRule};
use super::pairs::Paired;
use super::step::{Report, Update, update};
use super::{plan, run};
use crate::Job;
use crate::error::{Result, TrainError};
use crate::learner::Learner;
use crate::preferred::{Method, MethodSetting};
use crate::rollout::trials::{
    Listening, assert_going_on_changes_no_byte, assert_refused, assert_threads_change_no_byte, engine_of, job, metrics,
    model, number, start, tokenizer, world,
};
use crate::rollout::{Episode, Maximised, MissingEos, PromptData, made, passes};
use crate::schedule::Rates;
use crate::sections::{ModelSection, ShownSection, TrainSection};

const METHODS: [MethodSetting; 4] = [
    MethodSetting::Dpo,
    MethodSetting::Ipo,
    MethodSetting::Orpo,
    MethodSetting::Simpo,
];

fn config(method: MethodSetting, updates: u64) -> OnlinePreferenceConfig {
    let mut c = OnlinePreferenceConfig {
        model: ModelSection::at("policy"),
        maximised: Maximised::model("reward"),
        data: PromptData {
            prompts: vec![hone_data::Source::new("prompts.jsonl")],
            held_out: 0.0,
            max_prompt_length: Some(32),
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

#[test]
fn the_score_rises_by_every_method() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    for method in METHODS {
        for pairs in [PairRule::Extremes, PairRule::All] {
            let name = format!("{}-{pairs:?}", method.name());
            let mut c = config(method, 40);
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
                assert!(number(&lines[39], "objective/kl") > 0.01, "{name}");
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
            let (early, late) = (sum(0..3), sum(37..40));
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
    for method in METHODS {
        let mut c = config(method, 6);
        (c.online_preference.epochs, c.online_preference.minibatch) = (2, 16);
        assert_going_on_changes_no_byte(dir.path(), method.name(), &c, (3, 6));
    }
}

#[test]
fn threads_change_no_byte_and_micro_batches_only_rounding() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let mut c = config(MethodSetting::Dpo, 2);
    c.online_preference.pairs = PairRule::All;
    let keys = ["objective/scores", "train/loss", "grad_norm", "logps/chosen"];
    let cut = |c: &mut OnlinePreferenceConfig| c.train.microbatch_tokens = 1;
    let (lines, cut) = assert_threads_change_no_byte(dir.path(), (&c, cut), 2, (&keys, 1e-5));
    assert_eq!(number(&lines[0], "objective/pairs"), number(&cut[0], "objective/pairs"));
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
        assert_eq!(number(line, "train/target_tokens"), 0.0, "{line}");
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
    engine_of(Isa::detect(), Precision::F32)
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
fn update_after(fault: impl Fn(&mut Vec<Episode>)) -> Result<Report> {
    update_of(6, fault)
}

/// The same, as update `number`, from which the order follows.
fn update_of(number: u64, fault: impl Fn(&mut Vec<Episode>)) -> Result<Report> {
    update_in((number, 4), fault)
}

/// The same, in steps of `minibatch` responses.
fn update_in((number, minibatch): (u64, usize), fault: impl Fn(&mut Vec<Episode>)) -> Result<Report> {
    let (engine, tokenizer) = (f32_engine(), tokenizer());
    let policy = model(&engine, &tokenizer, 1);
    let mut episodes = episodes(&engine, &policy);
    fault(&mut episodes);
    let mut learner = Learner::new(&engine, policy, AdamW::default());
    let mut c = config(MethodSetting::Dpo, 1);
    hone_run::Configuration::resolve(&mut c);
    (c.online_preference.samples_per_prompt, c.online_preference.minibatch) = (2, minibatch);
    let groups = episodes.chunks(2);
    let prompts: Vec<Option<Paired<'_>>> = groups
        .map(|group| Paired::of(group, PairRule::Extremes))
        .collect::<Result<_>>()?;
    let step = Update {
        number,
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

/// A prompt without a pair keeps its place in a minibatch: a step is over a share of the rollout's prompts, as if all had one.
#[test]
fn prompts_without_a_pair_stay_in_their_minibatch() {
    let mut steps_of = [0; 3];
    for number in 0..8 {
        let report = update_of(number, |episodes| {
            // Of four prompts the second and the fourth have no pair
            episodes[2].score = episodes[3].score;
            episodes[6].score = episodes[7].score;
        });
        let report = report.unwrap();
        let minibatches = passes((4, 2), (number, 1), config(MethodSetting::Dpo, 1).train.seed);
        let paired = |places: &&Vec<usize>| places.contains(&0) || places.contains(&2);
        let expected = minibatches.iter().filter(paired).count();
        assert_eq!(report.steps, expected as u64, "update {number}");
        assert_eq!(report.stats.count, 2, "each pair once");
        // The responses to the first and to the third prompt
        assert_eq!(
            report.target_tokens,
            [0, 1, 4, 5].map(|i| 2 + i % 3).iter().sum::<u64>()
        );
        steps_of[expected] += 1;
    }
    assert!(steps_of[1] > 0 && steps_of[2] > 0, "{steps_of:?}");
}

/// The gradient of a lone pair is divided by the prompts of its minibatch, as if the others' pairs had none.
#[test]
fn a_lone_pair_has_its_share_of_a_minibatch() {
    let norm = |minibatch: usize| {
        let report = update_in((6, minibatch), |episodes| {
            for prompt in 1..4 {
                episodes[2 * prompt].score = episodes[2 * prompt + 1].score;
            }
        });
        let report = report.unwrap();
        assert_eq!((report.steps, report.stats.count), (1, 1));
        assert!(
            (report.stats.loss - std::f64::consts::LN_2).abs() < 1e-6,
            "the loss is the pair's"
        );
        report.applied.unwrap().grad_norm
    };
    let alone = norm(2);
    for (minibatch, prompts) in [(4, 2.0), (8, 4.0)] {
        let among = norm(minibatch);
        assert!(
            (among * prompts - alone).abs() < 1e-6 * alone,
            "{among} among {prompts}, {alone} alone"
        );
    }
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
    assert_refused(&config(MethodSetting::Dpo, 1), &refusals);
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
