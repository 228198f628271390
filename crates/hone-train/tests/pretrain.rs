//! Pre-training at smoke scale.

mod common;

use std::fs;

use common::{Place, engine, pretrain_toml, with, with_train, without};
use hone_train::{Outcome, artefact};

#[test]
fn the_loss_falls_from_that_of_a_guess() {
    let place = Place::new();
    let outcome = place.pretrain("run", &pretrain_toml(40)).unwrap();
    let Outcome::Done { model, summary, before: false } = outcome else { panic!("{outcome:?}") };
    assert_eq!(summary["steps"], 40);
    assert_eq!(summary["sources"][0]["source"], "text.txt");

    let metrics = place.metrics("run");
    let loss = &metrics["train/loss"];
    assert_eq!(loss.iter().map(|(step, _)| *step).collect::<Vec<_>>(), (1..=40).collect::<Vec<_>>());
    let engine = engine();
    let loaded = artefact::load(&engine, &model).unwrap();
    let guess = (loaded.tokenizer.vocab_size() as f64).ln();
    assert!((loss[0].1 - guess).abs() < 0.3, "at first {} of {guess}", loss[0].1);
    // Six colours and five things: 6 bits a sentence of about six tokens are left in the end
    assert!(loss[39].1 < 0.5 * guess, "{}", loss[39].1);
    let held_out = &metrics["eval/loss"];
    assert_eq!(held_out.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [5, 10, 15, 20, 25, 30, 35, 40]);
    assert!(held_out[7].1 < 0.6 * held_out[0].1);
    assert_eq!(metrics["eval/loss/text.txt"], *held_out, "one source is all sources");
    assert!(metrics["eval/bits_per_byte"][7].1 < 2.0);
    // The rate rises over two steps and falls to a tenth
    let rates = &metrics["learning_rate"];
    assert!(rates[0].1 < rates[1].1 && (rates[39].1 / 3e-3 - 0.1).abs() < 0.02, "{rates:?}");
    assert!(fs::read_to_string(place.path("run/report.html")).unwrap().contains("finished"));

    // It goes on from there, as from any model
    let more = without(&without(&without(&without(&pretrain_toml(2), "width"), "layers"), "heads"), "context")
        .replace("[model.new]", "")
        .replace("tokenizer = \"tokenizer\"", "path = \"run/model\"");
    place.pretrain("more", &more).unwrap();
    assert!(place.metrics("more")["train/loss"][0].1 < 0.6 * guess);
}

#[test]
fn epochs_pass_over_the_text_as_often_as_they_say() {
    let place = Place::new();
    let toml = with_train(&without(&pretrain_toml(1), "steps"), "epochs = 0.5");
    let Outcome::Done { summary, .. } = place.pretrain("run", &toml).unwrap() else { panic!("stopped") };
    let tokens = summary["sources"][0]["tokens"].as_f64().unwrap();
    assert_eq!(summary["steps"].as_f64().unwrap(), (tokens * 0.5 / (8.0 * 32.0)).ceil());
    let epochs = summary["sources"][0]["epochs"].as_f64().unwrap();
    assert!((epochs - 0.5).abs() < 0.1, "{epochs}");
}

/// Two sources: weights say how often each is drawn, and both are evaluated on their own.
#[test]
fn a_mixture_is_drawn_by_weight() {
    let place = Place::new();
    place.write("other.txt", &"A bird sings at dawn.\n".repeat(200));
    let sources = r#"[{ path = "text.txt", weight = 3.0 }, { path = "other.txt", weight = 1.0 }]"#;
    let toml = with(&pretrain_toml(10), "train", sources);
    let Outcome::Done { summary, .. } = place.pretrain("run", &toml).unwrap() else { panic!("stopped") };
    let drawn = |i: usize| summary["sources"][i]["windows_drawn"].as_u64().unwrap();
    assert_eq!((drawn(0), drawn(1)), (60, 20));
    let metrics = place.metrics("run");
    assert!(metrics.contains_key("eval/loss/text.txt") && metrics.contains_key("eval/loss/other.txt"));
}
