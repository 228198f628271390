//! `hone serve`: the real program, asked over HTTP and ended by a signal.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Fixture, copy};

/// A server that listens, and what it writes.
struct Serving {
    child: Child,
    address: String,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Serving {
    fn new(fixture: &Fixture, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hone"))
            .args(["serve", "--port", "0", "--threads", "1", "--precision", "f32"])
            .args(arguments)
            .current_dir(fixture.folder.path())
            .env_remove("HONE_ISA")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = lines.next().expect("a line").unwrap();
        let address = said
            .split("http://")
            .nth(1)
            .unwrap_or_else(|| panic!("{said}"))
            .to_owned();
        Self { child, address, lines }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned())
    }

    /// Sends a signal and gives the exit code and the rest of what was written.
    fn end(mut self, signal: &str) -> (Option<i32>, Vec<String>) {
        let sent = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        let started = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(started.elapsed() < Duration::from_secs(30), "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        (code, self.lines.map(Result::unwrap).collect())
    }
}

#[test]
fn cli_serve_answers_and_ends_in_good_order() {
    let fixture = Fixture::new();
    for signal in ["-INT", "-TERM"] {
        let server = Serving::new(
            &fixture,
            &[
                "--model",
                "model",
                "--model",
                "judge=reward",
                "--adapter",
                "tuned=adapter",
            ],
        );
        let (status, list) = server.ask("GET", "/v1/models", None);
        assert_eq!(status, 200);
        let list: Value = serde_json::from_str(&list).unwrap();
        let names: Vec<&str> = list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["id"].as_str().unwrap())
            .collect();
        // The directory `model/` of a temporary folder has the folder's name
        let folder = fixture.folder.path().canonicalize().unwrap();
        assert_eq!(names, [folder.file_name().unwrap().to_str().unwrap(), "judge", "tuned"]);
        assert_eq!(list["data"][2]["parent"], names[0]);
        let ask = json!({"model": names[0], "prompt": "the", "max_tokens": 3, "temperature": 0, "logprobs": 0});
        let (status, answer) = server.ask("POST", "/v1/completions", Some(&ask));
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        // What `hone sample` gives
        let arguments = [
            "sample",
            "--model",
            "model",
            "--prompt",
            "the",
            "--max-new-tokens",
            "3",
            "--temperature",
            "0",
        ];
        let sampled = fixture
            .hone(&[&arguments[..], &["--precision", "f32", "--json"]].concat())
            .json();
        assert_eq!(answer["choices"][0]["text"], sampled[0]["completion"]);
        let numbers = |value: &Value| -> Vec<u32> {
            value
                .as_array()
                .unwrap()
                .iter()
                .map(|x| (x.as_f64().unwrap() as f32).to_bits())
                .collect()
        };
        assert_eq!(
            numbers(&answer["choices"][0]["logprobs"]["token_logprobs"]),
            numbers(&sampled[0]["logprobs"])
        );
        let score = json!({"model": "judge", "input": {"prompt": "a", "completion": "b"}});
        assert_eq!(server.ask("POST", "/score", Some(&score)).0, 200);
        let (code, said) = server.end(signal);
        assert_eq!(code, Some(0), "{said:?}");
        assert_eq!(said.last().map(String::as_str), Some("stopped"));
    }
}

#[test]
fn cli_serve_says_what_is_wrong_before_it_starts() {
    let fixture = Fixture::new();
    let serve = |more: &[&str]| fixture.hone(&[&["serve", "--port", "0"], more].concat());
    serve(&[]).fails(2, &["--model"]);
    serve(&["--model", "./absent"]).fails(2, &["./absent: no such directory"]);
    serve(&["--model", "model", "--host", "0.0.0.0"]).fails(2, &["0.0.0.0", "--token FILE"]);
    serve(&[
        "--model",
        "model",
        "--host",
        "no.such.host.invalid",
        "--token",
        "absent",
    ])
    .fails(2, &["absent"]);
    fixture.file("short", "abc\n");
    serve(&["--model", "model", "--token", "short"]).fails(2, &["short: the token has 3 characters", "at least 16"]);
    serve(&["--model", "a=model", "--model", "a=reward"]).fails(2, &["two models are called `a`", "NAME=DIR"]);
    serve(&["--model", "model", "--adapter", "adapter"]).fails(2, &["--adapter adapter: expected NAME=DIR"]);
    copy(&fixture.path("model"), &fixture.path("other"));
    serve(&["--model", "b=reward", "--model", "c=other", "--adapter", "t=adapter"])
        .fails(2, &["--adapter t=adapter", "none of the models that are served"]);
    serve(&["--model", "model", "--batch", "0"]).fails(2, &["--batch"]);
}
