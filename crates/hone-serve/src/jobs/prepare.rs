//! What a job's stage reads: the rows, in one file, and the configuration.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use hone_compute::Precision;
use hone_data::{Format, Source};
use hone_model::LoraConfig;
use hone_run::{Resolved, write_atomic};
use hone_train::grpo::GrpoConfig;
use hone_train::preference::PreferenceConfig;
use hone_train::sections::{PassesSection, PrecisionSetting, TrainSection};
use hone_train::sft::SftConfig;
use serde_json::{Map, Value};

use crate::jobs::judging::Judging;
use crate::jobs::record::Method;
use crate::jobs::rows::{self, RowError};

/// The rows' file in a job's folder.
pub(crate) const ROWS: &str = "train.jsonl";
/// The configuration there.
pub(crate) const CONFIG: &str = "config.toml";
/// Tokens of a conversation, at most; the model's context where it has fewer.
const LONGEST: usize = 4096;
/// Steps between checkpoints.
const CHECKPOINT_EVERY: u64 = 20;

/// What is asked of a stage; nothing: hone's own default.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    pub epochs: Option<f64>,
    pub batch: Option<usize>,
    /// Of the stage's default learning rate.
    pub learning_rate_multiplier: Option<f64>,
    pub beta: Option<f64>,
    /// Most tokens of a response that is practised.
    pub response_tokens: Option<usize>,
}

/// What a job is made from.
pub(crate) struct Materials<'a> {
    pub method: Method,
    pub settings: &'a Settings,
    pub judging: Option<&'a Judging>,
    pub seed: u64,
    pub training: &'a Path,
    pub validation: Option<&'a Path>,
    /// The model's directory, or its adapter's.
    pub start: &'a Path,
    /// Tokens that the model's context holds.
    pub context: usize,
    pub precision: Precision,
}

/// Why a job cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    /// A file that does not serve the method.
    #[error("{param}: {source}")]
    Rows {
        /// `training_file` or `validation_file`.
        param: &'static str,
        /// Why.
        source: RowError,
    },
    /// The folder cannot be written.
    #[error("the job cannot be written: {0}")]
    Write(#[from] std::io::Error),
    /// The configuration cannot be written.
    #[error("the job's configuration cannot be written: {0}")]
    Config(#[from] hone_run::Error),
}

/// Writes a job's rows and configuration into its folder.
pub(crate) fn prepare(materials: &Materials<'_>, folder: &Path) -> Result<(), PrepareError> {
    let counts = write_rows(materials, &folder.join(ROWS))?;
    let text = config(materials, &folder.join(ROWS), counts)?;
    Ok(write_atomic(&folder.join(CONFIG), text.as_bytes())?)
}

/// How many rows are trained on and held out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    trained: u64,
    held_out: u64,
}

impl Counts {
    /// The share of rows that holds out just those of the validation file, which stand last.
    fn share(self) -> f64 {
        match self.held_out {
            0 => 0.0,
            held_out => (held_out as f64 - 0.5) / (self.trained + held_out) as f64,
        }
    }
}

fn write_rows(materials: &Materials<'_>, path: &Path) -> Result<Counts, PrepareError> {
    let mut out = BufWriter::new(File::create(path)?);
    let mut written = 0;
    // Where something is held out: the line on which each conversation that is trained on begins
    let mut begun: HashMap<blake3::Hash, u64> = HashMap::new();
    let remember = materials.validation.is_some();
    let trained = rows::for_each_row(materials.training, &mut |line, row| {
        let row = made(materials, row)?;
        if remember {
            begun
                .entry(blake3::hash(rows::opening(&row).as_bytes()))
                .or_insert(line);
        }
        // Lines keep their numbers, so that what the stage says of one holds for the file that was uploaded
        for _ in written + 1..line {
            writeln!(out).map_err(|error| error.to_string())?;
        }
        written = line;
        writeln!(out, "{row}").map_err(|error| error.to_string())
    });
    let trained = trained.map_err(|source| PrepareError::Rows {
        param: "training_file",
        source,
    })?;
    let held_out = match materials.validation {
        None => 0,
        Some(path) => rows::for_each_row(path, &mut |_, row| {
            let row = made(materials, row)?;
            if let Some(line) = begun.get(&blake3::hash(rows::opening(&row).as_bytes())) {
                return Err(format!(
                    "begins as line {line} of the training file does; expected conversations that are not trained on"
                ));
            }
            writeln!(out, "{row}").map_err(|error| error.to_string())
        })
        .map_err(|source| PrepareError::Rows {
            param: "validation_file",
            source,
        })?,
    };
    out.flush()?;
    Ok(Counts { trained, held_out })
}

/// A row as the stage reads it.
fn made(materials: &Materials<'_>, row: Map<String, Value>) -> Result<Value, String> {
    match materials.method {
        Method::Supervised => rows::demonstration(row),
        Method::Dpo => rows::preference(row),
        Method::Reinforcement => {
            let mut row = rows::prompt(row)?;
            if let Some(judging) = materials.judging {
                judging.complete(&mut row)?;
            }
            Ok(Value::Object(row))
        }
    }
}

/// The configuration of a stage. What is not asked for has hone's default.
fn config(materials: &Materials<'_>, rows: &Path, counts: Counts) -> Result<String, hone_run::Error> {
    let path = Some(materials.start.display().to_string());
    let source = |format: Format| Source {
        format: Some(format),
        // Rows were looked at before; one that the model's template refuses is an error, not a silent loss
        max_bad_share: 0.0,
        ..Source::new(rows)
    };
    let longest = materials.context.min(LONGEST);
    let text = match materials.method {
        Method::Supervised => {
            let mut config = SftConfig::default();
            config.model.path = path;
            config.data.train = vec![source(Format::Messages)];
            config.data.held_out = counts.share();
            config.data.max_length = longest;
            config.lora = lora(materials.start);
            passes(&mut config.train, materials);
            Resolved::from_config(config)?.text().to_owned()
        }
        Method::Dpo => {
            let mut config = PreferenceConfig::default();
            config.model.path = path;
            config.data.train = vec![source(Format::Pairs)];
            config.data.held_out = counts.share();
            config.data.max_length = longest;
            config.preference.beta = materials.settings.beta;
            config.lora = lora(materials.start);
            passes(&mut config.train, materials);
            Resolved::from_config(config)?.text().to_owned()
        }
        Method::Reinforcement => {
            let mut config = GrpoConfig::default();
            config.model.path = path;
            config.data.prompts = vec![source(Format::Prompt)];
            config.data.held_out = counts.share();
            config.maximised.rewards = materials
                .judging
                .map(|judging| judging.entries.clone())
                .unwrap_or_default();
            config.lora = lora(materials.start);
            let most = materials.settings.response_tokens.unwrap_or(config.grpo.max_new_tokens);
            config.grpo.max_new_tokens = most.clamp(1, (materials.context / 2).max(1));
            config.data.max_prompt_length = Some((materials.context - config.grpo.max_new_tokens).min(LONGEST));
            if let Some(batch) = materials.settings.batch {
                config.grpo.rollout_batch = batch * config.grpo.samples_per_prompt;
                config.grpo.minibatch = config.grpo.rollout_batch;
            }
            if let Some(epochs) = materials.settings.epochs {
                let responses = epochs * counts.trained as f64 * config.grpo.samples_per_prompt as f64;
                config.grpo.updates = (responses / config.grpo.rollout_batch as f64).ceil().max(1.0) as u64;
            }
            common(&mut config.train, materials);
            Resolved::from_config(config)?.text().to_owned()
        }
    };
    Ok(text)
}

/// An adapter, unless the model is one already, which then is tuned further.
fn lora(start: &Path) -> Option<LoraConfig> {
    let is_adapter = start.join("adapter_config.json").is_file() && !start.join("config.json").is_file();
    (!is_adapter).then(LoraConfig::default)
}

fn passes(section: &mut PassesSection, materials: &Materials<'_>) {
    section.epochs = materials.settings.epochs;
    if let Some(batch) = materials.settings.batch {
        section.batch = batch;
    }
    common(section, materials);
}

fn common(section: &mut TrainSection, materials: &Materials<'_>) {
    section.seed = materials.seed;
    section.precision = match materials.precision {
        Precision::Bf16 => PrecisionSetting::Bf16,
        Precision::F32 => PrecisionSetting::F32,
    };
    section.learning_rate *= materials.settings.learning_rate_multiplier.unwrap_or(1.0);
    section.checkpoint_every = CHECKPOINT_EVERY;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::judging::Template;
    use serde_json::json;
    use std::fs;
    use std::path::PathBuf;

    struct Given {
        folder: tempfile::TempDir,
        settings: Settings,
        judging: Option<Judging>,
    }

    impl Given {
        fn new() -> Self {
            Self {
                folder: tempfile::tempdir().unwrap(),
                settings: Settings::default(),
                judging: None,
            }
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        }

        fn prepare(&self, method: Method, training: &str, validation: Option<&str>) -> Result<String, String> {
            let training = self.file("training", training);
            let validation = validation.map(|text| self.file("validation", text));
            let materials = Materials {
                method,
                settings: &self.settings,
                judging: self.judging.as_ref(),
                seed: 9,
                training: &training,
                validation: validation.as_deref(),
                start: &self.folder.path().join("model"),
                context: 100,
                precision: Precision::F32,
            };
            prepare(&materials, self.folder.path()).map_err(|error| error.to_string())?;
            Ok(fs::read_to_string(self.folder.path().join(CONFIG)).unwrap())
        }

        fn rows(&self) -> String {
            fs::read_to_string(self.folder.path().join(ROWS)).unwrap()
        }
    }

    fn conversation(question: &str) -> String {
        json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "x"}]}).to_string()
    }

    #[test]
    fn a_supervised_job_holds_out_its_validation_file() {
        let mut given = Given::new();
        given.settings = Settings {
            epochs: Some(2.0),
            batch: Some(3),
            learning_rate_multiplier: Some(0.5),
            ..Settings::default()
        };
        let training = format!("{}\n\n{}\n", conversation("a"), conversation("b"));
        let text = given
            .prepare(Method::Supervised, &training, Some(&conversation("c")))
            .unwrap();
        // A blank line keeps its place
        assert_eq!(given.rows().lines().count(), 4);
        assert_eq!(given.rows().lines().nth(1), Some(""));
        let read = hone_run::config::parse::<SftConfig>("config.toml", &text, &[])
            .unwrap()
            .config;
        assert_eq!(
            (read.train.epochs, read.train.batch, read.train.seed),
            (Some(2.0), 3, 9)
        );
        assert_eq!(read.train.learning_rate, 5e-5);
        assert_eq!((read.data.max_length, read.lora), (100, Some(LoraConfig::default())));
        let loaded = hone_data::load_demonstrations(&read.data.train[0]).unwrap();
        let split = hone_data::hold_out(loaded.items, read.data.held_out).unwrap();
        assert_eq!((split.train.len(), split.held_out.len()), (2, 1));
        assert_eq!(split.held_out[0].messages[0].content, "c");
        let error = given
            .prepare(Method::Supervised, &training, Some(&format!("\n{}", conversation("b"))))
            .unwrap_err();
        assert!(
            error.contains("validation_file: line 2: begins as line 3 of the training file"),
            "{error}"
        );
    }

    #[test]
    fn the_share_holds_out_just_the_validation_rows() {
        for trained in 1..60 {
            for held_out in 1..60 {
                let share = Counts { trained, held_out }.share();
                assert_eq!(
                    ((trained + held_out) as f64 * share).ceil() as u64,
                    held_out,
                    "{trained} {held_out}"
                );
            }
        }
        assert_eq!(
            Counts {
                trained: 3,
                held_out: 0
            }
            .share(),
            0.0
        );
    }

    #[test]
    fn a_preference_job_has_pairs_and_its_beta() {
        let mut given = Given::new();
        given.settings.beta = Some(0.3);
        fs::create_dir(given.folder.path().join("model")).unwrap();
        given.file("model/adapter_config.json", "{}");
        let row = json!({"input": {"messages": [{"role": "user", "content": "q"}]},
            "preferred_output": [{"role": "assistant", "content": "good"}],
            "non_preferred_output": [{"role": "assistant", "content": "bad"}]});
        let text = given.prepare(Method::Dpo, &row.to_string(), None).unwrap();
        let read = hone_run::config::parse::<PreferenceConfig>("config.toml", &text, &[])
            .unwrap()
            .config;
        assert_eq!((read.preference.beta, read.data.held_out), (Some(0.3), 0.0));
        // The model is an adapter: it is tuned further
        assert_eq!(read.lora, None);
        let loaded = hone_data::load_rankings(&read.data.train[0]).unwrap();
        assert_eq!(loaded.items[0].responses, ["good", "bad"]);
        let error = given.prepare(Method::Dpo, &conversation("q"), None).unwrap_err();
        assert!(
            error.starts_with("training_file: line 1: `input` is missing"),
            "{error}"
        );
    }

    #[test]
    fn a_reinforcement_job_has_rewards_and_what_they_read() {
        let mut given = Given::new();
        given.settings = Settings {
            epochs: Some(2.0),
            batch: Some(2),
            ..Settings::default()
        };
        let entry = json!({"kind": "exact", "column": "grader_0", "normalization": "verbatim"});
        given.judging = Some(Judging {
            entries: vec![serde_json::from_value(entry).unwrap()],
            columns: vec![("grader_0".into(), Template::parse("={{item.answer}}").unwrap())],
        });
        let row = |answer: Value| json!({"messages": [{"role": "user", "content": "q"}], "answer": answer}).to_string();
        let rows = format!("{}\n{}\n{}\n", row(json!(4)), row(json!(5)), row(json!(6)));
        let text = given.prepare(Method::Reinforcement, &rows, None).unwrap();
        let read = hone_run::config::parse::<GrpoConfig>("config.toml", &text, &[])
            .unwrap()
            .config;
        assert_eq!(
            (read.grpo.rollout_batch, read.grpo.minibatch, read.grpo.updates),
            (16, 16, 3)
        );
        assert_eq!((read.grpo.max_new_tokens, read.data.max_prompt_length), (50, Some(50)));
        assert_eq!(read.maximised.rewards.len(), 1);
        let first: Value = serde_json::from_str(given.rows().lines().next().unwrap()).unwrap();
        assert_eq!(first["grader_0"], "=4");
        let rows = format!("{}\n{}\n", row(json!(4)), row(Value::Null));
        let error = given.prepare(Method::Reinforcement, &rows, None).unwrap_err();
        assert!(error.starts_with("training_file: line 2: has no `answer`"), "{error}");
    }
}
