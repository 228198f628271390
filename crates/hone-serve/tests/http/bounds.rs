//! How much may be asked for.

use std::io::Write;

use hone_serve::Options;
use serde_json::{Value, json};

use crate::client::read;
use crate::common::{Running, asked, endless, models, slow, with};

#[test]
fn http_long_headers_and_bodies_are_refused() {
    let server = Running::new();
    let client = &server.client;
    let kind = ("Content-Type", "application/json");
    let long = "x".repeat(17 << 10);
    assert_eq!(client.ask("GET", "/health", &[("X-Long", &long)], b"").status, 431);
    let path = format!("/{long}");
    let status = client.ask("GET", &path, &[], b"").status;
    assert!(status == 431 || status == 414, "{status}");
    // A body that says how long it is is refused before it comes
    let error = client
        .ask("POST", "/v1/completions", &[kind, ("Content-Length", "1048577")], b"")
        .error(413);
    assert!(error["message"].as_str().unwrap().contains("1048576"), "{error}");
    // One that does not, when it is longer
    let mut stream = client.connect();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        client.address
    );
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = [format!("{:x}\r\n", 1 << 16).as_bytes(), &vec![b' '; 1 << 16], b"\r\n"].concat();
    for _ in 0..17 {
        // The server may have closed already
        let _ = stream.write_all(&chunk);
    }
    assert_eq!(read(&stream).status, 413);
    assert_eq!(client.get("/health").status, 200);
}

#[test]
fn http_bodies_that_are_no_json_object() {
    let server = Running::new();
    let client = &server.client;
    let json = [("Content-Type", "application/json; charset=utf-8")];
    for body in ["", "{", "[1]", "null", "\u{feff}{}", &"[".repeat(100_000)] {
        let error = client
            .ask("POST", "/v1/chat/completions", &json, body.as_bytes())
            .error(400);
        assert_eq!(error["param"], "body", "{error}");
    }
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let error = client.ask("POST", "/v1/chat/completions", &form, b"{}").error(415);
    assert!(
        error["message"].as_str().unwrap().contains("application/json"),
        "{error}"
    );
    client.ask("POST", "/tokenize", &[], b"{}").error(415);
}

#[test]
fn http_counts_have_limits() {
    let server = Running::new();
    let stops = |n: usize| (0..n).map(|i| format!("stop {i}")).collect::<Vec<_>>();
    for (fields, param) in [
        (json!({"n": 65}), "n"),
        (json!({"n": 0}), "n"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"stop": stops(17)}), "stop"),
        (json!({"stop": ["x".repeat(257)]}), "stop[0]"),
        (json!({"stop": [""]}), "stop[0]"),
        (json!({"max_tokens": u64::MAX}), "max_tokens"),
        (
            json!({"logit_bias": (0..1025).map(|i| (i.to_string(), json!(1))).collect::<serde_json::Map<_, _>>()}),
            "logit_bias",
        ),
    ] {
        let error = server
            .client
            .post("/v1/chat/completions", &with(asked("hello"), fields))
            .error(400);
        assert_eq!(error["param"], param, "{error}");
    }
    for (fields, param) in [
        (json!({"logprobs": 21}), "logprobs"),
        (json!({"prompt": vec!["a"; 1025]}), "prompt"),
    ] {
        let request = with(json!({"model": "base", "prompt": "a"}), fields);
        assert_eq!(
            server.client.post("/v1/completions", &request).error(400)["param"],
            param
        );
    }
    // The limits themselves are kept
    let most = json!({"n": 64, "max_tokens": 1, "stop": stops(16), "logprobs": true, "top_logprobs": 20});
    let reply = server
        .client
        .post("/v1/chat/completions", &with(asked("hello"), most))
        .json();
    assert_eq!(reply["choices"].as_array().map(Vec::len), Some(64));
}

#[test]
fn http_a_full_queue_is_said() {
    let options = Options {
        queue: 4,
        batch: 2,
        ..Options::default()
    };
    let server = Running::with(slow, options);
    let request =
        |n: usize| json!({"model": "slow", "prompt": "the", "n": n, "max_tokens": 12_000, "logit_bias": endless()});
    let first = server.client.begin("/v1/completions", &request(4));
    server.wait("hone_sequences_running", |running| running == 2);
    assert_eq!(server.metric("hone_sequences_waiting"), 2);
    let refused = server.client.post("/v1/completions", &request(1));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.error(429)["type"], "rate_limit_error");
    // More than ever fits is another matter
    let never = server.client.post("/v1/completions", &request(5)).error(400);
    assert!(never["message"].as_str().unwrap().contains("takes 4"), "{never}");
    // Who leaves makes room
    drop(first);
    server.wait("hone_sequences_running", |running| running == 0);
    let short = with(request(4), json!({"max_tokens": 2}));
    let mut answer = server.client.post("/v1/completions", &short);
    for _ in 0..100 {
        if answer.status != 429 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        answer = server.client.post("/v1/completions", &short);
    }
    assert_eq!(answer.json()["choices"].as_array().map(Vec::len), Some(4));
}

#[test]
fn http_a_request_without_places_costs_nothing() {
    let options = Options {
        queue: 1,
        ..Options::default()
    };
    let server = Running::with(models, options);
    let request = json!({"model": "chat", "input": ["a", "b"]});
    let error: Value = server.client.post("/v1/embeddings", &request).error(400);
    assert!(error["message"].as_str().unwrap().contains("2 sequences"), "{error}");
    assert_eq!(server.metric("hone_prompt_tokens_total"), 0);
}
