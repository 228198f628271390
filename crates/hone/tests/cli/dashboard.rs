//! `hone dashboard`: the real program on a folder of runs, ended by a signal.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::Fixture;

/// Ends the program where a test fails on the way.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn cli_dashboard_shows_runs_and_ends_in_good_order() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("runs/deep/one");
    fs::create_dir_all(&run).unwrap();
    fs::write(run.join("run.toml"), "[ppo]\nupdates = 4\n").unwrap();
    fs::write(run.join("metrics.jsonl"), "{\"step\":1,\"objective/kl\":2.5}\n").unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_hone"))
        .args(["dashboard", "runs", "--port", "0", "--kl-bound", "2"])
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut child = Ended(child);
    let said = lines.next().expect("a line").unwrap();
    assert!(said.starts_with("runs below runs on http://127.0.0.1:"), "{said}");
    let address = said.split("http://").nth(1).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let request = format!("GET /?format=json HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let list: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(list["runs"][0]["name"], "deep/one");
    assert_eq!(list["runs"][0]["progress"], "step 1 of 4");
    assert_eq!(list["runs"][0]["alerts"][0]["rule"], "kl-high");
    let sent = Command::new("kill")
        .args(["-TERM", &child.0.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    };
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(status.code(), Some(0), "{said:?}");
    assert_eq!(said.last().map(String::as_str), Some("stopped"));
}

#[test]
fn cli_dashboard_of_all_addresses_names_one_that_can_be_opened() {
    let fixture = Fixture::new();
    fixture.file("token", "0123456789abcdef\n");
    let child = Command::new(env!("CARGO_BIN_EXE_hone"))
        .args(["dashboard", ".", "--port", "0", "--host", "0.0.0.0", "--token", "token"])
        .current_dir(fixture.folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Ended(child);
    let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
    let said = lines.next().expect("a line").unwrap();
    let address = said.split("http://").nth(1).unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{said}");
    TcpStream::connect(address).unwrap();
    let said = lines.next().expect("a line").unwrap();
    assert!(
        said.contains("others open http://ADDRESS:") && said.contains("--allow-host NAME"),
        "{said}"
    );
}

#[test]
fn cli_dashboard_says_what_is_wrong_before_it_starts() {
    let fixture = Fixture::new();
    let dashboard = |more: &[&str]| fixture.hone(&[&["dashboard", "--port", "0"], more].concat());
    dashboard(&[]).fails(2, &["RUNS_DIR"]);
    dashboard(&["absent"]).fails(2, &["absent: cannot be read as a folder of runs"]);
    dashboard(&[".", "--host", "0.0.0.0"]).fails(2, &["0.0.0.0", "--token FILE"]);
    dashboard(&[".", "--kl-bound=-1"]).fails(2, &["--kl-bound is -1; expected a number above 0"]);
    fixture.file("short", "abc\n");
    dashboard(&[".", "--token", "short"]).fails(2, &["short: the token has 3 characters"]);
}
