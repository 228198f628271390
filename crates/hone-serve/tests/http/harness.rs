//! The contract of lm-evaluation-harness (`local-completions`), one test a trap. It reads `token_logprobs[context:-1]` and
//! `top_logprobs[context:-1]` of an echo with one token more, and calls a continuation greedy where every token's number
//! equals the largest of its place. Accuracies hide mistakes here; log-probabilities do not.

use std::sync::Arc;

use hone_compute::SamplingParameters;
use hone_generate::{Generator, GeneratorOptions, Request, logprobs_of};
use hone_math::Key;
use serde_json::{Value, json};

use crate::client::Client;
use crate::common::{CONTEXT, Running, engine, model, tokenizer, with};
use hone_serve::Options;

const ROUTE: &str = "/v1/completions";

/// What the harness sends.
fn request(prompt: Value) -> Value {
    json!({"model": "base", "prompt": prompt, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": true})
}

/// What `base` gives after these tokens, greedily.
fn greedy(prompt: &[u32], count: usize) -> Vec<u32> {
    let engine = engine();
    let model = model(&engine, CONTEXT, 8);
    let request = Request {
        prompt: prompt.into(),
        sampling: SamplingParameters {
            temperature: 0.0,
            ..SamplingParameters::default()
        },
        key: Key::new(1, "test", 0),
        max_new_tokens: count,
        stop_tokens: Arc::from([]),
        stop_texts: None,
    };
    let generator = Generator::new(&engine, &model, GeneratorOptions::default());
    generator.run(&[request]).unwrap().remove(0).ids
}

fn choices(client: &Client, body: &Value) -> Vec<Value> {
    client.post(ROUTE, body).json()["choices"].as_array().unwrap().clone()
}

/// The numbers of an echoed prompt and what came after it.
fn numbers(choice: &Value) -> Vec<Option<f64>> {
    choice["logprobs"]["token_logprobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(Value::as_f64)
        .collect()
}

/// The largest number of each place, as Python's `max(top.values())` finds it.
fn largest(choice: &Value) -> Vec<Option<f64>> {
    let top = choice["logprobs"]["top_logprobs"].as_array().unwrap();
    top.iter()
        .map(|top| {
            let numbers = top.as_object()?.values().map(|x| x.as_f64().unwrap());
            Some(numbers.fold(f64::NEG_INFINITY, f64::max))
        })
        .collect()
}

#[test]
fn trap_1_an_echo_with_one_token_has_one_entry_more_even_if_it_ends_there() {
    let server = Running::new();
    let prompt = [5, 6, 7, 8, 9, 10];
    for (ends, fields) in [
        (false, json!({})),
        (true, json!({"logit_bias": {end_token().to_string(): 100}})),
    ] {
        let answer = server.client.post(ROUTE, &with(request(json!(prompt)), fields)).json();
        let choice = &answer["choices"][0];
        assert_eq!(numbers(choice).len(), prompt.len() + 1);
        assert_eq!(largest(choice).len(), prompt.len() + 1);
        assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), prompt.len() + 1);
        assert_eq!(
            choice["logprobs"]["text_offset"].as_array().unwrap().len(),
            prompt.len() + 1
        );
        if ends {
            assert_eq!(choice["finish_reason"], "stop");
            assert_eq!(answer["usage"]["completion_tokens"], 1);
        }
    }
}

/// The token that ends a text.
fn end_token() -> u32 {
    tokenizer().eos().unwrap()
}

#[test]
fn trap_2_the_most_probable_token_is_listed_wherever_the_given_one_is_not_it() {
    let server = Running::new();
    let prompt = [5, 6, 7, 8, 9, 10];
    let choice = &choices(&server.client, &request(json!(prompt)))[0];
    for at in 1..prompt.len() {
        // What the model would have said there
        let best = greedy(&prompt[..at], 1)[0];
        let engine = engine();
        let sequence = [&prompt[..at], &[best]].concat();
        let expected = logprobs_of(&engine, &model(&engine, CONTEXT, 8), &[&sequence], 1.0);
        let expected = f64::from(*expected[0].logprobs.last().unwrap());
        assert_eq!(largest(choice)[at], Some(expected), "place {at}");
    }
}

#[test]
fn trap_3_a_greedy_continuation_is_recognised_by_equal_numbers() {
    let server = Running::new();
    let prompt = vec![5, 6, 7];
    let whole = [&prompt[..], &greedy(&prompt, 9)].concat();
    let choice = &choices(&server.client, &request(json!(whole)))[0];
    let (given, best) = (numbers(choice), largest(choice));
    assert_eq!(given[prompt.len()..whole.len()], best[prompt.len()..whole.len()]);
    // And another one is not
    let mut other = whole.clone();
    other[prompt.len() + 4] = (other[prompt.len() + 4] + 1) % 250;
    let choice = &choices(&server.client, &request(json!(other)))[0];
    let place = prompt.len() + 4;
    assert!(numbers(choice)[place] < largest(choice)[place]);
    // The numbers are those of `hone logprobs`, to the bit
    let engine = engine();
    let expected = logprobs_of(&engine, &model(&engine, CONTEXT, 8), &[&whole], 1.0);
    for (got, expected) in given[1..whole.len()].iter().zip(&expected[0].logprobs) {
        assert_eq!((got.unwrap() as f32).to_bits(), expected.to_bits());
    }
}

#[test]
fn trap_4_every_number_is_json_and_the_first_is_null() {
    let server = Running::new();
    let answer = server.client.post(
        ROUTE,
        &with(request(json!([5, 6, 7, 279, 278])), json!({"logprobs": 20})),
    );
    let text = answer.text();
    assert!(!text.contains("NaN") && !text.contains("Infinity"), "{text}");
    let choice = &answer.json()["choices"][0];
    let given = numbers(choice);
    assert_eq!((given[0], largest(choice)[0]), (None, None));
    assert!(
        given[1..]
            .iter()
            .all(|x| x.is_some_and(|x| (-9999.0..=0.0).contains(&x)))
    );
}

#[test]
fn trap_5_tokens_that_are_no_text_are_told_apart() {
    let server = Running::new();
    let tokenizer = tokenizer();
    let halves = tokenizer.encode("水", hone_text::AddSpecial::No).unwrap();
    assert_eq!(halves.len(), 3);
    let choice = &choices(&server.client, &with(request(json!(halves)), json!({"logprobs": 20})))[0];
    let tokens = &choice["logprobs"]["tokens"];
    assert_eq!(tokens[0], r"bytes:\xe6");
    assert_eq!(tokens[1], r"bytes:\xb0");
    // Twenty tokens, most of them bytes, are twenty entries
    for top in choice["logprobs"]["top_logprobs"].as_array().unwrap()[1..].iter() {
        assert!(top.as_object().unwrap().len() >= 20, "{top}");
    }
    assert!(choice["text"].as_str().unwrap().starts_with('水'));
}

#[test]
fn trap_6_the_tokenizer_says_how_texts_end() {
    let server = Running::new();
    let info = server.client.get("/tokenizer_info").json();
    let tokenizer = tokenizer();
    assert_eq!(
        info["eos_token"].as_str(),
        tokenizer.id_to_token(tokenizer.eos().unwrap()).as_deref()
    );
    assert_eq!(info["chat_template"].as_str(), tokenizer.chat_template());
    let base = server.client.get("/tokenizer_info?model=base").json();
    assert!(
        base["eos_token"].is_string() && base["chat_template"].is_null(),
        "{base}"
    );
    server.client.get("/tokenizer_info?model=absent").error(404);
}

#[test]
fn trap_7_these_routes_come_without_the_key() {
    let options = Options {
        tokens: vec!["a token of a test, long enough".replace(' ', "-")],
        ..Options::default()
    };
    let server = Running::with(crate::common::models, options);
    let stranger = Client {
        token: None,
        ..server.client.clone()
    };
    assert!(stranger.get("/tokenizer_info").json()["eos_token"].is_string());
    let ids = stranger
        .post(
            "/tokenize",
            &json!({"prompt": "hello there", "add_special_tokens": false}),
        )
        .json();
    let back = stranger.post("/detokenize", &json!({"tokens": ids["tokens"]})).json();
    assert_eq!(back["prompt"], "hello there");
    stranger.post(ROUTE, &request(json!([5]))).error(401);
    assert_eq!(server.client.post(ROUTE, &request(json!([5]))).status, 200);
}

#[test]
fn trap_8_more_than_four_stops() {
    let server = Running::new();
    let stops: Vec<String> = (0..16).map(|i| format!("never {i}")).collect();
    let body = json!({"model": "base", "prompt": "the", "max_tokens": 4, "stop": stops});
    assert_eq!(server.client.post(ROUTE, &body).status, 200);
}

#[test]
fn trap_9_prompts_together_give_what_each_gives_alone() {
    let server = Running::new();
    let prompts: Vec<Vec<u32>> = (0..12)
        .map(|i| (0..1 + 17 * i % 90).map(|j| (7 * j + i) % 250).collect())
        .collect();
    let together = choices(&server.client, &request(json!(prompts)));
    assert_eq!(together.len(), prompts.len());
    for (prompt, together) in prompts.iter().zip(&together) {
        let alone = &choices(&server.client, &request(json!(prompt)))[0];
        assert_eq!(together["text"], alone["text"]);
        assert_eq!(together["logprobs"], alone["logprobs"]);
    }
}

#[test]
fn trap_10_no_token_may_be_asked_for() {
    let server = Running::new();
    let prompt = [5, 6, 7, 8];
    let none = with(request(json!(prompt)), json!({"max_tokens": 0}));
    let answer = server.client.post(ROUTE, &none).json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    let with_one = &choices(&server.client, &request(json!(prompt)))[0];
    assert_eq!(numbers(choice)[..], numbers(with_one)[..prompt.len()]);
    // Without an echo there is nothing at all; and a text as long as the context can be read
    let silent = with(none.clone(), json!({"echo": false}));
    assert_eq!(choices(&server.client, &silent)[0]["text"], "");
    let full = vec![5; CONTEXT];
    let read = &choices(&server.client, &with(none, json!({"prompt": full})))[0];
    assert_eq!(numbers(read).len(), CONTEXT);
}
