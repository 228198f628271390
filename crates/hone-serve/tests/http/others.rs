//! Models, tokenizers, scores, embeddings, metrics.

use hone_compute::Engine;
use hone_data::PromptInput;
use hone_generate::embeddings_of;
use hone_serve::Options;
use hone_text::{AddSpecial, Chat, Message, TrainOptions, train_bpe};
use hone_train::Scorer;
use serde_json::{Value, json};

use crate::client::Client;
use crate::common::{CONTEXT, Running, asked, engine, model, models, tokenizer};

#[test]
fn http_the_models_are_listed() {
    let server = Running::new();
    let list = server.client.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    let names: Vec<&Value> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| &model["id"])
        .collect();
    assert_eq!(names, ["chat", "base", "tuned", "reward"]);
    let tuned = server.client.get("/v1/models/tuned").json();
    assert_eq!(tuned, list["data"][2]);
    assert_eq!(
        (&tuned["parent"], &tuned["object"], &tuned["max_model_len"]),
        (&json!("chat"), &json!("model"), &json!(CONTEXT))
    );
    assert_eq!(
        (&list["data"][1]["chat"], &list["data"][3]["kind"]),
        (&json!(false), &json!("reward"))
    );
    assert_eq!(
        server.client.get("/v1/models/absent").error(404)["code"],
        "model_not_found"
    );
}

#[test]
fn http_texts_become_tokens_and_texts_again() {
    let server = Running::new();
    let text = "the quick 水 <|im_end|>";
    let answer = server
        .client
        .post("/tokenize", &json!({"prompt": text, "return_token_strs": true}))
        .json();
    let ids = tokenizer().encode(text, AddSpecial::Yes).unwrap();
    assert_eq!(answer["tokens"], json!(ids));
    assert_eq!(
        (&answer["count"], &answer["max_model_len"]),
        (&json!(ids.len()), &json!(CONTEXT))
    );
    assert_eq!(answer["token_strs"].as_array().map(Vec::len), Some(ids.len()));
    let back = server
        .client
        .post("/detokenize", &json!({"tokens": ids, "model": "base"}))
        .json();
    assert_eq!(back["prompt"], text);
    let messages = json!([{"role": "user", "content": "hello"}]);
    let answer = server.client.post("/tokenize", &json!({"messages": messages})).json();
    let expected = Chat::new(&tokenizer())
        .unwrap()
        .prompt_ids(&[Message::user("hello")])
        .unwrap();
    assert_eq!(answer["tokens"], json!(expected));
    assert_eq!(
        server.client.post("/detokenize", &json!({"tokens": []})).json()["prompt"],
        ""
    );
    for (route, body, param) in [
        ("/tokenize", json!({}), "prompt"),
        ("/tokenize", json!({"prompt": "a", "messages": []}), "prompt"),
        ("/tokenize", json!({"prompt": 3}), "prompt"),
        ("/detokenize", json!({}), "tokens"),
        ("/detokenize", json!({"tokens": "abc"}), "tokens"),
        ("/detokenize", json!({"tokens": [1, 99999]}), "tokens"),
        ("/detokenize", json!({"tokens": [1], "token": 2}), "token"),
    ] {
        assert_eq!(
            server.client.post(route, &body).error(400)["param"],
            param,
            "{route} {body}"
        );
    }
}

#[test]
fn http_tokenizers_of_several_models_are_told_apart() {
    let several = |engine: &Engine| {
        let mut all = models(engine);
        let options = TrainOptions {
            vocab_size: 280,
            ..TrainOptions::default()
        };
        let text = "zebras and other words that are not those of the others".repeat(3);
        all[1].tokenizer = train_bpe([text].into_iter(), &options).unwrap();
        all
    };
    let locked = Options {
        tokens: vec!["0123456789abcdef".into()],
        ..Options::default()
    };
    let server = Running::with(several, locked);
    let stranger = Client {
        token: None,
        ..server.client.clone()
    };
    for (body, status) in [
        (json!({"prompt": "a"}), 400),
        (json!({"prompt": "a", "model": "absent"}), 404),
        (json!({"prompt": "a", "model": "base"}), 200),
    ] {
        for (client, knows) in [(&server.client, true), (&stranger, false)] {
            let answer = client.post("/tokenize", &body);
            assert_eq!(answer.status, status, "{}", answer.text());
            // Only who has a token hears of names
            assert_eq!(
                answer.text().contains("tuned"),
                knows && status != 200,
                "{}",
                answer.text()
            );
        }
    }
    let path = "/tokenizer_info?model=base";
    assert_eq!(server.client.get(path).json()["model"], "base");
    assert_eq!(stranger.get(path).json()["model"], Value::Null);
    stranger.get("/tokenizer_info").error(400);
    stranger.get("/tokenizer_info?model=absent").error(404);
}

#[test]
fn http_what_is_no_number_is_an_error_of_its_own_text_alone() {
    let broken = |engine: &Engine| {
        let mut all = models(engine);
        for at in [1, 3] {
            let served = &mut all[at];
            // The embedding of token 7, which is its row of the output as well
            let embeddings = served.model.parameters().iter();
            let id = embeddings
                .map(|(id, p)| (p.value().len(), id))
                .max_by_key(|(len, _)| *len)
                .unwrap()
                .1;
            let mut numbers = engine.read(served.model.parameters().get(id).value());
            let width = numbers.len() / served.model.parameters().get(id).value().rows();
            numbers[7 * width..8 * width].fill(f32::NAN);
            served.model.parameters_mut().set(engine, id, &numbers);
        }
        all
    };
    let server = Running::with(broken, Options::default());
    for format in ["float", "base64"] {
        let of = |input: Value| {
            let body = json!({"model": "base", "input": input, "encoding_format": format});
            server.client.post("/v1/embeddings", &body)
        };
        let error = of(json!([[5, 6], [5, 7]])).error(500);
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .starts_with("the embedding of input 1 is NaN"),
            "{error}"
        );
        assert_eq!(of(json!([5, 6])).status, 200);
    }
    let token = tokenizer().id_to_token(7).unwrap().to_owned();
    let score = |completion: &str| {
        let item = json!({"prompt": "hello", "completion": completion});
        server.client.post("/score", &json!({"model": "reward", "input": item}))
    };
    let error = score(&token).error(500);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .starts_with("the score of input 0 is NaN"),
        "{error}"
    );
    assert_eq!(score("the fox").status, 200);
}

#[test]
fn http_scores_are_the_reward_models() {
    let server = Running::new();
    let messages = json!([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "how are you"}]);
    let items = json!([
        {"prompt": "hello", "completion": "how are you"},
        {"messages": messages},
        {"prompt": [{"role": "user", "content": "the fox"}], "completion": "runs"},
    ]);
    let answer = server
        .client
        .post("/score", &json!({"model": "reward", "input": items}))
        .json();
    let data = answer["data"].as_array().unwrap();
    let engine = engine();
    let mut reward = model(&engine, CONTEXT, 6);
    reward.add_reward_head(&engine, 6);
    reward.set_head_offset(0.5);
    let scorer = Scorer::new(reward, tokenizer()).unwrap();
    let prompt = |text: &str| PromptInput::Text(text.into());
    let (hello, fox) = (prompt("hello"), prompt("the fox"));
    let expected = scorer
        .score(&engine, &[(&hello, "how are you"), (&fox, "runs")])
        .unwrap();
    let got: Vec<u32> = data
        .iter()
        .map(|d| (d["score"].as_f64().unwrap() as f32).to_bits())
        .collect();
    assert_eq!(
        got,
        [expected[0].to_bits(), expected[0].to_bits(), expected[1].to_bits()]
    );
    let one = server
        .client
        .post("/score", &json!({"model": "reward", "input": items[0]}))
        .json();
    assert_eq!(one["data"][0], data[0]);
    for (body, param) in [
        (json!({"model": "chat", "input": items}), "model"),
        (json!({"model": "reward"}), "input"),
        (json!({"model": "reward", "input": []}), "input"),
        (json!({"model": "reward", "input": "a"}), "input[0]"),
        (
            json!({"model": "reward", "input": [items[0], {"prompt": "a"}]}),
            "input[1]",
        ),
        (
            json!({"model": "reward", "input": {"messages": [{"role": "user", "content": "a"}]}}),
            "input[0]",
        ),
        (
            json!({"model": "reward", "input": {"prompt": "a", "completion": "word ".repeat(300)}}),
            "input[0]",
        ),
    ] {
        assert_eq!(server.client.post("/score", &body).error(400)["param"], param, "{body}");
    }
}

#[test]
fn http_embeddings_in_both_encodings() {
    let server = Running::new();
    let of = |fields: Value| {
        server
            .client
            .post("/v1/embeddings", &crate::common::with(json!({"model": "chat"}), fields))
    };
    let texts = ["the quick brown fox", "hello"];
    let answer = of(json!({"input": texts})).json();
    let engine = engine();
    let ids: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| tokenizer().encode(text, AddSpecial::Yes).unwrap())
        .collect();
    let slices: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let expected = embeddings_of(&engine, &model(&engine, CONTEXT, 5), &slices);
    for (datum, expected) in answer["data"].as_array().unwrap().iter().zip(&expected) {
        let numbers = datum["embedding"].as_array().unwrap();
        let got: Vec<u32> = numbers.iter().map(|x| (x.as_f64().unwrap() as f32).to_bits()).collect();
        assert_eq!(got, expected.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
    }
    let tokens: usize = ids.iter().map(Vec::len).sum();
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": tokens, "total_tokens": tokens})
    );
    // Ids give what their text gives; base64 gives the same bytes
    assert_eq!(
        of(json!({"input": ids[1]})).json()["data"][0]["embedding"],
        answer["data"][1]["embedding"]
    );
    let coded = of(json!({"input": texts[1], "encoding_format": "base64"})).json();
    let coded = coded["data"][0]["embedding"].as_str().unwrap().to_owned();
    assert_eq!(
        bytes(&coded),
        expected[1].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()
    );
    for (fields, param) in [
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": "a", "encoding_format": "int8"}), "encoding_format"),
        (json!({"input": "a", "dimensions": 7}), "dimensions"),
        (json!({"input": "word ".repeat(300)}), "input[0]"),
    ] {
        assert_eq!(of(fields.clone()).error(400)["param"], param, "{fields}");
    }
    assert_eq!(of(json!({"input": "a", "dimensions": 32})).status, 200);
}

/// Undoes base64.
fn bytes(text: &str) -> Vec<u8> {
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for digit in text.chars().filter(|&c| c != '=') {
        bits = bits << 6 | digits.find(digit).expect("a digit") as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 255) as u8);
        }
    }
    bytes
}

#[test]
fn http_metrics_count() {
    let server = Running::new();
    assert_eq!(server.client.get("/health").json(), json!({"status": "ok"}));
    let reply = server.client.post("/v1/chat/completions", &asked("hello")).json();
    server.client.post("/v1/chat/completions", &json!({})).error(400);
    // The engine counts a step's tokens after it has handed them on
    let sampled = format!("hone_sampled_tokens_total {}\n", reply["usage"]["completion_tokens"]);
    let begun = std::time::Instant::now();
    let text = loop {
        let text = server.client.get("/metrics").text().to_owned();
        if text.contains(&sampled) || begun.elapsed().as_secs() > 20 {
            break text;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    let line = |start: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(start));
        found
            .unwrap_or_else(|| panic!("no {start} in {text}"))
            .trim()
            .parse::<u64>()
            .unwrap()
    };
    assert_eq!(
        line("hone_prompt_tokens_total"),
        reply["usage"]["prompt_tokens"].as_u64().unwrap()
    );
    assert_eq!(
        line("hone_sampled_tokens_total"),
        reply["usage"]["completion_tokens"].as_u64().unwrap()
    );
    assert_eq!(
        line("hone_requests_total{route=\"/v1/chat/completions\",status=\"200\"}"),
        1
    );
    assert_eq!(
        line("hone_requests_total{route=\"/v1/chat/completions\",status=\"400\"}"),
        1
    );
    assert_eq!(line("hone_requests_total{route=\"/health\",status=\"200\"}"), 1);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(
            line.rsplit_once(' ')
                .is_some_and(|(_, number)| number.parse::<u64>().is_ok()),
            "{line}"
        );
    }
}
