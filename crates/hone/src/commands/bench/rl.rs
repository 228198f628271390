//! `bench rl`: whole updates of `hone ppo` or `hone grpo`, measured by the run itself.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use hone_compute::Precision;
use hone_data::Source;
use hone_math::Key;
use hone_model::Architecture;
use hone_run::{Resolved, Shutdown, Silent};
use hone_task::{RewardEntry, RewardRule};
use hone_text::{AddSpecial, Chat, Message, Tokenizer};
use hone_train::artefact::{self, Artefact};
use hone_train::grpo::{self, GrpoConfig, GrpoSection};
use hone_train::plan::Plan;
use hone_train::ppo::{self, PpoConfig, PpoSection};
use hone_train::rollout::{Maximised, MissingEos, PromptData};
use hone_train::sections::{ModelSection, PrecisionSetting, ShownSection, TrainSection};
use hone_train::{Job, Outcome};
use serde_json::{Map, Value, json};

use super::model::multiplied;
use super::{Limits, ProfileLine, Report, median};
use crate::failure::Failure;
use crate::machine;
use crate::model::{EngineArguments, PrecisionArgument, resolve_directory};
use crate::watch::Watch;

/// Arguments of `bench rl`.
#[derive(Args)]
pub struct RlArguments {
    /// A model directory with a tokenizer, or a hub id: policy and reference; for PPO, with random heads, also value and reward model
    #[arg(long, value_name = "DIR")]
    model: String,
    #[command(flatten)]
    engine: EngineArguments,
    /// What an update is: of PPO, or of GRPO, whose reward is the share of the letter e in a response
    #[arg(long, value_enum, default_value_t = Method::Ppo)]
    method: Method,
    /// Episodes an update
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Responses to each prompt; divides the episodes [default: 1; grpo: 8]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    samples: Option<u32>,
    /// Tokens of each prompt, about
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    length: u32,
    /// Episodes an optimiser step; divides the batch [default: all of them]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    minibatch: Option<u32>,
    /// Most tokens of a response
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    new: u32,
    /// Passes over an update's episodes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    epochs: u32,
    /// Updates, the first of which is warm-up
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    steps: u32,
    /// Also say what the time went into, part by part of an update
    #[arg(long)]
    profile: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl RlArguments {
    fn samples(&self) -> u32 {
        self.samples.unwrap_or(match self.method {
            Method::Ppo => 1,
            Method::Grpo => 8,
        })
    }
}

/// A method whose updates are measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    Ppo,
    Grpo,
}

/// Updates that are not counted.
const WARM_UP: usize = 1;

/// Tokens of responses a second of whole updates: sampling, reference, scores, values and check of what is not in the first
/// minibatch, and the steps of both networks.
pub fn run(arguments: &RlArguments) -> Result<()> {
    let samples = arguments.samples();
    if !arguments.batch.is_multiple_of(samples) {
        let text = format!(
            "--samples: is {samples}, which does not divide --batch = {}",
            arguments.batch
        );
        return Err(Failure::usage(text).into());
    }
    let folder = tempfile::tempdir().context("a folder for the measured run")?;
    let directory = std::path::absolute(resolve_directory(&arguments.model)?)?;
    if !directory.join("config.json").is_file() && directory.join("adapter_config.json").is_file() {
        let text = format!("{}: an adapter; expected a whole model", directory.display());
        return Err(Failure::usage(text)
            .hint("hone export merges an adapter into its model")
            .into());
    }
    let engine = arguments.engine.engine()?;
    let mut base = artefact::load(&engine, &directory)?;
    let prompt_length = write_prompts(
        &folder.path().join("prompts.jsonl"),
        &base.companion.tokenizer,
        arguments,
    )?;
    let (context, new) = (base.model.architecture().context, arguments.new as usize);
    if prompt_length + new > context {
        let text = format!(
            "{} tokens a sequence; the model's context is {context}",
            prompt_length + new
        );
        return Err(Failure::usage(text).into());
    }
    let (isa, precision, threads) = (engine.isa(), engine.precision(), engine.threads());
    let parameters = base.model.parameters().count().0;
    let architecture = base.model.architecture().clone();
    if arguments.method == Method::Ppo {
        base.model.add_reward_head(&engine, 1);
        let Artefact { model, companion } = &base;
        artefact::publish_at(&engine, &folder.path().join("reward"), companion, model)?;
    }
    drop((base, engine));

    let job = Job {
        dir: folder.path().join("run"),
        base: folder.path().to_path_buf(),
        observer: Arc::new(Watch::new()),
        shutdown: Shutdown::install()?,
        allow_isa_change: false,
        threads: arguments.engine.threads.map(|threads| threads as usize),
    };
    let config = Measured::new(arguments, &directory, prompt_length)?;
    if let Outcome::Stopped { step } = config.run(&job)? {
        return Err(Failure::failed(format!("stopped after update {step}; nothing was kept")).into());
    }
    let peak_bytes = machine::peak_bytes();
    let timings = Timings::read(&job.dir)?;
    let mut speeds = timings.each("tokens_per_second");
    let runs = speeds.split_off(WARM_UP);
    let profile = if arguments.profile {
        timings.profile()
    } else {
        Vec::new()
    };
    let speed = median(&runs);
    let (batch, epochs) = (arguments.batch as usize, f64::from(arguments.epochs));
    let prompts = batch / samples as usize;
    let (method, networks) = match arguments.method {
        Method::Ppo => ("PPO", "policy, reference, value network and reward model"),
        Method::Grpo => ("GRPO", "policy and reference"),
    };
    let work = format!(
        "{method} update, {prompts} prompts of {prompt_length} tokens x {samples} responses of up to {new}, epochs {epochs}; {networks} of {} ({parameters} \
         parameters), {isa}, {precision:?}, {threads} threads",
        arguments.model
    );
    let planned = Job {
        observer: Arc::new(Silent),
        ..job
    };
    let least = least_seconds(&planned, &config, arguments, &architecture)?;
    let report = Report {
        work,
        tokens_per_second: Some(speed),
        runs,
        unit: "tokens/s",
        warm_up: speeds,
        peak_bytes,
        fraction_of_limit: Some(speed * least / (batch * new) as f64),
        profile,
        ..Report::default()
    };
    report.print(arguments.json)
}

/// A run that does nothing but updates: all else is left out or done after the last one.
enum Measured {
    Ppo(Box<Resolved<PpoConfig>>),
    Grpo(Box<Resolved<GrpoConfig>>),
}

impl Measured {
    fn new(arguments: &RlArguments, directory: &Path, prompt_length: usize) -> Result<Self> {
        let model = ModelSection::at(directory.to_string_lossy());
        let data = PromptData {
            prompts: vec![Source::new("prompts.jsonl")],
            held_out: 0.0,
            max_prompt_length: Some(prompt_length),
        };
        let train = |usual: TrainSection| TrainSection {
            precision: match arguments.engine.precision {
                PrecisionArgument::Bf16 => PrecisionSetting::Bf16,
                PrecisionArgument::F32 => PrecisionSetting::F32,
            },
            checkpoint_every: u64::from(arguments.steps) + 1,
            ..usual
        };
        let eval = ShownSection { every: 0, samples: 0 };
        let (updates, rollout_batch) = (u64::from(arguments.steps), arguments.batch as usize);
        let minibatch = arguments.minibatch.unwrap_or(arguments.batch) as usize;
        let (samples_per_prompt, max_new_tokens) = (arguments.samples() as usize, arguments.new as usize);
        // Random weights seldom end a response, and all of them are to be scored
        let missing_eos = MissingEos::Keep;
        Ok(match arguments.method {
            Method::Ppo => Self::Ppo(Box::new(Resolved::from_config(PpoConfig {
                model,
                maximised: Maximised::model("reward"),
                data,
                ppo: PpoSection {
                    updates,
                    rollout_batch,
                    samples_per_prompt,
                    minibatch,
                    ppo_epochs: arguments.epochs as usize,
                    max_new_tokens,
                    missing_eos,
                    ..PpoSection::default()
                },
                train: train(PpoConfig::default().train),
                eval,
                ..PpoConfig::default()
            })?)),
            Method::Grpo => Self::Grpo(Box::new(Resolved::from_config(GrpoConfig {
                model,
                maximised: Maximised {
                    rewards: vec![share_of_e()],
                    ..Maximised::default()
                },
                data,
                grpo: GrpoSection {
                    updates,
                    rollout_batch,
                    samples_per_prompt,
                    minibatch,
                    epochs: arguments.epochs as usize,
                    max_new_tokens,
                    missing_eos,
                    ..GrpoSection::default()
                },
                train: train(GrpoConfig::default().train),
                eval,
                ..GrpoConfig::default()
            })?)),
        })
    }

    fn run(&self, job: &Job) -> Result<Outcome> {
        Ok(match self {
            Self::Ppo(config) => ppo::run(job, config)?,
            Self::Grpo(config) => grpo::run(job, config)?,
        })
    }

    fn plan(&self, job: &Job) -> Result<Plan> {
        Ok(match self {
            Self::Ppo(config) => ppo::plan(job, config, true)?,
            Self::Grpo(config) => grpo::plan(job, config, true)?,
        })
    }
}

/// A reward that a function of the text gives: the share of the letter e.
fn share_of_e() -> RewardEntry {
    RewardEntry {
        weight: 1.0,
        name: None,
        rule: RewardRule::Expression {
            expression: "count(response, \"e\") / max(characters(response), 1)".into(),
            otherwise: 0.0,
        },
    }
}

/// Writes the prompts of one update, of random letters; returns the length of the longest in tokens.
fn write_prompts(path: &Path, tokenizer: &Tokenizer, arguments: &RlArguments) -> Result<usize> {
    let chat = match tokenizer.chat_template() {
        Some(_) => Some(Chat::new(tokenizer)?),
        None => None,
    };
    // As PPO takes them: through the template, where there is one
    let count = |text: &str| -> Result<usize> {
        Ok(match &chat {
            Some(chat) => chat.prompt_ids(&[Message::user(text)])?.len(),
            None => tokenizer.encode(text, AddSpecial::Yes)?.len(),
        })
    };
    let (mut rows, mut longest) = (String::new(), 0);
    for prompt in 0..u64::from(arguments.batch / arguments.samples()) {
        let key = Key::new(1, "bench prompts", prompt);
        let (mut text, mut tokens, mut letters) = (String::new(), 0, 0);
        while tokens < arguments.length as usize {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push(char::from(b'a' + key.below(letters, 26) as u8));
            letters += 1;
            tokens = count(&text)?;
        }
        longest = longest.max(tokens);
        rows += &format!("{}\n", json!({ "prompt": text }));
    }
    std::fs::write(path, rows).with_context(|| path.display().to_string())?;
    Ok(longest)
}

/// What the run says of its updates, one after another.
struct Timings(Vec<Map<String, Value>>);

impl Timings {
    fn read(run: &Path) -> Result<Self> {
        let path = run.join("timings.jsonl");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let lines: Result<_, _> = text.lines().map(serde_json::from_str).collect();
        Ok(Self(lines?))
    }

    /// One figure, update by update.
    fn each(&self, key: &str) -> Vec<f64> {
        let figure = |line: &Map<String, Value>| line.get(key).and_then(Value::as_f64);
        self.0.iter().map(|line| figure(line).unwrap_or_default()).collect()
    }

    /// The parts of the counted updates, the most costly first, and what is left.
    fn profile(&self) -> Vec<ProfileLine> {
        let sum = |key: &str| self.each(key)[WARM_UP..].iter().sum::<f64>();
        let (total, calls) = (sum("seconds"), (self.0.len() - WARM_UP) as u64);
        let line = |operation: &str, seconds: f64| ProfileLine {
            operation: operation.into(),
            calls,
            seconds,
            share: seconds / total,
        };
        let parts = self.0[0].keys().filter_map(|key| key.strip_prefix("time/"));
        let mut lines: Vec<_> = parts.map(|part| line(part, sum(&format!("time/{part}")))).collect();
        let known: f64 = lines.iter().map(|line| line.seconds).sum();
        lines.push(line("everything else", (total - known).max(0.0)));
        lines.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        lines
    }
}

/// Seconds of an update at the machine's measured speeds: of all its products and attention, every response as long as it may
/// be, and of reading the weights for each new token where that takes longer than a token's products.
fn least_seconds(job: &Job, config: &Measured, arguments: &RlArguments, model: &Architecture) -> Result<f64> {
    let engine = &arguments.engine.engine()?;
    let limits = Limits::measure(engine);
    let plan = config.plan(job)?;
    let operations = plan.time.map_or(0.0, |time| time.operations / plan.steps as f64);
    let weights = multiplied(model);
    let bytes = if engine.precision() == Precision::Bf16 {
        2.0
    } else {
        4.0
    };
    let products = 2.0 * weights * f64::from(arguments.batch) / limits.flops;
    let reading = (weights * bytes / limits.bytes - products).max(0.0);
    Ok(operations / limits.flops + reading * f64::from(arguments.new - 1))
}
