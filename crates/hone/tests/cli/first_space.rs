//! The first space of a completion of raw text: whichever command samples or judges, prompt and completion, one after the other, are what the
//! model wrote, with a tokenizer that writes a space of its own before a text as with one that does not.

use std::fs::{self, File};
use std::path::Path;

use hone_compute::{Engine, EngineOptions, Isa, Precision};
use hone_model::{Dtype, Transformer};
use hone_testing::spaced_tokenizer_json;
use hone_text::{SkipSpecial, Tokenizer};
use serde_json::{Map, Value};

use crate::common::{Fixture, architecture};

/// The fixture with a random model `spaced` and a random reward model `spaced-reward`, whose tokenizer is of sentencepiece's kind.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let options = EngineOptions {
        isa: Some(Isa::Portable),
        precision: Precision::F32,
        threads: Some(1),
    };
    let engine = Engine::new(&options).unwrap();
    let json = spaced_tokenizer_json();
    let tokens = Tokenizer::from_json(&json).unwrap().vocab_size();
    for (name, seed) in [("spaced", 8), ("spaced-reward", 9)] {
        let shape = architecture().architecture(tokens).unwrap();
        let mut model = Transformer::random(&engine, shape, seed);
        if seed == 9 {
            model.add_reward_head(&engine, seed);
        }
        let dir = fixture.path(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("config.json"), model.config_json(&Map::new())).unwrap();
        let mut weights = File::create(dir.join("model.safetensors")).unwrap();
        model.write_weights(&engine, Dtype::F32, &mut weights).unwrap();
        fs::write(dir.join("tokenizer.json"), &json).unwrap();
    }
    fixture.file("prompts.jsonl", "{\"prompt\":\"go on\"}\n");
    fixture.file("rule.toml", format!("{RULE}\n"));
    fixture
}

/// What begins with a space is worth 1.
const RULE: &str = "[[rewards]]\nkind = \"regex\"\npattern = \"^ \"\n";

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    let numbers = value.as_array().unwrap().iter();
    numbers.map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Checks that completions with their prompts are what their tokens are decoded to, and gives how many begin with a space.
fn check(rows: &[Value], tokenizer: &Tokenizer) -> usize {
    for row in rows {
        let mut own = ids(&row["completion_ids"]);
        if row["finish_reason"] == "stop" {
            own.pop();
        }
        // What a tokenizer puts around a text is none of it
        let prompt = ids(&row["prompt_ids"])
            .into_iter()
            .filter(|&id| !tokenizer.is_special(id));
        let all: Vec<u32> = prompt.chain(own).collect();
        let whole = tokenizer.decode(&all, SkipSpecial::No).unwrap();
        assert_eq!(format!("{}{}", text(&row["prompt"]), text(&row["completion"])), whole);
    }
    rows.iter()
        .filter(|row| text(&row["completion"]).starts_with(' '))
        .count()
}

fn sample<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["sample", "--model", model, "--max-new-tokens", "4"], more].concat()
}

#[test]
fn cli_a_completions_first_space_is_sampled_judged_and_shown_alike() {
    let fixture = fixture();
    let tokenizer = Tokenizer::from_dir(fixture.path("spaced")).unwrap();
    let some = |count: usize, of: usize| {
        assert!(
            count > 0 && count < of,
            "{count} of {of} begin with a space: nothing is tested"
        )
    };
    // 1. `hone sample`, and the same as it comes
    let sampled = fixture
        .hone(&sample("spaced", &["--prompt", "go on", "--n", "40", "--json"]))
        .json();
    some(check(&sampled, &tokenizer), 40);
    let rows = fixture
        .hone(&sample("spaced", &["--input", "prompts.jsonl", "--n", "40", "--json"]))
        .json();
    assert_eq!(rows.len(), 40);
    assert!(
        rows.iter()
            .zip(&sampled)
            .all(|(a, b)| a["completion"] == b["completion"])
    );
    let mut streamed = Vec::new();
    for seed in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        let one = ["--prompt", "go on", "--seed", seed];
        let row = &fixture
            .hone(&sample("spaced", &[&one[..], &["--json"]].concat()))
            .json()[0];
        // On a terminal control tokens are left out
        if !text(&row["completion"]).contains('<') {
            let shown = fixture.hone(&sample("spaced", &one)).stdout();
            assert_eq!(shown, format!("{}\n", text(&row["completion"])));
            streamed.push(shown.starts_with(' '));
        }
    }
    some(streamed.iter().filter(|first| **first).count(), streamed.len());
    // 2. `hone best-of`: a rule sees the text as it is, and a model that judges reads the tokens that it has there
    let best_of = |judge: &[&str], out: &str| {
        let base = [
            "best-of",
            "--model",
            "spaced",
            "--input",
            "prompts.jsonl",
            "--n",
            "40",
            "--max-new-tokens",
            "4",
            "--keep",
            "all",
        ];
        let ran = fixture.hone(&[&base[..], judge, &["--out", out]].concat());
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        lines(&fixture.path(out))
    };
    for row in best_of(&["--rewards", "rule.toml"], "ruled.jsonl") {
        assert!(
            sampled.iter().any(|other| other["completion"] == row["completion"]),
            "{row}"
        );
        assert_eq!(
            row["score"].as_f64(),
            Some(f64::from(u8::from(text(&row["completion"]).starts_with(' ')))),
            "{row}"
        );
    }
    let mut compared = 0;
    for row in best_of(&["--likelihood", "spaced"], "likely.jsonl") {
        let completion = text(&row["completion"]);
        if completion.is_empty() || completion.contains('<') {
            continue;
        }
        let whole = serde_json::json!({ "text": format!("go on{completion}") }).to_string();
        let read = fixture
            .hone_with(
                &["logprobs", "--model", "spaced", "--input", "-", "--json"],
                &whole,
                &[],
            )
            .json();
        let prompt = ids(&sampled[0]["prompt_ids"]);
        assert!(
            ids(&read[0]["ids"]).starts_with(&prompt),
            "the completion changes the prompt's tokens"
        );
        let own: Vec<f64> = read[0]["logprobs"].as_array().unwrap()[prompt.len()..]
            .iter()
            .map(|x| x.as_f64().unwrap())
            .collect();
        let mean = own.iter().sum::<f64>() / own.len() as f64;
        assert!((row["score"].as_f64().unwrap() - mean).abs() < 1e-6, "{row}: {mean}");
        compared += 1;
    }
    assert!(compared > 10, "{compared}");
    // 3. A reward model, which reads what the prompt and what goes on with it come to, wherever one ends and the other begins
    let parts = "{\"prompt\":\"go on\",\"completion\":\" and on.\"}\n{\"prompt\":\"go on an\",\"completion\":\"d on.\"}\n\
                 {\"prompt\":\"go on and on.\",\"completion\":\"\"}\n{\"prompt\":\"go on\",\"completion\":\"and on.\"}\n";
    let scores: Vec<f64> = fixture
        .hone_with(
            &["score", "--model", "spaced-reward", "--input", "-", "--json"],
            parts,
            &[],
        )
        .json()
        .iter()
        .map(|row| row["score"].as_f64().unwrap())
        .collect();
    assert!(
        scores[0] == scores[1] && scores[1] == scores[2] && scores[2] != scores[3],
        "{scores:?}"
    );
}

#[test]
fn cli_stages_and_comparisons_judge_a_first_space() {
    let fixture = fixture();
    // Of answers with their worth: it is that of the space, and there are both
    let agree = |answers: Vec<(String, f64)>| {
        for (response, worth) in &answers {
            assert_eq!(*worth, f64::from(u8::from(response.starts_with(' '))), "{response:?}");
        }
        let worth: f64 = answers.iter().map(|(_, worth)| worth).sum();
        assert!(
            worth > 0.0 && worth < answers.len() as f64,
            "{worth} of {} begin with a space",
            answers.len()
        );
    };
    fixture.file(
        "grpo.toml",
        format!(
            "[model]\npath = \"spaced\"\n[data]\nprompts = [\"prompts.jsonl\"]\nheld_out = 0.0\n[grpo]\nupdates = 1\nrollout_batch = 32\n\
             samples_per_prompt = 32\nminibatch = 32\nmax_new_tokens = 4\nmissing_eos = \"keep\"\n[eval]\nevery = 1\nsamples = 32\n{RULE}"
        ),
    );
    let ran = fixture.hone(&["grpo", "grpo.toml"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    let samples = lines(&fixture.path("runs/grpo/samples.jsonl"));
    agree(
        samples
            .iter()
            .map(|row| (text(&row["response"]).to_owned(), row["score"].as_f64().unwrap()))
            .collect(),
    );
    fixture.file(
        "spaces.toml",
        "[compare]\nstart = \"spaced\"\nsamples = 32\nmax_new_tokens = 4\nresamples = 10\n[judge]\nprompts = [\"prompts.jsonl\"]\n\
         rewards = [{ kind = \"regex\", pattern = \"^ \" }]\n[[method]]\nname = \"start\"\nkind = \"start\"\n",
    );
    let ran = fixture.hone(&["compare", "spaces.toml"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    let verdicts = lines(&fixture.path("runs/spaces/judged/start/seed-1/verdicts.jsonl"));
    agree(
        verdicts
            .iter()
            .map(|row| (text(&row["response"]).to_owned(), row["reward"].as_f64().unwrap()))
            .collect(),
    );
}

#[test]
fn cli_a_model_that_was_really_trained_keeps_its_spaces() {
    let fixture = fixture();
    let own = fixture.path("model");
    let mut models = vec![(own, "the quick")];
    if let Some(data) = std::env::var_os("HONE_DATA") {
        models.push((Path::new(&data).join("models/stories260k"), "Once upon a time"));
    }
    for (model, prompt) in models {
        let tokenizer = Tokenizer::from_dir(&model).unwrap();
        let model = model.to_str().unwrap();
        for prompt in [prompt, &format!("{prompt} ")] {
            let rows = fixture
                .hone(&sample(model, &["--prompt", prompt, "--n", "16", "--json"]))
                .json();
            check(&rows, &tokenizer);
        }
        fixture.file("own.jsonl", serde_json::json!({ "prompt": prompt }).to_string());
        // Through a template a text is a turn, so this is for the one that has none
        if tokenizer.chat_template().is_none() {
            let rows = fixture
                .hone(&sample(model, &["--prompt", prompt, "--n", "16", "--json"]))
                .json();
            assert!(check(&rows, &tokenizer) > 0, "no completion begins with a word");
            let best = [
                "best-of",
                "--model",
                model,
                "--input",
                "own.jsonl",
                "--n",
                "16",
                "--max-new-tokens",
                "4",
                "--rewards",
                "rule.toml",
                "--keep",
                "all",
                "--out",
                "best.jsonl",
            ];
            let ran = fixture.hone(&best);
            assert_eq!(ran.code(), 0, "{}", ran.stderr());
            let kept = lines(&fixture.path("best.jsonl"));
            assert_eq!(kept.len(), 16);
            for (row, sampled) in kept.iter().zip(&rows) {
                assert_eq!(row["completion"], sampled["completion"]);
                assert_eq!(
                    row["score"].as_f64(),
                    Some(f64::from(u8::from(text(&row["completion"]).starts_with(' '))))
                );
            }
        }
    }
}
