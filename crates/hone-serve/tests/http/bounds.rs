//! How much may be asked for.

use std::io::Write;
use std::time::{Duration, Instant};

use hone_serve::Options;
use serde_json::{Value, json};

use crate::client::read;
use crate::common::{Running, asked, endless, models, slow, with};
use crate::slow::{are_let_go, patience};

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
        std::thread::sleep(Duration::from_millis(10));
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
    let several = json!({"model": "chat", "prompt": "a", "n": 2});
    server.client.post("/v1/completions", &several).error(400);
    assert_eq!(server.metric("hone_prompt_tokens_total"), 0);
    // One that has its place is counted
    let one = json!({"model": "chat", "input": "a"});
    let tokens = server.client.post("/v1/embeddings", &one).json()["usage"]["prompt_tokens"].clone();
    assert_eq!(json!(server.metric("hone_prompt_tokens_total")), tokens);
}

#[test]
fn http_an_answer_has_a_size() {
    let server = Running::new();
    let ids: Vec<u32> = (0..200).collect();
    for (count, fields, param) in [
        (8, json!({"echo": true, "logprobs": 20}), "logprobs"),
        (60, json!({"echo": false, "logprobs": 20, "max_tokens": 50}), "logprobs"),
        (100, json!({"echo": true}), "echo"),
    ] {
        let request = with(
            json!({"model": "base", "prompt": vec![ids.clone(); count], "n": 64}),
            fields,
        );
        let error = server.client.post("/v1/completions", &request).error(400);
        assert_eq!(error["param"], param, "{error}");
        assert!(
            error["message"].as_str().unwrap().contains("at most 1048576"),
            "{error}"
        );
    }
    // Templates are rendered up to each reply, so long conversations are few
    let long = vec![json!({"role": "assistant", "content": ""}); 1000];
    let item = json!({"messages": long});
    let request = json!({"model": "reward", "input": [item, item]});
    assert_eq!(server.client.post("/score", &request).error(400)["param"], "input");
    let request = json!({"messages": vec![json!({"role": "assistant", "content": ""}); 1025]});
    assert_eq!(
        server.client.post("/tokenize", &request).error(400)["param"],
        "messages"
    );
}

#[test]
fn http_slow_clients_are_let_go() {
    let options = Options {
        patience: patience(),
        ..Options::default()
    };
    let server = Running::with(models, options);
    are_let_go(&server.client, ("/v1/completions", "application/json"), "");
    assert_eq!(server.client.get("/health").status, 200);
}

#[cfg(unix)]
#[test]
fn http_slow_uploads_are_let_go() {
    let tuner = crate::tuner::Tuner::new();
    let options = Options {
        patience: patience(),
        ..tuner.options()
    };
    let server = Running::with(models, options);
    // Of an upload each part has the time: one that comes steadily may take longer
    let mut stream = server.client.connect();
    let part = "--limit\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\n\r\n";
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 100000\r\n\
         Content-Type: multipart/form-data; boundary=limit\r\n\r\n{part}",
        server.client.address
    );
    stream.write_all(head.as_bytes()).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < 3 * crate::slow::TIME {
        stream.write_all(b"x").unwrap();
        std::thread::sleep(crate::slow::TIME / 10);
    }
    let stopped = Instant::now();
    let answer = read(&stream);
    assert!(
        answer.status == 408 && stopped.elapsed() < Duration::from_secs(10),
        "{}",
        answer.text()
    );
    assert!(
        answer.text().contains("nothing came of the file for 0.4 seconds"),
        "{}",
        answer.text()
    );
    assert_eq!(server.client.get("/v1/files").json()["data"], json!([]));
}

/// A client that leaves while its prompts are being read frees their places, and what was not begun is not read.
#[test]
fn http_a_client_that_leaves_an_echo_frees_its_places() {
    let options = Options {
        queue: 8,
        ..Options::default()
    };
    let server = Running::with(slow, options);
    // Each fills a pass of its own
    let ids: Vec<u32> = (0..4000).map(|i| 20 + i % 200).collect();
    let request = |count: usize| json!({"model": "slow", "prompt": vec![ids.clone(); count], "max_tokens": 0, "echo": true, "logprobs": 0});
    let begun = Instant::now();
    assert_eq!(server.client.post("/v1/completions", &request(1)).status, 200);
    let one = begun.elapsed();
    let connection = server.client.begin("/v1/completions", &request(8));
    server.wait("hone_texts_waiting", |waiting| waiting >= 6);
    assert_eq!(
        server
            .client
            .post("/v1/completions", &json!({"model": "slow", "prompt": "a"}))
            .status,
        429
    );
    drop(connection);
    let left = Instant::now();
    server.wait("hone_texts_waiting", |waiting| waiting == 0);
    while server
        .client
        .post(
            "/v1/completions",
            &json!({"model": "slow", "prompt": "a", "max_tokens": 1}),
        )
        .status
        == 429
    {
        assert!(left.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    // The text that was being read, and not the six behind it
    assert!(
        left.elapsed() < 4 * one + Duration::from_secs(1),
        "{:?}, one takes {one:?}",
        left.elapsed()
    );
}
