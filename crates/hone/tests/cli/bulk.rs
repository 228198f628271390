//! `hone sample --out`: a file that grows in order, is gone on with, and ends with the bytes of one that was not interrupted.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{Fixture, keys};

const ROWS: &str = concat!(
    "{\"prompt\":\"the quick\",\"level\":1,\"answer\":\"fox\"}\n",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"who?\"}],\"completion\":\"old\"}\n",
    "\n",
    "{\"prompt\":\"hello there\"}\n",
    "{\"prompt\":\"the dog\",\"finish_reason\":null}\n",
);

fn sample<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let base = [
        "sample",
        "--model",
        "model",
        "--input",
        "in.jsonl",
        "--n",
        "2",
        "--max-new-tokens",
        "6",
        "--out",
        out,
    ];
    [&base[..], more].concat()
}

fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn cli_a_file_of_samples_holds_what_stdout_would_with_all_columns() {
    let fixture = Fixture::new();
    fixture.file("in.jsonl", ROWS);
    let ran = fixture.hone(&sample("out.jsonl", &[]));
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    assert_eq!(ran.stdout(), "out.jsonl is finished: 8 lines\n");
    let arguments: Vec<&str> = sample("", &[])
        .into_iter()
        .filter(|a| !["--out", ""].contains(a))
        .collect();
    let printed = fixture.hone(&[&arguments[..], &["--json"]].concat()).stdout();
    assert_eq!(fs::read_to_string(fixture.path("out.jsonl")).unwrap(), printed);
    let rows = rows(&fixture.path("out.jsonl"));
    let own = [
        "prompt",
        "completion",
        "prompt_ids",
        "completion_ids",
        "logprobs",
        "finish_reason",
        "model",
        "sampling",
        "weights",
    ];
    assert_eq!(keys(&rows[0]), [&own[..], &["level", "answer"]].concat());
    assert_eq!(
        (&rows[1]["level"], &rows[1]["answer"]),
        (&Value::from(1), &Value::from("fox"))
    );
    // A column that bears a name of the output's
    assert_eq!(rows[2]["input_completion"], "old");
    assert!(keys(&rows[6]).contains(&"input_finish_reason"));
    assert_eq!(keys(&rows[4]), own);
    // The same command again finds it done, whatever it is told of batches and threads
    let again = fixture.hone(&sample("out.jsonl", &["--batch", "1", "--threads", "1", "--json"]));
    let told = &again.json()[0];
    assert_eq!(
        (told["lines"].as_u64(), told["finished_before"].as_bool()),
        (Some(8), Some(true))
    );
}

#[test]
fn cli_a_file_that_was_cut_anywhere_ends_with_the_same_bytes() {
    let fixture = Fixture::new();
    fixture.file("in.jsonl", ROWS);
    assert_eq!(fixture.hone(&sample("out.jsonl", &[])).code(), 0);
    let whole = fs::read(fixture.path("out.jsonl")).unwrap();
    let ends: Vec<usize> = (0..whole.len()).filter(|&i| whole[i] == b'\n').collect();
    // Nothing, inside the first line, after an odd number of lines, inside a later one, but for the last byte
    for cut in [0, 5, ends[0] + 1, ends[2] + 9, ends[4], whole.len() - 1] {
        fs::write(fixture.path("out.jsonl"), &whole[..cut]).unwrap();
        let ran = fixture.hone(&sample("out.jsonl", &["--batch", "3"]));
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        assert!(fs::read(fixture.path("out.jsonl")).unwrap() == whole, "cut at {cut}");
        assert_eq!(
            ran.stderr().contains("going on after"),
            cut > ends[1],
            "{}",
            ran.stderr()
        );
    }
}

#[test]
fn cli_a_file_of_other_settings_or_of_somebody_else_is_refused() {
    let fixture = Fixture::new();
    fixture.file("in.jsonl", ROWS);
    assert_eq!(fixture.hone(&sample("out.jsonl", &[])).code(), 0);
    let whole = fs::read(fixture.path("out.jsonl")).unwrap();
    let refused = |more: &[&str], said: &[&str]| fixture.hone(&sample("out.jsonl", more)).fails(2, said);
    refused(
        &["--temperature", "0.5", "--seed", "7"],
        &["changed: --seed (1 before, 7 now), --temperature (1 before, 0.5 now)"],
    );
    refused(&["--adapter", "adapter"], &["--adapter (not given before, given now)"]);
    refused(&["--precision", "f32"], &["--precision (bf16 before, f32 now)"]);
    fixture.file("in.jsonl", ROWS.replace("hello", "Hello"));
    refused(&[], &["contents of --input", "Give another --out"]);
    fixture.file("in.jsonl", ROWS);
    let mut config = fs::read(fixture.path("model/config.json")).unwrap();
    config.push(b'\n');
    fs::write(fixture.path("model/config.json"), config).unwrap();
    refused(&[], &["contents of --model"]);
    assert!(fs::read(fixture.path("out.jsonl")).unwrap() == whole);
    fixture.file("mine.jsonl", "{}\n");
    fixture
        .hone(&sample("mine.jsonl", &[]))
        .fails(2, &["mine.jsonl: already there", "remove it"]);
    assert_eq!(fs::read(fixture.path("mine.jsonl")).unwrap(), b"{}\n");
    fixture.hone(&sample("model", &[])).fails(2, &["model: a folder"]);
    let stdin = ["sample", "--model", "model", "--input", "-", "--out", "new.jsonl"];
    fixture
        .hone_with(&stdin, "{\"prompt\":\"a\"}\n", &[])
        .fails(2, &["stdin cannot be read again"]);
    assert!(!fixture.path("new.jsonl").exists());
}

#[cfg(unix)]
mod signals {
    use std::process::{Child, Command, Stdio};
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use super::*;

    const LONG: [&str; 13] = [
        "sample",
        "--model",
        "model",
        "--input",
        "many.jsonl",
        "--n",
        "4",
        "--max-new-tokens",
        "50",
        "--batch",
        "4",
        "--out",
        "out.jsonl",
    ];

    fn started(fixture: &Fixture) -> Child {
        let path = fixture.path("out.jsonl");
        let bytes = || path.metadata().map_or(0, |m| m.len());
        let (before, begun) = (bytes(), Instant::now());
        let child = Command::new(env!("CARGO_BIN_EXE_hone"))
            .args(LONG)
            .current_dir(fixture.folder.path())
            .env("HONE_THREADS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while bytes() <= before {
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not start");
            sleep(Duration::from_millis(1));
        }
        child
    }

    #[test]
    fn cli_samples_that_are_interrupted_or_killed_go_on() {
        let fixture = Fixture::new();
        let rows: String = (0..60).map(|i| format!("{{\"prompt\":\"the dog {i}\"}}\n")).collect();
        fixture.file("many.jsonl", rows);
        let mut whole = LONG;
        whole[12] = "whole.jsonl";
        assert_eq!(fixture.hone(&whole).code(), 0);
        let mut child = started(&fixture);
        let done = Command::new("sh")
            .args(["-c", &format!("kill -INT {}", child.id())])
            .status()
            .unwrap();
        assert!(done.success());
        let asked = Instant::now();
        let code = child.wait().unwrap().code();
        assert!(asked.elapsed() < Duration::from_secs(10));
        let mut said = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
        assert_eq!(code, Some(75), "{said}");
        assert!(
            said.contains("of 60 prompts; the same command goes on from there"),
            "{said}"
        );
        let mut child = started(&fixture);
        child.kill().unwrap();
        child.wait().unwrap();
        let expected = fs::read(fixture.path("whole.jsonl")).unwrap();
        let so_far = fs::read(fixture.path("out.jsonl")).unwrap();
        assert!(!so_far.is_empty() && so_far.len() < expected.len() && expected.starts_with(&so_far));
        let ran = fixture.hone(&LONG);
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        assert!(fs::read(fixture.path("out.jsonl")).unwrap() == expected);
    }
}
