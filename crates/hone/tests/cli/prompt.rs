//! `hone prompt`: what the model gets in each frame, which examples, options by each score, files that are gone on with.

use std::fs;

use serde_json::{Value, json};

use crate::common::{Fixture, copy, keys};

const EXAMPLES: &str = concat!(
    "{\"question\":\"a b?\",\"answer\":\"c\"}\n",
    "{\"question\":\"the fox?\",\"answer\":\"red\"}\n",
    "{\"question\":\"a dog?\",\"answer\":\"no\"}\n",
);

/// A model without a template, and examples.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.file("examples.jsonl", EXAMPLES);
    copy(&fixture.path("model"), &fixture.path("base"));
    let path = fixture.path("base/tokenizer_config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("chat_template");
    fs::write(&path, config.to_string()).unwrap();
    fixture
}

fn prompt<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["prompt", "--model", model, "--max-new-tokens", "4"][..], more].concat()
}

/// The prompt that is shown for one question.
fn shown(fixture: &Fixture, model: &str, more: &[&str]) -> String {
    let arguments = [&prompt(model, more)[..], &["--show", "1", "--json"]].concat();
    fixture.hone(&arguments).json()[0]["prompt"]
        .as_str()
        .unwrap()
        .to_string()
}

#[test]
fn cli_prompts_are_exactly_as_each_frame_writes_them() {
    let fixture = fixture();
    let few = ["--prompt", "d?", "--examples", "examples.jsonl", "--shots", "2"];
    let qa = "Q: a b?\nA: c\n\nQ: the fox?\nA: red\n\nQ: d?\nA:";
    assert_eq!(shown(&fixture, "base", &few), qa);
    assert_eq!(shown(&fixture, "model", &[&few[..], &["--frame", "qa"]].concat()), qa);
    assert_eq!(shown(&fixture, "base", &["--prompt", " d?\n"]), "Q: d?\nA:");
    let one = ["--prompt", "d?", "--examples", "examples.jsonl", "--shots", "1"];
    let chat = "<|im_start|>user\na b?<|im_end|>\n<|im_start|>assistant\nc<|im_end|>\n<|im_start|>user\nd?<|im_end|>\n\
                <|im_start|>assistant\n";
    assert_eq!(shown(&fixture, "model", &one), chat);
    fixture.file(
        "template.txt",
        "{% for e in examples %}[{{ e.question }}={{ e.answer }}]{% endfor %}{{ question }}{{ hint }}",
    );
    fixture.file("questions.jsonl", "{\"prompt\":\"d?\",\"hint\":\"!\"}\n");
    let own = [
        "--input",
        "questions.jsonl",
        "--template",
        "template.txt",
        "--examples",
        "examples.jsonl",
    ];
    assert_eq!(shown(&fixture, "model", &own), "[a b?=c][the fox?=red][a dog?=no]d?!");
    // For a person, with the number of examples; nothing is sampled, and no file begun
    let told = fixture.hone(&prompt(
        "base",
        &[&few[..], &["--show", "3", "--out", "out.jsonl"]].concat(),
    ));
    assert_eq!(told.code(), 0, "{}", told.stderr());
    let text = told.stdout();
    assert!(
        text.starts_with("--- 1 of 1 (2 examples, ") && text.ends_with(&format!(" tokens)\n{qa}\n")),
        "{text}"
    );
    assert!(!fixture.path("out.jsonl").exists());
}

#[test]
fn cli_examples_are_chosen_as_asked_and_never_the_question_itself() {
    let fixture = fixture();
    let with = |question: &str, select: &str, shots: &str, more: &[&str]| {
        let base = [
            "--prompt",
            question,
            "--examples",
            "examples.jsonl",
            "--shots",
            shots,
            "--select",
            select,
        ];
        shown(&fixture, "base", &[&base[..], more].concat())
    };
    assert_eq!(
        with("is a fox red?", "similar", "1", &[]),
        "Q: the fox?\nA: red\n\nQ: is a fox red?\nA:"
    );
    // The most similar of two comes last
    assert!(with("my dog?", "similar", "2", &[]).ends_with("Q: a dog?\nA: no\n\nQ: my dog?\nA:"));
    // The question itself is none, though it is the most similar and the first
    assert_eq!(with("a b?", "fixed", "1", &[]), "Q: the fox?\nA: red\n\nQ: a b?\nA:");
    for select in ["fixed", "random", "similar"] {
        let all = with("a  b?", select, "9", &[]);
        assert_eq!(all.matches("A:").count(), 3, "{select}: {all}");
        assert!(!all.contains("A: c"), "{select}: {all}");
    }
    let seeds: Vec<String> = ["1", "2", "3", "4", "5", "6"]
        .map(|seed| with("d?", "random", "2", &["--seed", seed]))
        .into();
    assert!(seeds.iter().any(|prompt| *prompt != seeds[0]), "{seeds:?}");
    assert_eq!(seeds[0], with("d?", "random", "2", &[]));
}

#[test]
fn cli_fewer_examples_where_the_context_is_short_are_told_and_counted() {
    let fixture = fixture();
    fixture.file("questions.jsonl", "{\"prompt\":\"d?\"}\n{\"prompt\":\"e?\"}\n");
    let arguments = [
        "prompt",
        "--model",
        "base",
        "--input",
        "questions.jsonl",
        "--examples",
        "examples.jsonl",
        "--max-new-tokens",
        "40",
    ];
    let ran = fixture.hone(&[&arguments[..], &["--json"]].concat());
    let rows = ran.json();
    assert!(
        ran.stderr()
            .contains("2 of 2 prompts have fewer examples than asked for"),
        "{}",
        ran.stderr()
    );
    for row in &rows[..2] {
        let shots = row["shots"].as_u64().unwrap();
        assert!(shots < 3 && row["left_out"].as_u64() == Some(3 - shots), "{row}");
        // Those that are left are the last ones
        assert!(
            shots == 0 || row["prompt"].as_str().unwrap().contains("Q: a dog?\nA: no\n\nQ: "),
            "{row}"
        );
    }
    assert_eq!(rows[2]["summary"], json!({"rows": 2, "shortened": 2, "accuracy": null}));
    // Exactly what fits: one token less of an answer than what the context leaves after two examples
    let tokens = |more: &[&str]| {
        let base = [
            "--prompt",
            "d?",
            "--examples",
            "examples.jsonl",
            "--show",
            "1",
            "--json",
        ];
        let row = fixture
            .hone(&[&["prompt", "--model", "base"][..], &base, more].concat())
            .json()
            .remove(0);
        (
            row["shots"].as_u64().unwrap(),
            row["prompt_ids"].as_array().unwrap().len(),
        )
    };
    let (_, two) = tokens(&["--shots", "2", "--max-new-tokens", "1"]);
    let room = (64 - two).to_string();
    assert_eq!(tokens(&["--shots", "2", "--max-new-tokens", &room]).0, 2);
    let room = (64 - two + 1).to_string();
    assert_eq!(tokens(&["--shots", "2", "--max-new-tokens", &room]).0, 1);
}

#[test]
fn cli_answers_end_where_the_frame_ends_and_files_are_gone_on_with() {
    let fixture = fixture();
    let rows: String = (0..5)
        .map(|i| format!("{{\"prompt\":\"the dog {i}\",\"level\":{i}}}\n"))
        .collect();
    fixture.file("questions.jsonl", rows);
    // What the template writes is completed as `hone sample` completes it, to the bit
    fixture.file("template.txt", "{{ question }}");
    let plain = ["--input", "questions.jsonl", "--template", "template.txt", "--json"];
    let answers = fixture.hone(&prompt("base", &plain)).json();
    let sampled = [
        "sample",
        "--model",
        "base",
        "--input",
        "questions.jsonl",
        "--max-new-tokens",
        "4",
        "--json",
    ];
    let sampled = fixture.hone(&sampled).json();
    for (answer, sampled) in answers.iter().zip(&sampled) {
        for key in [
            "prompt",
            "completion",
            "completion_ids",
            "logprobs",
            "finish_reason",
            "level",
        ] {
            assert_eq!(answer[key], sampled[key], "{key}");
        }
    }
    // In Q:/A: form an answer is one line without white space at its ends
    let many = ["--input", "questions.jsonl", "--temperature", "3", "--out", "out.jsonl"];
    let few = ["--examples", "examples.jsonl", "--shots", "2", "--select", "random"];
    let arguments = [&prompt("base", &many)[..], &few].concat();
    let ran = fixture.hone(&arguments);
    assert_eq!(
        (ran.code(), ran.stdout()),
        (0, "out.jsonl is finished: 5 lines\n".to_string()),
        "{}",
        ran.stderr()
    );
    let whole = fs::read_to_string(fixture.path("out.jsonl")).unwrap();
    for (i, line) in whole.lines().enumerate() {
        let row: Value = serde_json::from_str(line).unwrap();
        let own = [
            "question",
            "prompt",
            "completion",
            "completion_ids",
            "logprobs",
            "finish_reason",
            "shots",
            "level",
        ];
        assert_eq!(keys(&row), own);
        let completion = row["completion"].as_str().unwrap();
        assert!(
            !completion.contains('\n') && completion == completion.trim(),
            "{completion:?}"
        );
        assert_eq!(
            (row["shots"].as_u64(), row["level"].as_u64()),
            (Some(2), Some(i as u64))
        );
    }
    // Cut anywhere, it ends with the same bytes
    for cut in [0, 3, whole.len() / 2, whole.len() - 1] {
        fs::write(fixture.path("out.jsonl"), &whole.as_bytes()[..cut]).unwrap();
        assert_eq!(fixture.hone(&arguments).code(), 0);
        assert_eq!(
            fs::read_to_string(fixture.path("out.jsonl")).unwrap(),
            whole,
            "cut at {cut}"
        );
    }
    assert!(fixture.hone(&arguments).stdout().contains("was finished before"));
    let other = [&prompt("base", &many)[..], &few[..4], &["--select", "fixed"]].concat();
    fixture.hone(&other).fails(2, &["--select (random before, fixed now)"]);
    fixture.file("examples.jsonl", EXAMPLES.replace("red", "blue"));
    fixture.hone(&arguments).fails(2, &["contents of --examples"]);
}

#[test]
fn cli_options_have_the_log_probabilities_of_hone_logprobs() {
    let fixture = fixture();
    fixture.file(
        "questions.jsonl",
        "{\"prompt\":\"who runs\",\"answer\":\"the fox\"}\n{\"prompt\":\"who sleeps\",\"answer\":1}\n{\"prompt\":\"who\",\"answer\":\"dogs\"}\n",
    );
    let options = ["the fox", "the lazy dog", "dogs"];
    let run = |model: &str, score: &str| {
        let base = [
            "--input",
            "questions.jsonl",
            "--frame",
            "qa",
            "--precision",
            "f32",
            "--json",
        ];
        let more = ["--options", "the fox,the lazy dog,dogs", "--score", score];
        let examples = ["--examples", "examples.jsonl", "--shots", "1"];
        fixture
            .hone(&prompt(model, &[&base[..], &more, &examples].concat()))
            .json()
    };
    let sums = run("base", "sum");
    let mut input = String::new();
    for row in &sums[..3] {
        for option in options {
            input += &format!(
                "{}\n",
                json!({"prompt": row["prompt"], "completion": format!(" {option}")})
            );
        }
    }
    let arguments = [
        "logprobs",
        "--model",
        "base",
        "--precision",
        "f32",
        "--input",
        "-",
        "--json",
    ];
    let scored = fixture.hone_with(&arguments, &input, &[]).json();
    let prompts = fixture
        .hone_with(
            &arguments,
            &sums[..3]
                .iter()
                .map(|row| format!("{}\n", json!({"text": row["prompt"]})))
                .collect::<String>(),
            &[],
        )
        .json();
    let (means, bytes) = (run("base", "mean"), run("base", "byte"));
    let mut right = 0;
    for (r, row) in sums[..3].iter().enumerate() {
        let start = prompts[r]["ids"].as_array().unwrap().len();
        let mut scores = Vec::new();
        for (o, option) in options.iter().enumerate() {
            let logprobs = scored[3 * r + o]["logprobs"].as_array().unwrap();
            let own: Vec<f64> = logprobs[start..].iter().map(|x| x.as_f64().unwrap()).collect();
            let sum: f64 = own.iter().map(|&x| f64::from(x as f32)).sum();
            assert_eq!(row["logprobs"][o].as_f64().unwrap(), sum);
            assert_eq!(row["scores"][o].as_f64().unwrap(), sum);
            assert_eq!(row["tokens"][o].as_u64().unwrap(), own.len() as u64);
            assert_eq!(means[r]["scores"][o].as_f64().unwrap(), sum / own.len() as f64);
            assert_eq!(bytes[r]["scores"][o].as_f64().unwrap(), sum / option.len() as f64);
            scores.push(sum);
        }
        let best = (0..3).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
        assert_eq!(row["choice"], options[best]);
        let answer = [0, 1, 2][r];
        assert_eq!(row["right"], best == answer);
        right += u64::from(best == answer);
    }
    let summary = &sums[3]["summary"];
    assert_eq!(
        (
            summary["accuracy"]["right"].as_u64(),
            summary["accuracy"]["rows"].as_u64()
        ),
        (Some(right), Some(3))
    );
    assert!(summary["accuracy"]["low"].as_f64() < summary["accuracy"]["high"].as_f64());
}

#[test]
fn cli_options_of_a_column_in_a_chat_and_for_a_person() {
    let fixture = fixture();
    fixture.file(
        "questions.jsonl",
        "{\"prompt\":\"a?\",\"options\":[\"yes\",\"no\"],\"answer\":\"no\"}\n{\"prompt\":\"b?\",\"options\":[1,2,3],\"level\":4}\n",
    );
    let base = ["--input", "questions.jsonl", "--out", "out.jsonl"];
    let ran = fixture.hone(&prompt("model", &base));
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    let text = ran.stdout();
    assert!(
        text.starts_with("accuracy ") && text.contains(" of 1\nout.jsonl is finished: 2 lines\n"),
        "{text}"
    );
    let whole = fs::read_to_string(fixture.path("out.jsonl")).unwrap();
    let rows: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (rows[0]["options"].clone(), rows[1]["options"].clone()),
        (json!(["yes", "no"]), json!(["1", "2", "3"]))
    );
    assert!(rows[0]["right"].is_boolean() && rows[1].get("right").is_none() && rows[1]["level"] == 4);
    assert!(!whole.contains("input_options"));
    // The reply's own tokens, its end not counted
    let conversation = "<|im_start|>user\na?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(rows[0]["prompt"], conversation);
    let input = format!("{}\n", json!({"prompt": conversation, "completion": "yes"}));
    let scored = fixture
        .hone_with(&["logprobs", "--model", "model", "--input", "-", "--json"], &input, &[])
        .json();
    let logprobs = scored[0]["logprobs"].as_array().unwrap();
    let own = rows[0]["tokens"][0].as_u64().unwrap() as usize;
    let sum: f64 = logprobs[logprobs.len() - own..]
        .iter()
        .map(|x| f64::from(x.as_f64().unwrap() as f32))
        .sum();
    assert_eq!(rows[0]["logprobs"][0].as_f64().unwrap(), sum);
    // Finished before, the accuracy is that of the file
    assert_eq!(
        fixture.hone(&prompt("model", &base)).stdout().lines().next(),
        text.lines().next()
    );
    fs::write(fixture.path("out.jsonl"), &whole.as_bytes()[..whole.len() - 9]).unwrap();
    assert_eq!(fixture.hone(&prompt("model", &base)).stdout(), text);
    assert_eq!(fs::read_to_string(fixture.path("out.jsonl")).unwrap(), whole);
    let told = fixture.hone(&prompt("model", &base[..2])).stdout();
    assert!(
        told.contains("--- a? (") && told.contains("(log-probability -") && told.contains("accuracy "),
        "{told}"
    );
}

#[test]
fn cli_answers_are_matched_with_the_column_answer() {
    let fixture = fixture();
    let greedy = ["--temperature", "0", "--input", "questions.jsonl", "--json"];
    fixture.file("questions.jsonl", "{\"prompt\":\"d?\"}\n{\"prompt\":\"e?\"}\n");
    let plain = fixture.hone(&prompt("base", &greedy)).json();
    assert_eq!(
        (plain[0].get("right"), &plain[2]["summary"]["accuracy"]),
        (None, &Value::Null)
    );
    // The first answer is right by its own words, the second is not
    let own = json!({"prompt": "d?", "answer": ["zzz", plain[0]["completion"]]});
    fixture.file(
        "questions.jsonl",
        format!("{own}\n{}\n", json!({"prompt": "e?", "answer": "zzz"})),
    );
    let rows = fixture
        .hone(&prompt("base", &[&greedy[..], &["--match", "exact"]].concat()))
        .json();
    assert_eq!(
        (&rows[0]["right"], &rows[1]["right"]),
        (&json!(true), &json!(false)),
        "{rows:?}"
    );
    let found = &rows[2]["summary"]["accuracy"];
    assert_eq!(
        (
            found["right"].as_u64(),
            found["rows"].as_u64(),
            found["accuracy"].as_f64()
        ),
        (Some(1), Some(2), Some(0.5))
    );
    fixture.file(
        "questions.jsonl",
        "{\"prompt\":\"d?\",\"answer\":\"#### 7\"}\n{\"prompt\":\"e?\",\"answer\":\"none\"}\n",
    );
    fixture
        .hone(&prompt("base", &[&greedy[..], &["--match", "number"]].concat()))
        .fails(
            1,
            &["questions.jsonl: row 2: column `answer` is \"none\"; expected a number"],
        );
}

#[test]
fn cli_prompting_says_what_is_wrong() {
    let fixture = fixture();
    let case = |row: &str, more: &[&str], code: i32, said: &[&str]| {
        fixture.file("questions.jsonl", format!("{row}\n"));
        let arguments = [&["--input", "questions.jsonl"][..], more].concat();
        fixture.hone(&prompt("base", &arguments)).fails(code, said);
    };
    let turns = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}]}"#;
    case(
        turns,
        &[],
        1,
        &["questions.jsonl: row 1: has 3 turns, and the frame `qa` writes one question"],
    );
    let maybe = r#"{"prompt":"a","answer":"maybe"}"#;
    case(
        maybe,
        &["--options", "yes,no"],
        1,
        &["row 1: `answer` is \"maybe\", which is none of the options"],
    );
    case(
        r#"{"prompt":"a","options":"yes"}"#,
        &[],
        1,
        &["row 1: column `options` is \"yes\"; expected a list"],
    );
    case(maybe, &["--options", "yes"], 2, &["one option is no choice"]);
    case(maybe, &["--options", "yes,,no"], 2, &["option 1 is empty"]);
    case(
        maybe,
        &["--frame", "chat"],
        1,
        &["no chat template", "hint: a base model takes raw text"],
    );
    case(maybe, &["--template", "absent.txt"], 2, &["absent.txt"]);
    fixture.file("bad.txt", "{{ question");
    case(
        maybe,
        &["--template", "bad.txt"],
        1,
        &["bad.txt", "prompt template, line 1"],
    );
    fixture.file("other.txt", "{{ qestion }}");
    case(
        maybe,
        &["--template", "other.txt"],
        1,
        &["row 1: ", "the row has no column \"qestion\""],
    );
    case(
        maybe,
        &["--frame", "qa", "--template", "other.txt"],
        2,
        &["cannot be used with"],
    );
    let long = format!("{{\"prompt\":\"{}\"}}", "a b ".repeat(100));
    case(&long, &[], 1, &["row 1: needs at least", "the model's context is 64"]);
    case(
        &long,
        &["--options", "yes,no"],
        1,
        &["row 1: needs at least", "the model's context is 64"],
    );
    fixture.file(
        "turns.jsonl",
        format!(
            "{}\n",
            turns.replace("]}", ",{\"role\":\"assistant\",\"content\":\"d\"}]}")
        ),
    );
    case(
        maybe,
        &["--examples", "turns.jsonl"],
        1,
        &["turns.jsonl: no example of one question and its answer"],
    );
    fixture.hone(&prompt("base", &[])).fails(2, &["--prompt"]);
}
