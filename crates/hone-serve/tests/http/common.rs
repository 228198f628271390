//! Tiny models, and a server of them in a thread.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hone_compute::{Engine, EngineOptions, Isa, Precision};
use hone_model::{LoraConfig, NewModel, Transformer};
use hone_serve::{Options, ServeError, ServedModel, Server};
use hone_text::{Tokenizer, TrainOptions, train_bpe};
use serde_json::{Value, json};

use crate::client::Client;

/// Tokens that a sequence may have.
pub const CONTEXT: usize = 256;

/// A context in which an answer takes as long as a test wants.
pub const LONG: usize = 16_384;

const TEXT: &str =
    "the quick brown fox jumps over the lazy dog; the dog sleeps, the fox runs. hello there, how are you today?";

pub fn engine() -> Engine {
    let options = EngineOptions {
        isa: Some(Isa::Portable),
        precision: Precision::F32,
        threads: Some(1),
    };
    Engine::new(&options).expect("an engine")
}

/// With ChatML.
pub fn tokenizer() -> Tokenizer {
    let options = TrainOptions {
        vocab_size: 280,
        ..TrainOptions::default()
    };
    train_bpe([TEXT.repeat(3)].into_iter(), &options).expect("a tokenizer")
}

/// The same tokens without a chat template.
fn base_tokenizer() -> Tokenizer {
    let folder = tempfile::tempdir().expect("a folder");
    tokenizer().save(folder.path()).expect("saved");
    let path = folder.path().join("tokenizer_config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).expect("a file")).expect("JSON");
    config.as_object_mut().expect("an object").remove("chat_template");
    fs::write(&path, config.to_string()).expect("written");
    let _ = fs::remove_file(folder.path().join("chat_template.jinja"));
    Tokenizer::from_dir(folder.path()).expect("a tokenizer")
}

/// A random model with weights large enough that answers differ.
pub fn model(engine: &Engine, context: usize, seed: u64) -> Transformer {
    let shape = NewModel {
        family: "llama".into(),
        width: 32,
        layers: 2,
        heads: 4,
        kv_heads: Some(2),
        head_dim: None,
        intermediate: Some(48),
        context,
        tied: true,
        rope_theta: 10_000.0,
    };
    let shape = shape.architecture(tokenizer().vocab_size()).expect("a shape");
    let mut model = Transformer::random(engine, shape, seed);
    let matrices: Vec<_> = model
        .parameters()
        .iter()
        .filter(|(_, p)| p.value().rows() > 1)
        .map(|(id, _)| id)
        .collect();
    for id in matrices {
        let mut numbers = engine.read(model.parameters().get(id).value());
        numbers.iter_mut().for_each(|x| *x *= 6.0);
        model.parameters_mut().set(engine, id, &numbers);
    }
    model
}

/// What the server of most tests has: `chat`, `base`, which has no template, `tuned`, an adapter on `chat`, and `reward`.
pub fn models(engine: &Engine) -> Vec<ServedModel> {
    let served = |name: &str, model: Transformer, tokenizer: Tokenizer| ServedModel {
        name: name.into(),
        parent: None,
        model,
        tokenizer,
    };
    let chat = model(engine, CONTEXT, 5);
    let mut tuned = chat.duplicate();
    let lora = LoraConfig {
        rank: 2,
        alpha: 8.0,
        targets: vec!["q".into(), "down".into()],
        vocabulary: false,
    };
    tuned.add_adapter(engine, &lora, 7).expect("an adapter");
    let upper: Vec<_> = tuned
        .parameters()
        .iter()
        .filter(|(_, p)| p.name().contains("lora_B"))
        .map(|(id, _)| id)
        .collect();
    for id in upper {
        let count = tuned.parameters().get(id).value().len();
        let numbers: Vec<f32> = (0..count).map(|i| (i % 7) as f32 * 0.1 - 0.3).collect();
        tuned.parameters_mut().set(engine, id, &numbers);
    }
    let mut reward = model(engine, CONTEXT, 6);
    reward.add_reward_head(engine, 6);
    reward.set_head_offset(0.5);
    vec![
        served("chat", chat, tokenizer()),
        served("base", model(engine, CONTEXT, 8), base_tokenizer()),
        ServedModel {
            parent: Some("chat".into()),
            ..served("tuned", tuned, tokenizer())
        },
        served("reward", reward, tokenizer()),
    ]
}

/// One model in whose context answers are long.
pub fn slow(engine: &Engine) -> Vec<ServedModel> {
    vec![ServedModel {
        name: "slow".into(),
        parent: None,
        model: model(engine, LONG, 5),
        tokenizer: tokenizer(),
    }]
}

/// A server in a thread of this process; it ends with this value.
pub struct Running {
    pub client: Client,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Running {
    /// Of the usual models, on a free port, without a token.
    pub fn new() -> Self {
        Self::with(models, Options::default())
    }

    pub fn with(models: impl FnOnce(&Engine) -> Vec<ServedModel>, options: Options) -> Self {
        let engine = engine();
        let models = models(&engine);
        let options = Options { port: 0, ..options };
        let server = Server::bind(engine, models, &options).expect("a server");
        let client = Client {
            address: server.address(),
            token: options.tokens.first().cloned(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || server.run(&|| asked.load(Ordering::Relaxed), &|_| {}));
        Self {
            client,
            stop,
            thread: Some(thread),
        }
    }

    /// Asks it to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for its end.
    pub fn join(&mut self) -> Result<(), ServeError> {
        self.thread.take().expect("it runs").join().expect("no panic")
    }

    /// A number of its metrics.
    pub fn metric(&self, name: &str) -> u64 {
        let answer = self.client.get("/metrics");
        let line = answer
            .text()
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}")).parse().expect("a number")
    }

    /// Waits until a metric is so.
    #[track_caller]
    pub fn wait(&self, name: &str, holds: impl Fn(u64) -> bool) {
        let start = Instant::now();
        while !holds(self.metric(name)) {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{name} is {}",
                self.metric(name)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("no panic").expect("a good end");
            }
        }
    }
}

/// A bias against every token that would end an answer.
pub fn endless() -> Value {
    let tokenizer = tokenizer();
    let ids = tokenizer.special_tokens().map(|(id, _)| (id.to_string(), json!(-100)));
    Value::Object(ids.collect())
}

/// A request to `chat`.
pub fn asked(text: &str) -> Value {
    json!({"model": "chat", "messages": [{"role": "user", "content": text}], "max_tokens": 12, "seed": 3})
}

/// The same with these fields.
pub fn with(mut value: Value, fields: Value) -> Value {
    for (name, field) in fields.as_object().expect("an object") {
        value[name] = field.clone();
    }
    value
}
