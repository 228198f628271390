//! The same results however a run came to its end: interrupted or not, on any number of threads, in any micro-batches.

mod common;

use std::fs;
use std::sync::Arc;

use common::{CopyAfter, Place, Stage, StopAfter, assert_same_results, copy_dir, engine, with, with_train};
use hone_compute::{AdamW, Gradients};
use hone_data::TokenExample;
use hone_run::Shutdown;
use hone_train::language::{LanguageBatch, cross_entropy_step, shards_of};
use hone_train::{Learner, Outcome, artefact};

fn finish(stage: Stage, place: &Place, run: &str, toml: &str) {
    let outcome = stage.start(&place.job(run), toml);
    assert!(
        matches!(outcome, Ok(Outcome::Done { before: false, .. })),
        "{stage:?}: {outcome:?}"
    );
}

/// Stopped on request after step 6, between two checkpoints, and started again.
fn assert_stopping_changes_nothing(stage: Stage, place: &Place, toml: &str) {
    let mut job = place.job("stopped");
    job.observer = Arc::new(StopAfter {
        step: 6,
        shutdown: job.shutdown.clone(),
    });
    let outcome = stage.start(&job, toml);
    assert!(
        matches!(outcome, Ok(Outcome::Stopped { step: 6 })),
        "{stage:?}: {outcome:?}"
    );
    assert!(!job.dir.join("model").exists() && !job.dir.join("finished.json").exists());
    finish(stage, place, "stopped", toml);
    assert_same_results(&place.path("whole"), &place.path("stopped"));
}

/// The process dies after some step: what it wrote since the last checkpoint is written again.
fn assert_dying_changes_nothing(stage: Stage, place: &Place, toml: &str) {
    for step in [3, 7, 10] {
        let (dying, dead) = (format!("dying-{step}"), format!("dead-{step}"));
        let mut job = place.job(&dying);
        job.observer = Arc::new(CopyAfter {
            step,
            run: place.path(&dying),
            copy: place.path(&dead),
        });
        stage.start(&job, toml).unwrap();
        let lines = fs::read_to_string(place.path(&dead).join("metrics.jsonl"))
            .unwrap()
            .lines()
            .count() as u64;
        assert!(lines >= step, "{lines} lines after step {step}");
        finish(stage, place, &dead, toml);
        assert_same_results(&place.path("whole"), &place.path(&dead));
    }
}

#[test]
fn an_interrupted_run_gives_the_same_bytes() {
    for stage in Stage::ALL {
        let place = Place::with_base();
        let toml = stage.toml();
        finish(stage, &place, "whole", &toml);
        assert_stopping_changes_nothing(stage, &place, &toml);
        assert_dying_changes_nothing(stage, &place, &toml);
    }
}

/// What a run keeps beside its weights comes back too: adapters, the best model so far.
#[test]
fn an_interrupted_run_with_an_adapter_gives_the_same_bytes() {
    for stage in [Stage::Sft, Stage::Reward, Stage::Preference] {
        let place = Place::with_base();
        let keep = if matches!(stage, Stage::Reward) {
            ""
        } else {
            "keep = \"best\"\n"
        };
        let toml = format!("{keep}{}\n[lora]\nrank = 2", with(&stage.toml(), "every", "2"));
        finish(stage, &place, "whole", &toml);
        assert_stopping_changes_nothing(stage, &place, &toml);
        assert_dying_changes_nothing(stage, &place, &toml);
    }
}

/// It dies after the last checkpoint, before the result is in place.
#[test]
fn a_run_that_died_before_its_result_gives_it() {
    for stage in Stage::ALL {
        let place = Place::with_base();
        finish(stage, &place, "whole", &stage.toml());
        copy_dir(&place.path("whole"), &place.path("dead"));
        fs::remove_dir_all(place.path("dead/model")).unwrap();
        fs::remove_file(place.path("dead/finished.json")).unwrap();
        finish(stage, &place, "dead", &stage.toml());
        assert_same_results(&place.path("whole"), &place.path("dead"));
    }
}

/// A stop that is asked for before the first step costs nothing.
#[test]
fn a_run_can_stop_before_it_starts() {
    let place = Place::with_base();
    for stage in Stage::ALL {
        let run = format!("{stage:?}");
        let mut job = place.job(&run);
        job.shutdown = Shutdown::default();
        job.shutdown.request();
        let stopped = stage.start(&job, &stage.toml());
        assert!(matches!(stopped, Err(hone_train::TrainError::Stopped)), "{stopped:?}");
        finish(stage, &place, &run, &stage.toml());
        finish(stage, &place, "whole", &stage.toml());
        assert_same_results(&place.path("whole"), &place.path(&run));
        fs::remove_dir_all(place.path("whole")).unwrap();
    }
}

#[test]
fn two_threads_give_the_bytes_of_one() {
    let place = Place::with_base();
    for stage in Stage::ALL {
        let (one, two) = (format!("{stage:?}-one"), format!("{stage:?}-two"));
        finish(stage, &place, &one, &stage.toml());
        let mut job = place.job(&two);
        job.threads = Some(2);
        stage.start(&job, &stage.toml()).unwrap();
        assert_same_results(&place.path(&one), &place.path(&two));
    }
}

/// Micro-batches and shards change results by rounding only.
#[test]
fn losses_do_not_depend_on_how_a_batch_is_cut() {
    let place = Place::with_base();
    for stage in Stage::ALL {
        let exact = with(&with_train(&stage.toml(), "precision = \"f32\""), "steps", "4");
        let mut reference: Option<Vec<(u64, f64)>> = None;
        for (cut, (shards, tokens)) in [(1, 100_000), (1, 40), (4, 100_000), (4, 40)].into_iter().enumerate() {
            let run = format!("{stage:?}-{cut}");
            let toml = with(
                &with_train(&exact, &format!("shards = {shards}")),
                "microbatch_tokens",
                &tokens.to_string(),
            );
            finish(stage, &place, &run, &toml);
            let losses = place.metrics(&run)["train/loss"].clone();
            let reference = reference.get_or_insert_with(|| losses.clone());
            for ((step, loss), (_, expected)) in losses.iter().zip(reference) {
                let relative = (loss / *expected - 1.0).abs();
                assert!(
                    relative < 1e-6,
                    "{stage:?}, {shards} shards of {tokens} tokens, step {step}: {relative:e}"
                );
            }
        }
    }
}

/// Shards are summed in pairs, pairs of pairs, and so on, whatever the micro-batches within a shard.
#[test]
fn four_shards_are_a_tree() {
    let place = Place::with_base();
    let engine = engine();
    let loaded = artefact::load(&engine, &place.path("base/model")).unwrap();
    let mut learner = Learner::new(
        &engine,
        loaded.model,
        AdamW {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.0,
        },
    );
    let example = |i: u32| TokenExample {
        ids: (0..6).map(|t| 10 + (i * 7 + t * 3) % 40).collect(),
        trained: vec![true; 6],
    };
    let examples: Vec<TokenExample> = (0..8).map(example).collect();
    let add = |model: &_, part: Vec<&TokenExample>, gradients: &mut Gradients| {
        cross_entropy_step(&engine, model, &LanguageBatch::of_examples(part), (40, 1.0), gradients).map(|_| ())
    };
    let shards = |count| shards_of(examples.iter().collect(), count, 6, |e: &&TokenExample| e.ids.len());
    let whole = learner.gradients(&engine, shards(4), add).unwrap();
    // Each shard alone, and the tree by hand
    let alone: Vec<Gradients> = shards(4)
        .into_iter()
        .map(|shard| learner.gradients(&engine, vec![shard], add).unwrap())
        .collect();
    let mut moved = 0;
    for (id, parameter) in learner.model.parameters().iter() {
        let of = |gradients: &Gradients| engine.read(gradients.get(id).unwrap());
        let (whole, parts) = (of(&whole), alone.iter().map(of).collect::<Vec<_>>());
        for (i, sum) in whole.iter().enumerate() {
            let tree = (parts[0][i] + parts[1][i]) + (parts[2][i] + parts[3][i]);
            assert_eq!(sum.to_bits(), tree.to_bits(), "{} at {i}", parameter.name());
            moved += usize::from(*sum != 0.0);
        }
    }
    assert!(moved > 10_000, "{moved} gradients are not 0");
}
