//! Many clients at once, clients that leave, clients that do not read, and the end of the server.

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use hone_serve::Options;
use serde_json::{Value, json};

use crate::client::read;
use crate::common::{Running, asked, endless, models, slow, with};

/// 64 requests of all kinds.
fn requests() -> Vec<(&'static str, Value)> {
    let texts = [
        "hello",
        "how are you",
        "the quick brown fox",
        "the lazy dog sleeps; hello there, the fox runs",
    ];
    (0..64)
        .map(|i| {
            let text = texts[i % 4];
            let fields = json!({"seed": i, "temperature": ([0.0, 0.7, 1.0][i % 3]), "max_tokens": 5 + i % 20});
            let model = ["chat", "tuned"][i / 8 % 2];
            match i % 5 {
                0 => {
                    let more = json!({"model": "base", "prompt": text, "logprobs": 3, "echo": true, "n": 1 + i % 3});
                    ("/v1/completions", with(more, fields))
                }
                1 => {
                    let prompts: Vec<&str> = texts[..1 + i % 4].to_vec();
                    let more = json!({"model": model, "prompt": prompts, "logprobs": 1, "top_k": 5});
                    ("/v1/completions", with(more, fields))
                }
                2 => {
                    let more = json!({"model": model, "logprobs": true, "top_logprobs": 4, "frequency_penalty": 0.5});
                    ("/v1/chat/completions", with(with(asked(text), fields), more))
                }
                3 => ("/v1/embeddings", json!({"model": model, "input": [text, "the fox"]})),
                _ => {
                    let more = json!({"model": model, "logprobs": true, "n": 2});
                    ("/v1/chat/completions", with(with(asked(text), fields), more))
                }
            }
        })
        .collect()
}

/// What of an answer does not depend on when it was given.
fn lasting(value: &Value) -> (Value, Value, Value) {
    (value["choices"].clone(), value["data"].clone(), value["usage"].clone())
}

#[test]
fn http_answers_under_load_are_those_given_one_by_one_to_the_bit() {
    let alone = Running::new();
    let expected: Vec<Value> = requests()
        .iter()
        .map(|(route, body)| alone.client.post(route, body).json())
        .collect();
    let options = Options {
        batch: 7,
        ..Options::default()
    };
    let loaded = Running::with(models, options);
    let threads: Vec<_> = requests()
        .into_iter()
        .map(|(route, body)| {
            let client = loaded.client.clone();
            thread::spawn(move || client.post(route, &body).json())
        })
        .collect();
    for ((thread, expected), (route, body)) in threads.into_iter().zip(&expected).zip(requests()) {
        let got = thread.join().expect("an answer");
        // Numbers are written so that they are read back to the bit, so equal JSON is equal bits
        assert_eq!(lasting(&got), lasting(expected), "{route} {body}");
    }
}

#[test]
fn http_a_client_that_leaves_frees_its_places() {
    let options = Options {
        batch: 4,
        ..Options::default()
    };
    let server = Running::with(slow, options);
    for stream in [false, true] {
        let before = server.metric("hone_sequences_cancelled_total");
        let body = json!({"model": "slow", "prompt": "the", "n": 6, "max_tokens": 12_000, "stream": stream,
            "logit_bias": endless()});
        let mut connection = server.client.begin("/v1/completions", &body);
        server.wait("hone_sequences_running", |running| running == 4);
        assert_eq!(server.metric("hone_sequences_waiting"), 2);
        if stream {
            // It has begun to answer
            let mut some = [0; 64];
            connection.read_exact(&mut some).expect("a beginning");
            assert!(some.starts_with(b"HTTP/1.1 200"));
        }
        let left = Instant::now();
        drop(connection);
        server.wait("hone_sequences_cancelled_total", |cancelled| cancelled == before + 6);
        server.wait("hone_sequences_running", |running| running == 0);
        assert!(
            left.elapsed() < Duration::from_secs(10),
            "long before the answers would have ended"
        );
    }
    // The next one has its place
    let short = json!({"model": "slow", "prompt": "the", "max_tokens": 3});
    assert_eq!(server.client.post("/v1/completions", &short).status, 200);
}

#[test]
fn http_a_client_that_does_not_read_holds_up_nobody() {
    let server = Running::with(slow, Options::default());
    let body = json!({"model": "slow", "prompt": "the", "n": 8, "max_tokens": 12_000, "stream": true, "logprobs": 5,
        "logit_bias": endless()});
    let unread = server.client.begin("/v1/completions", &body);
    server.wait("hone_sequences_running", |running| running == 8);
    let short = json!({"model": "slow", "prompt": "hello", "max_tokens": 20, "seed": 1, "logit_bias": endless()});
    for _ in 0..5 {
        let answer = server.client.post("/v1/completions", &short).json();
        assert_eq!(answer["usage"]["completion_tokens"], 20);
    }
    drop(unread);
    server.wait("hone_sequences_running", |running| running == 0);
}

#[test]
fn http_running_answers_end_before_the_server_does() {
    let mut server = Running::new();
    let body = with(
        asked("hello"),
        json!({"max_tokens": 150, "stream": true, "logit_bias": endless()}),
    );
    let expected = server.client.post("/v1/chat/completions", &body).events();
    let connection = server.client.begin("/v1/chat/completions", &body);
    // Its head has come, so it runs
    let mut first = [0; 12];
    (&connection).read_exact(&mut first).expect("a status");
    server.stop();
    server.join().expect("a good end");
    let mut rest = String::new();
    (&connection).read_to_string(&mut rest).expect("an end");
    assert!(rest.contains("[DONE]") && !rest.contains("error"), "{rest}");
    let count = rest.matches("data: {").count();
    assert_eq!(count, expected.len(), "whole");
}

#[test]
fn http_answers_that_do_not_end_in_time_are_given_up_with_an_error() {
    let options = Options {
        grace: Duration::from_millis(50),
        ..Options::default()
    };
    let mut server = Running::with(slow, options);
    let body = json!({"model": "slow", "prompt": "the", "n": 8, "max_tokens": 12_000, "logit_bias": endless()});
    let whole = server.client.begin("/v1/completions", &body);
    let parts = server
        .client
        .begin("/v1/completions", &with(body, json!({"stream": true})));
    server.wait("hone_sequences_running", |running| running == 16);
    let begun = Instant::now();
    server.stop();
    server.join().expect("a good end");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(read(&whole).error(503)["code"], "server_stopping");
    let events = read(&parts).events();
    let error = &events.last().expect("an event")["error"];
    assert_eq!(
        (&error["code"], &error["type"]),
        (&json!("server_stopping"), &json!("server_error"))
    );
}
