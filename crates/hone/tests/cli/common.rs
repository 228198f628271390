//! A tiny model on disk, and the binary.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hone_compute::{Engine, EngineOptions, Isa, Precision};
use hone_model::{Dtype, LoraConfig, NewModel, Transformer};
use hone_text::{TrainOptions, train_bpe};
use serde_json::{Map, Value};
use tempfile::TempDir;

pub const CONTEXT: usize = 64;

const TEXT: &str =
    "the quick brown fox jumps over the lazy dog; the dog sleeps, the fox runs. hello there, how are you today?";

/// A folder with a model in `model/`, a reward model in `reward/` and an adapter in `adapter/`.
pub struct Fixture {
    pub folder: TempDir,
}

pub fn architecture() -> NewModel {
    NewModel {
        family: "llama".into(),
        width: 32,
        layers: 2,
        heads: 4,
        kv_heads: Some(2),
        head_dim: None,
        intermediate: Some(48),
        context: CONTEXT,
        tied: true,
        rope_theta: 10_000.0,
    }
}

impl Fixture {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = EngineOptions {
            isa: Some(Isa::Portable),
            precision: Precision::F32,
            threads: Some(1),
        };
        let engine = Engine::new(&options).unwrap();
        let options = TrainOptions {
            vocab_size: 280,
            ..TrainOptions::default()
        };
        let tokenizer = train_bpe([TEXT.repeat(3)].into_iter(), &options).unwrap();
        let shape = architecture().architecture(tokenizer.vocab_size()).unwrap();
        let mut model = Transformer::random(&engine, shape, 5);
        let save = |model: &Transformer, name: &str| {
            let dir = folder.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("config.json"), model.config_json(&Map::new())).unwrap();
            model
                .write_weights(
                    &engine,
                    Dtype::F32,
                    &mut File::create(dir.join("model.safetensors")).unwrap(),
                )
                .unwrap();
            tokenizer.save(&dir).unwrap();
        };
        save(&model, "model");
        model
            .add_adapter(
                &engine,
                &LoraConfig {
                    rank: 2,
                    alpha: 8.0,
                    targets: vec!["q".into(), "down".into()],
                    vocabulary: false,
                },
                7,
            )
            .unwrap();
        let upper: Vec<_> = model
            .parameters()
            .iter()
            .filter(|(_, p)| p.name().contains("lora_B"))
            .map(|(id, _)| id)
            .collect();
        for id in upper {
            let count = model.parameters().get(id).value().len();
            let numbers: Vec<f32> = (0..count).map(|i| (i % 7) as f32 * 0.01 - 0.03).collect();
            model.parameters_mut().set(&engine, id, &numbers);
        }
        let adapter = folder.path().join("adapter");
        fs::create_dir(&adapter).unwrap();
        fs::write(
            adapter.join("adapter_config.json"),
            model.adapter_json("../model").unwrap(),
        )
        .unwrap();
        model
            .write_adapter(
                &engine,
                &mut File::create(adapter.join("adapter_model.safetensors")).unwrap(),
            )
            .unwrap();
        let shape = architecture().architecture(tokenizer.vocab_size()).unwrap();
        let mut reward = Transformer::random(&engine, shape, 6);
        reward.add_reward_head(&engine, 6);
        reward.set_head_offset(0.5);
        save(&reward, "reward");
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Runs the binary in the folder.
    pub fn hone(&self, arguments: &[&str]) -> Ran {
        self.hone_with(arguments, "", &[])
    }

    pub fn hone_with(&self, arguments: &[&str], input: &str, environment: &[(&str, &str)]) -> Ran {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hone"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env_remove("HONE_ISA")
            .env("HONE_THREADS", "2")
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", self.path("hf-home"))
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that does not read its input may be gone already
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Ran(child.wait_with_output().unwrap())
    }
}

/// What a run left.
pub struct Ran(pub Output);

impl Ran {
    pub fn code(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }

    pub fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// The JSON objects on stdout of a run that went well.
    pub fn json(&self) -> Vec<Value> {
        assert_eq!(self.code(), 0, "{}", self.stderr());
        self.stdout()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Checks that the run failed with this code and said this, in one message.
    pub fn fails(&self, code: i32, said: &[&str]) {
        let stderr = self.stderr();
        assert_eq!(self.code(), code, "{stderr}");
        for said in said {
            assert!(stderr.contains(said), "{stderr}\nshould contain\n{said}");
        }
        assert_eq!(
            stderr.lines().filter(|line| line.starts_with("error: ")).count(),
            1,
            "{stderr}"
        );
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

/// The keys of an object, in order.
pub fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Copies a folder's files.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
