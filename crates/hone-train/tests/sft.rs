//! Supervised tuning at smoke scale.

mod common;

use std::fs;

use common::{Place, REWARD, SFT, engine, pretrain_toml, sentence, with, with_train};
use hone_compute::{Engine, EngineOptions, Precision};
use hone_text::{Chat, Message, TrainedTurns};
use hone_train::{Outcome, artefact};
use serde_json::{Value, json};

/// A demonstration repeated, so that its end is soon expected.
fn one_answer(place: &Place) {
    let turns = |i: usize| {
        [
            json!({"role": "user", "content": format!("{i}")}),
            json!({"role": "assistant", "content": "red"}),
        ]
    };
    place.write_rows("demonstrations.jsonl", (0..40).map(|i| json!({ "messages": turns(i) })));
}

#[test]
fn the_loss_falls_and_replies_end() {
    let place = Place::with_base();
    one_answer(&place);
    place
        .sft("first", &with(&with(SFT, "steps", "1"), "learning_rate", "1e-9"))
        .unwrap();
    let outcome = place
        .sft("run", &with(&with(SFT, "steps", "40"), "learning_rate", "1e-2"))
        .unwrap();
    let Outcome::Done {
        model,
        summary,
        before: false,
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        (&summary["steps"], &summary["held_out_examples"]),
        (&json!(40), &json!(4))
    );
    assert_eq!(
        summary["sources"],
        json!([{ "source": "demonstrations.jsonl", "examples": 36 }])
    );

    let (before, after) = (place.metrics("first"), place.metrics("run"));
    let last =
        |metrics: &std::collections::BTreeMap<String, Vec<(u64, f64)>>, key: &str| metrics[key].last().unwrap().1;
    assert!(last(&before, "train/loss") > 3.0 && last(&after, "train/loss") < 0.1);
    assert!(last(&after, "eval/loss") < 0.1, "held-out prompts have the same answer");
    assert_eq!(last(&before, "completions/ended"), 0.0);
    assert_eq!(last(&after, "completions/ended"), 1.0, "the end of a reply is a target");
    let samples = fs::read_to_string(place.path("run/samples.jsonl")).unwrap();
    let sample: Value = serde_json::from_str(samples.lines().last().unwrap()).unwrap();
    assert_eq!((&sample["response"], &sample["step"]), (&json!("red"), &json!(40)));
    assert!(
        artefact::load(&engine(), &model)
            .unwrap()
            .companion
            .tokenizer
            .chat_template()
            .is_some()
    );
}

/// Targets are the reply and its end, and nothing of the user's turn or the template.
#[test]
fn targets_are_the_reply_and_its_end() {
    let place = Place::with_base();
    let toml = with(&with(SFT, "batch", "1000"), "held_out", "0.0");
    place.sft("run", &with(&toml, "steps", "1")).unwrap();
    let tokenizer = hone_text::Tokenizer::from_dir(place.path("tokenizer")).unwrap();
    let replies: usize = (0..60)
        .map(|i| tokenizer.encode_ordinary(&sentence(i)).unwrap().len() + 1)
        .sum();
    assert_eq!(place.metrics("run")["train/target_tokens"][0].1, replies as f64);

    // A conversation of two exchanges: all assistant turns, or the last one
    let turns = |role: &str, content: &str| json!({"role": role, "content": content});
    let conversation = [
        turns("user", "1"),
        turns("assistant", "red"),
        turns("user", "2"),
        turns("assistant", "blue"),
    ];
    place.write_rows(
        "demonstrations.jsonl",
        std::iter::once(json!({ "messages": conversation })),
    );
    let chat = Chat::new(&tokenizer).unwrap();
    let messages = [
        Message::user("1"),
        Message::assistant("red"),
        Message::user("2"),
        Message::assistant("blue"),
    ];
    for (run, setting, turns) in [("all", "all", TrainedTurns::All), ("last", "last", TrainedTurns::Last)] {
        let toml = with(&toml, "steps", "1").replace("[data]", &format!("[data]\nturns = \"{setting}\""));
        place.sft(run, &toml).unwrap();
        let expected = chat
            .encode(&messages, turns)
            .unwrap()
            .mask()
            .iter()
            .filter(|&&t| t)
            .count();
        assert_eq!(
            place.metrics(run)["train/target_tokens"][0].1,
            expected as f64,
            "{setting}"
        );
    }
}

#[test]
fn an_adapter_is_written_as_peft_does_and_loads() {
    let place = Place::with_base();
    one_answer(&place);
    let toml = format!("{SFT}\n[lora]\nrank = 4\nalpha = 32.0\ntargets = [\"q\", \"down\"]");
    let outcome = place
        .sft("lora", &with(&with(&toml, "steps", "30"), "learning_rate", "5e-2"))
        .unwrap();
    let Outcome::Done { model, .. } = outcome else {
        panic!("{outcome:?}")
    };
    let loss = &place.metrics("lora")["train/loss"];
    // With embeddings and the last norm frozen, logits stay within |h| |e| = sqrt(32) x 0.02 sqrt(32) = 0.64 of 0
    assert!(loss.last().unwrap().1 < loss[0].1 - 0.5, "{loss:?}");

    assert!(!model.join("config.json").exists() && !model.join("model.safetensors").exists());
    let config: Value = serde_json::from_str(&fs::read_to_string(model.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["r"], &config["lora_alpha"], &config["peft_type"]),
        (&json!(4), &json!(32.0), &json!("LORA"))
    );
    assert_eq!(config["target_modules"], json!(["q_proj", "down_proj"]));
    let mut file = hone_model::TensorFile::open(&model.join("adapter_model.safetensors")).unwrap();
    let b = file
        .read("base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight")
        .unwrap();
    assert!(b.len() == 128 && b.iter().any(|&x| x != 0.0), "B has left 0");

    // Loaded onto its base it is the model that was trained: the held-out rows (the last four) have the same loss
    let engine = Engine::new(&EngineOptions {
        isa: None,
        precision: Precision::Bf16,
        threads: Some(1),
    })
    .unwrap();
    let loaded = artefact::load(&engine, &model).unwrap();
    assert!(loaded.model.adapter().is_some());
    let mean = held_out_loss(&engine, &loaded);
    let expected = place.metrics("lora")["eval/loss"].last().unwrap().1;
    assert!(
        (mean / expected - 1.0).abs() < 1e-9,
        "{mean} as loaded, {expected} in the run"
    );
}

/// Loss of the last four rows that [`one_answer`] writes.
fn held_out_loss(engine: &Engine, loaded: &artefact::Artefact) -> f64 {
    let chat = Chat::new(&loaded.companion.tokenizer).unwrap();
    let (mut nll, mut count) = (0.0, 0);
    for i in 36..40 {
        let tokens = chat
            .encode(
                &[Message::user(format!("{i}")), Message::assistant("red")],
                TrainedTurns::All,
            )
            .unwrap();
        let scores = hone_generate::logprobs_of(engine, &loaded.model, &[&tokens.ids], 1.0);
        for (logprob, _) in scores[0]
            .logprobs
            .iter()
            .zip(&tokens.mask()[1..])
            .filter(|(_, trained)| **trained)
        {
            (nll, count) = (nll - f64::from(*logprob), count + 1);
        }
    }
    nll / f64::from(count)
}

/// An adapter of a model whose vocabulary had to grow for ChatML brings the embedding along.
#[test]
fn an_adapter_of_a_base_without_a_template_can_be_loaded() {
    let place = Place::with_base();
    one_answer(&place);
    let base = place.path("base/model");
    fs::remove_file(base.join("MANIFEST.json")).unwrap();
    let _ = fs::remove_file(base.join("chat_template.jinja"));
    for entry in fs::read_dir(&base).unwrap().map(Result::unwrap) {
        let Ok(text) = fs::read_to_string(entry.path()) else {
            continue;
        };
        let text = text.replace("<|im_start|>", "<|one|>").replace("<|im_end|>", "<|two|>");
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value.as_object_mut().unwrap().remove("chat_template");
        fs::write(entry.path(), value.to_string()).unwrap();
    }
    let toml = with(&format!("{SFT}\n[lora]\nrank = 4"), "learning_rate", "1e-2");
    let Outcome::Done { model, .. } = place.sft("lora", &toml).unwrap() else {
        panic!("stopped")
    };
    let config: Value = serde_json::from_str(&fs::read_to_string(model.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["modules_to_save"], json!(["embed_tokens", "lm_head"]));
    let engine = Engine::new(&EngineOptions {
        threads: Some(1),
        ..EngineOptions::default()
    })
    .unwrap();
    let before = artefact::load(&engine, &base).unwrap();
    let loaded = artefact::load(&engine, &model).unwrap();
    let rows = |of: &artefact::Artefact| of.model.architecture().vocab_size;
    assert_eq!(rows(&loaded), rows(&before) + 2);
    let expected = place.metrics("lora")["eval/loss"].last().unwrap().1;
    let mean = held_out_loss(&engine, &loaded);
    assert!(
        (mean / expected - 1.0).abs() < 1e-9,
        "{mean} as loaded, {expected} in the run"
    );
    // The next stage takes it
    place.reward("reward", &with(REWARD, "path", "\"lora/model\"")).unwrap();
}

/// `lora.vocabulary` trains the embedding beside the adapter, also where nothing grew.
#[test]
fn an_adapter_trains_the_vocabulary_where_it_is_asked_to() {
    let place = Place::with_base();
    one_answer(&place);
    let loss = |run: &str, vocabulary: bool| {
        let lora = format!("{SFT}\n[lora]\nrank = 4\nvocabulary = {vocabulary}");
        let toml = with(&with(&lora, "steps", "10"), "learning_rate", "1e-2");
        let Outcome::Done { model, .. } = place.sft(run, &toml).unwrap() else {
            panic!("stopped")
        };
        let config = fs::read_to_string(model.join("adapter_config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        let last = place.metrics(run)["eval/loss"].last().unwrap().1;
        let engine = Engine::new(&EngineOptions {
            threads: Some(1),
            ..EngineOptions::default()
        })
        .unwrap();
        let mean = held_out_loss(&engine, &artefact::load(&engine, &model).unwrap());
        assert!((mean / last - 1.0).abs() < 1e-9, "{mean} as loaded, {last} in the run");
        (config["modules_to_save"].clone(), last)
    };
    let ((with, low), (without, high)) = (loss("with", true), loss("without", false));
    assert_eq!((with, without), (json!(["embed_tokens", "lm_head"]), Value::Null));
    assert!(low < high - 0.5, "{low} with the embedding, {high} without");
}

/// PEFT has no place for adapters of gpt2's queries, keys and values, so the model is written whole.
#[test]
fn an_adapter_of_gpt2_is_merged_into_what_is_written() {
    let place = Place::new();
    let gpt2 = pretrain_toml(2).replace("[model.new]", "[model.new]\nfamily = \"gpt2\"");
    assert_ne!(gpt2, pretrain_toml(2));
    place.pretrain("base", &gpt2).unwrap();
    one_answer(&place);
    let toml = with(&format!("{SFT}\n[lora]\nrank = 4"), "learning_rate", "1e-2");
    let Outcome::Done { model, .. } = place.sft("lora", &with(&toml, "steps", "10")).unwrap() else {
        panic!("stopped")
    };
    assert!(!model.join("adapter_config.json").exists());
    let loaded = artefact::load(&engine(), &model).unwrap();
    assert!(loaded.model.adapter().is_none());
    let losses = &place.metrics("lora")["eval/loss"];
    let (first, last) = (place.metrics("lora")["train/loss"][0].1, losses.last().unwrap().1);
    let mean = held_out_loss(&engine(), &loaded);
    assert!((mean / last - 1.0).abs() < 0.02, "{mean} as loaded, {last} in the run");
    assert!(last < first - 0.1, "it learned: {first} to {last}");
}

/// Ten steps without a finite gradient end the run; the step is counted as in the metrics.
#[test]
fn a_run_that_diverged_says_at_which_step_and_what_to_do() {
    let place = Place::with_base();
    let engine = engine();
    let artefact::Artefact { mut model, companion } = artefact::load(&engine, &place.path("base/model")).unwrap();
    let norm = model.parameters().find("norm.weight").unwrap();
    let huge = vec![3e38; model.architecture().width];
    model.parameters_mut().set(&engine, norm, &huge);
    artefact::publish_at(&engine, &place.path("huge"), &companion, &model).unwrap();
    let toml = with(&with(SFT, "path", "\"huge\""), "steps", "20");
    let error = place.sft("diverged", &with(&toml, "every", "0")).unwrap_err();
    assert_eq!(error.exit_status().code(), 4);
    let said = error.to_string();
    assert!(
        said.contains("10 steps in a row") && said.contains("the last at step 10;"),
        "{said}"
    );
    assert!(
        said.contains("another --name with a lower train.learning_rate"),
        "{said}"
    );
    let text = fs::read_to_string(place.path("diverged/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["step"], &last["train/skipped_steps"]), (&json!(9), &json!(9.0)));
}

/// With `keep = "best"` the result is the model of the lowest held-out loss, not the last one.
#[test]
fn the_best_evaluation_can_be_kept() {
    let place = Place::with_base();
    // A rate so high that the loss goes up again
    let wild = with(&with_train(SFT, "schedule = \"constant\""), "learning_rate", "0.1");
    let wild = with(&wild, "every", "1");
    place.sft("last", &wild).unwrap();
    let Outcome::Done { summary, .. } = place.sft("best", &format!("keep = \"best\"\n{wild}")).unwrap() else {
        panic!("stopped")
    };
    let losses = &place.metrics("best")["eval/loss"];
    assert_eq!(
        *losses,
        place.metrics("last")["eval/loss"],
        "what is kept changes nothing on the way"
    );
    let lowest = losses
        .iter()
        .copied()
        .fold((0, f64::INFINITY), |best, at| if at.1 < best.1 { at } else { best });
    assert!(lowest.0 < 10, "the last is the best: choose a higher rate");
    assert_eq!(summary["best"], json!({ "eval/loss": lowest.1, "step": lowest.0 }));
    // The weights are those of that step
    let until = with(&wild, "steps", &lowest.0.to_string());
    place.sft("until", &until).unwrap();
    let weights = |run: &str| fs::read(place.path(run).join("model/model.safetensors")).unwrap();
    assert!(weights("best") == weights("until") && weights("best") != weights("last"));
}
