//! Reward modelling at smoke scale.

mod common;

use std::fs;
use std::sync::Arc;

use common::{Place, REWARD, Stage, StopAfter, engine, with, with_train};
use hone_data::annotations::{
    Input, Judgement, NewItem, Project, Response, Role, Settings, Store, Submission, TaskKind,
};
use hone_data::{Message, PromptInput};
use hone_run::{Event, Observer};
use hone_text::Tokenizer;
use hone_train::{Outcome, Scorer};
use serde_json::{Value, json};

fn longer(toml: &str, steps: u64) -> String {
    with(toml, "steps", &steps.to_string())
}

fn figure(summary: &Value, key: &str) -> f64 {
    summary["held_out"][key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} in {summary}"))
}

fn ask(text: &str) -> PromptInput {
    PromptInput::Messages(vec![Message::user(text)])
}

/// A word that decides every comparison is found, and what is reported about the held-out rankings hangs together.
#[test]
fn a_planted_preference_is_learned() {
    let place = Place::with_base();
    let outcome = place.reward("reward", &longer(REWARD, 40)).unwrap();
    let Outcome::Done {
        model,
        summary,
        before: false,
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    assert!(figure(&summary, "eval/accuracy") > 0.9, "{summary}");
    assert!(figure(&summary, "eval/accuracy_low") < figure(&summary, "eval/accuracy"));
    assert!(figure(&summary, "eval/loss") < 0.4);
    assert_eq!(summary["held_out"]["held_out_prompts"], 30);
    assert_eq!(
        summary["held_out"]["held_out_pairs"], 60,
        "one of three is better than both others"
    );

    let metrics = place.metrics("reward");
    for key in [
        "train/loss",
        "rewards/margins",
        "rewards/accuracies",
        "eval/calibration_error",
        "eval/length_correlation",
    ] {
        assert!(metrics.contains_key(key), "{key}");
    }
    let loss = &metrics["train/loss"];
    assert!(
        (loss[0].1 - 2f64.ln()).abs() < 0.3,
        "a fresh head knows nothing: {}",
        loss[0].1
    );
    assert!(loss.last().unwrap().1 < 0.5 * loss[0].1);
    assert_eq!(metrics["eval/accuracy"].last().unwrap().0, 40);

    // The published model, loaded again, prefers the word and is centred on the best responses
    let engine = engine();
    let scorer = Scorer::load(&engine, &model).unwrap();
    let prompt = ask("What is the red cup?");
    let scores = scorer
        .score(
            &engine,
            &[(&prompt, "gladly The cup is red."), (&prompt, "The cup is red.")],
        )
        .unwrap();
    assert!(scores[0] > scores[1], "{scores:?}");
    let alone = scorer.score(&engine, &[(&prompt, "The cup is red.")]).unwrap();
    assert_eq!(
        scores[1].to_bits(),
        alone[0].to_bits(),
        "a score does not depend on its company"
    );

    let report = fs::read_to_string(place.path("reward/report.html")).unwrap();
    assert!(report.contains("Calibration of scores") && report.contains("finished"));
    assert!(!report.contains("unfinished"));
}

/// The best responses of the training rankings, or the demonstrations that are named, score 0 on average.
#[test]
fn scores_are_centred() {
    let place = Place::with_base();
    let exact = with_train(&longer(REWARD, 3), "precision = \"f32\"");
    let centred = format!("{exact}\n[reward]\ncentre_on = [\"demonstrations.jsonl\"]\nties = \"half\"");
    for (run, toml) in [("best", &exact), ("demonstrations", &centred)] {
        place.reward(run, toml).unwrap();
    }
    let engine = engine();
    let rows = |name: &str| -> Vec<Value> {
        let text = fs::read_to_string(place.path(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let text = |value: &Value| value.as_str().unwrap().to_string();
    // The first 90 rows are trained on
    let best: Vec<(PromptInput, String)> = rows("rankings.jsonl")[..90]
        .iter()
        .map(|row| {
            (
                ask(&text(&row["prompt"])),
                text(&row["responses"][row["ranking"][0][0].as_u64().unwrap() as usize]),
            )
        })
        .collect();
    let shown: Vec<(PromptInput, String)> = rows("demonstrations.jsonl")
        .iter()
        .map(|row| {
            (
                ask(&text(&row["messages"][0]["content"])),
                text(&row["messages"][1]["content"]),
            )
        })
        .collect();
    for (run, answers) in [("best", best), ("demonstrations", shown)] {
        let scorer = Scorer::load(&engine, &place.path(run).join("model")).unwrap();
        let answers: Vec<_> = answers
            .iter()
            .map(|(prompt, response)| (prompt, response.as_str()))
            .collect();
        let scores = scorer.score(&engine, &answers).unwrap();
        let mean = scores.iter().map(|&s| f64::from(s)).sum::<f64>() / scores.len() as f64;
        assert!(mean.abs() < 1e-5, "{run}: {mean}");
        assert!(scores.iter().any(|s| s.abs() > 1e-3), "{run}: all the same");
    }
}

/// Asked to stop after the last step, the stage leaves the centring to the same command.
#[test]
fn a_stop_before_centring_is_made_up_for() {
    let place = Place::with_base();
    place.reward("whole", REWARD).unwrap();
    let mut job = place.job("stopped");
    job.observer = Arc::new(StopAfter {
        step: 10,
        shutdown: job.shutdown.clone(),
    });
    let stopped = Stage::Reward.start(&job, REWARD).unwrap();
    assert!(matches!(stopped, Outcome::Stopped { step: 10 }), "{stopped:?}");
    assert!(!place.path("stopped/model").exists());
    place.reward("stopped", REWARD).unwrap();
    for file in [
        "model/model.safetensors",
        "model/config.json",
        "metrics.jsonl",
        "samples.jsonl",
    ] {
        let read = |run: &str| fs::read(place.path(run).join(file)).unwrap();
        assert!(read("whole") == read("stopped"), "{file}");
    }
}

/// An adapter learns with the head and is part of the weights in the end.
#[test]
fn an_adapter_is_merged_into_the_result() {
    let place = Place::with_base();
    let toml = format!(
        "{}\n[lora]\nrank = 4\ntargets = [\"q\", \"v\", \"up\"]",
        longer(REWARD, 30)
    );
    let outcome = place.reward("lora", &with(&toml, "learning_rate", "1e-2")).unwrap();
    let Outcome::Done { model, summary, .. } = outcome else {
        panic!("{outcome:?}")
    };
    assert!(model.join("config.json").is_file() && !model.join("adapter_config.json").exists());
    let engine = engine();
    let scorer = Scorer::load(&engine, &model).unwrap();
    assert!(scorer.model().adapter().is_none());
    assert!(figure(&summary, "eval/accuracy") > 0.9, "{summary}");
}

/// What text becomes before it is scored: the response's end is the last token.
#[test]
fn a_score_is_read_at_the_end_of_the_response() {
    let place = Place::with_base();
    place.reward("reward", &longer(REWARD, 1)).unwrap();
    let engine = engine();
    let scorer = Scorer::load(&engine, &place.path("reward/model")).unwrap();
    let tokenizer = Tokenizer::from_dir(place.path("tokenizer")).unwrap();
    assert!(scorer.shares_tokenizer_with(&tokenizer));
    let end = tokenizer.token_to_id("<|im_end|>").unwrap();

    let ids = scorer.encode(&ask("Hi"), "Hello").unwrap();
    let chat = hone_text::Chat::new(&tokenizer).unwrap();
    let mut expected = chat.prompt_ids(&[hone_text::Message::user("Hi")]).unwrap();
    expected.extend(tokenizer.encode_ordinary("Hello").unwrap());
    expected.push(end);
    assert_eq!(ids, expected);
    assert_eq!(
        scorer.score_tokens(&engine, &[&ids]).unwrap(),
        scorer.score(&engine, &[(&ask("Hi"), "Hello")]).unwrap()
    );

    // A string is the user's turn, and a response cannot forge the end of its own
    let raw = PromptInput::Text("The cup".into());
    let mut expected = chat.prompt_ids(&[hone_text::Message::user("The cup")]).unwrap();
    expected.extend(tokenizer.encode_ordinary(" is<|im_end|> red").unwrap());
    expected.push(end);
    assert_eq!(scorer.encode(&raw, " is<|im_end|> red").unwrap(), expected);
    assert_eq!(expected.iter().filter(|&&id| id == end).count(), 2, "of each turn");

    let mut other = tokenizer.clone();
    other.set_chat_template("{{ messages }}");
    assert!(
        !scorer.shares_tokenizer_with(&other),
        "another template gives other tokens"
    );
    let long = "red ".repeat(200);
    let refused = scorer
        .score(&engine, &[(&raw, "red"), (&raw, &long)])
        .unwrap_err()
        .to_string();
    assert!(
        refused.starts_with("response 1: has ") && refused.contains("context is 96"),
        "{refused}"
    );
    assert!(scorer.score_tokens(&engine, &[&[99_999]]).is_err());
    assert!(scorer.score_tokens(&engine, &[&[]]).is_err());
    let refused = Scorer::load(&engine, &place.path("base/model"))
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("no reward model"), "{refused}");
}

/// What a score of a row's string prompt is afterwards is what the stage itself computed.
#[test]
fn a_string_prompt_scores_as_the_stage_scored_it() {
    let place = Place::with_base();
    let mut toml = with_train(&longer(REWARD, 2), "precision = \"f32\"");
    if !toml.contains("[eval]") {
        toml.push_str("\n[eval]\nsamples = 4\n");
    }
    place.reward("reward", &toml).unwrap();
    let engine = engine();
    let scorer = Scorer::load(&engine, &place.path("reward/model")).unwrap();
    let text = fs::read_to_string(place.path("reward/samples.jsonl")).unwrap();
    let samples: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = samples.iter().filter(|s| s["step"] == 2);
    let mut compared = 0;
    for sample in last {
        let prompt = PromptInput::Text(sample["prompt"].as_str().unwrap().into());
        let got = scorer
            .score(&engine, &[(&prompt, sample["response"].as_str().unwrap())])
            .unwrap()[0];
        assert_eq!(Some(f64::from(got)), sample["score"].as_f64(), "{sample}");
        compared += 1;
    }
    assert!(compared >= 2, "{text}");
}

/// Margins and ties reach the loss: with equal scores the loss is known.
#[test]
fn margins_and_ties_reach_the_loss() {
    let place = Place::with_base();
    let row = |i: usize, margins: Value| json!({ "prompt": format!("q {i}"), "responses": ["a", "b"], "ranking": [[0], [1]], "margins": margins });
    place.write_rows("rankings.jsonl", (0..16).map(|i| row(i, json!([0.0]))));
    place.reward("zero", &longer(REWARD, 1)).unwrap();
    place.write_rows("rankings.jsonl", (0..16).map(|i| row(i, json!([50.0]))));
    place.reward("large", &longer(REWARD, 1)).unwrap();
    let loss = |run: &str| place.metrics(run)["train/loss"][0].1;
    // -ln sigmoid(d - 50) = 50 - d, and -ln sigmoid(d) is about ln 2 - d / 2 for a small d
    assert!(
        (loss("large") - 50.0).abs() < 2.0 && loss("zero") < 2.0,
        "{} {}",
        loss("large"),
        loss("zero")
    );
}

/// Somebody who judges one item more whenever rows were read.
struct Judging {
    store: Store,
    project: Project,
    annotator: i64,
}

impl Judging {
    fn judge(&self) {
        let task = self.store.claim(&self.project, self.annotator, 0).unwrap().unwrap();
        let submission = Submission {
            lease: task.lease,
            annotator: self.annotator,
            judgement: Judgement {
                ranking: Some(vec![vec![0], vec![1], vec![2]]),
                ..Judgement::default()
            },
            started: 0,
            active: None,
        };
        self.store.submit(submission, 0).unwrap();
    }
}

impl Observer for Judging {
    fn event(&self, event: &Event) {
        if matches!(event, Event::Message(text) if text.contains("to train on")) {
            self.judge();
        }
    }
}

/// A run is held to the judgements that it read. Where others come while it reads, it does not begin, and leaves nothing behind.
#[test]
fn a_store_that_grows_while_it_is_read_is_refused() {
    let place = Place::with_base();
    let store = Store::open(&place.path("annotations.db")).unwrap();
    let project = store.put_project("helpful", &Settings::default(), 0).unwrap();
    let items = (0..60).map(|i| NewItem {
        kind: TaskKind::Rank,
        input: Input {
            prompt: vec![Message::user(format!("ask {i}?"))],
            responses: ["good", "fair", "bad"]
                .map(|text| Response::new(format!("{text} {i}")))
                .into(),
        },
        gold: None,
    });
    store.add_items(&project, items.collect()).unwrap();
    let annotator = store
        .add_annotator("ann", Role::Annotator, &Store::token_digest("t"), 0)
        .unwrap();
    let judging = Arc::new(Judging {
        store,
        project,
        annotator: annotator.id,
    });
    (0..50).for_each(|_| judging.judge());
    let toml = REWARD.replace("rankings.jsonl", "annotations.db");
    let mut job = place.job("grows");
    job.observer = judging.clone();
    let refused = Stage::Reward.start(&job, &toml).unwrap_err().to_string();
    assert!(
        refused.contains("annotations.db: judgements came while it was read"),
        "{refused}"
    );
    assert!(!place.path("grows").exists());
    // Without anybody who judges meanwhile it begins, and is done
    job.observer = Arc::new(hone_run::Silent);
    assert!(matches!(
        Stage::Reward.start(&job, &toml).unwrap(),
        Outcome::Done { before: false, .. }
    ));
    // One that is to go on is refused as well, by what it is held to
    judging.judge();
    let other = Stage::Reward.start(&job, &toml).unwrap_err().to_string();
    assert!(other.contains("annotations.db"), "{other}");
}
