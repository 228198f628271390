//! What the reward model is given, and what happens where it cannot read it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use hone_compute::Isa;
use hone_data::{Prompt, PromptInput, Source};
use hone_generate::text_of;
use hone_run::{Event, ExitStatus, Observer, Resolved, Shutdown};
use hone_text::{Tokenizer, TrainOptions, train_bpe};

use super::tests::config;
use super::{PpoConfig, run};
use crate::rollout::trials::{engine, job, metrics, model_of, reward_model, save, tokenizer, world};
use crate::rollout::{JudgeSection, MissingEos, PreparedPrompt, Prompts, Reading, Response};
use crate::scorer::Scorer;
use crate::{Job, Outcome};

/// Messages, in their order.
#[derive(Default)]
struct Messages(Mutex<Vec<String>>);

impl Observer for Messages {
    fn event(&self, event: &Event) {
        if let Event::Message(text) = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}

/// A run of a few updates, with what it said.
fn start(dir: &Path, name: &str, c: PpoConfig) -> (crate::Result<Outcome>, Vec<String>) {
    let heard = Arc::new(Messages::default());
    let job = Job {
        observer: heard.clone(),
        ..job(dir, name, Shutdown::default())
    };
    let outcome = run(&job, &Resolved::from_config(c).unwrap());
    let said = heard.0.lock().unwrap().clone();
    (outcome, said)
}

/// Replaces the reward model by one of another context, with a tokenizer of its own if that is given.
fn reward_of(dir: &Path, own: Option<&Tokenizer>, context: usize) {
    let (engine, shared) = (engine(Isa::detect()), tokenizer());
    let tokenizer = own.unwrap_or(&shared);
    let mut reward = model_of(&engine, tokenizer, (context, 2));
    reward.add_reward_head(&engine, 2);
    save(&engine, &dir.join("reward"), tokenizer, &reward);
}

/// Tokens of the longest prompt of the world.
fn longest(dir: &Path, tokenizer: &Tokenizer) -> usize {
    let mut data = config(1).data;
    data.max_prompt_length = Some(1_000);
    let job = job(dir, "unused", Shutdown::default());
    let chat = hone_text::Chat::new(tokenizer).unwrap();
    let prompts = Prompts::load(&job, ("data.prompts", &data), (tokenizer, Some(&chat)), 1).unwrap();
    prompts.longest()
}

fn with(missing_eos: MissingEos, updates: u64) -> PpoConfig {
    let mut c = config(updates);
    c.ppo.missing_eos = missing_eos;
    c
}

#[test]
fn sampled_tokens_are_scored_as_they_are() {
    let (engine, tokenizer) = (engine(Isa::detect()), tokenizer());
    let scorer = Scorer::new(reward_model(&engine, &tokenizer), tokenizer.clone()).unwrap();
    let reading = Reading::of(&scorer, &tokenizer).unwrap();
    let end = tokenizer.token_to_id("<|im_end|>").unwrap();
    assert_eq!(reading, Reading::Tokens { end: Some(end) });
    let prompt = PreparedPrompt {
        prompt: Prompt {
            input: PromptInput::Text("the cat".into()),
            extra: serde_json::Map::new(),
        },
        ids: Arc::from([5, 9, 30]),
    };
    // Two tokens whose text is encoded as one, and a control token: neither survives the way through text
    let inside = tokenizer.token_to_id("<|im_start|>").unwrap();
    let bytes = tokenizer.encode("a", hone_text::AddSpecial::No).unwrap();
    let ids = [bytes[0], inside, bytes[0]];
    let text = text_of(&tokenizer, &ids).unwrap();
    assert_eq!(text, "a<|im_start|>a");
    let response = Response {
        index: 0,
        prompt: &prompt,
        ids: &ids,
        text: &text,
    };
    let got = reading.scores(&engine, &scorer, &[response]).unwrap();
    let sequence = [5, 9, 30, bytes[0], inside, bytes[0], end];
    let expected = scorer.score_tokens(&engine, &[&sequence]).unwrap()[0];
    assert_eq!(got.scores, [Some(expected)]);
    let without = [5, 9, 30, bytes[0], bytes[0], end];
    assert_ne!(scorer.score_tokens(&engine, &[&without]).unwrap()[0], expected);
    // A row of the embedding that no token has does not stop anything either
    assert_eq!(text_of(&tokenizer, &[bytes[0], 9_999, bytes[0]]).unwrap(), "a\u{FFFD}a");
}

#[test]
fn a_cut_response_whose_score_is_replaced_is_not_scored() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    // Every response fits, but not with an end token behind one that was cut
    let fits = longest(dir.path(), &tokenizer()) + 8;
    reward_of(dir.path(), None, fits);
    let (outcome, _) = start(dir.path(), "replace", with(MissingEos::Replace, 2));
    outcome.unwrap();
    for line in metrics(&dir.path().join("replace")) {
        assert_eq!(line["completions/unscorable"], 0.0, "{line}");
        assert!(line["completions/ended"].as_f64().unwrap() < 1.0, "{line}");
    }
    let (outcome, _) = start(dir.path(), "keep", with(MissingEos::Keep, 2));
    let error = outcome.unwrap_err();
    assert_eq!(error.exit_status(), ExitStatus::Usage);
    let said = error.to_string();
    let numbers = format!(
        "{} tokens and an end token makes {}; the reward model's context is {fits}",
        fits - 8,
        fits + 1
    );
    assert!(
        said.starts_with("ppo.max_new_tokens: is 8") && said.contains(&numbers),
        "{said}"
    );
}

#[test]
fn what_cannot_be_scored_is_counted_and_said_once() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let options = TrainOptions {
        vocab_size: 270,
        ..TrainOptions::default()
    };
    let mut own = train_bpe(std::iter::once("another text".repeat(9)), &options).unwrap();
    own.add_chat_tokens().unwrap();
    // Its tokens are bytes, so some responses are longer than its context and some are not
    let context = longest(dir.path(), &own) + 20;
    reward_of(dir.path(), Some(&own), context);
    let (outcome, said) = start(dir.path(), "run", with(MissingEos::Keep, 2));
    outcome.unwrap();
    let lines = metrics(&dir.path().join("run"));
    for line in &lines {
        let count = line["completions/unscorable"].as_f64().unwrap();
        assert!(count > 0.0 && count < 32.0, "{line}");
    }
    let told: Vec<_> = said.iter().filter(|s| s.contains("cannot be scored")).collect();
    assert_eq!(told.len(), 1, "{said:?}");
    let reason = format!("the reward model's context is {context}");
    assert!(told[0].contains(&reason), "{told:?}");
}

#[test]
fn what_a_held_out_judge_cannot_score_counts_as_the_worst() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    let options = TrainOptions {
        vocab_size: 270,
        ..TrainOptions::default()
    };
    let mut own = train_bpe(std::iter::once("another text".repeat(9)), &options).unwrap();
    own.add_chat_tokens().unwrap();
    let rows = (0..8).map(|i| format!("{{\"prompt\": \"where is {i}\"}}\n"));
    std::fs::write(dir.path().join("held-out.jsonl"), rows.collect::<String>()).unwrap();
    let start = |name: &str, context: usize| {
        reward_of(dir.path(), Some(&own), context);
        let mut c = with(MissingEos::Keep, 2);
        // What practice takes for such answers would be the best of all
        c.ppo.missing_eos_score = 1e6;
        c.judge = Some(JudgeSection {
            prompts: vec![Source::new("held-out.jsonl")],
            every: 1,
            samples: 8,
            reward: Some("reward".into()),
            ..JudgeSection::default()
        });
        start(dir.path(), name, c)
    };
    let context = longest(dir.path(), &own) + 20;
    let (outcome, said) = start("run", context);
    let Outcome::Done { summary, .. } = outcome.unwrap() else {
        panic!("not done")
    };
    for line in metrics(&dir.path().join("run")) {
        let count = line["judge/unscorable"].as_f64().unwrap();
        assert!(count > 0.0 && count < 64.0, "{line}");
        assert!(line["judge/scores"].as_f64().unwrap() < 1e3, "{line}");
    }
    assert!(
        summary["judge"]["unscorable"]["best"].as_u64().unwrap() > 0,
        "{summary}"
    );
    let told: Vec<_> = said
        .iter()
        .filter(|s| s.contains("the held-out judge cannot score"))
        .collect();
    assert_eq!(told.len(), 1, "{said:?}");
    // Where it can score nothing at all, it is no judge
    let (outcome, _) = start("none", 4);
    let error = outcome.unwrap_err();
    assert_eq!(error.exit_status(), ExitStatus::Usage);
    let said = error.to_string();
    assert!(
        said.starts_with("judge: can score none of the 64 answers of its first look: "),
        "{said}"
    );
}
