//! `hone best-of`: what passes is kept, the table is that of all subsets, nothing is sampled twice, and `hone sft` takes the result.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::common::Fixture;
use crate::stages::Stages;

const PROMPTS: &str = concat!(
    "{\"prompt\":[{\"role\":\"user\",\"content\":\"who?\"}],\"answer\":\"the fox\",\"level\":1}\n",
    "{\"prompt\":[{\"role\":\"user\",\"content\":\"what?\"}],\"answer\":\"a dog\"}\n",
    "{\"prompt\":\"where?\",\"answer\":\"e\",\"score\":2}\n",
);

/// A rule that a random model's answers pass now and then.
const RULE: &str = "[[rewards]]\nkind = \"regex\"\npattern = \"[aeiou]\"\n";

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.file("prompts.jsonl", PROMPTS);
    fixture.file("rule.toml", RULE);
    fixture
}

fn best_of<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let base = [
        "best-of",
        "--model",
        "model",
        "--input",
        "prompts.jsonl",
        "--n",
        "6",
        "--max-new-tokens",
        "3",
    ];
    [&base[..], more].concat()
}

fn rows(fixture: &Fixture, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(fixture.path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// 1 - C(n - c, k) / C(n, k) by counting subsets.
fn pass_at(passes: &[bool], k: usize) -> f64 {
    let subsets: Vec<u32> = (0_u32..1 << passes.len())
        .filter(|mask| mask.count_ones() as usize == k)
        .collect();
    let holds = |mask: &&u32| (0..passes.len()).any(|i| *mask >> i & 1 == 1 && passes[i]);
    subsets.iter().filter(holds).count() as f64 / subsets.len() as f64
}

#[test]
fn cli_what_passes_a_rule_is_kept_and_the_table_is_that_of_all_subsets() {
    let fixture = fixture();
    let all = fixture.hone(&best_of(&[
        "--rewards",
        "rule.toml",
        "--out",
        "out.jsonl",
        "--keep",
        "all",
        "--json",
    ]));
    let report = all.json().remove(0);
    let every = rows(&fixture, "out.jsonl");
    assert_eq!(every.len(), 18);
    assert_eq!((report["prompts"].as_u64(), report["n"].as_u64()), (Some(3), Some(6)));
    let vowel = |row: &Value| row["completion"].as_str().unwrap().contains(['a', 'e', 'i', 'o', 'u']);
    let passes: Vec<bool> = every.iter().map(vowel).collect();
    let count = passes.iter().filter(|&&passes| passes).count();
    assert!((1..18).contains(&count), "{count} of 18 pass: the rule says nothing");
    for (row, passes) in every.iter().zip(&passes) {
        assert_eq!(
            (row["score"].as_f64(), &row["parts"]),
            (Some(f64::from(u8::from(*passes))), &json!({"regex": row["score"]}))
        );
    }
    assert_eq!(
        (&every[0]["level"], &every[17]["input_score"], &every[17]["answer"]),
        (&json!(1), &json!(2), &json!("e"))
    );
    assert_eq!(
        (&every[0]["prompt"][0]["content"], &every[17]["prompt"]),
        (&json!("who?"), &json!("where?"))
    );
    for row in report["temperatures"][0]["rows"].as_array().unwrap() {
        let k = row["k"].as_u64().unwrap() as usize;
        let expected = passes.chunks(6).map(|passes| pass_at(passes, k)).sum::<f64>() / 3.0;
        for key in ["pass", "best"] {
            assert!(
                (row[key]["mean"].as_f64().unwrap() - expected).abs() < 1e-12,
                "{key}@{k}: {row}"
            );
        }
        let bound = (k as f64).ln() - (k as f64 - 1.0) / k as f64;
        assert!((row["kl_bound"].as_f64().unwrap() - bound).abs() < 1e-12);
    }
    // The samples are those of `hone sample`, place by place
    let chat: String = PROMPTS.lines().take(2).map(|line| format!("{line}\n")).collect();
    fixture.file("chat.jsonl", chat);
    let sample = [
        "sample",
        "--model",
        "model",
        "--input",
        "chat.jsonl",
        "--n",
        "6",
        "--max-new-tokens",
        "3",
        "--json",
    ];
    for (sampled, row) in fixture.hone(&sample).json().iter().zip(&every) {
        assert_eq!(sampled["completion"], row["completion"]);
    }
    // Another choice of what is kept needs no other samples
    let before = fs::read(fixture.path("out.jsonl.run/samples.jsonl")).unwrap();
    let passing = [
        "--rewards",
        "rule.toml",
        "--out",
        "out.jsonl",
        "--keep",
        "passing",
        "--json",
    ];
    let told = fixture.hone(&best_of(&passing)).json().remove(0);
    assert_eq!(told["finished_before"], true);
    let kept = rows(&fixture, "out.jsonl");
    assert!(kept.iter().all(vowel));
    let different: BTreeSet<String> = every
        .iter()
        .filter(|row| vowel(row))
        .map(|row| format!("{}{}", row["prompt"], row["completion"]))
        .collect();
    assert_eq!(kept.len(), different.len());
    assert_eq!(told["kept"]["rows"], kept.len());
    assert!(fs::read(fixture.path("out.jsonl.run/samples.jsonl")).unwrap() == before);
    // The first of the best of each prompt
    assert_eq!(
        fixture
            .hone(&best_of(&["--rewards", "rule.toml", "--out", "out.jsonl"]))
            .code(),
        0
    );
    for (best, group) in rows(&fixture, "out.jsonl").iter().zip(every.chunks(6)) {
        let first = group.iter().find(|row| vowel(row)).unwrap_or(&group[0]);
        assert_eq!(best, first);
    }
    // Nothing passes a threshold that nothing reaches, and the table is told in words, too
    let none = fixture.hone(&best_of(&[
        "--rewards",
        "rule.toml",
        "--out",
        "out.jsonl",
        "--threshold",
        "2",
    ]));
    assert!(
        none.stdout()
            .contains("out.jsonl: 0 rows, for 0 of 3 prompts; a sample passes from 2"),
        "{}",
        none.stdout()
    );
    assert!(none.stdout().contains("pass@k (95% interval)") && rows(&fixture, "out.jsonl").is_empty());
}

#[test]
fn cli_samples_that_were_cut_are_gone_on_with_and_other_settings_refused() {
    let fixture = fixture();
    let more = [
        "--rewards",
        "rule.toml",
        "--temperatures",
        "0.5,1",
        "--out",
        "out.jsonl",
        "--keep",
        "all",
    ];
    let first = fixture.hone(&best_of(&more));
    assert_eq!(first.code(), 0, "{}", first.stderr());
    let samples = fixture.path("out.jsonl.run/samples.jsonl");
    let (whole, out) = (
        fs::read(&samples).unwrap(),
        fs::read(fixture.path("out.jsonl")).unwrap(),
    );
    assert_eq!(whole.iter().filter(|byte| **byte == b'\n').count(), 36);
    for cut in [0, 7, whole.len() / 2, whole.len() - 1] {
        fs::write(&samples, &whole[..cut]).unwrap();
        fs::remove_file(fixture.path("out.jsonl")).unwrap();
        let ran = fixture.hone(&best_of(&[&more[..], &["--batch", "5"]].concat()));
        assert_eq!((ran.code(), ran.stdout()), (0, first.stdout()), "{}", ran.stderr());
        assert!(
            fs::read(&samples).unwrap() == whole && fs::read(fixture.path("out.jsonl")).unwrap() == out,
            "cut at {cut}"
        );
    }
    assert_eq!(first.stdout().matches("temperature ").count(), 2, "{}", first.stdout());
    // One temperature's samples do not depend on which others there are
    let alone = [
        "--rewards",
        "rule.toml",
        "--temperature",
        "1",
        "--out",
        "alone.jsonl",
        "--keep",
        "all",
    ];
    assert_eq!(fixture.hone(&best_of(&alone)).code(), 0);
    let of_sweep: Vec<Value> = rows(&fixture, "out.jsonl")
        .into_iter()
        .filter(|row| row["temperature"] == 1.0)
        .collect();
    assert_eq!(of_sweep, rows(&fixture, "alone.jsonl"));
    assert_eq!(rows(&fixture, "out.jsonl")[0]["temperature"], 0.5);
    let refused = |more: &[&str], said: &[&str]| fixture.hone(&best_of(more)).fails(2, said);
    refused(&[&more[..], &["--seed", "3"]].concat(), &["--seed (1 before, 3 now)"]);
    fixture.file("rule.toml", RULE.replace("aeiou", "xyz"));
    refused(&more, &["contents of --rewards"]);
}

#[test]
fn cli_other_judges() {
    let fixture = fixture();
    // A reward model's scores are those of `hone score`
    let out = ["--reward", "reward", "--out", "out.jsonl", "--keep", "all", "--json"];
    let report = fixture.hone(&best_of(&out)).json().remove(0);
    assert!(report["temperatures"][0]["rows"][0].get("pass").is_none() && report.get("threshold").is_none());
    let every = rows(&fixture, "out.jsonl");
    let input = fs::read_to_string(fixture.path("out.jsonl")).unwrap();
    let scored = fixture
        .hone_with(&["score", "--model", "reward", "--input", "-", "--json"], &input, &[])
        .json();
    for (row, scored) in every.iter().zip(&scored) {
        assert_eq!(
            row["score"].as_f64().unwrap() as f32,
            scored["score"].as_f64().unwrap() as f32
        );
        assert_eq!(row["parts"]["reward"], row["score"]);
    }
    assert_eq!(fixture.hone(&best_of(&out[..4])).code(), 0);
    for (best, group) in rows(&fixture, "out.jsonl").iter().zip(every.chunks(6)) {
        let highest = group
            .iter()
            .map(|row| row["score"].as_f64().unwrap())
            .fold(f64::MIN, f64::max);
        assert_eq!(best["score"].as_f64().unwrap(), highest);
    }
    // With a threshold there is a share that passes
    let told = fixture
        .hone(&best_of(&[&out[..], &["--threshold", "0.5"]].concat()))
        .json()
        .remove(0);
    let passing = every.iter().filter(|row| row["score"].as_f64() >= Some(0.5)).count() as f64 / 18.0;
    assert!((told["temperatures"][0]["rows"][0]["pass"]["mean"].as_f64().unwrap() - passing).abs() < 1e-12);
    // Another model's likelihood: the policy itself is the likeliest to itself among strangers
    let mean = |judge: &str, name: &str| {
        let more = [
            "--likelihood",
            judge,
            "--out",
            name,
            "--keep",
            "all",
            "--precision",
            "f32",
        ];
        assert_eq!(fixture.hone(&best_of(&more)).code(), 0);
        let all = rows(&fixture, name);
        assert!(
            all.iter()
                .all(|row| row["score"].as_f64() < Some(0.0) && row["parts"]["likelihood"] == row["score"])
        );
        all.iter().map(|row| row["score"].as_f64().unwrap()).sum::<f64>() / 18.0
    };
    assert_ne!(mean("model", "own.jsonl"), mean("adapter", "adapter.jsonl"));
    // A vote on a letter: its share is the score, and the answer column says what is right
    let vote = [
        "--majority",
        "--answer-pattern",
        "[aeiou]",
        "--out",
        "vote.jsonl",
        "--keep",
        "all",
        "--json",
    ];
    let report = fixture.hone(&best_of(&vote)).json().remove(0);
    let last = |row: &Value| {
        row["completion"]
            .as_str()
            .unwrap()
            .chars()
            .rfind(|c| "aeiou".contains(*c))
    };
    let all = rows(&fixture, "vote.jsonl");
    for group in all.chunks(6) {
        for row in group {
            let own = last(row);
            let votes = group.iter().filter(|other| own.is_some() && last(other) == own).count();
            assert_eq!(
                (row["parts"]["votes"].as_u64(), row["score"].as_f64()),
                (Some(votes as u64), Some(votes as f64 / 6.0))
            );
        }
    }
    // Of the references, the last vowel: o, o and e
    let passes: Vec<bool> = all
        .iter()
        .zip(0..)
        .map(|(row, i)| last(row) == Some(['o', 'o', 'e'][i / 6]))
        .collect();
    for row in report["temperatures"][0]["rows"].as_array().unwrap() {
        let k = row["k"].as_u64().unwrap() as usize;
        let expected = passes.chunks(6).map(|passes| pass_at(passes, k)).sum::<f64>() / 3.0;
        assert!(
            (row["pass"]["mean"].as_f64().unwrap() - expected).abs() < 1e-12,
            "{row}"
        );
        assert!(row["majority"]["mean"].is_f64());
    }
    // Beside a rule the vote is only for the table
    let both = [
        "--majority",
        "--answer-pattern",
        "[aeiou]",
        "--rewards",
        "rule.toml",
        "--json",
    ];
    let report = fixture.hone(&best_of(&both)).json().remove(0);
    let first = &report["temperatures"][0]["rows"][0];
    // A sample passes the rule exactly where it has an answer, so the vote of one is right where that passes
    let difference = first["majority"]["mean"].as_f64().unwrap() - first["pass"]["mean"].as_f64().unwrap();
    assert!(difference.abs() < 1e-12, "{first}");
}

#[test]
fn cli_what_is_kept_is_data_to_imitate() {
    let stages = Stages::new();
    let fixture = &stages.fixture;
    let rows: String = (0..12)
        .map(|i| format!("{{\"question\":\"who {i}?\",\"answer\":\"the fox\"}}\n"))
        .collect();
    fixture.file("prompts.jsonl", rows);
    fixture.file("rule.toml", RULE);
    let more = ["--rewards", "rule.toml", "--keep", "passing", "--out", "kept.jsonl"];
    let ran = fixture.hone(&best_of(&more));
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    let found = fixture
        .hone(&["data", "inspect", "kept.jsonl", "--json"])
        .json()
        .remove(0);
    assert_eq!(
        (&found["format"], found["bad"].as_u64()),
        (&json!("prompt-completion"), Some(0)),
        "{found}"
    );
    assert_eq!(
        found["rows"],
        fs::read_to_string(fixture.path("kept.jsonl")).unwrap().lines().count()
    );
    let tuned = stages.run("sft", "filtered", &["--set", "data.train=[\"kept.jsonl\"]"]);
    assert_eq!(tuned.code(), 0, "{}", tuned.stderr());
}

#[test]
fn cli_a_program_judges_beside_the_file_and_is_asked_once() {
    let fixture = fixture();
    // Counts how often it was asked in a file of its folder
    fixture.file(
        "judge.sh",
        "while read line; do echo x >> asked; id=${line#*\\\"id\\\":\\\"}; id=${id%%\\\"*}; echo \"{\\\"id\\\":\\\"$id\\\",\\\"reward\\\":0.5}\"; done\n",
    );
    fixture.file(
        "rule.toml",
        "[[rewards]]\nkind = \"program\"\ncommand = [\"sh\", \"judge.sh\"]\n",
    );
    fixture
        .hone(&best_of(&["--rewards", "rule.toml"]))
        .fails(2, &["no --out beside which its answers are kept"]);
    if cfg!(unix) {
        let more = ["--rewards", "rule.toml", "--out", "out.jsonl"];
        assert_eq!(fixture.hone(&best_of(&more)).code(), 0);
        let asked = || {
            fs::read_to_string(fixture.path("out.jsonl.run/rewards/program/asked"))
                .unwrap()
                .lines()
                .count()
        };
        assert_eq!(asked(), 18);
        let out = fs::read(fixture.path("out.jsonl")).unwrap();
        // Samples that are lost are drawn again; their judgements come from the journal
        fs::write(fixture.path("out.jsonl.run/samples.jsonl"), "").unwrap();
        assert_eq!(fixture.hone(&best_of(&more)).code(), 0);
        assert!(asked() == 18 && fs::read(fixture.path("out.jsonl")).unwrap() == out);
    }
}

#[test]
fn cli_best_of_says_what_is_wrong() {
    let fixture = fixture();
    let refused = |more: &[&str], code: i32, said: &[&str]| fixture.hone(&best_of(more)).fails(code, said);
    refused(&[], 2, &["--reward"]);
    refused(
        &["--reward", "reward", "--keep", "passing", "--out", "o.jsonl"],
        2,
        &["nothing says which score passes", "--threshold"],
    );
    refused(&["--reward", "model"], 2, &["is no reward model"]);
    refused(&["--likelihood", "reward"], 2, &["--likelihood: ", "is a reward model"]);
    refused(&["--reward", "./absent"], 2, &["./absent: no such directory"]);
    refused(
        &["--reward", "reward", "--likelihood", "model"],
        2,
        &["cannot be used with"],
    );
    refused(
        &["--majority", "--answer-pattern", "("],
        2,
        &["--answer-pattern", "unclosed group"],
    );
    refused(
        &["--reward", "reward", "--threshold", "nan"],
        2,
        &["expected a finite number"],
    );
    refused(&["--majority", "--temperatures", "1,-1"], 2, &["at least 0"]);
    let case = |text: &str, code: i32, said: &[&str]| {
        fixture.file("bad.toml", text);
        refused(&["--rewards", "bad.toml"], code, said);
    };
    case(
        "[[rewards]]\nkind = \"exact\"\nmarker = \"x\"\n",
        2,
        &["bad.toml", "rewards[0].marker"],
    );
    case(
        "[[rewards]]\nkind = \"regex\"\npattern = \"(\"\n",
        2,
        &["rewards[0] (regex): `pattern` is"],
    );
    case(
        "[[rewards]]\nkind = \"exact\"\ncolumn = \"gold\"\n",
        1,
        &["prompts.jsonl: rewards[0] (exact), ", "has no column `gold`"],
    );
    fixture.file("prompts.jsonl", format!("{{\"prompt\":\"{}\"}}\n", "a b ".repeat(100)));
    refused(
        &["--majority"],
        1,
        &["prompts.jsonl: row 1: needs at least", "the model's context is 64"],
    );
}

#[test]
fn cli_grade_school_answers_are_read_as_they_are() {
    let Some(data) = std::env::var_os("HONE_DATA") else {
        return;
    };
    let data = std::path::Path::new(&data);
    let fixture = Fixture::new();
    let (model, input) = (
        data.join("models/stories260k"),
        data.join("instructions/gsm8k-train.jsonl.gz"),
    );
    fixture.file("rule.toml", "[[rewards]]\nkind = \"numeric\"\nfallback = true\n");
    let arguments = [
        "best-of",
        "--model",
        model.to_str().unwrap(),
        "--input",
        input.to_str().unwrap(),
        "--limit",
        "4",
        "--n",
        "2",
        "--rewards",
        "rule.toml",
        "--majority",
        "--max-new-tokens",
        "8",
        "--keep",
        "all",
        "--out",
        "out.jsonl",
        "--json",
    ];
    let report = fixture.hone(&arguments).json().remove(0);
    let table = report["temperatures"][0]["rows"].as_array().unwrap();
    assert_eq!(table.len(), 2);
    assert!(
        table
            .iter()
            .all(|row| row["pass"]["mean"].is_f64() && row["majority"]["mean"].is_f64())
    );
    for row in rows(&fixture, "out.jsonl") {
        assert!(row["answer"].as_str().unwrap().contains("####"), "{row}");
        assert!([Some(0.0), Some(1.0)].contains(&row["score"].as_f64()), "{row}");
    }
}
