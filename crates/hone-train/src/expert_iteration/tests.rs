//! The stage on tiny models: the score rises, a round is what it should be, resumes to the byte, and a fault stops the run.

use std::sync::Arc;

use hone_compute::{AdamW, Engine, Isa, Precision};
use hone_data::TokenExample;
use hone_generate::logprobs_from;
use hone_model::{LoraConfig, Transformer};
use hone_run::{Resolved, Shutdown};
use serde_json::Value;

use super::config::{ExpertIterationConfig, ExpertIterationSection, KeepRule, TuneFrom};
use super::step::{Round, gradients, tune};
use super::{plan, run};
use crate::Job;
use crate::error::TrainError;
use crate::language::{LanguageBatch, cross_entropy_step};
use crate::learner::Learner;
use crate::rollout::trials::{
    Listening, assert_going_on_changes_no_byte, assert_refused, assert_threads_change_no_byte, engine_of, job, metrics,
    model, number, start, tokenizer, world,
};
use crate::rollout::{Episode, Maximised, MissingEos, PromptData, made};
use crate::sections::{ModelSection, ShownSection, TrainSection};

fn config(rounds: u64) -> ExpertIterationConfig {
    ExpertIterationConfig {
        model: ModelSection::at("policy"),
        maximised: Maximised::model("reward"),
        data: PromptData {
            prompts: vec![hone_data::Source::new("prompts.jsonl")],
            held_out: 0.0,
            max_prompt_length: Some(32),
        },
        expert_iteration: ExpertIterationSection {
            rounds,
            rollout_batch: 64,
            samples_per_prompt: 8,
            minibatch: 4,
            max_new_tokens: 8,
            missing_eos: MissingEos::Keep,
            ..ExpertIterationSection::default()
        },
        train: TrainSection {
            learning_rate: 3e-3,
            warmup_steps: 0,
            ..ExpertIterationConfig::default().train
        },
        eval: ShownSection {
            every: 2,
            samples: 1000,
        },
        ..ExpertIterationConfig::default()
    }
}

#[test]
fn the_score_rises_by_both_rules_and_from_both_models() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let mut threshold = None;
    for (name, from) in [("last", TuneFrom::Last), ("start", TuneFrom::Start)] {
        for keep in [KeepRule::Best, KeepRule::Above] {
            let name = format!("{name}-{keep:?}");
            let mut c = config(8);
            c.expert_iteration.from = from;
            c.expert_iteration.keep = keep;
            if keep == KeepRule::Above {
                c.expert_iteration.threshold = threshold;
                c.expert_iteration.minibatch = 16;
            }
            if from == TuneFrom::Start {
                c.expert_iteration.epochs = 3;
            }
            start(dir.path(), &name, c).unwrap();
            let lines = metrics(&dir.path().join(&name));
            assert_eq!(lines.len(), 8);
            // What is above the mean of the kept is good: a bar for the other rule
            threshold.get_or_insert(number(&lines[0], "objective/kept_scores"));
            let first = &lines[0];
            assert_eq!(number(first, "objective/kl"), 0.0, "{name}");
            assert!(number(&lines[7], "objective/kl") > 0.01, "{name}");
            let scores: Vec<f64> = lines.iter().map(|line| number(line, "objective/scores")).collect();
            assert!(
                scores[6] + scores[7] > scores[0] + scores[1] + 0.2,
                "{name}: scores went as {scores:?}"
            );
            for line in &lines {
                assert!(
                    number(line, "objective/kept_scores") > number(line, "objective/scores"),
                    "{name}"
                );
                assert_eq!(number(line, "policy/logprob_mismatch_max"), 0.0);
                if keep == KeepRule::Best {
                    // One of eight, and every prompt has one
                    assert_eq!(number(line, "objective/kept"), 0.125);
                    assert_eq!(number(line, "objective/prompts_kept"), 1.0);
                }
            }
        }
    }
}

/// The control: as many are kept as of the best, but by chance, so they are worth what all are.
#[test]
fn the_first_are_worth_what_all_are() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let advantage = |keep: KeepRule| {
        let name = format!("{keep:?}");
        let mut c = config(8);
        c.expert_iteration.keep = keep;
        c.expert_iteration.rollout_batch = 128;
        start(dir.path(), &name, c).unwrap();
        let lines = metrics(&dir.path().join(&name));
        assert!(lines.iter().all(|line| number(line, "objective/kept") == 0.125));
        let above = |line: &Value| number(line, "objective/kept_scores") - number(line, "objective/scores");
        lines.iter().map(above).sum::<f64>() / lines.len() as f64
    };
    let (best, first) = (advantage(KeepRule::Best), advantage(KeepRule::First));
    assert!(first.abs() < best / 4.0, "{first} of the first, {best} of the best");
}

#[test]
fn what_is_kept_is_written_down() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let mut c = config(2);
    c.expert_iteration.keep_best = Some(3);
    start(dir.path(), "run", c).unwrap();
    let line = &metrics(&dir.path().join("run"))[1];
    let text = std::fs::read_to_string(dir.path().join("run/samples.jsonl")).unwrap();
    let samples: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Of the second round alone, as eval.every says
    assert!(samples.iter().all(|sample| sample["step"] == 2));
    assert_eq!(samples.len() as f64, 64.0 * number(line, "objective/kept"));
    let mean = samples.iter().map(|sample| number(sample, "score")).sum::<f64>() / samples.len() as f64;
    assert!((mean - number(line, "objective/kept_scores")).abs() < 1e-9);
    let tokens: f64 = samples.iter().map(|sample| number(sample, "tokens")).sum();
    assert_eq!(tokens, number(line, "train/target_tokens"));
    assert_eq!(number(line, "train/steps"), (samples.len() as f64 / 4.0).ceil());
}

#[test]
fn stopping_and_going_on_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    for from in [TuneFrom::Last, TuneFrom::Start] {
        let mut c = config(4);
        (c.expert_iteration.from, c.expert_iteration.epochs) = (from, 2);
        c.lora = (from == TuneFrom::Start).then(|| LoraConfig {
            rank: 2,
            ..LoraConfig::default()
        });
        c.train.keep_checkpoints = 4;
        assert_going_on_changes_no_byte(dir.path(), &format!("{from:?}"), &c, (2, 4));
    }
}

#[test]
fn threads_change_no_byte_and_micro_batches_only_rounding() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let mut c = config(2);
    c.expert_iteration.keep_best = Some(4);
    let keys = ["objective/scores", "objective/kept_scores", "train/loss", "grad_norm"];
    let cut = |c: &mut ExpertIterationConfig| c.train.microbatch_tokens = 1;
    let (lines, cut) = assert_threads_change_no_byte(dir.path(), (&c, cut), 2, (&keys, 1e-3));
    assert_eq!(number(&lines[0], "objective/kept"), number(&cut[0], "objective/kept"));
}

#[test]
fn a_round_that_keeps_nothing_is_told_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let heard = Arc::new(Listening::default());
    let mut c = config(2);
    c.expert_iteration.threshold = Some(1e6);
    let job = Job {
        observer: heard.clone(),
        ..job(dir.path(), "run", Shutdown::default())
    };
    run(&job, &Resolved::from_config(c).unwrap()).unwrap();
    let lines = metrics(&dir.path().join("run"));
    assert_eq!(lines.len(), 2);
    for line in &lines {
        assert_eq!(number(line, "objective/kept"), 0.0);
        assert_eq!(number(line, "train/target_tokens"), 0.0);
        assert_eq!(number(line, "objective/kl"), 0.0, "the model has not moved");
        for absent in ["train/loss", "grad_norm", "objective/kept_scores"] {
            assert!(line.get(absent).is_none(), "{absent} in {line}");
        }
    }
    let said = heard.0.lock().unwrap();
    let told: Vec<&String> = said.iter().filter(|text| text.contains("nothing is kept")).collect();
    assert_eq!(told.len(), 2, "{said:?}");
    assert!(told[1].starts_with("round 2: ") && told[1].contains("expert_iteration.threshold is 1000000"));
    assert!(dir.path().join("run/model/model.safetensors").is_file());
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
            made(i as usize, (&prompt, &response), (0.0, 0.0), i as f32)
        })
        .collect();
    let sequences: Vec<&[u32]> = episodes.iter().map(|e| &*e.ids).collect();
    let scores = logprobs_from(engine, model, (&sequences, &[3; 8]), 1.0);
    for (episode, scores) in episodes.iter_mut().zip(scores) {
        episode.logprobs = scores.logprobs;
    }
    episodes
}

fn section() -> ExpertIterationSection {
    ExpertIterationSection {
        samples_per_prompt: 2,
        minibatch: 3,
        epochs: 2,
        ..config(1).expert_iteration
    }
}

fn weights(engine: &Engine, model: &Transformer) -> Vec<Vec<f32>> {
    let parameters = model.parameters().iter();
    parameters.map(|(_, p)| engine.read(p.value())).collect()
}

/// Keeping everything is supervised tuning on the same sequences, whose targets are the responses.
#[test]
fn the_gradient_is_that_of_supervised_tuning() {
    let (engine, tokenizer) = (f32_engine(), tokenizer());
    let model = model(&engine, &tokenizer, 1);
    let episodes = episodes(&engine, &model);
    let kept: Vec<&Episode> = episodes.iter().collect();
    let mut learner = Learner::new(&engine, model, AdamW::default());
    let (section, train) = (section(), config(1).train);
    let round = Round {
        number: 0,
        kept: &kept,
        section: &section,
        train: &train,
    };
    let (stats, own) = gradients(&engine, &mut learner, &round, (&kept, true)).unwrap();
    let examples: Vec<TokenExample> = episodes
        .iter()
        .map(|e| TokenExample {
            ids: e.ids.to_vec(),
            trained: (0..e.ids.len()).map(|i| i >= 3).collect(),
        })
        .collect();
    let tokens: u64 = episodes.iter().map(|e| e.length() as u64).sum();
    let mut supervised = None;
    let theirs = learner
        .gradients(&engine, vec![vec![()]], |model, (), gradients| {
            let batch = LanguageBatch::of_examples(&examples);
            supervised = Some(cross_entropy_step(&engine, model, &batch, (tokens, 1.0), gradients)?);
            Ok(())
        })
        .unwrap();
    let supervised = supervised.unwrap();
    assert_eq!(stats.tokens, supervised.tokens);
    assert!((stats.nll_sum - supervised.nll_sum).abs() < 1e-5 * supervised.nll_sum);
    let norm = theirs.norm(&engine);
    assert!(norm > 0.1);
    for (id, parameter) in learner.model.parameters().iter() {
        let (own, theirs) = (own.get(id).unwrap(), theirs.get(id).unwrap());
        let pairs = engine.read(own).into_iter().zip(engine.read(theirs));
        let apart = pairs.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        assert!(apart < 1e-5 * norm, "{}: {apart} of {norm}", parameter.name());
    }
}

/// A round follows from the weights that it begins with alone: not from moments, and from the start not from weights.
#[test]
fn a_round_knows_nothing_of_those_before() {
    let (engine, tokenizer) = (f32_engine(), tokenizer());
    let start = model(&engine, &tokenizer, 1);
    let (section, train) = (section(), config(1).train);
    let tuned = |learner: &mut Learner, from: Option<&Transformer>, number: u64| {
        let episodes = episodes(&engine, &learner.model);
        let kept: Vec<&Episode> = episodes.iter().collect();
        let round = Round {
            number,
            kept: &kept,
            section: &section,
            train: &train,
        };
        let report = tune(&engine, learner, from, &round).unwrap();
        assert_eq!(report.steps, 6, "three minibatches of 3, 3 and 2, twice");
        weights(&engine, &learner.model)
    };
    let fresh = |model: &Transformer| Learner::new(&engine, model.duplicate(), AdamW::default());
    let mut learner = fresh(&start);
    let first = tuned(&mut learner, None, 0);
    assert_ne!(first, weights(&engine, &start));
    let between = learner.model.duplicate();
    let second = tuned(&mut learner, None, 1);
    assert_eq!(second, tuned(&mut fresh(&between), None, 1), "moments are forgotten");
    let anew = tuned(&mut learner, Some(&start), 0);
    assert_eq!(anew, first, "the first model is tuned again");
}

#[test]
fn one_bit_of_one_stored_number_stops_the_run() {
    let (engine, tokenizer) = (f32_engine(), tokenizer());
    let start = model(&engine, &tokenizer, 1);
    let (section, train) = (section(), config(1).train);
    for from in [None, Some(&start)] {
        for wrong in 0..8 {
            let mut learner = Learner::new(&engine, start.duplicate(), AdamW::default());
            let mut episodes = episodes(&engine, &start);
            let number = &mut episodes[wrong].logprobs[1];
            *number = f32::from_bits(number.to_bits() + 1);
            let kept: Vec<&Episode> = episodes.iter().collect();
            let round = Round {
                number: 4,
                kept: &kept,
                section: &section,
                train: &train,
            };
            let error = tune(&engine, &mut learner, from, &round).map(|_| ()).unwrap_err();
            let TrainError::Mismatch {
                update, episode, token, ..
            } = &error
            else {
                panic!("{error}");
            };
            assert_eq!((*update, *episode, *token), (5, wrong, 1));
            assert_eq!(error.exit_status().code(), 4);
        }
    }
}

#[test]
fn settings_that_make_no_sense_are_named() {
    type Change = fn(&mut ExpertIterationConfig);
    let refusals: [(&str, Change); 15] = [
        ("expert_iteration.rounds: is 0", |c| c.expert_iteration.rounds = 0),
        ("expert_iteration.epochs: is 0", |c| c.expert_iteration.epochs = 0),
        ("expert_iteration.minibatch: is 0", |c| c.expert_iteration.minibatch = 0),
        ("expert_iteration.max_new_tokens: is 0", |c| {
            c.expert_iteration.max_new_tokens = 0
        }),
        (
            "expert_iteration.samples_per_prompt: is 3, which does not divide",
            |c| c.expert_iteration.samples_per_prompt = 3,
        ),
        ("expert_iteration.keep_best: is 0", |c| {
            c.expert_iteration.keep_best = Some(0)
        }),
        ("expert_iteration.keep_best: is 9; expected at most", |c| {
            c.expert_iteration.keep_best = Some(9)
        }),
        ("expert_iteration.threshold: is missing", |c| {
            c.expert_iteration.keep = KeepRule::Above
        }),
        ("expert_iteration.keep_best: is 2, and under keep = \"above\"", |c| {
            c.expert_iteration.keep = KeepRule::Above;
            (c.expert_iteration.keep_best, c.expert_iteration.threshold) = (Some(2), Some(0.0));
        }),
        ("expert_iteration.keep_best: is 9; expected at most", |c| {
            c.expert_iteration.keep = KeepRule::First;
            c.expert_iteration.keep_best = Some(9)
        }),
        ("expert_iteration.threshold: is 0.5, and under keep = \"first\"", |c| {
            c.expert_iteration.keep = KeepRule::First;
            c.expert_iteration.threshold = Some(0.5)
        }),
        ("expert_iteration.threshold: is NaN", |c| {
            c.expert_iteration.threshold = Some(f64::NAN)
        }),
        ("expert_iteration.temperature: is 0", |c| {
            c.expert_iteration.temperature = 0.0
        }),
        ("train.learning_rate: is 0", |c| c.train.learning_rate = 0.0),
        ("reward.path: is missing", |c| c.maximised = Maximised::default()),
    ];
    assert_refused(&config(1), &refusals);
}

#[test]
fn a_plan_is_of_the_rounds() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let plan_of = |change: fn(&mut ExpertIterationConfig)| {
        let mut c = config(3);
        change(&mut c);
        let job = job(dir.path(), "run", Shutdown::default());
        plan(&job, &Resolved::from_config(c).unwrap(), false).unwrap()
    };
    let plan = plan_of(|_| {});
    assert_eq!((plan.stage, plan.steps), ("expert-iteration", 3));
    let names: Vec<&str> = plan.models.iter().map(|model| model.name).collect();
    assert_eq!(names, ["policy", "reference", "reward model"]);
    assert_eq!(plan.sources[0].epochs, 0.6, "3 rounds of 8 prompts of 40");
    assert!(!dir.path().join("run").exists(), "a plan leaves nothing behind");
    // More that is kept makes a micro-batch longer, up to its bound
    let activations = |change| {
        let plan = plan_of(change);
        let part = plan.memory.iter().find(|part| part.what.starts_with("activations"));
        part.unwrap().bytes
    };
    let few = activations(|c| c.expert_iteration.minibatch = 1);
    let many = activations(|c| {
        c.expert_iteration.keep_best = Some(8);
        c.expert_iteration.minibatch = 64;
    });
    assert!(many > few, "{many} and {few}");
}

#[test]
fn the_number_that_is_kept_is_written_down() {
    use hone_run::Configuration;
    let mut c = config(1);
    c.resolve();
    assert_eq!(c.expert_iteration.keep_best, Some(1));
    let mut c = config(1);
    c.expert_iteration.keep = KeepRule::Above;
    c.resolve();
    assert_eq!(c.expert_iteration.keep_best, None);
}
