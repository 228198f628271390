//! `/v1/completions`.

use hone_text::AddSpecial;
use serde_json::{Value, json};

use crate::common::{CONTEXT, Running, tokenizer, with};

const ROUTE: &str = "/v1/completions";

fn request(fields: Value) -> Value {
    with(
        json!({"model": "base", "prompt": "the quick", "max_tokens": 8, "seed": 3}),
        fields,
    )
}

fn ids(text: &str) -> Vec<u32> {
    tokenizer().encode(text, AddSpecial::Yes).unwrap()
}

#[test]
fn http_four_forms_of_prompts_give_the_same() {
    let server = Running::new();
    let of = |prompt: Value| {
        let answer = server
            .client
            .post(ROUTE, &request(json!({"prompt": prompt, "logprobs": 1})))
            .json();
        answer["choices"].as_array().unwrap().clone()
    };
    let one = of(json!("the quick"));
    assert_eq!(one.len(), 1);
    assert_eq!(of(json!(ids("the quick"))), one);
    let two = of(json!(["the quick", "hello there"]));
    assert_eq!(two.len(), 2);
    assert_eq!(two[0], one[0], "the second prompt changes nothing of the first");
    assert_eq!(of(json!([ids("the quick"), ids("hello there")])), two);
    assert_eq!((&two[0]["index"], &two[1]["index"]), (&json!(0), &json!(1)));
    // Choices of the first prompt come first
    let answer = server
        .client
        .post(ROUTE, &request(json!({"prompt": ["the quick", "hello"], "n": 2})))
        .json();
    let indices: Vec<&Value> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["index"])
        .collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    assert_eq!(answer["choices"][0]["text"], one[0]["text"]);
    assert_ne!(answer["choices"][1]["text"], one[0]["text"]);
    // No prompt begins a document
    let none = server.client.post(ROUTE, &request(json!({"prompt": null}))).json();
    assert_eq!(
        none["choices"],
        server.client.post(ROUTE, &request(json!({"prompt": ""}))).json()["choices"]
    );
    assert_eq!(none["usage"]["prompt_tokens"], 1);
}

#[test]
fn http_log_probabilities_in_four_lists() {
    let server = Running::new();
    let answer = server.client.post(ROUTE, &request(json!({"logprobs": 3}))).json();
    let choice = &answer["choices"][0];
    let lists = choice["logprobs"].as_object().unwrap();
    let names: Vec<&str> = lists.keys().map(String::as_str).collect();
    assert_eq!(names, ["tokens", "token_logprobs", "top_logprobs", "text_offset"]);
    let count = answer["usage"]["completion_tokens"].as_u64().unwrap() as usize;
    assert!(lists.values().all(|list| list.as_array().unwrap().len() == count));
    let top = lists["top_logprobs"].as_array().unwrap();
    for (i, top) in top.iter().enumerate() {
        let top = top.as_object().unwrap();
        let token = lists["tokens"][i].as_str().unwrap();
        assert!(top.len() == 3 || top.len() == 4, "three, and the token itself");
        assert_eq!(top[token], lists["token_logprobs"][i]);
    }
    // Offsets are where the tokens begin in the text
    let text: Vec<char> = choice["text"].as_str().unwrap().chars().collect();
    for i in 0..count {
        let token = lists["tokens"][i].as_str().unwrap();
        let at = lists["text_offset"][i].as_u64().unwrap() as usize;
        if !token.starts_with("bytes:") && !token.starts_with("<|") {
            let there: String = text[at..].iter().take(token.chars().count()).collect();
            assert_eq!(there, token);
        }
    }
    let none = server.client.post(ROUTE, &request(json!({}))).json();
    assert_eq!(none["choices"][0]["logprobs"], Value::Null);
    assert_eq!(none["choices"][0]["text"], choice["text"]);
}

#[test]
fn http_an_echo_comes_first_in_a_stream_as_well() {
    let server = Running::new();
    let fields = json!({"prompt": ["the quick", "hello"], "n": 2, "echo": true, "logprobs": 2});
    let whole = server.client.post(ROUTE, &request(fields.clone())).json();
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = server.client.post(ROUTE, &with(request(fields), options)).events();
    let (usage, parts) = events.split_last().unwrap();
    assert_eq!(usage["usage"], whole["usage"]);
    for (index, expected) in whole["choices"].as_array().unwrap().iter().enumerate() {
        let own: Vec<&Value> = parts
            .iter()
            .map(|p| &p["choices"][0])
            .filter(|c| c["index"] == index)
            .collect();
        let text: String = own.iter().map(|c| c["text"].as_str().unwrap()).collect();
        assert_eq!(text, expected["text"].as_str().unwrap());
        assert_eq!(own[0]["text"], ["the quick", "hello"][index / 2]);
        for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            let joined: Vec<Value> = own
                .iter()
                .filter_map(|c| c["logprobs"][name].as_array())
                .flat_map(|list| list.iter().cloned())
                .collect();
            assert_eq!(Value::from(joined), expected["logprobs"][name], "{name}");
        }
        assert_eq!(own.last().unwrap()["finish_reason"], expected["finish_reason"]);
    }
}

#[test]
fn http_completions_that_cannot_be() {
    let server = Running::new();
    let long = vec![5; CONTEXT + 1];
    let full = vec![5; CONTEXT];
    for (fields, param, code) in [
        (json!({"suffix": "end"}), "suffix", Some("unsupported_parameter")),
        (json!({"best_of": 2}), "best_of", Some("unsupported_parameter")),
        (json!({"prompt": [1, 99999]}), "prompt", None),
        (json!({"prompt": [["a"], 3]}), "prompt[0][0]", None),
        (json!({"prompt": full}), "prompt", Some("context_length_exceeded")),
        (
            json!({"prompt": [[1], long], "max_tokens": 0}),
            "prompt[1]",
            Some("context_length_exceeded"),
        ),
        (json!({"prompt": {"text": "a"}}), "prompt", None),
        (json!({"logprobs": true}), "logprobs", None),
        (json!({"echo": "yes"}), "echo", None),
        (json!({"messages": []}), "messages", Some("unknown_parameter")),
    ] {
        let error = server.client.post(ROUTE, &request(fields.clone())).error(400);
        assert_eq!(error["param"], param, "{fields}: {error}");
        assert_eq!(error["code"], json!(code), "{fields}: {error}");
    }
    // A request for more than fits ends at the context
    let answer = server
        .client
        .post(
            ROUTE,
            &request(json!({"prompt": vec![5; CONTEXT - 3], "max_tokens": 500})),
        )
        .json();
    assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() <= 3);
}
