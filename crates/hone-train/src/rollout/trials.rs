//! What every stage with rollouts keeps to, on tiny models: what is resumed goes on to the same bytes, threads change none,
//! and what makes no sense is refused by name.

use std::path::Path;
use std::sync::{Arc, Mutex};

use hone_compute::{Engine, EngineOptions, Isa, Precision};
use hone_model::{NewModel, Transformer};
use hone_run::{Event, Observer, Resolved, Shutdown, Silent};
use hone_text::{Tokenizer, TrainOptions, train_bpe};
use serde_json::Value;

use super::stage::{Practised, run};
use crate::artefact::{Companion, publish_at, token_fields};
use crate::error::Result;
use crate::job::{Job, Outcome};

const WORDS: &str = "one two three four five six seven eight nine ten red green blue cat dog bird sees likes the a";

pub(crate) fn tokenizer() -> Tokenizer {
    let options = TrainOptions {
        vocab_size: 300,
        ..TrainOptions::default()
    };
    let mut tokenizer = train_bpe(std::iter::once(WORDS.repeat(20)), &options).unwrap();
    tokenizer.add_chat_tokens().unwrap();
    tokenizer
}

pub(crate) fn engine(isa: Isa) -> Engine {
    engine_of(isa, Precision::Bf16)
}

pub(crate) fn engine_of(isa: Isa, precision: Precision) -> Engine {
    Engine::new(&EngineOptions {
        isa: Some(isa),
        precision,
        threads: Some(2),
    })
    .unwrap()
}

pub(crate) fn model(engine: &Engine, tokenizer: &Tokenizer, seed: u64) -> Transformer {
    model_of(engine, tokenizer, (64, seed))
}

pub(crate) fn model_of(engine: &Engine, tokenizer: &Tokenizer, (context, seed): (usize, u64)) -> Transformer {
    let new = NewModel {
        family: "llama".into(),
        width: 32,
        layers: 2,
        heads: 4,
        kv_heads: Some(2),
        head_dim: None,
        intermediate: Some(64),
        context,
        tied: true,
        rope_theta: 10_000.0,
    };
    Transformer::random(engine, new.architecture(tokenizer.vocab_size()).unwrap(), seed)
}

pub(crate) fn scale(engine: &Engine, model: &mut Transformer, part: &str, factor: f32) {
    let ids: Vec<_> = model
        .parameters()
        .iter()
        .filter(|(_, p)| p.name().contains(part))
        .map(|(id, _)| id)
        .collect();
    for id in ids {
        let numbers = engine
            .read(model.parameters().get(id).value())
            .iter()
            .map(|x| x * factor)
            .collect::<Vec<_>>();
        model.parameters_mut().set(engine, id, &numbers);
    }
}

/// A random reward model whose score depends on the tokens of the response, through a strong attention.
pub(crate) fn reward_model(engine: &Engine, tokenizer: &Tokenizer) -> Transformer {
    let mut reward = model(engine, tokenizer, 2);
    scale(engine, &mut reward, "v_proj", 20.0);
    scale(engine, &mut reward, "o_proj", 20.0);
    reward.add_reward_head(engine, 2);
    reward
}

/// A policy, a reward model and prompts on disk.
pub(crate) fn world(dir: &Path) {
    let (engine, tokenizer) = (engine(Isa::detect()), tokenizer());
    save(&engine, &dir.join("policy"), &tokenizer, &model(&engine, &tokenizer, 1));
    save(
        &engine,
        &dir.join("reward"),
        &tokenizer,
        &reward_model(&engine, &tokenizer),
    );
    let words: Vec<&str> = WORDS.split(' ').collect();
    let rows: Vec<String> = (0..40)
        .map(|i| format!("{{\"prompt\":\"{} {}\"}}\n", words[i % 20], words[(i * 7 + 3) % 20]))
        .collect();
    std::fs::write(dir.join("prompts.jsonl"), rows.concat()).unwrap();
}

pub(crate) fn save(engine: &Engine, path: &Path, tokenizer: &Tokenizer, model: &Transformer) {
    let companion = Companion {
        tokenizer: tokenizer.clone(),
        tokens: token_fields(tokenizer),
        base: None,
    };
    publish_at(engine, path, &companion, model).unwrap();
}

pub(crate) fn job(base: &Path, run: &str, shutdown: Shutdown) -> Job {
    Job {
        dir: base.join(run),
        base: base.into(),
        observer: Arc::new(Silent),
        shutdown,
        allow_isa_change: false,
        threads: Some(2),
    }
}

pub(crate) fn metrics(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Keeps what a run says.
#[derive(Default)]
pub(crate) struct Listening(pub Mutex<Vec<String>>);

impl Observer for Listening {
    fn event(&self, event: &Event) {
        if let Event::Message(text) = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}

/// Asks for a stop after an update.
struct StopAfter(u64, Shutdown);

impl Observer for StopAfter {
    fn event(&self, event: &Event) {
        if matches!(event, Event::Step { step, .. } if *step == self.0) {
            self.1.request();
        }
    }
}

/// A run under this name, up to its end.
pub(crate) fn start<C: Practised>(dir: &Path, name: &str, c: C) -> Result<Outcome> {
    run(&job(dir, name, Shutdown::default()), &Resolved::from_config(c)?)
}

/// A number of a line of `metrics.jsonl`.
pub(crate) fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"))
}

/// Runs as configured, then goes on from what stood there after `from` of `total` updates, as if killed later, and from where
/// it was asked to stop. `name` begins the runs' names.
pub(crate) fn assert_going_on_changes_no_byte<C: Practised + Clone>(
    dir: &Path,
    name: &str,
    c: &C,
    (from, total): (u64, u64),
) {
    let place = |run: &str| dir.join(format!("{name}-{run}"));
    let run_of = |run: &str| format!("{name}-{run}");
    start(dir, &run_of("whole"), c.clone()).unwrap();
    let whole = place("whole");
    // 1. Killed later: what stands there of later updates is cut away
    let checkpoint = format!("checkpoints/step-{from:06}");
    copy(&whole.join(&checkpoint), &place("killed").join(&checkpoint));
    for file in ["run.toml", "metrics.jsonl", "samples.jsonl"] {
        std::fs::copy(whole.join(file), place("killed").join(file)).unwrap();
    }
    start(dir, &run_of("killed"), c.clone()).unwrap();
    // 2. Asked to stop after the first update
    let shutdown = Shutdown::default();
    let stopping = Job {
        observer: Arc::new(StopAfter(1, shutdown.clone())),
        ..job(dir, &run_of("stopped"), shutdown)
    };
    let outcome = run(&stopping, &Resolved::from_config(c.clone()).unwrap()).unwrap();
    assert!(matches!(outcome, Outcome::Stopped { step: 1 }), "{name}: {outcome:?}");
    let outcome = start(dir, &run_of("stopped"), c.clone()).unwrap();
    assert!(
        matches!(outcome, Outcome::Done { before: false, .. }),
        "{name}: {outcome:?}"
    );
    // 3. Both end where the whole run did
    let weights = ["model".to_string(), format!("checkpoints/step-{total:06}")];
    let mut files: Vec<String> = vec!["metrics.jsonl".into(), "samples.jsonl".into()];
    for folder in weights {
        let names = std::fs::read_dir(whole.join(&folder)).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let tensors: Vec<String> = names.filter(|name| name.ends_with(".safetensors")).collect();
        assert!(!tensors.is_empty(), "{name}: {folder}");
        files.extend(tensors.into_iter().map(|name| format!("{folder}/{name}")));
    }
    assert!(files.iter().any(|file| file.ends_with("policy.moments.safetensors")));
    for file in files {
        let read = |run: &str| std::fs::read(place(run).join(&file)).unwrap();
        for run in ["killed", "stopped"] {
            assert!(read("whole") == read(run), "{file} of {}", run_of(run));
        }
    }
}

/// Runs on one thread and on `threads`, and once as `cut` changes it into micro-batches of one token, which no group fits.
/// Gives the metrics of the first and of the last, whose `keys` differ by no more than `tolerance` at the first update.
pub(crate) fn assert_threads_change_no_byte<C: Practised + Clone>(
    dir: &Path,
    (c, cut): (&C, fn(&mut C)),
    threads: usize,
    (keys, tolerance): (&[&str], f64),
) -> (Vec<Value>, Vec<Value>) {
    let on = |name: &str, threads: usize, c: C| {
        let job = Job {
            threads: Some(threads),
            ..job(dir, name, Shutdown::default())
        };
        run(&job, &Resolved::from_config(c).unwrap()).unwrap();
        let model = std::fs::read(dir.join(name).join("model/model.safetensors")).unwrap();
        (model, metrics(&dir.join(name)))
    };
    let (one, lines) = on("one", 1, c.clone());
    let (many, same) = on("many", threads, c.clone());
    assert!(one == many && lines == same, "threads change the result");
    let mut changed = c.clone();
    cut(&mut changed);
    let (_, cut) = on("cut", 2, changed);
    for key in keys {
        let (a, b) = (number(&lines[0], key), number(&cut[0], key));
        assert!((a - b).abs() <= tolerance * (1.0 + a.abs()), "{key}: {a} and {b}");
    }
    (lines, cut)
}

/// What a refusal says, and the change that is refused.
pub(crate) type Refusal<'a, C> = (&'a str, fn(&mut C));

/// Starts what each change makes of a configuration, which is refused with these words and leaves nothing behind.
pub(crate) fn assert_refused<C: Practised + Clone>(c: &C, refusals: &[Refusal<'_, C>]) {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path());
    for (expected, change) in refusals {
        let mut c = c.clone();
        change(&mut c);
        let error = start(dir.path(), "run", c).unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert_eq!(error.exit_status().code(), 2);
        assert!(!dir.path().join("run").exists(), "{expected}: nothing is left behind");
    }
}
